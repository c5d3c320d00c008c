"""Conversion between 8-bit pictures and the codec's 10-bit planes, in exact integer arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

# ITU-R BT.601 luma weights in 1/65536; they sum to 65536, so that gray stays gray exactly.
_BITS = 16
_RED, _GREEN, _BLUE = 19595, 38470, 7471
_CB_SCALE = round(65536 * 0.5 / (1 - 0.114))
_CR_SCALE = round(65536 * 0.5 / (1 - 0.299))
_RED_FROM_CR = round(65536 * 2 * (1 - 0.299))
_BLUE_FROM_CB = round(65536 * 2 * (1 - 0.114))
_GREEN_FROM_CB = round(65536 * 2 * (1 - 0.114) * 0.114 / 0.587)
_GREEN_FROM_CR = round(65536 * 2 * (1 - 0.299) * 0.299 / 0.587)

_FRACTION_BITS = 2
"""Planes are in quarters of an 8-bit code value."""
_CHROMA_MID = 512
_STRIP_PIXELS = 1 << 18
"""Pixels converted at a time: bounds the 32-bit temporaries whatever the picture's size."""


def strips(height: int, width: int) -> Iterator[slice]:
    """Slices of rows that together are a picture's, each of few enough pixels for wide temporaries."""
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def rgb_to_planes(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Convert RGB to Y, Cb, Cr (BT.601, full range) with two fractional bits.

    Args:
        rgb: uint8 [H, W, 3].

    Returns:
        int16 [3, H, W], 0…1023: the 8-bit value times 4, chroma centred on 512.
    """
    height, width, _ = rgb.shape
    planes = np.empty((3, height, width), np.int16)
    half = 1 << (_BITS - _FRACTION_BITS - 1)
    for rows in strips(height, width):
        red, green, blue = (rgb[rows, :, i].astype(np.int32) for i in range(3))
        luma = _RED * red + _GREEN * green + _BLUE * blue
        planes[0, rows] = (luma + half) >> (_BITS - _FRACTION_BITS)
        for plane, colour, scale in ((1, blue, _CB_SCALE), (2, red, _CR_SCALE)):
            # The difference has 16 fractional bits, the scale too: 64-bit products, rounded once.
            difference = (colour.astype(np.int64) << _BITS) - luma
            shift = 2 * _BITS - _FRACTION_BITS
            chroma = (difference * scale + (1 << (shift - 1))) >> shift
            planes[plane, rows] = chroma + _CHROMA_MID
    return planes


def planes_to_rgb(planes: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Convert Y, Cb, Cr planes back to RGB; exact inverse of `rgb_to_planes` for what it returns.

    Args:
        planes: int16 [3, H, W], 0…1023.

    Returns:
        uint8 [H, W, 3], clipped to 0…255.
    """
    _, height, width = planes.shape
    rgb = np.empty((height, width, 3), np.uint8)
    shift = _BITS + _FRACTION_BITS
    half = 1 << (shift - 1)
    for rows in strips(height, width):
        luma = (planes[0, rows].astype(np.int32) << _BITS) + half
        cb = planes[1, rows].astype(np.int32) - _CHROMA_MID
        cr = planes[2, rows].astype(np.int32) - _CHROMA_MID
        for channel, value in enumerate(
            (
                luma + _RED_FROM_CR * cr,
                luma - _GREEN_FROM_CB * cb - _GREEN_FROM_CR * cr,
                luma + _BLUE_FROM_CB * cb,
            )
        ):
            rgb[rows, :, channel] = np.clip(value >> shift, 0, 255)
    return rgb


def gray_to_planes(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """Convert uint8 [H, W] to one int16 plane [1, H, W], 0…1020."""
    return (gray.astype(np.int16) << _FRACTION_BITS)[np.newaxis]


def planes_to_gray(planes: npt.NDArray[np.int16]) -> npt.NDArray[np.uint8]:
    """Convert one int16 plane [1, H, W] back to uint8 [H, W], rounded and clipped."""
    value = (planes[0] + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS
    return np.clip(value, 0, 255).astype(np.uint8)
