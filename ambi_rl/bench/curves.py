"""Rate-distortion curves: points measured on pictures, and their mean over a set of pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ambi_rl.bench.codecs import Codec
from ambi_rl.errors import UsageError
from ambi_rl.metrics import bd_rate, ms_ssim, psnr, rate_at_quality


class Point(NamedTuple):
    """One picture coded once.

    Attributes:
        setting: The codec's setting.
        size: Of the whole file, in bytes.
        bpp: Bits per pixel.
        psnr: Of RGB, in dB.
        ms_ssim: Of RGB, mean over channels; nan if it was not asked for.
        encode_seconds: Wall-clock time, in memory.
        decode_seconds: Wall-clock time, in memory.
    """

    setting: float
    size: int
    bpp: float
    psnr: float
    ms_ssim: float
    encode_seconds: float
    decode_seconds: float


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

    def bpp_at(self, target: float) -> float:
        """Bits per pixel at a PSNR between the points.

        Raises:
            UsageError: The curve does not reach it.
        """
        try:
            return rate_at_quality(self.bpp, self.psnr, target)
        except UsageError as error:
            raise UsageError(f"{self.name}: {error}") from error

    def bd_rate(
        self, anchor: Curve, *, low: float | None = None, high: float | None = None
    ) -> float:
        """BD-rate over PSNR against `anchor` in percent; see `ambi_rl.metrics.bd_rate`.

        Raises:
            UsageError: One of the curves does not cover low…high.
        """
        try:
            return bd_rate(anchor.bpp, anchor.psnr, self.bpp, self.psnr, low=low, high=high)
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

    def as_json(self) -> dict[str, Any]:
        """The curve in CompressAI's schema, which its plotting script reads."""
        return {
            "name": self.name,
            "description": self.description,
            "results": {
                "setting": [p.setting for p in self.points],
                "bpp": self.bpp,
                "psnr-rgb": self.psnr,
                "ms-ssim-rgb": [p.ms_ssim for p in self.points if math.isfinite(p.ms_ssim)],
                "encoding_time": [p.encode_seconds for p in self.points],
                "decoding_time": [p.decode_seconds for p in self.points],
            },
        }


def warm_up(codec: Codec) -> None:
    """Code a tiny picture, so that loading and compiling are not part of what is timed."""
    tiny = Image.new("RGB", (64, 64), (90, 120, 60))
    codec.decode(codec.encode(tiny, codec.settings[0]))


def measure(codec: Codec, image: Image.Image, setting: float, *, structural: bool = True) -> Point:
    """Encode and decode an RGB picture and compare.

    Args:
        codec: What to measure.
        image: RGB; at least 11 pixels a side where `structural`.
        setting: Of the codec.
        structural: Compute MS-SSIM too, which takes longer than most decoders.

    Raises:
        UsageError: The picture is not RGB or is too small.
    """
    if image.mode != "RGB":
        raise UsageError(f"benchmarks compare RGB pictures, this one has mode {image.mode}")
    start = time.perf_counter()
    data = codec.encode(image, setting)
    encoded = time.perf_counter()
    decoded = codec.decode(data)
    done = time.perf_counter()
    original, copy = np.asarray(image), np.asarray(decoded)
    return Point(
        setting=setting,
        size=len(data),
        bpp=len(data) * 8 / (image.width * image.height),
        psnr=psnr(original, copy),
        ms_ssim=ms_ssim(original, copy) if structural else math.nan,
        encode_seconds=encoded - start,
        decode_seconds=done - encoded,
    )


def measure_curve(codec: Codec, image: Image.Image) -> Curve:
    """One picture's points at all of a codec's settings."""
    points = [measure(codec, image, setting) for setting in codec.settings]
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
