"""How visible errors are around each place of a picture, by scale: what a structural metric would say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.jit import kernel

SCALES = 3
"""The picture itself and its means over 2x2 and 4x4 pixels; a fourth told a policy nothing new."""
REACHES = (1, 2, 5)
"""By scale, units of 4x4 pixels on each side that a window covers: about the 11 pixels of SSIM's."""
STABLE_VARIANCE = (0.03 * 255) ** 2
"""Variance in squared 8-bit code values far below which errors do not become more visible: SSIM's C2."""


@kernel
def _mean_square(source: npt.NDArray[np.int16], y: int, x: int, side: int) -> float:
    """Mean over a unit of the squared means of its cells of side x side pixels."""
    total = 0.0
    for top in range(0, 4, side):
        for left in range(0, 4, side):
            cell = 0.0
            for i in range(side):
                for j in range(side):
                    cell += source[y + top + i, x + left + j]
            cell /= side * side * tables.PIXEL_SCALE
            total += cell * cell
    return total * side * side / 16


@kernel
def _box(values: npt.NDArray[np.float64], half: npt.NDArray[np.float64], reach: int) -> None:
    """Replace values by means over squares of 2·reach + 1; at the border, over what lies in the picture."""
    height, width = values.shape
    for i in range(height):
        first, last = max(i - reach, 0), min(i + reach + 1, height)
        for j in range(width):
            total = 0.0
            for k in range(first, last):
                total += values[k, j]
            half[i, j] = total / (last - first)
    for j in range(width):
        first, last = max(j - reach, 0), min(j + reach + 1, width)
        for i in range(height):
            total = 0.0
            for k in range(first, last):
                total += half[i, k]
            values[i, j] = total / (last - first)


@kernel(allocates=True)
def visibility(source: npt.NDArray[np.int16], out: npt.NDArray[np.float32]) -> None:
    """Mean of C2 / (2·variance + C2) over the windows that see a unit: SSIM's response to an error there.

    Args:
        source: int16 [H, W], luma in 10 bits.
        out: float32 [SCALES or more, H/4, W/4], filled by scale: 1 where all is flat, towards 0 in strong
            texture.
    """
    height, width = out.shape[1], out.shape[2]
    mean = np.zeros((height, width))
    square = np.zeros((height, width))
    half = np.zeros((height, width))
    for scale in range(SCALES):
        reach = REACHES[scale]
        for i in range(height):
            for j in range(width):
                # Samples are not negative, so the root is the mean.
                mean[i, j] = np.sqrt(_mean_square(source, 4 * i, 4 * j, 4))
                square[i, j] = _mean_square(source, 4 * i, 4 * j, 1 << scale)
        _box(mean, half, reach)
        _box(square, half, reach)
        for i in range(height):
            for j in range(width):
                variance = max(square[i, j] - mean[i, j] * mean[i, j], 0.0)
                square[i, j] = STABLE_VARIANCE / (2 * variance + STABLE_VARIANCE)
        _box(square, half, reach)
        for i in range(height):
            for j in range(width):
                out[scale, i, j] = square[i, j]
