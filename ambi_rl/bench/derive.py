"""What follows from measured points: curves of the whole set, and every curve against the anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ambi_rl.bench.curves import Curve, Point, mean_curve
from ambi_rl.bench.results import (
    METRICS,
    CodecEntry,
    Comparison,
    CurveEntry,
    DeltaEntry,
    ImageEntry,
    Metric,
    PointEntry,
)
from ambi_rl.errors import UsageError

Measured = dict[tuple[str, str], Curve]
"""By codec and picture, the curves that have all settings."""


def whole_curves(codecs: Sequence[CodecEntry], points: Sequence[PointEntry]) -> Measured:
    """The pictures' curves, but for those that lack a point."""
    by_pair: dict[tuple[str, str], list[PointEntry]] = {}
    for point in points:
        by_pair.setdefault((point.codec, point.image), []).append(point)
    entries = {codec.name: codec for codec in codecs}
    return {
        (name, image): Curve(name, entries[name].description, tuple(map(as_point, some)))
        for (name, image), some in by_pair.items()
        if len(some) == len(entries[name].settings)
    }


def mean_images(
    codecs: Sequence[CodecEntry], images: Sequence[ImageEntry], curves: Measured
) -> tuple[str, ...]:
    """The pictures that every codec managed that managed any: means over others would not compare."""
    able = {codec.name for codec in codecs if any(name == codec.name for name, _ in curves)}
    return tuple(
        image.name
        for image in images
        if able and all((name, image.name) in curves for name in able)
    )


def means(
    codecs: Sequence[CodecEntry], names: Sequence[str], curves: Measured
) -> tuple[CurveEntry, ...]:
    """The mean curve of each codec that has one, over the pictures `names`."""
    some = [
        [curves[codec.name, name] for name in names if (codec.name, name) in curves]
        for codec in codecs
    ]
    return tuple(as_entry(mean_curve(each)) for each in some if each)


def deltas(
    comparison: Comparison,
    codecs: Sequence[CodecEntry],
    images: Sequence[ImageEntry],
    curves: Measured,
    whole: Sequence[CurveEntry],
) -> tuple[DeltaEntry, ...]:
    """Every curve against the anchor's, in all metrics: of the whole set first, then picture by picture.

    Args:
        comparison: The anchor and the range.
        codecs: In the order wanted.
        images: Likewise.
        curves: Of pictures.
        whole: Of the set, measured and imported.
    """
    found: list[DeltaEntry] = []
    means_by_name = {entry.name: as_curve(entry) for entry in whole}
    if comparison.anchor in means_by_name:
        base = means_by_name[comparison.anchor]
        for name, curve in means_by_name.items():
            if name != comparison.anchor:
                found += [_delta(curve, base, None, metric, comparison) for metric in METRICS]
    for image in images:
        anchor = curves.get((comparison.anchor, image.name))
        for codec in codecs:
            mine = curves.get((codec.name, image.name))
            if anchor is not None and mine is not None and codec.name != comparison.anchor:
                found += [_delta(mine, anchor, image.name, m, comparison) for m in METRICS]
    return tuple(found)


def as_point(entry: PointEntry) -> Point:
    """A point of a result, with nan for what was not measured."""
    return Point(
        entry.setting,
        entry.size,
        entry.bpp,
        entry.psnr,
        math.nan if entry.ssim is None else entry.ssim,
        math.nan if entry.ms_ssim is None else entry.ms_ssim,
        entry.encode_seconds,
        entry.decode_seconds,
        entry.psnr_luma,
    )


def as_curve(entry: CurveEntry) -> Curve:
    """A curve of a result, with nan for what was not measured; it knows no file sizes."""
    count = len(entry.bpp)

    def column(values: tuple[float, ...]) -> tuple[float, ...]:
        return values or (math.nan,) * count

    rows = zip(
        column(entry.setting),
        (0,) * count,
        entry.bpp,
        *map(column, (entry.psnr, entry.ssim, entry.ms_ssim)),
        *map(column, (entry.encode_seconds, entry.decode_seconds, entry.psnr_luma)),
        strict=True,
    )
    return Curve(entry.name, entry.description, tuple(Point(*row) for row in rows))


def as_entry(curve: Curve) -> CurveEntry:
    """A curve for a result: a metric that is not known of every point is left out."""

    def column(values: list[float]) -> tuple[float, ...]:
        return () if any(map(math.isnan, values)) else tuple(values)

    return CurveEntry(
        curve.name,
        curve.description,
        None,
        tuple(curve.bpp),
        **{
            name: column([float(getattr(p, name)) for p in curve.points])
            for name in (*METRICS, "encode_seconds", "decode_seconds", "setting")
        },
    )


def _delta(
    curve: Curve, anchor: Curve, image: str | None, metric: Metric, comparison: Comparison
) -> DeltaEntry:
    nothing = DeltaEntry(
        curve.name, image, metric, None, None, None, False, None, None, None, False
    )
    mine, base = _comparable(curve, metric), _comparable(anchor, metric, needs_psnr=True)
    if min(len(mine.points), len(base.points)) < 2:
        return nothing
    try:
        wanted, is_covered = _range(base, metric, comparison)
    except UsageError:
        return nothing
    has, reference = mine.quality(metric), base.quality(metric)
    low = max(wanted[0], min(has), min(reference))
    high = min(wanted[1], max(has), max(reference))
    if not low < high:
        return nothing
    try:
        rate = mine.bd_rate(base, low=low, high=high, metric=metric)
    except UsageError:
        # Two points of equal quality: no rate belongs to it.
        return nothing
    if not math.isfinite(rate):
        return nothing
    is_whole = is_covered and (low, high) == wanted
    gain, rates, has_all_rates = _gain(mine, base, metric, low, high)
    return DeltaEntry(
        curve.name,
        image,
        metric,
        rate,
        low,
        high,
        is_whole,
        gain,
        *rates,
        is_whole_rate=is_whole and has_all_rates,
    )


def finite_points(curve: Curve) -> Curve:
    """Without the points whose PSNR is unknown or, where pictures are equal, infinite."""
    return replace(curve, points=tuple(p for p in curve.points if math.isfinite(p.psnr)))


def _comparable(curve: Curve, metric: Metric, *, needs_psnr: bool = False) -> Curve:
    """Only the points that a metric is a number of, and that are not equal to the original."""
    return replace(
        curve,
        points=tuple(
            p
            for p, quality in zip(curve.points, curve.quality(metric), strict=True)
            if math.isfinite(quality)
            and not math.isinf(p.psnr)
            and not (needs_psnr and math.isnan(p.psnr))
        ),
    )


def _range(
    anchor: Curve, metric: Metric, comparison: Comparison
) -> tuple[tuple[float, float], bool]:
    """The stated range in a metric: as it is for PSNR, where the anchor has it for the others.

    Returns:
        The range in dB, and whether the anchor covers all that is stated.

    Raises:
        UsageError: The anchor's curve is not one that can be read so.
    """
    stated = (comparison.low, comparison.high)
    known = anchor.psnr
    low, high = max(stated[0], min(known)), min(stated[1], max(known))
    is_covered = (low, high) == stated
    if metric == "psnr":
        return stated, is_covered
    return (anchor.quality_at(metric, low), anchor.quality_at(metric, high)), is_covered


def _gain(
    curve: Curve, anchor: Curve, metric: Metric, low: float, high: float
) -> tuple[float | None, tuple[float | None, float | None], bool]:
    """Mean difference in quality over the rates that the anchor has from `low` to `high`.

    Returns:
        The difference, the ends of the rates that it is over, and whether these are all of the anchor's.
    """
    nothing = None, (None, None), False
    try:
        rates = [anchor.bpp_at_quality(metric, quality) for quality in (low, high)]
        start, stop = max(rates[0], min(curve.bpp)), min(rates[1], max(curve.bpp))
        if start >= stop:
            return nothing
        gain = curve.bd_quality(anchor, low=start, high=stop, metric=metric)
    except UsageError:
        # A curve that falls somewhere.
        return nothing
    if not math.isfinite(gain):
        return nothing
    return gain, (start, stop), [start, stop] == rates
