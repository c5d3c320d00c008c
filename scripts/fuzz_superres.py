"""Feeds mutated super-resolved pictures and their bundles to whatever reads them and counts the outcomes.

Usage: python -m scripts.fuzz_superres [--cases 40000] [--seed 1] [--json FILE]
       python -m scripts.fuzz_superres --seed 1 --case 4711      (one case again, with its traceback)

The twin of scripts/fuzz.py, which runs the cases and says what a finding is. Targets: decoding a file as
`ambi decode` does (what decodes is read by tests/superres_reference.py as well), `ambi info` of files and
bundles, and loading a bundle and coding with it. Networks are tiny and untrained; what is changed in them is
changed under right hashes.
"""

from __future__ import annotations

import io
import json
import random
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

from ambi_rl.cli.info import facts_of, lines_of
from ambi_rl.codec import bundle_file
from ambi_rl.codec.container import Field, pack_fields, unpack_fields, varint
from ambi_rl.codec.threads import limit_threads
from ambi_rl.errors import AmbiError
from ambi_rl.superres import stream
from ambi_rl.superres.base_layer import BASES, encode_base
from ambi_rl.superres.bundle import SuperresBundle, dump_bundle, parse_bundle
from ambi_rl.superres.codec import decode_picture, encode_picture
from ambi_rl.superres.stream import CHUNKS, HEADER_FIELDS, read_stream
from scripts.fuzz import (
    PIXELS,
    ROOT,
    Case,
    arguments,
    bundle_header,
    bundle_manifest,
    bundle_tensors,
    damaged,
    run_all,
)
from tests.superres_models import tiny_bundle

TARGETS = ("decode", "info", "bundle")
_TENSOR = "network/onnx"
_PREFIX = len(stream.MAGIC)
_NUMBERS = (0, 1, 2, 3, 7, 8, 63, 1 << 14, 1 << 20, 1 << 31, (1 << 63) - 1, -1, -2, -(1 << 63))
_FLOATS = (0.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), 0.5, 2.0, 4000.0)
_FORBIDDEN = (
    "Loop",
    "If",
    "RandomNormal",
    "ConstantOfShape",
    "Expand",
    "Scan",
    "GlobalAveragePool",
)


class Seed(NamedTuple):
    """A good file, and the number of its bundle."""

    data: bytes
    bundle: int


def _picture(rng: np.random.Generator, mode: str, size: tuple[int, int]) -> Image.Image:
    """A smooth picture with some noise, and metadata."""
    width, height = size
    channels = len(Image.new(mode, (1, 1)).getbands())
    rows, columns = np.mgrid[:height, :width]
    pixels = (2 * rows + 3 * columns)[..., None] + rng.integers(0, 40, (height, width, channels))
    image = Image.fromarray(
        (pixels % 256).astype(np.uint8).squeeze(2) if channels == 1 else pixels.astype(np.uint8)
    )
    image.info["icc_profile"] = rng.bytes(30)
    image.info["xmp"] = b"<x:xmpmeta/>"
    return image


class SuperresCorpus:
    """The good files and bundles that cases are made of; a `Subject`."""

    def __init__(self) -> None:
        # The cases run in forked processes, to which threads do not go along.
        limit_threads(1)
        self.bundles = [tiny_bundle(2), tiny_bundle(4, seed=2)]
        self.dumped = [dump_bundle(bundle) for bundle in self.bundles]
        rng = np.random.default_rng(2)
        self.files = []
        for number, bundle in enumerate(self.bundles):
            for base in BASES:
                for mode, size in (("RGB", (37, 29)), ("L", (6, 11)), ("RGBA", (16, 9))):
                    image = _picture(rng, mode, size)
                    encoded = encode_picture(image, bundle, base=base, quality=60)
                    self.files.append(Seed(encoded.data, number))
        self.image = _picture(rng, "RGB", (9, 7))
        self.reference = runpy.run_path(str(ROOT / "tests" / "superres_reference.py"))

    def make_case(self, seed: int, number: int, target: str | None = None) -> Case:
        """See `scripts.fuzz.Subject`."""
        rng = random.Random(f"{seed} {number}")
        chosen = target or rng.choice(TARGETS)
        if chosen == "bundle" or (chosen == "info" and rng.random() < 0.4):
            return bundle_case(rng, self, chosen)
        return file_case(rng, self, chosen)

    def run(self, case: Case) -> None:
        """See `scripts.fuzz.Subject`."""
        _RUN[case.target](case, self)

    def check(self, case: Case) -> None:
        """Compare what a file says with what the second reader finds in it."""
        if case.target != "decode":
            return
        told, found = self.reference["read"](case.data), read_stream(case.data)
        chunks = {name: told[name] for name in CHUNKS if name in told}
        if (
            (told["width"], told["height"], told["base"], told["gray"], told["bundle"])
            != (found.width, found.height, found.base, found.gray, found.bundle_id)
            or told["base layer"] != found.base_layer
            or chunks != found.chunks()
        ):
            raise AssertionError("the second reader finds something else")

    def expected(self, target: str) -> tuple[type[Exception], ...]:
        """See `scripts.fuzz.Subject`."""
        return (AmbiError,)

    def claimed_pixels(self, case: Case) -> int:
        """Pixels of a picture whose header is right and within the limit of the case."""
        if case.target != "decode":
            return 0
        try:
            header = read_stream(case.data, max_pixels=case.max_pixels)
        except AmbiError:
            return 0
        return header.width * header.height


# --- Mutations of files with right checksums --------------------------------------------------------------


@dataclass
class Parts:
    """A file taken apart: fields as they are stored, chunks with their lengths as written, the base layer."""

    fields: dict[str, int]
    chunks: list[tuple[bytes, bytes]]
    base_layer: bytes
    bundle: int


def take_apart(seed: Seed) -> Parts:
    """Take a good file apart."""
    end = stream.HEADER_BYTES - 4
    fields = unpack_fields(_STORED, seed.data[_PREFIX:end])
    read = read_stream(seed.data)
    chunks = [(varint(len(payload)), payload) for payload in read.chunks().values()]
    return Parts(fields, chunks, read.base_layer, seed.bundle)


_STORED = tuple(Field(f.name, f.bits) for f in HEADER_FIELDS)
"""The header's fields without biases: any number of bits can be written."""


def put_together(parts: Parts) -> bytes:
    """Write a file with whatever the parts say and a right checksum."""
    head = stream.MAGIC + pack_fields(_STORED, parts.fields)
    payloads = b"".join([*(part for chunk in parts.chunks for part in chunk), parts.base_layer])
    return head + stream._crc(head, payloads) + payloads


def change_field(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """Other values in the header, but for the version."""
    for f in rng.sample(_STORED[1:], rng.choice((1, 1, 2))):
        top = (1 << f.bits) - 1
        parts.fields[f.name] = min(rng.choice((0, 1, 2, 3, top, rng.randrange(top + 1))), top)


def change_size(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """A size that is nearly right, or huge."""
    for name in rng.sample(("width", "height"), rng.choice((1, 2))):
        near = max(parts.fields[name] + rng.choice((-4, -2, -1, 1, 2, 4)), 0)
        parts.fields[name] = rng.choice((near, near, near, 0x3FFF))


def change_bundle(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """The id of another bundle, which is the one at hand half of the time."""
    other = rng.randrange(len(corpus.bundles))
    parts.fields["bundle_id"] = int(corpus.bundles[other].id, 16)
    if rng.random() < 0.8:
        parts.bundle = other


def change_chunk(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """Another length of a chunk, or other bytes in it."""
    at = rng.randrange(len(parts.chunks))
    length, payload = parts.chunks[at]
    if rng.random() < 0.5:
        payload = damaged(rng, payload, rng.choice(corpus.files).data)[1]
        length = varint(len(payload))
    else:
        length = rng.choice((varint(rng.randrange(1 << 12)), varint(0), b"\xff" * 5, b"\x80\x80\0"))
    parts.chunks[at] = (length, payload)


def change_base(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """Other bytes in the base layer."""
    parts.base_layer = damaged(
        rng, parts.base_layer, take_apart(rng.choice(corpus.files)).base_layer
    )[1]


def change_base_head(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """Other bytes where the base layer's own header is."""
    cut = min(rng.choice((30, 60, 200)), len(parts.base_layer))
    head = damaged(rng, parts.base_layer[:cut], corpus.dumped[0])[1]
    parts.base_layer = head + parts.base_layer[cut:]


def other_base(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """A good base layer of another picture, format, size or kind."""
    kind = rng.random()
    if kind < 0.5:
        parts.base_layer = take_apart(rng.choice(corpus.files)).base_layer
        return
    size = rng.randint(1, 40), rng.randint(1, 40)
    image, out = Image.new("RGB", size), io.BytesIO()
    if kind < 0.7:
        image.save(out, rng.choice(("PNG", "TIFF", "GIF", "BMP")))
    elif kind < 0.8:
        image.convert("CMYK").save(out, "JPEG")
    else:
        frames = [Image.new("RGB", size, "red")]
        image.save(out, rng.choice(("WEBP", "AVIF")), save_all=True, append_images=frames)
    parts.base_layer = out.getvalue()


def exact_base(rng: random.Random, parts: Parts, corpus: SuperresCorpus) -> None:
    """A right base layer of extreme pixels: networks see what no photograph has."""
    scale = corpus.bundles[parts.bundle].scale
    sides = [-(-(parts.fields[name] + 1) // scale) for name in ("height", "width")]
    value = rng.choice((0, 255, None))
    pixels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (*sides, 3), np.uint8)
    if value is not None:
        pixels[:] = value
    parts.base_layer = encode_base(pixels, BASES[parts.fields["base"]], rng.choice((1, 50, 100)))


STRUCTURED: tuple[Callable[[random.Random, Parts, SuperresCorpus], None], ...] = (
    change_field,
    change_size,
    change_bundle,
    change_chunk,
    change_base,
    change_base,
    change_base_head,
    change_base_head,
    other_base,
    exact_base,
)


def file_case(rng: random.Random, corpus: SuperresCorpus, target: str) -> Case:
    """A mutated file."""
    seed, other = rng.choice(corpus.files), rng.choice(corpus.files)
    if rng.random() < 0.25:
        mutation, data = damaged(rng, seed.data, other.data)
        return Case(target, mutation, data, corpus.bundles[seed.bundle], PIXELS)
    change = rng.choice(STRUCTURED)
    parts = take_apart(seed)
    change(rng, parts, corpus)
    data = put_together(parts)
    return Case(target, change.__name__, data, corpus.bundles[parts.bundle], PIXELS)


# --- Mutations of bundles ---------------------------------------------------------------------------------


def _with_model(data: bytes, model: bytes) -> bytes:
    """A bundle with another network, under fresh hashes."""
    manifest = bundle_file.read_manifest(data)
    return bundle_file.dump(manifest, {_TENSOR: np.frombuffer(model, np.uint8)})


def _model(data: bytes) -> bytes:
    return parse_bundle(data).model


def damaged_network(rng: random.Random, data: bytes) -> bytes:
    """Bytes of the network's file changed blindly."""
    return _with_model(data, damaged(rng, _model(data), data)[1])


def network_attributes(rng: random.Random, data: bytes) -> bytes:
    """Other pads, strides, kinds of enlarging, or attributes that nothing has."""
    model = onnx.load_from_string(_model(data))
    node = rng.choice(model.graph.node)
    if node.attribute and rng.random() < 0.7:
        attribute = rng.choice(node.attribute)
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = rng.choice(_NUMBERS)
        else:
            attribute.s = rng.choice((b"cubic", b"linear", b"DCR", b"align_corners", b"", b"\xff"))
    else:
        name = rng.choice(
            ("strides", "dilations", "group", "kernel_shape", "blocksize", "axis", "x")
        )
        value: Any = rng.choice((rng.choice(_NUMBERS), [rng.choice(_NUMBERS)] * 2))
        node.attribute.append(helper.make_attribute(name, value))
    return _with_model(data, bytes(model.SerializeToString()))


def network_weights(rng: random.Random, data: bytes) -> bytes:
    """Other values, shapes or types of weights; shapes also such as do not fit their bytes."""
    model = onnx.load_from_string(_model(data))
    tensor = rng.choice(model.graph.initializer)
    kind = rng.random()
    if kind < 0.2:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(_NUMBERS)
    elif kind < 0.3:
        tensor.data_type = rng.choice((0, 2, 6, 7, 8, 10, 11, 16, 99))
    elif kind < 0.4:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data))]
    else:
        array = numpy_helper.to_array(tensor).copy()
        flat = array.reshape(-1)
        count = rng.choice((1, flat.size))
        flat[rng.randrange(flat.size) :][:count] = rng.choice(_FLOATS)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return _with_model(data, bytes(model.SerializeToString()))


def network_nodes(rng: random.Random, data: bytes) -> bytes:
    """Nodes that are away, twice, wired differently, or of another kind; names of the ends."""
    model = onnx.load_from_string(_model(data))
    nodes = model.graph.node
    at, choice = rng.randrange(len(nodes)), rng.randrange(7)
    names = [name for node in nodes for name in (*node.input, *node.output)] + ["base", "image", ""]
    if choice == 0:
        del nodes[at]
    elif choice == 1 and nodes[at].input:
        nodes[at].input[rng.randrange(len(nodes[at].input))] = rng.choice(names)
    elif choice == 2:
        nodes[at].op_type = rng.choice(
            (*_FORBIDDEN, "Concat", "Mul", "Resize", "Transpose", "Nope")
        )
    elif choice == 3:
        nodes[at].domain = rng.choice(("com.microsoft", "ai.onnx", "x", "ai.onnx.ml"))
    elif choice == 4:
        ends = rng.choice((model.graph.input, model.graph.output))
        ends[0].name = rng.choice(names)
    elif choice == 5:
        # Each doubles what the last one made.
        last = nodes[-1].output[0]
        nodes[-1].output[0] = "grown0"
        # The last one asks for more than there is, which takes a while to find out.
        count = rng.choice((1, 3, 3, 12, 12, 12, 12, 60))
        for n in range(count):
            output = last if n == count - 1 else f"grown{n + 1}"
            nodes.append(
                helper.make_node("Concat", [f"grown{n}"] * 2, [output], axis=rng.choice((0, 1, 2)))
            )
    else:
        weights = model.graph.initializer[0]
        weights.data_location = rng.choice((0, 1))
        entry = weights.external_data.add()
        entry.key, entry.value = "location", rng.choice(("/etc/passwd", "../x", "weights.bin"))
    return _with_model(data, bytes(model.SerializeToString()))


def another_scale(rng: random.Random, data: bytes) -> bytes:
    """The manifest's scale and radius are another network's, or none's."""
    manifest = bundle_file.read_manifest(data)
    manifest["scale"] = rng.choice((2, 4, 4, 2, 3, 0, -2, 2.0, True, None))
    manifest["radius"] = rng.choice((0, 3, 256, 257, -1, 3.0, None))
    tensors = {_TENSOR: np.frombuffer(_model(data), np.uint8)}
    return bundle_file.dump(manifest, tensors)


NETWORK_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    damaged_network,
    network_attributes,
    network_weights,
    network_nodes,
    another_scale,
)
BUNDLE_CHANGES = (bundle_header, bundle_manifest, bundle_tensors)


def bundle_case(rng: random.Random, corpus: SuperresCorpus, target: str) -> Case:
    """A mutated bundle."""
    data = rng.choice(corpus.dumped)
    if rng.random() < 0.15:
        mutation, mutated = damaged(rng, data, rng.choice(corpus.dumped))
        return Case(target, mutation, mutated, None, 0)
    change = rng.choice((*BUNDLE_CHANGES, *NETWORK_CHANGES, *NETWORK_CHANGES))
    return Case(target, change.__name__, change(rng, data), None, 0)


# --- Running ----------------------------------------------------------------------------------------------


def _decode(case: Case, corpus: SuperresCorpus) -> None:
    image = decode_picture(case.data, case.bundle, max_pixels=case.max_pixels)
    header = read_stream(case.data)
    if image.size != (header.width, header.height):
        raise AssertionError(f"{image.size} is not what the header says")
    if (image.mode in ("L", "LA")) != header.gray:
        raise AssertionError(f"{image.mode} is not what the header says")


def _info(case: Case, _: SuperresCorpus) -> None:
    told = facts_of(case.data, "x.ambic")
    json.dumps(told, indent=2).encode()
    "\n".join(lines_of(told)).encode()


def _bundle(case: Case, corpus: SuperresCorpus) -> None:
    bundle = parse_bundle(case.data)
    encoded = encode_picture(corpus.image, bundle)
    decoded = np.asarray(decode_picture(encoded.data, bundle))
    if not np.array_equal(decoded, encoded.decoded()):
        raise AssertionError("the decoder differs from the encoder")
    if SuperresBundle(bundle.manifest, bundle.model).id != bundle.id:
        raise AssertionError("the id is another one")


_RUN: dict[str, Callable[[Case, SuperresCorpus], None]] = {
    "decode": _decode,
    "info": _info,
    "bundle": _bundle,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the fuzzer of the super-resolving codec; return 1 if anything was found."""
    assert __doc__ is not None
    options = arguments(__doc__.splitlines()[0], 40_000).parse_args(words)
    return run_all(SuperresCorpus, options)


if __name__ == "__main__":
    sys.exit(main())
