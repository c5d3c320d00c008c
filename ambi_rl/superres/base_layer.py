"""The base layer: a picture shrunk by s, in a standard format. Encoder and training make it the same way."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from ambi_rl.codec.image_io import check_image, reading
from ambi_rl.errors import (
    CorruptFileError,
    NotAmbiFileError,
    UnsupportedImageError,
    UnsupportedVersionError,
    UsageError,
)

Pixels = npt.NDArray[np.uint8]

BASES = ("jpeg", "webp", "avif", "ambi")
"""Formats of the base layer; `ambi` is the block codec. Their places are numbers of the stream's format."""
SCALES = (2, 4)
"""By how much sides can be shrunk."""


class _Format(NamedTuple):
    """Pillow's name of a format, and of the feature it needs, and what it is written with."""

    name: str
    feature: str
    options: dict[str, Any]


_PILLOW = {
    "jpeg": _Format("JPEG", "jpg", {"optimize": True, "subsampling": "4:2:0"}),
    "webp": _Format("WEBP", "webp", {"method": 6}),
    "avif": _Format("AVIF", "avif", {"subsampling": "4:2:0", "speed": 6, "max_threads": 1}),
}


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


def check_base(base: str) -> None:
    """Make sure that a format is known and that this Pillow can write and read it.

    Raises:
        UsageError: It is not, or cannot.
    """
    if base not in BASES:
        raise UsageError(f"{base!r} is no format of a base layer; choose one of {', '.join(BASES)}")
    if base != "ambi" and not features.check(_PILLOW[base].feature):
        raise UsageError(
            f"this Pillow was built without {base}; install Pillow's own wheel, or choose another base"
        )


def encode_base(pixels: Pixels, base: str, quality: float) -> bytes:
    """Code a shrunk picture as a complete file.

    Args:
        pixels: uint8 [h, w] or [h, w, 3].
        base: One of `BASES`.
        quality: 1…100 on the format's own scale; all but the block codec's are rounded.

    Raises:
        UsageError: The format cannot be written; see `check_base`.
    """
    check_base(base)
    if base == "ambi":
        # Not needed for the others, and its kernels take a while to load.
        from ambi_rl.codec.api import encode_image

        return encode_image(Image.fromarray(pixels), quality=quality).data
    name, _, options = _PILLOW[base]
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, name, quality=round(quality), **options)
    return stream.getvalue()


def decode_base(data: bytes, base: str, height: int, width: int) -> Pixels:
    """Decode a base layer, whose header is compared with what it must be before anything else.

    Args:
        data: The file.
        base: Its format, one of `BASES`.
        height: What it must have.
        width: Likewise.

    Returns:
        uint8 [h, w, 3]; gray is repeated.

    Raises:
        CorruptFileError: It is damaged, or of another size or format.
        UnknownBundleError: The block codec coded it with a bundle that is not at hand.
        UsageError: This Pillow cannot read the format.
    """
    check_base(base)
    try:
        with reading("the base layer"):
            decode = _decode_ambi if base == "ambi" else _decode_pillow
            image = decode(data, base, (width, height))
    except (NotAmbiFileError, UnsupportedImageError, UnsupportedVersionError) as error:
        # Whoever gave the file gave a right one as far as that can be told from outside.
        raise CorruptFileError(f"{error}; encode the file again") from error
    return np.asarray(image.convert("RGB"))


def _check_base_size(found: tuple[int, int], expected: tuple[int, int]) -> None:
    if found != expected:
        raise CorruptFileError(
            f"it has {found[0]}x{found[1]} pixels, not {expected[0]}x{expected[1]}; "
            "fetch or encode the file again"
        )


def _decode_pillow(data: bytes, base: str, size: tuple[int, int]) -> Image.Image:
    name = _PILLOW[base].name
    try:
        image = Image.open(io.BytesIO(data), formats=[name])
    except Image.UnidentifiedImageError:
        raise CorruptFileError(f"it is not a picture of the format {base}") from None
    _check_base_size(image.size, size)
    check_image(image)
    image.load()
    return image


def _decode_ambi(data: bytes, base: str, size: tuple[int, int]) -> Image.Image:
    from ambi_rl.codec.api import decode_image
    from ambi_rl.codec.container import read_container

    container = read_container(data)
    _check_base_size((container.width, container.height), size)
    return decode_image(data)
