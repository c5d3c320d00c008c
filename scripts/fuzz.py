"""Feeds mutated files and bundles to everything that reads them and counts what comes of it.

Usage: scripts/fuzz.py [--cases 200000] [--seed 1] [--bounds-check] [--json FILE]
       scripts/fuzz.py --seed 1 --case 4711        (one case again, with its traceback)

The feature codec has targets of its own, see scripts/fuzz_features.py.

A case is drawn from the seed and its number alone. Targets: decoding (`ambi_rl.decode`), `ambi info`,
loading a bundle and coding with it, and Pillow (`open`, `verify`, `load`). Some mutations damage bytes
blindly; checksums stop nearly all of these, so that the others change fields, sections, payloads and
tensors and write the checksums and hashes anew. Each case has to end well or with one of our errors
(through Pillow: with those that its callers expect) whose message is one line. Anything else, a process
that dies, or one that is silent for two minutes is a finding: it is printed, kept in runs/fuzz/, and the
exit code is 1.
"""

from __future__ import annotations

import argparse
import ctypes
import io
import json
import multiprocessing
import os
import random
import resource
import runpy
import subprocess
import sys
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

import ambi_rl
from ambi_rl.cli.info import bundle_facts, file_facts, lines_of
from ambi_rl.codec import bundle_file
from ambi_rl.codec.api import encode_image, encode_prepared, prepare_image
from ambi_rl.codec.bundle import Bundle, default_bundle, dump_bundle, parse_bundle
from ambi_rl.codec.container import (
    HEADER_FIELDS,
    MAGIC,
    MAX_PIXELS,
    Container,
    Restoration,
    Section,
    crc_of_planes,
    read_container,
    varint,
    write_container,
)
from ambi_rl.codec.context import context_of
from ambi_rl.codec.entropy.model import untrained
from ambi_rl.codec.frame import decode_frame
from ambi_rl.codec.restoration import blank_tensors
from ambi_rl.codec.strategists import STRATEGISTS, for_effort
from ambi_rl.codec.tiles import MIN_SIDE, TileGrid, decode_tiles
from ambi_rl.errors import AmbiError
from ambi_rl.pillow import AmbiImageFile

ROOT = Path(__file__).parent.parent
FINDINGS = ROOT / "runs" / "fuzz"
PIXELS = 1 << 16
"""What most cases allow a file to claim: at the slowest a few hundred milliseconds."""
SILENCE = 120.0
"""Seconds after which a process counts as hanging; the slowest case takes less than one."""
CHUNK = 5000
"""Cases for each process, whose memory is then measured."""

_HEADER_BYTES = sum(f.bits for f in HEADER_FIELDS) // 8
_BITS = {f.name: f.bits for f in HEADER_FIELDS}
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
_JUNK: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**64,
    10**400,
    0.5,
    1e308,
    "",
    "dc",
    "\ud800",
    "\x1b[2J\n",
    "../../etc/passwd",
    "x" * 10_000,
    [],
    {},
    [[]],
    {"a": {"b": [1, None]}},
    list(range(1000)),
)


class Seed(NamedTuple):
    """A good file, and the bundle it was coded with."""

    data: bytes
    bundle: Bundle


class Case(NamedTuple):
    """What is fed to whom; the bundle is one of the codec that the target is part of, or None."""

    target: str
    mutation: str
    data: bytes
    bundle: Any
    max_pixels: int


class Subject(Protocol):
    """A codec that is fuzzed: it makes cases of its files and runs them."""

    def make_case(self, seed: int, number: int, target: str | None = None) -> Case:
        """Case `number` of a seed, of a target or of any."""

    def run(self, case: Case) -> None:
        """Feed a case to its target."""

    def check(self, case: Case) -> None:
        """Look closer at a case that ended well, at leisure: this is not timed."""

    def expected(self, target: str) -> tuple[type[Exception], ...]:
        """What callers of a target have to expect."""

    def claimed_pixels(self, case: Case) -> int:
        """What is to be decoded of a case, within its limit; 0 if nothing is."""


class Outcome(NamedTuple):
    """What came of a case.

    Attributes:
        name: "ok" or the name of an expected exception; anything else is a finding.
        finding: A traceback, or None if all is well.
        seconds: CPU time.
        pixels: What the header claims, within the limit; 0 if nothing was to be decoded.
    """

    name: str
    finding: str | None
    seconds: float
    pixels: int


# --- Good files -------------------------------------------------------------------------------------------


def _photograph(side: int) -> Image.Image:
    folder = Path(ambi_rl.__file__).parent / "data" / "photographs"
    with Image.open(sorted(folder.glob("*.webp"))[2]) as image:
        return image.convert("RGB").crop((200, 150, 200 + 4 * side, 150 + 3 * side)).reduce(4)


def seed_bundles() -> list[Bundle]:
    """The default bundle, and untrained ones with and without policy and restoration."""
    default = default_bundle()
    bare = replace(default, entropy=untrained(), policy={}, restoration={})
    few = bare.manifest | {"strategies": ["dc", "planar"], "offsets": [0]}
    return [
        default,
        bare,
        replace(bare, manifest=few, restoration=blank_tensors(2, 4, 1)),
        replace(bare, policy=default.policy, restoration=blank_tensors(4, 3, 0)),
    ]


def seed_files(bundles: Sequence[Bundle]) -> list[Seed]:
    """Small files of all kinds: modes, metadata, qualities, bundles, and the golden ones."""
    image = _photograph(40)
    exif = Image.Exif()
    exif[0x0112] = 6
    rich = image.copy()
    rich.info |= {"icc_profile": bytes(range(200)), "exif": exif.tobytes(), "xmp": b"<xmp/>"}
    transparent = rich.crop((0, 0, 37, 29))
    transparent.putalpha(image.convert("L").crop((0, 0, 37, 29)))
    constant = image.crop((5, 5, 30, 22))
    constant.putalpha(128)
    pictures: list[tuple[Image.Image, float, Bundle]] = [
        (rich, 75, bundles[0]),
        (transparent, 90, bundles[0]),
        (transparent.convert("LA"), 40, bundles[0]),
        (constant, 60, bundles[1]),
        (image.convert("L"), 30, bundles[0]),
        (image.crop((0, 0, 17, 30)), 100, bundles[1]),
        (image, 50, bundles[2]),
        (image.crop((3, 3, 4, 4)), 10, bundles[3]),
    ]
    seeds = [
        Seed(encode_image(picture, quality=quality, effort=5, bundle=bundle).data, bundle)
        for picture, quality, bundle in pictures
    ]
    seeds.append(Seed(_tiled(bundles[0]), bundles[0]))
    golden = runpy.run_path(str(ROOT / "scripts" / "make_golden.py"))["golden_bundle"]()
    for path in sorted((ROOT / "tests" / "golden").glob("*.ambi")):
        seeds.append(Seed(path.read_bytes(), golden))
    return seeds


def _tiled(bundle: Bundle) -> bytes:
    """A picture with alpha in two of the smallest tiles."""
    folder = Path(ambi_rl.__file__).parent / "data" / "photographs"
    with Image.open(sorted(folder.glob("*.webp"))[2]) as image:
        picture = image.convert("RGB").crop((100, 100, 400, 140))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    grid = TileGrid(picture.height, picture.width, MIN_SIDE, MIN_SIDE)
    encoded = encode_prepared(
        prepare_image(picture),
        quality=30,
        bundle=bundle,
        strategist=for_effort(5, policy=True),
        grid=grid,
    )
    return encoded.data


class Corpus:
    """The good files and bundles that cases are made of."""

    def __init__(self) -> None:
        self.bundles = seed_bundles()
        self.files = seed_files(self.bundles)
        # Tiles cannot be small, so that the files with them are drawn less often.
        self.tiled = [s for s in self.files if Section.TILES in read_container(s.data).sections]
        self.plain = [s for s in self.files if s not in self.tiled]
        self.dumped = [dump_bundle(bundle) for bundle in self.bundles]
        small = np.asarray(_photograph(16))
        self.picture = Image.fromarray(small)

    def file(self, rng: random.Random) -> Seed:
        """One of the files."""
        return rng.choice(self.tiled if rng.random() < 0.04 else self.plain)

    def make_case(self, seed: int, number: int, target: str | None = None) -> Case:
        """See `Subject`."""
        rng = random.Random(f"{seed} {number}")
        chosen = rng.choices(("decode", "pillow", "info", "bundle"), (50, 20, 10, 20))[0]
        if (target or chosen) == "bundle":
            return bundle_case(rng, self)
        return file_case(rng, self, target or chosen)

    def run(self, case: Case) -> None:
        """See `Subject`."""
        _RUN[case.target](case, self)

    def check(self, case: Case) -> None:
        """Nothing is left to look at: whatever decodes matches its checksum."""

    def expected(self, target: str) -> tuple[type[Exception], ...]:
        """See `Subject`."""
        return _EXPECTED[target]

    def claimed_pixels(self, case: Case) -> int:
        """What a file's header claims if it is within the case's limit, else 0."""
        if case.target not in ("decode", "pillow"):
            return 0
        try:
            container: Container = read_container(case.data, max_pixels=case.max_pixels)
        except AmbiError:
            return 0
        return container.width * container.height


# --- Blind mutations --------------------------------------------------------------------------------------


def flip_bits(rng: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_bytes(rng: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 3, 12))):
        value = rng.choice(_INTERESTING) if rng.random() < 0.5 else rng.randrange(256)
        data[rng.randrange(len(data))] = value


def truncate(rng: random.Random, data: bytearray, _: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data)) :] = other[rng.randrange(len(other)) :]


def copy_range(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    piece = data[at : at + rng.choice((1, 4, 30, 300))]
    to = rng.randrange(len(data) + 1)
    data[to:to] = piece


def delete_range(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 30, 300))]


def fill_range(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data))
    length = min(rng.choice((2, 8, 40)), len(data) - at)
    data[at : at + length] = bytes([rng.choice(_INTERESTING)]) * length


def insert_random(rng: random.Random, data: bytearray, _: bytes) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 5, 60)))


BLIND: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    flip_bits,
    set_bytes,
    truncate,
    splice,
    copy_range,
    delete_range,
    fill_range,
    insert_random,
)


def damaged(rng: random.Random, data: bytes, other: bytes) -> tuple[str, bytes]:
    """Damage bytes in one of the blind ways; its name and the result."""
    out = bytearray(data or b"\0")
    change = rng.choice(BLIND)
    change(rng, out, other or b"\0")
    return change.__name__, bytes(out)


# --- Mutations of files with right checksums --------------------------------------------------------------


class Parts(NamedTuple):
    """A file taken apart: raw header fields and sections, whose number is right unless the header has one."""

    header: dict[str, int]
    sections: list[tuple[int, bytes]]


def take_apart(data: bytes) -> Parts:
    """Take a good file apart."""
    bits = int.from_bytes(data[len(MAGIC) : len(MAGIC) + _HEADER_BYTES], "big")
    header = {}
    for f in reversed(HEADER_FIELDS):
        header[f.name] = bits & ((1 << f.bits) - 1)
        bits >>= f.bits
    del header["sections"]
    return Parts(header, [(int(k), p) for k, p in read_container(data).sections.items()])


def put_together(parts: Parts) -> bytes:
    """Write a file with whatever the parts say and right checksums."""
    bits = 0
    values = {"sections": len(parts.sections) & 255} | parts.header
    for f in HEADER_FIELDS:
        bits = bits << f.bits | values[f.name]
    out = bytearray(MAGIC + bits.to_bytes(_HEADER_BYTES, "big"))
    out += zlib.crc32(out).to_bytes(4, "big")
    for kind, payload in parts.sections:
        head = bytes([kind]) + varint(len(payload))
        out += head + zlib.crc32(payload, zlib.crc32(head)).to_bytes(4, "big") + payload
    return bytes(out)


def _extreme(rng: random.Random, bits: int, value: int) -> int:
    top = (1 << bits) - 1
    near = (value - 1, value + 1, value ^ (1 << rng.randrange(bits)))
    return rng.choice((0, 1, 2, top, top - 1, top // 2, rng.getrandbits(bits), *near)) & top


def change_header(rng: random.Random, parts: Parts, _: Seed) -> None:
    # The version and the bundle's number only end the story early; they are changed by the blind mutations.
    names = [name for name in _BITS if name not in ("version", "bundle_id", "sections")]
    for name in rng.sample(names, rng.choice((1, 1, 2, 4))):
        parts.header[name] = _extreme(rng, _BITS[name], parts.header[name])


def change_size(rng: random.Random, parts: Parts, _: Seed) -> None:
    for name in rng.choice((("width",), ("height",), ("width", "height"))):
        parts.header[name] = rng.choice((0, 3, 31, 32, 63, 255, 256, 1023, 16383))


def change_picture(rng: random.Random, parts: Parts, other: Seed) -> None:
    _change_payload(rng, parts, other, (Section.PICTURE, Section.TILES))


def change_alpha(rng: random.Random, parts: Parts, other: Seed) -> None:
    _change_payload(rng, parts, other, (Section.ALPHA,))


def change_metadata(rng: random.Random, parts: Parts, other: Seed) -> None:
    _change_payload(rng, parts, other, (Section.ICC, Section.EXIF, Section.XMP))


def _change_payload(
    rng: random.Random, parts: Parts, other: Seed, kinds: tuple[Section, ...]
) -> None:
    places = [i for i, (kind, _) in enumerate(parts.sections) if kind in kinds]
    if not places:
        parts.sections.append((kinds[0], rng.randbytes(rng.choice((0, 1, 2, 40)))))
        return
    at = rng.choice(places)
    kind, payload = parts.sections[at]
    parts.sections[at] = kind, damaged(rng, payload, other.data)[1]


def random_picture(rng: random.Random, parts: Parts, _: Seed) -> None:
    payload = rng.randbytes(rng.choice((0, 1, 30, 400, 3000)))
    parts.sections[:] = [
        (kind, payload if kind in (Section.PICTURE, Section.TILES) else old)
        for kind, old in parts.sections
    ]


def inflate_alpha(rng: random.Random, parts: Parts, _: Seed) -> None:
    """An alpha section whose DEFLATE stream is right and whose rows are not."""
    width, height = parts.header["width"] + 1, parts.header["height"] + 1
    if width * height > PIXELS:
        # Together with another change: a header that claims more than rows are worth making for.
        height = 1
    rows = bytearray(rng.randbytes((1 + width) * height))
    rows[:: 1 + width] = bytes(rng.choice((0, 1, 2, 2, 3)) for _ in range(height))
    if rng.random() < 0.4:
        rows = rows[: rng.randrange(len(rows))] if rng.random() < 0.5 else rows + b"\0"
    payload = b"\x01" + zlib.compress(bytes(rows), rng.choice((0, 1, 9)))
    parts.sections[:] = [s for s in parts.sections if s[0] != Section.ALPHA]
    parts.sections.insert(0, (Section.ALPHA, payload))


def change_tiles(rng: random.Random, parts: Parts, _: Seed) -> None:
    """Other numbers before the tiles, or a picture that is said to be in tiles."""
    payload = dict(parts.sections).get(Section.TILES, b"")
    sides = [varint(rng.choice((0, 1, 7, 8, 9, 10, 512, 1 << 20, 1 << 34))) for _ in range(2)]
    count = rng.choice((1, 2, 4, 60))
    lengths = [varint(rng.choice((0, 1, 5, 100, 1 << 34))) for _ in range(count)]
    body = payload[6:] if rng.random() < 0.5 else rng.randbytes(200)
    start = payload[:2] if payload and rng.random() < 0.5 else b"".join(sides)
    parts.sections[:] = [
        s for s in parts.sections if s[0] not in (Section.TILES, Section.PICTURE)
    ] + [(Section.TILES, start + b"".join(lengths) + body)]


def change_sections(rng: random.Random, parts: Parts, other: Seed) -> None:
    """Sections twice, away, in another order, of another type, from another file."""
    sections = parts.sections
    if not sections:
        return
    choice = rng.randrange(6)
    if choice == 0:
        sections.append(rng.choice(sections))
    elif choice == 1:
        del sections[rng.randrange(len(sections))]
    elif choice == 2:
        rng.shuffle(sections)
    elif choice == 3:
        at = rng.randrange(len(sections))
        sections[at] = rng.choice((0, 1, 2, 3, 6, 7, 255)), sections[at][1]
    elif choice == 4:
        sections.append(rng.choice(take_apart(other.data).sections))
    else:
        parts.header["sections"] = rng.choice((0, len(sections) + 1, 255))


STRUCTURED: tuple[Callable[[random.Random, Parts, Seed], None], ...] = (
    change_header,
    change_size,
    change_picture,
    change_picture,
    change_picture,
    random_picture,
    change_alpha,
    inflate_alpha,
    change_metadata,
    change_tiles,
    change_sections,
)


def forge_planes(rng: random.Random, corpus: Corpus) -> tuple[str, bytes, Bundle]:
    """Damage the picture and write the checksum of what it decodes to: all that follows is reached."""
    seed = corpus.file(rng)
    container = read_container(seed.data)
    if rng.random() < 0.5:
        container = replace(container, step=rng.choice((32, 100, 5000, 1600 * 64)))
    container = replace(container, restoration=rng.choice(list(Restoration)))
    kind, decoder = Section.PICTURE, decode_frame
    if Section.TILES in container.sections:
        kind, decoder = Section.TILES, decode_tiles
    payload = bytearray(container.sections[kind])
    size = container.height, container.width, container.num_planes
    crc = container.planes_crc
    for _ in range(3):
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
        try:
            planes = decoder(bytes(payload), *size, container.step, seed.bundle)
        except AmbiError:
            continue
        crc = crc_of_planes(planes)
        break
    sections = {**container.sections, kind: bytes(payload)}
    forged = replace(container, sections=sections, planes_crc=crc)
    return "forge_planes", write_container(forged), seed.bundle


def file_case(rng: random.Random, corpus: Corpus, target: str) -> Case:
    """A mutated file for a target that reads files."""
    seed, other = corpus.file(rng), corpus.file(rng)
    kind = rng.random()
    limit = PIXELS
    if kind < 0.4:
        mutation, data = damaged(rng, seed.data, other.data)
        return Case(target, mutation, data, seed.bundle, limit)
    if kind < 0.5 and target != "info":
        mutation, data, bundle = forge_planes(rng, corpus)
        return Case(target, mutation, data, bundle, limit)
    change = rng.choice(STRUCTURED)
    parts = take_apart(seed.data)
    change(rng, parts, other)
    if rng.random() < 0.1:
        rng.choice(STRUCTURED)(rng, parts, other)
    # Now and then a file may claim all that the format can express.
    if change is change_size and len(seed.data) < 200 and rng.random() < 0.02:
        limit = MAX_PIXELS
    return Case(target, change.__name__, put_together(parts), seed.bundle, limit)


# --- Mutations of bundles ---------------------------------------------------------------------------------


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header, as JSON, and the tensors' bytes of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def bundle_header(rng: random.Random, data: bytes) -> bytes:
    """Other shapes, types, offsets and names of tensors."""
    header, body = _split(data)
    name = rng.choice([n for n in header if n != "__metadata__"])
    choice = rng.randrange(6)
    if choice == 0:
        header[name]["shape"] = rng.choice(
            ([], [0], [-1], [2**31, 2**31], [2**63], [1] * 40, [10**30], "x", None)
        )
    elif choice == 1:
        header[name]["dtype"] = rng.choice(
            ("F64", "BF16", "F8_E4M3", "I8", "BOOL", "U64", "C64", "?", 3)
        )
    elif choice == 2:
        start, end = header[name]["data_offsets"]
        header[name]["data_offsets"] = rng.choice(
            ([0, 2**63], [end, start], [start, end + 1], [2**64, 2**65], [-1, 4], [start], [])
        )
    elif choice == 3:
        new = rng.choice(("entropy/x", "policy/", "/", "../x", "restoration/w99", "", "x" * 999))
        header[new] = header.pop(name)
    elif choice == 4:
        del header[name]
    else:
        header[name] = rng.choice(_JUNK)
    return _join(header, body)


def bundle_manifest(rng: random.Random, data: bytes) -> bytes:
    """Other values in the manifest."""
    header, body = _split(data)
    manifest = json.loads(header["__metadata__"]["ambi"])
    for key in rng.sample(sorted(manifest), rng.choice((1, 1, 2))):
        choice = rng.random()
        if choice < 0.15:
            del manifest[key]
        elif choice < 0.5 and isinstance(manifest[key], list) and manifest[key]:
            changed = manifest[key]
            changed[rng.randrange(len(changed))] = rng.choice(_JUNK)
            if rng.random() < 0.3:
                manifest[key] = changed * rng.choice((2, 100))
        else:
            manifest[key] = rng.choice(_JUNK)
    text = json.dumps(manifest)
    if rng.random() < 0.1:
        depth = rng.choice((50, 200, 900, 100_000))
        text = text[:-1] + ',"deep":' + "[" * depth + "]" * depth + "}"
    header["__metadata__"]["ambi"] = text if rng.random() < 0.98 else rng.choice(_JUNK)
    return _join(header, body)


def bundle_tensors(rng: random.Random, data: bytes) -> bytes:
    """Other values in the tensors, with right hashes."""
    header, _ = _split(data)
    manifest = json.loads(header["__metadata__"]["ambi"])
    tensors = {name: tensor.copy() for name, tensor in sorted(load_tensors(data).items())}
    count = min(rng.choice((1, 1, 3)), len(tensors))
    for name in rng.sample(sorted(tensors), count):
        tensors[name] = _changed_tensor(rng, tensors[name])
    manifest["hashes"] = {name: bundle_file.hash_tensor(t) for name, t in tensors.items()}
    return save_tensors(tensors, {"ambi": json.dumps(manifest)})


def _changed_tensor(rng: random.Random, tensor: np.ndarray) -> np.ndarray:
    choice = rng.randrange(8)
    if choice == 0 and tensor.ndim:
        return np.ascontiguousarray(tensor[: rng.randrange(len(tensor) + 1)])
    if choice == 1:
        return tensor.reshape(-1)
    if choice == 2:
        return tensor.astype(rng.choice((np.float64, np.int8, np.uint16, np.bool_)))
    if tensor.dtype.kind == "f":
        values: list[float] = [
            np.nan,
            np.inf,
            0,
            -1,
            1e-30,
            60000,
            float(np.finfo(tensor.dtype).max),
        ]
    else:
        top = int(np.iinfo(tensor.dtype).max)
        values = [0, 1, -1, 4095, 4096, (1 << 20), (1 << 22), (1 << 30) - 1, 255, top, -top - 1]
        bottom = int(np.iinfo(tensor.dtype).min)
        values = [value for value in values if bottom <= value <= top]
    flat = tensor.reshape(-1)
    if choice < 5:
        flat[:] = values[rng.randrange(len(values))]
    else:
        # Within what the tensor holds already, so that many pass the validation.
        lowest, highest = flat.min(), flat.max()
        wild = np.random.default_rng(rng.getrandbits(32)).random(flat.size)
        flat[:] = lowest + wild * (float(highest) - float(lowest))
    return tensor


def bundle_case(rng: random.Random, corpus: Corpus) -> Case:
    """A mutated bundle."""
    # The untrained ones mostly: hashing the default one takes most of the time.
    data = rng.choice(corpus.dumped)
    kind = rng.random()
    if kind < 0.3:
        mutation, mutated = damaged(rng, data, rng.choice(corpus.dumped))
        return Case("bundle", mutation, mutated, None, 0)
    if kind < 0.4:
        # Where the header is, blindly: that is where parsers are.
        length = int.from_bytes(data[:8], "little")
        mutation, head = damaged(rng, data[: 8 + length], data)
        return Case("bundle", f"head_{mutation}", head + data[8 + length :], None, 0)
    change = rng.choice((bundle_header, bundle_manifest, bundle_tensors, bundle_tensors))
    return Case("bundle", change.__name__, change(rng, data), None, 0)


# --- Running ----------------------------------------------------------------------------------------------


def _decode(case: Case, _: Corpus) -> None:
    image = ambi_rl.decode(case.data, bundle=case.bundle, max_pixels=case.max_pixels)
    container = read_container(case.data)
    if image.size != (container.width, container.height):
        raise AssertionError(f"{image.size} is not what the header says")


def _info(case: Case, _: Corpus) -> None:
    facts = file_facts(case.data)
    json.dumps(facts, indent=2).encode()
    "\n".join(lines_of(facts)).encode()


def _pillow(case: Case, _: Corpus) -> None:
    Image.MAX_IMAGE_PIXELS = case.max_pixels // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        Image.open(io.BytesIO(case.data)).verify()
        with Image.open(io.BytesIO(case.data)) as image:
            if isinstance(image, AmbiImageFile):
                image.bundle = case.bundle
            image.load()


def _bundle(case: Case, corpus: Corpus) -> None:
    bundle = parse_bundle(case.data)
    facts = bundle_facts(case.data, bundle)
    json.dumps(facts, indent=2).encode()
    "\n".join(lines_of(facts)).encode()
    context_of(bundle)
    strategist = for_effort(0, policy=True) if bundle.policy else STRATEGISTS["fixed"]
    encoded = encode_image(corpus.picture, bundle=bundle, strategist=strategist, quality=70)
    decoded = ambi_rl.decode(encoded.data, bundle=bundle)
    if decoded.tobytes() != encoded.decoded().tobytes():
        raise AssertionError("the decoder differs from the encoder")


_RUN: dict[str, Callable[[Case, Corpus], None]] = {
    "decode": _decode,
    "pillow": _pillow,
    "info": _info,
    "bundle": _bundle,
}
_EXPECTED: dict[str, tuple[type[Exception], ...]] = {
    "decode": (AmbiError,),
    "pillow": (OSError, Image.DecompressionBombError),
    "info": (AmbiError,),
    "bundle": (AmbiError,),
}


def run_case(case: Case, corpus: Subject) -> Outcome:
    """Run a case and say what came of it."""
    start = time.process_time()
    name, finding, seconds = "ok", None, None
    try:
        corpus.run(case)
        seconds = time.process_time() - start
        corpus.check(case)
    except corpus.expected(case.target) as error:
        name = type(error).__name__
        if "\n" in str(error) or not str(error):
            name, finding = f"{name} of several lines", traceback.format_exc()
    except Exception as error:
        name, finding = type(error).__name__, traceback.format_exc()
    if seconds is None:
        seconds = time.process_time() - start
    return Outcome(name, finding, seconds, corpus.claimed_pixels(case))


class Totals:
    """Counts, extremes and findings of a run."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.findings: list[tuple[int, str]] = []
        self.slowest = (0.0, 0, -1)
        """Seconds, pixels and number of the slowest case."""
        self.dearest = (0.0, 0, -1)
        """Seconds a pixel, pixels and number of the dearest of the cases of 16384 pixels and more."""
        self.memory = 0
        """Peak of a process's resident memory, bytes."""

    def add(self, number: int, case: Case, outcome: Outcome) -> None:
        """Count a case."""
        self.counts[case.target, case.mutation, outcome.name] += 1
        self.slowest = max(self.slowest, (outcome.seconds, outcome.pixels, number))
        if outcome.pixels >= 1 << 14:
            each = outcome.seconds / outcome.pixels
            self.dearest = max(self.dearest, (each, outcome.pixels, number))
        if outcome.finding is not None:
            self.findings.append((number, outcome.finding))

    def merge(self, other: Totals) -> None:
        """Add another run's."""
        self.counts += other.counts
        self.findings += other.findings
        self.slowest = max(self.slowest, other.slowest)
        self.dearest = max(self.dearest, other.dearest)
        self.memory = max(self.memory, other.memory)

    def lines(self) -> list[str]:
        """By target: cases by outcome; then by mutation; then the extremes."""
        out = [f"{self.counts.total()} cases, {len(self.findings)} findings"]
        for target in sorted({target for target, _, _ in self.counts}):
            outcomes: Counter[str] = Counter()
            mutations: Counter[str] = Counter()
            for (of, mutation, name), count in self.counts.items():
                if of == target:
                    outcomes[name] += count
                    mutations[mutation] += count
            out.append(f"{target}: {outcomes.total()}")
            out.append("  " + ", ".join(f"{n} {c}" for n, c in outcomes.most_common()))
            out.append("  " + ", ".join(f"{n} {c}" for n, c in mutations.most_common()))
        seconds, pixels, number = self.slowest
        out.append(f"slowest: case {number}, {seconds:.3f} s of CPU, {pixels} pixels")
        each, pixels, number = self.dearest
        out.append(f"dearest: case {number}, {each * 1e9:.0f} ns a pixel, {pixels} pixels")
        out.append(f"peak memory of a process: {self.memory / 2**20:.0f} MiB")
        return out


def run_cases(
    corpus: Subject,
    seed: int,
    numbers: Sequence[int],
    begin: Callable[[int], None] = lambda number: None,
    target: str | None = None,
) -> Totals:
    """Run cases of a seed in this process; `begin` is called before each."""
    totals = Totals()
    for number in numbers:
        begin(number)
        case = corpus.make_case(seed, number, target)
        totals.add(number, case, run_case(case, corpus))
    totals.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return totals


def _child(corpus: Subject, seed: int, numbers: Sequence[int], current: Any, results: Any) -> None:
    def begin(number: int) -> None:
        current.value = number

    results.send(run_cases(corpus, seed, numbers, begin))


def run_guarded(corpus: Subject, seed: int, numbers: range) -> Totals:
    """Run cases in a process of their own; when one kills or hangs it, note that and go on after it."""
    context = multiprocessing.get_context("fork")
    totals = Totals()
    while numbers:
        current = context.Value(ctypes.c_longlong, numbers.start)
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(corpus, seed, numbers, current, sender))
        child.start()
        sender.close()
        seen, since = -1, time.monotonic()
        while child.is_alive() and not receiver.poll(0.5):
            if current.value != seen:
                seen, since = current.value, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                child.kill()
        try:
            totals.merge(receiver.recv())
            child.join()
            break
        except EOFError:
            child.join()
            number = int(current.value)
            what = (
                f"the process ended with {child.exitcode} (-9: it was silent for {SILENCE:.0f} s)"
            )
            totals.findings.append((number, what))
            # What came before it is run again, without it.
            totals.merge(run_guarded(corpus, seed, range(numbers.start, number)))
            numbers = range(number + 1, numbers.stop)
    return totals


def keep(corpus: Subject, seed: int, findings: Sequence[tuple[int, str]]) -> None:
    """Print findings and keep their files."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    for number, text in findings:
        case = corpus.make_case(seed, number)
        path = FINDINGS / f"{seed}-{number}-{case.target}-{case.mutation}"
        path.write_bytes(case.data)
        print(f"FINDING seed {seed} case {number}, {case.target}, {case.mutation}: {path}\n{text}")


def commit() -> str:
    """The commit that is checked out, marked if files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def arguments(description: str, cases: int) -> argparse.ArgumentParser:
    """What the command line of every fuzzer has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, help="run this one case in this process")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    return parser


def run_one(corpus: Subject, seed: int, number: int) -> int:
    """Run one case in this process and print what comes of it; 1 if that is a finding."""
    case = corpus.make_case(seed, number)
    outcome = run_case(case, corpus)
    print(f"{case.target}, {case.mutation}, {len(case.data)} bytes: {outcome.name}")
    print(f"{outcome.seconds:.3f} s, {outcome.pixels} pixels\n{outcome.finding or ''}")
    return int(outcome.finding is not None)


def run_all(make_corpus: Callable[[], Subject], options: argparse.Namespace) -> int:
    """Run what `arguments` asks for; return 1 if anything was found."""
    os.environ.pop("AMBI_BUNDLES", None)
    # Overflows and invalid numbers in numpy are findings too.
    warnings.simplefilter("error", RuntimeWarning)
    revision = commit()
    corpus = make_corpus()
    if options.case is not None:
        return run_one(corpus, options.seed, options.case)
    totals = Totals()
    stop = options.first + options.cases
    report: list[str] = []
    for first in range(options.first, stop, CHUNK):
        found = run_guarded(corpus, options.seed, range(first, min(first + CHUNK, stop)))
        keep(corpus, options.seed, found.findings)
        totals.merge(found)
        print(f"{totals.counts.total()} cases, {len(totals.findings)} findings", flush=True)
        report = [f"commit {revision}, seed {options.seed}, first case {options.first}"]
        report += totals.lines()
        if options.json is not None:
            # After every chunk, so that an interrupted run has counts too.
            rows = [[*key, count] for key, count in sorted(totals.counts.items())]
            options.json.write_text(json.dumps({"report": report, "counts": rows}) + "\n")
    print("\n".join(report))
    return int(bool(totals.findings))


def main() -> int:
    """Run the fuzzer of the block codec; return 1 if anything was found."""
    parser = arguments(__doc__.splitlines()[0], 200_000)
    parser.add_argument("--bounds-check", action="store_true", help="kernels that check bounds")
    options = parser.parse_args()
    if options.bounds_check and os.environ.get("NUMBA_BOUNDSCHECK") != "1":
        # Numba reads it when it is imported.
        return subprocess.call(
            [sys.executable, *sys.argv], env={**os.environ, "NUMBA_BOUNDSCHECK": "1"}
        )
    return run_all(Corpus, options)


if __name__ == "__main__":
    sys.exit(main())
