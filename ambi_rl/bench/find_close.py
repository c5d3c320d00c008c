"""The setting at which a codec comes closest to a bit rate or a quality: peers at equal rate, for example."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from PIL import Image

from ambi_rl.bench.codecs import Codec
from ambi_rl.bench.results import decibels
from ambi_rl.codec.target import search
from ambi_rl.errors import UsageError
from ambi_rl.metrics import ms_ssim, psnr
from ambi_rl.metrics.fidelity import MS_SSIM_SIDE

Kind = Literal["bpp", "psnr", "ms_ssim"]

# By kind, in the unit that is searched in (log2 of bits per pixel, dB): what the smallest and the largest
# files of photographs have, roughly, and how near is near enough.
_TYPICAL: dict[Kind, tuple[float, float, float]] = {
    "bpp": (-5.0, 3.5, math.log2(1.002)),
    "psnr": (22.0, 50.0, 0.01),
    "ms_ssim": (4.0, 30.0, 0.02),
}


@dataclass(frozen=True)
class Trial:
    """One file that the search made.

    Attributes:
        setting: Of the codec.
        data: The file.
        bpp: Bits per pixel.
        psnr: RGB-PSNR of the decoded picture, in dB.
        ms_ssim: Of RGB; None unless it is what is searched for.
    """

    setting: float
    data: bytes = field(repr=False)
    bpp: float
    psnr: float
    ms_ssim: float | None


@dataclass(frozen=True)
class Close:
    """Result of `find_close`.

    Attributes:
        best: The file that is closest.
        trials: How many files were made.
        is_within: Whether the goal is not beyond what the codec can reach: one file is on each side of it, or
            one meets it to within the tolerance.
    """

    best: Trial
    trials: int
    is_within: bool


def find_close(
    codec: Codec,
    image: Image.Image,
    kind: Kind,
    goal: float,
    report: Callable[[Trial], None] = lambda trial: None,
    *,
    known: Sequence[tuple[float, float]] = (),
) -> Close:
    """Search a codec's settings for the one whose file comes closest to a goal.

    Args:
        codec: What codes.
        image: RGB; for MS-SSIM at least 176 pixels a side.
        kind: What the goal is: bits per pixel, RGB-PSNR in dB, or MS-SSIM.
        goal: Positive; an MS-SSIM is below 1.
        report: Called after each file.
        known: Settings with what they are known to lead to, in the unit of `goal`: spares files.

    Raises:
        UsageError: The goal is not such a number, or the picture is too small for it.
    """
    if not math.isfinite(goal) or goal <= 0 or (kind == "ms_ssim" and goal >= 1):
        raise UsageError(
            f"{kind} is {goal:g}; give a positive number{' below 1' * (kind == 'ms_ssim')}"
        )
    if kind == "ms_ssim" and min(image.size) < MS_SSIM_SIDE:
        raise UsageError(
            f"MS-SSIM needs {MS_SSIM_SIDE} pixels a side; the picture has {image.width}x{image.height}"
        )
    low, high, tolerance = _TYPICAL[kind]
    scale = codec.scale
    settings = scale.low + scale.resolution * np.arange(
        round((scale.high - scale.low) / scale.resolution) + 1
    )
    trials: list[Trial] = []

    def measure(index: int) -> float:
        # The sum of many steps is not quite the decimal number that it stands for.
        trials.append(_trial(codec, image, round(float(settings[index]), 6), kind))
        report(trials[-1])
        return _unit(kind, _value(trials[-1], kind))

    wanted = _unit(kind, goal)
    expected = np.linspace(low, high, settings.size)
    if known:
        at, values = zip(*sorted(known), strict=True)
        expected = np.interp(settings, at, [_unit(kind, value) for value in values])
        # Rising everywhere, also beyond what is known.
        expected = np.maximum.accumulate(expected) + np.linspace(0, 0.001, settings.size)
    search(measure, expected, wanted, tolerance, at_least=True)
    misses = [_unit(kind, _value(trial, kind)) - wanted for trial in trials]
    best = min(range(len(trials)), key=lambda i: abs(misses[i]))
    is_within = min(misses) <= 0 <= max(misses) or abs(misses[best]) <= tolerance
    return Close(trials[best], len(trials), is_within)


def _trial(codec: Codec, image: Image.Image, setting: float, kind: Kind) -> Trial:
    data = codec.encode(image, setting)
    original, copy = np.asarray(image), np.asarray(codec.decode(data))
    return Trial(
        setting,
        data,
        len(data) * 8 / (image.width * image.height),
        psnr(original, copy),
        ms_ssim(original, copy) if kind == "ms_ssim" else None,
    )


def _value(trial: Trial, kind: Kind) -> float:
    return float(getattr(trial, kind))


def _unit(kind: Kind, value: float) -> float:
    """A value in the unit in which curves are near to lines."""
    if kind == "bpp":
        return math.log2(value)
    return decibels(value) if kind == "ms_ssim" else value
