"""What is measured: ambi with a given strategist, and the peers, all behind one small interface."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, features

from ambi_rl.codec.api import EncodedImage, decode_image, encode_image
from ambi_rl.codec.bundle import Bundle, default_bundle, load_bundle
from ambi_rl.codec.strategists import Strategist
from ambi_rl.errors import UsageError

AMBI_QUALITIES = (22, 30, 42, 56, 69, 79, 86, 91)
"""Qualities whose dataset-mean PSNR on the Kodak pictures spans more than 29…40 dB."""


@dataclass(frozen=True)
class Codec(ABC):
    """A codec with everything fixed but one setting that trades rate for quality.

    Attributes:
        name: Short, unique within a benchmark.
        description: The options it runs with, and its version.
        settings: The values of its setting to measure, from the smallest files to the largest.
    """

    name: str
    description: str
    settings: tuple[float, ...]

    @abstractmethod
    def encode(self, image: Image.Image, setting: float) -> bytes:
        """Code an RGB picture as a complete file."""

    @abstractmethod
    def decode(self, data: bytes) -> Image.Image:
        """Decode a file of this codec to an RGB picture."""


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


def ambi_codec(
    *,
    strategist: str | None = None,
    effort: int = 9,
    bundle: Path | None = None,
    qualities: tuple[float, ...] = AMBI_QUALITIES,
    restoration: bool = True,
) -> AmbiCodec:
    """This project's codec, named after who decides."""
    who = f"-e {effort}" if strategist is None else strategist
    if not restoration:
        who += " plain"
    file = "default bundle" if bundle is None else str(bundle)
    return AmbiCodec(
        f"ambi {who}",
        f"ambi, {who}, {file}",
        qualities,
        strategist,
        effort,
        bundle,
        restoration,
    )


def jpeg(*, full_chroma: bool = False) -> PillowPeer:
    """JPEG with optimized Huffman tables, chroma at half (4:2:0) or at full resolution (4:4:4)."""
    sampling = "4:4:4" if full_chroma else "4:2:0"
    return PillowPeer(
        f"JPEG {sampling}",
        f"{_version('libjpeg_turbo', 'libjpeg-turbo')}, {sampling}, optimized Huffman tables",
        (12, 20, 35, 50, 65, 77, 86, 92, 95, 97)
        if full_chroma
        else (12, 20, 35, 50, 65, 77, 86, 92, 95, 98),
        options={"optimize": True, "subsampling": sampling},
    )


def webp(*, method: int = 6) -> PillowPeer:
    """Lossy WebP, at its slowest method unless another (0…6) is asked for."""
    return PillowPeer(
        "WebP" if method == 6 else f"WebP m{method}",
        f"{_version('webp', 'libwebp')}, method {method}",
        (5, 20, 40, 60, 76, 85, 91, 95, 98),
        format="WEBP",
        options={"method": method},
    )


def avif(*, speed: int = 4) -> PillowPeer:
    """AVIF 4:4:4, tuned for PSNR, on one thread, at speed 4 unless another (0…10) is asked for."""
    return PillowPeer(
        "AVIF 4:4:4" if speed == 4 else f"AVIF 4:4:4 s{speed}",
        f"{_version('avif', 'libavif')}, 4:4:4, speed {speed}, tune=psnr",
        (14, 26, 37, 50, 61, 70, 78, 85),
        format="AVIF",
        options={
            "subsampling": "4:4:4",
            "speed": speed,
            "max_threads": 1,
            "advanced": {"tune": "psnr"},
        },
    )


def jpeg2000() -> PillowPeer:
    """JPEG 2000 with the 9/7 wavelet and code blocks of 64x64; the setting is the target PSNR in dB."""
    return PillowPeer(
        "JPEG 2000",
        f"{_version('jpg_2000', 'OpenJPEG')}, 9/7 wavelet, component transform, target PSNR",
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
    )


def jpeg_xl() -> JpegXlPeer:
    """JPEG XL at effort 7."""
    import imagecodecs

    return JpegXlPeer(
        "JPEG XL",
        f"{imagecodecs.jpegxl_version()}, effort 7",
        (-10.0, -7.0, -5.0, -3.5, -2.4, -1.6, -1.0, -0.6, -0.4),
    )


PEERS = {
    "jpeg": jpeg,
    "jpeg444": lambda: jpeg(full_chroma=True),
    "webp": webp,
    "avif": avif,
    "jpeg2000": jpeg2000,
    "jxl": jpeg_xl,
}
"""Makers of the peers, by the names that a command line takes."""


def peer(name: str) -> Codec:
    """A peer by name.

    Raises:
        UsageError: There is no such peer, or this installation cannot write its format.
    """
    if name not in PEERS:
        raise UsageError(f"there is no peer {name!r}; choose among {', '.join(PEERS)}")
    feature = {"webp": "webp", "avif": "avif", "jpeg2000": "jpg_2000"}.get(name)
    if feature is not None and not features.check(feature):
        raise UsageError(f"this installation of Pillow cannot write {name}; leave that peer out")
    try:
        made: Codec = PEERS[name]()
    except ModuleNotFoundError as error:
        raise UsageError(
            f"peer {name} needs the module {error.name}; install ambi-rl[bench]"
        ) from error
    return made


@lru_cache(maxsize=4)
def _bundle(path: Path | None) -> Bundle:
    """Load a bundle once, so that reading it is not part of every timing."""
    return default_bundle() if path is None else load_bundle(path)


def _version(feature: str, library: str) -> str:
    return f"{library} {features.version(feature)}"
