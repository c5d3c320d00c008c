"""Rate-distortion curves against each other: Bjøntegaard deltas over a stated range."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import UsageError

Array = npt.NDArray[np.float64]
Numbers = Sequence[float] | npt.NDArray[np.floating]


class Pchip:
    """Monotone piecewise cubic interpolation (Fritsch and Carlson 1980, slopes of Fritsch and Butland 1984).

    Unlike a cubic polynomial, it neither oscillates between the points nor depends on far-away ones.

    Args:
        x: Strictly increasing, at least two values.
        y: As many values.
    """

    def __init__(self, x: Array, y: Array) -> None:
        self.x = x
        self.y = y
        self.slopes = _slopes(np.diff(x), np.diff(y) / np.diff(x))

    def __call__(self, at: float) -> float:
        """Value at one position within the points' range."""
        k, t, h = self._locate(at)
        y, d = self.y[k : k + 2], self.slopes[k : k + 2] * h
        return float(
            (1 + 2 * t) * (1 - t) ** 2 * y[0]
            + t * (1 - t) ** 2 * d[0]
            + t * t * (3 - 2 * t) * y[1]
            - t * t * (1 - t) * d[1]
        )

    def mean(self, low: float, high: float) -> float:
        """Mean value over low…high, exactly."""
        return (self._integral(high) - self._integral(low)) / (high - low)

    def _locate(self, at: float) -> tuple[int, float, float]:
        k = int(np.clip(np.searchsorted(self.x, at, side="right") - 1, 0, self.x.size - 2))
        h = float(self.x[k + 1] - self.x[k])
        return k, float(at - self.x[k]) / h, h

    def _integral(self, to: float) -> float:
        """Integral from the first point."""
        h = np.diff(self.x)
        whole = (
            h * (self.y[:-1] + self.y[1:]) / 2 + h * h * (self.slopes[:-1] - self.slopes[1:]) / 12
        )
        k, t, width = self._locate(to)
        y, d = self.y[k : k + 2], self.slopes[k : k + 2] * width
        # Antiderivatives of the four Hermite polynomials.
        part = (
            (t - t**3 + t**4 / 2) * y[0]
            + (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4) * d[0]
            + (t**3 - t**4 / 2) * y[1]
            + (t**4 / 4 - t**3 / 3) * d[1]
        )
        return float(whole[:k].sum() + width * part)


def _slopes(h: Array, secant: Array) -> Array:
    if secant.size == 1:
        return np.repeat(secant, 2)
    inner = np.zeros(secant.size - 1)
    same = secant[:-1] * secant[1:] > 0
    w1, w2 = (2 * h[1:] + h[:-1])[same], (h[1:] + 2 * h[:-1])[same]
    inner[same] = (w1 + w2) / (w1 / secant[:-1][same] + w2 / secant[1:][same])
    ends = [
        _end_slope(h[0], h[1], secant[0], secant[1]),
        _end_slope(h[-1], h[-2], secant[-1], secant[-2]),
    ]
    return np.concatenate([ends[:1], inner, ends[1:]])


def _end_slope(h0: float, h1: float, s0: float, s1: float) -> float:
    """Three-point slope at an end, limited so that the curve stays monotone."""
    slope = ((2 * h0 + h1) * s0 - h0 * s1) / (h0 + h1)
    if slope * s0 <= 0:
        return 0.0
    if s0 * s1 < 0 and abs(slope) > 3 * abs(s0):
        return 3 * s0
    return float(slope)


def _curve(rates: Numbers, quality: Numbers, name: str) -> tuple[Array, Array]:
    """Validate and sort by quality: log10 of the rates, and the qualities."""
    r, q = np.asarray(rates, np.float64), np.asarray(quality, np.float64)
    if r.ndim != 1 or r.shape != q.shape or r.size < 2:
        raise UsageError(
            f"the {name} curve needs two or more points, as many rates as qualities; "
            f"it has {r.size} rates and {q.size} qualities"
        )
    if not (np.isfinite(r).all() and np.isfinite(q).all() and (r > 0).all()):
        raise UsageError(
            f"the {name} curve has a rate that is not positive, or a value that is not finite"
        )
    order = np.argsort(q)
    r, q = r[order], q[order]
    if (np.diff(q) <= 0).any():
        raise UsageError(
            f"the {name} curve has two points of the same quality; leave one of them out"
        )
    return np.log10(r), q


def _range(
    a: Array, b: Array, low: float | None, high: float | None, what: str
) -> tuple[float, float]:
    """The range to average over: as stated, or all that both curves cover."""
    common = max(a.min(), b.min()), min(a.max(), b.max())
    if common[0] >= common[1]:
        raise UsageError(
            f"the curves have no {what} in common: anchor {a.min():.4g}…{a.max():.4g}, "
            f"test {b.min():.4g}…{b.max():.4g}"
        )
    start = common[0] if low is None else low
    stop = common[1] if high is None else high
    if start >= stop:
        raise UsageError(f"the {what} range {start:.4g}…{stop:.4g} is empty")
    for name, curve in (("anchor", a), ("test", b)):
        if start < curve.min() or stop > curve.max():
            raise UsageError(
                f"the {name} curve covers {what} {curve.min():.4g}…{curve.max():.4g}, "
                f"not all of {start:.4g}…{stop:.4g}; measure more points or state a smaller range"
            )
    return float(start), float(stop)


def bd_rate(
    anchor_rates: Numbers,
    anchor_quality: Numbers,
    test_rates: Numbers,
    test_quality: Numbers,
    *,
    low: float | None = None,
    high: float | None = None,
) -> float:
    """Mean difference in rate at equal quality, in percent (Bjøntegaard 2001, VCEG-M33).

    The logarithm of the rate is interpolated over quality by PCHIP and averaged over low…high.

    Args:
        anchor_rates: Rates of the curve to compare with, in any unit that both curves share.
        anchor_quality: Their qualities, for example PSNR in dB.
        test_rates: Rates of the curve in question.
        test_quality: Their qualities.
        low: Lower end of the quality range; None for the lowest that both curves cover.
        high: Upper end; None for the highest that both curves cover.

    Returns:
        −20.0 says that the test curve needs 20 % less rate.

    Raises:
        UsageError: The curves do not overlap, or one of them does not cover a stated low…high.
    """
    anchor_log, anchor_q = _curve(anchor_rates, anchor_quality, "anchor")
    test_log, test_q = _curve(test_rates, test_quality, "test")
    span = _range(anchor_q, test_q, low, high, "quality")
    difference = Pchip(test_q, test_log).mean(*span) - Pchip(anchor_q, anchor_log).mean(*span)
    return float((10**difference - 1) * 100)


def bd_psnr(
    anchor_rates: Numbers,
    anchor_quality: Numbers,
    test_rates: Numbers,
    test_quality: Numbers,
    *,
    low: float | None = None,
    high: float | None = None,
) -> float:
    """Mean difference in quality at equal rate, in the unit of the qualities (Bjøntegaard 2001).

    Args:
        anchor_rates: Rates of the curve to compare with.
        anchor_quality: Their qualities.
        test_rates: Rates of the curve in question, in the same unit.
        test_quality: Their qualities.
        low: Lower end of the rate range; None for the lowest that both curves cover.
        high: Upper end; None for the highest that both curves cover.

    Returns:
        Positive where the test curve is better.

    Raises:
        UsageError: The curves do not overlap, do not rise, or one does not cover a stated low…high.
    """
    anchor_log, anchor_q = _curve(anchor_rates, anchor_quality, "anchor")
    test_log, test_q = _curve(test_rates, test_quality, "test")
    for name, log_rate in (("anchor", anchor_log), ("test", test_log)):
        if (np.diff(log_rate) <= 0).any():
            raise UsageError(f"the {name} curve does not rise: a higher quality has a lower rate")
    limits = [None if limit is None else float(np.log10(limit)) for limit in (low, high)]
    span = _range(anchor_log, test_log, limits[0], limits[1], "log10 rate")
    return Pchip(test_log, test_q).mean(*span) - Pchip(anchor_log, anchor_q).mean(*span)


def rate_at_quality(rates: Numbers, quality: Numbers, target: float) -> float:
    """Rate of a curve at a quality between its points (PCHIP on the logarithm of the rate).

    Args:
        rates: Rates of the points, positive.
        quality: Their qualities, in any order.
        target: The quality in question.

    Raises:
        UsageError: The curve does not reach `target`.
    """
    log_rate, q = _curve(rates, quality, "rate")
    if not q[0] <= target <= q[-1]:
        raise UsageError(f"the curve covers quality {q[0]:.4g}…{q[-1]:.4g}, not {target:.4g}")
    return float(10 ** Pchip(q, log_rate)(target))
