"""Credit assignment along the quadtree: a decision is judged by what its own subtree costs.

Nodes come in depth-first order, so the nodes below a split directly follow it:

    split(32) leaf(16) split(16) leaf(8) leaf(8) leaf(8) leaf(8) leaf(16) leaf(16) | next superblock
    └──────────────────────────── one subtree ──────────────────────────────────┘

What a decision changes is, almost entirely, the cost of its own square. The usual discounted sum over
*steps* would compare a split, whose costs come spread over many later steps, with a leaf, whose cost comes
at once, and so favour splitting for the discount alone; without a discount every decision would be
blamed for all later blocks. The return of a node here is the reward of its subtree, its advantage that
return minus the value function's guess of it: no discount, little variance, and a value that can be
predicted from the node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer

from ambi_rl.rewards.calibration import FIXED_COST
from ambi_rl.rewards.terms import STEPS

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

SIZES = slice(0, 4)
"""Where an observation says the node's size, one-hot: 4, 8, 16, 32 pixels."""
STEP_FEATURE = 4
"""Where it says log2(Δ / 8)."""

_CHILDREN = 4


def is_split(observations: Array, actions: Array) -> npt.NDArray[np.bool_]:
    """Whether decisions were splits, after the split of a 4x4 block became a leaf.

    Args:
        observations: float32 [..., F].
        actions: [..., 2].

    Returns:
        bool [...].
    """
    return np.asarray((actions[..., 0] == 0) & (observations[..., SIZES][..., 0] < 0.5))


def subtree_ends(split: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where the subtree of each node ends, in sequences of depth-first decisions.

    Args:
        split: bool [T, B].

    Returns:
        int64 [T, B]: one past the last step of the subtree; T + 1 if it goes on after the sequence.
    """
    steps, batch = split.shape
    unknown = steps + 1
    ends = np.full((steps + 2, batch), unknown, np.int64)
    columns = np.arange(batch)
    for t in range(steps - 1, -1, -1):
        end = np.full(batch, t + 1, np.int64)
        for _ in range(_CHILDREN):
            end = np.where(split[t], ends[end, columns], end)
        ends[t] = end
    return ends[:steps]


def subtree_returns(
    rewards: Array, split: npt.NDArray[np.bool_]
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Sum of rewards over each node's subtree.

    Args:
        rewards: [T, B].
        split: bool [T, B], whether the decision was a split.

    Returns:
        The sums, float64 [T, B], and whether the subtree is complete, bool [T, B]; sums of incomplete
        ones reach to the end of the sequence.
    """
    steps, batch = rewards.shape
    ends = subtree_ends(split)
    complete = ends <= steps
    total = np.zeros((steps + 1, batch))
    np.cumsum(rewards, axis=0, out=total[1:], dtype=np.float64)
    columns = np.broadcast_to(np.arange(batch), ends.shape)
    return total[np.minimum(ends, steps), columns] - total[:-1], complete


def fixed_cost(observations: Array) -> Floats:
    """J/λ per pixel that the `fixed` strategist needs at each observation's step, bits, float64 [...]."""
    log_step = (observations[..., STEP_FEATURE] + 3.0) * np.log(2.0) + np.log(64.0)
    return np.asarray(np.exp(np.interp(log_step, np.log(STEPS), np.log(FIXED_COST))))


def learning_scale(observations: Array, pixels: int) -> Floats:
    """What rewards are multiplied by before learning.

    Costs per pixel differ by an order of magnitude between qualities, and rate is compared in relative
    terms (BD-rate), so each episode is measured against what the `fixed` strategist needs at its step.
    A 16x16 block then has a return of order −1 whatever the patch.

    Args:
        observations: float32 [..., F].
        pixels: Pixels of a patch.
    """
    return pixels / 256 / fixed_cost(observations)


class _Scaled(RolloutBuffer):
    """Learns from rewards times `learning_scale`.

    Args:
        pixels: Pixels of a patch.
    """

    def __init__(self, *args: Any, pixels: int, **kwargs: Any) -> None:
        self.pixels = pixels
        super().__init__(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: Array) -> None:
        """Returns and advantages from the rollout.

        Args:
            last_values: [B], values of the observations after the last step.
            dones: bool [B], whether the last step ended an episode.
        """
        self.rewards *= learning_scale(self.observations, self.pixels).astype(np.float32)
        super().compute_returns_and_advantage(last_values, dones)


class _Tree(_Scaled):
    """Returns and advantages along the quadtree; see the module."""

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: Array) -> None:
        """Returns and advantages from the rollout.

        A node whose subtree the rollout does not cover to the end teaches nothing: advantage 0.

        Args:
            last_values: Not needed: no return reaches past the rollout.
            dones: Not needed, either.
        """
        self.rewards *= learning_scale(self.observations, self.pixels).astype(np.float32)
        returns, complete = subtree_returns(self.rewards, is_split(self.observations, self.actions))
        self.returns = np.where(complete, returns, self.values).astype(np.float32)
        self.advantages = self.returns - self.values


class ScaledRolloutBuffer(_Scaled):
    """Generalised advantages over steps, for PPO and A2C."""


class TreeRolloutBuffer(_Tree):
    """Advantages along the quadtree, for PPO and A2C."""


class ScaledMaskableRolloutBuffer(_Scaled, MaskableRolloutBuffer):
    """Generalised advantages over steps, for MaskablePPO."""


class TreeMaskableRolloutBuffer(_Tree, MaskableRolloutBuffer):
    """Advantages along the quadtree, for MaskablePPO."""
