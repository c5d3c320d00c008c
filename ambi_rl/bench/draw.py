"""Pictures of what an encoder decided: blocks, prediction strategies and quantization offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ambi_rl.codec.tables import FIRST_ANGLE, PREDICTOR_NAMES
from ambi_rl.errors import UsageError
from ambi_rl.palette import (
    COARSER_COLOUR,
    FINER_COLOUR,
    FLAT_COLOURS,
    OTHER_COLOUR,
    Colour,
    colour_of,
    direction_of,
    offset_colour,
)

Pixels = npt.NDArray[np.uint8]

_TINT = 0.55
_LINE: Colour = (20, 20, 20)
_MARGIN, _CAPTION = 8, 26


class DecisionLike(Protocol):
    """A leaf of the quadtree, as `ambi_rl.codec.frame.Decision` describes it."""

    @property
    def y(self) -> int:
        """Top row, in pixels."""

    @property
    def x(self) -> int:
        """Left column, in pixels."""

    @property
    def size(self) -> int:
        """Side, in pixels."""

    @property
    def strategy(self) -> int:
        """Index into the list of strategies."""

    @property
    def offset(self) -> int:
        """Index into the list of quantization offsets."""


class Panel(NamedTuple):
    """One picture of a figure with the text above it."""

    caption: str
    pixels: Pixels


def draw_decisions(
    rgb: Pixels,
    decisions: Sequence[DecisionLike],
    strategies: Sequence[str],
    offsets: Sequence[int] = (),
    *,
    scale: int = 2,
) -> Pixels:
    """Draw blocks over a picture.

    A block has the colour of its strategy and, from 8x8, a stroke in its direction. A triangle in the corner
    marks a quantization offset: yellow for a finer step, blue for a coarser one.

    Args:
        rgb: uint8 [H, W, 3] or [H, W].
        decisions: The leaves; those at the edges may reach beyond the picture.
        strategies: Names by index, from the bundle.
        offsets: Quantization offsets by index, from the bundle; empty to leave them out.
        scale: Pixels of the drawing per pixel of the picture.

    Returns:
        uint8 [scale·H, scale·W, 3].

    Raises:
        UsageError: A decision names a strategy or an offset that is not in the lists.
    """
    height, width = rgb.shape[:2]
    tint = np.zeros((height, width, 3), np.float64)
    for d in decisions:
        if not 0 <= d.strategy < len(strategies) or (offsets and not 0 <= d.offset < len(offsets)):
            raise UsageError(
                f"the block at x={d.x}, y={d.y} has strategy {d.strategy} and offset {d.offset}, but there "
                f"are {len(strategies)} strategies and {len(offsets)} offsets: is it another bundle's?"
            )
        tint[d.y : d.y + d.size, d.x : d.x + d.size] = colour_of(strategies[d.strategy])
    gray = rgb.mean(axis=2, keepdims=True) if rgb.ndim == 3 else rgb[..., None]
    # Multiplied, so that the picture stays recognisable in every colour.
    mixed = np.clip(gray * (1 - _TINT) + _TINT * tint * (0.35 + 0.65 * gray / 255), 0, 255)
    image = Image.fromarray(mixed.astype(np.uint8)).resize(
        (width * scale, height * scale), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(image)
    for d in decisions:
        _draw_block(draw, d, strategies[d.strategy], offsets[d.offset] if offsets else 0, scale)
    return np.asarray(image)


def _draw_block(
    draw: ImageDraw.ImageDraw, d: DecisionLike, strategy: str, offset: int, scale: int
) -> None:
    left, top, side = d.x * scale, d.y * scale, d.size * scale
    draw.rectangle((left, top, left + side, top + side), outline=_LINE)
    angle = direction_of(strategy)
    if angle is not None and d.size >= 8:
        x, y = left + side / 2, top + side / 2
        dx, dy = math.cos(angle) * side * 0.3, -math.sin(angle) * side * 0.3
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=_LINE)
    if colour := offset_colour(offset):
        reach = max(3, side // 4)
        corner = ((left + 1, top + 1), (left + 1 + reach, top + 1), (left + 1, top + 1 + reach))
        draw.polygon(corner, fill=colour)


def legend(width: int) -> Pixels:
    """A strip, uint8 [26, width, 3], that explains the colours of `draw_decisions`."""
    image = Image.new("RGB", (width, _CAPTION), (255, 255, 255))
    draw = ImageDraw.Draw(image)
    x = _MARGIN
    for name, colour in (
        *FLAT_COLOURS.items(),
        ("other", OTHER_COLOUR),
        ("finer step", FINER_COLOUR),
        ("coarser step", COARSER_COLOUR),
    ):
        x = _swatch(draw, x, name, colour)
    draw.text((x, 5), "directions", fill=_LINE, font=_font())
    x += round(draw.textlength("directions", font=_font())) + 6
    for name in PREDICTOR_NAMES[FIRST_ANGLE:]:
        draw.rectangle((x, 6, x + 5, 20), fill=colour_of(name))
        x += 6
    return np.asarray(image)


def _swatch(draw: ImageDraw.ImageDraw, x: int, name: str, colour: Colour) -> int:
    draw.rectangle((x, 6, x + 14, 20), fill=colour, outline=_LINE)
    draw.text((x + 20, 5), name, fill=_LINE, font=_font())
    return x + 36 + round(draw.textlength(name, font=_font()))


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=15)


def figure(panels: Sequence[Panel], *, columns: int, scale: int = 2) -> Image.Image:
    """Lay pictures out in a grid, each under its caption, with the legend below.

    Args:
        panels: At least one; pictures smaller than the largest are enlarged by `scale`.
        columns: Panels in a row.
        scale: See `draw_decisions`.

    Raises:
        UsageError: There is no panel, or the sizes do not fit together.
    """
    if not panels:
        raise UsageError("a figure needs at least one panel")
    largest = (
        max(panel.pixels.shape[0] for panel in panels),
        max(panel.pixels.shape[1] for panel in panels),
    )
    tiles = [(panel.caption, _enlarged(panel.pixels, largest, scale)) for panel in panels]
    rows = -(-len(tiles) // columns)
    step_y, step_x = largest[0] + _CAPTION, largest[1] + _MARGIN
    canvas = Image.new(
        "RGB",
        (_MARGIN + columns * step_x, rows * step_y + _CAPTION + _MARGIN),
        (255, 255, 255),
    )
    draw = ImageDraw.Draw(canvas)
    for i, (caption, tile) in enumerate(tiles):
        x, y = _MARGIN + i % columns * step_x, i // columns * step_y
        draw.text((x, y + 5), caption, fill=_LINE, font=_font())
        canvas.paste(tile, (x, y + _CAPTION))
    canvas.paste(Image.fromarray(legend(canvas.width)), (0, rows * step_y + _MARGIN // 2))
    return canvas


def _enlarged(pixels: Pixels, size: tuple[int, int], scale: int) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGB")
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return image
    if (height * scale, width * scale) != size:
        raise UsageError(
            f"a panel of {width}x{height} pixels does not fit beside {size[1]}x{size[0]} at scale {scale}"
        )
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
