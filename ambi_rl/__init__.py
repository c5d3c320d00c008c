"""An image codec whose decisions are taken by a reinforcement-learning policy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from ambi_rl.codec.bundle import Bundle
    from ambi_rl.codec.strategists import Strategist

__version__ = "0.1.0"

__all__ = ["__version__", "decode", "encode"]


def encode(
    image: Image.Image,
    *,
    quality: float | None = None,
    effort: int = 5,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    strategist: Strategist | str | None = None,
    strip: bool = False,
    target_size: int | None = None,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    restoration: bool | None = None,
    tiles: bool = True,
) -> bytes:
    """Encode a picture.

    The first call in a new installation compiles the codec, which takes up to a minute. Instead of a quality
    a target may be given: the quality that just meets it is searched for, in about six encodes.

    Args:
        image: A Pillow picture of mode L, LA, RGB, RGBA, 1 or P, up to 16384 pixels a side. Alpha is coded
            without loss. Pixels are never rotated: an EXIF orientation is recorded.
        quality: 1 (smallest) to 100 (best), fractions allowed; as on JPEG's scale, 75 is usual, and the
            default.
        effort: 0 (the policy alone) to 9 (search over everything).
        bundle: The codec bundle, or its path; the one that comes with the package if None.
        strategist: Who decides, instead of the one that `effort` stands for: "fixed", "search", "policy",
            "guided", "lookahead" (effort 9 and then hill climbing), or a `Strategist`.
        strip: Leave out ICC profile, EXIF and XMP (the orientation is kept).
        target_size: Instead of a quality, how many bytes the whole file may have, metadata and alpha too.
        target_bpp: Likewise as 8 times its bytes divided by the picture's pixels.
        target_psnr: Instead of a quality, the PSNR that the decoded gray or RGB samples should reach, in dB,
            with the smallest file.
        restoration: Have decoders filter the picture with the bundle's learned filter (True), or not
            (False); if None, they do where the bundle has one and, from effort 7 on, it lowers the error.
        tiles: Divide a picture of 4 million pixels or more into tiles of about one million, which are coded
            and decoded on all cores (or as many as the environment variable AMBI_THREADS says). In one
            piece (False) its file is a little smaller.

    Returns:
        The file's bytes.

    Raises:
        UsageError: quality, effort or strategist is out of range, more than one of quality and the targets is
            given, or no quality meets the target.
        UnsupportedImageError: 16 bits, CMYK, animation, or another mode that would not keep what it holds.
        ImageTooLargeError: over 16384 pixels a side.
        CorruptFileError: the picture was opened from a damaged file.
        BundleError: the bundle cannot be used, or holds no policy and the effort needs one, or no
            restoration and it is asked for.
    """
    # Deferred, here and below, so that `import ambi_rl` does not wait for Numba.
    from ambi_rl.codec.api import DEFAULT_QUALITY, encode_image
    from ambi_rl.codec.target import encode_to_target, make_target

    target = make_target(quality=quality, size=target_size, bpp=target_bpp, psnr=target_psnr)
    if target is not None:
        return encode_to_target(
            image,
            target,
            effort=effort,
            bundle=bundle,
            strategist=strategist,
            strip=strip,
            restoration=restoration,
            tiles=tiles,
        ).encoded.data
    return encode_image(
        image,
        quality=DEFAULT_QUALITY if quality is None else quality,
        effort=effort,
        bundle=bundle,
        strategist=strategist,
        strip=strip,
        restoration=restoration,
        tiles=tiles,
    ).data


def decode(
    data: bytes,
    *,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    max_pixels: int | None = None,
    restoration: bool = True,
) -> Image.Image:
    """Decode a file that `encode` returned.

    Args:
        data: The whole file.
        bundle: The bundle it was coded with, or its path. If None, or if it is another one, the default
            bundle and the folders that the environment variable AMBI_BUNDLES names are looked through.
        max_pixels: Refuse larger pictures, as protection against files you do not trust; None stands for
            the format's own limit, 16384 x 16384.
        restoration: Filter the picture where its file asks for it; False shows the plain decoding.

    Returns:
        A picture of mode L, LA, RGB or RGBA. ICC profile, EXIF and XMP are in its `info`, under Pillow's
        keys icc_profile, exif and xmp.

    Raises:
        NotAmbiFileError: the data is something else.
        UnsupportedVersionError: a newer program wrote it.
        CorruptFileError: it is truncated or damaged.
        ImageTooLargeError: it is over `max_pixels`.
        UnknownBundleError: its bundle is not at hand.
        BundleError: the bundle given cannot be used.
    """
    from ambi_rl.codec.api import decode_image
    from ambi_rl.codec.container import MAX_PIXELS

    return decode_image(
        data,
        bundle=bundle,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        restoration=restoration,
    )
