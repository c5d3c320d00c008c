"""The file of a super-resolved picture: header, alpha, metadata and the base layer.

`docs/superres-format.md` is the specification. A file is the magic number, `HEADER_FIELDS` most significant
bit first, the CRC-32 of all other bytes, and the payloads: those of `CHUNKS` that the header announces, each
after its length, and the base layer, which takes the rest.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ambi_rl.codec.container import (
    MAX_PIXELS,
    Field,
    check_size,
    pack_fields,
    read_varint,
    truncated,
    unpack_fields,
    varint,
)
from ambi_rl.codec.image_io import Metadata
from ambi_rl.errors import CorruptFileError, NotAmbiFileError, UnsupportedVersionError
from ambi_rl.superres.base_layer import BASES

MAGIC = b"\x8dAMS"
STREAM_VERSION = 1
CHUNKS = ("alpha", "icc", "exif", "xmp")
"""Payloads before the base layer, in their order."""
HEADER_FIELDS = (
    Field("version", 8),
    Field("base", 3),
    Field("gray", 1),
    *(Field(name, 1) for name in CHUNKS),
    Field("orientation", 4),
    Field("width", 14, bias=1),
    Field("height", 14, bias=1),
    Field("bundle_id", 64),
)
_CRC_BYTES = 4
_CRC_AT = len(MAGIC) + sum(f.bits for f in HEADER_FIELDS) // 8
HEADER_BYTES = _CRC_AT + _CRC_BYTES


@dataclass(frozen=True)
class Stream:
    """What a file says.

    Attributes:
        width: Of the picture, not of the base layer; in pixels, 1…16384.
        height: Likewise.
        base: Format of the base layer, one of `BASES`.
        gray: Whether the picture is gray.
        bundle_id: 16 hexadecimal digits.
        base_layer: The shrunk picture, a file of the format `base`.
        alpha: What `ambi_rl.codec.alpha` made of the alpha plane; None if there is none.
        metadata: ICC profile, EXIF, XMP and orientation.
    """

    width: int
    height: int
    base: str
    gray: bool
    bundle_id: str
    base_layer: bytes = field(repr=False)
    alpha: bytes | None = field(default=None, repr=False)
    metadata: Metadata = field(default=Metadata(), repr=False)

    def chunks(self) -> dict[str, bytes]:
        """The payloads before the base layer that there are, by their names of `CHUNKS`."""
        found = {
            "alpha": self.alpha,
            "icc": self.metadata.icc,
            "exif": self.metadata.exif,
            "xmp": self.metadata.xmp,
        }
        return {name: payload for name in CHUNKS if (payload := found[name]) is not None}


def is_stream(data: bytes) -> bool:
    """Whether a file that begins so is one of these."""
    return data.startswith(MAGIC)


def _crc(head: bytes, payloads: bytes) -> bytes:
    return zlib.crc32(payloads, zlib.crc32(head)).to_bytes(_CRC_BYTES, "big")


def write_stream(stream: Stream) -> bytes:
    """Serialise a file.

    Raises:
        UnsupportedImageError: The size is outside 1…16384.
        ValueError: Another value is out of its range (a mistake of the caller's).
    """
    check_size(stream.width, stream.height)
    chunks = stream.chunks()
    values = {
        "version": STREAM_VERSION,
        "base": BASES.index(stream.base),
        "gray": int(stream.gray),
        **{name: int(name in chunks) for name in CHUNKS},
        "orientation": stream.metadata.orientation,
        "width": stream.width,
        "height": stream.height,
        "bundle_id": int(stream.bundle_id, 16),
    }
    head = MAGIC + pack_fields(HEADER_FIELDS, values)
    parts = [part for payload in chunks.values() for part in (varint(len(payload)), payload)]
    payloads = b"".join([*parts, stream.base_layer])
    return head + _crc(head, payloads) + payloads


def _read_header(data: bytes) -> dict[str, int]:
    """The header's fields, of a file that passes its checksum."""
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise NotAmbiFileError(
            "this is not a super-resolved picture: it does not begin with the magic number; give a file "
            "that `ambi encode` wrote with a bundle of the profile superres"
        )
    if len(data) > len(MAGIC) and data[len(MAGIC)] != STREAM_VERSION:
        # Before the checksum: a newer version may have another header.
        raise UnsupportedVersionError(
            f"the file has format version {data[len(MAGIC)]}, this program reads version "
            f"{STREAM_VERSION}; update ambi-rl"
        )
    if len(data) <= HEADER_BYTES:
        raise truncated(len(data))
    if data[_CRC_AT:HEADER_BYTES] != _crc(data[:_CRC_AT], data[HEADER_BYTES:]):
        raise CorruptFileError(
            "the file fails its checksum: it is truncated or damaged; fetch or encode it again"
        )
    return unpack_fields(HEADER_FIELDS, data[len(MAGIC) : _CRC_AT])


def _check_header(values: Mapping[str, int]) -> None:
    """Refuse values that no writer of this version produces (the checksum can be forged)."""
    for name, highest in (("base", len(BASES) - 1), ("orientation", 8)):
        if values[name] > highest:
            raise CorruptFileError(
                f"the header says {name} = {values[name]}, which no encoder writes; "
                "fetch or encode the file again"
            )


def _read_chunks(data: bytes, values: Mapping[str, int]) -> tuple[dict[str, bytes], bytes]:
    """The payloads that the header announces, by name, and the base layer."""
    chunks, position = {}, HEADER_BYTES
    for name in CHUNKS:
        if not values[name]:
            continue
        length, position = read_varint(data, position)
        if position + length > len(data):
            raise truncated(len(data))
        chunks[name] = data[position : position + length]
        position += length
    if position == len(data):
        raise truncated(len(data))
    return chunks, data[position:]


def read_stream(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Stream:
    """Parse and validate a file without decoding anything of it.

    Args:
        data: The whole file.
        max_pixels: The largest picture to accept, in pixels.

    Raises:
        NotAmbiFileError: The magic number is missing.
        UnsupportedVersionError: The format version is another one.
        CorruptFileError: Truncated, the checksum fails, or a value is impossible.
        ImageTooLargeError: The picture is over `max_pixels`.
    """
    data = bytes(data)
    values = _read_header(data)
    _check_header(values)
    check_size(values["width"], values["height"], max_pixels)
    chunks, base_layer = _read_chunks(data, values)
    return Stream(
        width=values["width"],
        height=values["height"],
        base=BASES[values["base"]],
        gray=bool(values["gray"]),
        bundle_id=f"{values['bundle_id']:016x}",
        base_layer=base_layer,
        alpha=chunks.get("alpha"),
        metadata=Metadata(
            icc=chunks.get("icc"),
            exif=chunks.get("exif"),
            xmp=chunks.get("xmp"),
            orientation=values["orientation"],
        ),
    )
