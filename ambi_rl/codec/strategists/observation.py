"""What a policy sees of a node; computed here for the environment and for the exported policy alike."""

from __future__ import annotations

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.entropy.coder import ESTIMATE, Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.predict import predict
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
from ambi_rl.codec.kernel.syntax import code_split, neighbour_energy
from ambi_rl.codec.strategists.estimate import rank_strategies, refine_ranking
from ambi_rl.codec.strategists.lookahead import LEAF, QUARTERS, VISIBILITY
from ambi_rl.codec.strategists.visibility import SCALES

GENERAL_FEATURES = 52
"""Features before the one for each strategy."""


def observation_size(strategies: int) -> int:
    """Number of features, float32, of an observation when there are `strategies` strategies."""
    return GENERAL_FEATURES + strategies


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
def _texture_features(p: Picture, s: Work, at: int, y: int, x: int, size: int) -> None:
    """Three features of the source: variance, horizontal and vertical gradients."""
    source = p.source[0, y : y + size, x : x + size]
    area = size * size
    delta = p.state.control[STEP] / 64
    total = 0.0
    squares = 0.0
    across = 0.0
    down = 0.0
    for i in range(size):
        for j in range(size):
            value = source[i, j] / tables.PIXEL_SCALE
            total += value
            squares += value * value
            if j > 0:
                across += abs(value - source[i, j - 1] / tables.PIXEL_SCALE)
            if i > 0:
                down += abs(value - source[i - 1, j] / tables.PIXEL_SCALE)
    variance = max(squares / area - (total / area) ** 2, 0.0)
    s.observation[at] = np.log2(1 + variance / (delta * delta / 12))
    s.observation[at + 1] = np.log2(1 + across / (area * delta))
    s.observation[at + 2] = np.log2(1 + down / (area * delta))


@kernel
def _quarter_features(p: Picture, s: Work, at: int, y: int, x: int, size: int) -> None:
    """Where `s.prediction` fails, which a split could repair: power and squared mean of each quarter."""
    half = size >> 1
    delta = p.state.control[STEP] / 64
    unit = delta * delta / 12
    for quarter in range(4):
        top = half * (quarter // 2)
        left = half * (quarter % 2)
        source = p.source[0, y + top : y + top + half, x + left : x + left + half]
        prediction = s.prediction[top : top + half, left : left + half]
        mean = 0.0
        power = 0.0
        for i in range(half):
            for j in range(half):
                miss = (source[i, j] - prediction[i, j]) / tables.PIXEL_SCALE
                mean += miss
                power += miss * miss
        mean /= half * half
        power /= half * half
        s.observation[at + quarter] = np.log2(1 + power / unit)
        s.observation[at + 4 + quarter] = np.log2(1 + mean * mean / unit)


@kernel
def _outlook_features(p: Picture, s: Work, at: int, y: int, x: int, log2: int) -> None:
    """Four features of the look ahead: cost as a leaf and as quarters, and how they and the node compare.

    `s.estimate` holds the node's own cost, predicted from decoded samples.
    """
    level = log2 - tables.MIN_BLOCK_LOG2
    leaf = float(p.outlook[LEAF, level, y >> 2, x >> 2])
    quarters = float(p.outlook[QUARTERS, level, y >> 2, x >> 2])
    own = s.estimate[2]
    s.observation[at] = np.log2(1 + leaf)
    s.observation[at + 1] = np.log2(1 + quarters)
    s.observation[at + 2] = 8 * (leaf - quarters) / (leaf + quarters + 4)
    s.observation[at + 3] = 8 * (own - quarters) / (own + quarters + 4)
    if level == 0:
        for k in range(1, 4):
            s.observation[at + k] = 0.0


@kernel
def _visibility_features(p: Picture, s: Work, at: int, y: int, x: int, size: int) -> None:
    """How visible errors in the node are, by scale: what suits its quantization to a structural metric."""
    units = size >> 2
    for scale in range(SCALES):
        total = 0.0
        for i in range(y >> 2, (y >> 2) + units):
            for j in range(x >> 2, (x >> 2) + units):
                total += p.outlook[VISIBILITY, scale, i, j]
        s.observation[at + scale] = np.log2(total / (units * units))


@kernel
def observe(p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int) -> int:
    """Fill `s.observation` for the node at pixel (y, x); return the strategy of least estimated cost.

    All features are of order one: logarithms of magnitudes relative to the quantizer step, flags and
    fractions. The last S features are the strategies' estimated costs above the cheapest. `look_ahead` must
    have been called for the picture.
    """
    out = s.observation
    size = 1 << log2
    delta = p.state.control[STEP] / 64
    first = rank_strategies(p, s, c, m, y, x, log2, False)
    satd_of_first = s.satd[first]
    best = refine_ranking(p, s, c, y, x, log2)
    uy, ux, units = y >> 2, x >> 2, size >> 2
    for k in range(tables.NUM_SIZES):
        out[k] = 1.0 if log2 == tables.MIN_BLOCK_LOG2 + k else 0.0
    at = tables.NUM_SIZES
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
    at += 11
    left = _near(p, STRATEGY, uy + units - 1, ux - 1)
    above = _near(p, STRATEGY, uy - 1, ux + units - 1)
    _direction_features(s, at, int(c.strategies[max(left - 1, 0)]), left > 0)
    _direction_features(s, at + 6, int(c.strategies[max(above - 1, 0)]), above > 0)
    at += 12
    out[at] = np.log2(1 + satd_of_first / (delta * size))
    out[at + 1] = satd_of_first / (delta * size * size) * 4
    for k in range(3):
        out[at + 2 + k] = np.log2(1 + s.estimate[k])
    out[at + 5] = _split_bits(p, m, y, x, log2)
    out[at + 6] = 1.0 if y > 0 else 0.0
    _outlook_features(p, s, at + 7, y, x, log2)
    at += 11
    _texture_features(p, s, at, y, x, size)
    predict(s, 0, size, int(c.strategies[best]), 1)
    _quarter_features(p, s, at + 3, y, x, size)
    _visibility_features(p, s, at + 11, y, x, size)
    for k in range(c.counts[NUM_STRATEGIES]):
        out[GENERAL_FEATURES + k] = np.log2(1 + 4 * s.satd[k] / (delta * size))
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
