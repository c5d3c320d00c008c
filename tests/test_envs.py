"""The environments: conventions, determinism, and that they are the codec."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from stable_baselines3.common.env_checker import check_env as check_sb3

from ambi_rl.agents.imitation import decision_sequence
from ambi_rl.codec.bundle import Bundle, default_bundle
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.process import BlockCodingBatch
from ambi_rl.codec.strategists import Strategist, by_name, for_search
from ambi_rl.envs import ENVIRONMENT_ID, BlockCodingEnv, BlockCodingVectorEnv
from ambi_rl.envs.sb3 import BlockCodingVecEnv
from ambi_rl.errors import ConfigError, UsageError

SIZE = 32


def random_action(masks: np.ndarray, decisions: int, rng: np.random.Generator) -> np.ndarray:
    score = rng.random(masks.shape) * masks
    # Split half of what can be, or episodes would be a single block.
    score[..., 0] = 2 * (rng.random(masks.shape[:-1]) < 0.5) * masks[..., 0]
    return np.stack([score[..., :decisions].argmax(-1), score[..., decisions:].argmax(-1)], axis=-1)


def play(env: BlockCodingEnv, seed: int, options: dict[str, Any] | None = None) -> dict[str, Any]:
    observation, info = env.reset(seed=seed, options=options)
    rng = np.random.default_rng(seed)
    record: dict[str, Any] = {
        "observations": [observation],
        "rewards": [],
        "actions": [],
        "info": info,
    }
    done = False
    while not done:
        action = random_action(env.action_masks(), env.episodes.num_decisions, rng)
        observation, reward, done, truncated, info = env.step(action)
        assert not truncated
        record["observations"].append(observation)
        record["rewards"].append(reward)
        record["actions"].append(action)
        record["last"] = info
    return record


def test_made_by_its_id() -> None:
    env = gymnasium.make(ENVIRONMENT_ID, patch_size=SIZE)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    vector = gymnasium.make_vec(
        ENVIRONMENT_ID, num_envs=3, vectorization_mode="vector_entry_point", patch_size=SIZE
    )
    assert vector.reset(seed=0)[0].shape[0] == 3


@pytest.mark.filterwarnings("ignore:.*(infinity|rescale|deterministic).*")
def test_gymnasium_check() -> None:
    check_gymnasium(
        gymnasium.make(ENVIRONMENT_ID, patch_size=SIZE, render_mode="rgb_array").unwrapped
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sb3_check() -> None:
    check_sb3(BlockCodingEnv(patch_size=SIZE), warn=True)


def test_same_seed_same_episode() -> None:
    first, second = (play(BlockCodingEnv(patch_size=SIZE), 5) for _ in range(2))
    np.testing.assert_array_equal(first["observations"], second["observations"])
    assert first["rewards"] == second["rewards"]
    other = play(BlockCodingEnv(patch_size=SIZE), 6)
    assert other["info"] != first["info"]


def test_options_choose_the_patch() -> None:
    from ambi_rl.data import list_photographs

    env = BlockCodingEnv(patch_size=SIZE)
    path = list_photographs(None)[-1]
    _, info = env.reset(seed=1, options={"photograph": path, "quality": 61.5, "position": (16, 24)})
    assert info == {"photograph": path.name, "quality": 61.5, "position": (16, 24)}
    with pytest.raises(
        ConfigError, match="no option 'qualty'; it has photograph, quality, position"
    ):
        env.reset(options={"qualty": 50})


def test_vector_equals_single() -> None:
    count = 4
    vector = BlockCodingVectorEnv(count, patch_size=SIZE)
    singles = [BlockCodingEnv(patch_size=SIZE) for _ in range(count)]
    observations, _ = vector.reset(seed=11)
    for index, env in enumerate(singles):
        single, _ = env.reset(seed=11 + index)
        np.testing.assert_array_equal(observations[index], single)
    rng = np.random.default_rng(0)
    finished = 0
    for _ in range(60):
        masks = vector.action_masks()
        actions = random_action(masks, vector.episodes.num_decisions, rng)
        observations, rewards, dones, truncated, infos = vector.step(actions)
        assert not truncated.any()
        for index, env in enumerate(singles):
            np.testing.assert_array_equal(masks[index], env.action_masks())
            single, reward, done, _, info = env.step(actions[index])
            assert rewards[index] == reward
            assert dones[index] == done
            assert infos["bits"][index] == info["bits"]
            assert infos["sse"][index] == info["sse"]
            if done:
                finished += 1
                summary = infos["final_info"]["episode_summary"][index]
                assert summary == info["episode_summary"]
                np.testing.assert_array_equal(infos["final_obs"][index], single)
                single, _ = env.reset()
            np.testing.assert_array_equal(observations[index], single)
    assert finished > 5


def test_masks_forbid_splitting_the_smallest() -> None:
    env = BlockCodingEnv(patch_size=SIZE)
    env.reset(seed=0)
    for size in (32, 16, 8, 4):
        masks = env.action_masks()
        assert env.episodes.process.node(0)[2] == size
        assert masks[0] == (size > 4)
        assert masks[1:].all()
        assert masks.shape == (env.action_space.nvec.sum(),)
        if size > 4:
            env.step(np.array([0, 0]))
    # An invalid split is coded as a leaf, and so moves on.
    before = env.episodes.process.node(0)
    env.step(np.array([0, 0]))
    assert env.episodes.process.taken[0] > 0
    assert env.episodes.process.node(0) != before


def test_actions_outside_the_space_are_refused() -> None:
    env = BlockCodingEnv(patch_size=SIZE)
    env.reset(seed=0)
    for action in ([-1, 0], [999, 0], [1, 99]):
        with pytest.raises(UsageError, match="outside MultiDiscrete"):
            env.step(np.array(action))


def test_rewards_add_up_to_j() -> None:
    env = BlockCodingEnv(patch_size=SIZE)
    record = play(env, 3, {"quality": 90})
    summary = record["last"]["episode_summary"]
    assert sum(record["rewards"]) == pytest.approx(summary["return"])
    assert summary["return"] == pytest.approx(-(summary["terms"]["rate"] + summary["terms"]["sse"]))
    assert summary["bits"] == env.episodes.process.total_cost(0) / 65536
    error = env.episodes.original(0).astype(int) - env.episodes.decoded(0)
    # The codec's measure is near the mean over R, G and B: colours are neither rounded nor clipped in it.
    assert summary["sse"] == pytest.approx((error**2).sum() / 3, rel=0.4)


def test_weights_move_the_reward() -> None:
    returns = {}
    for name, weights in {
        "plain": {"rate": 1.0, "sse": 1.0},
        "rate": {"rate": 2.0, "sse": 1.0},
        "ssim": {"rate": 1.0, "sse": 1.0, "ssim": 1.0},
        "ms_ssim": {"rate": 1.0, "sse": 1.0, "ms_ssim": 1.0},
    }.items():
        record = play(BlockCodingEnv(patch_size=SIZE, weights=weights), 3)
        summary = record["last"]["episode_summary"]
        assert sum(record["rewards"]) == pytest.approx(summary["return"])
        returns[name] = summary
    terms = returns["plain"]["terms"]
    assert returns["rate"]["return"] == pytest.approx(returns["plain"]["return"] - terms["rate"])
    for name in ("ssim", "ms_ssim"):
        extra = returns[name]["terms"][name]
        assert extra > 0
        assert returns[name]["return"] == pytest.approx(returns["plain"]["return"] - extra)


@pytest.mark.parametrize("name", ["fixed", "policy"])
def test_an_episode_costs_what_the_encoder_spends(
    name: str, random_policy: Callable[[Bundle], Bundle]
) -> None:
    bundle = default_bundle()
    if name == "policy":
        bundle = random_policy(bundle)
    env = BlockCodingEnv(patch_size=64, bundle=bundle)
    env.reset(seed=2)
    patch = env.episodes.patches[0]
    assert patch is not None
    frame = encode_frame(patch.planes, patch.step, bundle, by_name(name))
    neutral = bundle.offsets.index(0)
    info: dict[str, Any] = {}
    for action in decision_sequence(frame.decisions, 64, 64, neutral):
        _, _, done, _, info = env.step(action.astype(np.int64))
    assert done
    process = env.episodes.process
    assert process.total_cost(0) == frame.cost
    np.testing.assert_array_equal(process.reconstruction(0), frame.planes)
    assert process.decisions(0) == frame.decisions
    assert info["episode_summary"]["bits"] == frame.cost / 65536
    assert info["episode_summary"]["sse"] == pytest.approx(frame.error, rel=1e-12)


def test_search_decisions_replay_exactly() -> None:
    bundle = default_bundle()
    env = BlockCodingEnv(patch_size=64)
    env.reset(seed=4)
    patch = env.episodes.patches[0]
    assert patch is not None
    search = Strategist("search", candidates=2)
    frame = encode_frame(patch.planes, patch.step, bundle, search)
    leaves = {(d.y, d.x): d for d in frame.decisions}
    process = BlockCodingBatch(1, 64, 64, bundle, threads=1)
    process.load(0, patch.planes, patch.step)
    for decision, offset in decision_sequence(frame.decisions, 64, 64, bundle.offsets.index(0)):
        y, x, _ = process.node(0)
        leaf = leaves[y, x]
        process.step(
            np.array([decision]),
            np.array([offset]),
            np.array([leaf.chroma]),
            np.array([leaf.transform]),
        )
    assert process.done[0]
    assert process.total_cost(0) == frame.cost
    np.testing.assert_array_equal(process.reconstruction(0), frame.planes)


def test_estimated_rate_follows_the_models() -> None:
    bits = {}
    for rate in ("model", "estimate"):
        env = BlockCodingVectorEnv(16, patch_size=64, rate=rate)
        env.reset(seed=11)
        counters = env.episodes.process.counters(0)
        rng = np.random.default_rng(5)
        taken = []
        for _ in range(40):
            split = rng.random(16) < 0.5
            actions = np.stack([np.where(split, 0, rng.integers(1, 36, 16)), np.full(16, 2)], 1)
            taken.append(env.step(actions)[4]["bits"])
        bits[rate] = np.array(taken)
        adapted = not np.array_equal(env.episodes.process.counters(0), counters)
        assert adapted == (rate == "model")
        env.close()
    assert np.corrcoef(bits["model"].ravel(), bits["estimate"].ravel())[0, 1] > 0.99
    assert bits["estimate"].sum() == pytest.approx(bits["model"].sum(), rel=0.1)


def test_advice_is_what_the_search_decides_and_changes_nothing() -> None:
    bundle = default_bundle()
    env = BlockCodingEnv(patch_size=64)
    env.reset(seed=4)
    patch = env.episodes.patches[0]
    assert patch is not None
    search = for_search(5)
    frame = encode_frame(patch.planes, patch.step, bundle, search)
    plain, asked = (BlockCodingBatch(1, 64, 64, bundle, threads=1) for _ in range(2))
    for process in (plain, asked):
        process.load(0, patch.planes, patch.step)
    agreed = []
    for decision, offset in decision_sequence(frame.decisions, 64, 64, bundle.offsets.index(0)):
        advice = asked.advise(search)
        agreed.append((advice[0][0], advice[1][0]) == (decision, offset))
        for process in (plain, asked):
            process.step(np.array([decision]), np.array([offset]))
        assert asked.total_cost(0) == plain.total_cost(0)
    np.testing.assert_array_equal(asked.reconstruction(0), plain.reconstruction(0))
    assert asked.decisions(0) == plain.decisions(0)
    # The first superblock is searched from the same state; later nodes from a state that coding has changed.
    assert agreed[0]
    assert np.mean(agreed) > 0.9
    with pytest.raises(UsageError, match="only a search"):
        asked.advise(by_name("policy"))


@pytest.mark.parametrize("size", [16, 36, 48])
def test_patches_need_not_be_whole_superblocks(size: int) -> None:
    record = play(BlockCodingEnv(patch_size=size), 1)
    assert record["last"]["episode_summary"]["bits"] > 0


def test_render_draws_three_pictures() -> None:
    env = BlockCodingEnv(patch_size=SIZE, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(np.array([1, 0]))
    second = env.render()
    assert first is not None
    assert second is not None
    assert first.dtype == np.uint8
    assert first.shape == second.shape
    assert first.shape[1] > 3 * first.shape[0] * 0.9
    assert (first != second).any()
    assert BlockCodingEnv(patch_size=SIZE).render() is None


def test_sb3_vec_env_conventions() -> None:
    env = BlockCodingVecEnv(BlockCodingVectorEnv(3, patch_size=SIZE))
    env.seed(7)
    first = env.reset()
    env.seed(7)
    np.testing.assert_array_equal(first, env.reset())
    assert env.has_attr("action_masks")
    assert not env.has_attr("nothing_of_this_name")
    assert len(env.env_method("action_masks")) == 3
    assert len(env.env_method("action_masks", indices=[1])) == 1
    rng = np.random.default_rng(0)
    ended = False
    for _ in range(40):
        masks = np.stack(env.env_method("action_masks"))
        actions = random_action(masks, env.vector.episodes.num_decisions, rng)
        observations, rewards, dones, infos = env.step(actions)
        assert rewards.dtype == np.float32
        for index in np.flatnonzero(dones):
            ended = True
            info = infos[index]
            assert info["terminal_observation"].shape == observations[index].shape
            assert info["episode"]["r"] == info["episode_summary"]["return"]
        assert all(infos[index] == {} for index in np.flatnonzero(~dones))
    assert ended


def test_later_episodes_use_the_new_bundle() -> None:
    from ambi_rl.codec.entropy.model import untrained

    env = BlockCodingEnv(patch_size=SIZE)
    trained = play(env, 1)["last"]["episode_summary"]["bits"]
    other = replace(default_bundle(), entropy=untrained())
    env.episodes.set_bundle(other)
    bits = play(env, 1)["last"]["episode_summary"]["bits"]
    assert bits != trained
    fresh = BlockCodingEnv(patch_size=SIZE, bundle=other)
    assert play(fresh, 1)["last"]["episode_summary"]["bits"] == bits
    strategies = list(reversed(default_bundle().strategies))
    manifest = other.manifest | {"strategies": strategies}
    with pytest.raises(UsageError, match="other strategies"):
        env.episodes.set_bundle(replace(other, manifest=manifest))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 30}, "patch_size is 30"),
        ({"render_mode": "human"}, "render_mode is 'human'"),
        ({"photographs": "/nowhere/at/all"}, "does not exist"),
        ({"weights": {"rate": -1}}, "reward.rate"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BlockCodingEnv(**arguments)


def test_unknown_rate_is_refused() -> None:
    with pytest.raises(UsageError, match="rate is 'exact'"):
        BlockCodingEnv(rate="exact")
