"""A look ahead: what coding each block of a picture would roughly cost, whole and split (encoder only).

It predicts from the source instead of decoded samples, so that all blocks of a picture can be looked at
before any is coded; a policy that decides from the top down thereby sees what lies below. Only two
predictors are tried: planar and the direction of the block's dominant edge.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.predict import ANGLES, LEFT, ORIGIN, TOP
from ambi_rl.codec.kernel.state import Constants, Picture, Work
from ambi_rl.codec.strategists.estimate import estimate_leaf, rank_strategy
from ambi_rl.codec.strategists.visibility import visibility

LEAF, QUARTERS, VISIBILITY = range(3)
"""Entries of `Picture.outlook`: cost as one block; least cost as four quarters, split further or not; and, by
scale instead of block size, how visible errors are (`visibility.py`)."""

_BITS_OF_SMOOTH, _BITS_OF_ANGLE = 2.0, 4.0
"""What naming a predictor costs about."""


@kernel
def _gather_source(p: Picture, s: Work, y: int, x: int, size: int) -> None:
    """Border samples of a block from the source, repeated beyond the picture; gray if there are none."""
    height, width = p.source.shape[1], p.source.shape[2]
    source = p.source[0]
    top = s.reference[0, TOP]
    left = s.reference[0, LEFT]
    row, col = max(y - 1, 0), max(x - 1, 0)
    corner = int(source[row, col])
    if y == 0 and x == 0:
        corner = tables.PIXEL_MID
    top[ORIGIN] = corner
    left[ORIGIN] = corner
    for i in range(2 * size + 3):
        top[ORIGIN + 1 + i] = source[row, min(x + i, width - 1)] if y > 0 else corner
        left[ORIGIN + 1 + i] = source[min(y + i, height - 1), col] if x > 0 else corner


@kernel
def _edge_predictor(source: npt.NDArray[np.int16], size: int) -> int:
    """Code of the angular predictor along the dominant edge, by the structure tensor's first axis."""
    xx = 0.0
    yy = 0.0
    xy = 0.0
    for i in range(size - 1):
        for j in range(size - 1):
            falling = float(source[i + 1, j + 1]) - source[i, j]
            rising = float(source[i, j + 1]) - source[i + 1, j]
            gx = falling + rising
            gy = falling - rising
            xx += gx * gx
            yy += gy * gy
            xy += gx * gy
    gradient = 0.5 * np.arctan2(2 * xy, xx - yy)
    across, down = -np.sin(gradient), np.cos(gradient)
    steep = abs(down) >= abs(across)
    shift = -32 * (across / down if steep else down / across)
    first = tables.DIAGONAL if steep else tables.FIRST_ANGLE
    best = first
    for code in range(first, first + 17):
        if abs(ANGLES[code] - shift) < abs(ANGLES[best] - shift):
            best = code
    return best


@kernel
def _leaf_cost(p: Picture, s: Work, c: Constants, y: int, x: int, log2: int) -> float:
    """Estimated J/λ, in bits, of a block's luma with the better of two predictors."""
    size = 1 << log2
    stride = max(size >> 3, 1)
    _gather_source(p, s, y, x, size)
    edge = _edge_predictor(p.source[0, y : y + size, x : x + size], size)
    best = 0
    best_cost = 1e300
    bits = 0.0
    for code in (tables.PLANAR, edge):
        strategy = int(c.strategy_of[code])
        if strategy >= 0:
            naming = _BITS_OF_ANGLE if code == edge else _BITS_OF_SMOOTH
            cost = rank_strategy(p, s, c, y, x, size, stride, strategy, naming)
            if cost < best_cost:
                best_cost = cost
                best = strategy
                bits = naming
    _, level_bits, distortion = estimate_leaf(p, s, c, y, x, log2, best)
    return bits + level_bits + distortion


@kernel
def look_ahead(p: Picture, s: Work, c: Constants) -> None:
    """Fill `p.outlook` for a picture, from the smallest blocks up; what crosses the border is left out."""
    height, width = p.source.shape[1], p.source.shape[2]
    visibility(p.source[0], p.outlook[VISIBILITY])
    for log2 in range(tables.MIN_BLOCK_LOG2, tables.SUPERBLOCK_LOG2 + 1):
        size = 1 << log2
        half = size >> 1
        level = log2 - tables.MIN_BLOCK_LOG2
        for y in range(0, height - size + 1, size):
            for x in range(0, width - size + 1, size):
                p.outlook[LEAF, level, y >> 2, x >> 2] = _leaf_cost(p, s, c, y, x, log2)
                total = 0.0
                if level > 0:
                    for quarter in range(4):
                        uy = (y + half * (quarter // 2)) >> 2
                        ux = (x + half * (quarter % 2)) >> 2
                        below = p.outlook[LEAF, level - 1, uy, ux]
                        if level > 1:
                            below = min(below, p.outlook[QUARTERS, level - 1, uy, ux])
                        total += below
                p.outlook[QUARTERS, level, y >> 2, x >> 2] = total
