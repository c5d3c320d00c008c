"""The exported policy is the trained one: same numbers, same decisions, no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ambi_rl.agents.algorithms import ALGORITHMS, build_agent
from ambi_rl.agents.export import policy_tensors
from ambi_rl.agents.policy import policy_logits
from ambi_rl.codec.bundle import Bundle, default_bundle, dump_bundle, parse_bundle
from ambi_rl.codec.context import context_of
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.strategists import by_name
from ambi_rl.codec.strategists.policy_net import logits_batch
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.envs.sb3 import BlockCodingVecEnv


def make_agent(algorithm: str, env: BlockCodingVecEnv, seed: int = 3) -> Any:
    agent = build_agent(
        algorithm,
        env,
        pixels=32 * 32,
        tree_credit=True,
        hidden=24,
        learning_rate=1e-3,
        final_learning_rate=0.1,
        n_steps=8,
        gamma=1.0,
        gae_lambda=0.95,
        entropy_coefficient=0.0,
        value_coefficient=0.5,
        max_grad_norm=0.5,
        seed=seed,
        batch_size=16,
        n_epochs=1,
        clip_range=0.2,
    )
    # Freshly made policies have nearly equal logits, which would hide mistakes.
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return agent


@pytest.fixture(scope="module")
def env() -> BlockCodingVecEnv:
    return BlockCodingVecEnv(BlockCodingVectorEnv(6, patch_size=32))


def observations_of(env: BlockCodingVecEnv, steps: int = 12) -> np.ndarray:
    env.seed(1)
    seen = [env.reset()]
    rng = np.random.default_rng(0)
    for _ in range(steps):
        actions = np.stack([rng.integers(0, 3, 6), rng.integers(0, 5, 6)], axis=1)
        seen.append(env.step(actions)[0])
    return np.concatenate(seen)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_compiled_logits_equal_torch(algorithm: str, env: BlockCodingVecEnv) -> None:
    agent = make_agent(algorithm, env)
    observations = observations_of(env)
    agent.policy.features_extractor.fit(observations)
    with torch.no_grad():
        expected = policy_logits(agent.policy, torch.as_tensor(observations)).numpy()
    bundle = replace(default_bundle(), policy=policy_tensors(agent.policy))
    context = context_of(bundle)
    found = np.zeros_like(expected)
    logits_batch(context.network, context.work(), observations, found)
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_strategist_decides_as_the_environment_would(env: BlockCodingVecEnv) -> None:
    """Every decision of the compiled strategist is what torch says of the environment's observation."""
    agent = make_agent("maskable_ppo", env)
    agent.policy.features_extractor.fit(observations_of(env))
    bundle = replace(default_bundle(), policy=policy_tensors(agent.policy))
    episodes = env.vector.episodes
    env.seed(9)
    observations = env.reset()
    patches = [patch for patch in episodes.patches if patch is not None]
    frames = [encode_frame(p.planes, p.step, bundle, by_name("policy")) for p in patches]
    leaves = [{(d.y, d.x): d for d in frame.decisions} for frame in frames]
    running = np.ones(6, bool)
    choices = episodes.num_decisions
    while running.any():
        with torch.no_grad():
            logits = policy_logits(agent.policy, torch.as_tensor(observations)).numpy()
        masked = np.where(env.action_masks(), logits, -np.inf)
        actions = np.ones((6, 2), np.int64)
        for index in np.flatnonzero(running):
            y, x, size = episodes.process.node(int(index))
            leaf = leaves[index].get((y, x))
            is_leaf = leaf is not None and leaf.size == size
            strategies = masked[index, 1:choices]
            weights = np.exp(masked[index, :choices] - masked[index, :choices].max())
            split_probability = weights[0] / weights.sum()
            if leaf is not None and is_leaf:
                assert split_probability < 0.5 + 1e-4
                assert strategies[leaf.strategy] == pytest.approx(strategies.max(), abs=1e-4)
                assert masked[index, choices + leaf.offset] == pytest.approx(
                    masked[index, choices:].max(), abs=1e-4
                )
                actions[index] = leaf.strategy + 1, leaf.offset
            else:
                assert split_probability > 0.5 - 1e-4
                actions[index] = 0, 0
        observations, _, dones, _ = env.step(actions)
        running &= ~dones


def test_retraining_the_policy_keeps_the_bundle_id(env: BlockCodingVecEnv) -> None:
    bundles: list[Bundle] = []
    for seed in (1, 2):
        policy = policy_tensors(make_agent("ppo", env, seed).policy)
        bundles.append(parse_bundle(dump_bundle(replace(default_bundle(), policy=policy))))
    assert bundles[0].id == bundles[1].id == default_bundle().id
    assert (bundles[0].policy["w0"] != bundles[1].policy["w0"]).any()


def test_other_architectures_are_refused(env: BlockCodingVecEnv) -> None:
    from stable_baselines3 import PPO

    other = PPO("MlpPolicy", env, n_steps=8, batch_size=16, policy_kwargs={"net_arch": [8]})
    with pytest.raises(TypeError, match="two tanh layers"):
        policy_tensors(other.policy)
