"""The weighted sum of reward terms, computed for a whole batch of environments at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import ConfigError
from ambi_rl.rewards.terms import TERMS, ms_ssim_cost, ssim_cost

Array = npt.NDArray[np.float64]


class StepTerms(NamedTuple):
    """Terms of one decision in each environment, float64 [B], bits per pixel, unweighted."""

    rate: Array
    sse: Array


class Reward:
    """Minus the weighted sum of terms; see `ambi_rl.rewards.terms` for their scale.

    Args:
        weights: By the name of a term; a term left out has weight 0.

    Raises:
        ConfigError: A term is unknown, a weight is negative or not finite, or all are 0.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        for name, weight in weights.items():
            if name not in TERMS:
                raise ConfigError(f"reward has no term {name!r}; it has {', '.join(TERMS)}")
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"reward.{name} is {weight}; a weight is a number of 0 or more")
        self.weights = {name: float(weights.get(name, 0.0)) for name in TERMS}
        if not any(self.weights.values()):
            raise ConfigError("every reward weight is 0: nothing would be learned; set one of them")

    @property
    def needs_picture(self) -> bool:
        """Whether a term with a weight is only known when the picture is complete."""
        return any(self.weights[term.name] > 0 for term in TERMS.values() if term.when == "episode")

    def step_terms(self, bits: Array, sse: Array, lagrangian: Array, pixels: int) -> StepTerms:
        """Terms of one decision in each environment.

        Args:
            bits: float64 [B], bits of the decision and its levels.
            sse: float64 [B], squared error of the block (8-bit code values), 0 for a split.
            lagrangian: float64 [B], λ of each episode.
            pixels: Pixels of a patch.
        """
        return StepTerms(bits / pixels, sse / (lagrangian * pixels))

    def of_step(self, terms: StepTerms) -> Array:
        """Reward of one decision in each environment, float64 [B]."""
        return -(self.weights["rate"] * terms.rate + self.weights["sse"] * terms.sse)

    def episode_terms(
        self, original: npt.NDArray[np.uint8], decoded: npt.NDArray[np.uint8], step: int
    ) -> dict[str, float]:
        """Terms of a finished picture that have a weight, by name.

        Args:
            original: uint8 [H, W, 3].
            decoded: Likewise.
            step: Quantizer step in 1/64 of an 8-bit code value.
        """
        terms: dict[str, float] = {}
        if self.weights["ssim"] > 0:
            terms["ssim"] = ssim_cost(original, decoded, step)
        if self.weights["ms_ssim"] > 0:
            terms["ms_ssim"] = ms_ssim_cost(original, decoded, step)
        return terms

    def of_episode(self, terms: Mapping[str, Any]) -> float:
        """Reward for what `episode_terms` returned."""
        return -sum(self.weights[name] * float(value) for name, value in terms.items())
