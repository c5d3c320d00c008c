"""Environments of pictures, Breakout's objects and scripted player, and test sets made in advance."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium import spaces
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack, VecTransposeImage

from ambi_rl.envs.atari import ImageEnvSettings, game_of, make_vec_env
from ambi_rl.envs.breakout import (
    BreakoutObjects,
    ScriptedPlayer,
    find_all,
    find_objects,
    frame_objects,
    object_errors,
)
from ambi_rl.envs.frames import preprocess_frame
from ambi_rl.envs.players import Player, RandomPlayer, collect_play, discounted_returns, make_player
from ambi_rl.errors import (
    AmbiError,
    ConfigError,
    CorruptFileError,
    UnsupportedImageError,
    UsageError,
)
from ambi_rl.training.test_set import (
    TestSet,
    default_policies,
    frame_hashes,
    load_test_set,
    make_test_set,
    shared_test_set,
)

BREAKOUT = ImageEnvSettings(num_envs=2)
MODES = {"render_modes": ["rgb_array"], "render_fps": 30}
NO_MODES: dict[str, Any] = {"render_modes": []}


class Lights(gymnasium.Env[Any, Any]):
    """A picture whose brightness is the step; the reward is 5 for action 1."""

    metadata = MODES

    def __init__(
        self, shape: tuple[int, ...] = (40, 60, 3), render_mode: str | None = None
    ) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space: spaces.Space[Any] = spaces.Discrete(2)
        self.render_mode = render_mode
        self.steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self.picture(), {}

    def step(self, action: int) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.picture(), 5.0 * (action == 1), self.steps == 6, False, {}

    def picture(self) -> npt.NDArray[np.uint8]:
        return np.full(self.observation_space.shape or (), 10 * self.steps, np.uint8)


class Hidden(Lights):
    """Its observation is a number; it renders the picture."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def picture(self) -> Any:
        return np.zeros(1, np.float32)

    def render(self) -> Any:
        return np.full((30, 30, 3), 10 * self.steps, np.uint8)


class Unseen(Hidden):
    metadata = NO_MODES


class Dictionary(Lights):
    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self.action_space = spaces.Dict({"a": spaces.Discrete(2)})


@pytest.fixture
def environments() -> Iterator[None]:
    classes: dict[str, Callable[..., Any]] = {
        "Lights": Lights,
        "Hidden": Hidden,
        "Unseen": Unseen,
        "Dictionary": Dictionary,
    }
    for name, kind in classes.items():
        gymnasium.register(f"ambi_test/{name}-v0", entry_point=kind)
    yield
    for name in classes:
        del gymnasium.registry[f"ambi_test/{name}-v0"]


def image_settings(name: str, **changes: Any) -> ImageEnvSettings:
    settings = ImageEnvSettings(id=f"ambi_test/{name}-v0", num_envs=2, preprocessing="image")
    return replace(settings, **changes)


def play(player: Player, env: Any, steps: int) -> Iterator[tuple[Any, Any, Any, Any]]:
    env.reset()
    for _ in range(steps):
        yield env.step(player.act())


# The environments


def test_training_is_to_the_pixel_what_stable_baselines3_makes() -> None:
    ours = make_vec_env(BREAKOUT, seed=11, training=True)
    atari = make_atari_env(BREAKOUT.id, n_envs=2, seed=11)
    theirs: Any = VecTransposeImage(VecFrameStack(atari, 4))
    assert ours.observation_space == theirs.observation_space
    assert np.array_equal(ours.reset(), theirs.reset())
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(200):
        actions = rng.integers(4, size=2)
        mine, other = ours.step(actions), theirs.step(actions)
        for one, two in zip(mine[:3], other[:3], strict=True):
            assert np.array_equal(one, two)
        ended += int(mine[2].sum())
    assert ended > 3, "no lost life was compared"


@pytest.mark.parametrize("name", ["ALE/Breakout-v5", "Breakout-v4"])
def test_no_id_skips_frames_twice_or_repeats_actions(name: str) -> None:
    plain = make_vec_env(replace(BREAKOUT, num_envs=1), seed=2, training=True)
    other = make_vec_env(replace(BREAKOUT, num_envs=1, id=name), seed=2, training=True)
    assert np.array_equal(plain.reset(), other.reset())
    actions = np.random.default_rng(1).integers(4, size=40)
    for action in actions:
        assert np.array_equal(plain.step([action])[0], other.step([action])[0])
    assert game_of(name) == "breakout"


def test_observations_are_stacked_with_the_newest_frame_last() -> None:
    env = make_vec_env(BREAKOUT, seed=1, training=True)
    player = RandomPlayer(env, seed=1)
    before = env.reset()
    assert before.shape == (2, 4, 84, 84)
    assert before.dtype == np.uint8
    after, _, dones, _ = env.step(player.act())
    assert not dones.any()
    assert np.array_equal(after[:, :-1], before[:, 1:])
    assert not np.array_equal(after[:, -1], after[:, -2])


def test_an_episode_of_an_evaluation_is_a_whole_game_with_its_score() -> None:
    env = make_vec_env(replace(BREAKOUT, id="SeaquestNoFrameskip-v4"), seed=3, training=False)
    totals = np.zeros(2)
    scores, wrong = [], []
    for _, rewards, dones, infos in play(RandomPlayer(env, seed=3), env, 500):
        totals += rewards
        for index in np.flatnonzero(dones):
            scores.append(infos[index]["episode"]["r"])
            wrong.append(totals[index] - scores[-1])
            totals[index] = 0
            assert infos[index]["lives"] == 0
    assert len(scores) >= 2
    assert max(scores) >= 20, "rewards of 20 were clipped"
    assert not any(wrong)


def test_lives_and_clipped_rewards_in_training_but_true_scores_in_infos() -> None:
    env = make_vec_env(replace(BREAKOUT, id="SeaquestNoFrameskip-v4"), seed=3, training=True)
    episodes, scores, kinds = 0, [], set()
    for _, rewards, dones, infos in play(RandomPlayer(env, seed=3), env, 500):
        kinds |= set(rewards.tolist())
        episodes += int(dones.sum())
        scores += [info["episode"]["r"] for info in infos if "episode" in info]
    assert kinds == {0.0, 1.0}
    assert episodes > 2 * len(scores) > 0
    assert max(scores) >= 20


def test_an_evaluation_fires_the_next_ball_by_itself() -> None:
    env = make_vec_env(replace(BREAKOUT, num_envs=1), seed=4, training=False)
    env.reset()
    lives = []
    for _ in range(400):
        _, _, dones, infos = env.step([0])
        lives.append(infos[0]["lives"])
        if dones[0]:
            break
    assert dones[0], "the game stood still after a lost ball"
    assert sorted(set(lives), reverse=True) == [5, 4, 3, 2, 1, 0]


def test_repeated_actions_are_the_settings_choice() -> None:
    always = replace(BREAKOUT, num_envs=1, repeat_action_probability=1.0)
    env = make_vec_env(always, seed=4, training=False)
    env.reset()
    before = env.env_method("memory")[0][1].paddle_x
    for _ in range(5):
        env.step([2])
    assert env.env_method("memory")[0][1].paddle_x == before


def test_any_environment_of_pictures_is_gray_and_resized_and_no_more(environments: None) -> None:
    env = make_vec_env(image_settings("Lights", size=20), seed=1, training=True)
    seen = env.reset()
    assert seen.shape == (2, 4, 20, 20)
    for step in range(1, 6):
        seen, rewards, dones, _ = env.step([1, 0])
        assert np.unique(seen[:, -1]).tolist() == [10 * step]
        assert rewards.tolist() == [1, 0], "clipped"
        assert not dones.any()
    _, _, dones, infos = env.step([1, 0])
    assert dones.all()
    assert [info["episode"]["r"] for info in infos] == [30, 0]
    evaluation = make_vec_env(image_settings("Lights", frame_stack=1), seed=1, training=False)
    assert evaluation.reset().shape == (2, 1, 84, 84)
    assert evaluation.step([1, 0])[1].tolist() == [5, 0]


def test_what_has_no_picture_is_seen_as_it_is_rendered(environments: None) -> None:
    env = make_vec_env(image_settings("Hidden"), seed=1, training=True)
    assert np.unique(env.reset()[:, -1]).tolist() == [0]
    assert np.unique(env.step([0, 0])[0][:, -1]).tolist() == [10]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (ImageEnvSettings(id="BreakoutNoFrameskp-v4"), "did you mean BreakoutNoFrameskip-v4"),
        (ImageEnvSettings(id="no_such_module:Thing-v0"), "cannot be imported"),
        (ImageEnvSettings(id="CartPole-v1"), "set preprocessing=image"),
        (image_settings("Unseen"), "Box of shape [1] of float32, not a picture"),
        (image_settings("Dictionary"), "its action space is a Dict, which PPO cannot take"),
    ],
)
def test_environments_that_cannot_work_are_refused(
    settings: ImageEnvSettings, message: str, environments: None
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_vec_env(settings, seed=1, training=True)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "num_envs=0 is out of range; give 1 to"),
        ({"size": 4}, "size=4 is out of range"),
        ({"repeat_action_probability": float("nan")}, "repeat_action_probability=nan"),
        ({"preprocessing": "none"}, "give one of atari, image"),
        ({"preprocessing": "image", "frame_skip": 2}, "frame_skip is for preprocessing=atari only"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageEnvSettings(**changes)


@pytest.mark.parametrize("module", ["ale_py", "cv2"])
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r'not installed: pip install "ambi-rl\[atari\]"$'):
        make_vec_env(BREAKOUT, seed=1, training=True)


def test_importing_the_environments_imports_neither_the_emulator_nor_torch() -> None:
    code = "import sys, ambi_rl.envs; print(*{'ale_py', 'cv2', 'torch'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not result.stdout.strip()


def test_a_screenshot_becomes_the_frame_the_agent_sees() -> None:
    env = make_vec_env(replace(BREAKOUT, num_envs=1, frame_skip=1), seed=6, training=False)
    player = RandomPlayer(env, seed=6)
    for observations, _, _, _ in play(player, env, 30):
        screen = env.env_method("render")[0]
        assert screen.shape == (210, 160, 3)
        assert np.array_equal(preprocess_frame(screen), observations[0, -1])
    gray = screen[:, :, 0]
    assert np.array_equal(preprocess_frame(gray), preprocess_frame(gray[:, :, None]))
    for wrong in (screen.astype(np.float32), screen[None], np.zeros((5, 0), np.uint8)):
        with pytest.raises(UnsupportedImageError, match="has to be uint8"):
            preprocess_frame(wrong)


# Breakout's objects


@pytest.fixture(scope="module")
def breakout_play() -> tuple[npt.NDArray[np.uint8], list[BreakoutObjects]]:
    """Frames of a good player, and where the console's memory has ball and paddle."""
    env = make_vec_env(BREAKOUT, seed=8, training=False)
    frames: list[npt.NDArray[np.uint8]] = []
    objects: list[BreakoutObjects] = []
    player = ScriptedPlayer(env, noise=0.1, seed=8)
    for step, (observations, _, _, _) in enumerate(play(player, env, 720)):
        if step % 2:
            frames.extend(observations[:, -1])
            objects.extend(frame_objects(states) for states in env.env_method("memory"))
    return np.array(frames), objects


Played = tuple[npt.NDArray[np.uint8], list[BreakoutObjects]]


def test_the_detector_finds_what_the_memory_says(breakout_play: Played) -> None:
    frames, objects = breakout_play
    balls, paddles = find_all(frames)
    true = np.array([found.ball or (np.nan, np.nan) for found in objects])
    true_paddles = np.array([found.paddle_x for found in objects])
    flying = (true[:, 0] > 39) & (true[:, 0] < 73)
    between_bricks = (true[:, 0] > 22) & (true[:, 0] < 38)
    distances = np.hypot(*(balls - true).T)
    assert flying.sum() > 300
    assert not np.isnan(distances[flying]).any()
    assert distances[flying].mean() < 0.15
    assert distances[flying].max() < 1
    assert between_bricks.sum() > 20
    assert (distances[between_bricks] < 1).mean() > 0.9
    assert np.abs(paddles - true_paddles).mean() < 0.15
    one = find_objects(frames[0])
    assert one.ball == tuple(balls[0])
    assert one.paddle_x == paddles[0]


def test_no_ball_is_found_where_none_flies() -> None:
    waiting = gymnasium.make(BREAKOUT.id, frameskip=1)
    screens = [waiting.reset(seed=1)[0]] + [waiting.step(2 + k % 2)[0] for k in range(20)]
    balls, paddles = find_all(np.array([preprocess_frame(screen) for screen in screens]))
    assert np.isnan(balls).all()
    assert not np.isnan(paddles).any()
    empty = find_objects(np.zeros((84, 84), np.uint8))
    assert empty == BreakoutObjects(None, None)


def test_errors_of_blurred_moved_and_empty_reconstructions(breakout_play: Played) -> None:
    frames = breakout_play[0][::2]
    same = object_errors(frames, frames)
    assert same["ball_found"] == same["ball_hit"] == same["paddle_found"] == 1
    assert same["ball_error_mean"] == same["paddle_error_95"] == 0
    assert same["ball_frames"] > 0.9 * same["frames"]
    blurred = object_errors(frames, np.array([cv2.GaussianBlur(f, (0, 0), 1) for f in frames]))
    assert blurred["ball_hit"] > 0.9
    assert blurred["ball_error_median"] < 0.3
    noise = np.random.default_rng(0).normal(0, 4, frames.shape)
    noisy = object_errors(frames, np.clip(frames + noise, 0, 255).astype(np.uint8))
    assert noisy["ball_hit"] > 0.98
    moved = frames.copy()
    moved[:, 39:72, 6:78] = np.roll(frames, 2, axis=1)[:, 39:72, 6:78]
    assert object_errors(frames, moved)["ball_error_95"] == pytest.approx(2, abs=0.2)
    # A decoder that shows the mean of all frames has the walls and neither ball nor paddle.
    average = np.broadcast_to(frames.mean(axis=0).astype(np.uint8), frames.shape)
    lost = object_errors(frames, np.ascontiguousarray(average))
    assert lost["ball_found"] < 0.05
    assert lost["paddle_error_mean"] > 5
    alarms = object_errors(np.ascontiguousarray(average), frames)
    assert alarms["ball_false_alarms"] > 0.9
    assert np.isnan(alarms["ball_error_mean"])
    with pytest.raises(UsageError, match="do not match"):
        object_errors(frames, frames[1:])
    with pytest.raises(UsageError, match="uint8"):
        find_all(frames[:, 1:])


# Players


def lost_and_won(env: Any, player: Player, steps: int) -> tuple[float, int]:
    """Points and lost balls in as many steps."""
    points, lost, lives = 0.0, 0, None
    for _, rewards, _, infos in play(player, env, steps):
        now = np.array([info["lives"] for info in infos])
        lost += 0 if lives is None else int((now < lives).sum())
        lives = now
        points += float(rewards.sum())
    return points, lost


def test_the_scripted_player_plays_far_better_than_a_random_one() -> None:
    env = make_vec_env(BREAKOUT, seed=5, training=False)
    scripted, its_lost = lost_and_won(env, ScriptedPlayer(env, seed=5), 600)
    random, their_lost = lost_and_won(env, RandomPlayer(env, seed=5), 600)
    noisy, noisy_lost = lost_and_won(env, ScriptedPlayer(env, noise=1.0, seed=5), 600)
    assert scripted > 2 * max(random, noisy)
    assert 5 * its_lost < min(their_lost, noisy_lost)


def test_the_sticky_player_holds_its_actions() -> None:
    env = make_vec_env(BREAKOUT, seed=5, training=False)
    player = make_player("sticky", env, seed=1)
    actions = np.array([player.act() for _ in range(800)])
    # A new action is the old one in a quarter of the cases.
    assert 0.89 < (actions[1:] == actions[:-1]).mean() < 0.96
    assert set(np.unique(actions)) == {0, 1, 2, 3}


def test_players_are_refused_that_do_not_know_the_game() -> None:
    env = make_vec_env(replace(BREAKOUT, id="PongNoFrameskip-v4"), seed=1, training=False)
    with pytest.raises(UsageError, match="plays Breakout only"):
        make_player("scripted", env, seed=1)
    with pytest.raises(UsageError, match="no player 'best'; take one of random"):
        make_player("best", env, seed=1)


def test_returns_are_discounted_to_the_end_of_the_episode() -> None:
    rewards = np.array([[1.0], [0.0], [1.0], [4.0]], np.float32)
    dones = np.array([[False], [False], [True], [False]])
    assert discounted_returns(rewards, dones, 0.5).ravel().tolist() == [1.25, 0.5, 1.0, 4.0]


def test_play_is_collected_without_what_is_excluded() -> None:
    env = make_vec_env(BREAKOUT, seed=9, training=True)
    whole = collect_play(env, ScriptedPlayer(env, seed=9), 80, gamma=0.9, every=3)
    assert whole.observations.shape == (80, 4, 84, 84)
    assert whole.actions.shape == whole.returns.shape == (80,)
    assert whole.excluded == 0
    assert set(whole.actions.tolist()) <= {0, 1, 2, 3}
    # Some ball hits a brick: its return is known although it was won after the last sample.
    assert whole.returns.max() > 0.3
    test_set = TestSet(
        whole.observations[10:40], frame_hashes(whole.observations[10:40, -1]), ["random"] * 30, {}
    )
    env = make_vec_env(BREAKOUT, seed=9, training=True)
    player = ScriptedPlayer(env, seed=9)
    rest = collect_play(env, player, 80, gamma=0.9, every=3, exclude=test_set.contains)
    assert rest.excluded >= 30
    assert len(rest.observations) == len(rest.actions) == len(rest.returns) == 80 - rest.excluded
    assert not test_set.contains(rest.observations[:, -1]).any()
    kept = ~test_set.contains(whole.observations[:, -1])
    assert np.array_equal(rest.observations, whole.observations[kept])
    assert np.array_equal(rest.returns, whole.returns[kept])


# Test sets


POLICIES = {"random": 0.25, "scripted": 0.75}


def small_test_set(seed: int = 1, **changes: Any) -> TestSet:
    settings = replace(BREAKOUT, **changes)
    return make_test_set(settings, frames=24, seed=seed, policies=POLICIES, gap=3)


@pytest.fixture(scope="module")
def test_set() -> TestSet:
    return small_test_set()


def test_a_test_set_is_made_by_its_seed_alone(test_set: TestSet) -> None:
    again = small_test_set(num_envs=2, clip_reward=False)
    other = small_test_set(seed=2)
    assert np.array_equal(again.observations, test_set.observations)
    assert again.facts == test_set.facts
    # Games that begin alike may share some of their first frames.
    assert len(set(other.hashes) & set(test_set.hashes)) < 12


def test_a_test_set_has_different_frames_of_each_player(test_set: TestSet) -> None:
    assert test_set.observations.shape == (24, 4, 84, 84)
    assert len(set(test_set.hashes)) == 24
    assert test_set.hashes == frame_hashes(test_set.frames)
    assert test_set.players == ["random"] * 6 + ["scripted"] * 18
    assert test_set.facts["players"]["scripted"]["frames"] == 18
    # An environment is asked about every third step.
    assert 18 * 1.5 < test_set.facts["players"]["scripted"]["steps"] < 18 * 6


def test_contains_tells_frames_apart_by_every_pixel(test_set: TestSet) -> None:
    frames = test_set.frames.copy()
    assert test_set.contains(frames).all()
    frames[::2, 83, 83] ^= 1
    assert test_set.contains(frames).tolist() == [False, True] * 12
    # The order of pixels counts, which a sum of them would not notice.
    assert not test_set.contains(test_set.frames[:, ::-1]).any()
    assert test_set.contains(frames[:0]).shape == (0,)
    with pytest.raises(UsageError, match="uint8 \\[84, 84\\]"):
        test_set.contains(frames[:, :-1])


def test_contains_works_for_sizes_that_are_no_multiple_of_eight() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 1, 9, 9), np.uint8)
    test_set = TestSet(frames, frame_hashes(frames[:, -1]), ["random"] * 5, {})
    changed = frames[:, -1].copy()
    changed[2, 8, 8] ^= 1
    assert test_set.contains(changed).tolist() == [True, True, False, True, True]


def test_runs_share_the_test_set_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    arguments: dict[str, Any] = {"frames": 9, "seed": 1, "policies": {"sticky": 1.0}, "gap": 2}
    made = shared_test_set(path, BREAKOUT, **arguments)
    found = shared_test_set(path, replace(BREAKOUT, num_envs=1), **arguments)
    assert np.array_equal(made.observations, found.observations)
    assert made.hashes == found.hashes
    assert made.players == found.players
    assert made.facts == found.facts
    with pytest.raises(UsageError, match="does not exist; create it first"):
        shared_test_set(tmp_path / "none" / "test.npz", BREAKOUT, **arguments)
    with pytest.raises(ConfigError, match=r"made with seed=1, not 2"):
        shared_test_set(path, BREAKOUT, **{**arguments, "seed": 2})
    with pytest.raises(ConfigError, match=r"made with noop_max=30, not 3"):
        shared_test_set(path, replace(BREAKOUT, noop_max=3), **arguments)


def test_a_damaged_file_is_no_test_set(test_set: TestSet, tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    test_set.save(path)
    good = path.read_bytes()
    for data in (b"", b"text", good[:200], good[:-30]):
        path.write_bytes(data)
        with pytest.raises(CorruptFileError, match="is damaged or no test set; remove it"):
            load_test_set(path)
    damaged, refused = [], 0
    for place in range(100, len(good), len(good) // 7):
        damaged.append(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        try:
            loaded = load_test_set(path)
        except CorruptFileError:
            refused += 1
            continue
        # Some bytes of the archive, as the times of its members, mean nothing.
        assert np.array_equal(loaded.observations, test_set.observations)
    assert refused > 3
    np.savez(path, observations=np.zeros((2, 4, 84, 84), np.uint8))
    with pytest.raises(CorruptFileError):
        load_test_set(path)


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ({"random": 0.5, "best": 0.5}, "no player 'best'; take some of random"),
        ({"random": 0.5, "sticky": 0.4}, "add up to 0.9, not to 1"),
        ({"random": 1.5, "sticky": -0.5}, "share 1.5 of 'random'"),
        ({}, "add up to 0, not to 1"),
    ],
)
def test_policy_mixes_that_make_no_sense_are_refused(
    policies: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_test_set(BREAKOUT, frames=10, seed=1, policies=policies)


def test_other_games_have_test_sets_of_random_players() -> None:
    pong = replace(BREAKOUT, id="PongNoFrameskip-v4")
    assert set(default_policies(pong)) == {"random", "sticky"}
    assert "scripted" in default_policies(BREAKOUT)
    made = make_test_set(pong, frames=9, seed=1, policies={"random": 1.0}, gap=2)
    assert len(set(made.hashes)) == 9
    with pytest.raises(ConfigError, match="'noisy' plays Breakout only"):
        make_test_set(pong, frames=9, seed=1, policies={"noisy": 1.0})


def test_too_few_different_frames_are_an_error_not_an_endless_loop(environments: None) -> None:
    with pytest.raises(AmbiError, match=r"only 6 different frames in .* 50 were asked for"):
        make_test_set(image_settings("Lights"), frames=50, seed=1, policies={"random": 1.0}, gap=1)
