"""Players that need no learning, and the play of theirs that an agent can begin from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs

from ambi_rl.envs.breakout import ScriptedPlayer
from ambi_rl.errors import UsageError

PLAYERS = ("random", "sticky", "scripted", "noisy")
"""What `make_player` makes: random actions; random ones held for a while; Breakout's scripted player; the
same with some random actions among its own, which loses balls and leaves other patterns of bricks."""
BREAKOUT_PLAYERS = ("scripted", "noisy")
"""Those that play Breakout only."""
_HELD = 0.9
"""Probability of the player `sticky` to repeat its last action."""
_NOISE = 0.2
"""Probability of the player `noisy` to take a random action."""

NEGLIGIBLE = 0.01
"""Rewards are followed for a return until they are discounted to less than this share."""

Excluded = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]]
"""Which of the frames uint8 [N, H, W] are not to be used: bool [N]."""


class Player(Protocol):
    """Chooses actions for the current states of the environments that it was made for."""

    def act(self) -> npt.NDArray[np.int64]:
        """An action for each environment, [num_envs, …] as its action space has them."""


class RandomPlayer:
    """Takes random actions.

    Args:
        env: Environments of any action space.
        repeat: Probability of an environment to get its last action again, 0…1. Held actions lead further
            than ever new ones do.
        seed: Of the actions.
    """

    def __init__(self, env: VecEnv, *, repeat: float = 0.0, seed: int = 0) -> None:
        self._space = env.action_space
        self._space.seed(seed)
        self._repeat = repeat
        self._rng = np.random.default_rng(seed)
        self._last = self._draw(env.num_envs)

    def act(self) -> npt.NDArray[np.int64]:
        """An action for each environment."""
        again = self._rng.random(len(self._last)) < self._repeat
        fresh = self._draw(len(self._last))
        self._last = np.where(again.reshape(-1, *[1] * (fresh.ndim - 1)), self._last, fresh)
        return self._last

    def _draw(self, count: int) -> npt.NDArray[np.int64]:
        return np.array([self._space.sample() for _ in range(count)])


def make_player(name: str, env: VecEnv, *, seed: int) -> Player:
    """Make the player of a name of `PLAYERS` for environments.

    Raises:
        UsageError: There is no such player, or it does not play their game.
    """
    if name == "random":
        return RandomPlayer(env, seed=seed)
    if name == "sticky":
        return RandomPlayer(env, repeat=_HELD, seed=seed)
    if name == "scripted":
        return ScriptedPlayer(env, seed=seed)
    if name == "noisy":
        return ScriptedPlayer(env, noise=_NOISE, seed=seed)
    raise UsageError(f"there is no player {name!r}; take one of {', '.join(PLAYERS)}")


@dataclass(frozen=True)
class Play:
    """What a player saw and did.

    Attributes:
        observations: uint8 [N, stack, H, W].
        actions: int64 [N].
        returns: float32 [N], discounted sums of the rewards that followed, to the end of the episode.
        excluded: Samples left out because their newest frame was excluded.
    """

    observations: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.int64]
    returns: npt.NDArray[np.float32]
    excluded: int


def collect_play(
    env: VecEnv,
    player: Player,
    steps: int,
    *,
    gamma: float = 0.99,
    every: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    exclude: Excluded | None = None,
) -> Play:
    """Let a player play and keep what it saw, did and got, for behaviour cloning.

    Play goes on after the last sample until its return is known but for less than `NEGLIGIBLE`. The
    environments are reset first; where lives are episodes, that does not end a game that is under way.

    Args:
        env: Environments with Discrete actions; rewards are taken as they give them, so those made for
            training have clipped ones.
        player: Made for them.
        steps: Steps to sample, over all environments together; rounded up to whole steps of all.
        gamma: Discount of rewards, 0…1 without 1.
        every: Steps of an environment from one sample to the next. More is more variety for the same memory:
            a sample of four 84x84 frames takes 28 kB.
        noise: Share of random actions that are taken in place of the player's, 0…1, which leads to where it
            would not come; samples have the player's own.
        seed: Of the random actions.
        exclude: Says which newest frames must not be used, for example `TestSet.contains`.

    Returns:
        `steps` samples or up to num_envs - 1 more, less those excluded; in order of time, the environments of
        a step next to each other.

    Raises:
        UsageError: The arguments are out of range, or actions are not Discrete.
    """
    if steps < 1 or every < 1 or not 0 <= gamma < 1:
        raise UsageError("steps and every have to be 1 or more, gamma from 0 to below 1")
    if not isinstance(env.action_space, spaces.Discrete):
        raise UsageError("play can be collected of environments with Discrete actions only")
    rounds = -(-steps // env.num_envs)
    shape = env.observation_space.shape or ()
    observations = np.empty((rounds, env.num_envs, *shape), np.uint8)
    actions = np.empty((rounds, env.num_envs), np.int64)
    rewards: list[npt.NDArray[np.float32]] = []
    dones: list[npt.NDArray[np.bool_]] = []
    horizon = 1 + int(np.ceil(np.log(NEGLIGIBLE) / np.log(gamma))) if gamma else 1
    rng = np.random.default_rng(seed)
    seen = _array(env.reset())
    for step in range((rounds - 1) * every + horizon):
        chosen = player.act()
        if step % every == 0 and step // every < rounds:
            observations[step // every] = seen
            actions[step // every] = chosen
        taken = np.where(rng.random(env.num_envs) < noise, _random(env, rng), chosen)
        following, reward, done, _ = env.step(taken)
        seen = _array(following)
        rewards.append(reward)
        dones.append(done)
    returns = discounted_returns(np.array(rewards), np.array(dones), gamma)[::every][:rounds]
    flat = observations.reshape(-1, *shape)
    keep = np.ones(len(flat), bool) if exclude is None else ~exclude(flat[:, -1])
    return Play(
        flat if keep.all() else flat[keep],
        actions.reshape(-1)[keep],
        returns.reshape(-1)[keep],
        int((~keep).sum()),
    )


def _array(observations: VecEnvObs) -> npt.NDArray[np.uint8]:
    """Observations of a space that is a Box, which Stable-Baselines3's types do not know."""
    assert isinstance(observations, np.ndarray)
    return observations


def _random(env: VecEnv, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Random actions of environments with Discrete ones."""
    assert isinstance(env.action_space, spaces.Discrete)
    first = int(env.action_space.start)
    return rng.integers(first, first + int(env.action_space.n), env.num_envs)


def discounted_returns(
    rewards: npt.NDArray[np.float32], dones: npt.NDArray[np.bool_], gamma: float
) -> npt.NDArray[np.float32]:
    """Discounted sums of the rewards from each step to the end of its episode.

    Args:
        rewards: float32 [T, B].
        dones: Whether the step ended an episode, bool [T, B].
        gamma: Discount.

    Returns:
        float32 [T, B].
    """
    returns = np.zeros(rewards.shape, np.float32)
    following = np.zeros(rewards.shape[1], np.float32)
    for step in reversed(range(len(rewards))):
        following = rewards[step] + gamma * following * ~dones[step]
        returns[step] = following
    return returns
