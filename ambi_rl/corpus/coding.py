"""One file from its bytes to its result, with what is worth knowing about it: the work of every command."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ambi_rl.codec.api import DEFAULT_QUALITY, EncodedImage, decode_image, encode_image
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import MAGIC, MAX_PIXELS
from ambi_rl.codec.image_io import image_to_bytes, open_image
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.target import Attempt, Target, encode_to_target
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.errors import UnsupportedImageError


@dataclass(frozen=True)
class EncodeSettings:
    """How pictures are encoded.

    Attributes:
        bundle: The codec bundle.
        quality: 1…100, where there is no target.
        target: What the file should meet instead.
        effort: 0…9.
        strategist: Name of a strategist; the effort's if None.
        strip: Leave out ICC, EXIF and XMP.
        restoration: Have pictures filtered after decoding if the bundle can.
        tiles: Divide large pictures.
        measure: Compute the PSNR, for those who read it; without, it is None among the facts.
    """

    bundle: Bundle = field(repr=False)
    quality: float = DEFAULT_QUALITY
    target: Target | None = None
    effort: int = 5
    strategist: str | None = None
    strip: bool = False
    restoration: bool = True
    tiles: bool = True
    measure: bool = True

    def facts(self) -> dict[str, Any]:
        """All that decides what is written; JSON types only. Equal facts and pictures make equal files."""
        aim = self.target
        return {
            "bundle_id": self.bundle.id,
            "encoder_id": self.bundle.encoder_id,
            "quality": self.quality if aim is None else None,
            "target": None if aim is None else {"kind": aim.kind, "value": aim.value},
            "effort": self.effort,
            "strategist": self.strategist,
            "strip": self.strip,
            "restoration": self.restoration,
            "tiles": self.tiles,
        }


@dataclass(frozen=True)
class DecodeSettings:
    """How files are decoded.

    Attributes:
        bundle: Tried first; the default bundle and AMBI_BUNDLES follow.
        max_pixels: Refuse larger pictures.
        restoration: Filter pictures where the file asks for it.
        image_format: Pillow's name of the format to write.
    """

    bundle: Bundle | None = field(repr=False)
    max_pixels: int = MAX_PIXELS
    restoration: bool = True
    image_format: str = "PNG"


@dataclass(frozen=True)
class Result:
    """What becomes of a file.

    Attributes:
        data: To be written.
        facts: About it; JSON types only.
    """

    data: bytes = field(repr=False)
    facts: dict[str, Any]


class _OwnPixelLimit:
    """While it is entered, the format's own limit on the size holds, not Pillow's, which is lower.

    The user named the file. Pillow's is a variable of its module: it is put back for the rest of the process,
    by whichever thread is the last to leave.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = Image.MAX_IMAGE_PIXELS
                Image.MAX_IMAGE_PIXELS = MAX_PIXELS
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._before


_own_pixel_limit = _OwnPixelLimit()


def encode_bytes(
    data: bytes,
    name: str,
    settings: EncodeSettings,
    report: Callable[[Attempt], None] = lambda attempt: None,
) -> Result:
    """Encode a picture file's bytes; errors as for `ambi_rl.encode` and `open_image`.

    Args:
        data: The picture file.
        name: What to call it in messages.
        settings: How.
        report: Called after each encode of a search for a target.
    """
    if data.startswith(MAGIC):
        # Pillow would open it where somebody has imported our plugin.
        raise UnsupportedImageError(f"{name} is not a picture but an ambi file; decode it first")
    with _own_pixel_limit:
        image = open_image(data, name)
    ensure_compiled("encode", report=announce)
    start = time.perf_counter()
    attempts = 1
    restoration = None if settings.restoration else False
    if settings.target is None:
        encoded = encode_image(
            image,
            quality=settings.quality,
            effort=settings.effort,
            bundle=settings.bundle,
            strategist=settings.strategist,
            strip=settings.strip,
            restoration=restoration,
            tiles=settings.tiles,
        )
    else:
        found = encode_to_target(
            image,
            settings.target,
            effort=settings.effort,
            bundle=settings.bundle,
            strategist=settings.strategist,
            strip=settings.strip,
            restoration=restoration,
            tiles=settings.tiles,
            report=report,
        )
        encoded, attempts = found.encoded, len(found.attempts)
    seconds = time.perf_counter() - start
    return Result(encoded.data, _encode_facts(encoded, settings, len(data), seconds, attempts))


def _encode_facts(
    encoded: EncodedImage,
    settings: EncodeSettings,
    input_bytes: int,
    seconds: float,
    attempts: int,
) -> dict[str, Any]:
    container = encoded.container
    psnr = encoded.psnr() if settings.measure else math.inf
    size = len(encoded.data)
    return {
        "width": container.width,
        "height": container.height,
        "input_bytes": input_bytes,
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


def decode_bytes(data: bytes, settings: DecodeSettings) -> Result:
    """Decode an ambi file to a picture file; errors as for `ambi_rl.decode` and `image_to_bytes`."""
    ensure_compiled("decode", report=announce)
    start = time.perf_counter()
    image = decode_image(
        data,
        bundle=settings.bundle,
        max_pixels=settings.max_pixels,
        restoration=settings.restoration,
    )
    seconds = time.perf_counter() - start
    facts = {
        "width": image.width,
        "height": image.height,
        "mode": image.mode,
        "format": settings.image_format,
        "seconds": round(seconds, 3),
        "metadata": sorted(image.info),
    }
    return Result(image_to_bytes(image, settings.image_format), facts)


def encode_text(facts: dict[str, Any], *, to_target: bool) -> str:
    """How an encode went, for a line that begins with names."""
    psnr = "lossless" if facts["psnr"] is None else f"{facts['psnr']:.2f} dB"
    text = (
        f"{facts['bytes']:,} bytes, {facts['bpp']:.3f} bpp, PSNR {psnr}, {facts['seconds']:.2f} s"
    )
    if to_target:
        text += f", quality {facts['quality']:g} after {facts['attempts']} encodes"
    return text


def encode_details(facts: dict[str, Any]) -> str:
    """Two lines of what the file consists of."""
    sections = ", ".join(f"{name} {length:,}" for name, length in facts["sections"].items())
    return (
        f"strategist {facts['strategist']}, quality {facts['quality']:g}, step {facts['step']:g}, "
        f"{facts['blocks']:,} blocks, restoration {facts['restoration']}, bundle {facts['bundle_id']}"
        f"\nsections (bytes): {sections}"
    )


def decode_text(facts: dict[str, Any]) -> str:
    """How a decode went, for a line that begins with names."""
    return f"{facts['width']}x{facts['height']} {facts['mode']}, {facts['seconds']:.2f} s"


def decode_details(facts: dict[str, Any]) -> str:
    """A line on the picture's format and metadata."""
    return f"{facts['format']}, metadata: {', '.join(facts['metadata']) or 'none'}"
