"""Rate-distortion curves: points measured on pictures, and their mean over a set of pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from ambi_rl.bench.codecs import Codec
from ambi_rl.bench.results import Metric, decibels
from ambi_rl.errors import UsageError
from ambi_rl.metrics import bd_psnr, bd_rate, ms_ssim, psnr, psnr_luma, rate_at_quality, ssim
from ambi_rl.metrics.bjontegaard import Pchip
from ambi_rl.metrics.fidelity import MS_SSIM_SIDE, WINDOW


class Point(NamedTuple):
    """One picture coded once.

    Attributes:
        setting: The codec's setting.
        size: Of the whole file, in bytes.
        bpp: Bits per pixel.
        psnr: Of RGB, in dB.
        ssim: Of RGB, mean over channels; nan if it was not asked for, or below 11 pixels a side.
        ms_ssim: Likewise, with all five scales; nan below 176 pixels a side, where they do not fit.
        encode_seconds: Wall-clock time, in memory.
        decode_seconds: Wall-clock time, in memory.
        psnr_luma: Of luma (BT.601), in dB; nan if it is not known.
    """

    setting: float
    size: int
    bpp: float
    psnr: float
    ssim: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float
    psnr_luma: float = math.nan


@dataclass(frozen=True)
class Curve:
    """A codec's points, one for each setting, from low quality to high."""

    name: str
    description: str
    points: tuple[Point, ...]

    @property
    def bpp(self) -> list[float]:
        """Bits per pixel of the points."""
        return [p.bpp for p in self.points]

    @property
    def psnr(self) -> list[float]:
        """RGB-PSNR of the points, in dB."""
        return [p.psnr for p in self.points]

    def quality(self, metric: Metric) -> list[float]:
        """What a metric says of the points, in dB: PSNR, or −10·log10(1 − x) of a mean similarity x.

        It is infinite for equal pictures, and nan where the metric was not measured.
        """
        values = [float(getattr(p, metric)) for p in self.points]
        return values if metric.startswith("psnr") else [decibels(v) for v in values]

    def quality_at(self, metric: Metric, decibels: float) -> float:
        """What a metric says, in dB, where the PSNR between the points has a value.

        Raises:
            UsageError: The curve does not reach it.
        """
        if not min(self.psnr) <= decibels <= max(self.psnr):
            raise UsageError(f"{self.name}: the curve does not cover {decibels:g} dB")
        known = dict(sorted(zip(self.psnr, self.quality(metric), strict=True)))
        return Pchip(np.array(list(known)), np.array(list(known.values())))(decibels)

    def bpp_at(self, target: float) -> float:
        """Bits per pixel at a PSNR between the points.

        Raises:
            UsageError: The curve does not reach it.
        """
        try:
            return rate_at_quality(self.bpp, self.psnr, target)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from error

    def bpp_at_quality(self, metric: Metric, decibels: float) -> float:
        """Bits per pixel where a metric, in dB, has a value between the points.

        Raises:
            UsageError: The curve does not reach it.
        """
        return rate_at_quality(self.bpp, self.quality(metric), decibels)

    def bd_rate(
        self,
        anchor: Curve,
        *,
        low: float | None = None,
        high: float | None = None,
        metric: Metric = "psnr",
    ) -> float:
        """BD-rate against `anchor` in percent; see `ambi_rl.metrics.bd_rate`.

        Args:
            anchor: What to compare with.
            low: Lower end of the metric's range in dB; None for the lowest that both cover.
            high: Upper end; None for the highest that both cover.
            metric: What is equal where the rates are compared, in dB as `quality` has it.

        Raises:
            UsageError: One of the curves does not cover low…high, or the metric was not measured.
        """
        a, b = anchor.quality(metric), self.quality(metric)
        try:
            return bd_rate(anchor.bpp, a, self.bpp, b, low=low, high=high)
        except UsageError as error:
            raise UsageError(f"{self.name} against {anchor.name}: {error}") from error

    def bd_quality(
        self, anchor: Curve, *, low: float, high: float, metric: Metric = "psnr"
    ) -> float:
        """BD-PSNR against `anchor`, or the same of another metric, in dB; see `ambi_rl.metrics.bd_psnr`.

        Args:
            anchor: What to compare with.
            low: Lower end of the range of rates, in bits per pixel.
            high: Upper end.
            metric: Of what the difference is, in dB as `quality` has it.

        Raises:
            UsageError: One of the curves does not cover low…high or falls, or the metric was not measured.
        """
        a, b = anchor.quality(metric), self.quality(metric)
        try:
            return bd_psnr(anchor.bpp, a, self.bpp, b, low=low, high=high)
        except UsageError as error:
            raise UsageError(f"{self.name} against {anchor.name}: {error}") from error

    def mean_seconds(
        self, low: float | None = None, high: float | None = None
    ) -> tuple[float, float]:
        """Mean seconds to encode and to decode, over the points whose PSNR is in low…high.

        Where no point is, over all of them.
        """
        inside = [
            p
            for p in self.points
            if (low is None or p.psnr >= low) and (high is None or p.psnr <= high)
        ] or list(self.points)
        return (
            float(np.mean([p.encode_seconds for p in inside])),
            float(np.mean([p.decode_seconds for p in inside])),
        )


def warm_up(codec: Codec) -> None:
    """Code a tiny picture, so that loading and compiling are not part of what is timed."""
    tiny = Image.new("RGB", (64, 64), (90, 120, 60))
    codec.decode(codec.encode(tiny, codec.settings[0]))


def measure(codec: Codec, image: Image.Image, setting: float, *, structural: bool = True) -> Point:
    """Encode and decode an RGB picture and compare.

    Args:
        codec: What to measure.
        image: RGB.
        setting: Of the codec.
        structural: Compute SSIM and MS-SSIM too, which takes longer than most decoders.

    Raises:
        UsageError: The picture is not RGB, or what is decoded is of another size.
    """
    if image.mode != "RGB":
        raise UsageError(f"benchmarks compare RGB pictures, this one has mode {image.mode}")
    start = time.perf_counter()
    data = codec.encode(image, setting)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    original, copy = np.asarray(image), np.asarray(decoded)
    side = min(image.size)
    return Point(
        setting=setting,
        size=len(data),
        bpp=len(data) * 8 / (image.width * image.height),
        psnr=psnr(original, copy),
        ssim=ssim(original, copy) if structural and side >= WINDOW else math.nan,
        # With fewer scales it would be another metric under the same name.
        ms_ssim=ms_ssim(original, copy) if structural and side >= MS_SSIM_SIDE else math.nan,
        encode_seconds=encoded - start,
        decode_seconds=done - encoded,
        psnr_luma=psnr_luma(original, copy),
    )


def measure_curve(codec: Codec, image: Image.Image, *, structural: bool = True) -> Curve:
    """One picture's points at all of a codec's settings; arguments as for `measure`."""
    points = [measure(codec, image, s, structural=structural) for s in codec.settings]
    return Curve(codec.name, codec.description, tuple(points))


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The curve of a set of pictures: for each setting, the mean of every value over the pictures.

    Args:
        curves: One codec's curves, at the same settings.

    Raises:
        UsageError: There is none, or their settings differ.
    """
    settings = {tuple(p.setting for p in curve.points) for curve in curves}
    if len(settings) != 1:
        raise UsageError(
            f"a mean needs curves of equal settings; there are {len(curves)} curves "
            f"with {len(settings)} different lists of settings"
        )
    table = np.array([curve.points for curve in curves], np.float64).mean(axis=0)
    points = tuple(Point(row[0], round(row[1]), *row[2:]) for row in table.tolist())
    return Curve(curves[0].name, curves[0].description, points)
