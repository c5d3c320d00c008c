"""The block codec's part of the commands: one file from its bytes to its result, and facts about it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ambi_rl.codec.api import DEFAULT_QUALITY, EncodedImage, decode_image, encode_image
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.target import Attempt, Target, encode_to_target
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.corpus.settings import Result, open_picture, sizes_text, written_picture


def tell_nobody(attempt: Attempt) -> None:
    """What is done with attempts that nobody wants to hear of."""


@dataclass(frozen=True)
class EncodeSettings:
    """How pictures are encoded by the block codec; an `Encoding`.

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
        report: Called after each encode of a search for a target.
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
    report: Callable[[Attempt], None] = field(default=tell_nobody, repr=False, compare=False)

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

    def prepare(self) -> None:
        """See `Encoding`."""
        ensure_compiled("encode", report=announce)

    def encode(self, data: bytes, name: str) -> Result:
        """See `Encoding`."""
        return encode_bytes(data, name, self)

    def text(self, facts: dict[str, Any]) -> str:
        """See `Encoding`."""
        return encode_text(facts, to_target=self.target is not None)

    def details(self, facts: dict[str, Any]) -> str:
        """See `Encoding`."""
        return encode_details(facts)


@dataclass(frozen=True)
class DecodeSettings:
    """How files are decoded by the block codec; a `Decoding`.

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

    def prepare(self) -> None:
        """See `Decoding`."""
        ensure_compiled("decode", report=announce)

    def decode(self, data: bytes) -> Result:
        """See `Decoding`."""
        return decode_bytes(data, self)


def encode_bytes(data: bytes, name: str, settings: EncodeSettings) -> Result:
    """Encode a picture file's bytes; errors as for `ambi_rl.encode` and `open_image`.

    Args:
        data: The picture file.
        name: What to call it in messages.
        settings: How.
    """
    image = open_picture(data, name)
    settings.prepare()
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
            report=settings.report,
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
    settings.prepare()

    def decode() -> Image.Image:
        return decode_image(
            data,
            bundle=settings.bundle,
            max_pixels=settings.max_pixels,
            restoration=settings.restoration,
        )

    return written_picture(decode, settings.image_format)


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
    return (
        f"strategist {facts['strategist']}, quality {facts['quality']:g}, step {facts['step']:g}, "
        f"{facts['blocks']:,} blocks, restoration {facts['restoration']}, bundle {facts['bundle_id']}"
        f"\nsections (bytes): {sizes_text(facts['sections'])}"
    )
