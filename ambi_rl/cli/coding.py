"""`ambi encode` and `ambi decode`."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from ambi_rl.cli.streams import (
    STANDARD,
    check_output,
    print_result,
    read_input,
    write_output,
)
from ambi_rl.codec.api import DEFAULT_QUALITY, decode_image, encode_image, resolve_bundle
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.image_io import (
    format_of_suffix,
    image_to_bytes,
    open_image,
)
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.target import Attempt, Target, encode_to_target, make_target, parse_size
from ambi_rl.codec.warmup import announce, ensure_compiled


def _shown(name: str, standard: str) -> str:
    return standard if name == STANDARD else name


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


def encode_command(
    source: str,
    target: str,
    *,
    quality: float | None,
    target_size: str | None,
    target_bpp: float | None,
    target_psnr: float | None,
    effort: int,
    bundle: Path | None,
    strategist: str | None,
    overwrite: bool,
    strip: bool,
    restoration: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Encode a picture file to an ambi file and say how it went.

    Args:
        source: Picture file, or `-`.
        target: File to write, or `-`.
        quality: 1…100; the default quality if None and there is no target.
        target_size: Bytes that the file may have, with or without a unit.
        target_bpp: Bits per pixel that the file may have.
        target_psnr: PSNR in dB that the decoded picture should reach.
        effort: 0…9.
        bundle: Bundle file; the default bundle if None.
        strategist: Name of a strategist; the effort's if None.
        overwrite: Replace an existing target.
        strip: Leave out ICC, EXIF and XMP.
        restoration: Have the picture filtered after decoding if the bundle can.
        as_json: Print the result as JSON.
        verbose: Print what the file consists of.
    """
    asked = make_target(
        quality=quality,
        size=None if target_size is None else parse_size(target_size),
        bpp=target_bpp,
        psnr=target_psnr,
    )
    check_output(source, target, overwrite=overwrite)
    # The format's own limit holds here, not Pillow's, which is lower: the user named the file.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    codec = resolve_bundle(bundle)
    data = read_input(source)
    image = open_image(data, _shown(source, "stdin"))
    ensure_compiled("encode", report=announce)
    start = time.perf_counter()
    attempts = 1
    if asked is None:
        encoded = encode_image(
            image,
            quality=DEFAULT_QUALITY if quality is None else quality,
            effort=effort,
            bundle=codec,
            strategist=strategist,
            strip=strip,
            restoration=None if restoration else False,
        )
    else:
        found = encode_to_target(
            image,
            asked,
            effort=effort,
            bundle=codec,
            strategist=strategist,
            strip=strip,
            restoration=None if restoration else False,
            report=_progress(asked),
        )
        encoded, attempts = found.encoded, len(found.attempts)
    seconds = time.perf_counter() - start
    write_output(target, encoded.data, overwrite=overwrite)

    container = encoded.container
    psnr = encoded.psnr()
    size = len(encoded.data)
    values: dict[str, Any] = {
        "input": _shown(source, "stdin"),
        "output": _shown(target, "stdout"),
        "width": container.width,
        "height": container.height,
        "input_bytes": len(data),
        "bytes": size,
        "bpp": round(8 * size / (container.width * container.height), 4),
        "psnr": round(psnr, 3) if math.isfinite(psnr) else None,
        "seconds": round(seconds, 3),
        "quality": container.quality,
        "attempts": attempts,
        "step": container.step / STEP_SCALE,
        "strategist": encoded.strategist.name,
        "restoration": container.restoration.name.lower(),
        "bundle_id": container.bundle_id,
        "blocks": len(encoded.frame.decisions),
        "sections": {kind.name.lower(): len(p) for kind, p in container.sections.items()},
    }
    quality_text = "lossless" if values["psnr"] is None else f"{values['psnr']:.2f} dB"
    text = (
        f"{values['input']} {container.width}x{container.height} -> {values['output']}: "
        f"{size:,} bytes, {values['bpp']:.3f} bpp, PSNR {quality_text}, {seconds:.2f} s"
    )
    if asked is not None:
        text += f", quality {container.quality:g} after {attempts} encodes"
    if verbose:
        sections = ", ".join(f"{name} {length:,}" for name, length in values["sections"].items())
        text += (
            f"\nstrategist {values['strategist']}, quality {container.quality:g}, "
            f"step {values['step']:g}, {values['blocks']:,} blocks, "
            f"restoration {values['restoration']}, bundle {container.bundle_id}"
            f"\nsections (bytes): {sections}"
        )
    print_result(target, text, values, as_json=as_json)


def decode_command(
    source: str,
    target: str,
    *,
    bundle: Path | None,
    max_pixels: int | None,
    overwrite: bool,
    restoration: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Decode an ambi file to a picture file and say how it went.

    Args:
        source: ambi file, or `-`.
        target: Picture to write, its format by its ending, or `-` for PNG on stdout.
        bundle: Bundle file to try first.
        max_pixels: Refuse larger pictures; the format's limit if None.
        overwrite: Replace an existing target.
        restoration: Filter the picture where the file asks for it.
        as_json: Print the result as JSON.
        verbose: Print the picture's mode and metadata.
    """
    image_format = "PNG" if target == STANDARD else format_of_suffix(Path(target).suffix)
    check_output(source, target, overwrite=overwrite)
    explicit = None if bundle is None else resolve_bundle(bundle)
    data = read_input(source)
    ensure_compiled("decode", report=announce)
    start = time.perf_counter()
    image = decode_image(
        data,
        bundle=explicit,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
        restoration=restoration,
    )
    seconds = time.perf_counter() - start
    write_output(target, image_to_bytes(image, image_format), overwrite=overwrite)
    values: dict[str, Any] = {
        "input": _shown(source, "stdin"),
        "output": _shown(target, "stdout"),
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "format": image_format,
        "seconds": round(seconds, 3),
        "metadata": sorted(image.info),
    }
    text = (
        f"{values['input']} -> {values['output']}: {image.width}x{image.height} {image.mode}, "
        f"{seconds:.2f} s"
    )
    if verbose:
        text += f"\n{image_format}, metadata: {', '.join(values['metadata']) or 'none'}"
    print_result(target, text, values, as_json=as_json)
