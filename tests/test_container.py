"""The container keeps what it is given and refuses everything else."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambi_rl.codec import container as module
from ambi_rl.codec.container import (
    HEADER_FIELDS,
    MAGIC,
    MAX_SIDE,
    Colour,
    Container,
    Section,
    read_container,
    write_container,
)
from ambi_rl.codec.quality import MAX_STEP, MIN_STEP
from ambi_rl.errors import (
    AmbiError,
    CorruptFileError,
    ImageTooLargeError,
    NotAmbiFileError,
    UnsupportedImageError,
    UnsupportedVersionError,
)


def make(**changes: Any) -> Container:
    values: dict[str, Any] = {
        "width": 768,
        "height": 512,
        "colour": Colour.YCBCR,
        "step": 1024,
        "bundle_id": "0123456789abcdef",
        "planes_crc": 0xDEADBEEF,
        "sections": {Section.PICTURE: b"picture"},
        "quality": 75.0,
        "orientation": 6,
    }
    return Container(**values | changes)


FULL = make(
    sections={
        Section.ICC: b"icc" * 60,
        Section.EXIF: b"exif",
        Section.XMP: b"<xmp/>",
        Section.ALPHA: b"\x00\xff",
        Section.PICTURE: bytes(range(200)),
    }
)


def forged_header(**changes: int) -> bytes:
    """A file whose header has a valid checksum and whatever raw values one wants."""
    data = write_container(make())
    header_bytes = sum(f.bits for f in HEADER_FIELDS) // 8
    start, end = len(MAGIC), len(MAGIC) + header_bytes
    header = int.from_bytes(data[start:end], "big")
    shift = 0
    for f in reversed(HEADER_FIELDS):
        if f.name in changes:
            header &= ~(((1 << f.bits) - 1) << shift)
            header |= changes[f.name] << shift
        shift += f.bits
    head = data[:start] + header.to_bytes(header_bytes, "big")
    return head + zlib.crc32(head).to_bytes(4, "big") + data[end + 4 :]


@given(
    width=st.integers(1, MAX_SIDE),
    height=st.integers(1, MAX_SIDE),
    colour=st.sampled_from(Colour),
    step=st.integers(MIN_STEP, MAX_STEP),
    bundle_id=st.binary(min_size=8, max_size=8).map(bytes.hex),
    planes_crc=st.integers(0, 2**32 - 1),
    quality=st.integers(100, 10000).map(lambda q: q / 100),
    orientation=st.integers(0, 8),
    picture=st.sampled_from((Section.PICTURE, Section.TILES)),
    sections=st.dictionaries(
        st.sampled_from(sorted(set(Section) - {Section.PICTURE, Section.TILES})),
        st.binary(max_size=300),
    ),
)
def test_round_trip(picture: Section, sections: Mapping[Section, bytes], **values: Any) -> None:
    original = Container(sections={picture: b"p", **sections}, **values)
    assert read_container(write_container(original)) == original


def test_overhead_is_small() -> None:
    payload = bytes(10_000)
    data = write_container(make(sections={Section.PICTURE: payload}))
    assert len(data) - len(payload) <= 45


def test_header_is_whole_bytes_and_fields_are_distinct() -> None:
    assert sum(f.bits for f in HEADER_FIELDS) % 8 == 0
    assert len({f.name for f in HEADER_FIELDS}) == len(HEADER_FIELDS)


def test_truncation_at_every_byte_is_noticed() -> None:
    data = write_container(FULL)
    for length in range(1, len(data)):
        with pytest.raises(CorruptFileError, match="truncated"):
            read_container(data[:length])


def test_empty_and_foreign_data_are_not_ambi_files() -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n", b"AMBI", b"\x8dAMC" + bytes(60)):
        with pytest.raises(NotAmbiFileError):
            read_container(data)


def test_every_bit_flip_is_noticed() -> None:
    data = write_container(FULL)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(AmbiError) as caught:
                read_container(bytes(flipped))
            assert "\n" not in str(caught.value)


def test_an_unknown_version_is_named() -> None:
    data = bytearray(write_container(make()))
    data[len(MAGIC)] = 7
    for length in (5, 20, len(data)):
        with pytest.raises(UnsupportedVersionError, match="version 7"):
            read_container(bytes(data[:length]))


@given(st.binary(max_size=200))
def test_rubbish_after_the_magic_number_raises_our_errors_only(rubbish: bytes) -> None:
    with pytest.raises(AmbiError):
        read_container(MAGIC + rubbish)


@given(st.binary(max_size=120), st.integers(0, 255))
def test_rubbish_after_a_valid_header_raises_our_errors_only(rubbish: bytes, count: int) -> None:
    header = forged_header(sections=count)[: module._PREFIX_BYTES]
    with pytest.raises(CorruptFileError):
        read_container(header + rubbish)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("restoration", 3),
        ("colour", 2),
        ("orientation", 9),
        ("quality", 99),
        ("quality", 10001),
        ("step", MIN_STEP - 1),
        ("step", MAX_STEP + 1),
        ("sections", 0),
    ],
)
def test_impossible_header_values_with_a_valid_checksum(name: str, value: int) -> None:
    with pytest.raises(CorruptFileError):
        read_container(forged_header(**{name: value}))


def test_size_limits() -> None:
    huge = write_container(make(width=MAX_SIDE, height=MAX_SIDE))
    assert read_container(huge).width == MAX_SIDE
    with pytest.raises(ImageTooLargeError, match="16384x16384"):
        read_container(huge, max_pixels=MAX_SIDE * MAX_SIDE - 1)
    with pytest.raises(ImageTooLargeError):
        write_container(make(width=MAX_SIDE + 1))
    with pytest.raises(UnsupportedImageError):
        write_container(make(height=0))


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(CorruptFileError, match="1 bytes follow"):
        read_container(write_container(FULL) + b"\0")


def test_repeated_unknown_and_missing_sections_are_refused() -> None:
    def section(kind: int, payload: bytes) -> bytes:
        head = bytes([kind, len(payload)])
        return head + zlib.crc32(head + payload).to_bytes(4, "big") + payload

    prefix = forged_header(sections=2)[: module._PREFIX_BYTES]
    picture = section(Section.PICTURE, b"p")
    for second in (picture, section(9, b"?")):
        with pytest.raises(CorruptFileError, match="unknown or repeated"):
            read_container(prefix + picture + second)
    with pytest.raises(CorruptFileError, match="has none"):
        read_container(prefix + section(Section.ICC, b"i") + section(Section.XMP, b"x"))


def test_a_length_without_end_is_refused() -> None:
    prefix = forged_header(sections=1)[: module._PREFIX_BYTES]
    with pytest.raises(CorruptFileError, match="length"):
        read_container(prefix + bytes([Section.PICTURE]) + b"\xff" * 20)


def test_a_caller_s_mistake_is_not_a_file_error() -> None:
    with pytest.raises(ValueError, match="orientation"):
        write_container(make(orientation=16))
