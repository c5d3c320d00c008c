"""Pillow pictures convert without loss or are refused; metadata survives in every format."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ambi_rl.codec.image_io import (
    Metadata,
    Raster,
    format_of_suffix,
    image_from_raster,
    image_to_bytes,
    open_image,
    raster_from_image,
)
from ambi_rl.errors import (
    CorruptFileError,
    ImageTooLargeError,
    UnsupportedImageError,
    UsageError,
)

RNG = np.random.default_rng(5)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def file_of(image: Image.Image, image_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def through_the_codec(image: Image.Image) -> Image.Image:
    return image_from_raster(raster_from_image(image))


def palette(**info: Any) -> Image.Image:
    image = Image.fromarray(noise(6, 9)).convert("P", palette=Image.Palette.ADAPTIVE, colors=17)
    image.info.update(info)
    return image


def keyed(mode: str, **info: Any) -> Image.Image:
    image = Image.new(mode, (5, 4), 1 if mode == "1" else 0)
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (Image.fromarray(noise(7, 5)), "L"),
        (Image.fromarray(noise(7, 5, 2)), "LA"),
        (Image.fromarray(noise(7, 5, 3)), "RGB"),
        (Image.fromarray(noise(7, 5, 4)), "RGBA"),
        (Image.fromarray(noise(7, 5)).convert("1"), "L"),
        (Image.new("RGBX", (3, 3), (1, 2, 3, 4)), "RGB"),
        (palette(), "RGB"),
        (palette(transparency=3), "RGBA"),
        (palette(transparency=bytes([0, 128, 255])), "RGBA"),
        (palette().convert("PA"), "RGBA"),
        (keyed("L", transparency=0), "LA"),
        (keyed("1", transparency=1), "LA"),
        (keyed("RGB", transparency=(0, 0, 0)), "RGBA"),
        (Image.new("L", (1, 1), 77), "L"),
    ],
)
def test_modes_convert_without_loss(image: Image.Image, mode: str) -> None:
    result = through_the_codec(image)
    assert result.mode == mode
    assert result.tobytes() == image.convert(mode).tobytes()


@pytest.mark.parametrize(
    "mode", ["I;16", "I;16B", "I", "F", "CMYK", "YCbCr", "LAB", "HSV", "La", "RGBa"]
)
def test_lossy_modes_are_refused_with_advice(mode: str) -> None:
    with pytest.raises(UnsupportedImageError, match=r"convert|undo") as caught:
        raster_from_image(Image.new(mode, (4, 4)))
    assert f"'{mode}'" in str(caught.value)


def png_of_16_bits(colour_type: int, channels: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + payload))
        return struct.pack(">I", len(payload)) + kind + payload + crc

    rows = b"".join(b"\0" + noise(3 * 2 * channels).tobytes() for _ in range(3))
    header = struct.pack(">IIBBBBB", 3, 3, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_is_refused_although_pillow_reads_it(colour_type: int, channels: int) -> None:
    with pytest.raises(UnsupportedImageError, match="8 bits"):
        open_image(png_of_16_bits(colour_type, channels))


def test_animations_are_refused_and_their_frames_are_not() -> None:
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(3)]
    data = file_of(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(UnsupportedImageError, match="3 frames"):
        open_image(data)
    animation = Image.open(io.BytesIO(data))
    animation.seek(1)
    assert through_the_codec(animation.copy()).size == (8, 8)


def test_the_first_picture_of_an_mpo_is_taken() -> None:
    frames = [Image.fromarray(noise(8, 8, 3)) for _ in range(2)]
    data = file_of(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert through_the_codec(open_image(data)).size == (8, 8)


def test_other_files_and_damaged_pictures() -> None:
    with pytest.raises(UnsupportedImageError, match=r"x\.txt is not a picture"):
        open_image(b"hello", "x.txt")
    for image_format in ("PNG", "JPEG", "WEBP", "TIFF", "GIF"):
        data = file_of(Image.fromarray(noise(40, 40, 3)), image_format)
        with pytest.raises((CorruptFileError, UnsupportedImageError)) as caught:
            open_image(data[: len(data) // 2], "half.png")
        assert "half.png" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_too_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageTooLargeError, match="16384"):
        raster_from_image(Image.new("L", (16385, 1)))
    data = file_of(Image.new("L", (100, 100)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageTooLargeError):
        open_image(data)


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A Maker"
    exif.get_ifd(0x8769)[0x9003] = "2020:01:02 03:04:05"
    return exif.tobytes()


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_metadata_survives_reading_and_writing(image_format: str) -> None:
    original = Image.fromarray(noise(9, 8, 3))
    original.info |= {"icc_profile": b"profile" * 30, "exif": exif_of(6), "xmp": b"<x:xmpmeta/>"}
    first = raster_from_image(open_image(image_to_bytes(original, image_format)))
    assert first.metadata.icc == b"profile" * 30
    assert first.metadata.xmp == b"<x:xmpmeta/>"
    # Pillow itself turns a TIFF upright when it loads one; nobody else touches the pixels.
    turned = image_format == "TIFF"
    assert first.metadata.orientation == (0 if turned else 6)
    decoded = image_from_raster(first)
    assert decoded.size == ((9, 8) if turned else (8, 9))
    assert decoded.getexif()[0x010F] == "A Maker"
    assert decoded.getexif().get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    second = raster_from_image(open_image(image_to_bytes(decoded, image_format)))
    assert second.metadata == first.metadata


def test_orientation_is_kept_when_exif_is_stripped() -> None:
    metadata = Metadata(icc=b"i", exif=b"e", xmp=b"x", orientation=8).stripped()
    assert metadata == Metadata(orientation=8)
    planes = np.zeros((1, 2, 3), np.int16)
    assert image_from_raster(Raster(planes, None, metadata)).getexif()[0x0112] == 8


def test_broken_exif_is_kept_and_does_not_stop_the_picture() -> None:
    image = Image.fromarray(noise(4, 4, 3))
    image.info["exif"] = b"Exif\x00\x00MM\x00*\x00\x00\xff\xff broken"
    metadata = raster_from_image(image).metadata
    assert metadata.exif == b"MM\x00*\x00\x00\xff\xff broken"
    assert metadata.orientation == 0


@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("channels", [2, 4])
def test_lossless_formats_keep_alpha_and_hidden_colours(image_format: str, channels: int) -> None:
    pixels = noise(6, 5, channels)
    pixels[:3, :, -1] = 0
    image = Image.fromarray(pixels)
    written = open_image(image_to_bytes(image, image_format))
    assert written.convert(image.mode).tobytes() == image.tobytes()


@pytest.mark.parametrize("image_format", ["JPEG", "BMP", "PPM"])
def test_formats_without_alpha_refuse_it(image_format: str) -> None:
    with pytest.raises(UnsupportedImageError, match="transparency"):
        image_to_bytes(Image.new("RGBA", (2, 2)), image_format)
    assert open_image(image_to_bytes(Image.new("RGB", (2, 2)), image_format)).size == (2, 2)


def test_what_a_format_cannot_hold_is_one_line() -> None:
    image = Image.new("RGB", (2, 2))
    image.info["exif"] = bytes(70_000)
    with pytest.raises(UnsupportedImageError, match="write a PNG"):
        image_to_bytes(image, "JPEG")


def test_suffixes() -> None:
    assert format_of_suffix(".PNG") == "PNG"
    assert format_of_suffix(".jpeg") == "JPEG"
    for suffix in ("", ".gif", ".ambi"):
        with pytest.raises(UsageError, match=r"\.png"):
            format_of_suffix(suffix)
