"""The reward terms as objects: name, unit, when they are known, and how they are scaled.

Every term is a cost in *bits per pixel of the picture*, the unit of J/λ per pixel:

    rate     bits / pixels
    sse      squared error / (λ · pixels)
    ssim     (1 − SSIM) · k(step)
    ms_ssim  (1 − MS-SSIM) · k(step)

k(step) makes a structural term as large as the `sse` term is for the `fixed` strategist at that step on
the shipped training photographs (`calibration.py`), so a weight of 1 means one unit of J per pixel for
every term and reward files compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import ConfigError
from ambi_rl.metrics import ms_ssim, ssim
from ambi_rl.metrics.fidelity import MS_SSIM_WEIGHTS, WINDOW
from ambi_rl.rewards.calibration import MS_SSIM_SCALE, SSIM_SCALE, STEPS

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Term:
    """One reason to be charged.

    Attributes:
        name: As in `conf/reward/*.yaml` and in an environment's `info`.
        unit: What a value of 1 means.
        when: "step": known after each decision; "episode": known when the picture is complete.
        summary: One line for people.
    """

    name: str
    unit: str
    when: Literal["step", "episode"]
    summary: str


RATE = Term("rate", "bits per pixel", "step", "bits of the entropy model")
SSE = Term("sse", "bits per pixel (J/λ)", "step", "squared error over λ")
SSIM = Term("ssim", "bits per pixel (J/λ)", "episode", "1 − SSIM, scaled to the size of `sse`")
MS_SSIM = Term("ms_ssim", "bits per pixel (J/λ)", "episode", "1 − MS-SSIM, scaled likewise")

TERMS: dict[str, Term] = {term.name: term for term in (RATE, SSE, SSIM, MS_SSIM)}
"""Every term, by name."""


def interpolate(step: int, values: tuple[float, ...]) -> float:
    """A calibrated value at a step: log-linear between the tabulated `STEPS`, constant beyond them.

    Args:
        step: Quantizer step in 1/64 of an 8-bit code value.
        values: Positive, one for each of `STEPS`.
    """
    return float(np.exp(np.interp(np.log(step), np.log(STEPS), np.log(values))))


def ms_ssim_scales(height: int, width: int) -> int:
    """How many of MS-SSIM's five scales fit a picture (the 11-pixel window must fit the coarsest one).

    Raises:
        ConfigError: Not even one does.
    """
    side = min(height, width)
    if side < WINDOW:
        raise ConfigError(
            f"SSIM terms need pictures of at least {WINDOW} pixels a side, not {side}"
        )
    return min(len(MS_SSIM_WEIGHTS), (side // WINDOW).bit_length())


def ssim_cost(original: Pixels, decoded: Pixels, step: int) -> float:
    """The `ssim` term of a finished picture.

    Args:
        original: uint8 [H, W, 3].
        decoded: Likewise.
        step: Quantizer step in 1/64 of an 8-bit code value.
    """
    return (1.0 - ssim(original, decoded)) * interpolate(step, SSIM_SCALE)


def ms_ssim_cost(original: Pixels, decoded: Pixels, step: int) -> float:
    """The `ms_ssim` term of a finished picture.

    Pictures under 176 pixels a side use the scales that fit (64 pixels: three), with the published
    exponents scaled to sum to 1; the calibration has a row for each number of scales, so the term keeps
    its meaning.

    Args:
        original: uint8 [H, W, 3].
        decoded: Likewise.
        step: Quantizer step in 1/64 of an 8-bit code value.
    """
    scales = ms_ssim_scales(*original.shape[:2])
    loss = 1.0 - ms_ssim(original, decoded, scales=scales)
    return loss * interpolate(step, MS_SSIM_SCALE[scales - 1])
