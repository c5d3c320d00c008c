"""PPO with the rate in its loss: its gradient, what it leaves alone, and how α is controlled."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torch import Tensor
from torch.nn import functional

from ambi_rl.agents.play_imitation import imitate
from ambi_rl.agents.rate_control import RateControl, TargetControl, build_control
from ambi_rl.agents.rate_ppo import (
    LatentFeatures,
    RatePolicy,
    RatePPO,
    RateRolloutBuffer,
    attach_loss,
)
from ambi_rl.envs.players import Excluded, Play
from ambi_rl.errors import UsageError

SIDE = 84
STACK = 2
ALPHA = 0.7
NETWORK = {"width": 4, "layer": "features", "channels": 5, "features": 8}


class Corners(gymnasium.Env[npt.NDArray[np.uint8], Any]):
    """A block lies in one of three places; naming it gives a reward of 1. Its gray level is the step's."""

    observation_space = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self._corner = self._steps = 0

    def _look(self) -> npt.NDArray[np.uint8]:
        self._corner = int(self.np_random.integers(3))
        frame = np.full((1, SIDE, SIDE), 20, np.uint8)
        start = 5 + 25 * self._corner
        frame[0, start : start + 20, start : start + 20] = 200 + self._steps
        return frame

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._steps = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        reward = float(action == self._corner)
        self._steps += 1
        return self._look(), reward, self._steps == 10, False, {}


def corners() -> VecEnv:
    return VecFrameStack(DummyVecEnv([Corners] * 2), STACK, channels_order="first")


def make_agent(
    prior: str = "factorized",
    *,
    quantization: str = "round",
    exclude: Excluded | None = None,
    **settings: Any,
) -> RatePPO:
    arguments: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "seed": 3}
    return RatePPO(
        RatePolicy,
        corners(),
        rollout_buffer_class=RateRolloutBuffer,
        rollout_buffer_kwargs={"exclude": exclude},
        policy_kwargs={
            "features_extractor_class": LatentFeatures,
            "features_extractor_kwargs": NETWORK | {"quantization": quantization},
            "net_arch": [],
            "prior": prior,
        },
        **arguments | settings,
    )


class Collected(BaseCallback):
    def _on_step(self) -> bool:
        return True


def collect(agent: RatePPO) -> None:
    """Fill the agent's buffer, with a logger set up, and learn nothing."""
    _, callback = agent._setup_learn(1000, Collected())
    assert agent.env is not None
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)


def samples_of(agent: RatePPO, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that every minibatch is added to as it is drawn."""
    drawn: list[Any] = []
    original = RateRolloutBuffer._get_samples

    def noted(self: RateRolloutBuffer, *arguments: Any) -> Any:
        drawn.append(original(self, *arguments))
        return drawn[-1]

    monkeypatch.setattr(RateRolloutBuffer, "_get_samples", noted)
    return drawn


def losses_by_hand(policy: RatePolicy, batch: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """PPO's loss as its paper has it, and the rate of eq. 4, of a copy of the policy."""
    encoder = policy.encoder
    latent = encoder.latent(batch.observations / 255)
    quantized = latent + (torch.round(latent) - latent).detach()
    features = encoder.features(quantized)
    log_shares = functional.log_softmax(policy.action_net(features), dim=1)
    taken = log_shares.gather(1, batch.actions.long()).flatten()
    advantages = batch.advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = torch.exp(taken - batch.old_log_prob)
    clipped = torch.minimum(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
    entropy = -(log_shares.exp() * log_shares).sum(dim=1).mean()
    value_error = (policy.value_net(features).flatten() - batch.returns).square().mean()
    noisy = (latent + noise)[:, :, 0, 0].T
    mass = policy.prior.cumulative(noisy + 0.5)[0] - policy.prior.cumulative(noisy - 0.5)[0]
    return -clipped - 0.01 * entropy + 0.5 * value_error, -torch.log2(mass).mean()


def test_attached_losses_pass_values_and_get_the_gradient_one() -> None:
    weight, other = torch.tensor(3.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    values = torch.ones(4) * weight
    attached = attach_loss(values, 5 * other)
    assert torch.equal(attached, values)
    (0.25 * attached.sum()).backward()
    assert weight.grad is not None
    assert other.grad is not None
    assert weight.grad.item() == 1.0
    assert other.grad.item() == 5.0


@pytest.mark.parametrize("prior", ["normal", "factorized"])
def test_an_update_follows_the_gradient_of_equation_4(
    prior: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(prior, batch_size=16, n_epochs=1, ent_coef=0.01, max_grad_norm=1e9)
    collect(agent)
    agent.policy.alpha = ALPHA
    drawn = samples_of(agent, monkeypatch)
    before = copy.deepcopy(agent.policy.state_dict())
    by_hand = make_agent(prior).policy
    by_hand.load_state_dict(before)
    noise_state = agent.policy.noise.get_state()
    found: dict[str, Tensor] = {}

    def step(closure: Any = None) -> None:
        found.update(
            {n: p.grad.clone() for n, p in agent.policy.named_parameters() if p.grad is not None}
        )

    monkeypatch.setattr(agent.policy.optimizer, "step", step)
    agent.train()
    generator = torch.Generator()
    generator.set_state(noise_state)
    noise = torch.rand((16, 5, 1, 1), generator=generator) - 0.5
    ppo, rate = losses_by_hand(by_hand, drawn[0], noise)
    (ppo + ALPHA * rate).backward()
    expected = {n: p.grad for n, p in by_hand.named_parameters() if p.grad is not None}
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
    # The rate is a part of it that is seen.
    encoder = "features_extractor.encoder.before.1.0.weight"
    by_hand.zero_grad()
    losses_by_hand(by_hand, drawn[0], noise)[0].backward()
    without = dict(by_hand.named_parameters())[encoder].grad
    assert without is not None
    assert (found[encoder] - without).norm() > 0.05 * without.norm()
    logged = agent.logger.name_to_value
    assert logged["rate/bits_per_latent_with_noise"] == pytest.approx(rate.item(), rel=1e-4)
    assert logged["train/value_loss"] > 0


def make_plain(**settings: Any) -> PPO:
    """Stable-Baselines3's own PPO with the same network."""
    plain = PPO(
        ActorCriticPolicy,
        corners(),
        policy_kwargs={
            "features_extractor_class": LatentFeatures,
            "features_extractor_kwargs": NETWORK | {"quantization": "round"},
            "net_arch": [],
        },
        **settings,
    )
    plain.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return plain


@pytest.mark.parametrize("updates", [1, 4])
def test_without_a_weight_it_is_plain_ppo(updates: int) -> None:
    settings: dict[str, Any] = {"n_steps": 8, "batch_size": 8, "n_epochs": 2, "seed": 3}
    # A norm that clips, which whatever the prior leaves in its gradients would change.
    agent = make_agent(**settings, max_grad_norm=0.05)
    plain = make_plain(**settings, max_grad_norm=0.05)
    for model in (agent, plain):
        # Made in one process, the second would have begun with random numbers that the first left.
        model.set_random_seed(3)
        model.learn(16 * updates)
    np.testing.assert_array_equal(agent.rollout_buffer.actions, plain.rollout_buffer.actions)
    found, expected = agent.policy.state_dict(), plain.policy.state_dict()
    for name, tensor in expected.items():
        if updates == 1:
            assert torch.equal(found[name], tensor), name
        else:
            # Libraries of linear algebra sum in an order that depends on where in memory numbers lie.
            torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-7)
    assert all(name.startswith("prior.") for name in found.keys() - expected.keys())


def test_frames_of_a_test_set_are_in_no_minibatch(monkeypatch: pytest.MonkeyPatch) -> None:
    def exclude(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        # Those with the block in the first place, and those of every other step.
        return (frames[:, 5, 5] > 100) | (frames.max(axis=(1, 2)) % 2 == 1)

    agent = make_agent(exclude=exclude)
    drawn = samples_of(agent, monkeypatch)
    latents: list[npt.NDArray[np.uint8]] = []
    original = RatePolicy.latent

    def noted(self: RatePolicy, observations: Any) -> Tensor:
        latents.append(observations.numpy())
        return original(self, observations)

    monkeypatch.setattr(RatePolicy, "latent", noted)
    counts = []

    class Counting(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            seen = agent.rollout_buffer.observations[:, :, -1].reshape(-1, SIDE, SIDE)
            counts.append(int(exclude(seen).sum()))

    agent.learn(64, callback=Counting())
    assert len(drawn) == 4 * 2 * 2
    for batch in drawn:
        assert len(batch.observations) == 8
        assert not exclude(batch.observations[:, -1].numpy()).any()
        # What was done and expected there is still its own.
        assert len(batch.actions) == len(batch.advantages) == 8
    assert len(latents) == 4
    assert not any(exclude(seen[:, -1]).any() for seen in latents)
    assert isinstance(agent.rollout_buffer, RateRolloutBuffer)
    assert agent.rollout_buffer.excluded == sum(counts) > 4
    with pytest.raises(UsageError, match="every frame of a rollout"):
        make_agent(exclude=lambda frames: np.ones(len(frames), bool)).learn(16)


def test_moves_keep_their_own_returns_where_others_are_left_out() -> None:
    agent = make_agent(exclude=lambda frames: frames[:, 5, 5] > 100)
    collect(agent)
    buffer = agent.rollout_buffer

    def parts(stack: Any, action: Any, gain: Any) -> tuple[bytes, float, float]:
        return np.asarray(stack).astype(np.uint8).tobytes(), action.item(), gain.item()

    moves = zip(
        buffer.observations.reshape(16, STACK, SIDE, SIDE),
        buffer.actions.flatten(),
        buffer.returns.flatten(),
        strict=True,
    )
    known = {parts(*move) for move in moves}
    for batch in buffer.get(8):
        for move in zip(batch.observations, batch.actions, batch.returns, strict=True):
            assert parts(*move) in known


@pytest.mark.parametrize("quantization", ["round", "noise", "none"])
def test_policies_see_whole_numbers_wherever_they_only_play(quantization: str) -> None:
    agent = make_agent(quantization=quantization)
    policy = agent.policy
    observations = torch.as_tensor(corners().reset())
    seen: list[Tensor] = []
    policy.encoder.after.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    policy.set_training_mode(False)
    policy.predict(observations.numpy())
    policy.set_training_mode(True)
    policy.evaluate_actions(observations, torch.zeros(2, dtype=torch.int64))
    played, trained = (8 * values.detach() for values in seen)  # The network's scale.
    latent = policy.latent(observations).detach()
    assert not torch.allclose(latent, latent.round(), atol=1e-3)
    rounded = {"round": (True, True), "noise": (True, False), "none": (False, False)}[quantization]
    for values, expected in zip((played, trained), rounded, strict=True):
        assert torch.allclose(values, values.round(), atol=1e-3) is expected
    if quantization == "none":
        assert torch.allclose(trained, latent, atol=1e-4)


def test_a_further_loss_moves_what_it_is_of() -> None:
    target = torch.nn.Parameter(torch.tensor(4.0))
    agent = make_agent(n_epochs=1, max_grad_norm=1e9)
    agent.policy.optimizer.add_param_group({"params": [target]})
    seen = []

    def further(stacks: Tensor, latents: Tensor) -> Tensor:
        seen.append((stacks.shape, float(stacks.max()), latents.detach()))
        return (target - 1).square()

    agent.policy.further_loss = further
    agent.learn(16)
    assert target.item() < 4.0
    shape, most, latents = seen[0]
    assert shape == (8, STACK, SIDE, SIDE)
    assert 0.7 < most <= 1
    assert torch.allclose(latents, latents.round(), atol=1e-4)


@pytest.mark.parametrize("prior", ["normal", "factorized"])
def test_the_rate_falls_the_more_the_greater_its_weight(prior: str) -> None:
    last: dict[float, float] = {}
    for alpha in (0.0, 0.02, 1.0):
        agent = make_agent(prior, n_steps=32, batch_size=32, n_epochs=4, learning_rate=2e-3)
        agent.policy.alpha = alpha
        agent.prior_steps = 20
        coded: list[float] = []

        def noted(bits: float, alpha: float = alpha, coded: list[float] = coded) -> float:
            coded.append(bits)
            return alpha

        agent.next_alpha = noted
        agent.learn(6 * 64)
        assert len(coded) == 6
        last[alpha] = coded[-1]
    assert last[1.0] < last[0.02] < last[0.0]
    assert last[1.0] < 0.6 * last[0.0]


def test_the_next_weight_is_asked_for_after_every_update() -> None:
    agent = make_agent()
    asked: list[float] = []

    def double(bits: float) -> float:
        asked.append(bits)
        return 2 * agent.policy.alpha

    agent.policy.alpha = 1.0
    agent.next_alpha = double
    agent.learn(48)
    assert agent.policy.alpha == 8.0
    # Said of the update it was used in.
    assert agent.logger.name_to_value["rate/alpha"] == 4.0
    assert all(bits > 0 for bits in asked)


def control(schedule: str, **changes: float) -> RateControl:
    values: dict[str, Any] = {"alpha": 0.01, "target_bits": 64.0, "latents": 32}
    return build_control(schedule, **values | {"speed": 0.1, "ratio": 0.05} | changes)


def test_a_fixed_weight_stays() -> None:
    fixed = control("fixed", alpha=0.3)
    assert [fixed.update(bits, 10.0) for bits in (0.1, 50.0)] == [0.3, 0.3]


def test_equation_5_by_hand() -> None:
    ratio = control("ratio")
    # α·rate = 0.01·4 is below 0.05·2 = 0.1: violated, and i = 1.
    assert ratio.update(4.0, 2.0) == pytest.approx(first := 0.01 * 10 * math.exp(-0.001))
    # 0.0999·4 = 0.4 is not below 0.1.
    assert ratio.update(4.0, 2.0) == pytest.approx(first)
    # The reward has grown: i counts all updates, so it is 3.
    assert ratio.update(4.0, 20.0) == pytest.approx(second := first * 10 * math.exp(-0.003))
    # No game has ended yet, or none brought anything: there is nothing to compare with.
    assert ratio.update(0.001, math.nan) == pytest.approx(second)
    assert ratio.update(0.001, 0.0) == pytest.approx(second)
    # Late in training the factor is below 1.
    late = control("ratio")
    late.restore({"alpha": 0.01, "updates": 4999})
    assert late.update(4.0, 2.0) == pytest.approx(0.01 * 10 * math.exp(-5))


def bits_with_delay(control: RateControl, start: float, updates: int) -> list[float]:
    """Bits of an agent that goes a tenth of the way in each update, by weights of four updates ago."""
    weights, bits = [control.alpha] * 4, start
    found = []
    for _ in range(updates):
        steady = 3.0 * (1e-3 / weights[-4]) ** 0.4
        bits += 0.1 * (steady - bits)
        weights.append(control.update(bits, math.nan))
        found.append(bits)
    return found


@pytest.mark.parametrize("alpha", [1e-5, 1e-2, 1.0])
@pytest.mark.parametrize("target", [0.5, 2.0])
def test_the_controller_reaches_its_target_whatever_it_begins_with(
    alpha: float, target: float
) -> None:
    found = bits_with_delay(control("target", alpha=alpha, target_bits=32 * target), 5.0, 300)
    late = np.array(found[-60:])
    assert np.abs(late / target - 1).max() < 0.1


def test_the_controller_ends_at_limits_and_finds_back() -> None:
    target = control("target", alpha=0.0)
    assert target.alpha > 0
    for _ in range(2000):
        target.update(0.0, math.nan)
    assert target.alpha == pytest.approx(1e-7)
    for _ in range(2000):
        target.update(1e9, math.nan)
    assert target.alpha == pytest.approx(1e3)
    for _ in range(400):
        target.update(0.5, math.nan)
    assert target.alpha < 1e-3


@pytest.mark.parametrize("schedule", ["fixed", "ratio", "target"])
def test_controls_go_on_from_their_state(schedule: str) -> None:
    first = control(schedule)
    for bits in (8.0, 5.0, 1.0):
        first.update(bits, 30.0)
    state = json.loads(json.dumps(first.state()))
    second = control(schedule)
    second.restore(state)
    assert second.alpha == first.alpha
    assert [second.update(b, 30.0) for b in (4.0, 0.2)] == [
        first.update(b, 30.0) for b in (4.0, 0.2)
    ]


def test_what_is_configured_anew_is_not_undone_by_an_old_state() -> None:
    fixed = control("fixed", alpha=0.5)
    fixed.restore(control("fixed", alpha=0.1).state())
    assert fixed.alpha == 0.5
    target = control("target", target_bits=16)
    target.restore(control("target", target_bits=64).state())
    assert isinstance(target, TargetControl)
    assert target.target == 0.5


def a_play(count: int) -> Play:
    """Corners and what to call them; returns are as bright as the newest frame."""
    rng = np.random.default_rng(0)
    places = rng.integers(3, size=count)
    observations = np.full((count, STACK, SIDE, SIDE), 20, np.uint8)
    for number, place in enumerate(places):
        start = 5 + 25 * place
        observations[number, :, start : start + 20, start : start + 20] = 200
    return Play(observations, places.astype(np.int64), places.astype(np.float32), excluded=7)


def test_imitation_learns_moves_and_values_it_has_not_seen() -> None:
    policy = make_agent().policy
    fractions: list[float] = []
    result = imitate(
        policy,
        a_play(300),
        epochs=6,
        batch_size=30,
        learning_rate=3e-3,
        seed=0,
        report=fractions.append,
    )
    assert result.accuracy > 0.9
    assert result.value_correlation > 0.8
    assert result.excluded == 7
    assert fractions == sorted(fractions)
    assert len(fractions) == 54
    assert not policy.training


def test_imitation_with_a_rate_makes_the_same_moves_for_fewer_bits() -> None:
    play, bits = a_play(200), {}
    for alpha in (0.0, 0.3):
        policy = make_agent().policy
        policy.alpha = 0.7
        result = imitate(
            policy, play, epochs=6, batch_size=20, learning_rate=3e-3, alpha=alpha, seed=0
        )
        assert result.accuracy > 0.9
        assert policy.alpha == 0.7
        with torch.no_grad():
            latents = torch.round(policy.latent(torch.as_tensor(play.observations)))
        policy.prior.fit(latents, steps=200)
        bits[alpha] = float(policy.prior.bits(latents).mean())
    assert bits[0.3] < 0.7 * bits[0.0]


def test_imitation_does_not_follow_the_rate_unless_it_is_given_one() -> None:
    found: list[dict[str, Tensor]] = []
    for noise in (1, 2):
        policy = make_agent().policy
        policy.noise.manual_seed(noise)
        imitate(policy, a_play(40), epochs=1, batch_size=20, learning_rate=1e-3, seed=0)
        found.append(policy.encoder.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
