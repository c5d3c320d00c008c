"""`ambi_rl.encode` and `ambi_rl.decode`, whole files in memory."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ambi_rl
from ambi_rl.codec import api
from ambi_rl.codec.api import encode_image
from ambi_rl.codec.bundle import Bundle, save_bundle
from ambi_rl.codec.container import Section, read_container, write_container
from ambi_rl.codec.strategists import EFFORTS
from ambi_rl.errors import (
    AmbiError,
    BundleError,
    CorruptFileError,
    ImageTooLargeError,
    NotAmbiFileError,
    UnknownBundleError,
    UnsupportedImageError,
    UsageError,
)


def psnr(a: Image.Image, b: Image.Image) -> float:
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


@pytest.fixture(scope="module")
def small(photograph: Image.Image) -> Image.Image:
    return photograph.crop((20, 10, 67, 51))


@pytest.fixture(scope="module")
def coded(small: Image.Image) -> bytes:
    return ambi_rl.encode(small)


def test_round_trip_of_a_photograph(photograph: Image.Image) -> None:
    data = ambi_rl.encode(photograph)
    decoded = ambi_rl.decode(data)
    assert decoded.mode == "RGB"
    assert decoded.size == photograph.size
    assert psnr(decoded, photograph) > 30
    assert len(data) < photograph.width * photograph.height * 3 / 8


@pytest.mark.parametrize("effort", range(len(EFFORTS)))
def test_every_effort_decodes_to_what_the_encoder_reconstructed(
    small: Image.Image, effort: int
) -> None:
    encoded = encode_image(small, effort=effort)
    assert ambi_rl.decode(encoded.data).tobytes() == encoded.decoded().tobytes()


@pytest.mark.parametrize("strategist", ["fixed", "search", "policy", "guided"])
def test_every_strategist(small: Image.Image, strategist: str) -> None:
    encoded = encode_image(small, strategist=strategist)
    assert encoded.strategist.name == strategist
    assert psnr(ambi_rl.decode(encoded.data), small) > 20


def test_encoding_is_deterministic(small: Image.Image, coded: bytes) -> None:
    assert ambi_rl.encode(small) == coded


def test_quality_orders_size_and_psnr(small: Image.Image) -> None:
    files = [ambi_rl.encode(small, quality=q) for q in (5, 30, 75.5, 95, 100)]
    sizes = [len(data) for data in files]
    values = [psnr(ambi_rl.decode(data), small) for data in files]
    assert sizes == sorted(sizes)
    assert values == sorted(values)
    assert values[-1] > 45


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (3, 5), (31, 33), (64, 32)])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_every_size_and_mode(mode: str, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    channels = len(mode)
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    original = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    assert original.mode == mode
    decoded = ambi_rl.decode(ambi_rl.encode(original, quality=90))
    assert (decoded.mode, decoded.size) == (mode, size)
    if mode in ("LA", "RGBA"):
        assert decoded.getchannel("A").tobytes() == original.getchannel("A").tobytes()


def test_metadata_is_kept_or_stripped(small: Image.Image) -> None:
    image = small.copy()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "A Maker"
    image.info |= {"icc_profile": b"icc", "exif": exif.tobytes(), "xmp": b"<xmp/>"}
    decoded = ambi_rl.decode(ambi_rl.encode(image))
    assert decoded.size == image.size
    assert decoded.info["icc_profile"] == b"icc"
    assert decoded.info["xmp"] == b"<xmp/>"
    assert dict(decoded.getexif()) == dict(exif)
    bare = ambi_rl.decode(ambi_rl.encode(image, strip=True))
    assert set(bare.info) == {"exif"}
    assert dict(bare.getexif()) == {0x0112: 6}


def test_the_overhead_of_a_plain_file_is_small(coded: bytes) -> None:
    payload = read_container(coded).sections[Section.PICTURE]
    assert len(coded) - len(payload) <= 45


def test_another_bundle(
    small: Image.Image, plain_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    other = dataclasses.replace(plain_bundle, policy={})
    path = tmp_path / "other.ambic"
    save_bundle(other, path)
    data = ambi_rl.encode(small, bundle=path)
    assert data == ambi_rl.encode(small, bundle=other)
    with pytest.raises(UnknownBundleError, match=other.id):
        ambi_rl.decode(data)
    expected = ambi_rl.decode(data, bundle=other).tobytes()
    assert ambi_rl.decode(data, bundle=str(path)).tobytes() == expected
    monkeypatch.setenv("AMBI_BUNDLES", str(tmp_path))
    assert ambi_rl.decode(data).tobytes() == expected


def test_a_bundle_without_a_policy_cannot_do_what_needs_one(
    small: Image.Image, plain_bundle: Bundle
) -> None:
    with pytest.raises(BundleError, match="policy"):
        ambi_rl.encode(small, effort=0, bundle=dataclasses.replace(plain_bundle, policy={}))


def test_a_file_of_the_default_bundle_decodes_with_another_one_at_hand(
    coded: bytes, plain_bundle: Bundle
) -> None:
    assert ambi_rl.decode(coded, bundle=plain_bundle).size == (47, 41)


def test_wrong_arguments(small: Image.Image) -> None:
    with pytest.raises(UsageError, match="quality"):
        ambi_rl.encode(small, quality=0)
    with pytest.raises(UsageError, match="effort"):
        ambi_rl.encode(small, effort=10)
    with pytest.raises(UsageError, match="clever"):
        ambi_rl.encode(small, strategist="clever")
    with pytest.raises(UnsupportedImageError):
        ambi_rl.encode(small.convert("CMYK"))
    with pytest.raises(BundleError, match="does not exist"):
        ambi_rl.encode(small, bundle="missing.ambic")


def test_a_damaged_input_picture_is_our_error(small: Image.Image) -> None:
    stream = io.BytesIO()
    small.save(stream, "PNG")
    half = Image.open(io.BytesIO(stream.getvalue()[: len(stream.getvalue()) // 2]))
    with pytest.raises(CorruptFileError):
        ambi_rl.encode(half)


def test_other_data_and_the_caller_s_limit(coded: bytes) -> None:
    with pytest.raises(NotAmbiFileError):
        ambi_rl.decode(b"GIF89a")
    with pytest.raises(ImageTooLargeError):
        ambi_rl.decode(coded, max_pixels=1000)
    with pytest.raises(ImageTooLargeError):
        ambi_rl.decode(coded, max_pixels=0)


def test_truncation_at_every_byte_raises(coded: bytes) -> None:
    for length in range(len(coded)):
        with pytest.raises((CorruptFileError, NotAmbiFileError)):
            ambi_rl.decode(coded[:length])


def test_flipped_payload_bits_behind_forged_checksums_never_give_a_wrong_picture(
    coded: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a section's CRC is forged, the CRC of the planes notices."""
    container = read_container(coded)
    payload = container.sections[Section.PICTURE]
    right = ambi_rl.decode(coded).tobytes()
    rng = np.random.default_rng(6)
    for _ in range(60):
        flipped = bytearray(payload)
        flipped[int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        forged = dataclasses.replace(container, sections={Section.PICTURE: bytes(flipped)})
        try:
            result = ambi_rl.decode(write_container(forged))
        except AmbiError:
            continue
        assert result.tobytes() == right
    monkeypatch.setattr(api, "crc_of_planes", lambda planes: container.planes_crc ^ 1)
    with pytest.raises(CorruptFileError, match="checksum"):
        ambi_rl.decode(coded)


def test_a_wrong_step_size_or_empty_payload_is_noticed(coded: bytes) -> None:
    container = read_container(coded)
    for change in (
        {"step": container.step * 2},
        {"width": container.width + 40},
        {"sections": {Section.PICTURE: b""}},
        {"sections": {Section.PICTURE: container.sections[Section.PICTURE][:-8]}},
    ):
        forged = dataclasses.replace(container, **change)
        with pytest.raises(CorruptFileError):
            ambi_rl.decode(write_container(forged))


def test_a_huge_claim_in_a_short_file_fails_quickly(coded: bytes) -> None:
    container = read_container(coded)
    claim = dataclasses.replace(container, width=4096, height=4096)
    with pytest.raises(CorruptFileError):
        ambi_rl.decode(write_container(claim))
