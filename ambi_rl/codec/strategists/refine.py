"""Hill climbing over a superblock's planned decisions, by what they lead to in the blocks that follow.

A greedy search weighs a block by its own estimated cost. Here each leaf's decisions are changed one at a
time, and the superblock is really coded from that leaf on, with the whole entropy model learning as it will:
a change is kept if the sum of J over the leaf and those after it falls.
"""

from __future__ import annotations

from typing import NamedTuple

from ambi_rl.codec import tables
from ambi_rl.codec.entropy.coder import COUNT, TRIAL, Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.block import (
    SPLIT,
    clear_maps,
    code_leaf,
    code_node,
    importance_of,
    lambda_of,
)
from ambi_rl.codec.kernel.state import (
    BITS,
    CHROMA,
    CURSOR,
    MODE,
    NODE_LOG2,
    NODE_X,
    NODE_Y,
    NUM_OFFSETS,
    OFFSET,
    PLANES,
    SIZE,
    STRATEGY,
    TRANSFORM,
    Constants,
    Picture,
    State,
    Work,
)
from ambi_rl.codec.kernel.syntax import has_transforms
from ambi_rl.codec.strategists.plan_maps import planned_decision

_SIDE = tables.SUPERBLOCK

_LEFT, _ABOVE, _PLANAR, _DC, _NEXT_ANGLE, _LAST_ANGLE = range(6)
_FIRST_TRANSFORM = 6
_FIRST_CHROMA = _FIRST_TRANSFORM + tables.NUM_TRANSFORMS
_NUM_CHROMAS = 4
_FIRST_EMPHASIS = _FIRST_CHROMA + _NUM_CHROMAS
_FIRST_OFFSET = _FIRST_EMPHASIS + 2
_NUM_MOVES = _FIRST_OFFSET + 2
_MAX_EMPHASIS = 4


class _Choice(NamedTuple):
    """What is decided about a leaf; the transform is −1 where the kernel chooses."""

    strategy: int
    offset: int
    chroma: int
    transform: int
    emphasis: int


@kernel
def _copy_state(source: State, target: State) -> None:
    for i in range(source.control.size):
        target.control[i] = source.control[i]
    for i in range(source.registers.size):
        target.registers[i] = source.registers[i]
    for i in range(source.stack.shape[0]):
        for j in range(source.stack.shape[1]):
            target.stack[i, j] = source.stack[i, j]
    for i in range(source.probs.size):
        target.probs[i] = source.probs[i]
    for i in range(source.weights.size):
        target.weights[i] = source.weights[i]


@kernel
def _clear_magnitudes(p: Picture, y: int, x: int, size: int) -> None:
    for plane in range(p.magnitudes.shape[0]):
        for i in range(y, min(y + size, p.magnitudes.shape[1])):
            for j in range(x, min(x + size, p.magnitudes.shape[2])):
                p.magnitudes[plane, i, j] = 0


@kernel
def _note_known(p: Picture, s: Work, top: int, left: int) -> None:
    """Note which units of a superblock are coded."""
    for i in range(min(_SIDE >> 2, p.maps.shape[1] - (top >> 2))):
        for j in range(min(_SIDE >> 2, p.maps.shape[2] - (left >> 2))):
            s.known[i, j] = p.maps[SIZE, (top >> 2) + i, (left >> 2) + j]


@kernel
def _forget_unknown(p: Picture, s: Work, top: int, left: int) -> None:
    """Forget what was coded in a superblock since `_note_known`."""
    for i in range(min(_SIDE >> 2, p.maps.shape[1] - (top >> 2))):
        for j in range(min(_SIDE >> 2, p.maps.shape[2] - (left >> 2))):
            if s.known[i, j] == 0:
                clear_maps(p, top + 4 * i, left + 4 * j, 4)
                _clear_magnitudes(p, top + 4 * i, left + 4 * j, 4)


@kernel
def _choice_at(s: Work, uy: int, ux: int) -> _Choice:
    return _Choice(
        int(s.planned[STRATEGY, uy, ux]) - 1,
        int(s.planned[OFFSET, uy, ux]) - 1,
        int(s.planned[CHROMA, uy, ux]) - 1,
        int(s.planned[TRANSFORM, uy, ux]) - 1,
        int(s.emphasis[uy, ux]),
    )


@kernel
def _plan_choice(s: Work, uy: int, ux: int, log2: int, choice: _Choice) -> None:
    units = 1 << (log2 - tables.MIN_BLOCK_LOG2)
    for i in range(uy, uy + units):
        for j in range(ux, ux + units):
            s.planned[STRATEGY, i, j] = choice.strategy + 1
            s.planned[OFFSET, i, j] = choice.offset + 1
            s.planned[CHROMA, i, j] = choice.chroma + 1
            s.planned[TRANSFORM, i, j] = choice.transform + 1
            s.emphasis[i, j] = choice.emphasis


@kernel
def _other_strategy(
    p: Picture, c: Constants, y: int, x: int, log2: int, old: int, move: int
) -> int:
    """The strategy that a move leads to, `old` if to none: a neighbour's, a smooth one, the next angles."""
    units = 1 << (log2 - tables.MIN_BLOCK_LOG2)
    code = int(c.strategies[old])
    found = -1
    if move == _LEFT and x > 0:
        found = int(p.maps[STRATEGY, (y >> 2) + units - 1, (x >> 2) - 1]) - 1
    elif move == _ABOVE and y > 0:
        found = int(p.maps[STRATEGY, (y >> 2) - 1, (x >> 2) + units - 1]) - 1
    elif move == _PLANAR:
        found = int(c.strategy_of[tables.PLANAR])
    elif move == _DC:
        found = int(c.strategy_of[tables.DC])
    elif move == _NEXT_ANGLE and tables.FIRST_ANGLE <= code < tables.LAST_ANGLE:
        found = int(c.strategy_of[code + 1])
    elif move == _LAST_ANGLE and code > tables.FIRST_ANGLE:
        found = int(c.strategy_of[code - 1])
    return found if found >= 0 else old


@kernel
def _moved(
    p: Picture, c: Constants, y: int, x: int, log2: int, old: _Choice, move: int
) -> tuple[bool, _Choice]:
    """The choice that a move leads to, and whether it is another than `old`."""
    strategy, offset, chroma, transform, emphasis = old
    if move < _FIRST_TRANSFORM:
        strategy = _other_strategy(p, c, y, x, log2, old.strategy, move)
    elif move < _FIRST_CHROMA:
        # A block without levels has none to transform.
        if transform >= 0 and has_transforms(1 << log2):
            transform = move - _FIRST_TRANSFORM
    elif move < _FIRST_EMPHASIS:
        if p.state.control[PLANES] == 3:
            chroma = move - _FIRST_CHROMA
    elif move < _FIRST_OFFSET:
        emphasis += 1 if move == _FIRST_EMPHASIS else -1
        emphasis = min(max(emphasis, -_MAX_EMPHASIS), _MAX_EMPHASIS)
    else:
        offset += 1 if move == _FIRST_OFFSET else -1
        offset = min(max(offset, 0), int(c.counts[NUM_OFFSETS]) - 1)
    new = _Choice(strategy, offset, chroma, transform, emphasis)
    return new != old, new


@kernel
def _own_cost(p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int) -> float:
    """J of a leaf with the choice that `s.planned` has for it, by the whole model; nothing is learned."""
    uy, ux = (y % _SIDE) >> 2, (x % _SIDE) >> 2
    mode = p.state.registers[MODE]
    before = p.state.registers[BITS]
    p.state.registers[MODE] = TRIAL
    choice = _choice_at(s, uy, ux)
    error = code_leaf(
        p, s, c, m, y, x, log2, choice.strategy, choice.offset, choice.chroma, choice.transform
    )
    bits = (p.state.registers[BITS] - before) / 65536
    p.state.registers[MODE] = mode
    p.state.registers[BITS] = before
    clear_maps(p, y, x, 1 << log2)
    _clear_magnitudes(p, y, x, 1 << log2)
    return importance_of(p, y, x, 1 << log2) * error + lambda_of(p, c) * bits


@kernel
def _code_planned(p: Picture, s: Work, c: Constants) -> tuple[float, bool]:
    """Code the current node as planned; return its weighted error, and whether it is a leaf."""
    y, x, log2 = (
        int(p.state.control[NODE_Y]),
        int(p.state.control[NODE_X]),
        int(p.state.control[NODE_LOG2]),
    )
    decision, offset, chroma, transform = planned_decision(
        s.planned, (y % _SIDE) >> 2, (x % _SIDE) >> 2, log2
    )
    error = code_node(p, s, c, decision, offset, chroma, transform)
    return importance_of(p, y, x, 1 << log2) * error, decision != SPLIT


@kernel
def _within(p: Picture, cursor: int) -> bool:
    """Whether the current node is in the superblock that has this cursor."""
    return bool(p.state.control[NODE_LOG2] > 0 and p.state.control[CURSOR] == cursor)


@kernel
def _cost_ahead(
    p: Picture, s: Work, c: Constants, spare: State, top: int, left: int, horizon: int
) -> float:
    """J of the current leaf and up to `horizon` more of its superblock, as planned; all is undone."""
    cursor = int(p.state.control[CURSOR])
    before = p.state.registers[BITS]
    total = 0.0
    leaves = 0
    while leaves <= horizon and _within(p, cursor):
        error, is_leaf = _code_planned(p, s, c)
        total += error
        leaves += 1 if is_leaf else 0
    total += lambda_of(p, c) * (p.state.registers[BITS] - before) / 65536
    _copy_state(spare, p.state)
    _forget_unknown(p, s, top, left)
    return total


@kernel
def _refine_leaf(
    p: Picture, s: Work, c: Constants, spare: State, top: int, left: int, horizon: int, slack: float
) -> None:
    """Improve what is planned for the current leaf."""
    m = Model(p.state, s, c, p.stream)
    y, x, log2 = (
        int(p.state.control[NODE_Y]),
        int(p.state.control[NODE_X]),
        int(p.state.control[NODE_LOG2]),
    )
    uy, ux = (y - top) >> 2, (x - left) >> 2
    margin = lambda_of(p, c) * slack
    own = _own_cost(p, s, c, m, y, x, log2)
    least = own
    looked = False
    for move in range(_NUM_MOVES):
        old = _choice_at(s, uy, ux)
        changed, new = _moved(p, c, y, x, log2, old, move)
        if not changed:
            continue
        _plan_choice(s, uy, ux, log2, new)
        new_own = _own_cost(p, s, c, m, y, x, log2)
        cost = new_own
        if horizon > 0 and new_own < own + margin:
            cost = _cost_ahead(p, s, c, spare, top, left, horizon)
            if not looked:
                _plan_choice(s, uy, ux, log2, old)
                least = _cost_ahead(p, s, c, spare, top, left, horizon)
                _plan_choice(s, uy, ux, log2, new)
                looked = True
        elif horizon > 0:
            cost = 1e300
        if cost < least:
            least = cost
            own = new_own
        else:
            _plan_choice(s, uy, ux, log2, old)


@kernel
def clear_emphasis(s: Work) -> None:
    """Let λ be what it is in all blocks of the superblock to come."""
    for i in range(s.emphasis.shape[0]):
        for j in range(s.emphasis.shape[1]):
            s.emphasis[i, j] = 0


@kernel
def refine_superblock(
    p: Picture,
    s: Work,
    c: Constants,
    start: State,
    spare: State,
    top: int,
    left: int,
    horizon: int,
    slack: float,
) -> None:
    """Improve the plan of the superblock that is coded next, in `s.planned` and `s.emphasis`.

    Args:
        p: The picture; as it was when this returns.
        s: Work.
        c: Constants.
        start: Scratch.
        spare: Scratch.
        top: Top row of the superblock.
        left: Its left column.
        horizon: How many leaves after a changed one are coded to weigh the change.
        slack: A change is weighed so if the leaf alone gets worse by no more than this many bits.
    """
    _copy_state(p.state, start)
    cursor = int(p.state.control[CURSOR])
    p.state.registers[MODE] = COUNT
    while _within(p, cursor):
        y, x, log2 = (
            int(p.state.control[NODE_Y]),
            int(p.state.control[NODE_X]),
            int(p.state.control[NODE_LOG2]),
        )
        decision, _, _, _ = planned_decision(s.planned, (y - top) >> 2, (x - left) >> 2, log2)
        if decision != SPLIT:
            if horizon > 0:
                _copy_state(p.state, spare)
                _note_known(p, s, top, left)
            _refine_leaf(p, s, c, spare, top, left, horizon, slack)
        _code_planned(p, s, c)
    clear_maps(p, top, left, _SIDE)
    _clear_magnitudes(p, top, left, _SIDE)
    _copy_state(start, p.state)
