"""A second decoder of feature streams, in plain Python from docs/feature-format.md: no library, no numpy."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

WORD, STATE = 1 << 32, 1 << 64


@dataclass
class Alphabet:
    """A channel's lowest value and frequencies, the escape's last."""

    minimum: int
    frequencies: list[int]


class Bytes:
    """Section 2: numbers of a file, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, count: int) -> bytes:
        part = self.data[self.position : self.position + count]
        assert len(part) == count, "truncated"
        self.position += count
        return part

    def varint(self) -> int:
        value = shift = 0
        while True:
            (group,) = self.take(1)
            value |= (group & 0x7F) << shift
            shift += 7
            if group < 0x80:
                return value


class RangeDecoder:
    """Section 4."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.read = payload, 0
        self.low, self.size = 0, STATE - 1
        self.point = self.word() * WORD + self.word()

    def word(self) -> int:
        self.read += 4
        return int.from_bytes(self.payload[self.read - 4 : self.read].ljust(4, b"\0"), "big")

    def symbol(self, frequencies: list[int]) -> int:
        scale = self.size >> 24
        quantile = ((self.point - self.low) % STATE) // scale
        assert quantile < 1 << 24, "no symbol"
        begin = index = 0
        while begin + frequencies[index] <= quantile:
            begin += frequencies[index]
            index += 1
        self.low = (self.low + scale * begin) % STATE
        self.size = scale * frequencies[index]
        if self.size < WORD:
            self.low = self.low * WORD % STATE
            self.size *= WORD
            self.point = (self.point * WORD + self.word()) % STATE
        return index

    def digits(self, count: int) -> int:
        return self.symbol([(1 << 24) >> count] * (1 << count))


def decode_channel(decoder: RangeDecoder, alphabet: Alphabet, count: int) -> list[int]:
    """Section 5: the values of a channel in a packet."""
    escape = len(alphabet.frequencies) - 1
    symbols = [decoder.symbol(alphabet.frequencies) for _ in range(count)]
    widths = [decoder.digits(6) for symbol in symbols if symbol == escape]
    assert all(1 <= width <= 33 for width in widths)
    numbers = [1 << (width - 1) for width in widths]
    for shift in (0, 16):
        for index, width in enumerate(widths):
            digits = min(max(width - 1 - shift, 0), 16)
            if digits:
                numbers[index] += decoder.digits(digits) << shift
    excesses = iter(number - 1 for number in numbers)
    values = []
    for symbol in symbols:
        if symbol == escape:
            excess = next(excesses)
            symbol = escape + excess // 2 if excess % 2 == 0 else -(excess + 1) // 2
        values.append(alphabet.minimum + symbol)
    return values


def decode(data: bytes, alphabets: list[Alphabet]) -> tuple[dict[str, Any], list[list[list[int]]]]:
    """The header, and for each frame and channel its values in rows."""
    file = Bytes(data)
    assert file.take(4) == b"\x8dAMF"
    assert file.take(1) == b"\1"
    header: dict[str, Any] = {"bundle_id": file.take(8).hex()}
    names = ("rows", "columns", "channels", "height", "width", "frames")
    header |= {name: file.varint() for name in names}
    assert int.from_bytes(file.take(4), "big") == zlib.crc32(data[: file.position - 4])
    frames: list[list[list[int]]] = []
    while header["frames"] == 0 or len(frames) < header["frames"] - 1:
        start = file.position
        count, length = file.varint(), file.varint()
        head = data[start : file.position]
        crc, payload = int.from_bytes(file.take(4), "big"), file.take(length)
        assert crc == zlib.crc32(head + payload)
        if count == 0:
            break
        decoder, size = RangeDecoder(payload), header["height"] * header["width"]
        channels = [decode_channel(decoder, a, count * size) for a in alphabets]
        frames += [
            [values[frame * size : (frame + 1) * size] for values in channels]
            for frame in range(count)
        ]
    assert file.position == len(data)
    return header, frames
