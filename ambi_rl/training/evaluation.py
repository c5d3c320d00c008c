"""Held-out photographs through the real encoder: rate-distortion curves and BD-rates."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import planes_to_rgb, rgb_to_planes
from ambi_rl.codec.frame import EncodedFrame, encode_frame
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.codec.strategists import Strategist, by_name, for_search
from ambi_rl.data import Photograph
from ambi_rl.errors import UsageError
from ambi_rl.metrics import bd_rate, ms_ssim, psnr, ssim
from ambi_rl.training.run_folder import write_json

Pixels = npt.NDArray[np.uint8]
Report = Callable[[float], None]

BD_RATES = ("bd_rate_vs_fixed", "bd_rate_vs_search", "search_vs_fixed")
"""What an evaluation says in percent; the first is the objective, lower is better."""

MAX_PIXELS = 1 << 20
"""Larger photographs are evaluated on a crop from their middle of at most this many pixels."""


@dataclass(frozen=True)
class Curve:
    """A rate-distortion curve of the mean over photographs.

    Attributes:
        bpp: Bits per pixel at each quality.
        values: By the name of a metric: PSNR in dB, and SSIM and MS-SSIM as −10·log10(1 − value), in dB.
    """

    bpp: list[float]
    values: dict[str, list[float]]


def best_evaluation(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The evaluation of the lowest objective; None if none has a number.

    Args:
        evaluations: Records of a run, whose BD-rates may be nan or None.
    """
    known = [e for e in evaluations if e.get(BD_RATES[0]) is not None]
    known = [e for e in known if math.isfinite(e[BD_RATES[0]])]
    return min(known, key=lambda e: float(e[BD_RATES[0]]), default=None)


def _decibels(similarity: float) -> float:
    return -10 * math.log10(max(1 - similarity, 1e-9))


def _measure(original: Pixels, frame: EncodedFrame) -> dict[str, float]:
    decoded = planes_to_rgb(frame.planes)
    return {
        "psnr": psnr(original, decoded),
        "ssim": _decibels(ssim(original, decoded)),
        "ms_ssim": _decibels(ms_ssim(original, decoded)),
    }


def curve_bd_rate(anchor: Curve, test: Curve, metric: str) -> float:
    """BD-rate of a curve against another in percent, over the range they share; nan if there is none."""
    try:
        return bd_rate(anchor.bpp, anchor.values[metric], test.bpp, test.values[metric])
    except UsageError:
        # A policy at the very beginning can be too bad to overlap, which is no reason to stop training.
        return math.nan


class HeldOut:
    """The photographs that nothing is trained on.

    Args:
        photographs: They; of large ones a part is taken.
        qualities: Points of the curves.
        threads: Encoders that run side by side; one for each core if None.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        qualities: Sequence[float],
        threads: int | None = None,
    ) -> None:
        self.qualities = sorted(qualities)
        self.names = [photograph.name for photograph in photographs]
        self.pictures = [self._crop(photograph.rgb) for photograph in photographs]
        self._threads = threads or os.cpu_count() or 1

    @staticmethod
    def _crop(rgb: Pixels) -> Pixels:
        side = math.isqrt(MAX_PIXELS)
        if rgb.shape[0] * rgb.shape[1] <= MAX_PIXELS:
            return rgb
        height, width = min(side, rgb.shape[0]), min(side, rgb.shape[1])
        top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
        return np.ascontiguousarray(rgb[top : top + height, left : left + width])

    def curve(
        self, bundle: Bundle, strategist: Strategist, *, report: Report | None = None
    ) -> Curve:
        """Encode every photograph at every quality.

        Args:
            bundle: With a policy if the strategist needs one.
            strategist: Who decides.
            report: Called with the fraction done.
        """
        jobs = [(picture, quality) for quality in self.qualities for picture in self.pictures]

        def run(job: tuple[Pixels, float]) -> tuple[float, dict[str, float]]:
            picture, quality = job
            frame = encode_frame(
                rgb_to_planes(picture), step_from_quality(quality), bundle, strategist
            )
            bits = 8 * len(frame.payload)
            return bits / (picture.shape[0] * picture.shape[1]), _measure(picture, frame)

        results = []
        with ThreadPoolExecutor(self._threads) as pool:
            for result in pool.map(run, jobs):
                results.append(result)
                if report is not None:
                    report(len(results) / len(jobs))
        count = len(self.pictures)
        groups = [results[i : i + count] for i in range(0, len(results), count)]
        return Curve(
            [float(np.mean([bpp for bpp, _ in group])) for group in groups],
            {
                metric: [
                    float(np.mean([values[metric] for _, values in group])) for group in groups
                ]
                for metric in ("psnr", "ssim", "ms_ssim")
            },
        )

    def fingerprint(self, bundle: Bundle, search: Strategist) -> str:
        """What the baselines depend on, as a hash."""
        digest = hashlib.sha256()
        facts = [bundle.id, bundle.manifest["lambda_scale"], self.qualities, asdict(search)]
        digest.update(json.dumps(facts).encode())
        for picture in self.pictures:
            digest.update(str(picture.shape).encode())
            digest.update(picture.tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Baselines:
    """What the policy is compared with: `fixed` and a search, with the bundle the run started from."""

    fixed: Curve
    search: Curve

    def compare(self, curve: Curve, metric: str) -> dict[str, float]:
        """BD-rates in percent: against fixed (the objective), against search, and of search itself."""
        return {
            "bd_rate_vs_fixed": curve_bd_rate(self.fixed, curve, metric),
            "bd_rate_vs_search": curve_bd_rate(self.search, curve, metric),
            "search_vs_fixed": curve_bd_rate(self.fixed, self.search, metric),
        }


def measure_baselines(
    held_out: HeldOut,
    bundle: Bundle,
    search_effort: int,
    cache: Path,
    *,
    report: Report | None = None,
) -> Baselines:
    """The baselines' curves, from `cache` if it holds those of the same photographs and bundle.

    Args:
        held_out: The photographs.
        bundle: Whose entropy model they use.
        search_effort: Effort of the search, 5…9.
        cache: JSON file.
        report: Called with the fraction done.
    """
    search = for_search(search_effort)
    key = held_out.fingerprint(bundle, search)
    if cache.is_file():
        try:
            stored = json.loads(cache.read_text())
            if stored["key"] == key:
                return Baselines(Curve(**stored["fixed"]), Curve(**stored["search"]))
        except (ValueError, KeyError, TypeError):
            # Only a cache: what cannot be read is measured again.
            pass
    measured = Baselines(
        held_out.curve(bundle, by_name("fixed")), held_out.curve(bundle, search, report=report)
    )
    curves = {"fixed": asdict(measured.fixed), "search": asdict(measured.search)}
    write_json(cache, {"key": key, "photographs": held_out.names, **curves})
    return measured
