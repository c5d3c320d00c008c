"""Finds Breakout's ball and paddle in gray frames of 84x84, and measures how well reconstructions keep them.

The detector sees one frame and nothing else, so it serves for frames of the game and for blurred
reconstructions of them alike. Positions are centres in pixels of the frame, row before column, where 0 is the
centre of the first pixel. A frame of Stable-Baselines3's preprocessing is the maximum of two frames of the
console, so that an object that moves is seen at both its places; its centre is between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from ambi_rl.envs.frames import FRAME_SIZE
from ambi_rl.errors import UsageError

SCREEN = (210, 160)
"""Rows and columns of the console's screen."""

BALL_CONTRAST = 6.0
"""Gray levels by which the mean of 3x3 pixels has to stand out from its surround for a ball to be found. The
ball of an original does by 20 to 35."""
BRICK_CONTRAST = 12.0
"""The same in the rows where bricks are or were, whose edges look like balls in poor reconstructions."""
PADDLE_CONTRAST = 15.0
"""Gray levels of the paddle, over the background, from which it is found; in originals it has 110."""
HIT = 3.0
"""Pixels from the true centre within which a ball counts as found where it is."""

_WALL = 142
_RED = 110
_BRICKS = (110, 129, 131, 148, 124, 85)
"""Gray levels of walls, ball and paddle, and of the rows of bricks from the top."""
_WALL_ROWS, _SIDE = (17, 32), 8
"""Rows of the wall at the top; columns of the walls at the sides."""
_BRICK_TOP, _BRICK_HEIGHT, _BRICK_WIDTH, _BRICK_COLUMNS = 57, 6, 8, 18
_PADDLE_ROWS = (189, 193)
_PADDLE_LEFTS = (8, 144)
"""The first columns that the paddle can begin at, and the last."""
_PADDLE_WIDTHS = tuple(range(12, 23))
"""A short one and a whole one at rest, and both while they move between the two frames that are combined."""

_AREA = (slice(13, 75), slice(4, 80))
"""Where the ball is looked for in a frame: below the top wall, above the paddle, between the sides."""
_PADDLE_AREA = (slice(75, 78), slice(5, 79))
_SURROUND = 4
"""Pixels from a ball's centre to what it is compared with on each side."""
_WINDOW = 2
"""Pixels on each side of the brightest place that a ball's centre is computed from."""
_FLOOR = 0.2
"""Share of its brightest pixel that a pixel must have to count for the ball's centre."""
_CHUNK = 512

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BreakoutObjects:
    """Where ball and paddle are in a frame.

    Attributes:
        ball: Row and column of the ball's centre; None if there is none.
        paddle_x: Column of the paddle's centre; None if there is none.
    """

    ball: tuple[float, float] | None
    paddle_x: float | None


def to_frame(position: Array | float, axis: int) -> Array:
    """Rows (axis 0) or columns (axis 1) of the console's screen as those of a frame."""
    return np.asarray((position + 0.5) * FRAME_SIZE / SCREEN[axis] - 0.5)


def find_objects(frame: npt.NDArray[np.uint8]) -> BreakoutObjects:
    """Find ball and paddle in one frame, uint8 [84, 84]; see `find_all`."""
    balls, paddles = find_all(frame[None])
    return BreakoutObjects(
        ball=None if np.isnan(balls[0, 0]) else (float(balls[0, 0]), float(balls[0, 1])),
        paddle_x=None if np.isnan(paddles[0]) else float(paddles[0]),
    )


def find_all(frames: npt.NDArray[np.uint8]) -> tuple[Array, Array]:
    """Find ball and paddle in frames.

    The ball is the place that stands out most from a background without ball, if it does by `BALL_CONTRAST`
    or more; the background's bricks are estimated from the frame itself. The paddle is the place and width
    that fit best to the three rows where it moves, if it has `PADDLE_CONTRAST` or more there.

    Args:
        frames: uint8 [N, 84, 84].

    Returns:
        Rows and columns of balls, float64 [N, 2], and columns of paddles, float64 [N]; nan where there is
        none. A ball next to the paddle or below it is not looked for.

    Raises:
        UsageError: The frames have another shape or type.
    """
    _check(frames)
    balls, paddles = np.empty((len(frames), 2)), np.empty(len(frames))
    for start in range(0, len(frames), _CHUNK):
        part = frames[start : start + _CHUNK].astype(np.float64)
        balls[start : start + _CHUNK] = _balls(part)
        paddles[start : start + _CHUNK] = _paddles(part)
    return balls, paddles


def object_errors(
    originals: npt.NDArray[np.uint8], reconstructions: npt.NDArray[np.uint8]
) -> dict[str, float]:
    """How well reconstructions show ball and paddle where the originals do.

    Both are found by `find_all`; what it finds in an original is taken for true.

    Args:
        originals: uint8 [N, 84, 84].
        reconstructions: uint8 [N, 84, 84], of the same frames.

    Returns:
        frames, ball_frames, paddle_frames: originals, those with a ball, those with a paddle.
        ball_found: share of the frames with a ball in whose reconstruction one is found.
        ball_hit: share of them where it is found within `HIT` pixels of the true place.
        ball_false_alarms: share of the frames without a ball in whose reconstruction one is found.
        ball_error_mean, ball_error_median, ball_error_95: distance in pixels where a ball is in both; the
            last is that which 95 % do not exceed.
        paddle_found: share of the frames with a paddle in whose reconstruction one is found.
        paddle_error_mean, paddle_error_median, paddle_error_95: distance in pixels, likewise.
        What there is no frame for is nan.

    Raises:
        UsageError: Frames are no uint8 [N, 84, 84], or there are not as many of both.
    """
    if originals.shape != reconstructions.shape:
        raise UsageError(
            f"{list(originals.shape)} originals do not match {list(reconstructions.shape)} "
            "reconstructions; give both of the same frames"
        )
    true_balls, true_paddles = find_all(originals)
    balls, paddles = find_all(reconstructions)
    has_ball, finds_ball = ~np.isnan(true_balls[:, 0]), ~np.isnan(balls[:, 0])
    has_paddle, finds_paddle = ~np.isnan(true_paddles), ~np.isnan(paddles)
    distances = np.hypot(*(balls - true_balls).T)
    shifts = np.abs(paddles - true_paddles)
    return {
        "frames": float(len(originals)),
        "ball_frames": float(has_ball.sum()),
        "ball_found": _share(finds_ball[has_ball]),
        "ball_hit": _share(distances[has_ball] <= HIT),
        "ball_false_alarms": _share(finds_ball[~has_ball]),
        **_summary("ball_error", distances[has_ball & finds_ball]),
        "paddle_frames": float(has_paddle.sum()),
        "paddle_found": _share(finds_paddle[has_paddle]),
        **_summary("paddle_error", shifts[has_paddle & finds_paddle]),
    }


def _check(frames: npt.NDArray[np.uint8]) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 3 or frames.shape[1:] != (FRAME_SIZE, FRAME_SIZE):
        raise UsageError(
            f"frames of Breakout have to be uint8 [N, {FRAME_SIZE}, {FRAME_SIZE}], not {frames.dtype} "
            f"{list(frames.shape)}"
        )


def _share(flags: npt.NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else float("nan")


def _summary(name: str, values: Array) -> dict[str, float]:
    if not len(values):
        return {f"{name}_{kind}": float("nan") for kind in ("mean", "median", "95")}
    return {
        f"{name}_mean": float(values.mean()),
        f"{name}_median": float(np.median(values)),
        f"{name}_95": float(np.quantile(values, 0.95)),
    }


@cache
def _averaging(axis: int) -> Array:
    """Share of each row (or column) of the screen in each of a frame, float64 [84, 210] or [84, 160]."""
    length = SCREEN[axis]
    edges = np.arange(FRAME_SIZE + 1) * length / FRAME_SIZE
    starts = np.arange(length)
    first, last = edges[:-1, None], edges[1:, None]
    overlap = np.minimum(last, starts + 1) - np.maximum(first, starts)
    shares: Array = np.clip(overlap, 0, None) * FRAME_SIZE / length
    return shares


def _shrink(screen: Array) -> Array:
    """A frame of a gray screen [210, 160], not rounded."""
    shrunk: Array = _averaging(0) @ screen @ _averaging(1).T
    return shrunk


@cache
def _walls() -> Array:
    """The walls around the area where the ball flies, float64 [84, 84]."""
    screen = np.zeros(SCREEN)
    screen[_WALL_ROWS[0] : _WALL_ROWS[1]] = _WALL
    screen[_WALL_ROWS[1] :, :_SIDE] = screen[_WALL_ROWS[1] :, -_SIDE:] = _WALL
    return _shrink(screen)


@cache
def _brick_shares() -> tuple[Array, Array]:
    """What a frame's rows have of the rows of bricks, [84, 6], and its columns of theirs, [84, 18]."""
    rows = np.zeros((SCREEN[0], len(_BRICKS)))
    for index in range(len(_BRICKS)):
        top = _BRICK_TOP + index * _BRICK_HEIGHT
        rows[top : top + _BRICK_HEIGHT, index] = 1
    columns = np.zeros((SCREEN[1], _BRICK_COLUMNS))
    for index in range(_BRICK_COLUMNS):
        left = _SIDE + index * _BRICK_WIDTH
        columns[left : left + _BRICK_WIDTH, index] = 1
    return _averaging(0) @ rows, _averaging(1) @ columns


def _bricks(frames: Array) -> Array:
    """Gray levels of the bricks, without a ball between them, [N, 84, 84].

    A brick is as bright as the darkest of the columns that are all its own: the ball is too narrow to
    brighten all of them. In reconstructions that makes bricks that are only half there half as bright.
    """
    rows, columns = _brick_shares()
    levels = np.empty((len(frames), rows.shape[1], columns.shape[1]))
    whole = 1 - 1e-9
    for row in range(rows.shape[1]):
        band = frames[:, rows[:, row] > whole].mean(axis=1)
        for column in range(columns.shape[1]):
            levels[:, row, column] = band[:, columns[:, column] > whole].min(axis=1)
    bricks: Array = rows @ levels @ columns.T
    return bricks


def _balls(frames: Array) -> Array:
    """Rows and columns of balls, [N, 2], nan where there is none."""
    excess = np.clip(frames - _walls() - _bricks(frames), 0, None)[:, *_AREA]
    mean, around = _blocks(excess)
    near_bricks = _brick_shares()[0].sum(axis=1)[_AREA[0]] > 0
    # How often the contrast that is asked for at a place is there.
    asked = np.where(near_bricks, BRICK_CONTRAST, BALL_CONTRAST)[:, None]
    times = ((mean - around) / asked).reshape(len(frames), -1)
    best = times.argmax(axis=1)
    row, column = np.unravel_index(best, mean.shape[1:])
    every = np.arange(len(frames))
    centres = _centres(excess, row, column, around[every, row, column])
    centres += (_AREA[0].start, _AREA[1].start)
    centres[times[every, best] < 1] = np.nan
    return centres


def _blocks(excess: Array) -> tuple[Array, Array]:
    """Means of the 3x3 pixels around each, and what surrounds them.

    A ball is brighter than what is on all sides of it. An edge that leaks out of a blurred wall is as bright
    further along it, and in a corner two of them add up: so the surround is the brighter one of those above
    and below, plus the brighter one of those left and right.
    """
    padded = np.pad(excess, ((0, 0), (1, 1), (1, 1)))
    lines = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    mean = (lines[:, :, :-2] + lines[:, :, 1:-1] + lines[:, :, 2:]) / 9
    wide = np.pad(mean, ((0, 0), (_SURROUND, _SURROUND), (_SURROUND, _SURROUND)))
    here = slice(_SURROUND, -_SURROUND)
    around = np.maximum(wide[:, : -2 * _SURROUND, here], wide[:, 2 * _SURROUND :, here])
    around += np.maximum(wide[:, here, : -2 * _SURROUND], wide[:, here, 2 * _SURROUND :])
    return mean, around


def _centres(
    excess: Array, row: npt.NDArray[np.intp], column: npt.NDArray[np.intp], around: Array
) -> Array:
    """Centres of gravity, [N, 2], of the windows around the given pixels, [N] each.

    What is no brighter than `around`, [N], or than a share of the brightest pixel has no weight.
    """
    offsets = np.arange(-_WINDOW, _WINDOW + 1)
    padded = np.pad(excess, ((0, 0), (_WINDOW, _WINDOW), (_WINDOW, _WINDOW)))
    rows, columns = row[:, None] + offsets + _WINDOW, column[:, None] + offsets + _WINDOW
    windows = padded[np.arange(len(excess))[:, None, None], rows[:, :, None], columns[:, None, :]]
    ground = around[:, None, None]
    windows = np.clip(windows - ground, 0, None)
    peak = windows.max(axis=(1, 2), keepdims=True)
    weights = np.where(windows >= _FLOOR * peak, windows, 0)
    total = np.maximum(weights.sum(axis=(1, 2)), 1e-9)
    down = (weights.sum(axis=2) * offsets).sum(axis=1) / total
    right = (weights.sum(axis=1) * offsets).sum(axis=1) / total
    return np.stack([row + down, column + right], axis=1)


@cache
def _paddle_patterns() -> tuple[Array, Array]:
    """Profiles of a paddle of contrast 1 at every place and width, [P, columns], and their centres, [P]."""
    profiles, centres = [], []
    for width in _PADDLE_WIDTHS:
        for left in range(_PADDLE_LEFTS[0], _PADDLE_LEFTS[1] + 1):
            line = np.zeros(SCREEN[1])
            # At the right it lies behind the wall's red end.
            line[left : min(left + width, SCREEN[1] - _SIDE)] = 1
            profiles.append((_averaging(1) @ line)[_PADDLE_AREA[1]])
            centres.append(left + (width - 1) / 2)
    return np.array(profiles), to_frame(np.array(centres), 1)


def _paddles(frames: Array) -> Array:
    """Columns of paddles, [N], nan where there is none."""
    rows = np.zeros(SCREEN[0])
    rows[slice(*_PADDLE_ROWS)] = 1
    weights = (_averaging(0) @ rows)[_PADDLE_AREA[0]]
    # The best estimate of a contrast that the rows have in these shares.
    profile = np.einsum("nrc,r->nc", frames[:, *_PADDLE_AREA], weights) / (weights @ weights)
    patterns, centres = _paddle_patterns()
    energy = (patterns**2).sum(axis=1)
    product = np.clip(profile @ patterns.T, 0, None)
    best = (product**2 / energy).argmax(axis=1)
    contrast = product[np.arange(len(frames)), best] / energy[best]
    return np.where(contrast >= PADDLE_CONTRAST, centres[best], np.nan)
