from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

pytest.importorskip("stable_baselines3")

import torch
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from ambi_rl.bench.frame_codecs import (
    CodedFrames,
    FrameFormat,
    Frames,
    GridPoint,
    LatentFrames,
    MeanFrame,
    OriginalFrames,
    Preparation,
    Template,
    at_bytes,
    avif_format,
    jpeg_format,
    make_codec,
    mean_squared_error,
    measure_grid,
    webp_format,
)
from ambi_rl.bench.task import TaskScore, play, score_curve
from ambi_rl.errors import UsageError

SIDE = 84
CORNERS = ((20, 20), (20, 60), (60, 20), (60, 60))
ROUNDS = 12


class DotEnv(gymnasium.Env[Frames, Any]):
    """A dim picture with one bright dot; naming its corner gives a reward of 1."""

    observation_space = spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8)
    action_space = spaces.Discrete(4)

    def __init__(self, endless: bool = False) -> None:
        self._endless = endless
        self._corner = self._round = 0

    def _look(self) -> Frames:
        self._corner = int(self.np_random.integers(4))
        frame = np.full((1, SIDE, SIDE), 40, np.uint8)
        row, column = CORNERS[self._corner]
        frame[0, row : row + 3, column : column + 3] = 200
        return frame

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Frames, Any]:
        super().reset(seed=seed)
        self._round = 0
        return self._look(), {}

    def step(self, action: Any) -> tuple[Frames, float, bool, bool, Any]:
        reward = float(action == self._corner)
        self._round += 1
        # Episodes of different lengths.
        ends = not self._endless and self._round >= ROUNDS + self._corner
        return self._look(), reward, ends, False, {}


@dataclass
class DotAgent:
    """Names the corner that is brightest, and some corner where none is."""

    seen: list[Frames] = field(default_factory=list)

    def predict(self, observation: Frames, *, deterministic: bool = False) -> tuple[Any, None]:
        self.seen.append(observation.copy())
        newest = observation[:, -1]
        means = [newest[:, r : r + 3, c : c + 3].mean(axis=(1, 2)) for r, c in CORNERS]
        drawn = np.zeros(len(newest), np.int64) if deterministic else torch.randint(4, (1,)).numpy()
        brightest = np.argmax(means, axis=0)
        return np.where(np.ptp(means, axis=0) > 50, brightest, drawn), None


@dataclass(frozen=True)
class DotEraser:
    """Sends nothing at all: a receiver sees the mean of the frame, without the dot."""

    name: str = "eraser"

    def code(self, stacks: Frames) -> CodedFrames:
        means = np.median(stacks[:, -1], axis=(1, 2)).astype(np.uint8)
        frames = np.broadcast_to(means[:, None, None], stacks[:, -1].shape).copy()
        sizes = np.ones(len(frames))
        return CodedFrames(frames, sizes + 2, sizes)


@pytest.fixture
def dots() -> VecEnv:
    return make_dots()


def make_dots(count: int = 5, *, endless: bool = False) -> VecEnv:
    env = DummyVecEnv([lambda: DotEnv(endless)] * count)
    return VecFrameStack(env, 4, channels_order="first")


def game_frames(count: int = 24) -> Frames:
    """Frames with a still background and a dot that moves."""
    rng = np.random.default_rng(3)
    background = np.zeros((SIDE, SIDE), np.uint8)
    background[10:14] = 142
    background[22:36] = np.repeat(rng.integers(80, 150, (14, 14)), 6, axis=1)
    frames = np.repeat(background[None], count, axis=0)
    for frame, (row, column) in zip(frames, rng.integers(38, 76, (count, 2)), strict=True):
        frame[row : row + 3, column : column + 3] = 110
        frame[80:82, column - 6 : column + 6] = 180
    return frames


def play_dots(agent: DotAgent, env: VecEnv, codec: Any, *, cap: int = 100) -> TaskScore:
    return play(agent, env, codec, deterministic=True, max_steps=cap, seed=5)


def test_original_frames_give_the_score_and_stacks_of_play_without_a_codec(dots: VecEnv) -> None:
    agent = DotAgent()
    score = play_dots(agent, dots, OriginalFrames())

    plain = DotAgent()
    dots.seed(5)
    stacks = np.asarray(dots.reset())
    over, expected, lengths = np.zeros(5, bool), np.zeros(5), np.zeros(5, int)
    for seen in agent.seen:
        np.testing.assert_array_equal(seen, stacks[~over])
        actions = plain.predict(stacks, deterministic=True)[0]
        observed, rewards, dones, _ = dots.step(actions)
        stacks = np.asarray(observed)
        expected += np.where(over, 0, rewards)
        lengths += ~over
        over |= dones
    assert over.all()
    assert score.scores == tuple(expected)
    assert score.lengths == tuple(lengths)
    assert len(set(score.lengths)) > 1
    assert score.scores == tuple(map(float, lengths)), "the agent sees every dot"
    assert score.capped == 0
    assert (score.frames, score.whole, score.bare) == (sum(lengths), SIDE * SIDE, SIDE * SIDE)


def test_an_agent_scores_less_where_the_codec_erases_what_it_acts_on(dots: VecEnv) -> None:
    agent = DotAgent()
    original, erased = score_curve(
        agent, dots, [OriginalFrames(), DotEraser()], deterministic=True, max_steps=100, seed=5
    )
    assert erased.lengths == original.lengths, "episodes begin alike for all codecs"
    assert erased.mean < original.mean / 2
    mean, low, high = erased.difference(original)
    assert low < mean < high < 0
    assert (erased.whole, erased.bare) == (3, 1)
    with pytest.raises(ValueError, match="begin alike"):
        erased.difference(play(agent, dots, DotEraser(), deterministic=True, max_steps=9, seed=6))


def test_drawn_actions_are_the_same_for_the_same_seed(dots: VecEnv) -> None:
    def drawn(seed: int) -> tuple[float, ...]:
        agent, codec = DotAgent(), DotEraser()
        return play(agent, dots, codec, deterministic=False, max_steps=100, seed=seed).scores

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_agents_see_stacks_of_decoded_frames_only(dots: VecEnv) -> None:
    agent = DotAgent()
    play_dots(agent, dots, DotEraser())
    assert all(stack.max() == 40 for stack in agent.seen)
    first = agent.seen[0]
    assert not first[:, :-1].any()
    assert first[:, -1].all()


def test_endless_games_end_at_the_cap_and_say_so() -> None:
    score = play_dots(DotAgent(), make_dots(3, endless=True), OriginalFrames(), cap=7)
    assert score.capped == 3
    assert list(score.lengths) == [7] * 3
    assert list(score.scores) == [7] * 3
    assert score.frames == 21


def test_interval_covers_the_mean_and_a_record_is_kept_whole() -> None:
    scores = (1.0, 4.0, 2.0, 8.0, 5.0, 7.0)
    score = TaskScore("c", scores, (3,) * 6, 0, 9, False, 1, 18, 30.0, 20.0)
    low, high = score.interval
    assert low < score.mean == 4.5 < high
    assert score.standard_error == pytest.approx(np.std(scores, ddof=1) / 6**0.5)
    assert score.mean - 3 * score.standard_error < low
    assert TaskScore.from_json(score.to_json()) == score


FORMATS = [jpeg_format(), webp_format()]
if "AVIF" in Image.registered_extensions().values():
    FORMATS.append(avif_format())


@pytest.mark.parametrize("difference", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_bytes_are_those_of_real_files_and_frames_those_in_them(
    form: FrameFormat, difference: bool
) -> None:
    frames = game_frames(6)
    setting = form.settings[-1]
    point = GridPoint(setting, 2, difference, 0, 0, 0)
    codec = make_codec(form, point, frames)
    coded = codec.code(np.repeat(frames[:, None], 4, axis=1))
    preparation = Preparation(2, MeanFrame.of(frames).frame if difference else None)
    for index, frame in enumerate(frames):
        data = form.encode(preparation.apply(frame), setting)
        assert coded.whole[index] == len(data)
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == form.name.upper()
            assert image.size == (42, 42)
            shown = np.asarray(image.convert("L"))
        np.testing.assert_array_equal(coded.frames[index], preparation.undo(shown, SIDE, SIDE))
        rest = codec.template.strip(form.payload(data))
        assert rest is not None
        assert coded.bare[index] == len(rest)
        assert codec.template.restore(rest) == form.payload(data)
        assert form.payload(data) in data


def test_frames_are_means_of_areas_and_differences_come_back() -> None:
    frame = np.arange(36, dtype=np.uint8).reshape(6, 6)
    small = Preparation(3).apply(frame)
    expected = frame.reshape(2, 3, 2, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(small, expected)
    assert Preparation(3).undo(small, 6, 6).shape == (6, 6)

    background = np.full((6, 6), 100, np.uint8)
    difference = Preparation(1, background)
    picture = difference.apply(frame)
    assert picture[0, 0] == 28
    np.testing.assert_array_equal(difference.undo(picture, 6, 6), frame)
    far = np.full((6, 6), 255, np.uint8)
    np.testing.assert_array_equal(difference.undo(difference.apply(far), 6, 6), far - 28)


def test_mean_frame_is_sent_for_nothing() -> None:
    frames = np.array([10, 20, 33], np.uint8)[:, None, None] + np.zeros((1, SIDE, SIDE), np.uint8)
    coded = MeanFrame.of(frames).code(frames[:, None])
    assert (coded.frames == 21).all()
    assert coded.frames.shape == frames.shape
    assert not coded.whole.any()
    assert not coded.bare.any()


def test_payloads_of_jpeg_are_files_and_those_of_webp_lack_twenty_bytes() -> None:
    frame = game_frames(1)[0]
    jpeg = jpeg_format().encode(frame, {"quality": 30})
    assert jpeg_format().payload(jpeg) == jpeg
    webp = webp_format().encode(frame, {"quality": 30})
    # A chunk of odd length is followed by a byte that is not its own.
    assert len(webp) - len(webp_format().payload(webp)) in (20, 21)
    assert webp_format().payload(webp)[3:6] == b"\x9d\x01\x2a", "VP8's start code"


def test_what_files_have_in_common_is_counted_once_and_can_be_put_back() -> None:
    files = [b"HEADaXXzEND", b"HEADbXXyyEND", b"HEADcXXxxxEND"]
    template = Template.of(files)
    rests = [template.strip(data) for data in files]
    assert rests == [b"az", b"byy", b"cxxx"]
    assert [template.restore(rest) for rest in rests if rest is not None] == files
    assert template.strip(b"HEADdXXwEND") == b"dw"
    for other in (b"HEAPaXXzEND", b"HEADaXXzENT", b"HEADEND", b""):
        assert template.strip(other) is None
    with pytest.raises(UsageError, match="two of them"):
        Template.of(files[:1])


def test_equal_files_have_nothing_left() -> None:
    template = Template.of([b"same", b"same"])
    assert template.strip(b"same") == b""
    assert template.restore(b"") == b"same"
    assert template.strip(b"same and more") == b" and more"


def test_a_frame_whose_file_is_unlike_the_sample_counts_whole() -> None:
    form = jpeg_format()
    frames = game_frames(6)
    point = GridPoint({"quality": 30, "optimize": False}, 1, False, 0, 0, 0)
    codec = make_codec(form, point, frames)
    files = [form.encode(frame, point.setting) for frame in frames]
    # Tables and headers, over 300 bytes, are the same for every frame; a flat one has less than the sample.
    coded = codec.code(np.repeat(frames[:, None], 4, axis=1))
    assert all(coded.whole - coded.bare > 300)
    assert coded.bare.sum() == sum(map(len, files)) - 6 * (
        len(codec.template.head) + len(codec.template.tail)
    )
    flat = np.full((1, 4, SIDE, SIDE), 255, np.uint8)
    other = codec.code(flat)
    assert other.bare[0] == other.whole[0] == len(form.encode(flat[0, -1], point.setting))


@pytest.fixture(scope="module")
def grid() -> tuple[Frames, list[GridPoint]]:
    frames = game_frames()
    calls: list[tuple[int, int]] = []
    points = measure_grid(
        webp_format(), frames, shrinking=(1, 3, 6), report=lambda *made: calls.append(made)
    )
    assert calls[-1] == (len(points), len(points)) == (78, 78)
    return frames, points


@pytest.mark.parametrize("count", ["whole", "bare"])
def test_at_bytes_meets_targets_with_the_least_error(grid: Any, count: Any) -> None:
    frames, points = grid
    errors = []
    for target in (60, 90, 150, 250, 400):
        choice = at_bytes(points, target, count=count)
        if not choice.met:
            continue
        assert choice.point.bytes(count) <= target
        meeting = [point.mse for point in points if point.bytes(count) <= target]
        assert choice.point.mse == min(meeting)
        errors.append(choice.point.mse)
        # What the grid says is what the codec does.
        coded = make_codec(webp_format(), choice.point, frames).code(frames[:, None])
        assert getattr(coded, count).mean() == pytest.approx(choice.point.bytes(count))
        assert mean_squared_error(frames, coded.frames) == pytest.approx(choice.point.mse)
    assert len(errors) >= 4
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 4


def test_a_target_out_of_reach_gives_the_smallest_and_marks_it(grid: Any) -> None:
    _, points = grid
    choice = at_bytes(points, 1, count="whole")
    assert not choice.met
    assert choice.point.whole == min(point.whole for point in points) > 1


def test_latents_are_counted_by_their_stream() -> None:
    class Halves:
        def latents(self, stacks: Frames) -> Any:
            return (stacks[:, -1, ::42, ::42] // 2).astype(np.int32)[:, None]

        def reconstruct(self, latents: Any) -> Frames:
            return np.repeat(np.repeat(latents[:, 0] * 2, 42, 1), 42, 2).astype(np.uint8)

    def count(latents: Any) -> Any:
        bare = np.count_nonzero(latents, axis=(1, 2, 3)).astype(float)
        return bare + 9, bare

    stacks = np.full((2, 4, SIDE, SIDE), 91, np.uint8)
    stacks[0, :3] = 7
    stacks[1, -1] = 0
    coded = LatentFrames(Halves(), count).code(stacks)
    assert coded.frames.shape == (2, SIDE, SIDE)
    assert (coded.frames[0] == 90).all()
    assert not coded.frames[1].any()
    assert coded.bare.tolist() == [4, 0]
    assert coded.whole.tolist() == [13, 9]
