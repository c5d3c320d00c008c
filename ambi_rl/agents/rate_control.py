"""How α, the weight of the rate in the agent's loss, changes while it learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_LIMITS = (1e-7, 1e3)
_PROPORTION = 5.0
"""How much stronger the present miss acts than it is remembered: the agent answers late, and an α that only
adds up misses swings around the target (Stooke, Achiam and Abbeel 2020, PID Lagrangian methods)."""
_AHEAD = 8
"""Updates by which the present trend of the bits is followed ahead: so long they go on falling after α has
stopped to rise."""
_SMOOTHING = 0.3
"""Share of the latest change in the trend."""
_MAX_MISS = math.log(4.0)
"""A miss counts as at most fourfold: rates are far off while there is little that they could follow."""


class RateControl:
    """A fixed α; the base of those that change.

    Args:
        alpha: At the start, per bit of a latent dimension.
    """

    _changing: tuple[str, ...] = ()
    """Attributes that updates change. What is configured is not among them: a run may go on with another
    value of it."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def update(self, bits: float, reward: float) -> float:
        """The α of the next update of the agent.

        Args:
            bits: Mean bits of a latent dimension, rounded as it is coded.
            reward: Mean reward of the latest episodes; nan if none has ended.
        """
        return self.alpha

    def state(self) -> dict[str, Any]:
        """What going on needs, for JSON."""
        return {name: getattr(self, name) for name in self._changing}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned; of another schedule's state, from what both have."""
        vars(self).update({name: state[name] for name in self._changing if name in state})


class RatioControl(RateControl):
    """Eq. 5 of Bader and von Bachmann 2021: α ← α·10·e^(−i/1000) whenever a threshold is violated.

    The paper wants "the relative importance of the two terms" kept as the reward grows. Here the threshold
    is violated where α·rate is below `ratio` times the mean reward; i counts updates of the agent. From the
    2,303rd on the factor is below 1.

    Args:
        alpha: At the start.
        ratio: Least share of the mean reward that α·rate is to have.
    """

    _changing = ("alpha", "updates")

    def __init__(self, alpha: float, ratio: float) -> None:
        super().__init__(alpha)
        self.ratio = ratio
        self.updates = 0

    def update(self, bits: float, reward: float) -> float:
        """See `RateControl`."""
        self.updates += 1
        if reward > 0 and self.alpha * bits < self.ratio * reward:
            self.alpha = _limited(self.alpha * 10 * math.exp(-self.updates / 1000))
        return self.alpha


class TargetControl(RateControl):
    """Dual ascent: ln α moves by `speed` times how far ln(bits) is about to be from the target.

    Args:
        alpha: At the start.
        target: Bits of a latent dimension.
        speed: Over 0.
    """

    _changing = ("alpha", "log_alpha", "log_bits", "trend")

    def __init__(self, alpha: float, target: float, speed: float) -> None:
        super().__init__(_limited(alpha))
        self.target = target
        self.speed = speed
        self.log_alpha = math.log(self.alpha)
        self.log_bits: float | None = None
        self.trend = 0.0

    def update(self, bits: float, reward: float) -> float:
        """See `RateControl`."""
        log_bits = math.log(max(bits, 1e-9))
        if self.log_bits is not None:
            self.trend += _SMOOTHING * (log_bits - self.log_bits - self.trend)
        self.log_bits = log_bits
        miss = log_bits + _AHEAD * self.trend - math.log(self.target)
        miss = min(max(miss, -_MAX_MISS), _MAX_MISS)
        low, high = (math.log(limit) for limit in _LIMITS)
        self.log_alpha = min(max(self.log_alpha + self.speed * miss, low), high)
        self.alpha = _limited(math.exp(self.log_alpha + _PROPORTION * self.speed * miss))
        return self.alpha


def _limited(alpha: float) -> float:
    return min(max(alpha, _LIMITS[0]), _LIMITS[1])


def build_control(
    schedule: str, *, alpha: float, target_bits: float, latents: int, speed: float, ratio: float
) -> RateControl:
    """The control of a schedule.

    Args:
        schedule: fixed, ratio or target.
        alpha: At the start.
        target_bits: Of a frame.
        latents: Latent dimensions of a frame.
        speed: Of `TargetControl`.
        ratio: Of `RatioControl`.
    """
    if schedule == "target":
        return TargetControl(alpha, target_bits / latents, speed)
    if schedule == "ratio":
        return RatioControl(alpha, ratio)
    return RateControl(alpha)
