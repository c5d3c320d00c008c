"""Where errors matter to a reward: the importance map that a search teacher is given."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.kernel.state import DISTORTION_WEIGHTS

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MIRROR = 24
"""Pixels that a patch is continued by on each side, so that windows see its border as often as its middle."""
SPREAD = 4.0
"""Standard deviation, in units of 4x4 pixels, of the window in which errors are compared."""
LIMIT = 32.0
"""Importances are kept within 1/LIMIT…LIMIT; the quantization offsets reach far less."""

_UNIT = 4


def mirror(height: int, width: int) -> tuple[Indices, Indices]:
    """Rows [R, 1] and columns [1, C] that continue a picture by `MIRROR` pixels on each side."""
    rows, cols = (np.pad(np.arange(n), min(MIRROR, n - 1), "reflect") for n in (height, width))
    return rows[:, None], cols[None]


def fold(gradient: Floats, place: tuple[Indices, Indices]) -> Floats:
    """The derivative by a picture's samples, [H, W, 3], from that by those of the picture continued."""
    rows, cols = (indices.ravel() for indices in place)
    height, width, colours = rows.max() + 1, cols.max() + 1, gradient.shape[2]
    by_row = np.zeros((height, cols.size, colours))
    np.add.at(by_row, rows, gradient)
    folded = np.zeros((width, height, colours))
    np.add.at(folded, cols, by_row.transpose(1, 0, 2))
    return folded.transpose(1, 0, 2)


def _units(x: Floats) -> Floats:
    """Sums over units of 4x4 pixels: [H/4, W/4] of [H, W]."""
    height, width = x.shape
    return x.reshape(height // _UNIT, _UNIT, width // _UNIT, _UNIT).sum(axis=(1, 3))


def _smooth(x: Floats) -> Floats:
    """Gaussian window of deviation `SPREAD`, reflected at the border."""
    for _ in range(2):
        reach = min(int(3 * SPREAD), x.shape[0] - 1)
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / SPREAD) ** 2)
        padded = np.pad(x, ((reach, reach), (0, 0)), "reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=0)
        x = (windows @ (taps / taps.sum())).T
    return x


def marginal_cost(original: Pixels, decoded: Pixels, gradient: Floats) -> Floats:
    """What a cost rises by for a little more squared error of the kind that is there, by place.

    It is the derivative for scaling the error of a neighbourhood, divided by that of its squared error. Where
    there is no error, or a cost that falls, it is 0.

    Args:
        original: uint8 [H, W, 3], sides multiples of 4.
        decoded: Likewise.
        gradient: [H, W, 3], derivative of the cost by the decoded samples.

    Returns:
        float64 [H/4, W/4], for squared error in 8-bit code values, mean of R, G and B, summed over pixels.
    """
    error = decoded.astype(np.float64) - original
    cost = _smooth(_units((gradient * error).sum(axis=2)))
    squared = _smooth(_units(2 * (error * error).mean(axis=2)))
    # A hundredth of a squared code value in a unit: rounding, not coding.
    return np.maximum(cost, 0.0) / np.maximum(squared, 0.01)


def chroma_share(original: Pixels, decoded: Pixels) -> Floats:
    """The part of the squared error around each place that is Cb's and Cr's, 0…1.

    Args:
        original: uint8 [H, W, 3], sides multiples of 4.
        decoded: Likewise.

    Returns:
        float64 [H/4, W/4].
    """
    error = rgb_to_planes(decoded).astype(np.float64) - rgb_to_planes(original)
    luma, *chroma = (
        _smooth(_units(weight * plane * plane))
        for weight, plane in zip(DISTORTION_WEIGHTS, error, strict=True)
    )
    return sum(chroma) / np.maximum(luma + sum(chroma), 1e-9)


def limited(importance: Floats) -> npt.NDArray[np.float32]:
    """An importance map within what makes sense, float32."""
    return np.clip(importance, 1 / LIMIT, LIMIT).astype(np.float32)
