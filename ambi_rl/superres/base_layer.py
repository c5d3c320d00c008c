"""The base layer: a picture shrunk by s, in a standard format. Encoder and training make it the same way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ambi_rl.codec.image_io import open_image
from ambi_rl.errors import CorruptFileError

Pixels = npt.NDArray[np.uint8]

BASES = ("jpeg", "webp", "avif", "ambi")
"""Formats of the base layer; `ambi` is the block codec. Their places are numbers of the stream's format."""
SCALES = (2, 4)
"""By how much sides can be shrunk."""

_PILLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {"optimize": True, "subsampling": "4:2:0"}),
    "webp": ("WEBP", {"method": 6}),
    "avif": ("AVIF", {"subsampling": "4:2:0", "speed": 6, "max_threads": 1}),
}
"""Pillow's name of a format, and what it is written with."""


def base_size(height: int, width: int, scale: int) -> tuple[int, int]:
    """Height and width of the base layer of a picture."""
    return -(-height // scale), -(-width // scale)


def shrink(pixels: Pixels, scale: int) -> Pixels:
    """Shrink a picture by bicubic interpolation with antialiasing, as Pillow does it.

    Sides that are no multiples of the scale are first continued by their last row or column, so that each
    pixel of the result stands for a square of the picture.

    Args:
        pixels: uint8 [H, W] or [H, W, 3].
        scale: s.

    Returns:
        uint8 [ceil(H / s), ceil(W / s)], with a third axis if there was one.
    """
    height, width = pixels.shape[:2]
    rows, columns = base_size(height, width, scale)
    missing = [(0, rows * scale - height), (0, columns * scale - width)]
    padded = np.pad(pixels, missing + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    small = Image.fromarray(padded).resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(small)


def encode_base(pixels: Pixels, base: str, quality: float) -> bytes:
    """Code a shrunk picture as a complete file.

    Args:
        pixels: uint8 [h, w] or [h, w, 3].
        base: One of `BASES`.
        quality: 1…100 on the format's own scale; all but the block codec's are rounded.
    """
    if base == "ambi":
        # Not needed for the others, and its kernels take a while to load.
        from ambi_rl.codec.api import encode_image

        return encode_image(Image.fromarray(pixels), quality=quality).data
    name, options = _PILLOW[base]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name, quality=round(quality), **options)
    return stream.getvalue()


def decode_base(data: bytes, base: str, height: int, width: int) -> Pixels:
    """Decode a base layer.

    Args:
        data: The file.
        base: Its format, one of `BASES`.
        height: What it must have.
        width: Likewise.

    Returns:
        uint8 [h, w, 3]; gray is repeated.

    Raises:
        CorruptFileError: It is damaged, or of another size or format.
    """
    if base == "ambi":
        from ambi_rl.codec.api import decode_image

        image = decode_image(data, max_pixels=height * width)
    else:
        image = open_image(data, "the base layer")
        if image.format != _PILLOW[base][0]:
            raise CorruptFileError(f"the base layer is {image.format}, not {base}")
    if image.size != (width, height):
        raise CorruptFileError(
            f"the base layer has {image.size[0]}x{image.size[1]} pixels, not {width}x{height}"
        )
    return np.asarray(image.convert("RGB"))
