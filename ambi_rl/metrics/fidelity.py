"""How alike two pictures are: PSNR, SSIM and MS-SSIM."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import UsageError

Pixels = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float64]

PEAK = 255.0
WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels."""
SIGMA = 1.5
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the five scales, finest first (Wang et al. 2003, table of section 3.2)."""

_C1 = (0.01 * PEAK) ** 2
_C2 = (0.03 * PEAK) ** 2
_ROWS = 64


def _gaussian() -> Array:
    offsets = np.arange(WINDOW) - WINDOW // 2
    taps = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    return np.asarray(taps / taps.sum())


def _band() -> Array:
    """The window as a matrix that filters `_ROWS` rows at once."""
    band = np.zeros((_ROWS, _ROWS + WINDOW - 1))
    for row in range(_ROWS):
        band[row, row : row + WINDOW] = _gaussian()
    return band


_BAND = _band()


def mse(a: Pixels, b: Pixels) -> float:
    """Mean squared error over all samples, in squared code values.

    Args:
        a: uint8 [H, W] or [H, W, C].
        b: Same shape and type.

    Raises:
        UsageError: Shapes or types differ from that.
    """
    _check(a, b)
    difference = a.astype(np.int32) - b.astype(np.int32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio in dB; the squared error is averaged over all channels first.

    Args:
        a: uint8 [H, W] or [H, W, C].
        b: Same shape and type.

    Returns:
        10·log10(255² / MSE), infinite for equal pictures.

    Raises:
        UsageError: Shapes or types differ from that.
    """
    error = mse(a, b)
    return math.inf if error == 0 else 10 * math.log10(PEAK * PEAK / error)


def ssim(a: Pixels, b: Pixels) -> float:
    """Structural similarity, averaged over positions and channels (Wang et al. 2004).

    The Gaussian window is 11x11 with σ = 1.5, positions where it does not fit entirely are left out, and
    pictures are compared at the size they have.

    Args:
        a: uint8 [H, W] or [H, W, C], at least 11 pixels a side.
        b: Same shape and type.

    Returns:
        At most 1, which equal pictures have.

    Raises:
        UsageError: Shapes or types differ from that, or the pictures are too small.
    """
    luminance, structure = _ssim_terms(*_channels(a, b))
    return float(np.mean(luminance * structure))


def ms_ssim(a: Pixels, b: Pixels, scales: int | None = None) -> float:
    """Multi-scale structural similarity, averaged over channels (Wang, Simoncelli and Bovik 2003).

    Each coarser scale is the mean of 2x2 pixels (an odd last row or column is dropped). Where the five
    scales do not fit, because the window would be larger than the picture, the finest ones that do fit are
    used with their weights scaled to sum 1; such values compare only among pictures of similar size.

    Args:
        a: uint8 [H, W] or [H, W, C], at least 11 pixels a side.
        b: Same shape and type.
        scales: 1…5 of them; None for as many as fit.

    Returns:
        At most 1, which equal pictures have.

    Raises:
        UsageError: Shapes or types differ from that, or the pictures are too small for `scales`.
    """
    x, y = _channels(a, b)
    fitting = min(len(MS_SSIM_WEIGHTS), (min(a.shape[:2]) // WINDOW).bit_length())
    if scales is None:
        scales = fitting
    if not 1 <= scales <= fitting:
        raise UsageError(
            f"MS-SSIM of {a.shape[1]}x{a.shape[0]} pixels has 1…{fitting} scales, not {scales}"
        )
    weights = np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])
    result = np.ones(x.shape[0])
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _halve(x), _halve(y)
        luminance, structure = _ssim_terms(x, y)
        term = luminance * structure if scale == scales - 1 else structure
        # A negative mean has no real power; published implementations clip it as well.
        result *= np.maximum(term.mean(axis=(1, 2)), 0.0) ** weight
    return float(result.mean())


def _check(a: Pixels, b: Pixels) -> None:
    if a.shape != b.shape:
        raise UsageError(
            f"pictures of different shapes cannot be compared: {a.shape} and {b.shape}"
        )
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise UsageError(f"pictures to compare must be uint8, not {a.dtype} and {b.dtype}")
    if a.ndim not in (2, 3) or a.size == 0:
        raise UsageError(f"pictures to compare must have shape [H, W] or [H, W, C], not {a.shape}")


def _channels(a: Pixels, b: Pixels) -> tuple[Array, Array]:
    """Both pictures as float64 [C, H, W]."""
    _check(a, b)
    if min(a.shape[:2]) < WINDOW:
        raise UsageError(
            f"SSIM needs at least {WINDOW} pixels a side; the pictures have {a.shape[1]}x{a.shape[0]}"
        )
    x, y = (
        np.ascontiguousarray(np.moveaxis(np.atleast_3d(p), 2, 0), dtype=np.float64) for p in (a, b)
    )
    return x, y


def _smooth_rows(x: Array) -> Array:
    """Filter [N, H, W] along H, positions where the window fits: [N, H - 10, W].

    A product with a band matrix, tile by tile: matrix products are the fastest thing that NumPy does.
    """
    count = x.shape[1] - WINDOW + 1
    out = np.empty((x.shape[0], count, x.shape[2]))
    for start in range(0, count, _ROWS):
        rows = min(_ROWS, count - start)
        taps = rows + WINDOW - 1
        np.matmul(_BAND[:rows, :taps], x[:, start : start + taps], out=out[:, start : start + rows])
    return out


def _smooth(x: Array) -> Array:
    """Gaussian window over [N, H, W] where it fits: [N, W - 10, H - 10], transposed."""
    return _smooth_rows(np.ascontiguousarray(_smooth_rows(x).transpose(0, 2, 1)))


def _ssim_terms(x: Array, y: Array) -> tuple[Array, Array]:
    """Luminance and contrast-structure maps of [C, H, W]."""
    mean_x, mean_y = _smooth(x), _smooth(y)
    # The mean of (x² + y²) is all that the contrast term needs of the two.
    energy, product = _smooth(x * x + y * y), _smooth(x * y)
    squares, means = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    luminance = (2 * means + _C1) / (squares + _C1)
    structure = (2 * (product - means) + _C2) / (energy - squares + _C2)
    return luminance, structure


def _halve(x: Array) -> Array:
    """Mean of 2x2 pixels of [C, H, W]."""
    channels, height, width = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return np.asarray(even.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4)))
