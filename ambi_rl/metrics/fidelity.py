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

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in luma (ITU-R BT.601)."""
MS_SSIM_SIDE = WINDOW << (len(MS_SSIM_WEIGHTS) - 1)
"""The smallest side of a picture that all five scales fit in, in pixels."""

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


def psnr_luma(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio of luma after BT.601, Y = 0.299 R + 0.587 G + 0.114 B, not rounded.

    Args:
        a: uint8 [H, W, 3], RGB.
        b: Same shape and type.

    Returns:
        In dB, infinite for equal luma.

    Raises:
        UsageError: Shapes or types differ from that.
    """
    _check(a, b)
    if a.ndim != 3 or a.shape[2] != 3:
        raise UsageError(f"luma is computed of RGB pictures [H, W, 3], not of {a.shape}")
    error = np.square((a.astype(np.float64) - b) @ LUMA).mean()
    return math.inf if error == 0 else float(10 * math.log10(PEAK * PEAK / error))


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
    return float(np.mean(ssim_map(a, b)))


def ssim_map(a: Pixels, b: Pixels) -> Array:
    """Structural similarity at each position of the window; `ssim` is its mean.

    Args:
        a: As for `ssim`.
        b: Likewise.

    Returns:
        float64 [C, H - 10, W - 10]; [c, y, x] is of the window around row y + 5 and column x + 5.

    Raises:
        UsageError: As `ssim` does.
    """
    luminance, structure = _ssim_terms(*_channels(a, b))
    # The terms lie transposed.
    return np.multiply(luminance, structure, out=luminance).transpose(0, 2, 1)


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
    weights = _scale_weights(a, scales)
    result = np.ones(x.shape[0])
    for scale, weight in enumerate(weights):
        if scale:
            x, y = _halve(x), _halve(y)
        luminance, structure = _ssim_terms(x, y)
        term = luminance * structure if scale == len(weights) - 1 else structure
        # A negative mean has no real power; published implementations clip it as well.
        result *= np.maximum(term.mean(axis=(1, 2)), 0.0) ** weight
    return float(result.mean())


def ms_ssim_gradient(a: Pixels, b: Pixels, scales: int | None = None) -> Array:
    """How MS-SSIM changes with the samples of the second picture; with one scale, how SSIM does.

    Args:
        a: As for `ms_ssim`.
        b: Likewise.
        scales: Likewise.

    Returns:
        float64, of the shape of `b`: derivatives for one 8-bit code value.

    Raises:
        UsageError: As `ms_ssim` does.
    """
    x, y = _channels(a, b)
    weights = _scale_weights(a, scales)
    pairs = [(x, y)]
    for _ in weights[1:]:
        pairs.append((_halve(pairs[-1][0]), _halve(pairs[-1][1])))
    means = np.empty((len(weights), x.shape[0]))
    gradients = []
    for scale, pair in enumerate(pairs):
        means[scale], gradient = _mean_and_gradient(*pair, scale == len(weights) - 1)
        gradients.append(gradient)
    powers = np.maximum(means, 0.0) ** weights[:, None]
    value = powers.prod(axis=0)
    # A scale that is clipped at 0 has no slope.
    slopes = np.divide(weights[:, None] * value, means, out=np.zeros_like(means), where=means > 0)
    total = np.zeros_like(pairs[-1][1])
    for scale in range(len(weights) - 1, -1, -1):
        if scale < len(weights) - 1:
            total = _unhalve(total, pairs[scale][1].shape)
        total = total + slopes[scale][:, None, None] * gradients[scale]
    return np.moveaxis(total, 0, 2).reshape(b.shape) / x.shape[0]


def _scale_weights(a: Pixels, scales: int | None) -> Array:
    """Exponents of the scales in use, which sum to 1."""
    fitting = min(len(MS_SSIM_WEIGHTS), (min(a.shape[:2]) // WINDOW).bit_length())
    if scales is None:
        scales = fitting
    if not 1 <= scales <= fitting:
        raise UsageError(
            f"MS-SSIM of {a.shape[1]}x{a.shape[0]} pixels has 1…{fitting} scales, not {scales}"
        )
    return np.array(MS_SSIM_WEIGHTS[:scales]) / sum(MS_SSIM_WEIGHTS[:scales])


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


def _unsmooth(x: Array) -> Array:
    """Adjoint of `_smooth`: from [N, W - 10, H - 10] back to [N, H, W]."""
    reach = WINDOW - 1
    return _smooth(np.pad(x, ((0, 0), (reach, reach), (reach, reach))))


def _mean_and_gradient(x: Array, y: Array, whole: bool) -> tuple[Array, Array]:
    """Mean of one scale's term, [C], and its derivative by `y`, [C, H, W].

    Args:
        x: [C, H, W].
        y: Likewise.
        whole: The term is luminance times structure, not structure alone.
    """
    mean_x, mean_y = _smooth(x), _smooth(y)
    energy, product = _smooth(x * x + y * y), _smooth(x * y)
    squares, means = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    below = energy - squares + _C2
    structure = (2 * (product - means) + _C2) / below
    by_product, by_energy = 2 / below, -structure / below
    by_mean = -mean_x * by_product - 2 * mean_y * by_energy
    term = structure
    if whole:
        bottom = squares + _C1
        luminance = (2 * means + _C1) / bottom
        by_mean = luminance * by_mean + structure * 2 * (mean_x - luminance * mean_y) / bottom
        by_product, by_energy = luminance * by_product, luminance * by_energy
        term = luminance * structure
    count = term.shape[1] * term.shape[2]
    gradient = _unsmooth(by_mean) + x * _unsmooth(by_product) + 2 * y * _unsmooth(by_energy)
    return term.mean(axis=(1, 2)), gradient / count


def _unhalve(x: Array, shape: tuple[int, ...]) -> Array:
    """Adjoint of `_halve`: back to a `shape` of [C, H, W]."""
    out = np.zeros(shape)
    wide = x.repeat(2, axis=1).repeat(2, axis=2) / 4
    out[:, : wide.shape[1], : wide.shape[2]] = wide
    return out


def _halve(x: Array) -> Array:
    """Mean of 2x2 pixels of [C, H, W]."""
    channels, height, width = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return np.asarray(even.reshape(channels, height // 2, 2, width // 2, 2).mean(axis=(2, 4)))
