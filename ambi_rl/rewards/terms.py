"""The reward terms by name: unit, when they are known, and how they are scaled.

Every term is a cost in *bits per pixel of the picture*, the unit of J/λ per pixel:

    rate     bits / pixels
    sse      squared error / (λ · pixels)
    chroma   squared error of Cb and Cr alone / (λ · pixels)
    ssim     (1 − SSIM) · k(step)
    ms_ssim  (1 − MS-SSIM) · k(step)
    metric   what a function of yours returns · k(step)
    task     how far a model's output moves · k(step)

k(step) makes a term of the finished picture as large as the `sse` term is for the `fixed` strategist at that
step, so a weight of 1 means one unit of J per pixel for every term and reward files compare. For SSIM and
MS-SSIM it was measured on the shipped training photographs (`calibration.py`); for a metric or a task it
is measured on the training photographs when an environment is made (`measured.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import ConfigError
from ambi_rl.metrics.fidelity import MS_SSIM_WEIGHTS, WINDOW
from ambi_rl.rewards.calibration import STEPS

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


_UNIT = "bits per pixel (J/λ)"

RATE = Term("rate", "bits per pixel", "step", "bits of the entropy model")
SSE = Term("sse", _UNIT, "step", "squared error over λ")
CHROMA = Term("chroma", _UNIT, "step", "squared error of Cb and Cr over λ, on top of `sse`")
SSIM = Term("ssim", _UNIT, "episode", "1 − SSIM, scaled to the size of `sse`")
MS_SSIM = Term("ms_ssim", _UNIT, "episode", "1 − MS-SSIM, scaled likewise")
METRIC = Term("metric", _UNIT, "episode", "a Python function of both pictures, scaled likewise")
TASK = Term("task", _UNIT, "episode", "change of a model's output, scaled likewise")

TERMS: dict[str, Term] = {
    term.name: term for term in (RATE, SSE, CHROMA, SSIM, MS_SSIM, METRIC, TASK)
}
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
