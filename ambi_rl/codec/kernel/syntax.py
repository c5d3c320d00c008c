"""The syntax of a block, written once: every function codes or decodes, as the coder's mode says.

Each function sets the contexts of a syntax element and hands its binary decisions to `code_bit`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import (
    Model,
    bit_cost,
    code_advised,
    code_bit,
    code_raw,
    predict_bit,
)
from ambi_rl.codec.entropy.network import level_inputs, run_network
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import (
    CHROMA,
    ENERGY,
    FAULT,
    NUM_OFFSETS,
    NUM_STRATEGIES,
    OFFSET,
    SIZE,
    STEP,
    STRATEGY,
    TRANSFORM,
    Picture,
)

_S = layout.SIZES
_B = layout.BINS
_SIDE = tables.SUPERBLOCK


@kernel
def _neighbour(maps: npt.NDArray[np.uint8], channel: int, y: int, x: int) -> int:
    """Entry of a map at unit (y, x); 0 outside the picture or where nothing is coded yet."""
    if y < 0 or x < 0 or y >= maps.shape[1] or x >= maps.shape[2]:
        return 0
    return int(maps[channel, y, x])


@kernel
def _angle_group(m: Model, strategy_map: int) -> int:
    """Coarse class, 0…8, of a strategy as stored in the map: none, planar, DC, six directions."""
    if strategy_map == 0:
        return 0
    code = int(m.tables.strategies[strategy_map - 1])
    if code == tables.PLANAR:
        return 1
    if code == tables.DC:
        return 2
    return min(3 + (code - tables.FIRST_ANGLE + 3) // 6, 8)


@kernel
def code_split(p: Picture, m: Model, y: int, x: int, log2: int, split: int) -> int:
    """Code whether the node at pixel (y, x) of side 2**log2 is split."""
    uy, ux = y >> 2, x >> 2
    size = log2 - tables.MIN_BLOCK_LOG2
    left = _neighbour(p.maps, SIZE, uy, ux - 1)
    above = _neighbour(p.maps, SIZE, uy - 1, ux)
    step = step_class(p)
    energy_left = _neighbour(p.maps, ENERGY, uy, ux - 1)
    energy_above = _neighbour(p.maps, ENERGY, uy - 1, ux)
    m.work.index[0] = layout.SPLIT_0 + size * 16 + step
    m.work.index[1] = layout.SPLIT_1 + (size * 5 + left) * 5 + above
    m.work.index[2] = layout.SPLIT_2 + (size * 8 + energy_left) * 8 + energy_above
    m.work.index[3] = (
        layout.SPLIT_3
        + (
            (size * 5 + _neighbour(p.maps, SIZE, uy + (1 << (size - 1)), ux - 1)) * 5
            + _neighbour(p.maps, SIZE, uy - 1, ux + (1 << (size - 1)))
        )
        * 16
        + min(energy_left + energy_above, 15)
    )
    mixer = layout.MIX_SPLIT + size
    return code_bit(m, split, 4, mixer, mixer)


@kernel
def _strategy_neighbours(
    p: Picture, m: Model, y: int, x: int, log2: int
) -> tuple[int, int, int, int, int]:
    """Contexts of a node's strategy: left, above and corner neighbour, their directions, agreement."""
    uy, ux = y >> 2, x >> 2
    units = 1 << (log2 - tables.MIN_BLOCK_LOG2)
    left = _neighbour(p.maps, STRATEGY, uy + units - 1, ux - 1)
    if left == 0:
        left = _neighbour(p.maps, STRATEGY, uy, ux - 1)
    above = _neighbour(p.maps, STRATEGY, uy - 1, ux + units - 1)
    corner = _neighbour(p.maps, STRATEGY, uy - 1, ux + units)
    if corner == 0:
        corner = _neighbour(p.maps, STRATEGY, uy - 1, ux - 1)
    groups = (_angle_group(m, left) * 9 + _angle_group(m, above)) * 9
    groups += _angle_group(m, corner)
    agree = (log2 - tables.MIN_BLOCK_LOG2) * 2 + (1 if left == above else 0)
    return left, above, corner, groups, agree


@kernel
def _strategy_contexts(
    m: Model, size: int, left: int, above: int, corner: int, groups: int, node: int
) -> None:
    """Set the counters of a node of the binary tree over strategies."""
    m.work.index[0] = layout.STRATEGY_0 + size * layout.MAX_STRATEGIES + node
    m.work.index[1] = layout.STRATEGY_1 + left * layout.MAX_STRATEGIES + node
    m.work.index[2] = layout.STRATEGY_2 + above * layout.MAX_STRATEGIES + node
    m.work.index[3] = layout.STRATEGY_3 + groups * layout.MAX_STRATEGIES + node
    m.work.index[4] = layout.STRATEGY_4 + corner * layout.MAX_STRATEGIES + node


@kernel
def code_strategy(p: Picture, m: Model, y: int, x: int, log2: int, strategy: int) -> int:
    """Code the index of the prediction strategy as six binary decisions."""
    left, above, corner, groups, agree = _strategy_neighbours(p, m, y, x, log2)
    size = log2 - tables.MIN_BLOCK_LOG2
    node = 1
    for level in range(5, -1, -1):
        _strategy_contexts(m, size, left, above, corner, groups, node)
        bit = (strategy >> level) & 1
        mixer = layout.MIX_STRATEGY_1 + node
        node = node * 2 + code_bit(m, bit, 5, layout.MIX_STRATEGY_0 + agree, mixer)
    strategy = node - layout.MAX_STRATEGIES
    if strategy >= m.tables.counts[NUM_STRATEGIES]:
        m.state.registers[FAULT] = 1
        strategy = 0
    return strategy


@kernel
def strategy_costs(
    p: Picture, m: Model, y: int, x: int, log2: int, costs: npt.NDArray[np.float64]
) -> None:
    """Bits of strategy k, without learning, into costs[MAX_STRATEGIES + k]; what is before is scratch."""
    left, above, corner, groups, agree = _strategy_neighbours(p, m, y, x, log2)
    size = log2 - tables.MIN_BLOCK_LOG2
    last = layout.MAX_STRATEGIES + int(m.tables.counts[NUM_STRATEGIES]) - 1
    costs[1] = 0.0
    for level in range(6):
        # Nodes that no strategy lies below are left out.
        for node in range(1 << level, (last >> (6 - level)) + 1):
            _strategy_contexts(m, size, left, above, corner, groups, node)
            mixer = layout.MIX_STRATEGY_1 + node
            chance = predict_bit(m, 5, 0, layout.MIX_STRATEGY_0 + agree, mixer)
            costs[2 * node] = costs[node] + bit_cost(m, chance, 0) / 65536
            costs[2 * node + 1] = costs[node] + bit_cost(m, chance, 1) / 65536


@kernel
def code_offset(p: Picture, m: Model, y: int, x: int, log2: int, offset: int) -> int:
    """Code the index of the quantization offset as three binary decisions; nothing if there is one."""
    count = m.tables.counts[NUM_OFFSETS]
    if count == 1:
        return 0
    uy, ux = y >> 2, x >> 2
    size = log2 - tables.MIN_BLOCK_LOG2
    left = _neighbour(p.maps, OFFSET, uy, ux - 1)
    above = _neighbour(p.maps, OFFSET, uy - 1, ux)
    node = 1
    for level in range(2, -1, -1):
        m.work.index[0] = layout.OFFSET_0 + size * layout.MAX_OFFSETS + node
        m.work.index[1] = (
            layout.OFFSET_1 + (left * (layout.MAX_OFFSETS + 1) + above) * layout.MAX_OFFSETS + node
        )
        bit = code_bit(m, (offset >> level) & 1, 2, layout.MIX_OFFSET, layout.MIX_OFFSET)
        node = node * 2 + bit
    offset = node - layout.MAX_OFFSETS
    if offset >= count:
        m.state.registers[FAULT] = 1
        offset = 0
    return offset


@kernel
def code_chroma(p: Picture, m: Model, y: int, x: int, log2: int, strategy: int, chroma: int) -> int:
    """Code the chroma strategy, 0…3, as two binary decisions."""
    uy, ux = y >> 2, x >> 2
    size = log2 - tables.MIN_BLOCK_LOG2
    left = _neighbour(p.maps, CHROMA, uy, ux - 1)
    above = _neighbour(p.maps, CHROMA, uy - 1, ux)
    group = _angle_group(m, strategy + 1)
    node = 1
    for level in range(1, -1, -1):
        m.work.index[0] = layout.CHROMA_0 + (size * 4 + node) * 16 + step_class(p)
        m.work.index[1] = layout.CHROMA_1 + (left * 5 + above) * 4 + node
        m.work.index[2] = layout.CHROMA_2 + (group * 4 + node) * 4 + size
        bit = code_bit(
            m, (chroma >> level) & 1, 3, layout.MIX_CHROMA + size, layout.MIX_CHROMA + size
        )
        node = node * 2 + bit
    return node - 4


@kernel
def has_transforms(size: int) -> bool:
    """Whether a luma block of this side has more than one transform to choose from."""
    return size <= 16


@kernel
def code_transform(p: Picture, m: Model, y: int, x: int, size: int, group: int, kind: int) -> int:
    """Code how luma's residual is transformed, 0…3, as two binary decisions."""
    uy, ux = y >> 2, x >> 2
    index = size_index(size)
    left = _neighbour(p.maps, TRANSFORM, uy, ux - 1)
    above = _neighbour(p.maps, TRANSFORM, uy - 1, ux)
    node = 1
    for level in range(1, -1, -1):
        m.work.index[0] = layout.TRANSFORM_0 + (index * 6 + group) * 4 + node
        m.work.index[1] = layout.TRANSFORM_1 + ((index * 5 + left) * 5 + above) * 4 + node
        m.work.index[2] = layout.TRANSFORM_2 + (index * 16 + step_class(p)) * 4 + node
        mixer = layout.MIX_TRANSFORM + index
        node = node * 2 + code_bit(m, (kind >> level) & 1, 3, mixer, mixer)
    return node - 4


@kernel
def step_class(p: Picture) -> int:
    """The picture's quantizer step in octaves times two, 0…15, for contexts."""
    step = int(p.state.control[STEP])
    result = 0
    while step >= 48 and result < 14:
        step >>= 1
        result += 2
    return min(result + (1 if step >= 34 else 0), 15)


@kernel
def neighbour_energy(p: Picture, plane: int, y: int, x: int, size: int) -> int:
    """Mean level energy class, 0…7, of the blocks left of and above the block."""
    uy, ux, units = y >> 2, x >> 2, size >> 2
    total = 0
    count = 0
    for k in range(units):
        if ux > 0:
            total += int(p.maps[ENERGY + plane, uy + k, ux - 1])
            count += 1
        if uy > 0:
            total += int(p.maps[ENERGY + plane, uy - 1, ux + k])
            count += 1
    return (total + count // 2) // count if count > 0 else 0


@kernel
def energy_class(total: int, size: int) -> int:
    """Class, 0…7, of a block's sum of absolute levels."""
    if total == 0:
        return 0
    density = total * 64 // (size * size)
    result = 1
    while density > 0 and result < 7:
        density >>= 1
        result += 1
    # density 0 → 1, 1 → 2, 2…3 → 3, 4…7 → 4, 8…15 → 5, 16…31 → 6, above → 7
    return result


@kernel
def coded_contexts(m: Model, p: Picture, plane: int, size: int, energy: int, others: int) -> int:
    """Set the contexts of the flag "this plane of the block has levels"; return the mixer row.

    Args:
        others: Whether the planes coded before have levels: bit 0 luma, bit 1 Cb.
    """
    index = size_index(size)
    m.work.index[0] = layout.CODED_0 + (plane * _S + index) * 16 + energy * 2 + (others & 1)
    m.work.index[1] = layout.CODED_1 + (plane * 4 + others) * 64 + index * 16 + energy
    m.work.index[2] = layout.CODED_2 + (plane * _S + index) * 16 + step_class(p)
    return layout.MIX_CODED + plane * _S + index


@kernel
def size_index(size: int) -> int:
    """0, 1, 2, 3 for blocks of side 4, 8, 16, 32."""
    return 0 if size == 4 else (1 if size == 8 else (2 if size == 16 else 3))


@kernel
def last_contexts(
    m: Model, plane: int, index: int, energy: int, group: int, step: int, node: int
) -> int:
    """Set the contexts of one decision of the last position's bit length; return the mixer row."""
    chroma = 1 if plane > 0 else 0
    m.work.index[0] = layout.LAST_0 + ((chroma * _S + index) * 16 + step) * 16 + node
    m.work.index[1] = layout.LAST_1 + ((plane * _S + index) * 8 + energy) * 16 + node
    m.work.index[2] = layout.LAST_2 + ((chroma * _S + index) * 6 + group) * 16 + node
    return layout.MIX_LAST + (chroma * _S + index) * 2


@kernel
def code_last(
    m: Model, plane: int, size: int, energy: int, group: int, step: int, last: int
) -> int:
    """Code the scan position of the last nonzero level: its bit length, then its lower bits."""
    index = size_index(size)
    chroma = 1 if plane > 0 else 0
    value = last + 1
    length = 0
    while (value >> length) > 1:
        length += 1
    node = 1
    for level in range(3, -1, -1):
        mixer = last_contexts(m, plane, index, energy, group, step, node)
        bit = code_bit(m, (length >> level) & 1, 3, mixer, mixer + 1)
        node = node * 2 + bit
    length = node - 16
    result = 1
    for level in range(length - 1, -1, -1):
        # The first of the lower bits matters most; the contexts of later ones are coarser.
        depth = min(length - 1 - level, 2)
        tail = (result & 1) if depth > 0 else 0
        where = (length * 4 + depth) * 2 + tail
        m.work.index[0] = layout.LAST_BITS_0 + (chroma * _S + index) * 256 + where
        m.work.index[1] = layout.LAST_BITS_1 + (index * 256 + where) * 2 + (1 if group >= 3 else 0)
        bit = code_bit(
            m, (value >> level) & 1, 2, layout.MIX_LAST_BITS + length, layout.MIX_LAST_BITS + length
        )
        result = result * 2 + bit
    if result > size * size:
        m.state.registers[FAULT] = 1
        result = 1
    return result - 1


@kernel
def bin_class(threshold: int) -> int:
    """Class, 0…7, of the bin "level > threshold"."""
    if threshold < 6:
        return threshold
    return 6 if threshold < 9 else 7


@kernel
def level_contexts(
    m: Model,
    levels: npt.NDArray[np.int32],
    plane: int,
    size: int,
    row: int,
    col: int,
    energy: int,
    group: int,
    step: int,
    remaining: int,
    quantizer: int,
) -> int:
    """Set the contexts of the level at (row, col) for its first bin; return a key for `level_bin`.

    Args:
        m: The model; `m.work.index` receives the counters of bin 0, other bins lie `bin class` further on.
        levels: int32 [3, 36, 36]; those of this plane after (row, col) in scan order are known, the
            others are zero; those of planes coded before are complete.
        plane: 0…2.
        size: Side of the block.
        row: Vertical frequency.
        col: Horizontal frequency.
        energy: `neighbour_energy`.
        group: Coarse direction of the prediction, 0…5.
        step: `step_class`.
        remaining: Scan positions between this level and the last one.
        quantizer: 0 or 1, see `tables.QUANTIZER`.
    """
    own = levels[plane]
    chroma = 1 if plane > 0 else 0
    index = size_index(size)
    right = abs(int(own[row, col + 1]))
    right2 = abs(int(own[row, col + 2]))
    below = abs(int(own[row + 1, col]))
    below2 = abs(int(own[row + 2, col]))
    across = abs(int(own[row + 1, col + 1]))
    near = right + right2 + below + below2 + across
    wide = near + abs(int(own[row, col + 3])) + abs(int(own[row + 3, col]))
    wide += abs(int(own[row + 1, col + 2])) + abs(int(own[row + 2, col + 1]))
    wide_class = wide if wide < 8 else min(8 + (wide - 8) // 4, 15)
    near_class = magnitude_class(near)
    few = min(near, 3)
    diagonal = row + col
    coarse = diagonal_class(diagonal, size)
    place = row * 4 + col if size == 4 else min(diagonal >> 1 if size == 32 else diagonal, 31)
    row_class = row if row < 2 else (2 if row < 4 else 3)
    col_class = col if col < 2 else (2 if col < 4 else 3)
    kind = (quantizer * 2 + chroma) * _S + index
    m.work.index[0] = place_context(kind, row, col, size)
    m.work.index[1] = layout.LEVEL_1 + (kind * 16 + near_class) * _B
    m.work.index[2] = (
        layout.LEVEL_2
        + (
            (((chroma * 4 + min(right, 3)) * 4 + min(below, 3)) * 4 + min(across, 3)) * 4
            + min(right2 + below2, 3)
        )
        * _B
    )
    m.work.index[3] = energy_context(plane, energy, coarse, near)
    m.work.index[4] = (
        layout.LEVEL_4
        + ((((chroma * 6 + group) * _S + index) * 4 + row_class) * 4 + col_class) * _B
    )
    m.work.index[5] = layout.LEVEL_5 + ((chroma * 16 + step) * 16 + wide_class) * _B
    if plane == 0:
        m.work.index[6] = layout.LEVEL_6 + ((min(remaining, 15) * 16 + place // 2) * 4 + few) * _B
    else:
        luma = levels[0]
        same = min(abs(int(luma[row, col])), 3)
        around = abs(int(luma[row, col + 1])) + abs(int(luma[row + 1, col]))
        blue = min(abs(int(levels[1, row, col])), 3) if plane == 2 else 0
        m.work.index[6] = (
            layout.LEVEL_6
            + (
                1024 * plane
                + (((same * 4 + min(around, 3)) * 4 + blue) * 4 + few) * 4
                + min(coarse, 3)
            )
            * _B
        )
    m.work.index[7] = (
        layout.LEVEL_7
        + (((chroma * 8 + min(max(right, max(below, across)), 7)) * 8 + coarse) * _S + index) * _B
    )
    m.work.index[8] = joint_context(kind, near_class, coarse)
    return coarse << 12 | step << 8 | kind << 4 | near_class


@kernel
def magnitude_class(near: int) -> int:
    """Class, 0…15, of a sum of neighbouring magnitudes."""
    return near if near < 10 else min(10 + (near - 10) // 4, 15)


@kernel
def diagonal_class(diagonal: int, size: int) -> int:
    """Class, 0…7, of row + column of a frequency in a block."""
    if size == 4 or diagonal < 3:
        return min(diagonal, 7)
    span = 2 if size == 8 else (4 if size == 16 else 6)
    return min(3 + (diagonal - 3) // span, 7)


@kernel
def place_context(kind: int, row: int, col: int, size: int) -> int:
    """Counter of a level's first bin by frequency."""
    if size == 4:
        place = row * 4 + col
    else:
        place = min((row + col) >> 1 if size == 32 else row + col, 31)
    return layout.LEVEL_0 + (kind * 32 + place) * _B


@kernel
def energy_context(plane: int, energy: int, coarse: int, near: int) -> int:
    """Counter of a level's first bin by the energy of neighbouring blocks, frequency and known levels."""
    return layout.LEVEL_3 + (((plane * 8 + energy) * 8 + coarse) * 4 + min(near, 3)) * _B


@kernel
def joint_context(kind: int, near_class: int, coarse: int) -> int:
    """Counter of a level's first bin in the one context that the trellis also estimates rates from.

    Args:
        kind: (quantizer·2 + chroma)·4 + size index.
        near_class: `magnitude_class` of the five nearest known levels.
        coarse: `diagonal_class`.
    """
    return layout.LEVEL_8 + ((kind * 16 + near_class) * 8 + coarse) * _B


@kernel
def level_bin(m: Model, key: int, shown: int, wanted: int, bit: int) -> int:
    """Code the bin "level > wanted".

    Args:
        m: The model, with contexts for bin class `shown` in `m.work.index`.
        key: From `level_contexts`.
        shown: Bin class that `m.work.index` points to now.
        wanted: Bin class to code; `m.work.index` is moved there.
        bit: The bit, ignored when decoding.
    """
    if shown != wanted:
        for i in range(9):
            m.work.index[i] += wanted - shown
    near_class = key & 15
    kind = (key >> 4) & 15
    step = (key >> 8) & 15
    coarse = key >> 12
    chroma = (kind // _S) & 1
    row0 = layout.MIX_LEVEL_0 + kind * _B + wanted
    row1 = layout.MIX_LEVEL_1 + (chroma * 16 + near_class) * _B + wanted
    logit = int(m.work.net_logits[wanted])
    # What the network says is a context too: counters correct it for this picture.
    bucket = min(max((logit + 1024) >> 6, 0), 31)
    place = (chroma * _B + wanted) * 32 + bucket
    m.work.index[9] = layout.LEVEL_9 + place * 8 + coarse
    m.work.index[10] = layout.LEVEL_10 + place * 16 + step
    m.work.logits[11] = logit
    return code_advised(m, bit, 11, 1, row0, row1)


@kernel
def code_magnitude(m: Model, key: int, first: int, magnitude: int, plane: int) -> int:
    """Code a level's magnitude, known to be at least `first`: unary bins, then Exp-Golomb."""
    result = first
    shown = 0
    more = 1
    while more and result < layout.ESCAPE:
        wanted = bin_class(result)
        more = level_bin(m, key, shown, wanted, 1 if magnitude > result else 0)
        shown = wanted
        if more:
            result += 1
    if not more:
        return result
    value = magnitude - layout.ESCAPE + 1
    prefix = 0
    base = layout.GOLOMB + (layout.MAX_GOLOMB_PREFIX + 1) * (1 if plane > 0 else 0)
    while prefix < layout.MAX_GOLOMB_PREFIX:
        m.work.index[0] = base + prefix
        if (
            code_bit(
                m, 1 if (value >> (prefix + 1)) > 0 else 0, 1, layout.MIX_GOLOMB, layout.MIX_GOLOMB
            )
            == 0
        ):
            break
        prefix += 1
    result = 1
    for level in range(prefix - 1, -1, -1):
        result = result * 2 + code_raw(m, (value >> level) & 1)
    return result - 1 + layout.ESCAPE


@kernel
def _sign(level: int) -> int:
    """0, 1, 2 for none, positive, negative."""
    return 0 if level == 0 else (1 if level > 0 else 2)


@kernel
def code_chroma_sign(
    m: Model,
    levels: npt.NDArray[np.int32],
    plane: int,
    index: int,
    row: int,
    col: int,
    group: int,
    mode: int,
    negative: int,
) -> int:
    """Code whether a chroma level is negative; its sign goes with those of luma and Cb there."""
    cell = min(row, 3) * 4 + min(col, 3)
    kind = 0 if mode <= tables.LAST_ANGLE else mode - tables.LAST_ANGLE
    luma = int(levels[0, row, col])
    blue = int(levels[1, row, col]) if plane > 1 else 0
    signs = ((plane - 1) * 3 + _sign(luma)) * 3 + _sign(blue)
    sizes = min(abs(luma), 3) * 4 + min(abs(blue), 3)
    m.work.index[0] = layout.SIGN_0 + (signs * 4 + kind) * 16 + cell
    m.work.index[1] = layout.SIGN_1 + (signs * _S + index) * 6 + group
    m.work.index[2] = layout.SIGN_2 + (signs * 4 + kind) * 16 + sizes
    return code_bit(m, negative, 3, layout.MIX_SIGN + kind, layout.MIX_SIGN + kind)


@kernel
def code_levels(
    p: Picture,
    m: Model,
    scan: npt.NDArray[np.int32],
    levels: npt.NDArray[np.int32],
    plane: int,
    size: int,
    energy: int,
    group: int,
    step: int,
    last: int,
    mode: int,
) -> int:
    """Code the levels of one plane of a block from scan position `last` down; return Σ|level|.

    When decoding, `levels[plane]` must be zero on entry. `m.work.magnitudes[plane]` must be zero and is
    filled. `block_inputs` of the network must be set; `mode` is as there.
    """
    total = 0
    state = 0
    index = size_index(size)
    own = levels[plane]
    coded = m.work.magnitudes[plane]
    for position in range(last, -1, -1):
        cell = int(scan[position])
        row = cell // _SIDE
        col = cell % _SIDE
        value = int(own[row, col])
        key = level_contexts(
            m,
            levels,
            plane,
            size,
            row,
            col,
            energy,
            group,
            step,
            last - position,
            int(tables.QUANTIZER[state]),
        )
        run_network(m, plane, level_inputs(p, m, plane, index, row, col, state, mode))
        magnitude = code_magnitude(m, key, 1 if position == last else 0, abs(value), plane)
        if magnitude > 0:
            negative = 1 if value < 0 else 0
            if plane == 0:
                negative = code_raw(m, negative)
            else:
                negative = code_chroma_sign(
                    m, levels, plane, index, row, col, group, mode, negative
                )
            own[row, col] = -magnitude if negative else magnitude
            coded[row, col] = min(2 * magnitude - int(tables.QUANTIZER[state]), 255)
        total += magnitude
        state = int(tables.NEXT_STATE[state, magnitude & 1])
    return total


@kernel
def bin_cost(m: Model, place: int, energy: int, joint: int, bit: int) -> float:
    """Bits of a bin by a fixed mixture of three counters."""
    probs = m.state.probs
    stretch = m.tables.stretch
    logit = 5 * stretch[(int(probs[joint]) >> 18) & 4095]
    logit += 3 * stretch[(int(probs[energy]) >> 18) & 4095]
    logit += 2 * stretch[(int(probs[place]) >> 18) & 4095]
    chance = int(m.tables.squash[min(max((logit >> 3) + 2048, 0), 4095)]) >> 4
    return m.tables.cost[chance if bit else 4095 - chance] / 65536


@kernel
def magnitude_cost(
    m: Model, place: int, energy: int, joint: int, first: int, magnitude: int
) -> float:
    """Estimated bits of a magnitude known to be at least `first`, sign included.

    Args:
        m: The model.
        place: From `place_context`.
        energy: From `energy_context`.
        joint: From `joint_context`.
        first: 0 or 1.
        magnitude: At least `first`.
    """
    bits = 0.0
    for k in range(first, min(magnitude, layout.ESCAPE)):
        kind = bin_class(k)
        bits += bin_cost(m, place + kind, energy + kind, joint + kind, 1)
    if magnitude < layout.ESCAPE:
        kind = bin_class(magnitude)
        bits += bin_cost(m, place + kind, energy + kind, joint + kind, 0)
    else:
        # The Exp-Golomb part is costed by its length.
        bits += 2 * np.log2(magnitude - layout.ESCAPE + 1.0) + 1
    return bits + 1.0 if magnitude > 0 else bits


@kernel
def last_costs(
    m: Model,
    plane: int,
    size: int,
    energy: int,
    group: int,
    step: int,
    costs: npt.NDArray[np.float64],
) -> None:
    """Bits of each bit length, 0…10, of the last position, without learning, into costs[0…10]."""
    index = size_index(size)
    for length in range(2 * tables.SUPERBLOCK_LOG2 + 1):
        costs[length] = length
    for node in range(1, 16):
        mixer = last_contexts(m, plane, index, energy, group, step, node)
        chance = predict_bit(m, 3, 0, mixer, mixer + 1)
        zero = bit_cost(m, chance, 0) / 65536
        one = bit_cost(m, chance, 1) / 65536
        depth = 0
        while (node >> (depth + 1)) > 0:
            depth += 1
        span = 1 << (4 - depth)
        first = node * span - 16
        for length in range(first, min(first + span, 2 * tables.SUPERBLOCK_LOG2 + 1)):
            costs[length] += zero if length < first + span // 2 else one
