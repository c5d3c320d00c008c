"""Policy gradients for scores without a gradient: the paper's actor-critic, and an actor that draws."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from ambi_rl.superres.networks import Estimate
from ambi_rl.superres.scores import Score

Pixels = npt.NDArray[np.uint8]

_LOG_2PI = math.log(2 * math.pi)
NOISES = ("details", "pixels")
"""What an `ImageActor` varies."""
_OCTAVES = 3
"""That noise of details has: structures of 2 to 8 pixels, which is what enlarging by 4 has to invent."""
_FLAT = 2 / 255
"""Details, in the root mean square of a square of pixels, below which noise is smaller there."""
_LEAST_SPREAD = 1e-3
"""Of scores, where all crops of the first batch have the same."""


def to_pixels(images: torch.Tensor) -> Pixels:
    """What a viewer gets: float [B, 3, H, W] in 0…1 as uint8 [B, H, W, 3]."""
    rounded = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return rounded.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def discounted_returns(rewards: Sequence[float], gamma: float, last: float) -> list[float]:
    """Returns R_t = r_t + γ R_{t+1} (eq. 7 of the paper), as A3C's with n steps.

    Args:
        rewards: Of consecutive steps.
        gamma: γ, 0…1.
        last: What the critic expects after them.
    """
    found = []
    value = last
    for reward in reversed(rewards):
        value = reward + gamma * value
        found.append(value)
    return found[::-1]


def actor_critic_loss(
    estimate: Estimate,
    action: torch.Tensor,
    returns: torch.Tensor,
    *,
    value: float,
    entropy: float,
) -> torch.Tensor:
    """Policy gradient with the advantage R − V, the critic's squared error, less the entropy (eq. 9–11).

    Args:
        estimate: Of the states: mean, log_std and value, float [B] each.
        action: What was done in them, float [B].
        returns: What followed, float [B].
        value: Weight of the critic's error.
        entropy: Weight of the entropy.

    Returns:
        float [].
    """
    scaled = (action - estimate.mean) / estimate.log_std.exp()
    log_probability = -0.5 * scaled.square() - estimate.log_std - 0.5 * _LOG_2PI
    advantage = returns - estimate.value
    policy = -(log_probability * advantage.detach()).mean()
    spread = (estimate.log_std + 0.5 * (1 + _LOG_2PI)).mean()
    return policy + value * advantage.square().mean() - entropy * spread


@dataclass
class _Visit:
    """A gradient step that the critic has not been told the return of."""

    base: torch.Tensor
    action: torch.Tensor
    scores: torch.Tensor
    reward: float


class EstimateActor:
    """The paper's actor (section 2.2.2): its action estimates the score of what the generator makes.

    The reward of a gradient step is 1 if the mean score of its crops is above that of the step before by more
    than the threshold, else −1 (eq. 5, whose values are lost in the text we have). Every `steps` steps the
    returns are known and the loss is taken on all of them, with the networks as they are then, since weights
    have moved since the actions were drawn.

    Args:
        judge: Actor and critic on the generator's encoder: base layers [B, 3, h, w] -> `Estimate`.
        threshold: Of the reward, in the score's unit.
        gamma: Discount over gradient steps.
        steps: Gradient steps between losses.
        value: Weight of the critic's error.
        entropy: Weight of the entropy.
        regression: Weight of the actor's own error. The reward does not depend on the action, so that policy
            gradients alone never make it the estimate of the score that it is to become.
    """

    def __init__(
        self,
        judge: Callable[[torch.Tensor], Estimate],
        *,
        threshold: float,
        gamma: float,
        steps: int,
        value: float,
        entropy: float,
        regression: float,
    ) -> None:
        self._judge = judge
        self._threshold, self._gamma, self._steps = threshold, gamma, steps
        self._value, self._entropy, self._regression = value, entropy, regression
        self._visits: deque[_Visit] = deque(maxlen=steps)
        self._previous: float | None = None
        self._center, self._spread = 0.0, 1.0

    def act(self, base: torch.Tensor, scores: npt.NDArray[np.float64]) -> dict[str, float]:
        """Draw an action for a batch, and take note of its reward.

        Args:
            base: float [B, 3, h, w].
            scores: Of what the generator made of it, float64 [B].

        Returns:
            What to log: reward, and by how much the estimates are off.
        """
        with torch.no_grad():
            estimate = self._judge(base)
            noise = torch.randn_like(estimate.mean)
            action = estimate.mean + estimate.log_std.exp() * noise
        score = float(scores.mean())
        if self._previous is None:
            self._center, self._spread = score, max(float(scores.std()), _LEAST_SPREAD)
        rises = self._previous is not None and score > self._previous + self._threshold
        reward = 1.0 if rises else -1.0
        if self._previous is not None:
            known = torch.from_numpy((scores - self._center) / self._spread)
            known = known.to(action.device, torch.float32)
            self._visits.append(_Visit(base, action, known, reward))
        self._previous = score
        said = self._center + self._spread * estimate.mean.float().cpu().numpy()
        off = said - scores
        return {"rl/reward": reward, "rl/estimate_error": float(np.sqrt(np.mean(off**2)))}

    def loss(self, base: torch.Tensor) -> torch.Tensor | None:
        """The actor-critic loss once `steps` rewards are gathered; None before.

        Args:
            base: The states that follow the last of them, float [B, 3, h, w].
        """
        if len(self._visits) < self._steps:
            return None
        visits = list(self._visits)
        self._visits.clear()
        with torch.no_grad():
            last = float(self._judge(base).value.mean())
        returns = discounted_returns([visit.reward for visit in visits], self._gamma, last)
        states = torch.cat([visit.base for visit in visits])
        actions = torch.cat([visit.action for visit in visits])
        spread = torch.repeat_interleave(
            torch.tensor(returns, dtype=torch.float32, device=states.device),
            torch.tensor([len(visit.action) for visit in visits], device=states.device),
        )
        estimate = self._judge(states)
        # Of bounded slope: a crop that is like no other must not undo what the others taught.
        off = F.smooth_l1_loss(estimate.mean, torch.cat([visit.scores for visit in visits]))
        policy = actor_critic_loss(
            estimate, actions, spread, value=self._value, entropy=self._entropy
        )
        return policy + self._regression * off

    def state(self) -> dict[str, Any]:
        """What a run that goes on begins with."""
        return {
            "previous": self._previous,
            "scale": [self._center, self._spread],
            "visits": [[v.base, v.action, v.scores, v.reward] for v in self._visits],
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state` returned, on the device of the networks."""
        self._previous = state["previous"]
        self._center, self._spread = state["scale"]
        self._visits.clear()
        self._visits.extend(
            _Visit(base.to(device), action.to(device), scores.to(device), reward)
            for base, action, scores, reward in state["visits"]
        )


def octaves(images: torch.Tensor) -> list[torch.Tensor]:
    """The finest octaves of pictures [B, 3, H, W], each of that shape: a Laplacian pyramid without top."""
    found = []
    size = (images.shape[2], images.shape[3])
    current = images
    for _ in range(_OCTAVES):
        smaller = F.avg_pool2d(current, 2, ceil_mode=True, count_include_pad=False)
        smooth = F.interpolate(
            smaller, size=current.shape[2:], mode="bilinear", align_corners=False
        )
        found.append(
            F.interpolate(current - smooth, size=size, mode="bilinear", align_corners=False)
        )
        current = smaller
    return found


class ImageActor:
    """An actor whose action is the picture: Gaussian around what the generator makes.

    Two actions are drawn, μ + σε and μ − σε. Each square of `tile` pixels is scored in both, and half of the
    difference is the advantage of ε there: a baseline that needs no critic. Advantages are divided by their
    root mean square over the batch, so that the loss's weight means the same for any score. The gradient is
    that of REINFORCE (Williams 1992) with antithetic samples, up to that scale; with noise of fewer
    directions than pixels it is the gradient's part in those directions, and it is that of the score smoothed
    by σ if a square's score depends on the square alone.

    Args:
        score: What is to rise.
        deviation: σ, of the range 0…1.
        tile: Side of a square in pixels; 0 for the whole picture.
        samples: Pairs of actions that are drawn for each gradient.
        noise: One of `NOISES`: details varies how strong those of each square are in each octave, pixels each
            pixel for itself.
        grain: With pixels, side of the squares that move alike.
        color: With pixels, whether colours move apart from each other.
    """

    def __init__(
        self,
        score: Score,
        *,
        deviation: float,
        tile: int,
        samples: int,
        noise: str,
        grain: int,
        color: bool,
    ) -> None:
        self._score, self._deviation, self._tile = score, deviation, tile
        self._samples, self._kind, self._grain, self._color = samples, noise, grain, color

    def loss(
        self, images: torch.Tensor, originals: Pixels
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """What to descend.

        Args:
            images: Of the generator, float [B, 3, H, W] in 0…1; gradients pass to it.
            originals: uint8 [B, H, W, 3].

        Returns:
            float [], and what to log: the mean score of the actions.
        """
        mean = images.detach().float()
        noises, advantages, scores = [], [], []
        for _ in range(self._samples):
            noise = self._noise(mean)
            better, worse = (
                self._score.tiles(
                    originals, to_pixels(mean + sign * self._deviation * noise), self._tile
                )
                for sign in (1, -1)
            )
            noises.append(noise)
            advantages.append(0.5 * self._score.gains(better, worse))
            scores.append(float(0.5 * (better + worse).mean()))
        size = math.sqrt(float(np.mean(np.square(advantages))))
        direction = torch.zeros_like(mean)
        for noise, advantage in zip(noises, advantages, strict=True):
            weights = torch.from_numpy(advantage / max(size, 1e-12)).to(mean)
            direction += self._spread(weights, mean) * noise
        # −log π has the gradient −A ε / σ in μ; the mean over pixels keeps it apart from the crop's size.
        surrogate = -(direction * images.float()).mean() / (self._samples * self._deviation)
        return surrogate, {"rl/score": float(np.mean(scores))}

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        """ε, of about 1 in the root mean square."""
        if self._kind == "details":
            return self._detail_noise(like)
        return self._pixel_noise(like)

    def _detail_noise(self, like: torch.Tensor) -> torch.Tensor:
        """Details of each square and octave, of equal size everywhere, times one number each."""
        batch, _, height, width = like.shape
        tile = self._tile or max(height, width)
        shape = (batch, -(-height // tile), -(-width // tile))
        noise = torch.zeros_like(like)
        for band in octaves(like):
            # Equal sizes, for a gradient in which one square counts like another; but nothing out of nothing.
            energy = F.avg_pool2d(band.square().mean(1), tile, ceil_mode=True)
            strength = torch.randn(shape, device=like.device) / (energy + _FLAT**2).sqrt()
            noise += self._spread(strength, like) * band
        return noise / math.sqrt(_OCTAVES)

    def _pixel_noise(self, like: torch.Tensor) -> torch.Tensor:
        """Alike in squares of `grain` pixels, and in all colours if it is not to be coloured."""
        batch, _, height, width = like.shape
        rows, columns = -(-height // self._grain), -(-width // self._grain)
        shape = (batch, 3 if self._color else 1, rows, columns)
        cells = torch.randn(shape, device=like.device)
        pixels = cells.repeat_interleave(self._grain, 2).repeat_interleave(self._grain, 3)
        return pixels[..., :height, :width].expand_as(like)

    def _spread(self, tiles: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Values of tiles [B, h, w] at each of their pixels, float [B, 1, H, W]."""
        height, width = like.shape[2:]
        tile = self._tile or max(height, width)
        pixels = tiles.repeat_interleave(tile, 1).repeat_interleave(tile, 2)
        return pixels[:, None, :height, :width]


def judge_of(
    encoder: Callable[[torch.Tensor], torch.Tensor], head: Callable[[torch.Tensor], Estimate]
) -> Callable[[torch.Tensor], Estimate]:
    """Actor and critic on a shared encoder; the head alone is sure to be in full precision."""

    def judge(base: torch.Tensor) -> Estimate:
        found = head(encoder(base).float())
        return Estimate(found.mean.float(), found.log_std.float(), found.value.float())

    return judge
