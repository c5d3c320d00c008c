"""What is measured: ambi with a given strategist, and the peers, all behind one small interface."""

from __future__ import annotations

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import PIL
from PIL import Image, features

import ambi_rl
from ambi_rl.codec.api import EncodedImage, decode_image, encode_image
from ambi_rl.codec.bundle import Bundle, default_bundle, load_bundle
from ambi_rl.codec.strategists import Strategist
from ambi_rl.errors import UsageError

AMBI_QUALITIES = (22, 30, 42, 56, 69, 79, 86, 91)
"""Qualities whose dataset-mean PSNR on the Kodak pictures spans more than 29…40 dB."""

Chroma = Literal["420", "444"]
Tune = Literal["default", "psnr", "ssim", "iq"]


class Scale(NamedTuple):
    """What the setting of a codec is.

    Attributes:
        label: "quality", or another word for it.
        low: The setting of the smallest files.
        high: That of the largest.
        resolution: Settings are multiples of it.
    """

    label: str
    low: float
    high: float
    resolution: float


QUALITY = Scale("quality", 1, 100, 1)


@dataclass(frozen=True)
class Codec(ABC):
    """A codec with everything fixed but one setting that trades rate for quality.

    Attributes:
        name: Short, unique within a benchmark.
        description: The options it runs with, and its version.
        settings: The values of its setting to measure, from the smallest files to the largest.
        family: Of codecs that differ in options only: "jpeg", "avif"…
        selector: What `ambi_rl.bench.selector.make_codec` makes it from; empty if nothing does.
        library: What codes, and its version, as "libavif 1.4.2".
        scale: What the setting is and may be.
    """

    name: str
    description: str
    settings: tuple[float, ...]
    family: str = field(default="", kw_only=True)
    selector: str = field(default="", kw_only=True)
    library: str = field(default="", kw_only=True)
    scale: Scale = field(default=QUALITY, kw_only=True)

    @abstractmethod
    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file."""

    @abstractmethod
    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this codec to an RGB picture."""

    def identity(self) -> str:
        """All that decides which files it writes, and how they are decoded: equal strings, equal results."""
        # Its name and which settings are measured do not matter to any one file.
        return f"{replace(self, name='', settings=())!r} Pillow {PIL.__version__}"


@dataclass(frozen=True)
class AmbiCodec(Codec):
    """This project's codec; the setting is `quality`.

    Attributes:
        strategist: Who decides, or the name; None for the one that `effort` stands for.
        effort: 0…9.
        bundle: Path of the bundle; None for the one that comes with the package.
        restoration: Filter pictures after decoding if the bundle can.
    """

    strategist: Strategist | str | None = None
    effort: int = 9
    bundle: Path | None = None
    restoration: bool = True
    family: str = field(default="ambi", kw_only=True)
    library: str = field(default=f"ambi-rl {ambi_rl.__version__}", kw_only=True)
    scale: Scale = field(default=Scale("quality", 1, 100, 0.01), kw_only=True)

    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file, without metadata."""
        return self.encode_verbosely(image, setting).data

    def encode_verbosely(self, image: Image.Image, setting: float) -> EncodedImage:
        """Code an RGB picture and return the decisions and the reconstruction besides the file."""
        return encode_image(
            image,
            quality=setting,
            effort=self.effort,
            bundle=_bundle(self.bundle),
            strategist=self.strategist,
            strip=True,
            restoration=None if self.restoration else False,
        )

    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this codec; a checksum proves the planes to be the encoder's."""
        return decode_image(data, bundle=_bundle(self.bundle))

    def identity(self) -> str:
        """As for every codec; the bundle's content and the codec's own source code belong to it."""
        return f"{super().identity()} bundle {bundle_hash(self.bundle)} code {code_hash()}"


@dataclass(frozen=True)
class PillowPeer(Codec):
    """A format that Pillow writes.

    Attributes:
        format: Pillow's name of the format.
        setting_name: The option that the setting is passed as.
        as_list: Whether that option wants a list of one value.
        options: The other options.
    """

    format: str = "JPEG"
    setting_name: str = "quality"
    as_list: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file."""
        # Pillow's formats that take a quality want an integer.
        value: object = [setting] if self.as_list else round(setting)
        buffer = io.BytesIO()
        image.save(buffer, self.format, **{self.setting_name: value}, **self.options)
        return buffer.getvalue()

    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this format."""
        with Image.open(io.BytesIO(data), formats=[self.format]) as image:
            return image.convert("RGB")


@dataclass(frozen=True)
class JpegXlPeer(Codec):
    """JPEG XL through imagecodecs (extra `bench`); the setting is the negated Butteraugli distance."""

    effort: int = 7

    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file."""
        import imagecodecs

        return bytes(
            imagecodecs.jpegxl_encode(
                np.asarray(image), distance=-setting, effort=self.effort, numthreads=1
            )
        )

    def decode(self, data: bytes) -> Image.Image:
        """Decode a JPEG XL file."""
        import imagecodecs

        return Image.fromarray(imagecodecs.jpegxl_decode(data, numthreads=1))


@dataclass(frozen=True)
class HeicPeer(Codec):
    """HEIC (HEVC in HEIF) through pillow-heif (extra `bench`).

    Attributes:
        chroma: "420" or "444".
        parameters: Of the encoder, x265.
    """

    chroma: Chroma = "420"
    parameters: Mapping[str, str] = field(default_factory=dict)

    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file."""
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image).save(
            buffer, quality=round(setting), chroma=self.chroma, enc_params=dict(self.parameters)
        )
        return buffer.getvalue()

    def decode(self, data: bytes) -> Image.Image:
        """Decode a HEIC file."""
        import pillow_heif

        return pillow_heif.open_heif(io.BytesIO(data)).to_pillow().convert("RGB")


def ambi_codec(
    *,
    strategist: str | None = None,
    effort: int = 9,
    bundle: Path | None = None,
    qualities: tuple[float, ...] = AMBI_QUALITIES,
    restoration: bool = True,
) -> AmbiCodec:
    """This project's codec, named after who decides and, if it is not the package's own, the bundle.

    Raises:
        AmbiError: The bundle cannot be used.
    """
    who = f"-e {effort}" if strategist is None else strategist
    options = {"effort": str(effort)} if strategist is None else {"strategist": strategist}
    if not restoration:
        who += " plain"
        options["restoration"] = "no"
    name, file = f"ambi {who}", "default bundle"
    if bundle is not None:
        name, file = f"{name} {bundle.stem}", str(bundle)
        options["bundle"] = str(bundle)
    return AmbiCodec(
        name,
        f"ambi-rl {ambi_rl.__version__}, {who}, {file} ({_bundle(bundle).id})",
        qualities,
        strategist,
        effort,
        bundle,
        restoration,
        selector=selector_text("ambi", options),
    )


def jpeg(*, chroma: Chroma = "420") -> PillowPeer:
    """JPEG with optimized Huffman tables, chroma at half or at full resolution."""
    sampling = _COLONS[chroma]
    library = library_version("libjpeg_turbo", "libjpeg-turbo")
    return PillowPeer(
        f"JPEG {sampling}",
        f"{library}, {sampling}, optimized Huffman tables",
        (12, 20, 35, 50, 65, 77, 86, 92, 95, 98)
        if chroma == "420"
        else (12, 20, 35, 50, 65, 77, 86, 92, 95, 97),
        options={"optimize": True, "subsampling": sampling},
        family="jpeg",
        selector=selector_text("jpeg", {"chroma": chroma}),
        library=library,
    )


def webp(*, method: int = 6) -> PillowPeer:
    """Lossy WebP, at its slowest method unless another (0…6) is asked for."""
    library = library_version("webp", "libwebp")
    return PillowPeer(
        "WebP" if method == 6 else f"WebP m{method}",
        f"{library}, method {method}",
        (5, 20, 40, 60, 76, 85, 91, 95, 98),
        format="WEBP",
        options={"method": method},
        family="webp",
        selector=selector_text("webp", {"method": str(method)}),
        library=library,
    )


def avif(*, chroma: Chroma = "444", tune: Tune = "psnr", speed: int = 4) -> PillowPeer:
    """AVIF on one thread.

    Args:
        chroma: "420" or "444".
        tune: What libaom optimizes; "default" says nothing, with libavif 1.4 that means "iq", image quality.
        speed: 0…10.
    """
    sampling = _COLONS[chroma]
    library = library_version("avif", "libavif")
    tuning = "default tune" if tune == "default" else f"tune={tune}"
    name = f"AVIF {sampling}" + ("" if tune == "default" else f" {tune}")
    options: dict[str, object] = {"subsampling": sampling, "speed": speed, "max_threads": 1}
    if tune != "default":
        options["advanced"] = {"tune": tune}
    return PillowPeer(
        name if speed == 4 else f"{name} s{speed}",
        f"{library}, {sampling}, speed {speed}, {tuning}",
        _AVIF_QUALITIES[chroma, tune == "psnr"],
        format="AVIF",
        options=options,
        family="avif",
        selector=selector_text("avif", {"chroma": chroma, "tune": tune, "speed": str(speed)}),
        library=library,
    )


def jpeg2000() -> PillowPeer:
    """JPEG 2000 with the 9/7 wavelet and code blocks of 64x64; the setting is the target PSNR in dB."""
    library = library_version("jpg_2000", "OpenJPEG")
    return PillowPeer(
        "JPEG 2000",
        f"{library}, 9/7 wavelet, component transform, target PSNR",
        (26, 28, 30, 32, 34, 36, 38, 40, 42),
        format="JPEG2000",
        setting_name="quality_layers",
        as_list=True,
        options={
            "quality_mode": "dB",
            "irreversible": True,
            "mct": 1,
            "codeblock_size": (64, 64),
            "no_jp2": True,
        },
        family="jpeg2000",
        selector="jpeg2000",
        library=library,
        scale=Scale("target PSNR in dB", 15, 60, 0.05),
    )


def jpeg_xl(*, effort: int = 7) -> JpegXlPeer:
    """JPEG XL, at effort 7 unless another (1…10) is asked for.

    Raises:
        ModuleNotFoundError: imagecodecs is missing.
    """
    import imagecodecs

    library = str(imagecodecs.jpegxl_version())
    return JpegXlPeer(
        "JPEG XL" if effort == 7 else f"JPEG XL e{effort}",
        f"{library}, effort {effort}",
        (-10.0, -7.0, -5.0, -3.5, -2.4, -1.6, -1.0, -0.6, -0.4, -0.25),
        effort,
        family="jxl",
        selector=selector_text("jxl", {"effort": str(effort)}),
        library=library,
        scale=Scale("negated Butteraugli distance", -15, -0.05, 0.05),
    )


def heic(*, chroma: Chroma = "420", tune: Tune = "default") -> HeicPeer:
    """HEIC by x265 with preset "slow".

    Args:
        chroma: "420" or "444".
        tune: "default" is libheif's, "ssim".

    Raises:
        ModuleNotFoundError: pillow-heif is missing.
        UsageError: It comes without an encoder.
    """
    import pillow_heif

    facts = pillow_heif.libheif_info()
    if not facts.get("HEIF"):
        raise UsageError("this installation of pillow-heif has no HEVC encoder; leave heic out")
    sampling = _COLONS[chroma]
    library = f"libheif {pillow_heif.libheif_version()}"
    tuning = "default tune" if tune == "default" else f"tune={tune}"
    # One thread, as all peers; the wheel's default is as many as there are cores.
    parameters = {"preset": "slow", "x265:pools": "none"}
    if tune != "default":
        parameters["tune"] = tune
    return HeicPeer(
        f"HEIC {sampling}" + ("" if tune == "default" else f" {tune}"),
        f"{library}, {facts['HEIF']}, {sampling}, preset slow, {tuning}",
        (8, 18, 28, 38, 48, 58, 66) if chroma == "444" else (8, 18, 28, 38, 48, 58, 70, 84),
        chroma,
        parameters,
        family="heic",
        selector=selector_text("heic", {"chroma": chroma, "tune": tune}),
        library=library,
    )


# At equal quality the tunings for similarity are some decibels below the one for PSNR, and 4:2:0 never comes
# near 40 dB of RGB.
_AVIF_QUALITIES = {
    ("444", True): (14, 26, 37, 50, 61, 70, 78, 85),
    ("444", False): (14, 28, 41, 52, 62, 72, 84, 92),
    ("420", True): (14, 26, 37, 50, 61, 70, 80, 90, 96),
    ("420", False): (14, 28, 41, 52, 62, 72, 84, 93),
}


def use_one_thread() -> None:
    """Have the peers' decoders run on one thread in this process, as their encoders always do."""
    # Their defaults; neither library has an argument for it.
    with suppress(ImportError):
        from PIL import AvifImagePlugin

        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.options.DECODE_THREADS = 1


_COLONS = {"420": "4:2:0", "444": "4:4:4"}


def selector_text(family: str, options: Mapping[str, str]) -> str:
    """The selector of a family with options."""
    return family + ":" + ",".join(f"{name}={value}" for name, value in options.items())


@lru_cache(maxsize=4)
def _bundle(path: Path | None) -> Bundle:
    """Load a bundle once, so that reading it is not part of every timing."""
    return default_bundle() if path is None else load_bundle(path)


@lru_cache(maxsize=8)
def bundle_hash(bundle: Path | None) -> str:
    """Of a bundle's file; of the one that comes with the package if it is None."""
    path = Path(ambi_rl.__file__).parent / "codec" / "default.ambic" if bundle is None else bundle
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@lru_cache(maxsize=1)
def code_hash() -> str:
    """Of the codec's source, which changes more often than its version."""
    digest = hashlib.sha256()
    for path in sorted((Path(ambi_rl.__file__).parent / "codec").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def library_version(feature: str, library: str) -> str:
    """A library of Pillow's by its name and version, such as "libwebp 1.6.0".

    Args:
        feature: What `PIL.features` calls it.
        library: Its name.
    """
    return f"{library} {features.version(feature)}"
