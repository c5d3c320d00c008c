"""Imitation of a player: a `RatePolicy` begins as what somebody who needs no learning did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from ambi_rl.agents.rate_ppo import RatePolicy
from ambi_rl.envs.players import Play

_VALUE_WEIGHT = 0.02
"""Of the squared error of returns, which vary by more than 1: with 0.5 as in PPO they take all of the
network's attention, and it has learned nothing of the ball after four passes (accuracy 39 % instead of
56 %)."""
_MAX_GRADIENT = 5.0
_PRIOR_MOVES, _PRIOR_STEPS = 512, 200
"""What the prior is fitted with in the end: moves, and gradient steps."""
_PRIOR_EVERY = 4
"""Gradient steps of the policy between those of the prior, which are as many."""


@dataclass(frozen=True)
class ImitationResult:
    """How well the policy imitates, on the last tenth of the play, which it was not trained with.

    Attributes:
        accuracy: Share of moves that are the player's.
        value_correlation: Correlation of the value function with the returns.
        excluded: Moves left out because their frame is one of the test set.
    """

    accuracy: float
    value_correlation: float
    excluded: int


def imitate(
    policy: RatePolicy,
    play: Play,
    *,
    others: Sequence[nn.Parameter] = (),
    epochs: int,
    batch_size: int,
    learning_rate: float,
    alpha: float = 0.0,
    seed: int,
    report: Callable[[float], None] = lambda fraction: None,
) -> ImitationResult:
    """Fit policy and value function to a player's moves, and the prior to the latents.

    Args:
        policy: To be trained.
        play: In order of time.
        others: Weights beside the policy's that its further loss trains.
        epochs: Passes over it.
        batch_size: Moves in a gradient step.
        learning_rate: Of Adam at the start; it falls to zero along a cosine.
        alpha: Weight of the rate, per bit of a latent dimension, at the end. It is 0 during the first third
            of the gradient steps and rises until the second is over: what is to be kept has to be found
            before it can be cheap.
        seed: Of the order of moves.
        report: Called with the fraction done.
    """
    count = max(len(play.actions) * 9 // 10, 1)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([*policy.parameters(), *others], lr=learning_rate)
    per_epoch = -(-count // batch_size)
    steps = epochs * per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    policy.set_training_mode(True)
    given = policy.alpha
    for epoch in range(epochs):
        order = torch.randperm(count, generator=generator)
        for number, start in enumerate(range(0, count, batch_size)):
            rows = order[start : start + batch_size].numpy()
            policy.alpha = alpha * _ramp((epoch * per_epoch + number) / steps)
            loss = _loss(policy, play, rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), _MAX_GRADIENT)
            optimizer.step()
            schedule.step()
            if alpha and number % _PRIOR_EVERY == 0:
                _fit_prior(policy, play, rows)
            report((epoch + number / per_epoch) / epochs)
    policy.set_training_mode(False)
    policy.alpha = given
    _finish_prior(policy, play, count)
    return _checked(policy, play, count, batch_size)


def _ramp(done: float) -> float:
    """The share of α that counts when a fraction of the gradient steps is done."""
    return min(max(3 * done - 1, 0.0), 1.0)


@torch.no_grad()
def _fit_prior(policy: RatePolicy, play: Play, rows: npt.NDArray[np.int64]) -> None:
    some = torch.as_tensor(play.observations[rows], device=policy.device)
    policy.prior.fit(policy.latent(some), steps=_PRIOR_EVERY, generator=policy.noise)


def _loss(policy: RatePolicy, play: Play, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    observations = torch.as_tensor(play.observations[rows], device=policy.device)
    actions = torch.as_tensor(play.actions[rows], device=policy.device)
    returns = torch.as_tensor(play.returns[rows], device=policy.device)
    values, log_probability, _ = policy.evaluate_actions(observations, actions)
    error = functional.mse_loss(values.flatten(), returns)
    return -log_probability.mean() + _VALUE_WEIGHT * error


@torch.no_grad()
def _finish_prior(policy: RatePolicy, play: Play, first: int) -> None:
    """Fit the prior to latents of what was not trained with, as PPO finds them."""
    rows = np.linspace(min(first, len(play.actions) - 1), len(play.actions) - 1, _PRIOR_MOVES)
    some = torch.as_tensor(play.observations[rows.astype(int)], device=policy.device)
    policy.prior.fit(policy.latent(some), steps=_PRIOR_STEPS, generator=policy.noise)


@torch.no_grad()
def _checked(policy: RatePolicy, play: Play, first: int, batch_size: int) -> ImitationResult:
    same, values = [], []
    for start in range(first, len(play.actions), batch_size):
        some = torch.as_tensor(play.observations[start : start + batch_size], device=policy.device)
        chosen = policy.get_distribution(some).mode()
        expected = torch.as_tensor(play.actions[start : start + batch_size], device=policy.device)
        same.append((chosen == expected).float())
        values.append(policy.predict_values(some).flatten())
    if not same:
        return ImitationResult(0.0, 0.0, play.excluded)
    pair = torch.stack([torch.cat(values).cpu(), torch.as_tensor(play.returns[first:])])
    return ImitationResult(
        accuracy=float(torch.cat(same).mean()),
        value_correlation=float(torch.corrcoef(pair)[0, 1]),
        excluded=play.excluded,
    )
