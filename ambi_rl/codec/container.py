"""The file format around the coded picture: header, sections and their checksums.

A file is the magic number, the header, the CRC-32 of both, and the sections. The header is the
concatenation of `HEADER_FIELDS`, most significant bit first. A section is one byte of type, a length
(base-128, least significant group first), the CRC-32 of type, length and payload, and the payload.
Everything a reader needs to refuse a file is known before anything is allocated for pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.quality import MAX_STEP, MIN_STEP
from ambi_rl.errors import (
    CorruptFileError,
    ImageTooLargeError,
    NotAmbiFileError,
    UnsupportedImageError,
    UnsupportedVersionError,
)

MAGIC = b"\x8dAMB"
FORMAT_VERSION = 2
MAX_SIDE = 16384
MAX_PIXELS = MAX_SIDE * MAX_SIDE
"""Default limit of a reader, in pixels: what the format can express."""
QUALITY_SCALE = 100
"""Quality is stored in hundredths."""


class Colour(IntEnum):
    """How the planes are to be understood."""

    GRAY = 0
    YCBCR = 1


class Restoration(IntEnum):
    """How much of the learned filter's output is added to the decoded planes."""

    OFF = 0
    HALF = 1
    FULL = 2

    @property
    def strength(self) -> float:
        """0, 0.5 or 1."""
        return self.value / 2


class Section(IntEnum):
    """What a section's payload is. A file has either PICTURE or TILES."""

    PICTURE = 1
    ALPHA = 2
    ICC = 3
    EXIF = 4
    XMP = 5
    TILES = 6


_KINDS = frozenset(int(section) for section in Section)


class Field(NamedTuple):
    """One header field: an unsigned integer of `bits` bits that stores the value minus `bias`."""

    name: str
    bits: int
    bias: int = 0


HEADER_FIELDS = (
    Field("version", 8),
    Field("sections", 8),
    Field("restoration", 2),
    Field("colour", 2),
    Field("orientation", 4),
    Field("width", 14, bias=1),
    Field("height", 14, bias=1),
    Field("quality", 14),
    Field("step", 22),
    Field("bundle_id", 64),
    Field("planes_crc", 32),
)
_HEADER_BYTES = sum(f.bits for f in HEADER_FIELDS) // 8
_CRC_BYTES = 4
_PREFIX_BYTES = len(MAGIC) + _HEADER_BYTES + _CRC_BYTES


@dataclass(frozen=True)
class Container:
    """What a file says.

    Attributes:
        width: In pixels, 1…16384.
        height: In pixels, 1…16384.
        colour: What the planes are.
        step: Quantizer step in 1/64 of an 8-bit code value.
        bundle_id: 16 hexadecimal digits.
        planes_crc: CRC-32 of the decoded planes (see `crc_of_planes`).
        sections: Payloads by type; either `Section.PICTURE` or `Section.TILES` is always there.
        quality: What the user asked for, 1…100 in hundredths; decoding does not depend on it.
        orientation: EXIF orientation 1…8, or 0 where the source did not say.
        restoration: How the decoded planes are filtered before they are shown.
    """

    width: int
    height: int
    colour: Colour
    step: int
    bundle_id: str
    planes_crc: int
    sections: Mapping[Section, bytes] = field(repr=False)
    quality: float = 75.0
    orientation: int = 0
    restoration: Restoration = Restoration.OFF

    @property
    def num_planes(self) -> int:
        """Number of planes in the picture section."""
        return 1 if self.colour is Colour.GRAY else 3


def crc_of_planes(planes: npt.NDArray[np.int16]) -> int:
    """CRC-32 of int16 [P, H, W], as little-endian bytes in C order."""
    return zlib.crc32(np.ascontiguousarray(planes, dtype="<i2").data)


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse sizes that the format or the caller does not allow.

    Raises:
        UnsupportedImageError: a side is zero.
        ImageTooLargeError: a side is over 16384, or the picture is over `max_pixels`.
    """
    if width < 1 or height < 1:
        raise UnsupportedImageError(f"the image is {width}x{height}; it needs at least one pixel")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLargeError(
            f"the image is {width}x{height}; the format ends at {MAX_SIDE} pixels a side: "
            "scale it down or cut it into tiles"
        )
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image is {width}x{height} = {width * height} pixels, over the limit of "
            f"{max_pixels}; raise max_pixels if you trust the file"
        )


def pack_fields(fields: Sequence[Field], values: Mapping[str, int]) -> bytes:
    """Fields one after the other, most significant bit first; together they are whole bytes.

    Raises:
        ValueError: A field is out of its range (a mistake of the caller's, not of a file).
    """
    packed = 0
    for f in fields:
        stored = values[f.name] - f.bias
        if not 0 <= stored < 1 << f.bits:
            raise ValueError(f"header field {f.name} cannot hold {values[f.name]}")
        packed = packed << f.bits | stored
    return packed.to_bytes(sum(f.bits for f in fields) // 8, "big")


def unpack_fields(fields: Sequence[Field], data: bytes) -> dict[str, int]:
    """The opposite of `pack_fields`."""
    packed = int.from_bytes(data, "big")
    values: dict[str, int] = {}
    for f in reversed(fields):
        values[f.name] = (packed & ((1 << f.bits) - 1)) + f.bias
        packed >>= f.bits
    return values


def varint(value: int) -> bytes:
    """An integer ≥ 0 in base 128, least significant group first, all bytes but the last with the high bit."""
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Read what `varint` writes, up to five bytes; return it and the position after it.

    Raises:
        CorruptFileError: The data ends, or there are more bytes.
    """
    value = shift = 0
    while True:
        if position >= len(data):
            raise truncated(len(data))
        group = data[position]
        position += 1
        value |= (group & 0x7F) << shift
        shift += 7
        if group < 0x80:
            return value, position
        if shift > 28:
            raise CorruptFileError("a length in the file is not a number; encode the file again")


def write_container(container: Container) -> bytes:
    """Serialise a container.

    Raises:
        UnsupportedImageError: the size is outside 1…16384.
        ValueError: a field is out of its range (a mistake of the caller's, not of a file).
    """
    check_size(container.width, container.height)
    values = {
        "version": FORMAT_VERSION,
        "sections": len(container.sections),
        "restoration": int(container.restoration),
        "colour": int(container.colour),
        "orientation": container.orientation,
        "width": container.width,
        "height": container.height,
        "quality": round(container.quality * QUALITY_SCALE),
        "step": container.step,
        "bundle_id": int(container.bundle_id, 16),
        "planes_crc": container.planes_crc,
    }
    out = bytearray(MAGIC + pack_fields(HEADER_FIELDS, values))
    out += zlib.crc32(out).to_bytes(_CRC_BYTES, "big")
    for section, payload in container.sections.items():
        head = bytes([section]) + varint(len(payload))
        out += head
        out += zlib.crc32(payload, zlib.crc32(head)).to_bytes(_CRC_BYTES, "big")
        out += payload
    return bytes(out)


def truncated(length: int) -> CorruptFileError:
    """The error of a file that ends too early, after `length` bytes."""
    return CorruptFileError(
        f"the file is truncated: it ends after {length} bytes; fetch or encode it again"
    )


def _read_header(data: bytes) -> dict[str, int]:
    """Validate everything before the sections and return the header's fields."""
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise NotAmbiFileError(
            "this is not an ambi file: it does not begin with the magic number; "
            "decode takes files written by `ambi encode`"
        )
    if len(data) > len(MAGIC) and data[len(MAGIC)] != FORMAT_VERSION:
        # Before the checksum: a newer version may have another header.
        raise UnsupportedVersionError(
            f"the file has format version {data[len(MAGIC)]}, this program reads version "
            f"{FORMAT_VERSION}; update ambi-rl"
        )
    if len(data) < _PREFIX_BYTES:
        raise truncated(len(data))
    crc_at = _PREFIX_BYTES - _CRC_BYTES
    if zlib.crc32(data[:crc_at]) != int.from_bytes(data[crc_at:_PREFIX_BYTES], "big"):
        raise CorruptFileError("the header fails its checksum; fetch or encode the file again")
    return unpack_fields(HEADER_FIELDS, data[len(MAGIC) : crc_at])


def _check_header(values: Mapping[str, int]) -> None:
    """Refuse values that no writer of this version produces (the checksum can be forged)."""
    quality_range = (QUALITY_SCALE, 100 * QUALITY_SCALE)
    for name, low, high in (
        ("restoration", min(Restoration), max(Restoration)),
        ("colour", min(Colour), max(Colour)),
        ("orientation", 0, 8),
        ("quality", *quality_range),
        ("step", MIN_STEP, MAX_STEP),
    ):
        if not low <= values[name] <= high:
            raise CorruptFileError(
                f"the header says {name} = {values[name]}, which no encoder writes; "
                "fetch or encode the file again"
            )


def _read_sections(data: bytes, count: int) -> dict[Section, bytes]:
    sections: dict[Section, bytes] = {}
    position = _PREFIX_BYTES
    for _ in range(count):
        start = position
        if position >= len(data):
            raise truncated(len(data))
        kind = data[position]
        length, position = read_varint(data, position + 1)
        body = position + _CRC_BYTES
        if body + length > len(data):
            raise truncated(len(data))
        crc = zlib.crc32(data[body : body + length], zlib.crc32(data[start:position]))
        if crc != int.from_bytes(data[position:body], "big"):
            raise CorruptFileError(
                f"the section at byte {start} fails its checksum; fetch or encode the file again"
            )
        if kind not in _KINDS or Section(kind) in sections:
            raise CorruptFileError(
                f"the section at byte {start} has an unknown or repeated type {kind}; "
                "encode the file again"
            )
        sections[Section(kind)] = data[body : body + length]
        position = body + length
    if position != len(data):
        raise CorruptFileError(
            f"{len(data) - position} bytes follow the last section; cut the file to {position} bytes"
        )
    if (Section.PICTURE in sections) == (Section.TILES in sections):
        raise CorruptFileError(
            "the file needs one section with the picture and has "
            f"{'two' if Section.PICTURE in sections else 'none'}; encode it again"
        )
    return sections


def read_container(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Container:
    """Parse and validate a file without decoding its picture.

    An adaptive arithmetic coder can code a huge flat picture in a few bytes, so a short file with a large
    size is legitimate: `max_pixels` is what protects a caller who does not trust the file, and the decoder
    stops as soon as it reads past the payload.

    Args:
        data: The whole file.
        max_pixels: The largest picture to accept, in pixels.

    Raises:
        NotAmbiFileError: the magic number is missing.
        UnsupportedVersionError: the format version is another one.
        CorruptFileError: truncated, a checksum fails, or a value is impossible.
        ImageTooLargeError: the picture is over `max_pixels`.
    """
    data = bytes(data)
    values = _read_header(data)
    _check_header(values)
    check_size(values["width"], values["height"], max_pixels)
    return Container(
        width=values["width"],
        height=values["height"],
        colour=Colour(values["colour"]),
        step=values["step"],
        bundle_id=f"{values['bundle_id']:016x}",
        planes_crc=values["planes_crc"],
        sections=_read_sections(data, values["sections"]),
        quality=values["quality"] / QUALITY_SCALE,
        orientation=values["orientation"],
        restoration=Restoration(values["restoration"]),
    )
