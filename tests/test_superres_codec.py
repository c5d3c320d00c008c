"""Pictures through the super-resolving codec: every mode and size, metadata, refusals, golden files."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from ambi_rl.errors import (
    CorruptFileError,
    ImageTooLargeError,
    UnknownBundleError,
    UnsupportedImageError,
    UsageError,
)
from ambi_rl.superres.base_layer import base_size
from ambi_rl.superres.bundle import SuperresBundle, load_bundle, make_bundle
from ambi_rl.superres.codec import decode_picture, encode_picture
from ambi_rl.superres.stream import read_stream, write_stream
from tests.superres_models import enlarging, model_of, scales, tiny_bundle

GOLDEN = Path(__file__).parent / "golden" / "superres"


@pytest.fixture(scope="module", params=[2, 4])
def bundle(request: pytest.FixtureRequest) -> SuperresBundle:
    return tiny_bundle(request.param)


@pytest.fixture(scope="module")
def repeating() -> SuperresBundle:
    """A network that repeats pixels, so that it is known what comes out."""
    return make_bundle(model_of([enlarging("base", "image")], {"scales": scales(2)}), 2, 0, {})


def flat(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture of one colour; with transparency it has a ramp of it."""
    image = Image.new("RGB", size, (200, 120, 40)).convert(mode.removesuffix("A"))
    if mode.endswith("A"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(size))
    return image


@pytest.mark.parametrize("base", ["jpeg", "webp", "avif"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 31), (64, 1)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_pictures_of_every_kind_come_back_near(
    mode: str, size: tuple[int, int], base: str, repeating: SuperresBundle
) -> None:
    image = flat(mode, size)
    encoded = encode_picture(image, repeating, base=base, quality=95)
    decoded = decode_picture(encoded.data, repeating)
    assert (decoded.mode, decoded.size) == (mode, size)
    found, original = np.asarray(decoded).astype(int), np.asarray(image)
    assert np.abs(found - original).max() <= 3
    if mode.endswith("A"):
        assert np.array_equal(found[..., -1], original[..., -1])
    stream = read_stream(encoded.data)
    assert stream.gray == (mode in ("L", "LA"))
    assert (stream.width, stream.height, stream.bundle_id) == (*size, repeating.id)
    assert encoded.psnr() > 38


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    mode=st.sampled_from(["L", "LA", "RGB", "RGBA"]),
    quality=st.floats(1, 100),
    number=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_any_picture_decodes_to_its_size_mode_and_transparency(
    height: int, width: int, mode: str, quality: float, number: int
) -> None:
    bundle = load_bundle_once()
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, bands), np.uint8)
    image = Image.fromarray(pixels[..., 0] if bands == 1 else pixels)
    encoded = encode_picture(image, bundle, quality=quality)
    decoded = decode_picture(encoded.data, bundle)
    assert (decoded.mode, decoded.size) == (mode, (width, height))
    found = np.asarray(decoded)
    if mode.endswith("A"):
        assert np.array_equal(found[..., -1], pixels[..., -1])
        found = found[..., :-1].squeeze()
    assert np.array_equal(found.squeeze(), encoded.decoded().squeeze())


_loaded: list[SuperresBundle] = []


def load_bundle_once() -> SuperresBundle:
    """Of the golden files; hypothesis takes no fixtures of a function's scope."""
    if not _loaded:
        _loaded.append(load_bundle(GOLDEN / "tiny.ambic"))
    return _loaded[0]


def test_the_base_layer_has_the_shrunk_size(bundle: SuperresBundle) -> None:
    stream = encode_picture(flat("RGB", (33, 21)), bundle, base="webp").stream

    with Image.open(io.BytesIO(stream.base_layer)) as small:
        assert small.format == "WEBP"
        assert (small.height, small.width) == base_size(21, 33, bundle.scale)


def test_palettes_and_transparent_colours_are_taken(repeating: SuperresBundle) -> None:
    image = flat("RGB", (12, 9)).convert("P")
    assert decode_picture(encode_picture(image, repeating).data, repeating).mode == "RGB"
    image.info["transparency"] = 0
    assert decode_picture(encode_picture(image, repeating).data, repeating).mode == "RGBA"
    bits = Image.new("1", (12, 9), 1)
    decoded = decode_picture(encode_picture(bits, repeating).data, repeating)
    assert decoded.mode == "L"
    assert np.asarray(decoded).min() >= 252


@pytest.mark.parametrize("mode", ["I;16", "F", "CMYK", "I"])
def test_modes_that_would_lose_are_refused(mode: str, repeating: SuperresBundle) -> None:
    with pytest.raises(UnsupportedImageError, match=mode):
        encode_picture(Image.new(mode, (4, 4)), repeating)


def test_impossible_arguments_are_refused(repeating: SuperresBundle) -> None:
    for quality in (0, 101, float("nan")):
        with pytest.raises(UsageError, match="1 to 100"):
            encode_picture(flat("RGB", (4, 4)), repeating, quality=quality)
    with pytest.raises(UsageError, match="choose one of"):
        encode_picture(flat("RGB", (4, 4)), repeating, base="png")
    with pytest.raises(ImageTooLargeError):
        encode_picture(Image.new("L", (16385, 1)), repeating)


def test_metadata_is_kept_or_stripped(repeating: SuperresBundle) -> None:
    image = flat("RGB", (10, 6))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 8, "camera"
    image.info |= {"exif": exif.tobytes(), "icc_profile": b"profile", "xmp": b"<xmp/>"}
    decoded = decode_picture(encode_picture(image, repeating).data, repeating)
    assert {key: decoded.info[key] for key in ("icc_profile", "xmp")} == {
        "icc_profile": b"profile",
        "xmp": b"<xmp/>",
    }
    assert dict(decoded.getexif()) == {0x0112: 8, 0x010F: "camera"}
    stripped = decode_picture(encode_picture(image, repeating, strip=True).data, repeating)
    assert set(stripped.info) == {"exif"}
    assert dict(stripped.getexif()) == {0x0112: 8}
    assert stripped.size == image.size


def test_damage_behind_a_right_checksum_is_refused(repeating: SuperresBundle) -> None:
    stream = encode_picture(flat("RGBA", (30, 20)), repeating).stream
    for damaged in (
        replace(stream, base_layer=stream.base_layer[:-30]),
        replace(stream, base_layer=b"\0"),
        replace(stream, base="webp"),
        replace(stream, width=16384, height=16384),
        replace(stream, width=stream.width + 2),
        replace(stream, alpha=b"\1x"),
    ):
        with pytest.raises(CorruptFileError):
            decode_picture(write_stream(damaged), repeating)
    with pytest.raises(ImageTooLargeError):
        decode_picture(write_stream(stream), repeating, max_pixels=599)


def test_a_file_needs_its_own_bundle(
    bundle: SuperresBundle, repeating: SuperresBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    data = encode_picture(flat("RGB", (8, 8)), bundle).data
    for other in (None, repeating):
        with pytest.raises(UnknownBundleError, match=bundle.id):
            decode_picture(data, other)


def test_the_golden_file_decodes_as_it_always_did() -> None:
    data = (GOLDEN / "alpha.ambi").read_bytes()
    bundle = load_bundle(GOLDEN / "tiny.ambic")
    stream = read_stream(data)
    assert (stream.width, stream.height, stream.base) == (51, 43, "jpeg")
    assert stream.bundle_id == bundle.id == "2ca56a219de99303"
    assert stream.metadata.orientation == 6
    assert write_stream(stream) == data
    decoded = decode_picture(data, bundle)
    with Image.open(GOLDEN / "alpha.png") as expected:
        difference = np.asarray(decoded).astype(int) - np.asarray(expected)
        assert np.abs(difference).max() <= 1
        assert not difference[..., 3].any()
        assert decoded.info["icc_profile"] == expected.info["icc_profile"]


def test_decoding_needs_neither_torch_nor_onnx_nor_the_block_codecs_compiler() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'numba', 'gymnasium'): sys.modules[name] = None\n"
        "from ambi_rl.superres.codec import decode_picture\n"
        f"data = open({str(GOLDEN / 'alpha.ambi')!r}, 'rb').read()\n"
        f"print(decode_picture(data, {str(GOLDEN / 'tiny.ambic')!r}).size)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(51, 43)\n"
