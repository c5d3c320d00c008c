"""Feeds mutated feature streams and their bundles to everything that reads them and counts what comes of it.

Usage: python -m scripts.fuzz_features [--cases 66000] [--seed 1] [--json FILE]
       python -m scripts.fuzz_features --seed 1 --case 4711      (one case again, with its traceback)

The twin of scripts/fuzz.py, which runs the cases and says what a finding is. Targets: decoding a stream as
`ambi decode` does (what decodes is decoded by tests/feature_reference.py as well), `ambi info` of streams and
bundles, and loading a bundle and coding with it. Networks are small and untrained, and latents are made up:
nothing here depends on what networks compute.
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

import constriction
import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import nn

from ambi_rl.cli.features import facts
from ambi_rl.cli.info import facts_of, lines_of
from ambi_rl.codec import bundle_file
from ambi_rl.codec.container import varint
from ambi_rl.errors import AmbiError
from ambi_rl.neural import stream
from ambi_rl.neural.bundle import (
    FeatureBundle,
    dump_bundle,
    feature_bundle,
    find_bundle,
    parse_bundle,
)
from ambi_rl.neural.feature_codec import FeatureCodec
from ambi_rl.neural.latent_coder import LatentCoder
from ambi_rl.neural.networks import FRAME_SIDE, FeatureEncoder, FrameDecoder
from ambi_rl.neural.stream import StreamReader, StreamWriter
from ambi_rl.neural.tables import MAX_LENGTH, TOTAL, LatentTables, quantize_frequencies
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

TARGETS = ("decode", "info", "bundle")
_INT32 = np.iinfo(np.int32)
_COMPARED = 300
"""Latents of a stream that the second decoder, which takes its time, decodes too."""
_NUMBERS = (0, 1, 2, 3, 63, 64, 127, 128, 4095, 4096, 4097, 16384, 16385, 1 << 20, 1 << 21)
_LARGEST = (1 << 28, (1 << 32) - 1, 1 << 32, (1 << 35) - 2, (1 << 35) - 1)
_SIZES: tuple[Any, ...] = (
    0,
    1,
    2,
    3,
    4,
    8,
    64,
    65,
    1024,
    4096,
    1 << 16,
    2**63,
    -1,
    True,
    1.0,
    "1",
    None,
)

Latents = npt.NDArray[np.int32]


class Seed(NamedTuple):
    """A good stream, and the number of its bundle."""

    data: bytes
    bundle: int


# --- Good files -------------------------------------------------------------------------------------------


def _tables(rng: np.random.Generator, channels: int, minimum: int, longest: int) -> LatentTables:
    """Tables of random alphabets that begin near `minimum`."""
    lengths = rng.integers(1, longest + 1, channels)
    weights = [rng.random(length + 1) ** 4 + 1e-9 for length in lengths]
    lowest = np.clip(minimum + rng.integers(-3, 4, channels), _INT32.min, _INT32.max - lengths)
    return LatentTables(
        lowest.astype(np.int32),
        lengths.astype(np.int32),
        np.concatenate([quantize_frequencies(w) for w in weights]),
    )


def seed_bundles() -> list[FeatureBundle]:
    """Small bundles with the latent at each layer, and tables of short, long and far alphabets."""
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    bundles = []
    for layer, channels, minimum, longest in (
        ("features", 6, -8, 16),
        ("features", 3, 2**31 - 40, 30),
        ("conv3", 2, -20, 40),
        ("conv2", 1, -100, MAX_LENGTH),
    ):
        encoder = FeatureEncoder(2, 1, layer, channels, 4)
        action: nn.Module = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 4))
        decoder = FrameDecoder(encoder.latent_shape, 1)
        tables = _tables(rng, channels, minimum, longest)
        about = {"training": {"steps": 0}, "metrics": {"mse": 1.5}}
        bundles.append(feature_bundle(encoder, action, decoder, tables, facts=about))
    return bundles


def _latents(rng: np.random.Generator, bundle: FeatureBundle, frames: int, strays: int) -> Latents:
    """Latents within the alphabets, but for some anywhere."""
    tables = bundle.tables
    shape = (frames, *bundle.latent_shape)
    symbols = (rng.random(shape) * tables.lengths[:, None, None]).astype(np.int64)
    latents = (tables.minimum[:, None, None] + symbols).astype(np.int32)
    flat = latents.reshape(-1)
    if flat.size and strays:
        values = rng.integers(_INT32.min, _INT32.max, strays, endpoint=True)
        near = rng.integers(-200, 200, strays)
        values = np.where(rng.random(strays) < 0.3, values, near)
        flat[rng.integers(0, flat.size, strays)] = values
    return latents


def _written(codec: FeatureCodec, latents: Latents, packet: int, *, counted: bool) -> bytes:
    out = io.BytesIO()
    header = codec.header(len(latents) if counted else None)
    with StreamWriter(out, header, codec.bundle.tables, frames_per_packet=packet) as writer:
        writer.write(latents)
    return out.getvalue()


class FeatureCorpus:
    """The good streams and bundles that cases are made of; a `Subject`."""

    def __init__(self) -> None:
        # The cases run in forked processes, to which threads do not go along.
        torch.set_num_threads(1)
        self.bundles = seed_bundles()
        self.codecs = [FeatureCodec(bundle) for bundle in self.bundles]
        self.dumped = [dump_bundle(bundle) for bundle in self.bundles]
        rng = np.random.default_rng(2)
        self.streams = []
        for number, codec in enumerate(self.codecs):
            for frames, packet, strays, counted in (
                (0, 1, 0, True),
                (1, 64, 0, True),
                (6, 64, 1, True),
                (7, 2, 2, True),
                (5, 2, 6, False),
            ):
                latents = _latents(rng, codec.bundle, frames, strays)
                data = _written(codec, latents, packet, counted=counted)
                self.streams.append(Seed(data, number))
        self.frames = rng.integers(0, 256, (3, FRAME_SIDE, FRAME_SIDE), np.uint8)
        path = ROOT / "tests" / "feature_reference.py"
        self.reference = runpy.run_path(str(path))

    def make_case(self, seed: int, number: int, target: str | None = None) -> Case:
        """See `scripts.fuzz.Subject`."""
        rng = random.Random(f"{seed} {number}")
        chosen = target or rng.choice(TARGETS)
        if chosen == "bundle" or (chosen == "info" and rng.random() < 0.4):
            return bundle_case(rng, self, chosen)
        return stream_case(rng, self, chosen)

    def run(self, case: Case) -> None:
        """See `scripts.fuzz.Subject`."""
        _RUN[case.target](case, self)

    def check(self, case: Case) -> None:
        """Compare what was decoded with what the second decoder makes of it."""
        if case.target != "decode":
            return
        reader = StreamReader(io.BytesIO(case.data))
        tables = find_bundle(reader.header.bundle_id, case.bundle).tables
        found = [latent for part in reader.latents(tables) for latent in part]
        if len(found) * reader.header.frame_values > _COMPARED:
            return
        alphabets = [
            self.reference["Alphabet"](int(low), tables.channel(c).tolist())
            for c, low in enumerate(tables.minimum)
        ]
        expected = self.reference["decode"](case.data, alphabets)[1]
        if [latent.reshape(len(alphabets), -1).tolist() for latent in found] != expected:
            raise AssertionError("the second decoder finds other latents")

    def expected(self, target: str) -> tuple[type[Exception], ...]:
        """See `scripts.fuzz.Subject`."""
        return (AmbiError,)

    def claimed_pixels(self, case: Case) -> int:
        """Pixels of the frames in a stream's packets before any fault, within the limit of the case."""
        frames = 0
        if case.target == "decode":
            try:
                for packet in StreamReader(io.BytesIO(case.data)).packets():
                    frames += packet.frames
            except AmbiError:
                pass
        pixels = frames * FRAME_SIDE**2
        return pixels if pixels <= case.max_pixels else 0


# --- Mutations of streams with right checksums ------------------------------------------------------------


@dataclass
class Pieces:
    """A packet taken apart; both numbers as they are written, the length None for the payload's own."""

    frames: bytes
    length: bytes | None
    payload: bytes


@dataclass
class Parts:
    """A stream taken apart: six numbers as they are written, and the packets, the end's included."""

    bundle_id: bytes
    numbers: list[bytes]
    packets: list[Pieces]
    bundle: int
    tail: bytes = b""


def take_apart(seed: Seed) -> Parts:
    """Take a good stream apart."""
    reader = StreamReader(io.BytesIO(seed.data))
    header = reader.header
    frames = 0 if header.frames is None else header.frames + 1
    numbers = [varint(n) for n in (*header.frame_shape, *header.latent_shape, frames)]
    packets = [Pieces(varint(p.frames), None, p.payload) for p in reader.packets()]
    if header.frames is None:
        packets.append(Pieces(varint(0), None, b""))
    return Parts(bytes.fromhex(header.bundle_id), numbers, packets, seed.bundle)


def put_together(parts: Parts) -> bytes:
    """Write a stream with whatever the parts say and right checksums."""
    head = stream.MAGIC + bytes([stream.STREAM_VERSION]) + parts.bundle_id + b"".join(parts.numbers)
    out = [head, stream._crc(head)]
    for packet in parts.packets:
        length = varint(len(packet.payload)) if packet.length is None else packet.length
        head = packet.frames + length
        out += [head, stream._crc(head + packet.payload), packet.payload]
    return b"".join([*out, parts.tail])


def _number(rng: random.Random) -> bytes:
    """A number at an extreme, or one that no encoder writes."""
    kind = rng.random()
    if kind < 0.6:
        return varint(rng.choice(_NUMBERS))
    if kind < 0.8:
        return varint(rng.choice(_LARGEST))
    if kind < 0.9:
        return varint(rng.choice(_NUMBERS))[:-1] + b"\x80\0"
    return rng.choice((b"\x80" * 5, b"\xff" * 6, b"\x80\0", b"\xff\xff\xff\xff\xff\x01"))


def change_header(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    for at in rng.sample(range(6), rng.choice((1, 1, 2))):
        parts.numbers[at] = _number(rng)


def change_count(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    """Another number of frames, or none, with or without the packet that ends such a stream."""
    parts.numbers[5] = varint(rng.choice((0, 1, 2, 4, 6, 9, 11, 1 << 20)))
    if rng.random() < 0.5:
        parts.packets.append(Pieces(varint(0), None, b""))


def change_bundle(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    """The id of another bundle, which is the one at hand half of the time."""
    other = rng.randrange(len(corpus.bundles))
    parts.bundle_id = bytes.fromhex(corpus.bundles[other].id)
    if rng.random() < 0.8:
        parts.bundle = other
    if rng.random() < 0.7:
        parts.numbers[2:5] = [varint(n) for n in corpus.bundles[other].latent_shape]


def change_payload(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    if parts.packets:
        packet = rng.choice(parts.packets)
        packet.payload = damaged(rng, packet.payload, rng.choice(corpus.streams).data)[1]


def random_payload(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    for packet in parts.packets:
        value = rng.choice((0, 0xFF, None, None))
        count = rng.choice((0, 1, 4, 30, 300))
        packet.payload = rng.randbytes(count) if value is None else bytes([value]) * count


def change_packet(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    """Other numbers before a payload."""
    if parts.packets:
        packet = rng.choice(parts.packets)
        if rng.random() < 0.6:
            packet.frames = varint(rng.choice((1, 2, 3, 9))) if rng.random() < 0.5 else _number(rng)
        else:
            packet.length = _number(rng)


def change_packets(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    """Packets twice, away, in another order, from another stream, and more after the last."""
    choice = rng.randrange(5)
    if choice == 0 and parts.packets:
        parts.packets.append(rng.choice(parts.packets))
    elif choice == 1 and parts.packets:
        del parts.packets[rng.randrange(len(parts.packets))]
    elif choice == 2:
        rng.shuffle(parts.packets)
    elif choice == 3:
        others = take_apart(rng.choice(corpus.streams)).packets
        parts.packets[rng.randrange(len(parts.packets) + 1) :] = others
    else:
        parts.tail = rng.randbytes(rng.choice((1, 2, 40)))


def extreme_latents(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    """Right codes of latents anywhere in 32 bits: networks see what no encoder makes."""
    codec = corpus.codecs[parts.bundle]
    random_numbers = np.random.default_rng(rng.getrandbits(32))
    frames = rng.choice((1, 2, 5))
    latents = _latents(random_numbers, codec.bundle, frames, 40)
    if rng.random() < 0.5:
        latents[:] = rng.choice((_INT32.min, _INT32.max, _INT32.max - 1, 0))
    parts.numbers[5] = varint(frames + 1)
    payload = LatentCoder(codec.bundle.tables).encode(latents)
    parts.packets[:] = [Pieces(varint(frames), None, payload)]


def forged_excess(rng: random.Random, parts: Parts, corpus: FeatureCorpus) -> None:
    """Escapes with widths and digits that may be beyond 32 bits: section 5 of the format, by the letter."""
    bundle = corpus.bundles[parts.bundle]
    tables, (channels, height, width) = bundle.tables, bundle.latent_shape
    models, encoder = constriction.stream.model, constriction.stream.queue.RangeEncoder()
    frames = rng.choice((1, 2))
    allowed = rng.choice(
        ((31, 32, 33), (1, 16, 17, 18), (0, 33), (33, 34, 63), tuple(range(1, 34)))
    )
    for c in range(channels):
        length, count = int(tables.lengths[c]), frames * height * width
        symbols = [length if rng.random() < 0.2 else rng.randrange(length) for _ in range(count)]
        model = models.Categorical((tables.channel(c) - 1).astype(np.float64), perfect=False)
        encoder.encode(np.array(symbols, np.int32), model)
        widths = [rng.choice(allowed) for _ in range(symbols.count(length))]
        for d in widths:
            encoder.encode(d, models.Uniform(64))
        for first in (1, 17):
            for d in widths:
                if (digits := min(max(d - first, 0), 16)) > 0:
                    value = rng.choice((0, (1 << digits) - 1, rng.getrandbits(digits)))
                    encoder.encode(value, models.Uniform(1 << digits))
    payload = encoder.get_compressed().astype(">u4").tobytes()
    parts.numbers[5] = varint(frames + 1)
    parts.packets[:] = [Pieces(varint(frames), None, payload)]


STRUCTURED: tuple[Callable[[random.Random, Parts, FeatureCorpus], None], ...] = (
    change_header,
    change_count,
    change_bundle,
    change_payload,
    change_payload,
    random_payload,
    change_packet,
    change_packets,
    extreme_latents,
    forged_excess,
    forged_excess,
)


def stream_case(rng: random.Random, corpus: FeatureCorpus, target: str) -> Case:
    """A mutated stream."""
    seed, other = rng.choice(corpus.streams), rng.choice(corpus.streams)
    # Now and then with the limit that the command line has.
    limit = PIXELS if rng.random() < 0.95 else stream.MAX_PACKET_VALUES << 8
    if rng.random() < 0.35:
        mutation, data = damaged(rng, seed.data, other.data)
        return Case(target, mutation, data, corpus.bundles[seed.bundle], limit)
    change = rng.choice(STRUCTURED)
    parts = take_apart(seed)
    change(rng, parts, corpus)
    if rng.random() < 0.2:
        rng.choice(STRUCTURED)(rng, parts, corpus)
    bundle = corpus.bundles[parts.bundle]
    return Case(target, change.__name__, put_together(parts), bundle, limit)


# --- Mutations of bundles ---------------------------------------------------------------------------------


def bundle_sizes(rng: random.Random, data: bytes) -> bytes:
    """Other sizes of networks in the manifest, with the tensors as they were."""
    manifest, tensors = bundle_file.read_manifest(data), dict(sorted(load_tensors(data).items()))
    for _ in range(rng.choice((1, 1, 2))):
        part = manifest[rng.choice(("encoder", "decoder", "action"))]
        key = rng.choice(sorted(part))
        if isinstance(part[key], list):
            part[key] = [rng.choice(_SIZES) for _ in range(rng.choice((0, 1, 2, 8, 9)))]
        elif isinstance(part[key], str):
            part[key] = rng.choice(("features", "conv3", "conv2", "relu", "tanh", "", 1, [], None))
        else:
            part[key] = rng.choice(_SIZES)
    return save_tensors(tensors, {"ambi": json.dumps(manifest)})


def bundle_tables(rng: random.Random, data: bytes) -> bytes:
    """Other tables under fresh hashes: right ones, or such as just fail to be."""
    manifest = bundle_file.read_manifest(data)
    tensors = {name: tensor.copy() for name, tensor in sorted(load_tensors(data).items())}
    channels = len(tensors["prior/minimum"]) + rng.choice((0, 0, 0, 0, 1, -1))
    numbers = np.random.default_rng(rng.getrandbits(32))
    minimum = rng.choice((-5, 0, int(_INT32.min) + 3, int(_INT32.max)))
    tables = _tables(numbers, max(channels, 1), minimum, rng.choice((1, 9, MAX_LENGTH)))
    new = {name: tensor.copy() for name, tensor in tables.tensors().items()}
    frequencies, at = new["frequencies"], rng.randrange(len(new["frequencies"]))
    choice = rng.randrange(8)
    if choice == 0:
        # The sum stays; in 32 bits it would stay for the second as well.
        frequencies[at] -= TOTAL
        frequencies[-1] += TOTAL
    elif choice == 1:
        frequencies[at] = rng.choice((0, -1, TOTAL, int(_INT32.max), int(_INT32.min)))
    elif choice == 2:
        new["minimum"][0] = rng.choice((int(_INT32.max), int(_INT32.min)))
    elif choice == 3:
        new["lengths"][0] += rng.choice((1, -1, MAX_LENGTH, int(_INT32.max) - MAX_LENGTH))
    tensors |= {f"prior/{name}": tensor for name, tensor in new.items()}
    manifest["hashes"] = {name: bundle_file.hash_tensor(t) for name, t in tensors.items()}
    return save_tensors(tensors, {"ambi": json.dumps(manifest)})


BUNDLE_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    bundle_header,
    bundle_manifest,
    bundle_sizes,
    bundle_tables,
    bundle_tensors,
    bundle_tensors,
)


def bundle_case(rng: random.Random, corpus: FeatureCorpus, target: str) -> Case:
    """A mutated bundle."""
    data = rng.choice(corpus.dumped)
    kind = rng.random()
    if kind < 0.25:
        mutation, mutated = damaged(rng, data, rng.choice(corpus.dumped))
        return Case(target, mutation, mutated, None, 0)
    if kind < 0.35:
        # Where the header is, blindly: that is where parsers are.
        length = int.from_bytes(data[:8], "little")
        mutation, head = damaged(rng, data[: 8 + length], data)
        return Case(target, f"head_{mutation}", head + data[8 + length :], None, 0)
    change = rng.choice(BUNDLE_CHANGES)
    return Case(target, change.__name__, change(rng, data), None, 0)


# --- Running ----------------------------------------------------------------------------------------------


def _decode(case: Case, corpus: FeatureCorpus) -> None:
    # What `ambi decode` does between reading a file and writing another.
    header = StreamReader(io.BytesIO(case.data)).header
    bundle = find_bundle(header.bundle_id, case.bundle)
    codec = corpus.codecs[corpus.bundles.index(bundle)]
    frames = codec.decode(case.data, max_pixels=case.max_pixels)
    told = facts(case.data)
    if len(frames) != told["frames"]:
        raise AssertionError(f"{len(frames)} frames were decoded, {told['frames']} are told of")


def _info(case: Case, _: FeatureCorpus) -> None:
    told = facts_of(case.data, "x.ambic")
    json.dumps(told, indent=2).encode()
    "\n".join(lines_of(told)).encode()


def _bundle(case: Case, corpus: FeatureCorpus) -> None:
    bundle = parse_bundle(case.data)
    codec = FeatureCodec(bundle)
    data = codec.encode(corpus.frames)
    decoded = codec.decode(data)
    latents = codec.latents(codec.stacks(corpus.frames))
    if not np.array_equal(decoded, codec.reconstruct(latents)):
        raise AssertionError("the decoder differs from the encoder")
    if len(codec.action_logits(latents)) != len(corpus.frames):
        raise AssertionError("the agent does not act on each frame")


_RUN: dict[str, Callable[[Case, FeatureCorpus], None]] = {
    "decode": _decode,
    "info": _info,
    "bundle": _bundle,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the fuzzer of the feature codec; return 1 if anything was found."""
    assert __doc__ is not None
    options = arguments(__doc__.splitlines()[0], 66_000).parse_args(words)
    return run_all(FeatureCorpus, options)


if __name__ == "__main__":
    sys.exit(main())
