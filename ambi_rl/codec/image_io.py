"""Between Pillow pictures and the codec's planes, alpha and metadata."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, PngImagePlugin

from ambi_rl.codec.color import gray_to_planes, planes_to_gray, planes_to_rgb, rgb_to_planes
from ambi_rl.codec.container import Container, Section, check_size
from ambi_rl.errors import (
    AmbiError,
    CorruptFileError,
    ImageTooLargeError,
    UnsupportedImageError,
    UsageError,
)

_EXIF_PREFIX = b"Exif\x00\x00"
_XMP_KEY = "XML:com.adobe.xmp"
_XMP_TAG = 700

_TIFF_EXIF_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Orientation,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
"""What of a TIFF's own tags describes the photograph rather than the layout of the file."""

_LOSSLESS_MODES = {
    "1": ("L", "LA"),
    "L": ("L", "LA"),
    "LA": ("LA", "LA"),
    "P": ("RGB", "RGBA"),
    "PA": ("RGBA", "RGBA"),
    "RGB": ("RGB", "RGBA"),
    "RGBX": ("RGB", "RGBA"),
    "RGBA": ("RGBA", "RGBA"),
}
"""Pillow modes that convert without loss, and what to: without and with a transparent colour."""

_MODE_HINTS = {
    "CMYK": "convert it to RGB through its ICC profile first",
    "YCbCr": 'convert it with image.convert("RGB") first',
    "LAB": "convert it to RGB through its ICC profile first",
    "HSV": 'convert it with image.convert("RGB") first',
    "La": "undo the premultiplied alpha first",
    "RGBa": "undo the premultiplied alpha first",
}
_EIGHT_BITS = "the codec codes 8 bits a sample: convert it to 8-bit gray or RGB first"

_SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {},
    # Uncompressed: with a compression Pillow cannot write the Exif folder.
    "TIFF": {},
    "WEBP": {"lossless": True, "exact": True},
    "JPEG": {"quality": 95, "subsampling": 0},
    "BMP": {},
    "PPM": {},
}
_SUFFIXES = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".ppm": "PPM",
    ".pgm": "PPM",
}
_ALPHA_FORMATS = ("PNG", "TIFF", "WEBP")


@dataclass(frozen=True)
class Metadata:
    """What comes with a picture besides pixels.

    Attributes:
        icc: ICC profile, or None.
        exif: EXIF as a TIFF structure without the "Exif" prefix, or None.
        xmp: XMP packet, or None.
        orientation: EXIF orientation 1…8, 0 if unknown. Pixels are never rotated.
    """

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    orientation: int = 0

    def stripped(self) -> Metadata:
        """Only what the picture cannot be shown rightly without: its orientation."""
        return Metadata(orientation=self.orientation)


@dataclass(frozen=True)
class Samples:
    """A picture as its 8-bit samples.

    Attributes:
        pixels: uint8 [H, W] if it is gray, [H, W, 3] if it is RGB.
        alpha: uint8 [H, W], or None.
        metadata: ICC, EXIF, XMP and orientation.
    """

    pixels: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.uint8] | None = None
    metadata: Metadata = Metadata()


@dataclass(frozen=True)
class Raster:
    """A picture as the codec sees it.

    Attributes:
        planes: int16 [P, H, W], 10 bits; P is 3 (Y, Cb, Cr) or 1 (gray).
        alpha: uint8 [H, W], or None.
        metadata: ICC, EXIF, XMP and orientation.
    """

    planes: npt.NDArray[np.int16]
    alpha: npt.NDArray[np.uint8] | None = None
    metadata: Metadata = Metadata()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what Pillow raises while a picture is opened and decoded into errors that name it.

    Args:
        name: What to call the picture.

    Raises:
        UnsupportedImageError: Not a picture.
        ImageTooLargeError: Over Pillow's own limit.
        CorruptFileError: The file is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except AmbiError as error:
        raise type(error)(f"{name}: {error}") from error
    except Image.UnidentifiedImageError:
        raise UnsupportedImageError(
            f"{name} is not a picture that Pillow can read; give a PNG, JPEG, WebP or TIFF"
        ) from None
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name}: {error}; scale it down or cut it into tiles") from error
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's parsers answer damaged files with many kinds of exception.
        raise CorruptFileError(f"{name} is damaged: {_first_line(error)}") from error


def open_image(data: bytes, name: str = "the input") -> Image.Image:
    """Open and fully load a picture file that Pillow knows.

    Args:
        data: The file's bytes.
        name: What to call it in messages.

    Raises:
        UnsupportedImageError: not a picture, or one that would lose by 8-bit coding.
        ImageTooLargeError: over 16384 pixels a side, or over Pillow's own limit.
        CorruptFileError: the file is damaged.
    """
    with reading(name):
        image = Image.open(io.BytesIO(data))
        check_image(image)
        _load(image)
    return image


def _load(image: Image.Image) -> None:
    """Decode the pixels of a picture that Pillow has only opened so far."""
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders answer damaged files with many kinds of exception.
        raise CorruptFileError(f"the image is damaged: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def check_image(image: Image.Image) -> None:
    """Refuse what the codec could not code without losing more than its quantization.

    Raises:
        UnsupportedImageError: 16 bits, CMYK, floating point, premultiplied alpha, animation…
        ImageTooLargeError: over 16384 pixels a side.
    """
    check_size(*image.size)
    if image.mode not in _LOSSLESS_MODES:
        hint = _MODE_HINTS.get(image.mode, _EIGHT_BITS)
        raise UnsupportedImageError(f"the image has Pillow mode {image.mode!r}: {hint}")
    # Pillow reads 16-bit colour as 8 bits without a word; the tiles of a file not yet loaded tell.
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", None) or ()):
        raise UnsupportedImageError(f"the image has 16 bits a sample: {_EIGHT_BITS}")
    # The further pictures of an MPO are previews or depth maps of the first one.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UnsupportedImageError(
            f"the image has {frames} frames or pages: save one of them as a file of its own first"
        )


def _read_metadata(image: Image.Image) -> Metadata:
    exif_bytes = image.info.get("exif")
    orientation = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif = image.getexif()
        orientation = int(exif.get(ExifTags.Base.Orientation, 0))
        if exif_bytes is None and image.format == "TIFF":
            exif_bytes = _exif_of_tiff(exif)
    except Exception:
        # Cameras and editors write broken EXIF; it is kept as it is and does not stop the picture.
        orientation = 0
    xmp = image.info.get("xmp") or image.info.get(_XMP_KEY)
    return Metadata(
        icc=_as_bytes(image.info.get("icc_profile")),
        exif=(_as_bytes(exif_bytes) or b"").removeprefix(_EXIF_PREFIX) or None,
        xmp=_as_bytes(xmp),
        orientation=orientation if 1 <= orientation <= 8 else 0,
    )


def _exif_of_tiff(tags: Image.Exif) -> bytes | None:
    exif = Image.Exif()
    for tag in _TIFF_EXIF_TAGS:
        if tag in tags:
            exif[tag] = tags[tag]
    for folder in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = tags.get_ifd(folder)
        if values:
            exif.get_ifd(folder).update(values)
    return exif.tobytes() if len(exif) else None


def _as_bytes(value: Any) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    return bytes(value) if isinstance(value, bytes | bytearray) and value else None


def samples_from_image(image: Image.Image) -> Samples:
    """Take the samples of a Pillow picture of mode 1, L, LA, P, RGB, RGBX or RGBA without loss.

    Palettes become RGB, transparent colours and palettes with transparency become an alpha plane.

    Raises:
        UnsupportedImageError: see `check_image`.
        ImageTooLargeError: see `check_image`.
        CorruptFileError: the file the picture is still to be read from is damaged.
    """
    check_image(image)
    _load(image)
    metadata = _read_metadata(image)
    mode = _LOSSLESS_MODES[image.mode][image.has_transparency_data]
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    gray = mode in ("L", "LA")
    return Samples(
        pixels=pixels if mode == "L" else pixels[..., 0] if gray else pixels[..., :3],
        alpha=np.ascontiguousarray(pixels[..., -1]) if mode in ("LA", "RGBA") else None,
        metadata=metadata,
    )


def image_from_samples(samples: Samples) -> Image.Image:
    """Make a Pillow picture of mode L, LA, RGB or RGBA of samples.

    Metadata is in `image.info` under Pillow's keys, see `info_of_metadata`.
    """
    pixels = samples.pixels
    if samples.alpha is not None:
        pixels = np.dstack([pixels, samples.alpha])
    image = Image.fromarray(pixels)
    image.info.update(info_of_metadata(samples.metadata))
    return image


def raster_from_image(image: Image.Image) -> Raster:
    """Convert a Pillow picture to planes without loss; modes and errors as for `samples_from_image`."""
    samples = samples_from_image(image)
    to_planes = gray_to_planes if samples.pixels.ndim == 2 else rgb_to_planes
    return Raster(to_planes(samples.pixels), samples.alpha, samples.metadata)


def image_from_raster(raster: Raster) -> Image.Image:
    """Convert planes and alpha to a Pillow picture, see `image_from_samples`."""
    from_planes = planes_to_gray if raster.planes.shape[0] == 1 else planes_to_rgb
    return image_from_samples(Samples(from_planes(raster.planes), raster.alpha, raster.metadata))


def metadata_of_container(container: Container) -> Metadata:
    """The metadata that a file holds."""
    return Metadata(
        icc=container.sections.get(Section.ICC),
        exif=container.sections.get(Section.EXIF),
        xmp=container.sections.get(Section.XMP),
        orientation=container.orientation,
    )


def info_of_metadata(metadata: Metadata) -> dict[str, bytes]:
    """What Pillow has in `image.info` of metadata: icc_profile, exif and xmp, if there are any.

    Where there is no EXIF but an orientation, an EXIF with just that is made.
    """
    exif = metadata.exif
    if exif is None and metadata.orientation:
        oriented = Image.Exif()
        oriented[ExifTags.Base.Orientation] = metadata.orientation
        exif = oriented.tobytes().removeprefix(_EXIF_PREFIX)
    values = {
        "icc_profile": metadata.icc,
        "exif": _EXIF_PREFIX + exif if exif else None,
        "xmp": metadata.xmp,
    }
    return {key: value for key, value in values.items() if value}


def format_of_suffix(suffix: str) -> str:
    """Pillow's name of the format a decoded picture is written in, from the file name's ending.

    Raises:
        UsageError: no such format is written.
    """
    if suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"pictures are not written as {suffix or 'a file without an ending'!r}; "
            f"choose one of {' '.join(_SUFFIXES)}"
        )
    return _SUFFIXES[suffix.lower()]


def image_to_bytes(image: Image.Image, image_format: str = "PNG") -> bytes:
    """Write a decoded picture with its metadata, without loss except as JPEG (quality 95, 4:4:4).

    Args:
        image: What `image_from_raster` returned.
        image_format: "PNG", "TIFF", "WEBP", "JPEG", "BMP" or "PPM".

    Raises:
        UnsupportedImageError: the format cannot hold the picture.
    """
    if image.mode in ("LA", "RGBA") and image_format not in _ALPHA_FORMATS:
        raise UnsupportedImageError(
            f"{image_format} cannot hold the picture's transparency; write a PNG, TIFF or WebP"
        )
    options = _SAVE_OPTIONS[image_format] | _metadata_options(image, image_format)
    stream = io.BytesIO()
    try:
        image.save(stream, image_format, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SyntaxError) as error:
        raise UnsupportedImageError(
            f"the picture cannot be written as {image_format} ({_first_line(error)}); write a PNG"
        ) from error
    return stream.getvalue()


def _metadata_options(image: Image.Image, image_format: str) -> dict[str, Any]:
    """Keyword arguments of `Image.save` that make a format keep the metadata."""
    if image_format in ("BMP", "PPM"):
        return {}
    options: dict[str, Any] = {k: image.info[k] for k in ("exif", "icc_profile") if k in image.info}
    xmp = image.info.get("xmp")
    if xmp is None:
        return options
    if image_format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt(_XMP_KEY, xmp)
    elif image_format == "TIFF":
        # A TIFF's tags are its EXIF, and Pillow takes them from one place only.
        exif = Image.Exif()
        exif.load(options.get("exif", b""))
        exif[_XMP_TAG] = xmp
        options["exif"] = exif
    else:
        options["xmp"] = xmp
    return options
