"""Cheap estimates of what a block would cost with a strategy, for whoever decides (encoder only).

Two stages: SATD of a lattice of samples for many strategies, then the coefficients themselves for the best.
"""

from __future__ import annotations

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import (
    lambda_of,
    take_residual,
    transform_residual,
    usual_transform,
)
from ambi_rl.codec.kernel.predict import gather_reference, predict, satd
from ambi_rl.codec.kernel.quantize import estimate_coefficients
from ambi_rl.codec.kernel.state import NUM_STRATEGIES, STEP, Constants, Picture, Work
from ambi_rl.codec.kernel.syntax import strategy_costs

REFINED = (5, 5, 3, 2)
"""By block size: strategies whose costs are estimated from their coefficients, not from SATD alone."""

_UNKNOWN = 1e300
"""Cost of a strategy that was not looked at."""


@kernel
def rank_strategy(
    p: Picture,
    s: Work,
    c: Constants,
    y: int,
    x: int,
    size: int,
    stride: int,
    strategy: int,
    bits: float,
) -> float:
    """SATD + √λ·bits, in 8-bit code values, of a strategy that takes `bits` to name."""
    predict(s, 0, size, int(c.strategies[strategy]), stride)
    return satd(p, s, 0, y, x, size, stride) + np.sqrt(lambda_of(p, c)) * bits


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
                bits = s.costs[layout.MAX_STRATEGIES + k]
                s.satd[k] = rank_strategy(p, s, c, y, x, size, stride, k, bits)


@kernel
def rank_strategies(
    p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int, fine: bool
) -> int:
    """Estimate the cost of every strategy for a node into `s.satd`; return the cheapest.

    The estimate is SATD + √λ·bits, in 8-bit code values. Unless `fine`, the SATD is of a lattice of at most
    8x8 samples, and only every fourth direction is looked at, then those around the best two; the
    others count as bad as the worst. Leaves the node's border in `s.reference`, the strategies'
    bits in `s.costs`.
    """
    size = 1 << log2
    stride = 1 if fine else max(size >> 3, 1)
    gather_reference(p, s, y, x, size)
    strategy_costs(p, m, y, x, log2, s.costs)
    strategies = int(c.counts[NUM_STRATEGIES])
    for k in range(strategies):
        s.satd[k] = _UNKNOWN
        turn = int(c.strategies[k]) - tables.FIRST_ANGLE
        if fine or turn < 0 or turn % 4 == 0:
            bits = s.costs[layout.MAX_STRATEGIES + k]
            s.satd[k] = rank_strategy(p, s, c, y, x, size, stride, k, bits)
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
def estimate_leaf(
    p: Picture, s: Work, c: Constants, y: int, x: int, log2: int, strategy: int
) -> tuple[float, float, float]:
    """What coding a block's luma with a strategy would come to, quantized plainly, without the model.

    Returns:
        The number of levels that are not zero, an estimate of their bits, and the squared error over λ.
    """
    size = 1 << log2
    predict(s, 0, size, int(c.strategies[strategy]), 1)
    take_residual(p, s, 0, y, x, size)
    transform_residual(s, c, usual_transform(0, size), size)
    return estimate_coefficients(s, c, size, int(p.state.control[STEP]))


@kernel
def refine_ranking(p: Picture, s: Work, c: Constants, y: int, x: int, log2: int) -> int:
    """Order the best strategies anew by the cost of their coefficients; return the best of all.

    To be called after `rank_strategies`. `s.satd` becomes each strategy's cost above the best one, still in
    units of SATD; those that were not looked at again come after those that were. The best leaf's estimate
    is left in `s.estimate`: levels, bits, J/λ.
    """
    strategies = int(c.counts[NUM_STRATEGIES])
    count = min(REFINED[log2 - tables.MIN_BLOCK_LOG2], strategies)
    order_candidates(s, strategies, count)
    least = s.satd[s.order[0]]
    best = 0
    for i in range(count):
        k = int(s.order[i])
        levels, level_bits, error = estimate_leaf(p, s, c, y, x, log2, k)
        cost = s.costs[layout.MAX_STRATEGIES + k] + level_bits + error
        s.refined[i] = cost
        if i == 0 or cost < s.refined[best]:
            best = i
            s.estimate[0] = levels
            s.estimate[1] = level_bits
            s.estimate[2] = cost
    weight = np.sqrt(lambda_of(p, c))
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
