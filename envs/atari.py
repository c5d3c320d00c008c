"""Games and other environments of pictures as the vectorised environments that agents learn from.

Every observation is a stack of gray square frames, uint8 [stack, size, size], the newest last. Games of the
Arcade Learning Environment get Stable-Baselines3's own preprocessing, others are only made gray and resized.

When an episode is over (a whole game, however many lives it has), the info of its last step has the key
`episode`: `r`, its true score, neither clipped nor cut at a lost life; `l`, its length in steps of the
environment below, which for games are frames of the console; and `t`, seconds since the environment was made.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.wrappers import AddRenderObservation
from stable_baselines3.common.atari_wrappers import AtariWrapper, ClipRewardEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecTransposeImage,
)

from ambi_rl.envs.breakout import BreakoutMemory
from ambi_rl.envs.frames import (
    FRAME_SIZE,
    MAX_SIZE,
    MIN_SIZE,
    import_opencv,
    is_picture_shape,
    preprocess_frame,
)
from ambi_rl.errors import ConfigError, UsageError

__all__ = [
    "FRAME_SIZE",
    "PREPROCESSINGS",
    "ImageEnvSettings",
    "check_packages",
    "game_of",
    "make_vec_env",
    "preprocess_frame",
]

PREPROCESSINGS = ("atari", "image")
MAX_ENVS = 1024
MAX_STACK = 16
MAX_SKIP = 60
MAX_NOOPS = 1000

_ALE_ENTRY = "ale_py.env:AtariEnv"
_SUGGESTIONS = 3
_SPACES = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
"""Action spaces that PPO has a distribution for."""
_LOST_LIFE_ACTIONS = (0, 1, 2)
"""What Stable-Baselines3's wrappers do after a lost life: wait a step, fire, and the next action."""


@dataclass(frozen=True)
class ImageEnvSettings:
    """Which environment, how many of them, and what is done to its pictures, rewards and episodes.

    Attributes:
        id: Name of a Gymnasium environment; `module:name` imports the module that registers it first.
        num_envs: Environments that are stepped together.
        frame_stack: Frames in an observation.
        size: Pixels a side of a frame.
        preprocessing: "atari": Stable-Baselines3's `AtariWrapper`, for games of the Arcade Learning
            Environment. "image": nothing but gray frames of the size, for every environment whose observation
            is a picture; where it is none, the environment's rendered picture is taken.
        noop_max: A game begins with up to this many steps of doing nothing; 0 for none.
        frame_skip: Frames of the game that an action is held for; the frame seen is the brighter of the last
            two at each pixel. The emulator itself skips none, whatever the id says.
        episodic_life: Whether a lost life ends the episode, in training.
        clip_reward: Whether rewards are replaced by their sign, in training.
        repeat_action_probability: Chance of a frame to repeat the last action instead of the one asked for.
            It holds in place of the emulator's own, whatever the id says.

    `noop_max`, `frame_skip`, `episodic_life` and `repeat_action_probability` are for games only and are
    refused if they are changed for other environments.
    """

    id: str = "BreakoutNoFrameskip-v4"
    num_envs: int = 8
    frame_stack: int = 4
    size: int = FRAME_SIZE
    preprocessing: str = "atari"
    noop_max: int = 30
    frame_skip: int = 4
    episodic_life: bool = True
    clip_reward: bool = True
    repeat_action_probability: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("num_envs", 1, MAX_ENVS),
            ("frame_stack", 1, MAX_STACK),
            ("size", MIN_SIZE, MAX_SIZE),
            ("noop_max", 0, MAX_NOOPS),
            ("frame_skip", 1, MAX_SKIP),
            ("repeat_action_probability", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}={value} is out of range; give {low} to {high}")
        if self.preprocessing not in PREPROCESSINGS:
            raise ConfigError(
                f"preprocessing={self.preprocessing!r} is unknown; give one of "
                f"{', '.join(PREPROCESSINGS)}"
            )
        if self.preprocessing == "image":
            self._refuse_what_is_for_games()

    def _refuse_what_is_for_games(self) -> None:
        games_only = ("noop_max", "frame_skip", "episodic_life", "repeat_action_probability")
        for setting in fields(self):
            if setting.name in games_only and getattr(self, setting.name) != setting.default:
                raise ConfigError(
                    f"{setting.name} is for preprocessing=atari only; leave it at {setting.default}"
                )


def make_vec_env(settings: ImageEnvSettings, *, seed: int, training: bool) -> VecEnv:
    """Make the environments of `settings`, each with a seed of its own.

    All run in this process: with 8 environments of Breakout on 2 busy cores, a process for each made two
    thirds of the steps a second (docs/decisions.md).

    Args:
        settings: See there.
        seed: Seed of the first environment; the others have the next ones.
        training: Whether lives end episodes and rewards are clipped as the settings say. If not, an episode
            is a whole game and rewards are its score; after a lost life the next ball is fired as in
            training, where agents never have to do it.

    Returns:
        Observations uint8 [num_envs, frame_stack, size, size], the newest frame last. Of `env_method`, every
        environment of Breakout has `memory` (see `ambi_rl.envs.breakout`).

    Raises:
        ConfigError: There is no such environment, it cannot be made, or it does not fit the preprocessing.
        UsageError: A package is missing that it needs.
    """
    check_packages(settings)
    make = _make_game if settings.preprocessing == "atari" else _make_image
    makers: list[Callable[[], gymnasium.Env[Any, Any]]] = [
        partial(make, settings, training) for _ in range(settings.num_envs)
    ]
    env: VecEnv = DummyVecEnv(makers)
    env.seed(seed)
    env.action_space.seed(seed)
    if settings.frame_stack > 1:
        env = VecFrameStack(env, settings.frame_stack, channels_order="last")
    return VecTransposeImage(env)


def check_packages(settings: ImageEnvSettings) -> None:
    """Look for what the environments of `settings` need, and make games known to Gymnasium.

    Raises:
        UsageError: A package is missing.
    """
    import_opencv()
    _register_games(required=settings.preprocessing == "atari")


def game_of(identifier: str) -> str | None:
    """The Arcade Learning Environment's name of an environment's game; None if it is not one of its games.

    Raises:
        ConfigError: There is no environment of this name.
    """
    _register_games(required=False)
    spec = _spec(identifier)
    return str(spec.kwargs["game"]) if spec.entry_point == _ALE_ENTRY else None


def _register_games(*, required: bool) -> None:
    """Make the games known to Gymnasium, if the emulator is installed."""
    try:
        import ale_py
    except ImportError:
        if required:
            raise UsageError(
                "games of the Arcade Learning Environment need ale-py, which is not installed: "
                'pip install "ambi-rl[atari]"'
            ) from None
        return
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    gymnasium.register_envs(ale_py)


def _spec(identifier: str) -> gymnasium.envs.registration.EnvSpec:
    """What is registered under a name, `module:name` included.

    Raises:
        ConfigError: Nothing.
    """
    try:
        module, _, name = identifier.rpartition(":")
        if module:
            __import__(module)
        return gymnasium.spec(name)
    except (ImportError, gymnasium.error.Error, ValueError) as error:
        if isinstance(error, ImportError):
            reason = f"the module it names cannot be imported ({error})"
        else:
            reason = "Gymnasium knows no such environment"
        close = difflib.get_close_matches(identifier, gymnasium.registry, _SUGGESTIONS)
        hint = f"did you mean {', '.join(close)}?" if close else "check the name"
        raise ConfigError(f"env id {identifier!r}: {reason}; {hint}") from None


def _make(identifier: str, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Make one environment.

    Raises:
        ConfigError: It cannot be made.
    """
    spec = _spec(identifier)
    try:
        return gymnasium.make(spec, **arguments)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"env id {identifier!r} needs a package more: {error}") from None
    except (gymnasium.error.Error, TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"env id {identifier!r} cannot be made: {error}") from None


def _make_game(settings: ImageEnvSettings, training: bool) -> gymnasium.Env[Any, Any]:
    spec = _spec(settings.id)
    if spec.entry_point != _ALE_ENTRY:
        raise ConfigError(
            f"env id {settings.id!r} is no game of the Arcade Learning Environment; "
            "set preprocessing=image"
        )
    # The wrappers skip frames and repeat actions; the emulator must not do it a second time.
    env = _make(settings.id, frameskip=1, repeat_action_probability=0.0, render_mode="rgb_array")
    space = env.observation_space
    if not is_picture_shape(space.shape or ()) or len(space.shape or ()) != 3:
        raise ConfigError(
            f"env id {settings.id!r}: its observations are {_describe(space)}, not a screen in RGB; "
            "leave obs_type at rgb"
        )
    if spec.kwargs["game"] == "breakout":
        env = BreakoutMemory(env)
    env = AtariWrapper(
        Monitor(env),
        noop_max=settings.noop_max,
        frame_skip=settings.frame_skip,
        screen_size=settings.size,
        terminal_on_life_loss=training and settings.episodic_life,
        clip_reward=training and settings.clip_reward,
        action_repeat_probability=settings.repeat_action_probability,
    )
    if not training and "FIRE" in env.unwrapped.get_action_meanings():  # type: ignore[attr-defined]
        env = FireAfterLostLife(env)
    return env


def _make_image(settings: ImageEnvSettings, training: bool) -> gymnasium.Env[Any, Any]:
    env = _make(settings.id)
    if not _is_picture(env.observation_space):
        env = _rendered(settings.id, env)
    if not isinstance(env.action_space, _SPACES):
        raise ConfigError(
            f"env id {settings.id!r}: its action space is {_describe(env.action_space)}, which PPO cannot "
            "take; it can be Discrete, MultiDiscrete, MultiBinary or Box"
        )
    env = GrayFrame(Monitor(env), settings.size)
    return ClipRewardEnv(env) if training and settings.clip_reward else env


def _rendered(identifier: str, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment again, with what it renders as its observation.

    Raises:
        ConfigError: It renders no picture.
    """
    described = _describe(env.observation_space)
    modes = env.metadata.get("render_modes", ())
    env.close()
    if "rgb_array" not in modes:
        raise ConfigError(
            f"env id {identifier!r}: its observations are {described}, not a picture of uint8 "
            "[height, width, 3], and it renders none (rgb_array); take another environment"
        )
    rendered = _make(identifier, render_mode="rgb_array")
    # The wrapper looks at a rendered picture, for which the environment has to have begun.
    rendered.reset(seed=0)
    try:
        env = AddRenderObservation(rendered, render_only=True)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UsageError(f"env id {identifier!r} needs a package more: {error}") from None
    if not _is_picture(env.observation_space):
        raise ConfigError(
            f"env id {identifier!r}: it renders {_describe(env.observation_space)}, not a picture of uint8 "
            "[height, width, 3]; take another environment"
        )
    return env


def _is_picture(space: spaces.Space[Any]) -> bool:
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and is_picture_shape(space.shape)
        # Smaller ones are maps of a board or the like, which averaging would destroy.
        and min(space.shape[:2]) >= MIN_SIZE
    )


def _describe(space: spaces.Space[Any]) -> str:
    shape = "" if space.shape is None else f" of shape {list(space.shape)}"
    kind = "" if space.dtype is None else f" of {space.dtype}"
    return f"a {type(space).__name__}{shape}{kind}"


class GrayFrame(gymnasium.ObservationWrapper[npt.NDArray[np.uint8], Any, npt.NDArray[np.uint8]]):
    """Replaces pictures by gray square frames, uint8 [size, size, 1], and does nothing else.

    Args:
        env: Its observations are pictures, uint8 [H, W, 3], [H, W, 1] or [H, W].
        size: Pixels a side of a frame.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], size: int) -> None:
        super().__init__(env)
        self.size = size
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)

    def observation(self, observation: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The frame of a picture."""
        return preprocess_frame(observation, self.size)[:, :, None]


class FireAfterLostLife(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Begins the next life of a game as it begins in training, without ending the episode.

    There, a lost life ends the episode, and the reset that follows waits a step, fires and takes the next
    action: so do Stable-Baselines3's wrappers. An agent that learned so need not know that it has to fire,
    and would stand still for the rest of a game of several lives. The rewards of the steps in between count.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._lives = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a game."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._lives = self._count()
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action, and begin the next life if it lost one."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        total = float(reward)
        if self._count() < self._lives:
            for extra in _LOST_LIFE_ACTIONS:
                if terminated or truncated:
                    break
                observation, reward, terminated, truncated, info = self.env.step(extra)
                total += float(reward)
        self._lives = self._count()
        return observation, total, terminated, truncated, info

    def _count(self) -> int:
        return int(self.env.unwrapped.ale.lives())  # type: ignore[attr-defined]
