"""Decisions of a superblock that were taken before it is coded, as maps of its 4x4 units."""

from __future__ import annotations

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import SPLIT, clear_maps
from ambi_rl.codec.kernel.state import (
    CHROMA,
    NUM_MAPS,
    OFFSET,
    SIZE,
    STRATEGY,
    TRANSFORM,
    Picture,
    Work,
)

_SIDE = tables.SUPERBLOCK


@kernel
def take_plan(p: Picture, s: Work, y: int, x: int) -> None:
    """Move the decisions that a search left in the superblock's maps to `s.planned`."""
    bottom = min(y + _SIDE, p.source.shape[1])
    right = min(x + _SIDE, p.source.shape[2])
    for channel in range(NUM_MAPS):
        for i in range((bottom - y) >> 2):
            for j in range((right - x) >> 2):
                s.planned[channel, i, j] = p.maps[channel, (y >> 2) + i, (x >> 2) + j]
    clear_maps(p, y, x, _SIDE)


@kernel
def planned_decision(maps: np.ndarray, uy: int, ux: int, log2: int) -> tuple[int, int, int, int]:
    """Decision, offset, chroma strategy and transform that maps hold for the node at unit (uy, ux)."""
    if int(maps[SIZE, uy, ux]) - 1 + tables.MIN_BLOCK_LOG2 < log2:
        return SPLIT, 0, 0, 0
    # A block without levels has no transform; should it get levels after all, the kernel chooses.
    return (
        int(maps[STRATEGY, uy, ux]),
        int(maps[OFFSET, uy, ux]) - 1,
        int(maps[CHROMA, uy, ux]) - 1,
        int(maps[TRANSFORM, uy, ux]) - 1,
    )
