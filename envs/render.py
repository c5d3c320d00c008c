"""Pictures of what was decided: the partition and, by colour, the kind of prediction of every block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.frame import Decision
from ambi_rl.palette import colour_of, offset_colour

if TYPE_CHECKING:
    from ambi_rl.envs.episodes import Episodes

Pixels = npt.NDArray[np.uint8]

_MIN_WIDTH = 256
_LINE = np.array([20, 20, 20], np.float32)


def draw_decisions(
    picture: Pixels,
    decisions: Sequence[Decision],
    strategies: Sequence[str],
    offsets: Sequence[int],
    *,
    zoom: int = 1,
) -> Pixels:
    """Draw the decisions over a picture.

    Each block has a border and is tinted by its prediction strategy (`ambi_rl.palette`). A block that is
    quantized more finely than its surroundings has a yellow bar at its top, a coarser one a blue bar.

    Args:
        picture: uint8 [H, W, 3].
        decisions: The leaves, in pixels of `picture`.
        strategies: The bundle's strategies.
        offsets: The bundle's quantization offsets.
        zoom: Side of a pixel in the result.

    Returns:
        uint8 [H·zoom, W·zoom, 3].
    """
    canvas = picture.repeat(zoom, 0).repeat(zoom, 1).astype(np.float32)
    colours = [np.array(colour_of(name), np.float32) for name in strategies]
    for decision in decisions:
        top, left = decision.y * zoom, decision.x * zoom
        side = decision.size * zoom
        block = canvas[top : top + side, left : left + side]
        block *= 0.45
        block += 0.55 * colours[decision.strategy]
        if bar_colour := offset_colour(offsets[decision.offset]):
            bar = max(side // 8, 1)
            block[1 : 1 + bar, side // 4 : side - side // 4] = bar_colour
        block[0] = block[0] * 0.3 + _LINE * 0.7
        block[:, 0] = block[:, 0] * 0.3 + _LINE * 0.7
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def side_by_side(pictures: Sequence[Pixels], gap: int = 4) -> Pixels:
    """Pictures of equal height in a row, with white gaps: uint8 [H, W', 3]."""
    height = pictures[0].shape[0]
    white = np.full((height, gap, 3), 255, np.uint8)
    parts: list[Pixels] = []
    for picture in pictures:
        parts += [picture, white]
    return np.concatenate(parts[:-1], axis=1)


def render_episode(episodes: Episodes, index: int) -> Pixels:
    """Original, reconstruction so far, and decisions so far, side by side: uint8 [H', W', 3]."""
    original, decoded = episodes.original(index), episodes.decoded(index)
    zoom = max(1, -(-_MIN_WIDTH // original.shape[1]))
    # What is not decided yet stays visible as the original.
    drawn = draw_decisions(
        original,
        episodes.process.decisions(index),
        episodes.process.bundle.strategies,
        episodes.process.bundle.offsets,
        zoom=zoom,
    )
    enlarged = [picture.repeat(zoom, 0).repeat(zoom, 1) for picture in (original, decoded)]
    return side_by_side([*enlarged, drawn])
