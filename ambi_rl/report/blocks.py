"""The blocks of a coded picture as few bytes, which the page draws its overlays from."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ambi_rl.codec.anatomy import Leaf
from ambi_rl.codec.frame import Decision
from ambi_rl.codec.tables import MIN_BLOCK_LOG2, SUPERBLOCK, SUPERBLOCK_LOG2

BITS_SCALE = 16
"""Bits are kept in sixteenths, up to 2^24 of them."""


class PackedBlocks(NamedTuple):
    """What `page/assets.js` unpacks.

    Attributes:
        blocks: How many there are.
        data: zlib: the log2 of all sizes, then all strategies, all offsets, then the low, the middle and the
            high bytes of bits·16, one byte each, in the order of the quadtree. Places follow from sizes.
    """

    blocks: int
    data: bytes


def pack_blocks(leaves: Sequence[Leaf]) -> PackedBlocks:
    """Pack the blocks of one picture, given in any order (a tiled picture's come tile by tile)."""
    ordered = sorted(leaves, key=lambda leaf: _place(leaf.decision))
    decisions = [leaf.decision for leaf in ordered]
    bits = np.array([min(round(leaf.bits * BITS_SCALE), 2**24 - 1) for leaf in ordered], np.uint32)
    rows = [
        [d.size.bit_length() - 1 for d in decisions],
        [d.strategy for d in decisions],
        [d.offset for d in decisions],
        *((bits >> shift) & 255 for shift in (0, 8, 16)),
    ]
    table = np.array(rows, np.uint8)
    return PackedBlocks(len(ordered), zlib.compress(table.tobytes(), 9))


def _place(d: Decision) -> tuple[int, int, int]:
    """Row and column of the superblock, and the place in it along the quadtree's order."""
    y, x = d.y % SUPERBLOCK, d.x % SUPERBLOCK
    along = 0
    for bit in range(SUPERBLOCK_LOG2 - 1, MIN_BLOCK_LOG2 - 1, -1):
        along = along * 4 + (y >> bit & 1) * 2 + (x >> bit & 1)
    return d.y // SUPERBLOCK, d.x // SUPERBLOCK, along
