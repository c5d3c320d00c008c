"""Files of super-resolved pictures: small headers, exact round trips, every damage answered in one line."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambi_rl.codec.container import pack_fields
from ambi_rl.codec.image_io import Metadata
from ambi_rl.errors import (
    AmbiError,
    CorruptFileError,
    ImageTooLargeError,
    NotAmbiFileError,
    UnsupportedImageError,
    UnsupportedVersionError,
    UsageError,
)
from ambi_rl.superres import stream as module
from ambi_rl.superres.base_layer import BASES, base_size, decode_base, encode_base, shrink
from ambi_rl.superres.stream import HEADER_BYTES, HEADER_FIELDS, Stream, read_stream, write_stream
from tests import superres_reference

ID = "0123456789abcdef"
PLAIN = Stream(768, 512, "webp", False, ID, b"the base layer")
FULL = Stream(
    16384, 1, "avif", True, ID, b"b", b"alpha", Metadata(b"icc" * 100, b"exif", b"xmp", 8)
)


def forged(stream: Stream, **values: int) -> bytes:
    """A file with other values in its header and a right checksum."""
    data = write_stream(stream)
    stored = {
        "version": 1,
        "base": BASES.index(stream.base),
        "gray": int(stream.gray),
        **{name: int(name in stream.chunks()) for name in module.CHUNKS},
        "orientation": stream.metadata.orientation,
        "width": stream.width,
        "height": stream.height,
        "bundle_id": int(stream.bundle_id, 16),
    }
    head = module.MAGIC + pack_fields(HEADER_FIELDS, stored | values)
    return head + module._crc(head, data[HEADER_BYTES:]) + data[HEADER_BYTES:]


@pytest.mark.parametrize("stream", [PLAIN, FULL])
def test_files_say_what_was_written(stream: Stream) -> None:
    data = write_stream(stream)
    assert read_stream(data) == stream
    assert forged(stream) == data
    told = superres_reference.read(data)
    assert (told["width"], told["height"]) == (stream.width, stream.height)
    assert (told["base"], told["gray"], told["bundle"]) == (stream.base, stream.gray, ID)
    assert told["orientation"] == stream.metadata.orientation
    assert {name: told[name] for name in module.CHUNKS if name in told} == stream.chunks()
    assert told["base layer"] == stream.base_layer


def test_what_is_not_the_base_layer_takes_22_bytes() -> None:
    assert len(write_stream(PLAIN)) == len(PLAIN.base_layer) + 22


@given(
    width=st.integers(1, 16384),
    height=st.integers(1, 16384),
    base=st.sampled_from(BASES),
    gray=st.booleans(),
    number=st.integers(0, 2**64 - 1),
    base_layer=st.binary(min_size=1, max_size=300),
    chunks=st.tuples(*[st.none() | st.binary(max_size=300)] * 4),
    orientation=st.integers(0, 8),
)
def test_any_file_round_trips(
    width: int,
    height: int,
    base: str,
    gray: bool,
    number: int,
    base_layer: bytes,
    chunks: tuple[bytes | None, ...],
    orientation: int,
) -> None:
    alpha, icc, exif, xmp = chunks
    metadata = Metadata(icc, exif, xmp, orientation)
    stream = Stream(width, height, base, gray, f"{number:016x}", base_layer, alpha, metadata)
    assert read_stream(write_stream(stream)) == stream


@pytest.mark.parametrize("stream", [PLAIN, FULL])
def test_files_that_end_at_any_byte_are_refused(stream: Stream) -> None:
    data = write_stream(stream)
    with pytest.raises(NotAmbiFileError):
        read_stream(b"")
    for length in range(1, len(data)):
        with pytest.raises(CorruptFileError, match="truncated"):
            read_stream(data[:length])
    with pytest.raises(CorruptFileError):
        read_stream(data + b"\0")


def test_every_flipped_bit_is_noticed() -> None:
    data = write_stream(PLAIN)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(AmbiError):
            read_stream(bytes(damaged))


def test_what_no_encoder_writes_is_refused_under_a_right_checksum() -> None:
    with pytest.raises(NotAmbiFileError, match="superres"):
        read_stream(b"\x8dAMB" + write_stream(PLAIN)[4:])
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        read_stream(forged(PLAIN, version=2))
    with pytest.raises(CorruptFileError, match="base = 4"):
        read_stream(forged(PLAIN, base=4))
    with pytest.raises(CorruptFileError, match="orientation = 9"):
        read_stream(forged(PLAIN, orientation=9))
    # "th" is a length of 116, more than there is.
    with pytest.raises(CorruptFileError, match="truncated"):
        read_stream(forged(PLAIN, icc=1))
    with pytest.raises(CorruptFileError, match="truncated"):
        read_stream(write_stream(replace(PLAIN, base_layer=b"")))
    with pytest.raises(CorruptFileError, match="not a number"):
        read_stream(forged(replace(PLAIN, base_layer=b"\xff" * 9), xmp=1))


def test_a_huge_picture_is_refused_by_its_header() -> None:
    data = write_stream(replace(PLAIN, width=16384, height=16384))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageTooLargeError, match="max_pixels"):
        read_stream(data, max_pixels=1 << 27)
    assert read_stream(data).width == 16384
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 10_000
    with pytest.raises(ImageTooLargeError):
        write_stream(replace(PLAIN, width=16385))
    with pytest.raises(UnsupportedImageError):
        write_stream(replace(PLAIN, width=0))


# --- The base layer ---------------------------------------------------------------------------------------


def picture(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)


@pytest.mark.parametrize("base", [base for base in BASES if base != "ambi"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_base_layers_decode_to_the_size_that_is_asked_for(base: str, size: tuple[int, int]) -> None:
    pixels = picture(*size)
    data = encode_base(pixels, base, 90)
    decoded = decode_base(data, base, *size)
    assert decoded.shape == (*size, 3)
    assert np.abs(decoded.astype(int) - pixels).mean() < 4
    for other in ((size[0] + 1, size[1]), (16384, 16384)):
        with pytest.raises(CorruptFileError, match="pixels, not"):
            decode_base(data, base, *other)
    gray = decode_base(encode_base(pixels[..., 0], base, 90), base, *size)
    assert (gray == gray[..., :1]).all()


def test_base_layers_of_another_format_or_damaged_are_refused(tmp_path: Path) -> None:
    pixels = picture(16, 16)
    for base in ("jpeg", "webp", "avif"):
        data = encode_base(pixels, base, 80)
        for other in BASES:
            if other != base:
                with pytest.raises(CorruptFileError, match="the base layer"):
                    decode_base(data, other, 16, 16)
        for length in (0, 1, 20, len(data) // 2):
            with pytest.raises(CorruptFileError, match="the base layer"):
                decode_base(data[:length], base, 16, 16)


def test_bases_that_do_not_exist_or_that_pillow_lacks_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="jpeg, webp, avif, ambi"):
        encode_base(picture(2, 2), "gif", 50)
    monkeypatch.setattr("ambi_rl.superres.base_layer.features.check", lambda name: False)
    with pytest.raises(UsageError, match="without avif"):
        encode_base(picture(2, 2), "avif", 50)


def test_shrinking_continues_sides_that_are_no_multiples() -> None:
    flat = np.full((5, 7, 3), 90, np.uint8)
    assert shrink(flat, 4).shape == (*base_size(5, 7, 4), 3) == (2, 2, 3)
    assert (shrink(flat, 4) == 90).all()
