"""The strategists' decisions in compiled code: fixed, policy, and recursive search (full or guided)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.entropy.coder import ESTIMATE, Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import (
    AUTO_CHROMA,
    AUTO_TRANSFORM,
    SPLIT,
    block_lambda,
    block_step,
    choose_transform,
    clear_maps,
    code_leaf,
    code_node,
    direction_group,
    importance_of,
    lambda_of,
    must_split,
    take_residual,
    transform_residual,
)
from ambi_rl.codec.kernel.predict import predict
from ambi_rl.codec.kernel.quantize import quantize
from ambi_rl.codec.kernel.state import (
    BITS,
    CHROMA,
    CURSOR,
    ENERGY,
    FAULT,
    MODE,
    NEUTRAL,
    NODE_LOG2,
    NODE_X,
    NODE_Y,
    NUM_MAPS,
    NUM_OFFSETS,
    NUM_STRATEGIES,
    OFFSET,
    PLANES,
    SIZE,
    STRATEGY,
    TRANSFORM,
    Constants,
    Picture,
    Work,
)
from ambi_rl.codec.kernel.syntax import (
    code_offset,
    code_split,
    code_strategy,
    code_transform,
    has_transforms,
    neighbour_energy,
    step_class,
)
from ambi_rl.codec.strategists.estimate import order_candidates, rank_strategies, refine_ranking
from ambi_rl.codec.strategists.observation import observe
from ambi_rl.codec.strategists.policy_net import Network, evaluate

FIXED, SEARCH, POLICY, GUIDED = range(4)

_SIDE = tables.SUPERBLOCK


class Plan(NamedTuple):
    """How a strategist decides; see `ambi_rl.codec.strategists.Strategist`.

    Attributes:
        kind: FIXED, SEARCH, POLICY or GUIDED.
        candidates: Strategies that are tried exactly in each node.
        offset_span: Offsets tried on each side of the neutral one.
        exact_chroma: Whether each chroma strategy is tried exactly.
        transformed: For how many of the best strategies each transform is tried exactly.
        leaf_below: GUIDED: probability of a split under which no split is tried.
        split_above: GUIDED: probability of a split above which no leaf is tried.
        stop_empty: Whether a block without levels is never split.
        fine: Whether strategies are ranked on all samples instead of a lattice.
        fixed_log2: FIXED: log2 of the block size.
        fixed_strategy: FIXED: the strategy's index.
    """

    kind: int
    candidates: int
    offset_span: int
    exact_chroma: bool
    transformed: int
    leaf_below: float
    split_above: float
    stop_empty: bool
    fine: bool
    fixed_log2: int
    fixed_strategy: int


@kernel
def _split_probability(s: Work, strategies: int) -> float:
    """Softmax probability of SPLIT among the decisions in `s.scores`."""
    high = s.scores[0]
    for k in range(strategies + 1):
        high = max(high, s.scores[k])
    total = 0.0
    for k in range(strategies + 1):
        total += np.exp(s.scores[k] - high)
    return np.exp(s.scores[0] - high) / total


@kernel
def policy_decision(s: Work, strategies: int, offsets: int, log2: int) -> tuple[int, int]:
    """The policy's decision and offset, from the logits in `s.scores`.

    Whether to split is decided first: a leaf's probability is spread over all strategies, so that the
    likeliest single decision would be a split far too often.
    """
    best = 1
    for k in range(2, strategies + 1):
        if s.scores[k] > s.scores[best]:
            best = k
    if log2 > tables.MIN_BLOCK_LOG2 and _split_probability(s, strategies) > 0.5:
        best = SPLIT
    offset = 0
    for k in range(1, offsets):
        if s.scores[strategies + 1 + k] > s.scores[strategies + 1 + offset]:
            offset = k
    return best, offset


@kernel
def _luma_cost(
    p: Picture,
    s: Work,
    c: Constants,
    m: Model,
    y: int,
    x: int,
    log2: int,
    strategy: int,
    offset: int,
    energy: int,
    transform: int,
) -> tuple[float, int]:
    """J of a leaf's decisions and luma levels, from the coefficients; the border is in `s.reference`.

    Returns:
        J, and the transform: the one given, or the kernel's choice for AUTO_TRANSFORM.
    """
    size = 1 << log2
    code = int(c.strategies[strategy])
    predict(s, 0, size, code, 1)
    take_residual(p, s, 0, y, x, size)
    if transform == AUTO_TRANSFORM:
        transform = choose_transform(p, s, c, size)
    else:
        transform_residual(s, c, transform, size)
    lagrangian = block_lambda(p, c, y, x, size, offset)
    before = p.state.registers[BITS]
    code_strategy(p, m, y, x, log2, strategy)
    code_offset(p, m, y, x, log2, offset)
    step = block_step(p, c, 0, offset)
    last, distortion, level_bits = quantize(
        s, c, m, 0, size, step, lagrangian * 4096, energy, direction_group(code), step_class(p)
    )
    if last >= 0 and has_transforms(size):
        code_transform(p, m, y, x, size, direction_group(code), transform)
    bits = (p.state.registers[BITS] - before) / 65536
    weighted = importance_of(p, y, x, size) * distortion / 4096
    return weighted + lambda_of(p, c) * (bits + level_bits), transform


@kernel
def _offset_for(c: Constants, importance: float) -> int:
    """The offset whose step suits an importance: the squared step times the importance nearest to 1."""
    best = int(c.counts[NEUTRAL])
    least = 1e300
    for k in range(c.counts[NUM_OFFSETS]):
        multiplier = c.multipliers[k] / tables.OFFSET_SCALE
        miss = abs(np.log(importance * multiplier * multiplier))
        if miss < least:
            least = miss
            best = k
    return best


@kernel
def _least(s: Work, count: int) -> int:
    """Index of the least of the first `count` costs in `s.refined`."""
    least = 0
    for i in range(1, count):
        if s.refined[i] < s.refined[least]:
            least = i
    return least


@kernel
def _choose_leaf(
    p: Picture,
    s: Work,
    c: Constants,
    m: Model,
    plan: Plan,
    y: int,
    x: int,
    log2: int,
    offset: int,
) -> tuple[int, int, int]:
    """Of the plan's candidates, which are first in `s.order`, the one of least J in luma.

    Nothing is computed if there is only one choice. `gather_reference` must have been called for the node.

    Returns:
        The strategy, the offset, and the transform or AUTO_TRANSFORM.
    """
    wanted = min(plan.candidates, int(c.counts[NUM_STRATEGIES]))
    best = int(s.order[0])
    best_offset = offset
    best_transform = AUTO_TRANSFORM
    if wanted == 1 and plan.offset_span == 0 and plan.transformed == 0:
        return best, best_offset, best_transform
    energy = neighbour_energy(p, 0, y, x, 1 << log2)
    best_cost = 1e300
    for i in range(wanted):
        k = int(s.order[i])
        cost, transform = _luma_cost(p, s, c, m, y, x, log2, k, offset, energy, AUTO_TRANSFORM)
        s.refined[i] = cost
        s.transforms[i] = transform
        if cost < best_cost:
            best_cost = cost
            best = k
            best_transform = transform
    for _ in range(min(plan.transformed, wanted) if has_transforms(1 << log2) else 0):
        i = _least(s, wanted)
        s.refined[i] = 1e300
        k = int(s.order[i])
        for kind in range(tables.NUM_TRANSFORMS):
            if kind != s.transforms[i]:
                cost, _ = _luma_cost(p, s, c, m, y, x, log2, k, offset, energy, kind)
                if cost < best_cost:
                    best_cost = cost
                    best = k
                    best_transform = kind
    first = max(offset - plan.offset_span, 0)
    last = min(offset + plan.offset_span, int(c.counts[NUM_OFFSETS]) - 1)
    for other in range(first, last + 1):
        if other != offset:
            cost, _ = _luma_cost(p, s, c, m, y, x, log2, best, other, energy, best_transform)
            if cost < best_cost:
                best_cost = cost
                best_offset = other
    return best, best_offset, best_transform


@kernel
def _order_by_policy(s: Work, c: Constants, plan: Plan) -> None:
    """Put the strategies that the policy likes best first in `s.order`."""
    strategies = int(c.counts[NUM_STRATEGIES])
    for k in range(strategies):
        s.satd[k] = -float(s.scores[k + 1])
    order_candidates(s, strategies, min(plan.candidates, strategies))


@kernel
def _best_leaf(
    p: Picture, s: Work, c: Constants, m: Model, net: Network, plan: Plan, y: int, x: int, log2: int
) -> float:
    """Find and code the best leaf for a node (without learning); return its J."""
    strategies = int(c.counts[NUM_STRATEGIES])
    importance = importance_of(p, y, x, 1 << log2)
    offset = _offset_for(c, importance)
    if plan.kind == GUIDED:
        _order_by_policy(s, c, plan)
        _, offset = policy_decision(s, strategies, int(c.counts[NUM_OFFSETS]), log2)
    else:
        rank_strategies(p, s, c, m, y, x, log2, plan.fine)
        if not plan.fine:
            refine_ranking(p, s, c, y, x, log2)
        order_candidates(s, strategies, min(plan.candidates, strategies))
    strategy, offset, transform = _choose_leaf(p, s, c, m, plan, y, x, log2, offset)
    # The last pass codes the choice, so that its reconstruction and maps stay behind.
    lagrangian = lambda_of(p, c)
    exact = plan.exact_chroma and p.state.control[PLANES] == 3
    best_chroma = AUTO_CHROMA
    best_cost = 1e300
    for attempt in range(0 if exact else 4, 5):
        chroma = attempt if attempt < 4 else best_chroma
        before = p.state.registers[BITS]
        error = code_leaf(p, s, c, m, y, x, log2, strategy, offset, chroma, transform)
        cost = importance * error + lagrangian * (p.state.registers[BITS] - before) / 65536
        if cost < best_cost:
            best_cost = cost
            best_chroma = chroma
    return best_cost


@kernel
def _policy_node(
    p: Picture, s: Work, c: Constants, m: Model, net: Network, plan: Plan, y: int, x: int, log2: int
) -> tuple[int, int, int]:
    """The policy's decision for a node, its offset, and the transform; exact costs pick among candidates."""
    observe(p, s, c, m, y, x, log2)
    evaluate(net, s)
    strategies = int(c.counts[NUM_STRATEGIES])
    decision, offset = policy_decision(s, strategies, int(c.counts[NUM_OFFSETS]), log2)
    if decision == SPLIT or (plan.candidates == 1 and plan.transformed == 0):
        return decision, offset, AUTO_TRANSFORM
    mode = p.state.registers[MODE]
    bits = p.state.registers[BITS]
    p.state.registers[MODE] = ESTIMATE
    _order_by_policy(s, c, plan)
    strategy, offset, transform = _choose_leaf(p, s, c, m, plan, y, x, log2, offset)
    p.state.registers[MODE] = mode
    p.state.registers[BITS] = bits
    return strategy + 1, offset, transform


@kernel
def _save(p: Picture, s: Work, y: int, x: int, log2: int) -> None:
    slot = log2 - tables.MIN_BLOCK_LOG2
    size = 1 << log2
    for plane in range(p.decoded.shape[0]):
        for i in range(size):
            for j in range(size):
                s.saved[slot, plane, i, j] = p.decoded[plane, y + i, x + j]
    for channel in range(NUM_MAPS):
        for i in range(size >> 2):
            for j in range(size >> 2):
                s.saved_maps[slot, channel, i, j] = p.maps[channel, (y >> 2) + i, (x >> 2) + j]


@kernel
def _restore(p: Picture, s: Work, y: int, x: int, log2: int) -> None:
    slot = log2 - tables.MIN_BLOCK_LOG2
    size = 1 << log2
    for plane in range(p.decoded.shape[0]):
        for i in range(size):
            for j in range(size):
                p.decoded[plane, y + i, x + j] = s.saved[slot, plane, i, j]
    for channel in range(NUM_MAPS):
        for i in range(size >> 2):
            for j in range(size >> 2):
                p.maps[channel, (y >> 2) + i, (x >> 2) + j] = s.saved_maps[slot, channel, i, j]


@kernel
def search_node(
    p: Picture, s: Work, c: Constants, m: Model, net: Network, plan: Plan, y: int, x: int, log2: int
) -> float:
    """Best decisions for a node and all below it, by J with the model's current costs; return J.

    The decisions stay in the maps, the reconstruction in `decoded`; nothing is learned.
    """
    if y >= p.source.shape[1] or x >= p.source.shape[2]:
        return 0.0
    half = 1 << (log2 - 1)
    if must_split(p, y, x, log2):
        total = 0.0
        for quarter in range(4):
            total += search_node(
                p, s, c, m, net, plan, y + half * (quarter // 2), x + half * (quarter % 2), log2 - 1
            )
        return total
    lagrangian = lambda_of(p, c)
    try_split = log2 > tables.MIN_BLOCK_LOG2
    try_leaf = True
    if plan.kind == GUIDED:
        observe(p, s, c, m, y, x, log2)
        evaluate(net, s)
        if try_split:
            chance = _split_probability(s, int(c.counts[NUM_STRATEGIES]))
            try_leaf = chance <= plan.split_above
            try_split = chance >= plan.leaf_below
    leaf_bits = 0
    split_bits = 0
    if log2 > tables.MIN_BLOCK_LOG2:
        before = p.state.registers[BITS]
        code_split(p, m, y, x, log2, 0)
        leaf_bits = p.state.registers[BITS] - before
        before = p.state.registers[BITS]
        code_split(p, m, y, x, log2, 1)
        split_bits = p.state.registers[BITS] - before
    leaf_cost = 1e300
    if try_leaf:
        leaf_cost = _best_leaf(p, s, c, m, net, plan, y, x, log2) + lagrangian * leaf_bits / 65536
        if plan.stop_empty:
            empty = True
            for plane in range(int(p.state.control[PLANES])):
                empty = empty and p.maps[ENERGY + plane, y >> 2, x >> 2] == 0
            try_split = try_split and not empty
        if not try_split:
            return leaf_cost
        _save(p, s, y, x, log2)
    clear_maps(p, y, x, 1 << log2)
    split_cost = lagrangian * split_bits / 65536
    for quarter in range(4):
        split_cost += search_node(
            p, s, c, m, net, plan, y + half * (quarter // 2), x + half * (quarter % 2), log2 - 1
        )
        if split_cost >= leaf_cost:
            break
    if split_cost < leaf_cost:
        return split_cost
    _restore(p, s, y, x, log2)
    return leaf_cost


@kernel
def _take_plan(p: Picture, s: Work, y: int, x: int) -> None:
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


@kernel
def encode_picture(p: Picture, s: Work, c: Constants, net: Network, plan: Plan) -> float:
    """Code every node of a picture as the plan decides; return the squared error of the whole."""
    m = Model(p.state, s, c, p.stream)
    error = 0.0
    searched = 0
    while p.state.control[NODE_LOG2] > 0 and p.state.registers[FAULT] == 0:
        y, x, log2 = (
            int(p.state.control[NODE_Y]),
            int(p.state.control[NODE_X]),
            int(p.state.control[NODE_LOG2]),
        )
        decision = SPLIT
        offset = int(c.counts[NEUTRAL])
        chroma = AUTO_CHROMA
        transform = AUTO_TRANSFORM
        if plan.kind == FIXED:
            if log2 <= plan.fixed_log2:
                decision = plan.fixed_strategy + 1
        elif plan.kind == POLICY:
            decision, offset, transform = _policy_node(p, s, c, m, net, plan, y, x, log2)
        else:
            top = y // _SIDE * _SIDE
            left = x // _SIDE * _SIDE
            if p.state.control[CURSOR] != searched:
                searched = int(p.state.control[CURSOR])
                bits = p.state.registers[BITS]
                mode = p.state.registers[MODE]
                p.state.registers[MODE] = ESTIMATE
                search_node(p, s, c, m, net, plan, top, left, tables.SUPERBLOCK_LOG2)
                p.state.registers[MODE] = mode
                p.state.registers[BITS] = bits
                _take_plan(p, s, top, left)
            decision, offset, chroma, transform = planned_decision(
                s.planned, (y - top) >> 2, (x - left) >> 2, log2
            )
        error += code_node(p, s, c, decision, offset, chroma, transform)
    return error
