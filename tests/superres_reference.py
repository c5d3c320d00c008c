"""A second reader of super-resolved pictures, written after docs/superres-format.md alone."""

from __future__ import annotations

import zlib
from typing import Any

BASES = ("jpeg", "webp", "avif", "ambi")


def read(data: bytes) -> dict[str, Any]:
    """All that a file says, by the names of the specification; AssertionError if it is refused."""
    assert data[:4] == bytes.fromhex("8D 41 4D 53")
    assert data[4] == 1
    assert int.from_bytes(data[18:22], "big") == zlib.crc32(data[:18] + data[22:])
    flags, sizes = data[5], int.from_bytes(data[6:10], "big")
    told: dict[str, Any] = {
        "base": BASES[flags >> 5],
        "gray": bool(flags & 16),
        "orientation": sizes >> 28,
        "width": (sizes >> 14 & 0x3FFF) + 1,
        "height": (sizes & 0x3FFF) + 1,
        "bundle": data[10:18].hex(),
    }
    assert told["orientation"] <= 8
    position = 22
    for name, bit in (("alpha", 8), ("icc", 4), ("exif", 2), ("xmp", 1)):
        if not flags & bit:
            continue
        length = shift = 0
        while True:
            group = data[position]
            position += 1
            length |= (group & 127) << shift
            shift += 7
            if group < 128:
                break
        assert position + length <= len(data)
        told[name] = data[position : position + length]
        position += length
    told["base layer"] = data[position:]
    assert told["base layer"]
    return told
