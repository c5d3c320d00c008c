"""What happens between updates: numbers, pictures, evaluation, refits of the entropy model, checkpoints."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image

from ambi_rl.codec.color import planes_to_rgb, rgb_to_planes
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.codec.strategists import by_name
from ambi_rl.envs.render import draw_decisions, side_by_side
from ambi_rl.training.display import TrainingBar
from ambi_rl.training.finite import FiniteGuard

RECENT = 200
"""Episodes that reported means are over."""
_REFRESH_SECONDS = 0.5


class Every:
    """Tells when another multiple of a period has been passed.

    Args:
        period: In node decisions; 0 for never.
        start: Decisions taken so far.
    """

    def __init__(self, period: int, start: int) -> None:
        self._period = period
        self._next = (start // period + 1) * period if period else math.inf

    def due(self, steps: int) -> bool:
        """Whether `steps` is past the next multiple; if so, wait for the one after."""
        if steps < self._next:
            return False
        self._next = (steps // self._period + 1) * self._period
        return True


class TrainingCallback(BaseCallback):
    """Watches episodes as they end, and calls the run's actions between updates.

    Args:
        bar: Progress on the terminal.
        actions: What to do when, called with the number of decisions after an update.
        guard: Stops training at numbers that are not finite.
        episodes: Where summaries of the latest episodes are kept.
    """

    def __init__(
        self,
        bar: TrainingBar,
        actions: list[tuple[Every, Callable[[int], None]]],
        guard: FiniteGuard,
        episodes: deque[dict[str, Any]],
    ) -> None:
        super().__init__()
        self._bar = bar
        self._actions = actions
        self._guard = guard
        self._episodes = episodes
        self._shown = 0.0
        self._started = 0.0
        self._first = 0

    def _on_training_start(self) -> None:
        self._started = time.monotonic()
        self._first = self.num_timesteps

    def _on_rollout_start(self) -> None:
        # The policy has just been updated and no rollout has begun: the one moment to change or save things.
        self._guard.check_update(self.model)
        for every, action in self._actions:
            if every.due(self.num_timesteps):
                action(self.num_timesteps)

    def _on_training_end(self) -> None:
        self._guard.check_update(self.model)

    def _on_step(self) -> bool:
        self._guard.check_step(self.model, self.locals)
        for index in np.flatnonzero(self.locals["dones"]):
            self._episodes.append(self.locals["infos"][index]["episode_summary"])
        now = time.monotonic()
        if now - self._shown > _REFRESH_SECONDS:
            self._shown = now
            self._bar.update(self.num_timesteps, self._summary(now))
        return True

    @property
    def _speed(self) -> float:
        taken = self.num_timesteps - self._first
        return taken / max(time.monotonic() - self._started, 1e-9)

    def _mean(self, key: str) -> float:
        return float(np.mean([episode[key] for episode in self._episodes]))

    def _summary(self, now: float) -> str:
        if not self._episodes:
            return ""
        return (
            f"{self._speed:,.0f}/s  return {self._mean('return'):.3f}  {self._mean('bpp'):.3f} bpp  "
            f"{self._mean('psnr'):.2f} dB"
        )

    def _on_rollout_end(self) -> None:
        self._guard.keep(self.model)
        self.logger.record("time/decisions_per_second", self._speed)
        if not self._episodes:
            return
        for key in ("return", "bits", "bpp", "psnr", "decisions"):
            self.logger.record(f"episode/{key}", self._mean(key))
        for key, value in self._episodes[-1].items():
            if key.startswith("constrained_") or key in ("multiplier", "score"):
                # The multiplier is where it is now; the rest is what episodes came to.
                self.logger.record(
                    f"reward/{key}", value if key == "multiplier" else self._mean(key)
                )
        for term in self._episodes[-1]["terms"]:
            values = [episode["terms"][term] for episode in self._episodes]
            self.logger.record(f"reward_terms/{term}", float(np.mean(values)))


def policy_picture(rgb: np.ndarray, quality: float, bundle: Any) -> Image:
    """Original, decode and block decisions of the policy on a photograph, for TensorBoard.

    Args:
        rgb: uint8 [H, W, 3].
        quality: 1…100.
        bundle: With a policy.
    """
    frame = encode_frame(rgb_to_planes(rgb), step_from_quality(quality), bundle, by_name("policy"))
    decoded = planes_to_rgb(frame.planes)
    drawn = draw_decisions(decoded, frame.decisions, bundle.strategies, bundle.offsets)
    return Image(side_by_side([rgb, decoded, drawn]), "HWC")
