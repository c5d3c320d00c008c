"""Policy gradients for scores: returns, losses by hand, and that they lead where the score rises."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ambi_rl.superres.actor_critic import (
    EstimateActor,
    ImageActor,
    actor_critic_loss,
    discounted_returns,
    judge_of,
    octaves,
    to_pixels,
)
from ambi_rl.superres.networks import Encoder, Estimate, ScoreHead
from ambi_rl.superres.scores import Score

Pixels = npt.NDArray[np.uint8]


class Brightness(Score):
    """The mean pixel value of each tile."""

    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> npt.NDArray[np.float64]:
        batch, height, width, _ = image.shape
        cut = image.reshape(batch, height // tile, tile, width // tile, tile, 3)
        return cut.mean((2, 4, 5)).astype(np.float64)


class Darkness(Brightness):
    """The less of it, the better, in the left half alone."""

    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> npt.NDArray[np.float64]:
        values = -super()._tiles(original, image, tile)
        values[:, :, values.shape[2] // 2 :] = 0
        return values


def test_pixels_are_what_a_viewer_gets() -> None:
    image = torch.tensor([-0.5, 0.0, 0.5, 1.0, 7.0, 100.4 / 255])[:, None, None, None]
    assert to_pixels(image.expand(6, 3, 1, 1))[:, 0, 0].tolist() == [
        [value] * 3 for value in (0, 0, 128, 255, 255, 100)
    ]


def test_returns_are_discounted_from_the_end() -> None:
    assert discounted_returns([1.0, -1.0, 1.0], 0.5, 4.0) == [1.25, 0.5, 3.0]
    assert discounted_returns([], 0.9, 3.0) == []


def test_loss_by_hand() -> None:
    """Two states, one with a positive and one with a negative advantage."""
    mean = torch.tensor([1.0, 2.0], requires_grad=True)
    log_std = torch.tensor([0.0, math.log(2)], requires_grad=True)
    value = torch.tensor([0.5, 1.0], requires_grad=True)
    loss = actor_critic_loss(
        Estimate(mean, log_std, value),
        torch.tensor([2.0, 0.0]),
        torch.tensor([1.5, -1.0]),
        value=0.5,
        entropy=0.1,
    )
    log_p = [-0.5 - 0.5 * math.log(2 * math.pi), -0.5 - math.log(2) - 0.5 * math.log(2 * math.pi)]
    policy = -(log_p[0] * 1.0 + log_p[1] * -2.0) / 2
    critic = (1.0**2 + 2.0**2) / 2
    entropy = (0.0 + math.log(2)) / 2 + 0.5 * math.log(2 * math.pi * math.e)
    assert loss.item() == pytest.approx(policy + 0.5 * critic - 0.1 * entropy, rel=1e-5)
    loss.backward()
    # −A (a − μ) / σ² / N: towards the action that was better than expected, away from the other.
    assert mean.grad is not None
    assert mean.grad.tolist() == pytest.approx([-0.5, -0.5])
    # The advantage is no way for the policy to move the critic.
    assert value.grad is not None
    assert value.grad.tolist() == pytest.approx([0.5 * 2 * -1.0 / 2, 0.5 * 2 * 2.0 / 2])


def test_estimates_are_rewarded_by_rising_scores_and_become_right() -> None:
    torch.manual_seed(1)
    encoder, head = Encoder(8, 1, batch_norm=False), ScoreHead(8)
    actor = EstimateActor(
        judge_of(encoder, head),
        threshold=0.5,
        gamma=0.9,
        steps=4,
        value=0.5,
        entropy=0.0,
        regression=1.0,
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-2)
    rng = np.random.default_rng(1)
    rewards, errors, losses = [], [], 0
    for step in range(1, 321):
        # Brighter pictures score higher: something to be learned from the base layer.
        level = rng.uniform(size=(4, 1, 1, 1))
        base = torch.from_numpy(level + rng.normal(0, 0.01, (4, 3, 6, 6))).float()
        loss = actor.loss(base)
        if loss is not None:
            losses += 1
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = actor.act(base, 20 + 8 * level[:, 0, 0, 0])
        rewards.append(found["rl/reward"])
        errors.append(found["rl/estimate_error"])
        assert step < 5 or losses == (step - 2) // 4
    assert set(rewards) == {-1.0, 1.0}
    assert np.mean(errors[-20:]) < 0.5 * np.mean(errors[:20])


def test_threshold_and_order_of_rewards() -> None:
    head = ScoreHead(3)
    actor = EstimateActor(
        judge_of(lambda base: base, head),
        threshold=1.0,
        gamma=0.9,
        steps=8,
        value=0.5,
        entropy=0,
        regression=0,
    )
    base = torch.zeros(2, 3, 4, 4)
    scores = [20.0, 21.0, 22.5, 22.4, 30.0]
    rewards = [actor.act(base, np.full(2, score))["rl/reward"] for score in scores]
    # The first has nothing before it; a rise by just the threshold is none.
    assert rewards == [-1.0, -1.0, 1.0, -1.0, 1.0]
    state = actor.state()
    assert [visit[3] for visit in state["visits"]] == rewards[1:]


def test_visits_are_put_back_on_the_device_of_the_networks() -> None:
    def actor() -> EstimateActor:
        return EstimateActor(
            judge_of(lambda base: base, ScoreHead(3)),
            threshold=0, gamma=0.9, steps=8, value=0.5, entropy=0, regression=0,
        )  # fmt: skip

    first, second = actor(), actor()
    for _ in range(3):
        first.act(torch.zeros(2, 3, 4, 4), np.ones(2))
    second.restore(first.state(), torch.device("meta"))
    visits = second.state()["visits"]
    assert len(visits) == 2
    assert {part.device.type for visit in visits for part in visit[:3]} == {"meta"}


def test_image_gradient_is_that_of_the_score() -> None:
    """Its mean over many draws points where the score rises: darker on the left, nowhere on the right."""
    torch.manual_seed(2)
    actor = ImageActor(
        Darkness(), deviation=0.05, tile=4, samples=2, noise="pixels", grain=1, color=False
    )
    original = np.zeros((4, 8, 16, 3), np.uint8)
    image = torch.full((4, 3, 8, 16), 0.5, requires_grad=True)
    total = torch.zeros_like(image)
    for _ in range(300):
        loss, logs = actor.loss(image, original)
        (gradient,) = torch.autograd.grad(loss, image)
        total += gradient
        assert logs["rl/score"] < 0
    # Descending makes the left half darker.
    left, right = total[..., :8], total[..., 8:]
    assert (left > 0).float().mean() > 0.97
    assert right.abs().max() == 0


def test_image_actor_needs_no_gradient_of_the_score() -> None:
    torch.manual_seed(3)
    level = torch.tensor(0.3, requires_grad=True)
    original = np.zeros((2, 8, 8, 3), np.uint8)
    actor = ImageActor(
        Brightness(), deviation=0.02, tile=8, samples=2, noise="pixels", grain=1, color=False
    )
    optimizer = torch.optim.Adam([level], 0.01)
    for _ in range(60):
        loss, _ = actor.loss(level.expand(2, 3, 8, 8), original)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert level.item() > 0.5


def test_noise_of_details_moves_what_is_there_and_nothing_else() -> None:
    torch.manual_seed(5)
    textured = torch.rand(1, 3, 16, 16)
    image = torch.cat([torch.full((1, 3, 16, 16), 0.5), textured], 3).requires_grad_()
    actor = ImageActor(
        Brightness(), deviation=0.02, tile=8, samples=4, noise="details", grain=1, color=False
    )
    loss, _ = actor.loss(image, np.zeros((1, 16, 32, 3), np.uint8))
    loss.backward()
    assert image.grad is not None
    # Beside the edge between the halves there is a detail.
    assert image.grad[..., :8].abs().max() < 1e-6
    assert image.grad[..., 16:].abs().mean() > 1e-6


def test_octaves_are_details_of_growing_size() -> None:
    stripes = (torch.arange(32) % 2).float().expand(1, 3, 32, 32)
    wide = (torch.arange(32) // 4 % 2).float().expand(1, 3, 32, 32)
    fine, middle, coarse = (band.square().mean() for band in octaves(stripes))
    assert fine > 0.2
    assert max(middle, coarse) < 1e-6
    fine, middle, coarse = (band.square().mean() for band in octaves(wide))
    assert max(middle, coarse) > fine


def test_a_score_that_never_changes_moves_nothing() -> None:
    class Constant(Score):
        def _tiles(self, original: Pixels, image: Pixels, tile: int) -> npt.NDArray[np.float64]:
            return np.ones((len(image), 1, 1))

    image = torch.rand(2, 3, 8, 8, requires_grad=True)
    loss, _ = ImageActor(
        Constant(), deviation=0.02, tile=0, samples=2, noise="pixels", grain=1, color=False
    ).loss(image, np.zeros((2, 8, 8, 3), np.uint8))
    loss.backward()
    assert image.grad is not None
    assert image.grad.abs().max() == 0
