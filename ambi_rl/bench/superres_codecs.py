"""Shrunk pictures as codecs: a base layer enlarged by a bundle's network, or by interpolation."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

import ambi_rl
from ambi_rl.bench.codecs import (
    AMBI_QUALITIES,
    QUALITY,
    Codec,
    Scale,
    bundle_hash,
    code_hash,
    library_version,
    selector_text,
)
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.errors import CorruptFileError
from ambi_rl.superres.base_layer import base_size, decode_base, encode_base, shrink
from ambi_rl.superres.bundle import SuperresBundle, load_bundle
from ambi_rl.superres.codec import decode_picture, encode_picture
from ambi_rl.superres.resample import enlarge

_SIZE = struct.Struct(">HH")
"""What a resampled file begins with: height and width of the picture."""
_QUALITIES: dict[str, tuple[float, ...]] = {
    "jpeg": (10, 20, 35, 50, 65, 80, 90, 96),
    "webp": (5, 20, 40, 60, 76, 88, 95),
    "avif": (20, 35, 50, 62, 74, 84, 93),
    "ambi": AMBI_QUALITIES,
}
"""Qualities of base layers from coarse to nearly without loss; beyond them the shrinking alone decides."""
_LABELS = {"jpeg": "JPEG", "webp": "WebP", "avif": "AVIF", "ambi": "ambi"}
_SOURCES = ("base_layer", "bundle", "codec", "graph", "resample", "stream", "upscale")
"""Modules of `ambi_rl.superres` that coding depends on; the others train."""


@dataclass(frozen=True)
class ShrunkCodec(Codec):
    """What both have in common; the setting is the quality of the base layer.

    Attributes:
        base: Format of the base layer.
    """

    base: str = "jpeg"

    def identity(self) -> str:
        """As for every codec; the source code belongs to it, and the block codec's bundle if it is used."""
        text = f"{super().identity()} code {_superres_hash()} {code_hash()}"
        return f"{text} base bundle {bundle_hash(None)}" if self.base == "ambi" else text


@dataclass(frozen=True)
class SuperresCodec(ShrunkCodec):
    """The profile superres.

    Attributes:
        bundle: Path of the bundle.
    """

    bundle: Path = Path()

    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file, without metadata."""
        bundle = superres_bundle(self.bundle)
        return encode_picture(image, bundle, base=self.base, quality=setting, strip=True).data

    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this codec."""
        return decode_picture(data, superres_bundle(self.bundle))

    def identity(self) -> str:
        """As for every codec; the bundle's content belongs to it."""
        return f"{super().identity()} bundle {superres_bundle(self.bundle).id}"


@dataclass(frozen=True)
class ResampledCodec(ShrunkCodec):
    """A base layer that is enlarged by interpolation: four bytes of size, and the base layer's file.

    Attributes:
        shrink_by: By how much sides are shrunk.
        method: Of `ambi_rl.superres.resample.FILTERS`.
    """

    shrink_by: int = 4
    method: str = "lanczos"

    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file."""
        small = shrink(np.asarray(image), self.shrink_by)
        return _SIZE.pack(image.height, image.width) + encode_base(small, self.base, setting)

    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this codec.

        Raises:
            CorruptFileError: It is damaged.
        """
        if len(data) <= _SIZE.size:
            raise CorruptFileError("the file ends before its base layer")
        height, width = _SIZE.unpack_from(data)
        sides = base_size(height, width, self.shrink_by)
        small = decode_base(data[_SIZE.size :], self.base, *sides)
        return Image.fromarray(enlarge(small, self.shrink_by, self.method)[:height, :width])


def superres(bundle: Path, *, base: str = "jpeg") -> SuperresCodec:
    """The profile superres with a bundle, named after it.

    Args:
        bundle: Its file.
        base: Format of the base layer.

    Raises:
        AmbiError: The bundle cannot be used, or onnxruntime is not installed.
    """
    content = superres_bundle(bundle)
    import onnxruntime

    library = f"onnxruntime {onnxruntime.__version__}"
    return SuperresCodec(
        f"{bundle.stem} {_LABELS[base]}",
        f"superres x{content.scale} of ambi-rl {ambi_rl.__version__}, {_base_text(base)}, {library}, "
        f"{bundle} ({content.id})",
        _QUALITIES[base],
        base,
        bundle,
        family="superres",
        selector=selector_text("superres", {"bundle": str(bundle), "base": base}),
        library=library,
        scale=_scale(base),
    )


def resampled(*, scale: int = 4, method: str = "lanczos", base: str = "jpeg") -> ResampledCodec:
    """A shrunk picture that no network enlarges: what the profile superres has to beat.

    Args:
        scale: By how much sides are shrunk, 2 or 4.
        method: "lanczos" or "bicubic".
        base: Format of the base layer.
    """
    return ResampledCodec(
        f"{method} x{scale} {_LABELS[base]}",
        f"shrunk by {scale} (bicubic), {_base_text(base)}, enlarged by Pillow ({method})",
        _QUALITIES[base],
        base,
        scale,
        method,
        family="resampled",
        selector=selector_text("resampled", {"scale": str(scale), "filter": method, "base": base}),
        library=_base_library(base),
        scale=_scale(base),
    )


@lru_cache(maxsize=16)
def superres_bundle(path: Path) -> SuperresBundle:
    """Load a bundle once, so that reading it is not part of every timing.

    Raises:
        AmbiError: It cannot be used.
    """
    return load_bundle(path)


def _scale(base: str) -> Scale:
    return Scale("base quality", QUALITY.low, QUALITY.high, 0.01 if base == "ambi" else 1)


def _base_library(base: str) -> str:
    features = {"jpeg": "libjpeg_turbo", "webp": "webp", "avif": "avif"}
    names = {"jpeg": "libjpeg-turbo", "webp": "libwebp", "avif": "libavif"}
    if base == "ambi":
        return f"ambi-rl {ambi_rl.__version__}"
    return library_version(features[base], names[base])


def _base_text(base: str) -> str:
    bundle = f", default bundle {default_bundle().id}" if base == "ambi" else ""
    return f"base layer {_LABELS[base]} ({_base_library(base)}{bundle})"


@cache
def _superres_hash() -> str:
    """Of the source of what codes, which changes more often than its version."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update((Path(ambi_rl.__file__).parent / "superres" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]
