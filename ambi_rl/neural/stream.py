"""Streams of latents: a header, then packets of some frames each, that a reader takes as they come.

`docs/feature-format.md` is the specification.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.container import read_varint, varint
from ambi_rl.errors import CorruptFileError, NotAmbiFileError, UnsupportedVersionError
from ambi_rl.neural.latent_coder import MAX_VALUE_BYTES, LatentCoder
from ambi_rl.neural.tables import LatentTables

MAGIC = b"\x8dAMF"
STREAM_VERSION = 1
FRAMES_PER_PACKET = 64
"""Unless asked for: at 30 bytes a frame, what is not payload is below half a percent."""
MAX_FRAMES_PER_PACKET = 4096
MAX_PACKET_VALUES = 1 << 20
"""Latents of a packet, and of one frame; what a reader holds at a time is a small multiple of it."""
MAX_FRAMES = (1 << 35) - 2
MAX_SIDE = 16384
_ID_BYTES = 8
_CRC_BYTES = 4
_VARINT_BYTES = 5
_CHUNK = 1 << 16

Latents = npt.NDArray[np.int32]


@dataclass(frozen=True)
class StreamHeader:
    """What a stream says before its first packet.

    Attributes:
        bundle_id: 16 hexadecimal digits.
        frame_shape: Rows and columns of a frame, 1…16384.
        latent_shape: C, h, w of a frame's latents; their product is up to `MAX_PACKET_VALUES`.
        frames: How many there are, up to `MAX_FRAMES`; None if that shows only when the stream ends.
    """

    bundle_id: str
    frame_shape: tuple[int, int]
    latent_shape: tuple[int, int, int]
    frames: int | None

    @property
    def frame_values(self) -> int:
        """Latents of a frame."""
        channels, height, width = self.latent_shape
        return channels * height * width

    @property
    def most_frames(self) -> int:
        """Frames that a packet may have."""
        return min(MAX_FRAMES_PER_PACKET, MAX_PACKET_VALUES // self.frame_values)

    def is_valid(self) -> bool:
        """Whether the numbers are in their ranges."""
        return (
            all(1 <= side <= MAX_SIDE for side in self.frame_shape)
            and min(self.latent_shape) >= 1
            and self.frame_values <= MAX_PACKET_VALUES
            and 0 <= (self.frames or 0) <= MAX_FRAMES
        )


@dataclass(frozen=True)
class Packet:
    """Some frames of a stream, not decoded yet.

    Attributes:
        index: Its number in the stream, from 0.
        first: Number of its first frame, from 0.
        frames: How many it has.
        payload: Their code.
        size: Bytes of the whole packet in the file.
    """

    index: int
    first: int
    frames: int
    payload: bytes
    size: int

    def __str__(self) -> str:
        last = self.first + self.frames - 1
        return f"packet {self.index} (frames {self.first} to {last})"


def is_stream(data: bytes) -> bool:
    """Whether a file that begins so is one of these streams."""
    return data.startswith(MAGIC)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC_BYTES, "big")


class StreamWriter:
    """Writes latents as they come; a context manager, that ends the stream unless an error passes.

    Args:
        file: Where to; neither sought in nor closed.
        header: Of the stream.
        tables: That code the latents.
        frames_per_packet: A packet is written when it has so many; 1 for the least delay.

    Raises:
        ValueError: The header does not suit the format or the tables (a mistake of the caller's).
    """

    def __init__(
        self,
        file: BinaryIO,
        header: StreamHeader,
        tables: LatentTables,
        *,
        frames_per_packet: int = FRAMES_PER_PACKET,
    ) -> None:
        if not header.is_valid() or tables.channels != header.latent_shape[0]:
            raise ValueError(f"{header} is not possible with {tables.channels} channels")
        if frames_per_packet < 1:
            raise ValueError(f"a packet has one frame or more, not {frames_per_packet}")
        self.written = 0
        self._file = file
        self._header = header
        self._coder = LatentCoder(tables)
        self._most = min(frames_per_packet, header.most_frames)
        self._waiting: list[Latents] = []
        self._coded = 0
        self._write(_header_bytes(header))

    def __enter__(self) -> StreamWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def write(self, latents: Latents) -> None:
        """Add frames.

        Args:
            latents: int32 [N, C, h, w].

        Raises:
            ValueError: They are of another type or shape, or more than the header says.
        """
        if latents.dtype != np.int32 or latents.shape[1:] != self._header.latent_shape:
            raise ValueError(
                f"latents are {latents.dtype} {list(latents.shape)}, not int32 "
                f"[N, {', '.join(map(str, self._header.latent_shape))}]"
            )
        for latent in latents:
            self._waiting.append(latent.copy())
            if len(self._waiting) == self._most:
                self.flush()

    def flush(self) -> None:
        """Write what waits for a packet to become full."""
        if self._waiting:
            self._packet(len(self._waiting), self._coder.encode(np.stack(self._waiting)))
            self._coded += len(self._waiting)
            self._waiting = []
        self._file.flush()

    def close(self) -> None:
        """Write the rest and end the stream; the file stays open.

        Raises:
            ValueError: There were more or fewer frames than the header says.
        """
        self.flush()
        if self._header.frames is None:
            self._packet(0, b"")
            self._file.flush()
        elif self._header.frames != self._coded:
            raise ValueError(f"{self._coded} frames were written, not {self._header.frames}")

    def _packet(self, frames: int, payload: bytes) -> None:
        head = varint(frames) + varint(len(payload))
        self._write(head + _crc(head + payload) + payload)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.written += len(data)


def _header_bytes(header: StreamHeader) -> bytes:
    numbers = (
        *header.frame_shape,
        *header.latent_shape,
        0 if header.frames is None else header.frames + 1,
    )
    data = MAGIC + bytes([STREAM_VERSION]) + bytes.fromhex(header.bundle_id)
    data += b"".join(varint(number) for number in numbers)
    return data + _crc(data)


class _Source:
    """Reads exactly as much as asked for, from what may give less at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0

    def take(self, count: int, *, what: str) -> bytes:
        # In pieces, so that what a length claims is only allocated as it arrives.
        parts, missing = [], count
        while missing:
            part = self._file.read(min(missing, _CHUNK))
            if not part:
                raise CorruptFileError(
                    f"the stream is truncated: it ends after {self.position} bytes, in {what}; "
                    "fetch or encode it again"
                )
            parts.append(part)
            missing -= len(part)
            self.position += len(part)
        return b"".join(parts)

    def read_one(self) -> bytes:
        """The next byte, or none at the end."""
        data = self._file.read(1)
        self.position += len(data)
        return data

    def varint(self, *, what: str) -> tuple[int, bytes]:
        """A number, and its bytes."""
        data = self.take(1, what=what)
        while data[-1] > 0x7F and len(data) < _VARINT_BYTES:
            data += self.take(1, what=what)
        if data[-1] > 0x7F or (len(data) > 1 and data[-1] == 0):
            raise CorruptFileError(f"{what} has a number that no encoder writes; fetch it again")
        return read_varint(data, 0)[0], data


class StreamReader:
    """Reads a stream packet by packet, from a file or a pipe.

    Args:
        file: Where from; not sought in, and read no further than the stream goes.

    Attributes:
        header: Of the stream.
        header_size: Its bytes.

    Raises:
        NotAmbiFileError: It is no such stream.
        UnsupportedVersionError: It is of another version.
        CorruptFileError: The header is truncated or damaged, or claims what is over the format's limits.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._source = _Source(file)
        self.header = self._read_header()
        self.header_size = self._source.position
        self._next = Packet(-1, 0, 0, b"", 0)

    def _read_header(self) -> StreamHeader:
        what = "the header"
        data = b""
        while len(data) < len(MAGIC):
            # Byte by byte, so that a short file of another kind is not called truncated.
            data += self._source.take(1, what=what) if data else self._source.read_one()
            if not (data and MAGIC.startswith(data)):
                raise NotAmbiFileError(
                    "this is not a stream of features: it does not begin with the magic number; "
                    "give a file that `ambi encode` wrote with a bundle of the profile features"
                )
        data += self._source.take(1, what=what)
        if data[-1] != STREAM_VERSION:
            raise UnsupportedVersionError(
                f"the stream has format version {data[-1]}, this program reads version "
                f"{STREAM_VERSION}; update ambi-rl"
            )
        bundle_id = self._source.take(_ID_BYTES, what=what)
        data += bundle_id
        numbers = []
        for _ in range(6):
            number, group = self._source.varint(what=what)
            numbers.append(number)
            data += group
        if self._source.take(_CRC_BYTES, what=what) != _crc(data):
            raise CorruptFileError("the header fails its checksum; fetch or encode the file again")
        rows, columns, channels, height, width, frames = numbers
        header = StreamHeader(
            bundle_id.hex(),
            (rows, columns),
            (channels, height, width),
            frames - 1 if frames else None,
        )
        # The checksum can be forged.
        if not header.is_valid():
            raise CorruptFileError(
                f"the header says frames of {rows}x{columns} and latents of {channels}x{height}x"
                f"{width}, which is over the format's limits; encode the file again"
            )
        return header

    def packets(self) -> Iterator[Packet]:
        """The packets, checked against their checksums but not decoded.

        Raises:
            CorruptFileError: One is truncated, damaged or impossible; those before it have been given out.
        """
        while (packet := self._read_packet()) is not None:
            yield packet

    def _read_packet(self) -> Packet | None:
        """The next packet, or None after the last."""
        index, first = self._next.index + 1, self._next.first + self._next.frames
        if first == self.header.frames:
            return None
        what, start = f"packet {index} (from frame {first})", self._source.position
        frames, head = self._source.varint(what=what)
        length, group = self._source.varint(what=what)
        head += group
        left = None if self.header.frames is None else self.header.frames - first
        ends = frames == 0 and length == 0 and left is None
        possible = 1 <= frames <= self.header.most_frames and (left is None or frames <= left)
        # One more, for what the coder's end may take.
        longest = (frames * self.header.frame_values + 1) * MAX_VALUE_BYTES
        if not ends and not (possible and length <= longest):
            raise CorruptFileError(
                f"{what} claims {frames} frames in {length} bytes, which no encoder writes; "
                "fetch or encode the file again"
            )
        crc = self._source.take(_CRC_BYTES, what=what)
        payload = self._source.take(length, what=what)
        if crc != _crc(head + payload):
            raise CorruptFileError(f"{what} fails its checksum; fetch or encode the file again")
        self._next = Packet(index, first, frames, payload, self._source.position - start)
        return None if ends else self._next

    def latents(self, tables: LatentTables, *, first: int = 0) -> Iterator[Latents]:
        """Decoded latents, packet by packet.

        Args:
            tables: Of the bundle that the header names.
            first: Number of the frame to begin with; packets before its own are read but not decoded.

        Yields:
            int32 [n, C, h, w].

        Raises:
            CorruptFileError: See `packets`, or the tables have another number of channels.
        """
        if tables.channels != self.header.latent_shape[0]:
            raise CorruptFileError(
                f"the stream has {self.header.latent_shape[0]} channels, its bundle "
                f"{tables.channels}; encode the file again"
            )
        coder = LatentCoder(tables)
        for packet in self.packets():
            if packet.first + packet.frames <= first:
                continue
            try:
                latents = coder.decode(packet.payload, (packet.frames, *self.header.latent_shape))
            except CorruptFileError as error:
                raise CorruptFileError(f"{packet}: {error}; encode the file again") from error
            yield latents[max(first - packet.first, 0) :]

    def check_end(self) -> None:
        """Make sure that nothing follows the last packet.

        Raises:
            CorruptFileError: Something does.
        """
        if self._source.read_one():
            end = self._source.position - 1
            raise CorruptFileError(
                f"more follows the last packet; cut the file to {end} bytes or fetch it again"
            )


def encode_latents(
    latents: Latents,
    tables: LatentTables,
    *,
    bundle_id: str,
    frame_shape: tuple[int, int],
    frames_per_packet: int = FRAMES_PER_PACKET,
) -> bytes:
    """A whole stream.

    Args:
        latents: int32 [N, C, h, w].
        tables: That code them.
        bundle_id: 16 hexadecimal digits, whose tables these are.
        frame_shape: Rows and columns of what a decoder shall make of each.
        frames_per_packet: See `StreamWriter`.
    """
    channels, height, width = latents.shape[1:]
    header = StreamHeader(bundle_id, frame_shape, (channels, height, width), len(latents))
    out = io.BytesIO()
    with StreamWriter(out, header, tables, frames_per_packet=frames_per_packet) as writer:
        writer.write(latents)
    return out.getvalue()
