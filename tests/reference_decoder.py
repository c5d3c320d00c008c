"""A second decoder, written from docs/format.md alone: plain, slow, and without a line of the codec.

Section numbers are those of docs/format.md. Nothing here is fast, and nothing is shared with `ambi_rl`:
where this and the codec agree, the specification says all there is to say.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors

Ints = npt.NDArray[np.int64]
Grid = list[list[int]]


class RefusedError(Exception):
    """The file is not one that an encoder of this version writes."""


def refuse_unless(condition: bool, reason: str) -> None:
    if not condition:
        raise RefusedError(reason)


def clamp(value: int, low: int, high: int) -> int:
    return low if value < low else (high if value > high else value)


# --- Appendix A: tables ------------------------------------------------------------------------------


def dct(size: int) -> Ints:
    rows = []
    for k in range(size):
        scale = 2048 * math.sqrt(2 / size) / (math.sqrt(2) if k == 0 else 1)
        rows.append(
            [round(scale * math.cos(math.pi * (2 * i + 1) * k / (2 * size))) for i in range(size)]
        )
    return np.array(rows, np.int64)


def dst(size: int) -> Ints:
    scale, period = 2048 * 2 / math.sqrt(2 * size + 1), 2 * size + 1
    return np.array(
        [
            [round(scale * math.sin(math.pi * (2 * k + 1) * (i + 1) / period)) for i in range(size)]
            for k in range(size)
        ],
        np.int64,
    )


def multiplier(offset: int) -> int:
    """The integer M with (2M − 1)⁶ ≤ 2^(102 + offset) < (2M + 1)⁶."""
    found = 0
    for bit in reversed(range(21)):
        if (2 * (found + (1 << bit)) - 1) ** 6 <= 1 << (102 + offset):
            found += 1 << bit
    return found


SQUASH = [clamp(round(65536 / (1 + math.exp(-(i - 2048) / 256))), 32, 65504) for i in range(4096)]
STRETCH = [clamp(round(256 * math.log((i + 0.5) / (4095.5 - i))), -2047, 2047) for i in range(4096)]
ADAPTATION = [round(65536 / (n + 1.6)) for n in range(1024)]
MULTIPLIERS = {offset: multiplier(offset) for offset in range(-24, 25)}
DCT = {size: dct(size) for size in (4, 8, 16, 32)}
DST = {size: dst(size) for size in (4, 8, 16)}
_SHARP_HALF = """
0 64 0 0, -1 64 1 0, -2 64 2 0, -2 62 4 0, -3 61 6 0, -4 61 8 -1, -4 59 10 -1, -4 57 12 -1, -4 56 14 -2,
-5 54 17 -2, -5 51 20 -2, -5 49 22 -2, -5 47 25 -3, -5 44 28 -3, -4 41 30 -3, -4 39 33 -4, -4 36 36 -4
"""
_HALF = [[int(tap) for tap in taps.split()] for taps in _SHARP_HALF.split(",")]
SHARP = [_HALF[p] if p <= 16 else _HALF[32 - p][::-1] for p in range(32)]
SMOOTH = [[16 - (p >> 1), 32 - (p >> 1), 16 + (p >> 1), p >> 1] for p in range(32)]

NEXT = [[0, 1], [3, 2], [5, 4], [6, 7], [1, 0], [2, 3], [4, 5], [7, 6]]
QUANTIZER = [0, 1, 0, 1, 0, 1, 0, 1]

# --- Appendix B: arrays of the entropy model -----------------------------------------------------------

COUNTER_ARRAYS = {
    "LEVEL_0": (2, 2, 4, 32, 8),
    "LEVEL_1": (2, 2, 4, 16, 8),
    "LEVEL_2": (2, 4, 4, 4, 4, 8),
    "LEVEL_3": (3, 8, 8, 4, 8),
    "LEVEL_4": (2, 6, 4, 4, 4, 8),
    "LEVEL_5": (2, 16, 16, 8),
    "LEVEL_6": (3, 1024, 8),
    "LEVEL_7": (2, 8, 8, 4, 8),
    "LEVEL_8": (2, 2, 4, 16, 8, 8),
    "LEVEL_9": (2, 8, 32, 8),
    "LEVEL_10": (2, 8, 32, 16),
    "SIGN_0": (2, 3, 3, 4, 16),
    "SIGN_1": (2, 3, 3, 4, 6),
    "SIGN_2": (2, 3, 3, 4, 16),
    "CODED_0": (3, 4, 8, 2),
    "CODED_1": (3, 4, 4, 16),
    "CODED_2": (3, 4, 16),
    "LAST_0": (2, 4, 16, 16),
    "LAST_1": (3, 4, 8, 16),
    "LAST_2": (2, 4, 6, 16),
    "LAST_BITS_0": (2, 4, 256),
    "LAST_BITS_1": (4, 256, 2),
    "GOLOMB": (2, 21),
    "SPLIT_0": (4, 16),
    "SPLIT_1": (4, 5, 5),
    "SPLIT_2": (4, 8, 8),
    "SPLIT_3": (4, 5, 5, 16),
    "STRATEGY_0": (4, 64),
    "STRATEGY_1": (65, 64),
    "STRATEGY_2": (65, 64),
    "STRATEGY_3": (9, 9, 9, 64),
    "STRATEGY_4": (65, 64),
    "OFFSET_0": (4, 8),
    "OFFSET_1": (9, 9, 8),
    "TRANSFORM_0": (4, 6, 4),
    "TRANSFORM_1": (4, 5, 5, 4),
    "TRANSFORM_2": (4, 16, 4),
    "CHROMA_0": (4, 4, 16),
    "CHROMA_1": (5, 5, 4),
    "CHROMA_2": (9, 4, 4),
    "REFINE": (518, 33),
}
MIXER_ARRAYS = {
    "MIX_LEVEL_0": (2, 2, 4, 8),
    "MIX_LEVEL_1": (2, 16, 8),
    "MIX_SIGN": (4,),
    "MIX_CODED": (3, 4),
    "MIX_LAST": (2, 4, 2),
    "MIX_LAST_BITS": (16,),
    "MIX_GOLOMB": (1,),
    "MIX_SPLIT": (4,),
    "MIX_STRATEGY_0": (4, 2),
    "MIX_STRATEGY_1": (64,),
    "MIX_OFFSET": (1,),
    "MIX_TRANSFORM": (4,),
    "MIX_CHROMA": (4,),
}
NETWORK_ARRAYS = {
    "LEFT": (4, 16),
    "ABOVE": (4, 16),
    "MODE": (4, 38),
    "PLANE": (3, 4, 4),
    "CELL": (2, 244),
    "STATE": (8, 4),
    "PAIR": (2, 8, 8),
    "LIKE_LEFT": (4, 20),
    "LIKE_ABOVE": (4, 20),
    "NEAR": (21, 12),
    "LUMA": (9, 12),
    "BLUE": (9, 12),
    "SAME": (2, 4, 12),
}
FIRSTS: dict[str, int] = {}
for _start, _arrays in ((0, COUNTER_ARRAYS), (0, MIXER_ARRAYS), (1, NETWORK_ARRAYS)):
    for _name, _dimensions in _arrays.items():
        FIRSTS[_name] = _start
        _start += math.prod(_dimensions)
DIMENSIONS = COUNTER_ARRAYS | MIXER_ARRAYS | NETWORK_ARRAYS


def entry(name: str, *indices: int) -> int:
    """Where NAME[…] lies among the counters, mixer rows or network rows."""
    flat = 0
    for index, dimension in zip(indices, DIMENSIONS[name], strict=True):
        assert 0 <= index < dimension, (name, indices)
        flat = flat * dimension + index
    return FIRSTS[name] + flat


# --- Section 3: the bundle -----------------------------------------------------------------------------


@dataclass
class Bundle:
    manifest: dict[str, Any]
    entropy: dict[str, npt.NDArray[Any]]
    restoration: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def id(self) -> str:
        keys = ("format_version", "offsets", "strategies", "superblock")
        facts = {key: self.manifest[key] for key in keys}
        digest = hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode("ascii"))
        tensors = self.entropy | {f"restoration/{k}": t for k, t in self.restoration.items()}
        for name in sorted(tensors):
            tensor = tensors[name]
            kind = {"int16": "<i2", "int32": "<i4", "float16": "<f2", "float32": "<f4"}[
                tensor.dtype.name
            ]
            shape = ", ".join(str(side) for side in tensor.shape)
            digest.update(f"\n{name} {kind} [{shape}]\n".encode("ascii"))
            digest.update(tensor.astype(kind).tobytes())
        return digest.hexdigest()[:16]

    def codes(self) -> list[int]:
        """Predictor codes of the strategies."""
        plain = {"planar": 0, "dc": 1}
        return [
            plain[name] if name in plain else int(name.removeprefix("angular_"))
            for name in self.manifest["strategies"]
        ]


def read_bundle(data: bytes) -> Bundle:
    length = int.from_bytes(data[:8], "little")
    manifest = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["ambi"])
    refuse_unless(manifest["format_version"] == 2, "the bundle's version")
    tensors = load_tensors(data)
    for name, tensor in tensors.items():
        found = hashlib.sha256(tensor.tobytes()).hexdigest()
        refuse_unless(found == manifest["hashes"][name], f"{name} is damaged")

    def group(prefix: str) -> dict[str, npt.NDArray[Any]]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    bundle = Bundle(manifest, group("entropy/"), group("restoration/"))
    check_restoration(bundle)
    return bundle


def golden_bundle() -> Bundle:
    """Appendix C."""
    strategies = ["planar", "dc", *(f"angular_{i}" for i in range(2, 35))]
    manifest = {
        "format_version": 2,
        "strategies": strategies,
        "offsets": [-4, -2, 0, 2, 4],
        "superblock": 32,
    }
    counters = np.full(176784, 1 << 29, np.int32)
    for row in range(518):
        for j in range(33):
            counters[entry("REFINE", row, j)] = SQUASH[min(128 * j, 4095)] << 14
    entropy: dict[str, npt.NDArray[Any]] = {
        "counters": counters,
        "mixers": np.full(7252, 16000, np.int32),
        "limits": np.array([255, 24], np.int32),
        "chroma_scale": np.array([64, 72], np.int32),
    }
    for name, shape, kind, span in (
        ("net_rows", (2, 1701, 64), np.int16, 61),
        ("net_bias", (2, 64), np.int32, 97),
        ("net_w1", (2, 64, 32), np.int16, 601),
        ("net_b1", (2, 32), np.int32, 90001),
        ("net_w2", (2, 32, 8), np.int16, 1201),
        ("net_b2", (2, 8), np.int32, 90001),
    ):
        index = np.arange(math.prod(shape), dtype=np.int64)
        values = index * 48271 % (2**31 - 1) % span - span // 2
        entropy[name] = values.reshape(shape).astype(kind)
    return Bundle(manifest, entropy)


# --- Section 2: the file -------------------------------------------------------------------------------

PICTURE, ALPHA, ICC, EXIF, XMP, TILES = 1, 2, 3, 4, 5, 6
_FIELDS = (
    ("version", 8),
    ("sections", 8),
    ("restoration", 2),
    ("colour", 2),
    ("orientation", 4),
    ("width", 14),
    ("height", 14),
    ("quality", 14),
    ("step", 22),
    ("bundle_id", 64),
    ("planes_crc", 32),
)


@dataclass
class File:
    header: dict[str, int]
    sections: dict[int, bytes]

    @property
    def bundle_id(self) -> str:
        return f"{self.header['bundle_id']:016x}"


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and where it ends."""
    value = 0
    for group in range(5):
        refuse_unless(at < len(data), "truncated")
        byte = data[at]
        at += 1
        value |= (byte & 127) << (7 * group)
        if byte < 128:
            return value, at
    raise RefusedError("a varint of more than five bytes")


def read_file(data: bytes) -> File:
    refuse_unless(data[:4] == b"\x8dAMB", "the magic number")
    refuse_unless(len(data) > 4 and data[4] == 2, "the version")
    refuse_unless(len(data) >= 31, "truncated")
    refuse_unless(zlib.crc32(data[:27]) == int.from_bytes(data[27:31], "big"), "header checksum")
    bits = int.from_bytes(data[4:27], "big")
    header = {}
    for name, count in reversed(_FIELDS):
        header[name] = bits & ((1 << count) - 1)
        bits >>= count
    header["width"] += 1
    header["height"] += 1
    for name, low, high in (
        ("restoration", 0, 2),
        ("colour", 0, 1),
        ("orientation", 0, 8),
        ("quality", 100, 10000),
        ("step", 32, 102400),
    ):
        refuse_unless(low <= header[name] <= high, name)
    return File(header, read_sections(data, header["sections"]))


def read_sections(data: bytes, count: int) -> dict[int, bytes]:
    sections: dict[int, bytes] = {}
    at = 31
    for _ in range(count):
        start = at
        refuse_unless(at < len(data), "truncated")
        kind = data[at]
        length, at = read_varint(data, at + 1)
        head, crc = data[start:at], data[at : at + 4]
        payload = data[at + 4 : at + 4 + length]
        at += 4 + length
        refuse_unless(at <= len(data), "truncated")
        refuse_unless(zlib.crc32(head + payload) == int.from_bytes(crc, "big"), "section checksum")
        refuse_unless(PICTURE <= kind <= TILES and kind not in sections, "section type")
        sections[kind] = payload
    refuse_unless(at == len(data), "bytes behind the last section")
    refuse_unless((PICTURE in sections) != (TILES in sections), "no picture, or two")
    return sections


# --- Section 6: arithmetic decoding --------------------------------------------------------------------

_MASK = (1 << 48) - 1


class BitReader:
    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.position = 0
        self.low, self.high, self.value = 0, _MASK, 0
        for _ in range(6):
            self.value = self.value << 8 | self.next_byte()

    def next_byte(self) -> int:
        refuse_unless(self.position <= len(self.payload) + 8, "the picture ends early")
        inside = self.position < len(self.payload)
        byte = self.payload[self.position] if inside else 0x55
        self.position += 1
        return byte

    def decode(self, chance: int) -> int:
        middle = self.low + ((self.high - self.low) >> 16) * chance
        bit = 1 if self.value <= middle else 0
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 40 == self.high >> 40:
            self.low = self.low << 8 & _MASK
            self.high = (self.high << 8 & _MASK) + 255
            self.value = (self.value << 8 & _MASK) + self.next_byte()
        return bit


# --- Section 7: probabilities --------------------------------------------------------------------------


class Model:
    """Counters and mixers of one picture or tile, and its bits."""

    def __init__(self, bundle: Bundle, payload: bytes) -> None:
        self.counters: list[int] = bundle.entropy["counters"].tolist()
        self.mixers: Grid = bundle.entropy["mixers"].reshape(518, 14).tolist()
        self.limit = int(bundle.entropy["limits"][0])
        self.bits = BitReader(payload)

    def raw(self) -> int:
        return self.bits.decode(32768)

    def decide(self, contexts: list[int], row0: int, row1: int, given: list[int]) -> int:
        counters, mixers = self.counters, self.mixers
        inputs = [STRETCH[counters[i] >> 18] for i in contexts] + given + [256]
        sum0 = sum(t * w for t, w in zip(inputs, mixers[row0], strict=False))
        sum1 = sum(t * w for t, w in zip(inputs, mixers[row1], strict=False))
        final = clamp(((sum0 + sum1) >> 17) + 2048, 0, 4095)
        node = entry("REFINE", row0, final >> 7)
        part = final & 127
        low, high = counters[node] >> 14, counters[node + 1] >> 14
        refined = (low * (128 - part) + high * part) >> 7
        chance = clamp((SQUASH[final] + refined) >> 1, 32, 65504)
        bit = self.bits.decode(chance)
        moved = []
        for row, total in ((row0, sum0), (row1, sum1)):
            error = (65536 * bit - SQUASH[clamp((total >> 16) + 2048, 0, 4095)]) * 10
            weights = mixers[row]
            moved.append(
                [
                    clamp(w + ((t * error + (1 << 19)) >> 20), -(1 << 22), 1 << 22)
                    for t, w in zip(inputs, weights, strict=False)
                ]
            )
        mixers[row0][: len(inputs)] = moved[0]
        mixers[row1][: len(inputs)] = moved[1]
        for i in [*contexts, node + (2 * part >= 128)]:
            p, n = counters[i] >> 10, counters[i] & 1023
            p = clamp(p + (((bit << 20) - p) * ADAPTATION[n] >> 16), 64, (1 << 20) - 64)
            counters[i] = p * 1024 + min(n + 1, self.limit)
        return bit


# --- Section 5: the picture ----------------------------------------------------------------------------


@dataclass
class Leaf:
    """A block and what has been decoded of it."""

    y: int
    x: int
    side: int
    strategy: int = 0
    code: int = 0
    offset: int = 0
    chroma: int = 0
    transform: int = 0
    coded: list[bool] = field(default_factory=list)
    energy: list[int] = field(default_factory=list)
    levels: list[Grid] = field(default_factory=list)
    magnitudes: list[Grid] = field(default_factory=list)

    @property
    def u(self) -> int:
        return self.y // 4

    @property
    def v(self) -> int:
        return self.x // 4

    @property
    def n(self) -> int:
        return self.side // 4

    @property
    def z(self) -> int:
        return self.side.bit_length() - 3


def look(grid: Grid, row: int, col: int) -> int:
    """An entry of a block's grid; 0 outside."""
    inside = 0 <= row < len(grid) and 0 <= col < len(grid)
    return grid[row][col] if inside else 0


def scan(side: int) -> list[tuple[int, int]]:
    cells = [(i, j) for i in range(side) for j in range(side)]
    return sorted(cells, key=lambda cell: (cell[0] + cell[1], cell[0]))


SCANS = {side: scan(side) for side in (4, 8, 16, 32)}
MAPS = ("STRATEGY", "SIZE", "OFFSET", "CHROMA", "TRANSFORM", "ENERGY0", "ENERGY1", "ENERGY2")


def step_class(step: int) -> int:
    k = 0
    while step >= 48 and k < 14:
        step >>= 1
        k += 2
    return min(k + (step >= 34), 15)


def direction_group(q: int) -> int:
    return 0 if q <= 1 or q > 34 else min(1 + (q - 2) // 7, 5)


def classed(value: int, limits: tuple[int, ...]) -> int:
    return sum(value >= limit for limit in limits)


_SUMS = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32, 40, 52, 64, 80, 104, 128)
_MAGNITUDES = (1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 23)
MAGNITUDE_CLASS = [classed(value, _MAGNITUDES) for value in range(256)]
FREQUENCY = [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7] + [8] * 8 + [9] * 8
NEAR = list(
    zip(
        (1, 2, 3, 0, 1, -1, 2, 3, -2, 0, 1, 2, -1, 3, 0, 1, 2, 3, 2, 1, 3),
        (-1, -2, -3, 1, 0, 2, -1, -2, 3, 2, 1, 0, 3, -1, 3, 2, 1, 0, 2, 3, 1),
        strict=True,
    )
)
ANGLES = [0, 0, 32, 26, 21, 17, 13, 9, 5, 2, 0, -2, -5, -9, -13, -17, -21, -26, -32]
ANGLES += ANGLES[17:1:-1]
INVERSES = {-2: 4096, -5: 1639, -9: 910, -13: 630, -17: 482, -21: 390, -26: 315, -32: 256}


class PictureDecoder:
    """Decodes the planes of one picture, or of one tile."""

    def __init__(
        self, payload: bytes, height: int, width: int, planes: int, step: int, bundle: Bundle
    ) -> None:
        self.height, self.width = -(-height // 4) * 4, -(-width // 4) * 4
        self.size = height, width
        self.step, self.k = step, step_class(step)
        self.model = Model(bundle, payload)
        self.codes = bundle.codes()
        self.offsets = [MULTIPLIERS[o] for o in bundle.manifest["offsets"]]
        self.chroma_scale = bundle.entropy["chroma_scale"].tolist()
        self.network = {k: t.astype(np.int32) for k, t in bundle.entropy.items() if "net" in k}
        shape = planes, self.height, self.width
        self.planes = np.zeros(shape, np.int64)
        self.magnitude = np.zeros(shape, np.int64)
        units = self.height // 4, self.width // 4
        self.maps = {name: np.zeros(units, np.int64) for name in MAPS}

    def decode(self) -> npt.NDArray[np.int16]:
        for y in range(0, self.height, 32):
            for x in range(0, self.width, 32):
                self.node(y, x, 32)
        return self.planes[:, : self.size[0], : self.size[1]].astype(np.int16)

    def map(self, name: str, u: int, v: int) -> int:
        grid = self.maps[name]
        inside = 0 <= u < grid.shape[0] and 0 <= v < grid.shape[1]
        return int(grid[u, v]) if inside else 0

    def node(self, y: int, x: int, side: int) -> None:
        if y >= self.height or x >= self.width:
            return
        if y + side > self.height or x + side > self.width:
            split = 1
        elif side == 4:
            split = 0
        else:
            split = self.split(Leaf(y, x, side))
        if not split:
            self.leaf(Leaf(y, x, side))
            return
        half = side // 2
        for dy, dx in ((0, 0), (0, half), (half, 0), (half, half)):
            self.node(y + dy, x + dx, half)

    def leaf(self, leaf: Leaf) -> None:
        leaf.strategy = self.strategy(leaf)
        leaf.code = self.codes[leaf.strategy]
        leaf.offset = self.offset(leaf)
        border = [Border(self, plane, leaf) for plane in range(len(self.planes))]
        self.plane(leaf, 0, leaf.code, predict(leaf.code, leaf.side, border[0]))
        if len(self.planes) == 3:
            leaf.chroma = self.chroma(leaf)
            mode = leaf.code if leaf.chroma == 0 else 34 + leaf.chroma
            for plane in (1, 2):
                if leaf.chroma == 1:
                    y, x, side = leaf.y, leaf.x, leaf.side
                    luma = self.planes[0, y : y + side, x : x + side]
                    prediction = predict_from_luma(luma, border[0], border[plane])
                else:
                    code = (leaf.code, -1, 0, 1)[leaf.chroma]
                    prediction = predict(code, leaf.side, border[plane])
                self.plane(leaf, plane, mode, prediction)
        self.note(leaf)

    def note(self, leaf: Leaf) -> None:
        here = slice(leaf.u, leaf.u + leaf.n), slice(leaf.v, leaf.v + leaf.n)
        self.maps["STRATEGY"][here] = leaf.strategy + 1
        self.maps["SIZE"][here] = leaf.z + 1
        self.maps["OFFSET"][here] = leaf.offset + 1
        self.maps["CHROMA"][here] = leaf.chroma + 1
        self.maps["TRANSFORM"][here] = leaf.transform + 1 if leaf.coded[0] else 0
        y, x, side = leaf.y, leaf.x, leaf.side
        for plane, energy in enumerate(leaf.energy):
            self.maps[f"ENERGY{plane}"][here] = energy
            self.magnitude[plane, y : y + side, x : x + side] = leaf.magnitudes[plane]

    # Section 8.

    def angle_group(self, strategy: int) -> int:
        if strategy == 0:
            return 0
        q = self.codes[strategy - 1]
        return q + 1 if q <= 1 else min(3 + (q + 1) // 6, 8)

    def split(self, leaf: Leaf) -> int:
        u, v, z, half = leaf.u, leaf.v, leaf.z, leaf.n // 2
        left, top = self.map("SIZE", u, v - 1), self.map("SIZE", u - 1, v)
        e, g = self.map("ENERGY0", u, v - 1), self.map("ENERGY0", u - 1, v)
        left2, top2 = self.map("SIZE", u + half, v - 1), self.map("SIZE", u - 1, v + half)
        contexts = [
            entry("SPLIT_0", z, self.k),
            entry("SPLIT_1", z, left, top),
            entry("SPLIT_2", z, e, g),
            entry("SPLIT_3", z, left2, top2, min(e + g, 15)),
        ]
        row = entry("MIX_SPLIT", z)
        return self.model.decide(contexts, row, row, [])

    def strategy(self, leaf: Leaf) -> int:
        u, v, z, n = leaf.u, leaf.v, leaf.z, leaf.n
        left = self.map("STRATEGY", u + n - 1, v - 1) or self.map("STRATEGY", u, v - 1)
        top = self.map("STRATEGY", u - 1, v + n - 1)
        corner = self.map("STRATEGY", u - 1, v + n) or self.map("STRATEGY", u - 1, v - 1)
        groups = [self.angle_group(s) for s in (left, top, corner)]
        node = 1
        for _ in range(6):
            contexts = [
                entry("STRATEGY_0", z, node),
                entry("STRATEGY_1", left, node),
                entry("STRATEGY_2", top, node),
                entry("STRATEGY_3", *groups, node),
                entry("STRATEGY_4", corner, node),
            ]
            row0 = entry("MIX_STRATEGY_0", z, int(left == top))
            node = 2 * node + self.model.decide(contexts, row0, entry("MIX_STRATEGY_1", node), [])
        refuse_unless(node - 64 < len(self.codes), "strategy")
        return node - 64

    def offset(self, leaf: Leaf) -> int:
        if len(self.offsets) == 1:
            return 0
        left = self.map("OFFSET", leaf.u, leaf.v - 1)
        top = self.map("OFFSET", leaf.u - 1, leaf.v)
        row = entry("MIX_OFFSET", 0)
        node = 1
        for _ in range(3):
            contexts = [entry("OFFSET_0", leaf.z, node), entry("OFFSET_1", left, top, node)]
            node = 2 * node + self.model.decide(contexts, row, row, [])
        refuse_unless(node - 8 < len(self.offsets), "offset")
        return node - 8

    def chroma(self, leaf: Leaf) -> int:
        left = self.map("CHROMA", leaf.u, leaf.v - 1)
        top = self.map("CHROMA", leaf.u - 1, leaf.v)
        group = self.angle_group(leaf.strategy + 1)
        row = entry("MIX_CHROMA", leaf.z)
        node = 1
        for _ in range(2):
            contexts = [
                entry("CHROMA_0", leaf.z, node, self.k),
                entry("CHROMA_1", left, top, node),
                entry("CHROMA_2", group, node, leaf.z),
            ]
            node = 2 * node + self.model.decide(contexts, row, row, [])
        return node - 4

    # Section 9.

    def plane(self, leaf: Leaf, plane: int, mode: int, prediction: Ints) -> None:
        side = leaf.side
        levels: Grid = [[0] * side for _ in range(side)]
        leaf.levels.append(levels)
        leaf.magnitudes.append([[0] * side for _ in range(side)])
        others = sum(coded << bit for bit, coded in enumerate(leaf.coded))
        energy = self.mean_energy(leaf, plane)
        coded = self.coded(leaf, plane, energy, others)
        residual: Ints | int = 0
        total = 0
        if coded:
            transform = 0
            if plane == 0 and side <= 16:
                transform = leaf.transform = self.transform(leaf, direction_group(mode))
            levels_decoder = LevelDecoder(self, leaf, plane, mode, energy, others)
            coefficients = levels_decoder.decode(self.spacing(plane, leaf.offset))
            total = sum(abs(level) for row in levels for level in row)
            residual = inverse(coefficients, transform)
        leaf.coded.append(coded)
        leaf.energy.append(energy_class(total, side))
        y, x = leaf.y, leaf.x
        self.planes[plane, y : y + side, x : x + side] = np.clip(prediction + residual, 0, 1023)

    def mean_energy(self, leaf: Leaf, plane: int) -> int:
        u, v, name = leaf.u, leaf.v, f"ENERGY{plane}"
        around: list[int] = []
        if v > 0:
            around += [self.map(name, u + j, v - 1) for j in range(leaf.n)]
        if u > 0:
            around += [self.map(name, u - 1, v + j) for j in range(leaf.n)]
        return (sum(around) + len(around) // 2) // len(around) if around else 0

    def coded(self, leaf: Leaf, plane: int, energy: int, others: int) -> bool:
        contexts = [
            entry("CODED_0", plane, leaf.z, energy, others & 1),
            entry("CODED_1", plane, others, leaf.z, energy),
            entry("CODED_2", plane, leaf.z, self.k),
        ]
        row = entry("MIX_CODED", plane, leaf.z)
        return self.model.decide(contexts, row, row, []) == 1

    def transform(self, leaf: Leaf, group: int) -> int:
        left = self.map("TRANSFORM", leaf.u, leaf.v - 1)
        top = self.map("TRANSFORM", leaf.u - 1, leaf.v)
        row = entry("MIX_TRANSFORM", leaf.z)
        node = 1
        for _ in range(2):
            contexts = [
                entry("TRANSFORM_0", leaf.z, group, node),
                entry("TRANSFORM_1", leaf.z, left, top, node),
                entry("TRANSFORM_2", leaf.z, self.k, node),
            ]
            node = 2 * node + self.model.decide(contexts, row, row, [])
        return node - 4

    def spacing(self, plane: int, offset: int) -> int:
        s = (self.step * self.offsets[offset] + 32768) // 65536
        if plane > 0:
            s = (s * self.chroma_scale[plane - 1] + 32) // 64
        return int(max((36 * s + 32) // 64, 1))


def energy_class(total: int, side: int) -> int:
    if total == 0:
        return 0
    return min(1 + (64 * total // (side * side)).bit_length(), 7)


class LevelDecoder:
    """The levels of one plane of a block: sections 9 and 10."""

    def __init__(
        self, picture: PictureDecoder, leaf: Leaf, plane: int, mode: int, energy: int, others: int
    ) -> None:
        self.picture, self.model, self.leaf = picture, picture.model, leaf
        self.plane, self.mode, self.energy, self.others = plane, mode, energy, others
        self.c = int(plane > 0)
        self.group = direction_group(mode)
        self.kind = 0 if mode <= 34 else mode - 34
        self.rows = self.block_rows()
        self.beside = [self.beside_block(leaf.n // 2, -1), self.beside_block(-1, leaf.n // 2)]

    def decode(self, spacing: int) -> Ints:
        """Coefficients, section 12."""
        leaf, plane = self.leaf, self.plane
        coefficients = np.zeros((leaf.side, leaf.side), np.int64)
        cells = SCANS[leaf.side]
        last = self.last()
        state = 0
        for position in range(last, -1, -1):
            i, j = cells[position]
            magnitude = self.magnitude(i, j, state, last - position)
            if magnitude:
                quantizer = QUANTIZER[state]
                negative = self.chroma_sign(i, j) if plane else self.model.raw()
                leaf.levels[plane][i][j] = -magnitude if negative else magnitude
                leaf.magnitudes[plane][i][j] = min(2 * magnitude - quantizer, 255)
                value = min((2 * magnitude - quantizer) * spacing, (1 << 19) - 1)
                coefficients[i, j] = -value if negative else value
            state = NEXT[state][magnitude & 1]
        return coefficients

    def last(self) -> int:
        leaf, c, k, model = self.leaf, self.c, self.picture.k, self.model
        row0, row1 = entry("MIX_LAST", c, leaf.z, 0), entry("MIX_LAST", c, leaf.z, 1)
        node = 1
        for _ in range(4):
            contexts = [
                entry("LAST_0", c, leaf.z, k, node),
                entry("LAST_1", self.plane, leaf.z, self.energy, node),
                entry("LAST_2", c, leaf.z, self.group, node),
            ]
            node = 2 * node + model.decide(contexts, row0, row1, [])
        length = node - 16
        row = entry("MIX_LAST_BITS", length)
        result = 1
        for j in range(length):
            depth = min(j, 2)
            tail = result & 1 if depth > 0 else 0
            where = (4 * length + depth) * 2 + tail
            contexts = [
                entry("LAST_BITS_0", c, leaf.z, where),
                entry("LAST_BITS_1", leaf.z, where, int(self.group >= 3)),
            ]
            result = 2 * result + model.decide(contexts, row, row, [])
        refuse_unless(result - 1 < leaf.side**2, "last position")
        return result - 1

    def magnitude(self, i: int, j: int, state: int, behind: int) -> int:
        q, c, z = QUANTIZER[state], self.c, self.leaf.z
        bases, near_class, diagonal = self.level_contexts(i, j, q, behind)
        logits = self.network_logits(i, j, state)
        b = 1 if behind == 0 else 0
        while b < 14:
            beta = b if b < 6 else (6 if b < 9 else 7)
            x = logits[beta]
            bucket = clamp((x + 1024) >> 6, 0, 31)
            contexts = [base + beta for base in bases]
            contexts.append(entry("LEVEL_9", c, beta, bucket, diagonal))
            contexts.append(entry("LEVEL_10", c, beta, bucket, self.picture.k))
            row0 = entry("MIX_LEVEL_0", q, c, z, beta)
            row1 = entry("MIX_LEVEL_1", c, near_class, beta)
            if not self.model.decide(contexts, row0, row1, [x]):
                return b
            b += 1
        prefix = 0
        row = entry("MIX_GOLOMB", 0)
        while prefix < 20 and self.model.decide([entry("GOLOMB", c, prefix)], row, row, []):
            prefix += 1
        rest = 0
        for _ in range(prefix):
            rest = 2 * rest + self.model.raw()
        return 13 + (1 << prefix) + rest

    def level_contexts(self, i: int, j: int, q: int, behind: int) -> tuple[list[int], int, int]:
        """Counters of bin class 0 for the inputs 0…8, nearC and diag."""
        leaf, c, z, plane, k = self.leaf, self.c, self.leaf.z, self.plane, self.picture.k
        own = leaf.levels[plane]

        def n(a: int, b: int) -> int:
            return abs(look(own, i + a, j + b))

        near = n(0, 1) + n(0, 2) + n(1, 0) + n(2, 0) + n(1, 1)
        wide = near + n(0, 3) + n(3, 0) + n(1, 2) + n(2, 1)
        near_class = near if near < 10 else min(10 + (near - 10) // 4, 15)
        wide_class = wide if wide < 8 else min(8 + (wide - 8) // 4, 15)
        few = min(near, 3)
        if z == 0 or i + j < 3:
            diagonal = min(i + j, 7)
        else:
            diagonal = min(3 + (i + j - 3) // (0, 2, 4, 6)[z], 7)
        place = (4 * i + j, min(i + j, 31), min(i + j, 31), (i + j) >> 1)[z]
        top = min(max(n(0, 1), n(1, 0), n(1, 1)), 7)
        if plane == 0:
            sixth = (min(behind, 15) * 16 + place // 2) * 4 + few
        else:
            luma = leaf.levels[0]
            same = min(abs(luma[i][j]), 3)
            around = min(abs(look(luma, i, j + 1)) + abs(look(luma, i + 1, j)), 3)
            blue = min(abs(leaf.levels[1][i][j]), 3) if plane == 2 else 0
            sixth = (((same * 4 + around) * 4 + blue) * 4 + few) * 4 + min(diagonal, 3)
        beyond = min(n(0, 2) + n(2, 0), 3)
        nearest = min(n(0, 1), 3), min(n(1, 0), 3), min(n(1, 1), 3), beyond
        bases = [
            entry("LEVEL_0", q, c, z, place, 0),
            entry("LEVEL_1", q, c, z, near_class, 0),
            entry("LEVEL_2", c, *nearest, 0),
            entry("LEVEL_3", plane, self.energy, diagonal, few, 0),
            entry(
                "LEVEL_4",
                c,
                self.group,
                z,
                (0, 1, 2, 2, 3)[min(i, 4)],
                (0, 1, 2, 2, 3)[min(j, 4)],
                0,
            ),
            entry("LEVEL_5", c, k, wide_class, 0),
            entry("LEVEL_6", plane, sixth, 0),
            entry("LEVEL_7", c, top, diagonal, z, 0),
            entry("LEVEL_8", q, c, z, near_class, diagonal, 0),
        ]
        return bases, near_class, diagonal

    def chroma_sign(self, i: int, j: int) -> int:
        leaf, plane = self.leaf, self.plane
        y = leaf.levels[0][i][j]
        b = leaf.levels[1][i][j] if plane == 2 else 0
        signs = [0 if level == 0 else (1 if level > 0 else 2) for level in (y, b)]
        cell = min(i, 3) * 4 + min(j, 3)
        sizes = min(abs(y), 3) * 4 + min(abs(b), 3)
        contexts = [
            entry("SIGN_0", plane - 1, *signs, self.kind, cell),
            entry("SIGN_1", plane - 1, *signs, leaf.z, self.group),
            entry("SIGN_2", plane - 1, *signs, self.kind, sizes),
        ]
        row = entry("MIX_SIGN", self.kind)
        return self.model.decide(contexts, row, row, [])

    # Section 10.

    def block_rows(self) -> list[int]:
        leaf, picture, plane = self.leaf, self.picture, self.plane
        u, v, n, z, name = leaf.u, leaf.v, leaf.n, leaf.z, f"ENERGY{plane}"
        left = 2 * sum(picture.map(name, u + h, v - 1) for h in range(n)) // n
        top = 2 * sum(picture.map(name, u - 1, v + h) for h in range(n)) // n
        return [
            entry("LEFT", z, left),
            entry("ABOVE", z, top),
            entry("MODE", z, self.mode),
            entry("PLANE", plane, self.others, z),
        ]

    def beside_block(self, du: int, dv: int) -> tuple[int, int, int] | None:
        """Side, top row and left column of the block that holds a unit beside this one."""
        u, v = self.leaf.u + du, self.leaf.v + dv
        if u < 0 or v < 0:
            return None
        side = 2 << self.picture.map("SIZE", u, v)
        return side, 4 * u // side * side, 4 * v // side * side

    def like(self, block: tuple[int, int, int] | None, i: int, j: int) -> int:
        if block is None:
            return 0
        side, y, x = block
        row, col = i * side // self.leaf.side, j * side // self.leaf.side
        magnitude = self.picture.magnitude[self.plane]
        total = 2 * int(magnitude[y + row, x + col])
        if row + 1 < side:
            total += int(magnitude[y + row + 1, x + col])
        if col + 1 < side:
            total += int(magnitude[y + row, x + col + 1])
        return classed(total, _SUMS)

    def level_rows(self, i: int, j: int, state: int) -> Iterator[int]:
        leaf, plane, z, q = self.leaf, self.plane, self.leaf.z, QUANTIZER[state]
        own = leaf.magnitudes[plane]
        if z < 2:
            cell = 4 * i + j if z == 0 else 16 + 8 * i + j
        else:
            cell = (80, 144)[z - 2] + (8, 10)[z - 2] * FREQUENCY[i] + FREQUENCY[j]
        yield entry("CELL", q, cell)
        yield entry("STATE", state, z)
        yield entry("PAIR", q, min(look(own, i, j + 1), 7), min(look(own, i + 1, j), 7))
        yield entry("LIKE_LEFT", z, self.like(self.beside[0], i, j))
        yield entry("LIKE_ABOVE", z, self.like(self.beside[1], i, j))
        for h, (a, b) in enumerate(NEAR):
            yield entry("NEAR", h, MAGNITUDE_CLASS[look(own, i + a, j + b)])
        for other, name in ((0, "LUMA"), (1, "BLUE")):
            if other < plane:
                grid = leaf.magnitudes[other]
                for a in range(3):
                    for b in range(3):
                        near = look(grid, i + a - 1, j + b - 1)
                        yield entry(name, 3 * a + b, MAGNITUDE_CLASS[near])
        if plane > 0:
            same = MAGNITUDE_CLASS[leaf.magnitudes[0][i][j]]
            yield entry("SAME", plane - 1, self.kind, same)

    def network_logits(self, i: int, j: int, state: int) -> list[int]:
        net, c = self.picture.network, self.c
        rows = [*self.rows, *self.level_rows(i, j, state)]
        first = net["net_bias"][c] + net["net_rows"][c][rows].sum(axis=0, dtype=np.int32)
        hidden = np.clip(first, 0, 1023)
        second = net["net_b1"][c] + hidden @ net["net_w1"][c]
        hidden = np.clip(second >> 12, 0, 1023)
        third = net["net_b2"][c] + hidden @ net["net_w2"][c] + 2048
        logits: list[int] = np.clip(third >> 12, -2047, 2047).tolist()
        return logits


# --- Section 11: prediction ----------------------------------------------------------------------------


class Border:
    """The samples around a block in one plane."""

    def __init__(self, picture: PictureDecoder, plane: int, leaf: Leaf) -> None:
        y, x, u, v = leaf.y, leaf.x, leaf.u, leaf.v
        samples = picture.planes[plane]
        decoded = picture.maps["STRATEGY"]

        def available(u: int, v: int, du: int, dv: int) -> int:
            count = 0
            while count < leaf.side // 2 and picture.map("STRATEGY", u, v) > 0:
                count, u, v = count + 1, u + du, v + dv
            return 4 * count

        assert decoded[u, v] == 0
        tops = available(u - 1, v, 0, 1)
        lefts = available(u, v - 1, 1, 0)
        top = samples[y - 1, x : x + tops].tolist() if tops else []
        left = samples[y : y + lefts, x - 1].tolist() if lefts else []
        if top and left:
            self.corner = int(samples[y - 1, x - 1])
        else:
            self.corner = int((top or left or [512])[0])
        length = 2 * leaf.side + 3
        self.top = self.extended(top, length)
        self.left = self.extended(left, length)

    def extended(self, line: list[int], length: int) -> list[int]:
        return line + [line[-1] if line else self.corner] * (length - len(line))


def predict(code: int, side: int, border: Border) -> Ints:
    if code == 0:
        out = predict_planar(side, border)
    elif code == 1:
        total = side + sum(border.top[:side]) + sum(border.left[:side])
        out = np.full((side, side), total // (2 * side), np.int64)
    else:
        out = predict_angular(code, side, border)
    if code in (0, 1, 10, 26):
        blend(out, code, side, border)
    return out


def predict_planar(s: int, border: Border) -> Ints:
    top, left = border.top, border.left
    shift = s.bit_length()
    out = np.zeros((s, s), np.int64)
    for i in range(s):
        for j in range(s):
            across = (s - 1 - j) * left[i] + (j + 1) * top[s]
            down = (s - 1 - i) * top[j] + (i + 1) * left[s]
            out[i, j] = (across + down + s) >> shift
    return out


def predict_angular(code: int, s: int, border: Border) -> Ints:
    vertical = code >= 18
    main, other = (border.top, border.left) if vertical else (border.left, border.top)
    angle = ANGLES[code]
    line = {0: border.corner} | {i + 1: sample for i, sample in enumerate(main)}
    if angle < 0:
        for i in range((s * angle) >> 5, 0):
            o = min((-i * INVERSES[angle] + 128) >> 8, s)
            line[i] = border.corner if o == 0 else other[o - 1]
    away = min(abs(code - 10), abs(code - 26))
    smooth = (s >= 16 and away > 0) or (s == 8 and away >= 8)
    out = np.zeros((s, s), np.int64)
    for i in range(s):
        t = (i + 1) * angle
        taps = (SMOOTH if smooth else SHARP)[t & 31]
        for j in range(s):
            b = (t >> 5) + j
            total = sum(tap * line[b + k] for k, tap in enumerate(taps))
            out[i, j] = clamp((total + 32) >> 6, 0, 1023)
    return out if vertical else out.T.copy()


def blend(out: Ints, code: int, side: int, border: Border) -> None:
    d = {4: 0, 8: 1, 16: 1, 32: 2}[side]
    weights = [32 >> ((2 * i) >> d) for i in range(side)]
    top, left, corner = border.top, border.left, border.corner
    for i in range(side):
        for j in range(side):
            p = int(out[i, j])
            if code == 10:
                p += ((top[j] - corner) * weights[i] + 32) >> 6
            elif code == 26:
                p += ((left[i] - corner) * weights[j] + 32) >> 6
            else:
                rest = 64 - weights[i] - weights[j]
                p = (left[i] * weights[j] + top[j] * weights[i] + rest * p + 32) >> 6
            out[i, j] = clamp(p, 0, 1023)


def predict_from_luma(luma: Ints, border: Border, own: Border) -> Ints:
    s = len(luma)
    a = border.top[:s] + border.left[:s]
    b = own.top[:s] + own.left[:s]
    n = 2 * s
    numerator = n * sum(p * q for p, q in zip(a, b, strict=True)) - sum(a) * sum(b)
    denominator = n * sum(p * p for p in a) - sum(a) ** 2 + 64 * n * n
    slope = clamp(256 * numerator // denominator, -1024, 1023)
    line = sum(b) // n + ((slope * (luma - sum(a) // n) + 128) >> 8)
    return np.clip(line, 0, 1023)


# --- Section 12: transforms ----------------------------------------------------------------------------


def inverse(coefficients: Ints, transform: int) -> Ints:
    side = len(coefficients)
    down = (DST if transform in (1, 2) else DCT)[side]
    across = (DST if transform in (1, 3) else DCT)[side]

    def wrapped(sums: Ints) -> Ints:
        return sums.astype(np.int32).astype(np.int64)

    half = wrapped(coefficients @ across + (1 << 10)) >> 11
    half = np.clip(half, -(1 << 17) + 1, (1 << 17) - 1)
    return wrapped(down.T @ half + (1 << 14)) >> 15


# --- Sections 2 and 4: tiles and planes ----------------------------------------------------------------


def decode_tiles(payload: bytes, header: dict[str, int], planes: int, bundle: Bundle) -> Any:
    height, width = header["height"], header["width"]
    across, at = read_varint(payload, 0)
    down, at = read_varint(payload, at)
    refuse_unless(across >= 8 and down >= 8, "small tiles")
    corners = [(y, x) for y in range(0, height, 32 * down) for x in range(0, width, 32 * across)]
    refuse_unless(len(corners) >= 2, "a single tile")
    lengths = []
    for _ in corners:
        length, at = read_varint(payload, at)
        lengths.append(length)
    refuse_unless(at + sum(lengths) == len(payload), "the tiles' lengths")
    out = np.zeros((planes, height, width), np.int16)
    for (y, x), length in zip(corners, lengths, strict=True):
        size = min(32 * down, height - y), min(32 * across, width - x)
        part = payload[at : at + length]
        at += length
        tile = PictureDecoder(part, *size, planes, header["step"], bundle).decode()
        out[:, y : y + size[0], x : x + size[1]] = tile
    return out


def decode_planes(file: File, bundle: Bundle) -> npt.NDArray[np.int16]:
    """Planes before restoration, checked."""
    header = file.header
    refuse_unless(bundle.id() == file.bundle_id, "another bundle")
    planes = 3 if header["colour"] else 1
    if TILES in file.sections:
        out = decode_tiles(file.sections[TILES], header, planes, bundle)
    else:
        size = header["height"], header["width"]
        payload = file.sections[PICTURE]
        out = PictureDecoder(payload, *size, planes, header["step"], bundle).decode()
    refuse_unless(zlib.crc32(out.astype("<i2").tobytes()) == header["planes_crc"], "planes CRC")
    return np.asarray(out, np.int16)


def to_samples(planes: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Gray [H, W] or RGB [H, W, 3]."""
    y = planes[0].astype(np.int64)
    if len(planes) == 1:
        return np.clip((y + 2) >> 2, 0, 255).astype(np.uint8)
    cb, cr = planes[1].astype(np.int64) - 512, planes[2].astype(np.int64) - 512
    red = (65536 * y + 91881 * cr + 131072) >> 18
    green = (65536 * y - 22553 * cb - 46802 * cr + 131072) >> 18
    blue = (65536 * y + 116130 * cb + 131072) >> 18
    return np.clip(np.stack([red, green, blue], axis=-1), 0, 255).astype(np.uint8)


# --- Section 13: alpha ---------------------------------------------------------------------------------


def decode_alpha(payload: bytes, height: int, width: int) -> npt.NDArray[np.uint8]:
    refuse_unless(payload[:1] in (b"\0", b"\1"), "kind of alpha")
    if payload[0] == 0:
        refuse_unless(len(payload) == 2, "length of a constant alpha")
        return np.full((height, width), payload[1], np.uint8)
    stream = zlib.decompressobj()
    data = stream.decompress(payload[1:])
    refuse_unless(stream.eof and not stream.unused_data, "end of the alpha stream")
    refuse_unless(len(data) == height * (1 + width), "length of alpha")
    above = [0] * width
    rows = []
    for start in range(0, len(data), 1 + width):
        kind, row = data[start], list(data[start + 1 : start + 1 + width])
        refuse_unless(kind <= 2, "filter of alpha")
        if kind == 1:
            for j in range(1, width):
                row[j] = (row[j] + row[j - 1]) % 256
        elif kind == 2:
            row = [(a + b) % 256 for a, b in zip(row, above, strict=True)]
        rows.append(row)
        above = row
    return np.array(rows, np.uint8)


# --- Section 14: restoration ---------------------------------------------------------------------------

Floats = npt.NDArray[np.float64]


def largest_exponent(linear: float, square: float) -> float:
    """The largest linear·x + square·x² for -2 <= x <= 2."""
    candidates = [-2.0, 2.0]
    if square and abs(linear) <= 4 * abs(square):
        candidates.append(-linear / (2 * square))
    return max(linear * x + square * x * x for x in candidates)


def check_restoration(bundle: Bundle) -> None:
    """Refuse a network whose activations could pass 10**30."""
    bound = 128.0
    for k in range(len(bundle.restoration) // 3):
        weights, gain, bias = (
            bundle.restoration[f"{name}{k}"].astype(np.float64) for name in ("w", "gain", "bias")
        )
        exponents = np.array([largest_exponent(*row) for row in gain.tolist()])
        with np.errstate(over="ignore", invalid="ignore"):
            factor = np.max(np.exp(exponents) * np.abs(weights).sum(axis=(1, 2, 3)))
            rise = factor * max(bound, 1) + np.max(np.abs(bias) @ [1, 2, 4])
        bound = rise if k == 0 else bound + rise
        refuse_unless(bool(bound < 1e30), "the restoration could overflow")


def convolve(seen: Floats, weights: Floats, bias: Floats) -> Floats:
    """A convolution of [I, H + 2, W + 2] to [O, H, W]."""
    height, width = seen.shape[1] - 2, seen.shape[2] - 2
    out = np.zeros((len(weights), height, width)) + bias[:, None, None]
    for a in range(3):
        for b in range(3):
            out += np.tensordot(weights[:, :, a, b], seen[:, a : a + height, b : b + width], 1)
    return out


def restore(
    planes: npt.NDArray[np.int16], step: int, half: int, bundle: Bundle
) -> npt.NDArray[np.int16]:
    refuse_unless(bool(bundle.restoration), "the bundle has no restoration")
    tensors = {name: t.astype(np.float64) for name, t in bundle.restoration.items()}
    count = len(tensors) // 3
    delta = step / 64
    x = (math.log2(min(max(delta, 1), 256)) - 4) / 2

    def layer(k: int, seen: Floats) -> Floats:
        gain = np.exp(tensors[f"gain{k}"] @ [x, x * x])
        bias = tensors[f"bias{k}"] @ [1, x, x * x]
        return convolve(seen, tensors[f"w{k}"] * gain[:, None, None, None], bias)

    def zeros(h: Floats) -> Floats:
        return np.pad(h, ((0, 0), (1, 1), (1, 1)))

    side = math.isqrt(tensors["w0"].shape[1] // 3)
    full = np.full((3, *planes.shape[1:]), 512.0)
    full[: len(planes)] = planes
    scaled = (full - 512) / (4 * delta)
    rows, columns = (-(-size // side) for size in planes.shape[1:])
    # One more cell all around, filled with the nearest samples like the rest of the last cells.
    pad = [
        (side, (cells + 1) * side - size)
        for cells, size in zip((rows, columns), planes.shape[1:], strict=True)
    ]
    wide = np.pad(scaled, ((0, 0), *pad), "edge")
    parts = wide.reshape(3, rows + 2, side, columns + 2, side).transpose(0, 2, 4, 1, 3)
    h = layer(0, parts.reshape(-1, rows + 2, columns + 2))
    for k in range(1, count - 1, 2):
        h = h + layer(k + 1, zeros(np.maximum(0, layer(k, zeros(h)))))
    result = layer(count - 1, zeros(np.maximum(0, h)))
    cells = result.reshape(3, side, side, rows, columns).transpose(0, 3, 1, 4, 2)
    back = cells.reshape(3, rows * side, columns * side)[
        : len(planes), : planes.shape[1], : planes.shape[2]
    ]
    return np.clip(np.rint(planes + half / 2 * 4 * delta * back), 0, 1023).astype(np.int16)


def decode(data: bytes, bundle: Bundle) -> npt.NDArray[np.uint8]:
    """A file's 8-bit samples: gray, gray and alpha, RGB or RGB and alpha, the channels last."""
    file = read_file(data)
    header = file.header
    planes = decode_planes(file, bundle)
    if header["restoration"]:
        planes = restore(planes, header["step"], header["restoration"], bundle)
    samples = to_samples(planes)
    if ALPHA in file.sections:
        alpha = decode_alpha(file.sections[ALPHA], header["height"], header["width"])
        samples = np.dstack([samples, alpha])
    return samples
