"""Colours of what an encoder decided, for every drawing of it: figures, rendered episodes, the report."""

from __future__ import annotations

import colorsys
import math

from ambi_rl.codec.tables import ANGLES, DIAGONAL, FIRST_ANGLE, PREDICTOR_NAMES

Colour = tuple[int, int, int]
"""Red, green and blue, 0…255."""

FLAT_COLOURS: dict[str, Colour] = {"dc": (110, 110, 110), "planar": (255, 255, 255)}
OTHER_COLOUR: Colour = (230, 90, 220)
FINER_COLOUR: Colour = (255, 230, 60)
COARSER_COLOUR: Colour = (40, 60, 160)

HEAT: tuple[Colour, ...] = (
    (10, 10, 35),
    (62, 18, 104),
    (137, 34, 106),
    (206, 67, 72),
    (247, 135, 22),
    (250, 240, 140),
)
"""From few bits to many, evenly spaced; its lightness rises throughout, so it reads without hue as well."""


def direction_of(strategy: str) -> float | None:
    """Direction a strategy extends the border in, in radians 0…π, counter-clockwise from horizontal.

    None for a strategy without a direction.
    """
    if strategy not in PREDICTOR_NAMES:
        return None
    code = PREDICTOR_NAMES.index(strategy)
    if code < FIRST_ANGLE:
        return None
    slope = int(ANGLES[code]) / 32
    # Below the diagonal the reference is the left column and the table holds rows per column; from it on
    # the reference is the row above and the table holds columns per row.
    rise, run = (slope, 1.0) if code < DIAGONAL else (1.0, slope)
    return math.atan2(rise, run) % math.pi


def colour_of(strategy: str) -> Colour:
    """Colour of a strategy: grays without a direction, the colour wheel for directions."""
    angle = direction_of(strategy)
    if angle is None:
        return FLAT_COLOURS.get(strategy, OTHER_COLOUR)
    red, green, blue = colorsys.hsv_to_rgb(angle / math.pi, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def offset_colour(offset: int) -> Colour | None:
    """Colour of a quantization offset: yellow for a finer step, blue for a coarser one, None for neither."""
    if not offset:
        return None
    return FINER_COLOUR if offset < 0 else COARSER_COLOUR
