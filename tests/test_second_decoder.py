"""The specification is complete: a decoder written from docs/format.md alone agrees with the codec.

A failure here means that docs/format.md (and tests/reference_decoder.py after it) and the codec differ: in
the change that made it, one of them is wrong, or the format's version must rise.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import runpy
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import ambi_rl
from ambi_rl.codec import bundle as bundle_module
from ambi_rl.codec import tables
from ambi_rl.codec.alpha import decode_alpha, encode_alpha
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.container import Container, Section, read_container, write_container
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.frame import decode_frame, encode_frame
from ambi_rl.codec.restoration import restore
from ambi_rl.codec.strategists import for_search
from ambi_rl.errors import AmbiError, CorruptFileError
from tests import reference_decoder as reference

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
MAKE_GOLDEN = HERE.parent / "scripts" / "make_golden.py"
SPECIFICATION = (HERE.parent / "docs" / "format.md").read_text(encoding="utf-8")
DEFAULT = Path(bundle_module.__file__).with_name("default.ambic")
ALLOWED = {"collections", "dataclasses", "hashlib", "json", "math", "typing", "zlib"}


@pytest.fixture(scope="module")
def golden_bundle() -> reference.Bundle:
    return reference.golden_bundle()


@pytest.fixture(scope="module")
def learned() -> reference.Bundle:
    """The default bundle as the reference decoder reads it."""
    return reference.read_bundle(DEFAULT.read_bytes())


@pytest.fixture(scope="module")
def patterned() -> Bundle:
    """The golden bundle as the codec makes it."""
    made: Bundle = runpy.run_path(str(MAKE_GOLDEN))["golden_bundle"]()
    return made


def test_it_shares_no_code_with_the_codec() -> None:
    tree = ast.parse((HERE / "reference_decoder.py").read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    assert imported <= ALLOWED | {"__future__", "numpy", "safetensors"}


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("SQUASH[4096]", (reference.SQUASH, tables.SQUASH)),
        ("STRETCH[4096]", (reference.STRETCH, tables.STRETCH)),
        ("ADAPTATION[1024]", (reference.ADAPTATION, tables.ADAPTATION)),
        (
            "MULTIPLIER[49]",
            (list(reference.MULTIPLIERS.values()), tables.step_multipliers(list(range(-24, 25)))),
        ),
        (
            "transforms, 1696 numbers",
            (
                np.concatenate(
                    [m.ravel() for m in (*reference.DCT.values(), *reference.DST.values())]
                ),
                np.concatenate(
                    [m[: 4 << k % 4, : 4 << k % 4].ravel() for k, m in enumerate(tables.TRANSFORMS)]
                ),
            ),
        ),
        ("taps [2][32][4]", ([reference.SHARP, reference.SMOOTH], tables.INTERPOLATION)),
    ],
    ids=lambda value: value.split("[")[0] if isinstance(value, str) else "",
)
def test_tables_have_the_hashes_of_the_specification(
    name: str, numbers: tuple[npt.ArrayLike, npt.ArrayLike]
) -> None:
    found = re.search(rf"^\| {re.escape(name)} \|.*`([0-9a-f]{{64}})` \|$", SPECIFICATION, re.M)
    assert found
    for table in numbers:
        assert hashlib.sha256(np.asarray(table, "<i4").tobytes()).hexdigest() == found[1]


def test_arrays_stand_where_the_specification_says() -> None:
    """Name, dimensions and first entry of all 67 arrays: text, reference decoder and codec."""
    row = r"\| (\w+) \| ((?:\[\d+\])+)(?: †)? \| (\d+) "
    found = re.findall(row, SPECIFICATION[SPECIFICATION.index("## B. Arrays") :])
    assert {name for name, _, _ in found} == set(reference.DIMENSIONS)
    for name, dimensions, first in found:
        assert tuple(map(int, re.findall(r"\d+", dimensions))) == reference.DIMENSIONS[name]
        assert int(first) == reference.FIRSTS[name]
        ours = f"NET_{name}" if name in reference.NETWORK_ARRAYS else name
        assert int(first) == getattr(layout, ours)
    assert layout.NUM_COUNTERS == 176784
    assert (layout.NUM_MIXERS, layout.NET_ROWS) == (518, 1701)


def test_bundle_ids_are_computed_alike(
    golden_bundle: reference.Bundle,
    learned: reference.Bundle,
    default_bundle: Bundle,
    patterned: Bundle,
) -> None:
    assert golden_bundle.id() == patterned.id
    assert f"Its id is `{patterned.id}`" in SPECIFICATION
    assert learned.id() == default_bundle.id
    assert reference.Bundle(learned.manifest, learned.entropy).id() == default_bundle.planes_id


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.ambi")))
def test_golden_files_decode_to_the_frozen_pixels(
    name: str, golden_bundle: reference.Bundle
) -> None:
    """The planes' CRC is checked on the way; here also colour conversion and alpha."""
    facts = json.loads((GOLDEN / "golden.json").read_text())[name]
    samples = reference.decode((GOLDEN / f"{name}.ambi").read_bytes(), golden_bundle)
    assert list(samples.shape[1::-1]) == facts["size"]
    assert zlib.crc32(samples.tobytes()) == facts["crc32"]


@pytest.mark.parametrize(
    ("mode", "quality", "size"), [("RGB", 70, (45, 37)), ("L", 30, (66, 53)), ("RGB", 99, (15, 18))]
)
def test_pictures_of_the_learned_codec(
    photograph: Image.Image,
    learned: reference.Bundle,
    mode: str,
    quality: int,
    size: tuple[int, int],
) -> None:
    """Planes are equal; after the filter, in other arithmetic, they differ by one at most, and seldom."""
    image = photograph.convert(mode).crop((20, 9, 20 + size[0], 9 + size[1]))
    data = ambi_rl.encode(image, quality=quality, restoration=True, strategist=for_search(6))
    file = reference.read_file(data)
    planes = reference.decode_planes(file, learned)  # Refuses what has not the header's CRC.
    step, strength = file.header["step"], file.header["restoration"]
    assert strength == 2
    ours = restore(planes, step, bundle_module.default_bundle().restoration)
    theirs = reference.restore(planes, step, strength, learned)
    assert np.abs(ours - theirs).max() <= 1
    assert (ours == theirs).mean() > 0.99
    assert (planes != theirs).any(), "nothing was restored"
    plain = np.asarray(ambi_rl.decode(data, restoration=False))
    assert np.array_equal(reference.to_samples(planes), plain)


def test_half_the_restoration(photograph: Image.Image, learned: reference.Bundle) -> None:
    planes = np.asarray(photograph.convert("L"), np.int16)[np.newaxis, 7:36, 5:46] * 4
    ours = restore(planes, 3000, bundle_module.default_bundle().restoration, 0.5)
    assert np.abs(ours - reference.restore(planes, 3000, 1, learned)).max() <= 1


def test_another_bundle(photograph: Image.Image, patterned: Bundle) -> None:
    """Lists, chroma's steps and the counters' memory are the bundle's, not constants."""
    few = {"strategies": ["dc", "angular_18", "planar", "angular_5"], "offsets": [0]}
    scales = {"chroma_scale": np.array([50, 200], np.int32), "limits": np.array([9, 0], np.int32)}
    ours = replace(patterned, manifest=patterned.manifest | few, entropy=patterned.entropy | scales)
    theirs = reference.Bundle(dict(ours.manifest), dict(ours.entropy))
    assert theirs.id() == ours.id
    planes = rgb_to_planes(np.asarray(photograph)[:29, :41])
    encoded = encode_frame(planes, 700, ours, for_search(6))
    decoder = reference.PictureDecoder(encoded.payload, 29, 41, 3, 700, theirs)
    assert np.array_equal(decoder.decode(), encoded.planes)


def test_random_payloads_mean_the_same(
    learned: reference.Bundle,
    default_bundle: Bundle,
    golden_bundle: reference.Bundle,
    patterned: Bundle,
) -> None:
    """No encoder wrote them, so they hold what encoders avoid; what is refused must be refused by both."""
    rng = np.random.default_rng(5)
    # Contexts depend on the step's class: half the steps are at a class's edge.
    edges = [edge << n for n in range(11) for edge in (33, 34, 47, 48) if edge << n <= 102400]
    refused = 0
    for trial in range(80):
        ours, theirs = ((default_bundle, learned), (patterned, golden_bundle))[trial % 2]
        height, width = (int(side) for side in rng.integers(1, 60, 2))
        steps = int(rng.choice(edges)), int(np.exp(rng.uniform(3.5, 11.5)))
        shape = height, width, (1, 3)[trial % 3 > 0], steps[trial // 2 % 2]
        payload = rng.bytes(int(rng.integers(0, 150)))
        try:
            expected = decode_frame(payload, *shape, ours)
        except CorruptFileError:
            refused += 1
            with pytest.raises(reference.RefusedError):
                reference.PictureDecoder(payload, *shape, theirs).decode()
            continue
        decoded = reference.PictureDecoder(payload, *shape, theirs).decode()
        assert np.array_equal(expected, decoded), (trial, shape)
    assert 10 < refused < 70, "the payloads were all of one kind"


@pytest.mark.parametrize("filters", ["constant", "ramp", "noise"])
def test_alpha(filters: str) -> None:
    plane = np.zeros((13, 17), np.uint8)
    if filters == "ramp":
        plane += np.arange(13, dtype=np.uint8)[:, None] * 7
    elif filters == "noise":
        plane[:] = np.random.default_rng(2).integers(0, 256, plane.shape)
    payload = encode_alpha(plane)
    assert np.array_equal(reference.decode_alpha(payload, 13, 17), plane)
    for broken in (b"", b"\2\0", payload + b"\0", payload[:-1]):
        with pytest.raises(reference.RefusedError):
            reference.decode_alpha(broken, 13, 17)
        with pytest.raises(CorruptFileError):
            decode_alpha(broken, 13, 17)


def forged(data: bytes, **changes: int) -> bytes:
    """A file whose header says something else, with a checksum that fits."""
    bits = int.from_bytes(data[4:27], "big")
    at = 184
    for name, count in reference._FIELDS:
        at -= count
        if name in changes:
            bits &= ~(((1 << count) - 1) << at)
            bits |= changes[name] << at
    head = data[:4] + bits.to_bytes(23, "big")
    return head + zlib.crc32(head).to_bytes(4, "big") + data[31:]


def broken_files() -> dict[str, bytes]:
    data = (GOLDEN / "coarse.ambi").read_bytes()
    section = data[31:]
    container = read_container(data)

    def with_sections(**sections: bytes) -> bytes:
        payloads = {Section[name]: payload for name, payload in sections.items()}
        return write_container(replace(container, sections=payloads))

    picture = container.sections[Section.PICTURE]
    return {
        "empty": b"",
        "magic": b"\x89PNG" + data[4:],
        "truncated header": data[:20],
        "truncated section": data[:-1],
        "surplus": data + b"\0",
        "header checksum": data[:8] + bytes([data[8] ^ 1]) + data[9:],
        "section checksum": data[:-1] + bytes([data[-1] ^ 1]),
        "version": forged(data, version=3),
        "restoration": forged(data, restoration=3),
        "restoration without tensors": forged(data, restoration=1),
        "colour": forged(data, colour=2),
        "orientation": forged(data, orientation=9),
        "quality": forged(data, quality=99),
        "small step": forged(data, step=31),
        "large step": forged(data, step=102401),
        "bundle": forged(data, bundle_id=1),
        "planes CRC": forged(data, planes_crc=1),
        "repeated section": forged(data, sections=2) + section,
        "unknown section": forged(data, sections=2)
        + b"\7\0"
        + zlib.crc32(b"\7\0").to_bytes(4, "big"),
        "missing section": forged(data, sections=2),
        "long varint": forged(data, sections=1)[:31] + b"\1\x80\x80\x80\x80\x80\0" + section[2:],
        "no picture": with_sections(XMP=b"x"),
        "two pictures": with_sections(PICTURE=picture, TILES=b"\x08\x08"),
        "one tile": with_sections(TILES=b"\x08\x08\1\0"),
        "small tiles": with_sections(TILES=b"\1\x08\1\1\1abc"),
        "tiles": with_sections(TILES=b""),
    }


@pytest.mark.parametrize("name", sorted(broken_files()))
def test_both_refuse(name: str, golden_bundle: reference.Bundle, patterned: Bundle) -> None:
    data = broken_files()[name]
    with pytest.raises(reference.RefusedError):
        reference.decode(data, golden_bundle)
    with pytest.raises(AmbiError):
        ambi_rl.decode(data, bundle=patterned)


def test_varints_may_be_longer_than_needed(
    golden_bundle: reference.Bundle, patterned: Bundle
) -> None:
    """A reader takes what no writer writes, as the specification says."""
    data = (GOLDEN / "one_pixel.ambi").read_bytes()
    payload = data[37:]
    head = bytes([1, 0x80 | len(payload), 0])
    crc = zlib.crc32(head + payload).to_bytes(4, "big")
    longer = data[:31] + head + crc + payload
    expected = np.asarray(ambi_rl.decode(longer, bundle=patterned))
    assert np.array_equal(reference.decode(longer, golden_bundle), expected)


def test_sections_come_in_any_order(golden_bundle: reference.Bundle) -> None:
    container: Container = read_container((GOLDEN / "alpha.ambi").read_bytes())
    backwards = dict(reversed(list(container.sections.items())))
    data = write_container(replace(container, sections=backwards))
    facts = json.loads((GOLDEN / "golden.json").read_text())["alpha"]
    assert zlib.crc32(reference.decode(data, golden_bundle).tobytes()) == facts["crc32"]
