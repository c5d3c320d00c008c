"""`ambi encode` and `ambi decode`."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ambi_rl.cli.streams import (
    STANDARD,
    check_output,
    print_result,
    read_input,
    write_output,
)
from ambi_rl.codec.api import EncodedImage, decode_image, encode_image, resolve_bundle
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.image_io import (
    format_of_suffix,
    image_from_raster,
    image_to_bytes,
    open_image,
)
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.metrics import psnr


def _shown(name: str, standard: str) -> str:
    return standard if name == STANDARD else name


def _psnr(encoded: EncodedImage) -> float | None:
    """PSNR in dB over gray or RGB samples, alpha left out; None if nothing was lost."""
    source = image_from_raster(encoded.source)
    mode = "L" if source.mode in ("L", "LA") else "RGB"
    value = psnr(
        np.asarray(source.convert(mode)),
        np.asarray(encoded.decoded().convert(mode)),
    )
    return round(float(value), 3) if math.isfinite(value) else None


def encode_command(
    source: str,
    target: str,
    *,
    quality: float,
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
        quality: 1…100.
        effort: 0…9.
        bundle: Bundle file; the default bundle if None.
        strategist: Name of a strategist; the effort's if None.
        overwrite: Replace an existing target.
        strip: Leave out ICC, EXIF and XMP.
        restoration: Have the picture filtered after decoding if the bundle can.
        as_json: Print the result as JSON.
        verbose: Print what the file consists of.
    """
    check_output(source, target, overwrite=overwrite)
    # The format's own limit holds here, not Pillow's, which is lower: the user named the file.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    codec = resolve_bundle(bundle)
    data = read_input(source)
    image = open_image(data, _shown(source, "stdin"))
    ensure_compiled("encode", report=announce)
    start = time.perf_counter()
    encoded = encode_image(
        image,
        quality=quality,
        effort=effort,
        bundle=codec,
        strategist=strategist,
        strip=strip,
        restoration=None if restoration else False,
    )
    seconds = time.perf_counter() - start
    write_output(target, encoded.data, overwrite=overwrite)

    container = encoded.container
    size = len(encoded.data)
    values: dict[str, Any] = {
        "input": _shown(source, "stdin"),
        "output": _shown(target, "stdout"),
        "width": container.width,
        "height": container.height,
        "input_bytes": len(data),
        "bytes": size,
        "bpp": round(8 * size / (container.width * container.height), 4),
        "psnr": _psnr(encoded),
        "seconds": round(seconds, 3),
        "quality": container.quality,
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
