"""Choice of the levels: a trellis over dependent quantization, with the entropy model's rates (encoder only).

Every level belongs to one of two quantizers, as the levels before it say (`tables.NEXT_STATE`); together
they pack the space of coefficients more densely than one scalar quantizer. The best sequence of levels is
found with the Viterbi algorithm: Schwarz et al., "Hybrid video coding with trellis-coded quantization", 2019.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import PATH_ROW, Constants, Work
from ambi_rl.codec.kernel.syntax import (
    diagonal_class,
    energy_context,
    joint_context,
    last_costs,
    magnitude_class,
    magnitude_cost,
    place_context,
    size_index,
)

_SIDE = tables.SUPERBLOCK
_STATES = tables.NUM_STATES
_PATH = 3 * PATH_ROW
_LARGEST = 63
"""Magnitudes above this are all the same to the contexts."""
_INFINITE = 1e300

# An estimate of luma's bits, fitted to what the entropy model asks (docs/decisions.md).
_DEAD_ZONE = 0.35
_BITS_PER_LEVEL = 1.5
_BITS_PER_OCTAVE = 1.4
_BITS_FOR_ORDER = 0.25
_BITS_FOR_LAST = 1.6

_FRESH = _STATES
"""Predecessor of a path that starts: everything before it is zero and not coded."""


@kernel
def clear_levels(s: Work, plane: int, size: int) -> None:
    """Zero the levels of a plane, and the margin that contexts look at."""
    for i in range(size + 3):
        for j in range(size + 3):
            s.levels[plane, i, j] = 0
            s.magnitudes[plane, i, j] = 0


@kernel
def sum_of_levels(s: Work, plane: int, size: int) -> int:
    """Sum of the magnitudes of a block's levels."""
    total = 0
    for i in range(size):
        for j in range(size):
            total += abs(int(s.levels[plane, i, j]))
    return total


@kernel
def estimate_coefficients(
    s: Work, c: Constants, size: int, step: int
) -> tuple[float, float, float]:
    """What `s.coefficients` would come to as luma levels, quantized plainly, without the model.

    Args:
        s: Work.
        c: Constants.
        size: Side of the block.
        step: The picture's quantizer step in 1/64 code value.

    Returns:
        The number of levels that are not zero, an estimate of their bits, and the squared error over λ.
    """
    order = c.order[size_index(size)]
    scale = 1.0 / step
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
    return float(levels), bits + _BITS_FOR_LAST * last, error / c.lambda_scale[0]


@kernel
def _neighbourhood(path: npt.NDArray[np.int8], diagonal: int, row: int) -> int:
    """Sum of the five nearest known levels of a path, as in `level_contexts`."""
    one = (diagonal + 1) % 3 * PATH_ROW + row
    two = (diagonal + 2) % 3 * PATH_ROW + row
    near = int(path[one]) + int(path[one + 1])
    near += int(path[two]) + int(path[two + 1]) + int(path[two + 2])
    return near


@kernel
def _lower_level(value: int, step: int, quantizer: int) -> int:
    """The largest level whose reconstruction does not exceed `value`."""
    return value // (2 * step) if quantizer == 0 else (value // step + 1) // 2


@kernel
def reconstruction(level: int, quantizer: int, step: int) -> int:
    """What a magnitude stands for."""
    return (2 * level - (quantizer if level > 0 else 0)) * step


@kernel
def _extend(
    s: Work,
    turn: int,
    position: int,
    state: int,
    previous: int,
    level: int,
    cost: float,
) -> None:
    """Let a path take a level if that is the best way yet to the state it leads to."""
    following = int(tables.NEXT_STATE[state, level & 1])
    if cost < s.path_costs[1 - turn, following]:
        s.path_costs[1 - turn, following] = cost
        s.trellis[position, following] = level * 16 + previous


@kernel
def _carry_paths(s: Work, turn: int, position: int, diagonal: int, row: int) -> None:
    """Give each surviving path the recent levels of its predecessor, and its new one."""
    here = diagonal % 3 * PATH_ROW + row
    for state in range(_STATES):
        if s.path_costs[1 - turn, state] == _INFINITE:
            continue
        choice = int(s.trellis[position, state])
        path = s.paths[1 - turn, state]
        if choice % 16 == _FRESH:
            for i in range(_PATH):
                path[i] = 0
        else:
            old = s.paths[turn, choice % 16]
            for i in range(_PATH):
                path[i] = old[i]
        path[here] = min(choice // 16, _LARGEST)


@kernel
def _step_paths(
    s: Work,
    m: Model,
    turn: int,
    position: int,
    value: int,
    step: int,
    lagrangian: float,
    kind: int,
    row: int,
    col: int,
    size: int,
    plane: int,
    energy: int,
) -> None:
    """Extend every path by its candidate levels for a coefficient of magnitude `value`.

    A path's cost is relative to coding all coefficients as zeros without a bit.

    Args:
        s: Work.
        m: The entropy model, not changed.
        turn: Which half of `s.paths` is the present.
        position: Scan position.
        value: Magnitude of the coefficient.
        step: Spacing of the reconstruction levels.
        lagrangian: λ.
        kind: Chroma and size, see `joint_context`, for quantizer 0.
        row: Vertical frequency.
        col: Horizontal frequency.
        size: Side of the block.
        plane: 0…2.
        energy: Context, see `neighbour_energy`.
    """
    diagonal = row + col
    coarse = diagonal_class(diagonal, size)
    for state in range(_STATES):
        cost = s.path_costs[turn, state]
        if cost == _INFINITE:
            continue
        quantizer = int(tables.QUANTIZER[state])
        near = _neighbourhood(s.paths[turn, state], diagonal, row)
        own = quantizer * 2 * layout.SIZES + kind
        joint = joint_context(own, magnitude_class(near), coarse)
        place = place_context(own, row, col, size)
        around = energy_context(plane, energy, coarse, near)
        low = _lower_level(value, step, quantizer)
        if low <= 2:
            bits = magnitude_cost(m, place, around, joint, 0, 0)
            _extend(s, turn, position, state, state, 0, cost + lagrangian * bits)
        for level in range(max(low, 1), low + 2):
            miss = float(reconstruction(level, quantizer, step) - value)
            # The upper neighbour of a small coefficient is never worth its bits.
            if 2 * miss > 3 * step:
                continue
            gain = float(value) * value - miss * miss
            bits = magnitude_cost(m, place, around, joint, 0, level)
            _extend(s, turn, position, state, state, level, cost - gain + lagrangian * bits)


@kernel
def _may_start(value: int, step: int) -> bool:
    """Whether a coefficient may be the last level of a block.

    A path starts in quantizer 0, whose first level is 2·step: below step nothing is gained, and below
    5/4 of it less than three bits are worth.
    """
    return 4 * value > 5 * step


@kernel
def _start_path(
    s: Work,
    m: Model,
    turn: int,
    position: int,
    value: int,
    step: int,
    lagrangian: float,
    kind: int,
    row: int,
    col: int,
    size: int,
    plane: int,
    energy: int,
) -> None:
    """Let a path begin with the coefficient at `position`: the last level that is coded."""
    coarse = diagonal_class(row + col, size)
    joint = joint_context(kind, 0, coarse)
    place = place_context(kind, row, col, size)
    around = energy_context(plane, energy, coarse, 0)
    length = 0
    while ((position + 1) >> (length + 1)) > 0:
        length += 1
    low = max(_lower_level(value, step, 0), 1)
    for level in range(low, low + 2):
        miss = float(reconstruction(level, 0, step) - value)
        bits = s.costs[length] + magnitude_cost(m, place, around, joint, 1, level)
        gain = float(value) * value - miss * miss
        _extend(s, turn, position, 0, _FRESH, level, lagrangian * bits - gain)


@kernel
def _clear_diagonal(s: Work, turn: int, diagonal: int) -> None:
    """Forget a diagonal whose place the next one takes."""
    slot = diagonal % 3 * PATH_ROW
    for state in range(_STATES):
        path = s.paths[turn, state]
        for i in range(PATH_ROW):
            path[slot + i] = 0


@kernel
def _trace_back(
    s: Work,
    scan: npt.NDArray[np.int32],
    plane: int,
    step: int,
    start: int,
    turn: int,
    total: float,
    lagrangian: float,
) -> tuple[int, float, float]:
    """Write the levels of the best path; return what `quantize` does."""
    state = 0
    for other in range(1, _STATES):
        if s.path_costs[turn, other] < s.path_costs[turn, state]:
            state = other
    cost = s.path_costs[turn, state]
    if cost >= 0:
        return -1, total, 0.0
    distortion = total
    for position in range(start + 1):
        choice = int(s.trellis[position, state])
        level = choice // 16
        previous = choice % 16
        if level > 0:
            row = int(scan[position]) // _SIDE
            col = int(scan[position]) % _SIDE
            value = int(s.coefficients[row, col])
            s.levels[plane, row, col] = level if value >= 0 else -level
            quantizer = 0 if previous == _FRESH else int(tables.QUANTIZER[previous])
            miss = float(reconstruction(level, quantizer, step) - abs(value))
            distortion += miss * miss - float(value) * value
        if previous == _FRESH:
            return position, distortion, (total + cost - distortion) / lagrangian
        state = previous
    return -1, total, 0.0


@kernel
def quantize(
    s: Work,
    c: Constants,
    m: Model,
    plane: int,
    size: int,
    step: int,
    lagrangian: float,
    energy: int,
    group: int,
    step_context: int,
) -> tuple[int, float, float]:
    """Choose the levels of `s.coefficients` that minimise distortion + λ·rate, the last position included.

    Rates of levels are those of one joint context, not the mixed ones: a path's contexts depend on its own
    levels, and asking the whole model for each of them would take minutes.

    Args:
        s: Work; the levels go to `s.levels[plane]`.
        c: Constants.
        m: The entropy model, not changed.
        plane: 0…2.
        size: Side of the block.
        step: Spacing of the reconstruction levels in 1/64 code value.
        lagrangian: λ in squared units of 1/64 code value for one bit, divided by the plane's weight.
        energy: Context, see `neighbour_energy`.
        group: Context, direction of the prediction.
        step_context: Context, see `step_class`.

    Returns:
        The scan position of the last level (−1: none), the distortion in squared units of 1/64 code
        value, and the estimated bits of levels and last position (0 if none).
    """
    scan = c.scans[size_index(size)]
    clear_levels(s, plane, size)
    total = 0.0
    largest = 0
    for i in range(size):
        energy_of_row = 0
        for j in range(size):
            value = int(s.coefficients[i, j])
            energy_of_row += value * value
            largest = max(largest, abs(value))
        total += energy_of_row
    if not _may_start(largest, step):
        return -1, total, 0.0
    start = size * size - 1
    while True:
        cell = int(scan[start])
        if _may_start(abs(int(s.coefficients[cell // _SIDE, cell % _SIDE])), step):
            break
        start -= 1
    last_costs(m, plane, size, energy, group, step_context, s.costs)
    kind = (1 if plane > 0 else 0) * layout.SIZES + size_index(size)
    turn = 0
    for state in range(_STATES):
        s.path_costs[0, state] = _INFINITE
    previous = -1
    for position in range(start, -1, -1):
        cell = int(scan[position])
        row = cell // _SIDE
        col = cell % _SIDE
        if row + col != previous:
            previous = row + col
            _clear_diagonal(s, turn, previous)
        for state in range(_STATES):
            s.path_costs[1 - turn, state] = _INFINITE
        value = abs(int(s.coefficients[row, col]))
        _step_paths(
            s, m, turn, position, value, step, lagrangian, kind, row, col, size, plane, energy
        )
        if _may_start(value, step):
            _start_path(
                s, m, turn, position, value, step, lagrangian, kind, row, col, size, plane, energy
            )
        _carry_paths(s, turn, position, row + col, row)
        turn = 1 - turn
    return _trace_back(s, scan, plane, step, start, turn, total, lagrangian)
