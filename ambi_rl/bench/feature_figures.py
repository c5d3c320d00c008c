"""Pictures of a comparison at very few bytes: reconstructions below originals, scores over bytes, play."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ambi_rl.bench.frame_codecs import Frames
from ambi_rl.bench.task import TaskScore
from ambi_rl.envs.breakout_frames import HIT, find_all

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GAP, _LABEL = 8, 190
_LABEL_LETTERS = 22
"""That fit into a line of a label."""
_FOUND, _LOST = (64, 220, 96), (255, 72, 72)
_BRICK_ROWS = slice(22, 38)
"""Rows of a frame of Breakout where bricks are."""
_RADIUS = 4.5
"""Of the circle around a ball, in pixels of the frame."""


@dataclass(frozen=True)
class SheetRow:
    """A row of a contact sheet.

    Attributes:
        label: Lines to its left.
        frames: uint8 [n, 84, 84].
    """

    label: tuple[str, ...]
    frames: Frames


def choose_moments(frames: Frames, count: int) -> npt.NDArray[np.int64]:
    """Indices of frames of Breakout with a ball in flight, from the beginning of a game to late ones.

    Args:
        frames: uint8 [N, 84, 84].
        count: How many; fewer where there are fewer with a ball.
    """
    balls, _ = find_all(frames)
    # With a ball among the bricks one would see neither well.
    flying = np.flatnonzero(balls[:, 0] > _BRICK_ROWS.stop + 4)
    bricks = frames[flying, _BRICK_ROWS].mean(axis=(1, 2), dtype=np.float64)
    order = flying[np.argsort(-bricks, kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return order[places]


def contact_sheet(rows: Sequence[SheetRow], *, scale: int = 4, mark_balls: bool = True) -> bytes:
    """Frames enlarged without smoothing, a row for each codec, as a PNG.

    Args:
        rows: The first are the originals; all have as many frames.
        scale: Pixels for each pixel of a frame.
        mark_balls: Circle the ball of Breakout: green where it is found within `HIT` pixels of where the
            original has it, red around that place where it is not.

    Returns:
        The file.
    """
    count, height, width = rows[0].frames.shape
    step_x, step_y = width * scale + _GAP, height * scale + _GAP
    sheet = Image.new("RGB", (_LABEL + count * step_x, len(rows) * step_y + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    truth = find_all(rows[0].frames)[0] if mark_balls else None
    for index, row in enumerate(rows):
        top = _GAP + index * step_y
        lines = [part for line in row.label for part in textwrap.wrap(line, _LABEL_LETTERS)]
        font = ImageFont.load_default(15)
        draw.multiline_text((_GAP, top + 4), "\n".join(lines), "black", font)
        balls = find_all(row.frames)[0] if mark_balls else None
        for column, frame in enumerate(row.frames):
            left = _LABEL + column * step_x
            size = (width * scale, height * scale)
            sheet.paste(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST), (left, top))
            if truth is not None and balls is not None:
                _circle(draw, truth[column], balls[column], (left, top), scale)
    return _png(sheet)


def _circle(
    draw: ImageDraw.ImageDraw,
    truth: npt.NDArray[np.float64],
    ball: npt.NDArray[np.float64],
    corner: tuple[int, int],
    scale: int,
) -> None:
    if np.isnan(truth).any():
        return
    hit = bool(np.hypot(*(ball - truth)) <= HIT)
    row, column = ball if hit else truth
    y, x = corner[1] + (row + 0.5) * scale, corner[0] + (column + 0.5) * scale
    reach = _RADIUS * scale
    box = (x - reach, y - reach, x + reach, y + reach)
    draw.ellipse(box, outline=_FOUND if hit else _LOST, width=2)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    # Grays and a few colours, for which a palette does.
    image.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def animation(
    originals: Frames, reconstructions: Frames, *, scale: int = 2, milliseconds: int = 70
) -> bytes:
    """Original and reconstruction beside each other as an animated GIF that repeats.

    Args:
        originals: uint8 [N, H, W].
        reconstructions: uint8 [N, H, W].
        scale: Pixels for each pixel of a frame.
        milliseconds: From one frame to the next.

    Returns:
        The file.
    """
    gap = np.full((*originals.shape[:2], 2), 255, np.uint8)
    pairs = np.concatenate([originals, gap, reconstructions], axis=2)
    # Fewer gray levels compress much better, and nobody sees it.
    pairs = (pairs // 8 * 8).repeat(scale, axis=1).repeat(scale, axis=2)
    first, *others = [Image.fromarray(pair) for pair in pairs]
    buffer = io.BytesIO()
    first.save(
        buffer,
        "GIF",
        save_all=True,
        append_images=others,
        duration=milliseconds,
        loop=0,
        optimize=True,
    )
    return buffer.getvalue()


def score_figure(original: TaskScore, curves: Mapping[str, Sequence[TaskScore]]) -> Figure:
    """Scores over bytes a frame, with 95 % intervals.

    Args:
        original: On the true frames.
        curves: By codec; a single score is a point.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(*original.interval, color="black", alpha=0.1, linewidth=0)
    axes.axhline(original.mean, color="black", linewidth=1, label="original frames")
    for name, scores in curves.items():
        ordered = sorted(scores, key=lambda score: score.bare)
        if ordered[0].bare == 0:
            # It has no place on a logarithmic axis.
            axes.axhline(ordered[0].mean, color="gray", linestyle=":", label=f"{name}, 0 bytes")
            ordered = ordered[1:]
        if not ordered:
            continue
        means = np.array([score.mean for score in ordered])
        low, high = np.array([score.interval for score in ordered]).T
        axes.errorbar(
            [score.bare for score in ordered],
            means,
            yerr=[means - low, high - means],
            fmt="*-" if len(ordered) == 1 else "o-",
            markersize=14 if len(ordered) == 1 else 5,
            capsize=3,
            label=name,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("bytes a frame, without what all files have in common")
    axes.set_ylabel(f"score of a game, {len(original.scores)} games each")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return figure
