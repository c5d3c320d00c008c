"""A target instead of a trade-off: λ as a dual variable that training adapts until the target is met."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ambi_rl.errors import ConfigError
from ambi_rl.metrics import ms_ssim, psnr, ssim
from ambi_rl.rewards.terms import Pixels

LIMIT = math.log(100.0)
"""The multiplier stays within 1/100…100."""
_PROPORTION = 10.0
"""How much stronger the present miss acts than it is remembered. The policy answers late, and a multiplier
that only adds up misses swings around the target (Stooke, Achiam and Abbeel 2020, PID Lagrangian methods)."""
_CAP = 60.0
"""PSNR in dB that counts for a picture without error."""
_LEAST = 1e-6
"""Least loss of a similarity that is told from none."""


def _loss_of_psnr(decibels: float) -> float:
    return float(10 ** (-min(decibels, _CAP) / 10))


def _loss_of_similarity(similarity: float) -> float:
    return max(1.0 - similarity, _LEAST)


def _itself(value: float) -> float:
    return max(value, _LEAST)


@dataclass(frozen=True)
class Quantity:
    """What a target is set for.

    Attributes:
        key: In the configuration, after `target_`.
        low: Targets lie over this.
        high: And under this.
        loss: Turns a value into what falls with the multiplier of distortion: its logarithm is compared.
        measure: From original and decoded picture; None for what every episode knows.
    """

    key: str
    low: float
    high: float
    loss: Callable[[float], float]
    measure: Callable[[Pixels, Pixels], float] | None = None


QUANTITIES = {
    quantity.key: quantity
    for quantity in (
        Quantity("bpp", 0.0, math.inf, _itself),
        Quantity("psnr", 0.0, _CAP, _loss_of_psnr, psnr),
        Quantity("ssim", 0.0, 1.0, _loss_of_similarity, ssim),
        Quantity("ms_ssim", 0.0, 1.0, _loss_of_similarity, ms_ssim),
        Quantity("metric", 0.0, math.inf, _itself),
    )
}
"""By key. `metric` is what the function of `reward.metric` returns."""


class Constraint:
    """A target for the mean of finished episodes, and the multiplier that leads to it.

    After every `window` episodes the logarithm of the multiplier moves by `speed` times the logarithm of
    how far the mean is from the target (dual ascent): more bits than wanted, or better pictures than wanted,
    make the rate count for more. Until the next window it is ten times as far beside that, which damps.

    Args:
        quantity: A key of `QUANTITIES`.
        target: The mean to reach.
        speed: Over 0; the slower the policy learns, the lower.
        window: Episodes between changes, 1 or more.

    Attributes:
        log_multiplier: ln of what the rate counts for beside all distortion, on top of the weights.
        measured: The mean over the last complete window; nan before.

    Raises:
        ConfigError: A value is impossible.
    """

    def __init__(self, quantity: str, target: float, *, speed: float, window: int) -> None:
        self.quantity = QUANTITIES[quantity]
        low, high = self.quantity.low, self.quantity.high
        if not low < target < high:
            upper = "" if math.isinf(high) else f" and under {high:g}"
            raise ConfigError(
                f"reward.constraint.target_{quantity} is {target:g}; it must be over {low:g}{upper}"
            )
        if not (math.isfinite(speed) and speed > 0):
            raise ConfigError(f"reward.constraint.speed is {speed:g}; it must be over 0")
        if window < 1:
            raise ConfigError(f"reward.constraint.window is {window}; it must be 1 or more")
        self.target = float(target)
        self.speed = float(speed)
        self.window = int(window)
        self.log_multiplier = 0.0
        self._sum = 0.0
        self.measured = math.nan
        self._values: list[float] = []

    @property
    def multiplier(self) -> float:
        """What the rate counts for beside all distortion, on top of the weights."""
        return math.exp(self.log_multiplier)

    def note(self, value: float) -> None:
        """Tell the value of a finished episode."""
        self._values.append(value)
        if len(self._values) < self.window:
            return
        self.measured = float(np.mean(self._values))
        self._values.clear()
        miss = math.log(self.quantity.loss(self.measured) / self.quantity.loss(self.target))
        # Too many bits is a loss that is too high; too good a picture one that is too low.
        rise = miss if self.quantity.key == "bpp" else -miss
        self._sum = min(max(self._sum + self.speed * rise, -LIMIT), LIMIT)
        now = self._sum + _PROPORTION * self.speed * rise
        self.log_multiplier = min(max(now, -LIMIT), LIMIT)

    def state(self) -> dict[str, Any]:
        """What going on needs, for JSON."""
        return {
            "log_multiplier": self.log_multiplier,
            "sum": self._sum,
            "values": list(self._values),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.log_multiplier = float(state["log_multiplier"])
        self._sum = float(state["sum"])
        self._values = [float(value) for value in state["values"]]
