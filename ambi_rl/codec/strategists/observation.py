"""What a policy sees of a node; computed here for the environment and for the exported policy alike."""

from __future__ import annotations

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import ESTIMATE, Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import lambda_of, take_residual, transform_residual
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
from ambi_rl.codec.kernel.syntax import code_split, neighbour_energy, strategy_costs

GENERAL_FEATURES = 45
"""Features before the one for each strategy."""

REFINED = 5
"""Strategies of a node whose costs are estimated from their coefficients, not from SATD alone."""

# An estimate of luma's bits, fitted to what the entropy model asks (docs/decisions.md).
_DEAD_ZONE = 0.35
_BITS_PER_LEVEL = 1.5
_BITS_PER_OCTAVE = 1.4
_BITS_FOR_ORDER = 0.25
_BITS_FOR_LAST = 1.6

_UNKNOWN = 1e300
"""Cost of a strategy that was not looked at."""


def observation_size(strategies: int) -> int:
    """Number of features, float32, of an observation when there are `strategies` strategies."""
    return GENERAL_FEATURES + strategies


@kernel
def _rank(
    p: Picture, s: Work, c: Constants, y: int, x: int, size: int, stride: int, k: int
) -> None:
    """Estimate the cost of one strategy into `s.satd`; its bits are in `s.costs[0]`."""
    predict(s, 0, size, int(c.strategies[k]), stride)
    bits = s.costs[0, layout.MAX_STRATEGIES + k]
    s.satd[k] = satd(p, s, 0, y, x, size, stride) + np.sqrt(lambda_of(p, c)) * bits


@kernel
def _best_angle(s: Work, c: Constants, other: int) -> int:
    """The best angular strategy that was looked at, but for `other`; −1 if there is none."""
    best = -1
    for k in range(c.counts[NUM_STRATEGIES]):
        known = s.satd[k] < _UNKNOWN and c.strategies[k] >= tables.FIRST_ANGLE
        if known and k != other and (best < 0 or s.satd[k] < s.satd[best]):
            best = k
    return best


@kernel
def _rank_around(
    p: Picture,
    s: Work,
    c: Constants,
    y: int,
    x: int,
    size: int,
    stride: int,
    angle: int,
    reach: int,
) -> None:
    """Look at the two directions that lie `reach` beside an angular strategy."""
    if angle < 0:
        return
    for side in range(-reach, reach + 1, 2 * reach):
        code = int(c.strategies[angle]) + side
        if tables.FIRST_ANGLE <= code < len(tables.PREDICTOR_NAMES):
            k = int(c.strategy_of[code])
            if k >= 0 and s.satd[k] == _UNKNOWN:
                _rank(p, s, c, y, x, size, stride, k)


@kernel
def rank_strategies(
    p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int, fine: bool
) -> int:
    """Estimate the cost of every strategy for a node into `s.satd`; return the cheapest.

    The estimate is SATD + √λ·bits, in 8-bit code values. Unless `fine`, the SATD is of a lattice of at most
    8x8 samples, and only every fourth direction is looked at, then those around the best two; the others
    count as bad as the worst. Leaves the node's border in `s.reference`, the strategies' bits in
    `s.costs[0]`.
    """
    size = 1 << log2
    stride = 1 if fine else max(size >> 3, 1)
    gather_reference(p, s, y, x, size)
    strategy_costs(p, m, y, x, log2, s.costs[0])
    strategies = int(c.counts[NUM_STRATEGIES])
    for k in range(strategies):
        s.satd[k] = _UNKNOWN
        turn = int(c.strategies[k]) - tables.FIRST_ANGLE
        if fine or turn < 0 or turn % 4 == 0:
            _rank(p, s, c, y, x, size, stride, k)
    if not fine:
        for reach in (2, 1):
            first = _best_angle(s, c, -1)
            second = _best_angle(s, c, first)
            _rank_around(p, s, c, y, x, size, stride, first, reach)
            _rank_around(p, s, c, y, x, size, stride, second, reach)
    best = 0
    worst = 0.0
    for k in range(strategies):
        if s.satd[k] < _UNKNOWN:
            worst = max(worst, s.satd[k])
            if s.satd[k] < s.satd[best]:
                best = k
    for k in range(strategies):
        s.satd[k] = min(s.satd[k], worst)
    return best


@kernel
def _estimate_leaf(
    p: Picture, s: Work, c: Constants, y: int, x: int, log2: int, strategy: int
) -> tuple[float, float, float]:
    """What coding a block's luma with a strategy would come to, quantized plainly, without the model.

    Returns:
        The number of levels that are not zero, an estimate of their bits, and the squared error in units of
        the squared step.
    """
    size = 1 << log2
    predict(s, 0, size, int(c.strategies[strategy]), 1)
    take_residual(p, s, 0, y, x, size)
    transform_residual(s, c, 0, size)
    order = c.order[log2 - tables.MIN_BLOCK_LOG2]
    scale = 1.0 / p.state.control[STEP]
    levels = 0
    bits = 0.0
    error = 0.0
    last = 0.0
    for i in range(size):
        for j in range(size):
            value = abs(s.coefficients[i, j]) * scale
            level = int(value + _DEAD_ZONE)
            error += (value - level) * (value - level)
            if level > 0:
                levels += 1
                bits += _BITS_PER_LEVEL + _BITS_FOR_ORDER * order[i, j]
                last = max(last, float(order[i, j]))
                if level > 1:
                    bits += _BITS_PER_OCTAVE * np.log2(level)
    return float(levels), bits + _BITS_FOR_LAST * last, error


@kernel
def refine_ranking(p: Picture, s: Work, c: Constants, y: int, x: int, log2: int) -> int:
    """Order the best strategies anew by the cost of their coefficients; return the best of all.

    To be called after `rank_strategies`. `s.satd` becomes each strategy's cost above the best one, still in
    units of SATD; those that were not looked at again come after those that were. The best leaf's estimate
    is left in `s.estimate`: levels, bits, J/λ.
    """
    strategies = int(c.counts[NUM_STRATEGIES])
    count = min(REFINED, strategies)
    order_candidates(s, strategies, count)
    delta = p.state.control[STEP] / 64
    lagrangian = lambda_of(p, c)
    least = s.satd[s.order[0]]
    best = 0
    for i in range(count):
        k = int(s.order[i])
        levels, level_bits, error = _estimate_leaf(p, s, c, y, x, log2, k)
        cost = level_bits + s.costs[0, layout.MAX_STRATEGIES + k]
        cost += error * delta * delta / lagrangian
        s.refined[i] = cost
        if i == 0 or cost < s.refined[best]:
            best = i
            s.estimate[0] = levels
            s.estimate[1] = level_bits
            s.estimate[2] = cost
    weight = np.sqrt(lagrangian)
    worst = 0.0
    for i in range(count):
        s.refined[i] = weight * (s.refined[i] - s.estimate[2])
        worst = max(worst, s.refined[i])
    for k in range(strategies):
        s.satd[k] += worst - least
    for i in range(count):
        s.satd[s.order[i]] = s.refined[i]
    return int(s.order[best])


@kernel
def order_candidates(s: Work, count: int, wanted: int) -> None:
    """Put the `wanted` strategies of least `s.satd` first in `s.order`."""
    for k in range(count):
        s.order[k] = k
    for i in range(wanted):
        best = i
        for k in range(i + 1, count):
            if s.satd[s.order[k]] < s.satd[s.order[best]]:
                best = k
        swap = s.order[i]
        s.order[i] = s.order[best]
        s.order[best] = swap


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
def observe(p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int) -> int:
    """Fill `s.observation` for the node at pixel (y, x); return the strategy of least estimated cost.

    All features are of order one: logarithms of magnitudes relative to the quantizer step, flags and
    fractions. The last S features are the strategies' estimated costs above the cheapest.
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
    at += 7
    _texture_features(p, s, at, y, x, size)
    predict(s, 0, size, int(c.strategies[best]), 1)
    _quarter_features(p, s, at + 3, y, x, size)
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
