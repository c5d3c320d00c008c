"""What a policy sees of a node; computed here for the environment and for the exported policy alike."""

from __future__ import annotations

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.entropy.coder import ESTIMATE, Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import lambda_of
from ambi_rl.codec.kernel.predict import gather_reference, predict, satd
from ambi_rl.codec.kernel.state import (
    BITS,
    ENERGY,
    MODE,
    NUM_STRATEGIES,
    OFFSET,
    SIZE,
    STEP,
    STRATEGY,
    Constants,
    Picture,
    Work,
)
from ambi_rl.codec.kernel.syntax import code_split, code_strategy, neighbour_energy

GENERAL_FEATURES = 42
"""Features before the one for each strategy."""


def observation_size(strategies: int) -> int:
    """Number of features, float32, of an observation when there are `strategies` strategies."""
    return GENERAL_FEATURES + strategies


@kernel
def rank_strategies(
    p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int, fine: bool
) -> int:
    """Estimate the cost of every strategy for a node into `s.satd`; return the cheapest.

    The estimate is SATD + √λ·bits, in 8-bit code values; the SATD is of a lattice of at most 8x8 samples
    unless `fine`. Leaves the node's border in `s.reference`.
    """
    size = 1 << log2
    stride = 1 if fine else max(size >> 3, 1)
    gather_reference(p, s, y, x, size)
    weight = np.sqrt(lambda_of(p, c))
    mode = p.state.registers[MODE]
    bits = p.state.registers[BITS]
    p.state.registers[MODE] = ESTIMATE
    best = 0
    for k in range(c.counts[NUM_STRATEGIES]):
        predict(s, 0, size, int(c.strategies[k]), stride)
        cost = satd(p, s, 0, y, x, size, stride)
        p.state.registers[BITS] = 0
        code_strategy(p, m, y, x, log2, k)
        s.satd[k] = cost + weight * p.state.registers[BITS] / 65536
        if s.satd[k] < s.satd[best]:
            best = k
    p.state.registers[MODE] = mode
    p.state.registers[BITS] = bits
    return best


@kernel
def _near(p: Picture, channel: int, y: int, x: int) -> int:
    if y < 0 or x < 0:
        return 0
    return int(p.maps[channel, y, x])


@kernel
def _direction_features(s: Work, at: int, code: int, present: bool) -> None:
    """Six features of a neighbour's predictor: present, planar, DC, and its angle as a unit vector."""
    for i in range(6):
        s.observation[at + i] = 0.0
    if not present:
        return
    s.observation[at] = 1.0
    if code == tables.PLANAR:
        s.observation[at + 1] = 1.0
    elif code == tables.DC:
        s.observation[at + 2] = 1.0
    else:
        angle = np.pi * (code - tables.FIRST_ANGLE) / 32
        s.observation[at + 3] = np.cos(angle)
        s.observation[at + 4] = np.sin(angle)
        s.observation[at + 5] = np.cos(2 * angle)


@kernel
def observe(p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int) -> int:
    """Fill `s.observation` for the node at pixel (y, x); return the strategy of least estimated cost.

    All features are of order one: logarithms of magnitudes relative to the quantizer step, flags and
    fractions. The last S features are the strategies' estimated costs above the cheapest.
    """
    out = s.observation
    size = 1 << log2
    delta = p.state.control[STEP] / 64
    best = rank_strategies(p, s, c, m, y, x, log2, False)
    uy, ux, units = y >> 2, x >> 2, size >> 2
    at = 0
    for k in range(tables.NUM_SIZES):
        out[at + k] = 1.0 if log2 == tables.MIN_BLOCK_LOG2 + k else 0.0
    at = 4
    out[at] = np.log2(delta / 8)
    out[at + 1] = (y % tables.SUPERBLOCK) / tables.SUPERBLOCK
    out[at + 2] = (x % tables.SUPERBLOCK) / tables.SUPERBLOCK
    out[at + 3] = _near(p, SIZE, uy, ux - 1)
    out[at + 4] = _near(p, SIZE, uy - 1, ux)
    out[at + 5] = _near(p, SIZE, uy + units - 1, ux - 1)
    out[at + 6] = _near(p, SIZE, uy - 1, ux + units - 1)
    out[at + 7] = neighbour_energy(p, 0, y, x, size) / 2
    out[at + 8] = (_near(p, ENERGY, uy, ux - 1) - _near(p, ENERGY, uy - 1, ux)) / 2
    out[at + 9] = _near(p, OFFSET, uy, ux - 1) / 4
    out[at + 10] = _near(p, OFFSET, uy - 1, ux) / 4
    at = 15
    left = _near(p, STRATEGY, uy + units - 1, ux - 1)
    above = _near(p, STRATEGY, uy - 1, ux + units - 1)
    _direction_features(s, at, int(c.strategies[max(left - 1, 0)]), left > 0)
    _direction_features(s, at + 6, int(c.strategies[max(above - 1, 0)]), above > 0)
    at = 27
    area = size * size
    out[at] = np.log2(1 + s.satd[best] / (delta * size))
    out[at + 1] = s.satd[best] / (delta * area) * 4
    at = 29
    # The node's texture: variance, horizontal and vertical gradients.
    total = 0.0
    squares = 0.0
    across = 0.0
    down = 0.0
    for i in range(size):
        for j in range(size):
            value = p.source[0, y + i, x + j] / tables.PIXEL_SCALE
            total += value
            squares += value * value
            if j > 0:
                across += abs(value - p.source[0, y + i, x + j - 1] / tables.PIXEL_SCALE)
            if i > 0:
                down += abs(value - p.source[0, y + i - 1, x + j] / tables.PIXEL_SCALE)
    variance = max(squares / area - (total / area) ** 2, 0.0)
    unit = delta * delta / 12
    out[at] = np.log2(1 + variance / unit)
    out[at + 1] = np.log2(1 + across / (area * delta))
    out[at + 2] = np.log2(1 + down / (area * delta))
    # Where the best prediction fails: what a split could repair.
    predict(s, 0, size, int(c.strategies[best]), 1)
    half = size >> 1
    for quarter in range(4):
        top = half * (quarter // 2)
        start = half * (quarter % 2)
        mean = 0.0
        power = 0.0
        for i in range(top, top + half):
            for j in range(start, start + half):
                miss = (int(p.source[0, y + i, x + j]) - s.prediction[i, j]) / tables.PIXEL_SCALE
                mean += miss
                power += miss * miss
        mean /= half * half
        power /= half * half
        out[at + 3 + quarter] = np.log2(1 + power / unit)
        out[at + 7 + quarter] = np.log2(1 + mean * mean / unit)
    p_split = _split_bits(p, m, y, x, log2)
    out[at + 11] = p_split
    out[at + 12] = 1.0 if y > 0 else 0.0
    for k in range(c.counts[NUM_STRATEGIES]):
        out[GENERAL_FEATURES + k] = np.log2(1 + 4 * (s.satd[k] - s.satd[best]) / (delta * size))
    return best


@kernel
def _split_bits(p: Picture, m: Model, y: int, x: int, log2: int) -> float:
    """Bits that not splitting costs more than splitting, as the entropy model stands; 0 for 4x4."""
    if log2 <= tables.MIN_BLOCK_LOG2:
        return 0.0
    mode = p.state.registers[MODE]
    bits = p.state.registers[BITS]
    p.state.registers[MODE] = ESTIMATE
    p.state.registers[BITS] = 0
    code_split(p, m, y, x, log2, 0)
    leaf = p.state.registers[BITS]
    p.state.registers[BITS] = 0
    code_split(p, m, y, x, log2, 1)
    split = p.state.registers[BITS]
    p.state.registers[MODE] = mode
    p.state.registers[BITS] = bits
    return (leaf - split) / 65536 / 4
