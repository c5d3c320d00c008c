"""Breakout: where the console's memory has ball and paddle, and a player that acts on it.

Positions are centres of the objects in pixels, row before column, where 0 is the centre of the first pixel:
on the console's screen (210 rows, 160 columns) here, in frames of 84x84 in `ambi_rl.envs.breakout_frames`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv

from ambi_rl.envs.breakout_frames import (
    BreakoutObjects,
    find_all,
    find_objects,
    object_errors,
    to_frame,
)
from ambi_rl.errors import UsageError

__all__ = [
    "BreakoutMemory",
    "BreakoutObjects",
    "BreakoutState",
    "ScriptedPlayer",
    "find_all",
    "find_objects",
    "frame_objects",
    "object_errors",
    "read_memory",
]

# Found by comparing rendered screens with the console's memory over 40,000 frames; in tests/test_atari.py
# frames and memory are compared again.
_PADDLE_X, _BALL_X, _BALL_Y, _SHORT = 72, 99, 101, 97
"""Addresses in the console's memory; the last byte's top bit is set once the paddle is short."""
_BALL_LEFT, _BALL_TOP, _PADDLE_LEFT = -49, 9, -47
"""From the memory's numbers to the first column or row on the screen."""
_BALL_CENTRE = (1.5, 0.5)
"""From the first row and column of the ball, which is 4 rows high and 2 columns wide, to its centre."""
_RAISED_ABOVE, _BALL_HEIGHT = 93, 4
"""Over this row of the screen, where bricks are and higher, the ball is drawn a row higher than below it."""
_LAST_SHOWN = 192
"""Last row where the top of a falling ball is still drawn."""
_WHOLE_PADDLE, _SHORT_PADDLE = 16, 12
"""Columns of the paddle, before and after the ball has first reached the wall at the top."""

_NOOP, _FIRE, _RIGHT, _LEFT = 0, 1, 2, 3
_ACTIONS = 4


@dataclass(frozen=True)
class BreakoutState:
    """What the console's memory says after a frame.

    Attributes:
        ball: Centre of the ball (row, column) as the game reckons; None if there is none. What is drawn is up
            to a row off, and of a ball that is lost nothing; `frame_objects` has what can be seen.
        velocity: Rows and columns that the ball moved since the frame before; None if it was not there.
        paddle_x: Centre of the paddle, a column of the screen.
        paddle_velocity: Columns that it moved since the frame before.
        paddle_width: Columns of the paddle.
    """

    ball: tuple[float, float] | None
    velocity: tuple[float, float] | None
    paddle_x: float
    paddle_velocity: float
    paddle_width: int


def read_memory(
    memory: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8] | None = None
) -> BreakoutState:
    """Ball and paddle from the console's memory.

    Args:
        memory: uint8 [128].
        before: The memory a frame earlier; without it nothing moves.
    """
    before = memory if before is None else before
    ball, earlier = _ball(memory), _ball(before)
    velocity = None
    if ball is not None and earlier is not None:
        velocity = (ball[0] - earlier[0], ball[1] - earlier[1])
    width = _SHORT_PADDLE if memory[_SHORT] & 0x80 else _WHOLE_PADDLE
    return BreakoutState(
        ball=ball,
        velocity=velocity,
        paddle_x=int(memory[_PADDLE_X]) + _PADDLE_LEFT + (width - 1) / 2,
        paddle_velocity=float(int(memory[_PADDLE_X]) - int(before[_PADDLE_X])),
        paddle_width=width,
    )


def _ball(memory: npt.NDArray[np.uint8]) -> tuple[float, float] | None:
    if memory[_BALL_Y] == 0:
        return None
    return (
        int(memory[_BALL_Y]) + _BALL_TOP + _BALL_CENTRE[0],
        int(memory[_BALL_X]) + _BALL_LEFT + _BALL_CENTRE[1],
    )


def frame_objects(states: tuple[BreakoutState, BreakoutState]) -> BreakoutObjects:
    """Where ball and paddle are in the frame of 84x84 that is made of two frames of the console.

    Args:
        states: Of these two frames, from `BreakoutMemory.memory`.

    Returns:
        The objects in the middle of both their places. A ball that has fallen past the paddle is none.
    """
    balls = [_drawn(state.ball) for state in states if state.ball is not None]
    shown = [ball for ball in balls if ball[0] <= _LAST_SHOWN + _BALL_CENTRE[0]]
    ball = None
    if shown:
        row, column = np.mean(shown, axis=0)
        ball = (float(to_frame(row, 0)), float(to_frame(column, 1)))
    paddle = float(np.mean([state.paddle_x for state in states]))
    return BreakoutObjects(ball, float(to_frame(paddle, 1)))


def _drawn(ball: tuple[float, float]) -> tuple[float, float]:
    """Where the screen shows the ball."""
    row, column = ball
    top = row - _BALL_CENTRE[0]
    if top <= _RAISED_ABOVE - _BALL_HEIGHT:
        return row - 1, column
    # In between it is drawn a row higher too, but its end is not: it is 5 rows high.
    return (row - 0.5, column) if top < _RAISED_ABOVE else (row, column)


class BreakoutMemory(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Lets Breakout's ball and paddle be read from the console's memory.

    It lies right around the emulator, so that it sees every frame.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._now: npt.NDArray[np.uint8] = np.zeros(128, np.uint8)
        self._before = self._now

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a game."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._now = self._before = self._read()
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take an action for one frame."""
        result = self.env.step(action)
        self._before, self._now = self._now, self._read()
        return result

    def memory(self) -> tuple[BreakoutState, BreakoutState]:
        """The state one frame ago and now: the two frames that a frame of the preprocessing is made of."""
        return read_memory(self._before), read_memory(self._now, self._before)

    def _read(self) -> npt.NDArray[np.uint8]:
        memory: npt.NDArray[np.uint8] = self.env.unwrapped.ale.getRAM()  # type: ignore[attr-defined]
        return memory


_LEFT_WALL, _RIGHT_WALL = 8.5, 150.5
"""Columns of the ball's centre between which it flies."""
_PADDLE_ROW = 186.5
"""Row of the ball's centre when it meets the paddle."""
_MOMENTUM = 1.5
"""Frames that the paddle goes on at its speed when nobody moves it: it slows down slowly."""
_MARGIN = 4.5
"""Columns next to its aim where the paddle stays."""
_AIM = 0.6
"""Share of the paddle that the aim is drawn from; nearer to its ends the ball may be missed."""


class ScriptedPlayer:
    """Plays Breakout from the console's memory: moves the paddle to where the ball will come down.

    With every ball that comes down it aims with another part of the paddle, so that the ball leaves in all
    directions. It fires where there is no ball.

    Args:
        env: Environments of Breakout from `ambi_rl.envs.atari.make_vec_env`.
        noise: Probability of a random action in place of its own, 0…1.
        aim: Share of the paddle that aims are drawn from, 0…1; nearer to its ends the ball may be missed.
            With 0 it always meets the ball with the middle, so that a frame says what it does.
        seed: Of aims and random actions.

    Raises:
        UsageError: The environments are not Breakout's.
    """

    def __init__(
        self, env: VecEnv, *, noise: float = 0.0, aim: float = _AIM, seed: int = 0
    ) -> None:
        try:
            env.env_method("memory")
        except AttributeError:
            raise UsageError(
                "the scripted player plays Breakout only; take a random one for other games"
            ) from None
        self._env = env
        self._noise = noise
        self._aim = aim
        self._rng = np.random.default_rng(seed)
        self._aims = self._rng.uniform(-aim / 2, aim / 2, env.num_envs)
        self._rising = np.ones(env.num_envs, bool)

    def act(self) -> npt.NDArray[np.int64]:
        """An action for each environment's current state, int64 [num_envs]."""
        states = [now for _, now in self._env.env_method("memory")]
        actions = np.array([self._action(index, state) for index, state in enumerate(states)])
        random = self._rng.random(len(actions)) < self._noise
        return np.where(random, self._rng.integers(_ACTIONS, size=len(actions)), actions)

    def _action(self, index: int, state: BreakoutState) -> int:
        if state.ball is None:
            return _FIRE
        row_speed = state.velocity[0] if state.velocity is not None else 0.0
        rising = row_speed <= 0
        if self._rising[index] and not rising:
            self._aims[index] = self._rng.uniform(-self._aim / 2, self._aim / 2)
        self._rising[index] = rising
        target = _landing(state) + self._aims[index] * state.paddle_width
        error = target - (state.paddle_x + _MOMENTUM * state.paddle_velocity)
        if abs(error) <= _MARGIN:
            return _NOOP
        return _RIGHT if error > 0 else _LEFT


def _landing(state: BreakoutState) -> float:
    """The column where the ball meets the paddle's row; of a ball that rises, the one where it is."""
    assert state.ball is not None
    row, column = state.ball
    if state.velocity is None or state.velocity[0] <= 0 or row >= _PADDLE_ROW:
        return column
    frames = (_PADDLE_ROW - row) / state.velocity[0]
    width = _RIGHT_WALL - _LEFT_WALL
    # Unfolded at the walls, its way is straight.
    unfolded = (column + state.velocity[1] * frames - _LEFT_WALL) % (2 * width)
    return _LEFT_WALL + min(unfolded, 2 * width - unfolded)
