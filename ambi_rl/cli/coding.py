"""What `ambi encode` and `ambi decode` ask of the block codec."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ambi_rl.codec.api import DEFAULT_QUALITY, resolve_bundle
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.target import Attempt, Target, make_target, parse_size
from ambi_rl.codec.warmup import announce
from ambi_rl.corpus.coding import DecodeSettings, EncodeSettings, tell_nobody


def _progress(target: Target) -> Callable[[Attempt], None]:
    """Tells on a terminal how the search for a target comes on."""
    count = 0

    def report(attempt: Attempt) -> None:
        nonlocal count
        count += 1
        psnr = "" if attempt.psnr is None else f", {attempt.psnr:.2f} dB"
        if sys.stderr.isatty():
            announce(
                f"target {target}, encode {count}: quality {attempt.quality:g}: "
                f"{attempt.size:,} bytes{psnr}"
            )

    return report


def encode_settings(
    *,
    quality: float | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    effort: int,
    bundle: Path | None,
    strategist: str | None,
    strip: bool,
    restoration: bool,
    tiles: bool,
    measure: bool,
    quiet: bool,
) -> EncodeSettings:
    """What the options of `ambi encode` ask for.

    Args:
        quality: 1…100; the default quality if None and there is no target.
        target_size: Bytes that a file may have, with or without a unit.
        target_bpp: Bits per pixel that a file may have.
        target_psnr: PSNR in dB that a decoded picture should reach.
        effort: 0…9.
        bundle: Bundle file; the default bundle if None.
        strategist: Name of a strategist; the effort's if None.
        strip: Leave out ICC, EXIF and XMP.
        restoration: Have the picture filtered after decoding if the bundle can.
        tiles: Divide a large picture.
        measure: Compute the PSNR.
        quiet: Do not tell how the search for a target of one file comes on.

    Raises:
        UsageError: Options exclude each other or are out of range.
        BundleError: The bundle cannot be used.
    """
    target = make_target(
        quality=quality,
        size=None if target_size is None else parse_size(target_size),
        bpp=target_bpp,
        psnr=target_psnr,
    )
    return EncodeSettings(
        bundle=resolve_bundle(bundle),
        quality=DEFAULT_QUALITY if quality is None else quality,
        target=target,
        effort=effort,
        strategist=strategist,
        strip=strip,
        restoration=restoration,
        tiles=tiles,
        measure=measure,
        report=tell_nobody if target is None or quiet else _progress(target),
    )


def decode_settings(
    *, bundle: Path | None, max_pixels: int | None, restoration: bool, image_format: str
) -> DecodeSettings:
    """What the options of `ambi decode` ask for.

    Args:
        bundle: Bundle file to try first.
        max_pixels: Refuse larger pictures; the format's limit if None.
        restoration: Filter pictures where their files ask for it.
        image_format: Pillow's name of the format to write.

    Raises:
        BundleError: The bundle cannot be used.
    """
    return DecodeSettings(
        bundle=None if bundle is None else resolve_bundle(bundle),
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        restoration=restoration,
        image_format=image_format,
    )
