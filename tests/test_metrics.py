"""Metrics against published formulas, scipy and the bjontegaard package."""

from __future__ import annotations

import math

import bjontegaard
import numpy as np
import numpy.typing as npt
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter

from ambi_rl.errors import UsageError
from ambi_rl.metrics import bd_psnr, bd_rate, ms_ssim, mse, psnr, rate_at_quality, ssim
from ambi_rl.metrics.bjontegaard import Pchip

Pixels = npt.NDArray[np.uint8]

# JPEG and a better codec, as measured on a photograph (bits per pixel, dB).
ANCHOR = ([0.25, 0.5, 0.9, 1.6, 2.4], [28.6, 31.0, 33.9, 37.1, 40.3])
TEST = ([0.15, 0.33, 0.62, 1.2, 1.9], [28.9, 31.4, 34.2, 37.8, 40.9])


def picture(height: int, width: int, *, channels: int = 3, seed: int = 0) -> Pixels:
    """Smooth noise with texture on it, uint8 [H, W, channels]."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(0, 600, (height, width, channels)), (8, 8, 0))
    return np.clip(128 + smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def noisy(image: Pixels, sigma: float) -> Pixels:
    noise = np.random.default_rng(1).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def reference_ssim(a: Pixels, b: Pixels) -> float:
    """One channel by scipy's Gaussian filter, cropped to where the window fits."""

    def smooth(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return gaussian_filter(x, 1.5, truncate=3.4)[5:-5, 5:-5]

    x, y = a.astype(float), b.astype(float)
    mx, my = smooth(x), smooth(y)
    vx, vy, vxy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(index.mean())


def test_psnr_of_a_known_error() -> None:
    a = np.full((4, 5, 3), 100, np.uint8)
    b = a.copy()
    b[..., 0] += 3
    assert mse(a, b) == 3.0
    assert psnr(a, b) == pytest.approx(10 * math.log10(255**2 / 3))
    assert psnr(a, a) == math.inf


def test_psnr_does_not_wrap_around() -> None:
    black, white = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
    assert psnr(black, white) == psnr(white, black) == 0.0


@pytest.mark.parametrize(("height", "width"), [(11, 11), (75, 200), (300, 141)])
def test_ssim_equals_the_definition(height: int, width: int) -> None:
    a = picture(height, width)
    b = noisy(a, 10)
    expected = np.mean([reference_ssim(a[..., c], b[..., c]) for c in range(3)])
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)
    assert ssim(a[..., 0], b[..., 0]) == pytest.approx(reference_ssim(a[..., 0], b[..., 0]))


def test_ms_ssim_equals_the_definition() -> None:
    a = picture(192, 240, channels=1)[..., 0]
    b = noisy(a, 20)

    def halves(x: Pixels, scale: int) -> npt.NDArray[np.float64]:
        y = x.astype(float)
        for _ in range(scale):
            y = (y[::2, ::2] + y[1::2, ::2] + y[::2, 1::2] + y[1::2, 1::2]) / 4
        return y

    def structure(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
        def smooth(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return gaussian_filter(z, 1.5, truncate=3.4)[5:-5, 5:-5]

        mx, my = smooth(x), smooth(y)
        vx, vy, vxy = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        term = (2 * vxy + c2) / (vx + vy + c2)
        if x.shape[0] == 12:  # the coarsest scale has the luminance as well
            term = term * (2 * mx * my + c1) / (mx**2 + my**2 + c1)
        return float(term.mean())

    expected = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        expected *= structure(halves(a, scale), halves(b, scale)) ** (weight / 1.0001)
    assert ms_ssim(a, b) == pytest.approx(expected, abs=1e-9)


def test_structural_metrics_of_equal_pictures_are_one() -> None:
    a = picture(180, 177)
    assert ssim(a, a) == pytest.approx(1.0)
    assert ms_ssim(a, a) == pytest.approx(1.0)


def test_ms_ssim_orders_and_small_pictures() -> None:
    a = picture(64, 64)
    assert ms_ssim(a, noisy(a, 5)) > ms_ssim(a, noisy(a, 20)) > ms_ssim(a, noisy(a, 60)) > 0
    # One scale is SSIM itself.
    assert ms_ssim(a, noisy(a, 9), scales=1) == pytest.approx(ssim(a, noisy(a, 9)))
    assert ms_ssim(a, noisy(a, 9)) == ms_ssim(a, noisy(a, 9), scales=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: psnr(picture(8, 8), picture(8, 9)), "different shapes"),
        (lambda: mse(np.zeros((2, 2)), np.zeros((2, 2))), "must be uint8"),  # type: ignore[arg-type]
        (lambda: ssim(picture(10, 40), picture(10, 40)), "at least 11 pixels a side"),
        (lambda: ms_ssim(picture(64, 64), picture(64, 64), scales=4), "has 1…3 scales, not 4"),
    ],
)
def test_bad_pictures_are_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("points", [2, 3, 4, 9])
def test_pchip_equals_scipy(points: int) -> None:
    rng = np.random.default_rng(points)
    x = np.sort(rng.uniform(25, 45, points))
    y = rng.normal(0, 1, points) if points % 2 else np.sort(rng.normal(0, 1, points))
    ours = Pchip(x, y)
    # scipy needs three points for its three-point end slopes; two make a straight line.
    for at in np.linspace(x[0], x[-1], 57):
        assert ours(at) == pytest.approx(float(PchipInterpolator(x, y)(at)), abs=1e-12)
    low, high = x[0] + 0.1, x[-1] - 0.05
    expected = PchipInterpolator(x, y).integrate(low, high) / (high - low)
    assert ours.mean(low, high) == pytest.approx(float(expected), abs=1e-12)


def test_bd_rate_equals_the_bjontegaard_package() -> None:
    expected = bjontegaard.bd_rate(*ANCHOR, *TEST, method="pchip", min_overlap=0)
    assert bd_rate(*ANCHOR, *TEST) == pytest.approx(expected, rel=1e-6)
    expected = bjontegaard.bd_psnr(*ANCHOR, *TEST, method="pchip", min_overlap=0)
    assert bd_psnr(*ANCHOR, *TEST) == pytest.approx(expected, rel=1e-6)


def test_bd_rate_of_scaled_rates_is_the_scale() -> None:
    rates, quality = ANCHOR
    assert bd_rate(rates, quality, [0.8 * r for r in rates], quality) == pytest.approx(-20.0)
    # The order of the points does not matter, and neither does the range.
    reverse = [1.5 * r for r in rates[::-1]], quality[::-1]
    assert bd_rate(rates, quality, *reverse, low=30, high=40) == pytest.approx(50.0)
    shifted = [q + 0.7 for q in quality]
    assert bd_psnr(rates, quality, rates, shifted, low=0.3, high=2) == pytest.approx(0.7)


def test_rate_at_quality_meets_the_points() -> None:
    assert rate_at_quality(*ANCHOR, 33.9) == pytest.approx(0.9)
    assert 0.9 < rate_at_quality(*ANCHOR, 35.0) < 1.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bd_rate([1, 2], [30, 31], [1, 2], [35, 36]), "no quality in common"),
        (lambda: bd_rate(*ANCHOR, *TEST, low=28, high=40), "anchor curve covers quality"),
        (lambda: bd_rate(*ANCHOR, *TEST, low=40, high=30), "is empty"),
        (lambda: bd_rate([1], [30], *TEST), "two or more points"),
        (lambda: bd_rate([0, 1], [30, 31], *TEST), "rate that is not positive"),
        (lambda: bd_rate([1, 2], [30, 30], *TEST), "two points of the same quality"),
        (lambda: bd_rate([1, 2], [30, math.inf], *TEST), "not finite"),
        (lambda: bd_psnr([2, 1], [30, 31], *TEST), "anchor curve does not rise"),
        (lambda: rate_at_quality(*ANCHOR, 50), "not 50"),
    ],
)
def test_bad_curves_are_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
