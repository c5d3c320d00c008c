"""Prediction of a block from the decoded samples around it, in integer arithmetic.

Angular prediction follows HEVC (ITU-T H.265, 8.4.4.2.6) with the four-tap interpolation and the
position-dependent borders of VVC (ITU-T H.266, 8.4.5.2); chroma-from-luma fits a line on the border.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import STRATEGY, Picture, Work

TOP, LEFT = 0, 1
ORIGIN = 4
"""Index of the corner sample in a reference line; sample i of the side is at ORIGIN + 1 + i."""

_BASE = tables.SUPERBLOCK
ANGLES = tables.ANGLES
INTERPOLATION = tables.INTERPOLATION


@kernel
def _available(p: Picture, y: int, x: int, rows: int, cols: int, limit: int) -> int:
    """Number of contiguous decoded 4-sample units from (y, x) on, downwards or rightwards."""
    height, width = p.maps.shape[1], p.maps.shape[2]
    count = 0
    while count < limit and y < height and x < width and p.maps[STRATEGY, y, x] != 0:
        count += 1
        y += rows
        x += cols
    return count


@kernel
def gather_reference(p: Picture, s: Work, y: int, x: int, size: int) -> None:
    """Fill `s.reference` of every plane with the border of the block at (y, x).

    Samples not decoded yet repeat the last one that is; without any, all are mid-gray.
    """
    uy, ux, units = y >> 2, x >> 2, size >> 1
    lefts = _available(p, uy, ux - 1, 1, 0, units) * 4 if x > 0 else 0
    tops = _available(p, uy - 1, ux, 0, 1, units) * 4 if y > 0 else 0
    end = 2 * size + 3
    for plane in range(p.decoded.shape[0]):
        pixels = p.decoded[plane]
        top = s.reference[plane, TOP]
        left = s.reference[plane, LEFT]
        corner = tables.PIXEL_MID
        if tops > 0 and lefts > 0:
            corner = int(pixels[y - 1, x - 1])
        elif tops > 0:
            corner = int(pixels[y - 1, x])
        elif lefts > 0:
            corner = int(pixels[y, x - 1])
        last = corner
        for i in range(end):
            if i < tops:
                last = int(pixels[y - 1, x + i])
            top[ORIGIN + 1 + i] = last
        last = corner
        for i in range(end):
            if i < lefts:
                last = int(pixels[y + i, x - 1])
            left[ORIGIN + 1 + i] = last
        top[ORIGIN] = corner
        left[ORIGIN] = corner


@kernel
def _predict_planar(
    out: npt.NDArray[np.int32],
    top: npt.NDArray[np.int32],
    left: npt.NDArray[np.int32],
    size: int,
    stride: int,
) -> None:
    count = size // stride
    shift = 3
    while (1 << (shift - 1)) < size:
        shift += 1
    # Two blends of `size` weights each are added: divide by 2·size.
    right = int(top[ORIGIN + 1 + size])
    below = int(left[ORIGIN + 1 + size])
    for i in range(count):
        r = i * stride + stride // 2
        for j in range(count):
            q = j * stride + stride // 2
            across = (size - 1 - q) * int(left[ORIGIN + 1 + r]) + (q + 1) * right
            down = (size - 1 - r) * int(top[ORIGIN + 1 + q]) + (r + 1) * below
            out[i, j] = (across + down + size) >> shift


@kernel
def _predict_dc(
    out: npt.NDArray[np.int32],
    top: npt.NDArray[np.int32],
    left: npt.NDArray[np.int32],
    size: int,
    stride: int,
) -> None:
    total = size
    for i in range(size):
        total += int(top[ORIGIN + 1 + i]) + int(left[ORIGIN + 1 + i])
    value = total // (2 * size)
    count = size // stride
    for i in range(count):
        for j in range(count):
            out[i, j] = value


@kernel
def _blend_border(
    out: npt.NDArray[np.int32],
    top: npt.NDArray[np.int32],
    left: npt.NDArray[np.int32],
    size: int,
    stride: int,
    code: int,
) -> None:
    """Pull planar, DC, horizontal and vertical predictions towards the near border (PDPC of VVC)."""
    scale = 0 if size < 8 else (1 if size < 32 else 2)
    reach = 3 << scale
    corner = int(top[ORIGIN])
    count = size // stride
    near = min((reach + stride - 1 - stride // 2) // stride, count)
    for i in range(count):
        r = i * stride + stride // 2
        weight_top = 0 if r >= reach else 32 >> ((r << 1) >> scale)
        # Far from the top border only the samples near the left one change.
        across = count if weight_top > 0 and code != tables.VERTICAL else near
        if code == tables.HORIZONTAL and weight_top == 0:
            across = 0
        for j in range(across):
            q = j * stride + stride // 2
            weight_left = 0 if q >= reach else 32 >> ((q << 1) >> scale)
            value = int(out[i, j])
            if code == tables.VERTICAL:
                value += ((int(left[ORIGIN + 1 + r]) - corner) * weight_left + 32) >> 6
            elif code == tables.HORIZONTAL:
                value += ((int(top[ORIGIN + 1 + q]) - corner) * weight_top + 32) >> 6
            else:
                border = (
                    int(left[ORIGIN + 1 + r]) * weight_left + int(top[ORIGIN + 1 + q]) * weight_top
                )
                value = (border + (64 - weight_left - weight_top) * value + 32) >> 6
            out[i, j] = min(max(value, 0), tables.PIXEL_MAX)


@kernel
def _predict_angular(
    out: npt.NDArray[np.int32],
    line: npt.NDArray[np.int32],
    top: npt.NDArray[np.int32],
    left: npt.NDArray[np.int32],
    size: int,
    stride: int,
    code: int,
) -> None:
    vertical = code >= tables.DIAGONAL
    main = top if vertical else left
    side = left if vertical else top
    angle = int(ANGLES[code])
    for i in range(2 * size + 4):
        line[_BASE + i] = main[ORIGIN + i]
    if angle < 0:
        inverse = (8192 - angle // 2) // -angle
        for k in range((size * angle) >> 5, 0):
            # Project the other side onto the main line; at most `size` samples away.
            line[_BASE + k] = side[ORIGIN + min((-k * inverse + 128) >> 8, size)]
    distance = min(abs(code - tables.HORIZONTAL), abs(code - tables.VERTICAL))
    smooth = 1 if (size >= 16 and distance > 0) or (size == 8 and distance >= 8) else 0
    count = size // stride
    for i in range(count):
        position = (i * stride + stride // 2 + 1) * angle
        start = _BASE + (position >> 5) + stride // 2
        _interpolate(out[i], line[start:], INTERPOLATION[smooth, position & 31], count, stride)
    if not vertical:
        for i in range(1, count):
            for j in range(i):
                out[i, j], out[j, i] = out[j, i], out[i, j]


@kernel
def _interpolate(
    out: npt.NDArray[np.int32],
    line: npt.NDArray[np.int32],
    taps: npt.NDArray[np.int32],
    count: int,
    stride: int,
) -> None:
    """Four-tap interpolation of every `stride`-th sample of a line, clipped.

    In two passes, of which the first needs 32 bits only: both become vector code.
    """
    t0, t1, t2, t3 = taps[0], taps[1], taps[2], taps[3]
    if stride == 1:
        for j in range(count):
            out[j] = t0 * line[j] + t1 * line[j + 1] + t2 * line[j + 2] + t3 * line[j + 3] + 32
    else:
        for j in range(count):
            k = j * stride
            out[j] = t0 * line[k] + t1 * line[k + 1] + t2 * line[k + 2] + t3 * line[k + 3] + 32
    for j in range(count):
        out[j] = min(max(out[j] >> 6, 0), tables.PIXEL_MAX)


@kernel
def predict(s: Work, plane: int, size: int, code: int, stride: int) -> None:
    """Write the prediction with predictor `code` into `s.prediction`.

    Args:
        s: Work; `gather_reference` must have been called for this block.
        plane: Plane whose border is used.
        size: Side of the block.
        code: Predictor code (see `tables.PREDICTOR_NAMES`).
        stride: 1 predicts every sample; k predicts a lattice of every k-th one, for cheap estimates.
    """
    top = s.reference[plane, TOP]
    left = s.reference[plane, LEFT]
    if code == tables.PLANAR:
        _predict_planar(s.prediction, top, left, size, stride)
    elif code == tables.DC:
        _predict_dc(s.prediction, top, left, size, stride)
    else:
        _predict_angular(s.prediction, s.line, top, left, size, stride, code)
    if code <= tables.DC or code == tables.HORIZONTAL or code == tables.VERTICAL:
        _blend_border(s.prediction, top, left, size, stride, code)


@kernel
def predict_from_luma(
    p: Picture, s: Work, plane: int, y: int, x: int, size: int, stride: int
) -> None:
    """Predict chroma as a line of decoded luma, fitted by least squares on the border; 8-bit slope."""
    sum_l = 0
    sum_c = 0
    sum_ll = 0
    sum_lc = 0
    for side in range(2):
        luma = s.reference[0, side]
        chroma = s.reference[plane, side]
        for i in range(ORIGIN + 1, ORIGIN + 1 + size):
            a = int(luma[i])
            b = int(chroma[i])
            sum_l += a
            sum_c += b
            sum_ll += a * a
            sum_lc += a * b
    count = 2 * size
    numerator = count * sum_lc - sum_l * sum_c
    # A flat border says nothing of the slope: the constant keeps it near zero there.
    denominator = count * sum_ll - sum_l * sum_l + 64 * count * count
    slope = min(max((numerator * 256) // denominator, -1024), 1023)
    mean_l = sum_l // count
    mean_c = sum_c // count
    decoded = p.decoded[0, y + stride // 2 : y + size, x + stride // 2 : x + size]
    for i in range(size // stride):
        for j in range(size // stride):
            value = mean_c + ((slope * (int(decoded[i * stride, j * stride]) - mean_l) + 128) >> 8)
            s.prediction[i, j] = min(max(value, 0), tables.PIXEL_MAX)


@kernel
def _walsh4(a: int, b: int, c: int, d: int) -> tuple[int, int, int, int]:
    """Walsh-Hadamard transform of four numbers, in any order."""
    e, f, g, h = a + b, a - b, c + d, c - d
    return e + g, e - g, f + h, f - h


@kernel
def _hadamard4(block: npt.NDArray[np.int32]) -> int:
    """Sum of absolute Walsh-Hadamard coefficients of the top-left 4x4; the first pass in place."""
    total = 0
    for j in range(4):
        block[0, j], block[1, j], block[2, j], block[3, j] = _walsh4(
            block[0, j], block[1, j], block[2, j], block[3, j]
        )
    for i in range(4):
        a, b, c, d = _walsh4(block[i, 0], block[i, 1], block[i, 2], block[i, 3])
        total += abs(a) + abs(b) + abs(c) + abs(d)
    return total


@kernel
def _hadamard8(block: npt.NDArray[np.int32]) -> int:
    """Sum of absolute Walsh-Hadamard coefficients of the top-left 8x8; the first pass in place."""
    total = 0
    for half in range(2):
        r = 4 * half
        for j in range(8):
            block[r, j], block[r + 1, j], block[r + 2, j], block[r + 3, j] = _walsh4(
                block[r, j], block[r + 1, j], block[r + 2, j], block[r + 3, j]
            )
    for i in range(4):
        for j in range(8):
            a, b = block[i, j], block[i + 4, j]
            block[i, j] = a + b
            block[i + 4, j] = a - b
    for i in range(8):
        a, b, c, d = _walsh4(block[i, 0], block[i, 1], block[i, 2], block[i, 3])
        e, f, g, h = _walsh4(block[i, 4], block[i, 5], block[i, 6], block[i, 7])
        total += abs(a + e) + abs(a - e) + abs(b + f) + abs(b - f)
        total += abs(c + g) + abs(c - g) + abs(d + h) + abs(d - h)
    return total


@kernel
def satd(p: Picture, s: Work, plane: int, y: int, x: int, size: int, stride: int) -> float:
    """Sum of absolute transformed differences between source and `s.prediction`, for `size`² samples.

    Uses `s.half` as scratch. Normalised to orthonormal transforms of 8-bit code values.
    """
    count = size // stride
    tile = min(count, 8)
    total = 0
    for ty in range(0, count, tile):
        for tx in range(0, count, tile):
            top = y + ty * stride + stride // 2
            left = x + tx * stride + stride // 2
            source = p.source[plane, top : y + size, left : x + size]
            for i in range(tile):
                for j in range(tile):
                    s.half[i, j] = source[i * stride, j * stride] - s.prediction[ty + i, tx + j]
            total += _hadamard8(s.half) if tile == 8 else _hadamard4(s.half)
    return total * (stride * stride) / (tile * tables.PIXEL_SCALE)
