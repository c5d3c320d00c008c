"""Pictures in and out of the super-resolving codec: shrink and code, decode and enlarge."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ambi_rl.codec.alpha import decode_alpha, encode_alpha
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.image_io import Samples, image_from_samples, samples_from_image
from ambi_rl.errors import UsageError
from ambi_rl.superres.base_layer import (
    Pixels,
    base_size,
    check_base,
    decode_base,
    encode_base,
    shrink,
)
from ambi_rl.superres.bundle import SuperresBundle, find_bundle, load_bundle
from ambi_rl.superres.stream import Stream, read_stream, write_stream
from ambi_rl.superres.upscale import Upscaler, require_onnxruntime

DEFAULT_BASE = "jpeg"
DEFAULT_QUALITY = 75.0

BundleLike = SuperresBundle | str | os.PathLike[str]


@dataclass(frozen=True)
class EncodedPicture:
    """Result of `encode_picture`.

    Attributes:
        data: The file.
        stream: What it says.
        source: The picture as it was given to the coder.
        bundle: What it was coded with.
    """

    data: bytes = field(repr=False)
    stream: Stream
    source: Samples = field(repr=False)
    bundle: SuperresBundle

    def decoded(self) -> Pixels:
        """What a decoder makes of it: uint8 [H, W, 3], or [H, W] if gray; runs the network."""
        return decode_pixels(self.stream, self.bundle)

    def psnr(self) -> float:
        """PSNR of what a decoder returns, in dB over 8-bit samples without alpha; inf if equal."""
        difference = self.decoded().astype(np.int32) - self.source.pixels
        error = float(np.square(difference).mean())
        return math.inf if error == 0 else 10 * math.log10(255 * 255 / error)


def resolve_bundle(bundle: BundleLike) -> SuperresBundle:
    """A bundle, of itself or of its file."""
    return bundle if isinstance(bundle, SuperresBundle) else load_bundle(bundle)


def check_quality(quality: float) -> None:
    """Refuse a quality that no base layer has.

    Raises:
        UsageError: It is not a number from 1 to 100.
    """
    if not 1 <= quality <= 100:
        raise UsageError(f"quality {quality} is not a number from 1 to 100")


def encode_picture(
    image: Image.Image,
    bundle: BundleLike,
    *,
    base: str = DEFAULT_BASE,
    quality: float = DEFAULT_QUALITY,
    strip: bool = False,
) -> EncodedPicture:
    """Encode a picture.

    Args:
        image: Of Pillow mode 1, L, LA, P, RGB, RGBX or RGBA, up to 16384 pixels a side.
        bundle: The codec bundle or its file.
        base: Format of the base layer, one of `BASES`.
        quality: Of the base layer, 1…100 on its format's own scale.
        strip: Leave out ICC profile, EXIF and XMP; orientation stays.

    Raises:
        UnsupportedImageError: The picture's mode or depth is not supported.
        ImageTooLargeError: It is over 16384 pixels a side.
        CorruptFileError: The file the picture is still to be read from is damaged.
        UsageError: The base or the quality is not possible.
        BundleError: The bundle cannot be used.
    """
    check_base(base)
    check_quality(quality)
    codec = resolve_bundle(bundle)
    samples = samples_from_image(image)
    metadata = samples.metadata.stripped() if strip else samples.metadata
    height, width = samples.pixels.shape[:2]
    stream = Stream(
        width=width,
        height=height,
        base=base,
        gray=samples.pixels.ndim == 2,
        bundle_id=codec.id,
        base_layer=encode_base(shrink(samples.pixels, codec.scale), base, quality),
        alpha=None if samples.alpha is None else encode_alpha(samples.alpha),
        metadata=metadata,
    )
    return EncodedPicture(write_stream(stream), stream, samples, codec)


def decode_pixels(
    stream: Stream, bundle: SuperresBundle, upscaler: Upscaler | None = None
) -> Pixels:
    """Decode the pixels of a parsed file, without alpha.

    Args:
        stream: The file.
        bundle: The one that its id names.
        upscaler: Its network with other threads than usual.

    Returns:
        uint8 [H, W, 3], or [H, W] if gray.

    Raises:
        CorruptFileError: The base layer is damaged or of another size or format.
        BundleError: The network fails.
    """
    small = decode_base(
        stream.base_layer, stream.base, *base_size(stream.height, stream.width, bundle.scale)
    )
    network = bundle.upscaler if upscaler is None else upscaler
    return network.enlarge(small, stream.height, stream.width, gray=stream.gray)


def decode_picture(
    data: bytes,
    bundle: BundleLike | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
) -> Image.Image:
    """Decode a file.

    Args:
        data: What `encode_picture` made.
        bundle: The bundle it was coded with, or its file; None to look in the folders of AMBI_BUNDLES.
        max_pixels: The largest picture to accept, in pixels.
        threads: See `Upscaler`.

    Returns:
        A picture of mode L, LA, RGB or RGBA; metadata is in its `info` under Pillow's keys.

    Raises:
        NotAmbiFileError: It is no such file.
        UnsupportedVersionError: Its format version is another one.
        CorruptFileError: It is truncated or damaged.
        ImageTooLargeError: The picture is over `max_pixels`.
        UnknownBundleError: Its bundle is not at hand.
        BundleError: The bundle cannot be used, or onnxruntime is not installed.
    """
    stream = read_stream(data, max_pixels=max_pixels)
    # Else a folder's bundles would be called unusable for want of it.
    require_onnxruntime()
    explicit = None if bundle is None else resolve_bundle(bundle)
    found = find_bundle(stream.bundle_id, explicit)
    # Alpha first: it is quick, and a damaged one spares the work on the picture.
    size = stream.height, stream.width
    alpha = None if stream.alpha is None else decode_alpha(stream.alpha, *size)
    upscaler = None
    if threads is not None:
        upscaler = Upscaler(found.model, found.scale, found.radius, threads)
    pixels = decode_pixels(stream, found, upscaler)
    return image_from_samples(Samples(pixels, alpha, stream.metadata))
