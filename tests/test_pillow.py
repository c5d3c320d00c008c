"""Pillow opens and saves .ambi as it does its own formats, and imageio through Pillow."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import imageio.v2
import imageio.v3
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageChops, ImageFile, ImageOps, ImageSequence
from typer.testing import CliRunner

import ambi_rl
import ambi_rl.imageio
import ambi_rl.pillow
from ambi_rl.cli.app import app
from ambi_rl.codec import api
from ambi_rl.codec.bundle import Bundle, save_bundle
from ambi_rl.codec.container import read_container, write_container

NEW_PROCESS = """
import json, sys
from PIL import Image
import ambi_rl.pillow
image = Image.open(sys.argv[1])
facts = [image.format, image.mode, image.size, sorted(image.info)]
print(json.dumps([facts, sorted(m.partition(".")[0] for m in sys.modules)]))
"""


def small_copy(photograph: Image.Image, mode: str = "RGB") -> Image.Image:
    """A piece of the photograph, with a slanted transparency where the mode has one."""
    image = photograph.crop((20, 10, 67, 51))
    if mode.endswith("A"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image.convert(mode)


@pytest.fixture(scope="module")
def source(photograph: Image.Image) -> Image.Image:
    return small_copy(photograph, "RGBA")


@pytest.fixture(scope="module")
def exif() -> Image.Exif:
    values = Image.Exif()
    values[ExifTags.Base.Orientation] = 6
    values[ExifTags.Base.Make] = "A Maker"
    return values


@pytest.fixture(scope="module")
def path(source: Image.Image, exif: Image.Exif, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("pillow") / "picture.ambi"
    source.save(where, quality=80, effort=3, exif=exif, icc_profile=b"icc", xmp=b"<xmp/>")
    return where


def test_what_is_registered() -> None:
    assert Image.registered_extensions()[".ambi"] == "AMBI"
    assert Image.MIME["AMBI"] == "image/x-ambi"
    assert {"AMBI"} <= set(Image.OPEN) & set(Image.SAVE)


def test_opening_tells_everything_but_pixels_without_decoding(
    path: Path, source: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded too early")

    monkeypatch.setattr(api, "decode_image", refuse)
    with Image.open(path) as image:
        assert isinstance(image, ambi_rl.pillow.AmbiImageFile)
        assert (image.format, image.mode, image.size) == ("AMBI", "RGBA", source.size)
        assert image.get_format_mimetype() == "image/x-ambi"
        assert image.info["icc_profile"] == b"icc"
        assert image.info["xmp"] == b"<xmp/>"
        assert image.getexif()[ExifTags.Base.Make] == "A Maker"
        with pytest.raises(AssertionError, match="too early"):
            image.load()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pixels_are_those_of_decode(mode: str, photograph: Image.Image) -> None:
    stream = io.BytesIO()
    small_copy(photograph, mode).save(stream, "AMBI", effort=2)
    decoded = ambi_rl.decode(stream.getvalue())
    stream.seek(0)
    with Image.open(stream, formats=["AMBI"]) as image:
        assert image.mode == mode
        assert image.tobytes() == decoded.tobytes()
        assert image.info == decoded.info
    assert not stream.closed


def test_saving_is_encode(source: Image.Image) -> None:
    stream = io.BytesIO()
    source.save(stream, "ambi", quality=61.5, effort=4)
    assert stream.getvalue() == ambi_rl.encode(source, quality=61.5, effort=4)


@pytest.mark.parametrize("as_bytes", [False, True])
def test_metadata_is_written_as_by_other_plugins(
    source: Image.Image, exif: Image.Exif, *, as_bytes: bool
) -> None:
    """EXIF and XMP only when given, the profile unless another one is."""
    image = source.copy()
    image.info |= {"exif": exif.tobytes(), "icc_profile": b"own", "xmp": b"<own/>"}

    def info_after(**options: Any) -> dict[str, Any]:
        stream = io.BytesIO()
        image.save(stream, "AMBI", effort=1, **options)
        with Image.open(stream) as opened:
            return {str(key): value for key, value in opened.info.items()}

    assert info_after() == {"icc_profile": b"own"}
    assert info_after(icc_profile=None) == {}
    given = info_after(exif=exif.tobytes() if as_bytes else exif, icc_profile=b"x", xmp="<y/>")
    assert given == {"icc_profile": b"x", "xmp": b"<y/>", "exif": exif.tobytes()}
    assert image.info["xmp"] == b"<own/>"


def test_ordinary_operations(path: Path, source: Image.Image, tmp_path: Path) -> None:
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        assert upright.size == source.size[::-1]
        assert ExifTags.Base.Orientation not in upright.getexif()
        image.thumbnail((16, 16))
        assert max(image.size) == 16
    with Image.open(path) as image:
        assert image.convert("L").mode == "L"
    with Image.open(path) as image:
        image.convert("RGB").save(tmp_path / "out.png")
        assert len(list(ImageSequence.Iterator(image))) == 1
        with pytest.raises(EOFError):
            image.seek(1)
    with Image.open(path) as image:
        copies = [image.copy(), copy.copy(image), pickle.loads(pickle.dumps(image))]  # noqa: S301
        for other in copies:
            assert (other.mode, other.tobytes()) == (image.mode, image.tobytes())
            assert other.info == image.info
    # A file may be written over with itself.
    again = tmp_path / "again.ambi"
    again.write_bytes(path.read_bytes())
    with Image.open(again) as image:
        image.save(again, effort=1)
    with Image.open(again) as image:
        assert image.size == source.size


def test_pictures_of_other_modes(photograph: Image.Image) -> None:
    small = small_copy(photograph)
    for image, mode in (
        (small.convert("1"), "L"),
        (small.quantize(17), "RGB"),
        (small.convert("LA").convert("PA"), "RGBA"),
    ):
        stream = io.BytesIO()
        image.save(stream, "AMBI", effort=1)
        with Image.open(stream) as opened:
            assert opened.mode == mode
    stream = io.BytesIO()
    with pytest.raises(OSError, match="CMYK"):
        small.convert("CMYK").save(stream, "AMBI")
    assert stream.getvalue() == b""


def test_a_frame_of_an_animation_can_be_saved(photograph: Image.Image) -> None:
    frames = [small_copy(photograph), small_copy(photograph).rotate(180)]
    stream, saved = io.BytesIO(), io.BytesIO()
    frames[0].save(stream, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    with Image.open(stream) as animation:
        animation.seek(1)
        animation.save(saved, "AMBI", quality=95, effort=1)
    with Image.open(saved) as image:
        difference = ImageChops.difference(image.convert("RGB"), frames[1])
    assert np.asarray(difference).mean() < 4


def test_options_out_of_range_leave_no_file(source: Image.Image, tmp_path: Path) -> None:
    for options in ({"quality": 0}, {"quality": "best"}, {"effort": 10}):
        with pytest.raises(ValueError, match=r"quality|effort"):
            source.save(tmp_path / "x.ambi", **options)
    with pytest.raises(OSError, match=r"none\.ambic does not exist"):
        source.save(tmp_path / "x.ambi", bundle=tmp_path / "none.ambic")
    assert list(tmp_path.iterdir()) == []


def test_another_bundle(
    photograph: Image.Image,
    plain_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    bundle = dataclasses.replace(plain_bundle, policy={})
    where = tmp_path / "x.ambi"
    small_copy(photograph).save(where, bundle=bundle, effort=5)
    with Image.open(where) as image, pytest.raises(OSError, match=bundle.id):
        image.load()
    expected = ambi_rl.decode(where.read_bytes(), bundle=bundle).tobytes()
    save_bundle(bundle, tmp_path / "other.ambic")
    for given in (bundle, tmp_path / "other.ambic"):
        with Image.open(where) as image:
            assert isinstance(image, ambi_rl.pillow.AmbiImageFile)
            image.bundle = given
            assert image.tobytes() == expected
    monkeypatch.setenv("AMBI_BUNDLES", str(tmp_path))
    with Image.open(where) as image:
        assert image.tobytes() == expected


def test_other_and_damaged_files(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = path.read_bytes()
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(io.BytesIO(b"nothing that anybody knows"))
    with pytest.raises(SyntaxError, match="not an ambi file"):
        ambi_rl.pillow.AmbiImageFile(io.BytesIO(b"nothing that anybody knows"))
    flipped = bytearray(data)
    flipped[-5] ^= 4
    newer = bytearray(data)
    newer[4] = 9
    for keep_going in (False, True):
        # There is no half of an arithmetic-coded picture to be had.
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", keep_going)
        for damaged, message in (
            (data[:-9], "truncated"),
            (data[:20], "truncated"),
            (bytes(flipped), "checksum"),
            (bytes(newer), "version 9"),
        ):
            with pytest.raises(OSError, match=message) as caught:
                Image.open(io.BytesIO(damaged))
            assert "\n" not in str(caught.value)


def test_damage_behind_right_checksums_shows_when_the_pixels_are_loaded(path: Path) -> None:
    container = read_container(path.read_bytes())
    forged = dataclasses.replace(container, planes_crc=container.planes_crc ^ 1)
    with Image.open(io.BytesIO(write_container(forged))) as image:
        for _ in range(2):
            with pytest.raises(OSError, match="fails its checksum"):
                image.load()


def test_verify(path: Path) -> None:
    with path.open("rb") as stream:
        image = Image.open(stream)
        image.verify()
        with pytest.raises(OSError, match="cannot load"):
            image.load()
    image = Image.open(path)
    opened = image.fp
    image.verify()
    assert opened is not None
    assert opened.closed


def test_files_are_closed(path: Path) -> None:
    with Image.open(path) as image:
        opened = image.fp
        assert opened is not None
        image.load()
        assert opened.closed
        assert image.fp is None
    with Image.open(path) as image:
        opened = image.fp
    assert opened is not None
    assert opened.closed


def test_pillow_s_limit_of_pixels(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = read_container(path.read_bytes())
    pixels = container.width * container.height
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels - 1)
    with pytest.warns(Image.DecompressionBombWarning), Image.open(path) as image:
        assert image.width == container.width
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


def test_a_claim_of_16384_pixels_a_side_is_refused_by_default(path: Path) -> None:
    container = read_container(path.read_bytes())
    huge = write_container(dataclasses.replace(container, width=16384, height=16384))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(huge))


def test_a_new_process_imports_nothing_heavy_to_open(path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", NEW_PROCESS, str(path)], capture_output=True, text=True, check=True
    )
    facts, modules = json.loads(result.stdout)
    assert facts == ["AMBI", "RGBA", [47, 41], ["exif", "icc_profile", "xmp"]]
    assert not {"torch", "gymnasium", "hydra", "numba"} & set(modules)


def test_imageio_reads_and_writes_through_pillow(path: Path, tmp_path: Path) -> None:
    with Image.open(path) as image:
        expected = np.asarray(image)
    for given in (path, path.read_bytes()):
        np.testing.assert_array_equal(imageio.v3.imread(given), expected)
    assert imageio.v3.improps(path).shape == expected.shape
    assert imageio.v3.immeta(path)["mode"] == "RGBA"
    assert imageio.v3.imread(path, mode="L").shape == expected.shape[:2]
    out = tmp_path / "out.ambi"
    imageio.v3.imwrite(out, expected, quality=90, effort=2)
    assert out.read_bytes() == ambi_rl.encode(Image.fromarray(expected), quality=90, effort=2)
    data = imageio.v3.imwrite("<bytes>", expected, extension=".ambi", quality=90, effort=2)
    assert zlib.crc32(data) == zlib.crc32(out.read_bytes())
    np.testing.assert_array_equal(imageio.v2.imread(out), imageio.v3.imread(out))


def test_the_command_line_does_not_take_coded_files_for_pictures(
    photograph: Image.Image, tmp_path: Path
) -> None:
    photograph.crop((0, 0, 16, 16)).save(tmp_path / "small.ambi", effort=0)
    names = [str(tmp_path / "small.ambi"), str(tmp_path / "again.ambi")]
    result = CliRunner().invoke(app, ["encode", *names])
    assert result.exit_code == 3
    assert "small.ambi is not a picture but an ambi file" in result.stderr
    assert not Path(names[1]).exists()
