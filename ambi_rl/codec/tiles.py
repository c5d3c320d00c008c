"""Large pictures as a grid of tiles, which are coded independently of each other and side by side.

A tile is a picture of its own to the block kernel: prediction, contexts and arithmetic coding begin anew, so
that any number of threads can work on one picture, in memory that grows with the threads. The step, the
checksum and restoration are the whole picture's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import read_varint, varint
from ambi_rl.codec.frame import EncodedFrame, Importance, Planes, decode_frame, encode_frame
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.threads import in_threads
from ambi_rl.errors import CorruptFileError

TILED_PIXELS = 4_000_000
"""Pictures of at least so many pixels are divided, whatever the machine: files do not depend on it."""
TYPICAL_SIDE = 1320
"""Tiles have about this side, so that 4 million pixels make two or more."""
MIN_SIDE = 256
"""A reader refuses smaller tiles (but for those that the picture's border cuts)."""

_UNIT = tables.SUPERBLOCK


class Tile(NamedTuple):
    """A rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def rows(self) -> slice:
        """Its rows of the picture."""
        return slice(self.top, self.top + self.height)

    @property
    def columns(self) -> slice:
        """Its columns of the picture."""
        return slice(self.left, self.left + self.width)


class TileGrid(NamedTuple):
    """How a picture is divided: tiles of one size, multiples of 32, cut by the right and lower border."""

    height: int
    width: int
    tile_height: int
    tile_width: int

    def tiles(self) -> list[Tile]:
        """The tiles in raster order."""
        return [
            Tile(
                top,
                left,
                min(self.tile_height, self.height - top),
                min(self.tile_width, self.width - left),
            )
            for top in range(0, self.height, self.tile_height)
            for left in range(0, self.width, self.tile_width)
        ]


def _even(size: int) -> int:
    """Divide a side into parts of nearly one length, in whole superblocks."""
    parts = max(1, round(size / TYPICAL_SIDE))
    return math.ceil(size / parts / _UNIT) * _UNIT


def grid_for(height: int, width: int) -> TileGrid | None:
    """The grid that an encoder divides a picture by, or None if it is coded in one piece."""
    grid = TileGrid(height, width, _even(height), _even(width))
    return grid if height * width >= TILED_PIXELS and len(grid.tiles()) > 1 else None


def _check_grid(grid: TileGrid) -> None:
    small = min(grid.tile_height, grid.tile_width) < MIN_SIDE
    if small or (grid.tile_height >= grid.height and grid.tile_width >= grid.width):
        raise CorruptFileError(
            f"the file has tiles of {grid.tile_width}x{grid.tile_height} in a picture of "
            f"{grid.width}x{grid.height}, which no encoder writes; encode it again"
        )


def _write_section(grid: TileGrid, payloads: list[bytes]) -> bytes:
    numbers = [grid.tile_width // _UNIT, grid.tile_height // _UNIT, *map(len, payloads)]
    return b"".join([*map(varint, numbers), *payloads])


def _read_section(data: bytes, height: int, width: int) -> tuple[TileGrid, list[bytes]]:
    tile_width, position = read_varint(data, 0)
    tile_height, position = read_varint(data, position)
    grid = TileGrid(height, width, tile_height * _UNIT, tile_width * _UNIT)
    _check_grid(grid)
    lengths = []
    for _ in grid.tiles():
        length, position = read_varint(data, position)
        lengths.append(length)
    ends = position + np.cumsum(lengths, dtype=np.int64)
    if ends[-1] != len(data):
        raise CorruptFileError("the lengths of the tiles do not add up; get the file anew")
    return grid, [
        data[end - length : end] for end, length in zip(ends.tolist(), lengths, strict=True)
    ]


def read_tiles(data: bytes, height: int, width: int) -> list[tuple[Tile, bytes]]:
    """The tiles that the payload of a `Section.TILES` holds, in raster order, each with its own payload.

    Raises:
        CorruptFileError: The payload does not describe tiles of such a picture.
    """
    grid, payloads = _read_section(data, height, width)
    return list(zip(grid.tiles(), payloads, strict=True))


def encode_tiles(
    planes: Planes,
    step: int,
    bundle: Bundle,
    strategist: Strategist,
    grid: TileGrid,
    *,
    importance: Importance | None = None,
) -> EncodedFrame:
    """Encode planes tile by tile; the payload is that of a `Section.TILES`.

    Args:
        planes: int16 [P, H, W], 10 bits, P is 1 or 3.
        step: Quantizer step in 1/64 of an 8-bit code value, at least 1.
        bundle: As for `encode_frame`.
        strategist: Who decides.
        grid: How the picture is divided.
        importance: As for `encode_frame`, of the whole picture.

    Raises:
        BundleError: See `encode_frame`.
        UsageError: See `encode_frame`.
    """

    def encode(tile: Tile) -> EncodedFrame:
        weights = None
        if importance is not None:
            # Tiles begin at multiples of 32, and units have 4 pixels.
            rows, columns = (
                slice(s.start // 4, -(-s.stop // 4)) for s in (tile.rows, tile.columns)
            )
            weights = importance[rows, columns]
        part = np.ascontiguousarray(planes[:, tile.rows, tile.columns])
        return encode_frame(part, step, bundle, strategist, importance=weights)

    tiles = grid.tiles()
    frames = in_threads(encode, tiles)
    decoded = np.empty_like(planes)
    for tile, frame in zip(tiles, frames, strict=True):
        decoded[:, tile.rows, tile.columns] = frame.planes
    decisions = [
        decision._replace(y=decision.y + tile.top, x=decision.x + tile.left)
        for tile, frame in zip(tiles, frames, strict=True)
        for decision in frame.decisions
    ]
    return EncodedFrame(
        payload=_write_section(grid, [frame.payload for frame in frames]),
        planes=decoded,
        cost=sum(frame.cost for frame in frames),
        error=sum(frame.error for frame in frames),
        decisions=sorted(decisions),
    )


def decode_tiles(
    payload: bytes, height: int, width: int, num_planes: int, step: int, bundle: Bundle
) -> Planes:
    """Decode the payload of a `Section.TILES` to int16 planes [P, H, W].

    Raises:
        CorruptFileError: The payload says something impossible or ends early.
    """
    parts = read_tiles(payload, height, width)
    planes = np.zeros((num_planes, height, width), np.int16)

    def decode(part: tuple[Tile, bytes]) -> None:
        tile, data = part
        planes[:, tile.rows, tile.columns] = decode_frame(
            data, tile.height, tile.width, num_planes, step, bundle
        )

    in_threads(decode, parts)
    return planes
