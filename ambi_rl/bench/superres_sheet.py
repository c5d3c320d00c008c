"""Crops of one picture beside each other, all at the same bytes: interpolation, generators, formats."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ambi_rl.bench.codecs import Codec
from ambi_rl.bench.find_close import find_close
from ambi_rl.bench.superres_codecs import resampled
from ambi_rl.bench.superres_table import Method, scale_of
from ambi_rl.errors import UsageError
from ambi_rl.superres.base_layer import Pixels
from ambi_rl.superres.scores import PsnrScore

_GAP, _LINE, _LINES = 8, 17, 2
_PSNR = PsnrScore()


class Box(NamedTuple):
    """What is shown of a picture: x, y of the upper left corner and the side, in pixels."""

    x: int
    y: int
    side: int


class Panel(NamedTuple):
    """A crop, uint8 [side, side, 3], and the two lines above it."""

    name: str
    told: str
    pixels: Pixels


def middle(image: Image.Image, side: int) -> Box:
    """The box in the middle of a picture."""
    return Box((image.width - side) // 2, (image.height - side) // 2, side)


def make_panels(
    image: Image.Image,
    box: Box,
    methods: Sequence[Method],
    formats: Sequence[Codec],
    quality: float,
) -> Iterator[Panel]:
    """The original and what is left of it; PSNR is of the whole picture, as bytes are.

    Args:
        image: RGB.
        box: What is shown.
        methods: Of which the first bundles are shown.
        formats: At the bytes of the first method's file.
        quality: Of the base layer.

    Raises:
        UsageError: The box is not within the picture.
        AmbiError: Something cannot be coded.
    """
    if min(box) < 0 or box.x + box.side > image.width or box.y + box.side > image.height:
        raise UsageError(
            f"a crop of {box.side} pixels at {box.x},{box.y} is not within the picture of "
            f"{image.width}x{image.height}"
        )
    original = np.asarray(image)
    place = np.s_[box.y : box.y + box.side, box.x : box.x + box.side]
    yield Panel("original", f"{image.width}x{image.height} pixels", original[place])

    def coded(name: str, codec: Codec, data: bytes, note: str = "") -> Panel:
        copy = np.asarray(codec.decode(data))
        told = f"{len(data):,} bytes{note}, {_PSNR.mean(original, copy):.2f} dB"
        return Panel(name, told, copy[place])

    first = methods[0].codecs[0]
    plain = resampled(scale=scale_of(methods), method="lanczos", base=first.base)
    yield coded("Lanczos", plain, plain.encode(image, quality))
    for method in methods:
        data = method.codecs[0].encode(image, quality)
        yield coded(method.name, method.codecs[0], data)
    # All methods' files are of one size.
    rate = 8 * len(data) / (image.width * image.height)
    for codec in formats:
        close = find_close(codec, image, "bpp", rate)
        yield coded(codec.name, codec, close.best.data, "" if close.is_within else " at least")


def draw_sheet(rows: Sequence[Sequence[Panel]], *, columns: int, zoom: int) -> bytes:
    """Lay panels out in a grid, each under its lines, as a PNG.

    Args:
        rows: The panels of each picture, which begin a new row; all of one side.
        columns: Panels in a row, at most.
        zoom: Pixels of the sheet for each pixel, without smoothing.
    """
    side = rows[0][0].pixels.shape[0] * zoom
    lines = [
        panels[start : start + columns]
        for panels in rows
        for start in range(0, len(panels), columns)
    ]
    top = _LINES * _LINE + 4
    step_x, step_y = side + _GAP, side + top + _GAP
    width = max(map(len, lines))
    sheet = Image.new("RGB", (_GAP + width * step_x, _GAP + len(lines) * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for row, panels in enumerate(lines):
        for column, panel in enumerate(panels):
            x, y = _GAP + column * step_x, _GAP + row * step_y
            for number, text in enumerate((panel.name, panel.told)):
                draw.text((x, y + number * _LINE), text, "black", _font(draw, text, side))
            tile = Image.fromarray(np.ascontiguousarray(panel.pixels))
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), (x, y + top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _font(
    draw: ImageDraw.ImageDraw, text: str, width: int
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font, up to 14 pixels, in which a text fits into a width."""
    for size in range(14, 6, -1):
        font = ImageFont.load_default(size)
        if draw.textlength(text, font=font) <= width:
            break
    return font
