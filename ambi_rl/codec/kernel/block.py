"""Coding of a node: the one block kernel that encoder, decoder and environment call."""

from __future__ import annotations

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.entropy.coder import DECODE, ESTIMATE, Model, code_bit
from ambi_rl.codec.entropy.network import block_inputs
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.predict import gather_reference, predict, predict_from_luma, satd
from ambi_rl.codec.kernel.quantize import (
    clear_levels,
    estimate_coefficients,
    quantize,
    sum_of_levels,
)
from ambi_rl.codec.kernel.state import (
    BITS,
    CHROMA,
    CURSOR,
    DISTORTION_WEIGHTS,
    ENERGY,
    FAULT,
    HEIGHT,
    MODE,
    NODE_LOG2,
    NODE_X,
    NODE_Y,
    NUM_MAPS,
    OFFSET,
    PLANES,
    SIZE,
    STACKED,
    STEP,
    STRATEGY,
    TRANSFORM,
    WIDTH,
    Constants,
    Picture,
    Work,
)
from ambi_rl.codec.kernel.syntax import (
    code_chroma,
    code_last,
    code_levels,
    code_offset,
    code_split,
    code_strategy,
    code_transform,
    coded_contexts,
    energy_class,
    has_transforms,
    neighbour_energy,
    size_index,
    step_class,
)
from ambi_rl.codec.kernel.transform import COEFFICIENT_MAX, forward, inverse

SPLIT = 0
"""The decision "split"; decision k ≥ 1 is a leaf with strategy k − 1."""

AUTO_CHROMA = -1
"""Let the kernel choose the chroma strategy."""

AUTO_TRANSFORM = -1
"""Let the kernel choose luma's transform."""

_BITS_OF_UNUSUAL = 3.0
"""How much better, in bits, another than the usual transform must look: its name costs one or two, and the
least of four rough estimates tends to be one that errs."""

SAME, FROM_LUMA, CHROMA_PLANAR, CHROMA_DC = range(4)
"""Chroma strategies: luma's predictor, chroma-from-luma, planar, DC."""

_SIDE = tables.SUPERBLOCK
_DEPENDENT_SCALE = 36
"""Spacing with dependent quantization relative to the plain quantizer of equal distortion, in 1/64."""
_OFFSET_HALF = tables.OFFSET_SCALE // 2


@kernel
def lambda_of(p: Picture, c: Constants) -> float:
    """λ of the picture: squared 8-bit code values (mean of R, G, B, summed over pixels) for one bit."""
    delta = p.state.control[STEP] / 64
    return c.lambda_scale[0] * delta * delta


@kernel
def importance_of(p: Picture, y: int, x: int, size: int) -> float:
    """Mean weight of a square's squared error; 1 if the encoder was given none."""
    if p.importance.shape[0] == 0:
        return 1.0
    total = 0.0
    units = size >> 2
    for i in range(y >> 2, (y >> 2) + units):
        for j in range(x >> 2, (x >> 2) + units):
            total += float(p.importance[i, j])
    return total / (units * units)


@kernel
def block_lambda(p: Picture, c: Constants, y: int, x: int, size: int, offset: int) -> float:
    """λ of a block's levels: by the importance of its error if that is known, by its own step if not.

    Who gives a block a finer step says that its error matters more, so its levels are chosen accordingly.
    """
    if p.importance.shape[0] > 0:
        return lambda_of(p, c) / importance_of(p, y, x, size)
    multiplier = c.multipliers[offset] / tables.OFFSET_SCALE
    return lambda_of(p, c) * multiplier * multiplier


@kernel
def levels_lambda(
    p: Picture, s: Work, c: Constants, y: int, x: int, size: int, offset: int
) -> float:
    """λ by which a block's levels are chosen: the block's, moved by its emphasis."""
    emphasis = int(s.emphasis[(y % _SIDE) >> 2, (x % _SIDE) >> 2])
    return block_lambda(p, c, y, x, size, offset) * 2.0 ** (-0.5 * emphasis)


@kernel
def block_step(p: Picture, c: Constants, plane: int, offset: int) -> int:
    """Spacing of a block's reconstruction levels in a plane, in 1/64 code value, at least 1.

    Each of the two quantizers has twice this spacing.
    """
    step = (
        int(p.state.control[STEP]) * int(c.multipliers[offset]) + _OFFSET_HALF
    ) // tables.OFFSET_SCALE
    if plane > 0:
        step = (step * int(c.chroma_scale[plane - 1]) + 32) // 64
    return max((step * _DEPENDENT_SCALE + 32) // 64, 1)


@kernel
def direction_group(code: int) -> int:
    """Coarse direction of a prediction, for contexts: smooth 0, near horizontal 1, … near vertical 5."""
    if code <= tables.DC or code > tables.LAST_ANGLE:
        return 0
    return min(1 + (code - tables.FIRST_ANGLE) // 7, 5)


@kernel
def usual_transform(plane: int, size: int) -> int:
    """The transform most blocks of a size take: DST-VII for 4x4 luma, DCT-II otherwise."""
    return tables.DST_DST if plane == 0 and size == 4 else tables.DCT_DCT


@kernel
def bases_of(kind: int, size: int) -> tuple[int, int]:
    """Indices of the vertical and the horizontal basis of a transform."""
    index = size_index(size)
    down = tables.NUM_SIZES if kind == tables.DST_DST or kind == tables.DST_DCT else 0
    across = tables.NUM_SIZES if kind == tables.DST_DST or kind == tables.DCT_DST else 0
    return index + down, index + across


@kernel
def take_residual(p: Picture, s: Work, plane: int, y: int, x: int, size: int) -> None:
    """residual = source − prediction."""
    # Here and below: a view has non-negative indices only, which lets the loops become vector code.
    source = p.source[plane, y : y + size, x : x + size]
    for i in range(size):
        for j in range(size):
            s.residual[i, j] = source[i, j] - s.prediction[i, j]


@kernel
def transform_residual(s: Work, c: Constants, kind: int, size: int) -> None:
    """coefficients = transform of the residual."""
    down, across = bases_of(kind, size)
    forward(c.transforms[down], c.transposed[across], s.residual, s.half, s.coefficients, size)


@kernel
def choose_transform(p: Picture, s: Work, c: Constants, size: int) -> int:
    """The transform of luma's residual of least estimated cost; `s.coefficients` are left as it has them."""
    best = usual_transform(0, size)
    if not has_transforms(size):
        transform_residual(s, c, best, size)
        return best
    usual = best
    least = 1e300
    kind = usual
    for _ in range(tables.NUM_TRANSFORMS):
        # The usual one first; it needs to be told apart from none.
        transform_residual(s, c, kind, size)
        _, bits, error = estimate_coefficients(s, c, size, int(p.state.control[STEP]))
        cost = bits + error + (0.0 if kind == usual else _BITS_OF_UNUSUAL)
        if cost < least:
            least = cost
            best = kind
        kind = (kind + 1) % tables.NUM_TRANSFORMS
    transform_residual(s, c, best, size)
    return best


@kernel
def dequantize(
    s: Work, c: Constants, plane: int, size: int, step: int, last: int
) -> tuple[int, int]:
    """coefficients = what the levels stand for, clamped; return the rows and columns not all zero."""
    for i in range(size):
        for j in range(size):
            s.coefficients[i, j] = 0
    scan = c.scans[size_index(size)]
    rows = 0
    cols = 0
    state = 0
    for position in range(last, -1, -1):
        row = int(scan[position]) // _SIDE
        col = int(scan[position]) % _SIDE
        level = int(s.levels[plane, row, col])
        if level != 0:
            value = 2 * level
            if tables.QUANTIZER[state] == 1:
                value -= 1 if level > 0 else -1
            s.coefficients[row, col] = min(max(value * step, -COEFFICIENT_MAX), COEFFICIENT_MAX)
            rows = max(rows, row + 1)
            cols = max(cols, col + 1)
        state = int(tables.NEXT_STATE[state, level & 1])
    return rows, cols


@kernel
def _reconstruct(
    p: Picture,
    s: Work,
    c: Constants,
    plane: int,
    y: int,
    x: int,
    size: int,
    step: int,
    last: int,
    kind: int,
) -> None:
    """decoded = prediction + inverse transform of the levels up to scan position `last`, −1 for none."""
    coded = last >= 0
    if coded:
        rows, cols = dequantize(s, c, plane, size, step, last)
        down, across = bases_of(kind, size)
        inverse(
            c.transforms[across],
            c.transposed[down],
            s.coefficients,
            s.half,
            s.residual,
            size,
            rows,
            cols,
        )
    decoded = p.decoded[plane, y : y + size, x : x + size]
    for i in range(size):
        if coded:
            for j in range(size):
                value = s.prediction[i, j] + s.residual[i, j]
                decoded[i, j] = min(max(value, 0), tables.PIXEL_MAX)
        else:
            for j in range(size):
                decoded[i, j] = s.prediction[i, j]


@kernel
def squared_error(p: Picture, plane: int, y: int, x: int, size: int) -> float:
    """Squared error of a block's plane, in 8-bit code values, weighted as in RGB."""
    total = 0
    source = p.source[plane, y : y + size, x : x + size]
    decoded = p.decoded[plane, y : y + size, x : x + size]
    for i in range(size):
        for j in range(size):
            miss = int(source[i, j]) - int(decoded[i, j])
            total += miss * miss
    return total * DISTORTION_WEIGHTS[plane] / (tables.PIXEL_SCALE * tables.PIXEL_SCALE)


@kernel
def _note_magnitudes(p: Picture, s: Work, plane: int, y: int, x: int, size: int) -> None:
    """Keep a block's magnitudes for the level network of blocks to come; only real coding asks for them."""
    magnitudes = p.magnitudes[plane, y : y + size, x : x + size]
    for i in range(size):
        for j in range(size):
            magnitudes[i, j] = s.magnitudes[plane, i, j]


@kernel
def _code_plane(
    p: Picture,
    s: Work,
    c: Constants,
    m: Model,
    plane: int,
    y: int,
    x: int,
    size: int,
    mode: int,
    offset: int,
    others: int,
    transform: int,
) -> bool:
    """Code the residual of one plane whose prediction is in `s.prediction`; return whether it has levels.

    `transform` is luma's, or AUTO_TRANSFORM; when decoding, it is read. `mode` is the predictor's code, or
    34 + the chroma strategy if that is not luma's predictor.
    """
    group = direction_group(mode)
    decoding = p.state.registers[MODE] == DECODE
    if decoding or plane > 0:
        transform = usual_transform(plane, size)
    step = block_step(p, c, plane, offset)
    energy = neighbour_energy(p, plane, y, x, size)
    context = step_class(p)
    last = -1
    level_bits = 0.0
    if decoding:
        clear_levels(s, plane, size)
    else:
        take_residual(p, s, plane, y, x, size)
        if plane == 0 and transform == AUTO_TRANSFORM:
            transform = choose_transform(p, s, c, size)
        else:
            transform_residual(s, c, transform, size)
        lagrangian = levels_lambda(p, s, c, y, x, size, offset) * 4096 / DISTORTION_WEIGHTS[plane]
        last, _, level_bits = quantize(
            s, c, m, plane, size, step, lagrangian, energy, group, context
        )
    mixer = coded_contexts(m, p, plane, size, energy, others)
    coded = code_bit(m, 1 if last >= 0 else 0, 3, mixer, mixer) == 1
    total = 0
    if coded:
        if plane == 0 and has_transforms(size):
            transform = code_transform(p, m, y, x, size, group, transform)
        if p.state.registers[MODE] == ESTIMATE:
            # The trellis has just added them up, with fewer contexts but many times as fast.
            p.state.registers[BITS] += int(65536 * level_bits)
            total = sum_of_levels(s, plane, size)
        else:
            last = code_last(m, plane, size, energy, group, context, max(last, 0))
            index = size_index(size)
            block_inputs(p, m, plane, y, x, index, mode, others)
            total = code_levels(
                p, m, c.scans[index], s.levels, plane, size, energy, group, context, last, mode
            )
    if p.state.registers[MODE] != ESTIMATE:
        _note_magnitudes(p, s, plane, y, x, size)
    kind = energy_class(total, size)
    for i in range(size >> 2):
        for j in range(size >> 2):
            p.maps[ENERGY + plane, (y >> 2) + i, (x >> 2) + j] = kind
            if plane == 0:
                p.maps[TRANSFORM, (y >> 2) + i, (x >> 2) + j] = transform + 1 if coded else 0
    _reconstruct(p, s, c, plane, y, x, size, step, last if coded else -1, transform)
    return coded


@kernel
def predict_chroma(
    p: Picture, s: Work, plane: int, y: int, x: int, size: int, code: int, chroma: int, stride: int
) -> None:
    """Predict a chroma plane; luma of the block must be decoded, `gather_reference` called."""
    if chroma == FROM_LUMA:
        predict_from_luma(p, s, plane, y, x, size, stride)
    elif chroma == CHROMA_PLANAR:
        predict(s, plane, size, tables.PLANAR, stride)
    elif chroma == CHROMA_DC:
        predict(s, plane, size, tables.DC, stride)
    else:
        predict(s, plane, size, code, stride)


@kernel
def _choose_chroma(
    p: Picture, s: Work, c: Constants, m: Model, y: int, x: int, log2: int, strategy: int
) -> int:
    """The chroma strategy of least SATD + √λ·bits."""
    size = 1 << log2
    stride = max(size >> 3, 1)
    code = int(c.strategies[strategy])
    best = SAME
    best_cost = 1e300
    mode = p.state.registers[MODE]
    bits_before = p.state.registers[BITS]
    weight = np.sqrt(lambda_of(p, c))
    p.state.registers[MODE] = ESTIMATE
    for chroma in range(4):
        p.state.registers[BITS] = 0
        code_chroma(p, m, y, x, log2, strategy, chroma)
        cost = weight * p.state.registers[BITS] / 65536
        for plane in range(1, 3):
            predict_chroma(p, s, plane, y, x, size, code, chroma, stride)
            cost += satd(p, s, plane, y, x, size, stride)
        if cost < best_cost:
            best_cost = cost
            best = chroma
    p.state.registers[MODE] = mode
    p.state.registers[BITS] = bits_before
    return best


@kernel
def code_leaf(
    p: Picture,
    s: Work,
    c: Constants,
    m: Model,
    y: int,
    x: int,
    log2: int,
    strategy: int,
    offset: int,
    chroma: int,
    transform: int,
) -> float:
    """Code a block: decisions, then the levels of each plane; reconstruct it and note it in the maps.

    When decoding, `strategy`, `offset`, `chroma` and `transform` are ignored and read instead.

    Returns:
        The squared error (see `squared_error`), 0 when decoding.
    """
    size = 1 << log2
    decoding = p.state.registers[MODE] == DECODE
    strategy = code_strategy(p, m, y, x, log2, strategy)
    offset = code_offset(p, m, y, x, log2, offset)
    code = int(c.strategies[strategy])
    gather_reference(p, s, y, x, size)
    predict(s, 0, size, code, 1)
    others = 1 if _code_plane(p, s, c, m, 0, y, x, size, code, offset, 0, transform) else 0
    error = 0.0 if decoding else squared_error(p, 0, y, x, size)
    if p.state.control[PLANES] == 3:
        if not decoding and chroma == AUTO_CHROMA:
            chroma = _choose_chroma(p, s, c, m, y, x, log2, strategy)
        chroma = code_chroma(p, m, y, x, log2, strategy, chroma)
        mode = code if chroma == SAME else tables.LAST_ANGLE + chroma
        for plane in range(1, 3):
            predict_chroma(p, s, plane, y, x, size, code, chroma, 1)
            if (
                _code_plane(p, s, c, m, plane, y, x, size, mode, offset, others, AUTO_TRANSFORM)
                and plane == 1
            ):
                others |= 2
            if not decoding:
                error += squared_error(p, plane, y, x, size)
    for i in range(size >> 2):
        for j in range(size >> 2):
            p.maps[STRATEGY, (y >> 2) + i, (x >> 2) + j] = strategy + 1
            p.maps[SIZE, (y >> 2) + i, (x >> 2) + j] = log2 - tables.MIN_BLOCK_LOG2 + 1
            p.maps[OFFSET, (y >> 2) + i, (x >> 2) + j] = offset + 1
            p.maps[CHROMA, (y >> 2) + i, (x >> 2) + j] = max(chroma, 0) + 1
    return error


@kernel
def _push(p: Picture, y: int, x: int, log2: int) -> None:
    """Put the four quarters of a node on the stack, so that they come off in coding order."""
    half = 1 << (log2 - 1)
    for quarter in range(3, -1, -1):
        top = p.state.control[STACKED]
        p.state.stack[top, 0] = y + half * (quarter // 2)
        p.state.stack[top, 1] = x + half * (quarter % 2)
        p.state.stack[top, 2] = log2 - 1
        p.state.control[STACKED] = top + 1


@kernel
def must_split(p: Picture, y: int, x: int, log2: int) -> bool:
    """Whether a node crosses the picture's border (then it is split without a flag)."""
    size = 1 << log2
    return y + size > p.state.control[HEIGHT] or x + size > p.state.control[WIDTH]


@kernel
def advance(p: Picture) -> bool:
    """Move to the next node that needs a decision; False at the end of the picture."""
    height, width = int(p.state.control[HEIGHT]), int(p.state.control[WIDTH])
    across = (width + _SIDE - 1) // _SIDE
    down = (height + _SIDE - 1) // _SIDE
    while True:
        if p.state.control[STACKED] == 0:
            cursor = int(p.state.control[CURSOR])
            if cursor >= across * down:
                p.state.control[NODE_LOG2] = 0
                return False
            p.state.control[CURSOR] = cursor + 1
            y = cursor // across * _SIDE
            x = cursor % across * _SIDE
            log2 = tables.SUPERBLOCK_LOG2
        else:
            top = int(p.state.control[STACKED]) - 1
            p.state.control[STACKED] = top
            y, x, log2 = (
                int(p.state.stack[top, 0]),
                int(p.state.stack[top, 1]),
                int(p.state.stack[top, 2]),
            )
        if y >= height or x >= width:
            continue
        if must_split(p, y, x, log2):
            _push(p, y, x, log2)
            continue
        p.state.control[NODE_Y] = y
        p.state.control[NODE_X] = x
        p.state.control[NODE_LOG2] = log2
        return True


@kernel
def begin(p: Picture, planes: int, height: int, width: int, step: int) -> None:
    """Set a picture to its first node; the caller has set the entropy state and the coder."""
    p.state.control[:] = 0
    p.state.control[HEIGHT] = height
    p.state.control[WIDTH] = width
    p.state.control[PLANES] = planes
    p.state.control[STEP] = step
    p.maps[:] = 0
    advance(p)


@kernel
def code_node(
    p: Picture, s: Work, c: Constants, decision: int, offset: int, chroma: int, transform: int
) -> float:
    """Code the current node with a decision (ignored when decoding) and advance to the next.

    Args:
        p: The picture.
        s: Work.
        c: Constants.
        decision: SPLIT, or strategy + 1.
        offset: Index of the quantization offset.
        chroma: Chroma strategy, or AUTO_CHROMA.
        transform: Luma's transform, or AUTO_TRANSFORM.

    Returns:
        The squared error of the leaf, 0 for a split and when decoding.
    """
    m = Model(p.state, s, c, p.stream)
    y, x, log2 = (
        int(p.state.control[NODE_Y]),
        int(p.state.control[NODE_X]),
        int(p.state.control[NODE_LOG2]),
    )
    split = 0
    if log2 > tables.MIN_BLOCK_LOG2:
        split = code_split(p, m, y, x, log2, 1 if decision == SPLIT else 0)
    error = 0.0
    if split:
        _push(p, y, x, log2)
    else:
        error = code_leaf(p, s, c, m, y, x, log2, max(decision - 1, 0), offset, chroma, transform)
    advance(p)
    return error


@kernel
def clear_maps(p: Picture, y: int, x: int, size: int) -> None:
    """Forget the decisions in a square that is about to be coded anew."""
    bottom = min((y + size) >> 2, p.maps.shape[1])
    right = min((x + size) >> 2, p.maps.shape[2])
    for channel in range(NUM_MAPS):
        for i in range(y >> 2, bottom):
            for j in range(x >> 2, right):
                p.maps[channel, i, j] = 0


@kernel
def decode_picture(p: Picture, s: Work, c: Constants) -> bool:
    """Decode every node; False if the stream said something impossible or ended early."""
    while p.state.control[NODE_LOG2] > 0:
        code_node(p, s, c, 0, 0, 0, 0)
        if p.state.registers[FAULT] != 0:
            return False
    return True
