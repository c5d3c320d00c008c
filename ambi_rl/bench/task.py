"""What a codec of frames is worth to the task: an agent acts on decoded frames, and its score is kept.

The game goes on with its true frames; the agent never sees them. It sees stacks of its own, made of the
newest frame of each step after coding and decoding, and empty when an episode begins.

How episodes differ and yet are the same for all codecs: each environment plays one episode, which its seed
begins (with random steps of doing nothing, in games), and agents draw their actions. Environment i begins
alike for every codec, so that scores may be compared in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from ambi_rl.bench.frame_codecs import CodedFrames, FrameCodec, Frames

RESAMPLINGS = 10_000
"""Of a bootstrap."""


class Agent(Protocol):
    """Chooses actions; every model and policy of Stable-Baselines3 does."""

    def predict(
        self, observation: Any, *, deterministic: bool = False
    ) -> tuple[npt.NDArray[Any], Any]:
        """Actions [n, …] of observations uint8 [n, k, H, W], and a state that is not used here."""


@dataclass(frozen=True)
class TaskScore:
    """What an agent scored on the frames of a codec.

    Attributes:
        codec: The codec's name.
        scores: Of each episode, by environment.
        lengths: Of each episode, in steps of the environment.
        capped: How many episodes were ended by the cap on steps; they have the score that they had by then.
        max_steps: That cap.
        deterministic: Whether the agent took its likeliest action, or drew one.
        seed: Of the first environment, and of what the agent draws.
        frames: How many were coded.
        whole: Mean bytes of a frame's file.
        bare: Mean bytes of a frame without what all files have in common.
    """

    codec: str
    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    capped: int
    max_steps: int
    deterministic: bool
    seed: int
    frames: int
    whole: float
    bare: float

    @property
    def mean(self) -> float:
        """Mean score of an episode."""
        return float(np.mean(self.scores))

    @property
    def standard_error(self) -> float:
        """Of the mean; nan of a single episode."""
        count = len(self.scores)
        return float(np.std(self.scores, ddof=1) / np.sqrt(count)) if count > 1 else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """A 95 % bootstrap interval of the mean."""
        return bootstrap_interval(self.scores)

    def difference(self, reference: TaskScore) -> tuple[float, float, float]:
        """By how much it scores more than on another codec's frames, in episodes that begin alike.

        Returns:
            The mean and its 95 % bootstrap interval.

        Raises:
            ValueError: The other one has not as many episodes, or another seed.
        """
        if len(self.scores) != len(reference.scores) or self.seed != reference.seed:
            raise ValueError("episodes that do not begin alike make no pairs")
        differences = np.subtract(self.scores, reference.scores)
        return float(differences.mean()), *bootstrap_interval(differences)

    def to_json(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> TaskScore:
        """From what `to_json` gave."""
        lists = {name: tuple(record[name]) for name in ("scores", "lengths")}
        return cls(**{**record, **lists})


def bootstrap_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """95 % percentile interval of the mean of values; the same values always give the same."""
    samples = np.asarray(values, np.float64)
    rng = np.random.default_rng(0)
    means = rng.choice(samples, (RESAMPLINGS, len(samples))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


Report = Callable[[int, int, int], None]
"""Called after every step with its number, how many episodes are over, and how many there are."""


def play(
    policy: Agent,
    vec_env: VecEnv,
    codec: FrameCodec,
    *,
    deterministic: bool,
    max_steps: int,
    seed: int,
    report: Report | None = None,
) -> TaskScore:
    """Let an agent play one episode in each environment, acting on decoded frames.

    Args:
        policy: The agent.
        vec_env: Environments whose observations are stacks of frames, uint8 [k, H, W], the newest last, and
            whose rewards add up to the score.
        codec: What frames go through.
        deterministic: Take the agent's likeliest action instead of drawing one. Episodes differ little then.
        max_steps: End episodes after this many steps, 1 or more: there are games without end.
        seed: Of the first environment (the others have the next ones), and of the agent's draws.
        report: See `Report`.
    """
    set_random_seed(seed)
    vec_env.seed(seed)
    true_stacks = np.asarray(vec_env.reset())
    seen = np.zeros_like(true_stacks)
    scores, lengths = np.zeros(vec_env.num_envs), np.zeros(vec_env.num_envs, np.int64)
    active = np.ones(vec_env.num_envs, bool)
    sums, frames, capped = np.zeros(2), 0, 0
    for step in range(1, max_steps + 1):
        coded = codec.code(true_stacks[active])
        frames += len(coded.frames)
        sums += _sums(coded)
        seen[active] = _pushed(seen[active], coded.frames)
        chosen, _ = policy.predict(seen[active], deterministic=deterministic)
        observed, rewards, dones, _ = vec_env.step(_all_actions(vec_env, chosen, active))
        true_stacks = np.asarray(observed)
        scores[active] += rewards[active]
        lengths[active] += 1
        active &= ~dones
        if report is not None:
            report(step, int((~active).sum()), vec_env.num_envs)
        if not active.any():
            break
    else:
        capped = int(active.sum())
    return TaskScore(
        codec=codec.name,
        scores=tuple(map(float, scores)),
        lengths=tuple(map(int, lengths)),
        capped=capped,
        max_steps=max_steps,
        deterministic=deterministic,
        seed=seed,
        frames=frames,
        whole=float(sums[0] / frames),
        bare=float(sums[1] / frames),
    )


def _sums(coded: CodedFrames) -> npt.NDArray[np.float64]:
    return np.array([coded.whole.sum(), coded.bare.sum()])


def _pushed(stacks: Frames, frames: Frames) -> Frames:
    """Stacks [n, k, H, W] with frames [n, H, W] as their newest."""
    return np.concatenate([stacks[:, 1:], frames[:, None]], axis=1)


def _all_actions(
    vec_env: VecEnv, chosen: npt.NDArray[Any], active: npt.NDArray[np.bool_]
) -> npt.NDArray[Any]:
    """An action for each environment: where the episode is over already, the first of all actions."""
    actions = np.zeros((vec_env.num_envs, *chosen.shape[1:]), chosen.dtype)
    actions[active] = chosen
    return actions


def score_curve(
    policy: Agent,
    vec_env: VecEnv,
    codecs: Iterable[FrameCodec],
    *,
    deterministic: bool = False,
    max_steps: int,
    seed: int,
) -> list[TaskScore]:
    """Scores of an agent on the frames of several codecs, in episodes that begin alike; see `play`."""
    return [
        play(
            policy,
            vec_env,
            codec,
            deterministic=deterministic,
            max_steps=max_steps,
            seed=seed,
        )
        for codec in codecs
    ]
