"""Rate-distortion-optimized quantization with the entropy model's own, current costs (encoder only)."""

from __future__ import annotations

from ambi_rl.codec import tables
from ambi_rl.codec.entropy.coder import Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import Constants, Work
from ambi_rl.codec.kernel.syntax import last_costs, level_contexts, magnitude_costs, size_index

_SIDE = tables.SUPERBLOCK
_CHOSEN, _ZEROED, _NONZERO, _WORK = 0, 1, 2, 3


@kernel
def clear_levels(s: Work, plane: int, size: int) -> None:
    """Zero the levels of a plane, and the margin that contexts look at."""
    for i in range(size + 3):
        for j in range(size + 3):
            s.levels[plane, i, j] = 0


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
    """Choose the levels of `s.coefficients` that minimise distortion + λ·rate, greedily in coding order.

    Each level is the nearest, the next towards zero, or zero; then the best last position is taken.

    Args:
        s: Work; the levels go to `s.levels[plane]`.
        c: Constants.
        m: The entropy model, not changed.
        plane: 0…2.
        size: Side of the block.
        step: Quantizer step in 1/64 code value.
        lagrangian: λ in squared units of 1/64 code value for one bit, divided by the plane's weight.
        energy: Context, see `neighbour_energy`.
        group: Context, direction of the prediction.
        step_context: Context, see `step_class`.

    Returns:
        The scan position of the last level (−1: none), the distortion in squared units of 1/64 code
        value, and the estimated bits of levels and last position (0 if none).
    """
    scan = c.scans[size_index(size)]
    area = size * size
    clear_levels(s, plane, size)
    levels = s.levels[plane]
    total = 0.0
    largest = 0
    for i in range(size):
        energy_of_row = 0
        for j in range(size):
            value = int(s.coefficients[i, j])
            energy_of_row += value * value
            largest = max(largest, abs(value))
        total += energy_of_row
    if 2 * largest < step:
        return -1, total, 0.0
    start = area - 1
    while True:
        cell = int(scan[start])
        if 2 * abs(int(s.coefficients[cell // _SIDE, cell % _SIDE])) >= step:
            break
        start -= 1
    # `tail` is the distortion of what lies after the position at hand, if all of it is zero.
    tail = total
    for position in range(start + 1):
        cell = int(scan[position])
        value = int(s.coefficients[cell // _SIDE, cell % _SIDE])
        s.costs[_ZEROED, position] = float(value * value)
        tail -= s.costs[_ZEROED, position]
    costs = s.costs[_WORK]
    coded = 0.0
    for position in range(start, -1, -1):
        cell = int(scan[position])
        row = cell // _SIDE
        col = cell % _SIDE
        value = int(s.coefficients[row, col])
        key = level_contexts(
            m, s.levels, plane, size, row, col, energy, group, step_context, start - position
        )
        nearest = (2 * abs(value) + step) // (2 * step)
        low = max(nearest - 1, 1)
        magnitude_costs(m, key, low, costs)
        best = 0
        best_cost = s.costs[_ZEROED, position] + lagrangian * costs[0]
        nonzero = costs[3]
        if nearest > 2:
            best_cost = 1e300
        if nearest >= 1:
            for candidate in range(low, nearest + 1):
                miss = float(abs(value) - candidate * step)
                cost = miss * miss + lagrangian * costs[1 + candidate - low]
                if cost < best_cost:
                    best_cost = cost
                    best = candidate
        levels[row, col] = best if value >= 0 else -best
        s.costs[_CHOSEN, position] = best_cost
        s.costs[_NONZERO, position] = lagrangian * nonzero
        coded += best_cost
    last_costs(m, plane, size, energy, group, step_context, costs)
    best_last = -1
    best_total = total
    for position in range(start, -1, -1):
        cell = int(scan[position])
        if levels[cell // _SIDE, cell % _SIDE] != 0:
            length = 0
            while ((position + 1) >> (length + 1)) > 0:
                length += 1
            cost = tail + coded - s.costs[_NONZERO, position] + lagrangian * costs[length]
            if cost < best_total:
                best_total = cost
                best_last = position
        coded -= s.costs[_CHOSEN, position]
        tail += s.costs[_ZEROED, position]
    distortion = total
    for position in range(start, -1, -1):
        cell = int(scan[position])
        row = cell // _SIDE
        col = cell % _SIDE
        if position > best_last:
            levels[row, col] = 0
        else:
            miss = float(abs(int(s.coefficients[row, col])) - abs(int(levels[row, col])) * step)
            distortion += miss * miss - s.costs[_ZEROED, position]
    if best_last < 0:
        return -1, total, 0.0
    return best_last, distortion, (best_total - distortion) / lagrangian
