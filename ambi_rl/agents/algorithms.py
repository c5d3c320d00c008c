"""PPO, A2C and MaskablePPO on the batched environment, from the `agent` group of the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from ambi_rl.agents.credit import (
    ScaledMaskableRolloutBuffer,
    ScaledRolloutBuffer,
    TreeMaskableRolloutBuffer,
    TreeRolloutBuffer,
)
from ambi_rl.agents.policy import BlockPolicy, MaskedBlockPolicy, policy_arguments

ALGORITHMS = ("ppo", "a2c", "maskable_ppo")


def linear_schedule(start: float, end_fraction: float) -> Callable[[float], float]:
    """A schedule from `start` down to `start · end_fraction`, linear in the progress of training."""

    def value(remaining: float) -> float:
        return start * (end_fraction + (1 - end_fraction) * remaining)

    return value


def build_agent(
    algorithm: str,
    env: VecEnv,
    *,
    pixels: int,
    tree_credit: bool,
    hidden: int,
    learning_rate: float,
    final_learning_rate: float,
    n_steps: int,
    gamma: float,
    gae_lambda: float,
    entropy_coefficient: float,
    value_coefficient: float,
    max_grad_norm: float,
    seed: int,
    batch_size: int = 0,
    n_epochs: int = 0,
    clip_range: float = 0.0,
    target_kl: float | None = None,
) -> OnPolicyAlgorithm:
    """Build an agent.

    Args:
        algorithm: One of `ALGORITHMS`.
        env: The batched environment.
        pixels: Pixels of a patch.
        tree_credit: Credit along the quadtree (`ambi_rl.agents.credit`) rather than over steps.
        hidden: Units of each hidden layer.
        learning_rate: Of Adam (PPO) or RMSprop (A2C) at the start.
        final_learning_rate: Fraction of it that is left at the end.
        n_steps: Steps of each environment between updates.
        gamma: Discount over steps; without effect with tree credit, as is the next one.
        gae_lambda: λ of generalised advantage estimation.
        entropy_coefficient: Weight of the policy's entropy in the loss.
        value_coefficient: Weight of the value loss.
        max_grad_norm: Gradients are clipped to this norm.
        seed: Of network weights and sampling.
        batch_size: Samples of a gradient step (PPO).
        n_epochs: Passes over a rollout (PPO).
        clip_range: How far the probability ratio may move (PPO).
        target_kl: Stop an update at this KL divergence (PPO).
    """
    common: dict[str, Any] = {
        "learning_rate": linear_schedule(learning_rate, final_learning_rate),
        "n_steps": n_steps,
        "gamma": gamma,
        "gae_lambda": gae_lambda,
        "ent_coef": entropy_coefficient,
        "vf_coef": value_coefficient,
        "max_grad_norm": max_grad_norm,
        "policy_kwargs": policy_arguments(hidden),
        "rollout_buffer_kwargs": {"pixels": pixels},
        "seed": seed,
        # The network is far too small for a GPU to pay off.
        "device": "cpu",
    }
    plain = TreeRolloutBuffer if tree_credit else ScaledRolloutBuffer
    if algorithm == "a2c":
        return A2C(BlockPolicy, env, rollout_buffer_class=plain, normalize_advantage=True, **common)
    common |= {
        "batch_size": batch_size,
        "n_epochs": n_epochs,
        "clip_range": clip_range,
        "target_kl": target_kl,
    }
    if algorithm == "maskable_ppo":
        masked = TreeMaskableRolloutBuffer if tree_credit else ScaledMaskableRolloutBuffer
        return MaskablePPO(MaskedBlockPolicy, env, rollout_buffer_class=masked, **common)
    return PPO(BlockPolicy, env, rollout_buffer_class=plain, **common)
