"""The level network: a small integer network that predicts a level's bins from a wide neighbourhood.

    rows of NET_ROWS ──sum──▶ 64 ──clamp──▶ dense ▶ 32 ──clamp──▶ dense ▶ 8 logits, one for each bin class

Every input is a category, and the first layer is a table with a row for each: a level at hand costs a sum of
rows instead of a matrix product. There is one network for luma and one for chroma. Activations have 8
fractional bits and lie in 0…`ACTIVATION_MAX`; the weights of both dense layers have `WEIGHT_BITS`. Sums fit
int32 for every bundle that `entropy.model` lets pass, so that the result is the same on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import Model
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import ENERGY, SIZE, Picture

ACTIVATION_BITS = 8
ACTIVATION_MAX = 1023
WEIGHT_BITS = 12
WEIGHT_MAX = 4 << WEIGHT_BITS
"""Of the dense layers: 64 products of this and ACTIVATION_MAX stay below 2**31, and leave room for a bias."""
BIAS_MAX = 1 << 29
ROW_MAX = 1 << 14

_HALF = 1 << (WEIGHT_BITS - 1)
_MAGNITUDE = np.searchsorted([1, 2, 3, 4, 5, 6, 7, 9, 12, 16, 23], np.arange(256), "right").astype(
    np.int32
)
_SUM = np.searchsorted(
    [1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 26, 32, 40, 52, 64, 80, 104, 128], np.arange(256), "right"
).astype(np.int32)
_FREQUENCY = np.array(
    [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7, *[8] * 8, *[9] * 8], dtype=np.int32
)


@kernel
def _cell(index: int, row: int, col: int) -> int:
    """Class, 0…NET_CELLS−1, of a frequency in a block of size index 0…3."""
    if index == 0:
        return row * 4 + col
    if index == 1:
        return 16 + row * 8 + col
    if index == 2:
        return 80 + int(_FREQUENCY[row]) * 8 + int(_FREQUENCY[col])
    return 144 + int(_FREQUENCY[row]) * 10 + int(_FREQUENCY[col])


@kernel
def block_inputs(
    p: Picture, m: Model, plane: int, y: int, x: int, index: int, mode: int, others: int
) -> None:
    """Set what the network sees of a block: the first NET_BLOCK_INPUTS of `m.work.net_inputs`, and their sum.

    Args:
        p: The picture.
        m: The model.
        plane: 0…2.
        y: The block's top row in pixels.
        x: Its left column.
        index: Its size index, 0…3.
        mode: Predictor code of the plane; for chroma 35 and up: a strategy other than luma's predictor.
        others: Whether the planes coded before have levels: bit 0 luma, bit 1 Cb.
    """
    uy, ux, units = y >> 2, x >> 2, 1 << index
    left = 0
    above = 0
    for k in range(units):
        if ux > 0:
            left += int(p.maps[ENERGY + plane, uy + k, ux - 1])
        if uy > 0:
            above += int(p.maps[ENERGY + plane, uy - 1, ux + k])
    _find_neighbours(p, m.work.net_near, y, x, 4 << index)
    # Energy classes are 0…7, so that these are 0…14.
    left = 2 * left // units
    above = 2 * above // units
    rows = m.work.net_inputs
    rows[0] = layout.NET_LEFT + index * 16 + left
    rows[1] = layout.NET_ABOVE + index * 16 + above
    rows[2] = layout.NET_MODE + index * layout.NET_MODES + mode
    rows[3] = layout.NET_PLANE + (plane * 4 + others) * layout.SIZES + index
    chroma = 1 if plane > 0 else 0
    table = m.tables.net_rows[chroma]
    base = m.work.net_base
    for h in range(layout.NET_HIDDEN):
        base[h] = m.tables.net_bias[chroma, h]
    for k in range(layout.NET_BLOCK_INPUTS):
        _add_row(base, table, int(rows[k]))


@kernel
def _find_neighbours(p: Picture, near: npt.NDArray[np.int64], y: int, x: int, size: int) -> None:
    """Side, top row and left column of the blocks beside the middle of the left and of the upper border."""
    middle = size >> 1
    near[0] = 0
    near[3] = 0
    if x > 0:
        side = 2 << int(p.maps[SIZE, (y + middle) >> 2, (x >> 2) - 1])
        near[0] = side
        near[1] = (y + middle) // side * side
        near[2] = (x - 1) // side * side
    if y > 0:
        side = 2 << int(p.maps[SIZE, (y >> 2) - 1, (x + middle) >> 2])
        near[3] = side
        near[4] = (y - 1) // side * side
        near[5] = (x + middle) // side * side


@kernel
def _like(
    magnitudes: npt.NDArray[np.uint8],
    side: int,
    top: int,
    start: int,
    size: int,
    row: int,
    col: int,
) -> int:
    """Class, 0…NET_SUMS−1, of the magnitudes around the like frequency in a block of another size."""
    if side == 0:
        return 0
    i = row * side // size
    j = col * side // size
    total = 2 * int(magnitudes[top + i, start + j])
    if i + 1 < side:
        total += int(magnitudes[top + i + 1, start + j])
    if j + 1 < side:
        total += int(magnitudes[top + i, start + j + 1])
    return int(_SUM[min(total, 255)])


@kernel
def _add_row(total: npt.NDArray[np.int32], table: npt.NDArray[np.int16], row: int) -> None:
    """total += table[row]."""
    weights = table[row]
    for h in range(layout.NET_HIDDEN):
        total[h] += weights[h]


@kernel
def level_inputs(
    p: Picture,
    m: Model,
    plane: int,
    index: int,
    row: int,
    col: int,
    state: int,
    mode: int,
) -> int:
    """Set what the network sees at (row, col), after the block's inputs; return the number of inputs.

    Args:
        p: The picture.
        m: The model. Of `m.work.magnitudes` only coded ones are looked at: rows and columns −3…−1 are the
            array's last ones, which stay zero.
        plane: 0…2.
        index: Size index of the block.
        row: Vertical frequency.
        col: Horizontal frequency.
        state: Of the dependent quantization, 0…7.
        mode: As for `block_inputs`.
    """
    own = m.work.magnitudes[plane]
    quantizer = int(tables.QUANTIZER[state])
    rows = m.work.net_inputs
    count = layout.NET_BLOCK_INPUTS
    rows[count] = layout.NET_CELL + quantizer * layout.NET_CELLS + _cell(index, row, col)
    rows[count + 1] = layout.NET_STATE + state * layout.SIZES + index
    right = min(int(own[row, col + 1]), 7)
    below = min(int(own[row + 1, col]), 7)
    rows[count + 2] = layout.NET_PAIR + (quantizer * 8 + right) * 8 + below
    near = m.work.net_near
    whole = p.magnitudes[plane]
    like = _like(whole, int(near[0]), int(near[1]), int(near[2]), 4 << index, row, col)
    rows[count + 3] = layout.NET_LIKE_LEFT + index * layout.NET_SUMS + like
    like = _like(whole, int(near[3]), int(near[4]), int(near[5]), 4 << index, row, col)
    rows[count + 4] = layout.NET_LIKE_ABOVE + index * layout.NET_SUMS + like
    count += 5
    for k in range(layout.NUM_NEAR):
        coded = int(own[row + layout.NET_NEAR_ROW[k], col + layout.NET_NEAR_COL[k]])
        rows[count + k] = layout.NET_NEAR + k * layout.NET_MAGNITUDES + _MAGNITUDE[coded]
    count += layout.NUM_NEAR
    if plane > 0:
        kind = 0 if mode < layout.NET_MODES - 3 else 1 + mode - (layout.NET_MODES - 3)
        same = (plane - 1) * 4 + kind
        for i in range(3):
            for j in range(3):
                k = i * 3 + j
                coded = int(m.work.magnitudes[0, row + i - 1, col + j - 1])
                rows[count + k] = layout.NET_LUMA + k * layout.NET_MAGNITUDES + _MAGNITUDE[coded]
        coded = int(m.work.magnitudes[0, row, col])
        rows[count + 9] = layout.NET_SAME + same * layout.NET_MAGNITUDES + _MAGNITUDE[coded]
        count += 10
    if plane == 2:
        for i in range(3):
            for j in range(3):
                k = i * 3 + j
                coded = int(m.work.magnitudes[1, row + i - 1, col + j - 1])
                rows[count + k] = layout.NET_BLUE + k * layout.NET_MAGNITUDES + _MAGNITUDE[coded]
        count += 9
    return count


@kernel
def run_network(m: Model, plane: int, count: int) -> None:
    """Evaluate the network on `count` inputs into `m.work.net_logits`, 8 fractional bits."""
    chroma = 1 if plane > 0 else 0
    table = m.tables.net_rows[chroma]
    rows = m.work.net_inputs
    first = m.work.net_first
    second = m.work.net_second
    logits = m.work.net_logits
    for h in range(layout.NET_HIDDEN):
        first[h] = m.work.net_base[h]
    k = layout.NET_BLOCK_INPUTS
    while k + 4 <= count:
        r0 = table[rows[k]]
        r1 = table[rows[k + 1]]
        r2 = table[rows[k + 2]]
        r3 = table[rows[k + 3]]
        for h in range(layout.NET_HIDDEN):
            first[h] += r0[h] + r1[h] + r2[h] + r3[h]
        k += 4
    while k < count:
        _add_row(first, table, int(rows[k]))
        k += 1
    _clamp(first, 0)
    _dense(first, m.tables.net_w1[chroma], m.tables.net_b1[chroma], second)
    _clamp(second, WEIGHT_BITS)
    _dense(second, m.tables.net_w2[chroma], m.tables.net_b2[chroma], logits)
    for k in range(layout.NET_BINS):
        logits[k] = min(max((logits[k] + _HALF) >> WEIGHT_BITS, -2047), 2047)


@kernel
def _clamp(values: npt.NDArray[np.int32], shift: int) -> None:
    """Activation: divide by 2**shift, rounding down, and clamp to 0…ACTIVATION_MAX."""
    for k in range(values.shape[0]):
        values[k] = min(max(values[k] >> shift, 0), ACTIVATION_MAX)


@kernel
def _dense(
    values: npt.NDArray[np.int32],
    weights: npt.NDArray[np.int16],
    bias: npt.NDArray[np.int32],
    out: npt.NDArray[np.int32],
) -> None:
    """out = bias + values · weights, for int32 [I], int16 [I, O] (I a multiple of 4) and int32 [O]."""
    count = out.shape[0]
    for k in range(count):
        out[k] = bias[k]
    for i in range(0, values.shape[0], 4):
        v0 = values[i]
        v1 = values[i + 1]
        v2 = values[i + 2]
        v3 = values[i + 3]
        w0 = weights[i]
        w1 = weights[i + 1]
        w2 = weights[i + 2]
        w3 = weights[i + 3]
        for k in range(count):
            out[k] += v0 * w0[k] + v1 * w1[k] + v2 * w2[k] + v3 * w3[k]
