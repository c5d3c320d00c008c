"""Streams of latents: exact for all integers, near the ideal, readable from a pipe, and robust."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ambi_rl.codec.container import varint
from ambi_rl.errors import (
    AmbiError,
    BundleError,
    CorruptFileError,
    NotAmbiFileError,
    UnsupportedVersionError,
)
from ambi_rl.neural.stream import (
    FRAMES_PER_PACKET,
    MAGIC,
    MAX_FRAMES,
    Latents,
    StreamHeader,
    StreamReader,
    StreamWriter,
    encode_latents,
)
from ambi_rl.neural.tables import (
    MAX_LENGTH,
    TOTAL,
    LatentTables,
    quantize_frequencies,
    tables_from_prior,
)
from tests import feature_reference
from tests.feature_reference import Alphabet
from tests.feature_reference import decode as decode_in_python

ID = "0123456789abcdef"
LOW, HIGH = -(2**31), 2**31 - 1
INTEGERS = st.one_of(st.integers(-12, 12), st.integers(LOW, HIGH), st.sampled_from([LOW, HIGH]))


def make_tables(minima: list[int], weights: list[list[float]]) -> LatentTables:
    """Tables of alphabets that begin at `minima`; the last weight of each is the escape's."""
    frequencies = [quantize_frequencies(np.array(w, np.float64)) for w in weights]
    return LatentTables(
        np.array(minima, np.int32),
        np.array([len(f) - 1 for f in frequencies], np.int32),
        np.concatenate(frequencies),
    )


def alphabets(tables: LatentTables) -> list[Alphabet]:
    return [
        Alphabet(int(tables.minimum[c]), tables.channel(c).tolist()) for c in range(tables.channels)
    ]


@pytest.fixture(scope="module")
def tables() -> LatentTables:
    """Three channels: a narrow one, a skewed one, and one of a single value."""
    narrow = [np.exp(-abs(k) / 2) for k in range(-9, 10)]
    skewed = [1 / (k + 1) for k in range(40)]
    return make_tables([-9, -3, 5], [[*narrow, 1e-4], [*skewed, 1e-3], [0.99, 0.01]])


@pytest.fixture(scope="module")
def latents() -> Latents:
    """150 frames of 3x2x1, a few of them far outside the tables."""
    rng = np.random.default_rng(5)
    values = rng.laplace(0, 2, (150, 3, 2, 1)).round().astype(np.int32)
    values[:, 2] = np.where(rng.random((150, 2, 1)) < 0.95, 5, values[:, 2])
    values[[3, 70, 71], 0, 0, 0] = [LOW, HIGH, -40000]
    return values


def encode(latents: Latents, tables: LatentTables, packet: int = FRAMES_PER_PACKET) -> bytes:
    return encode_latents(
        latents, tables, bundle_id=ID, frame_shape=(84, 84), frames_per_packet=packet
    )


def decode(data: bytes, tables: LatentTables, first: int = 0) -> Latents:
    reader = StreamReader(io.BytesIO(data))
    parts = list(reader.latents(tables, first=first))
    reader.check_end()
    return np.concatenate([np.empty((0, *reader.header.latent_shape), np.int32), *parts])


@st.composite
def streams(draw: st.DrawFn) -> tuple[LatentTables, Latents, int]:
    channels = draw(st.integers(1, 4))
    minima = draw(st.lists(INTEGERS, min_size=channels, max_size=channels))
    weight = st.floats(0, 1, allow_subnormal=False)
    weights = [draw(st.lists(weight, min_size=2, max_size=9)) for _ in range(channels)]
    minima = [min(low, HIGH - len(w)) for low, w in zip(minima, weights, strict=True)]
    shape = draw(st.tuples(st.integers(0, 6), *[st.integers(1, 3)] * 2))
    values = draw(
        arrays.arrays(np.int32, (shape[0], channels, *shape[1:]), elements=INTEGERS, fill=INTEGERS)
    )
    # Near the alphabets as well, or all would be escapes.
    near = values % 8 + np.array(minima)[:, None, None]
    values = np.where(values % 3 == 0, values, near.clip(LOW, HIGH)).astype(np.int32)
    return (
        make_tables(minima, [[*w[:-1], w[-1] + 0.1] for w in weights]),
        values,
        draw(st.integers(1, 4)),
    )


@settings(max_examples=150, deadline=None)
@given(streams())
def test_all_integers_round_trip_and_a_second_decoder_agrees(
    stream: tuple[LatentTables, Latents, int],
) -> None:
    tables, latents, packet = stream
    data = encode(latents, tables, packet)
    assert np.array_equal(decode(data, tables), latents)
    header, frames = decode_in_python(data, alphabets(tables))
    size = latents.shape[2] * latents.shape[3]
    assert frames == latents.reshape(*latents.shape[:2], size).tolist()
    assert header["frames"] - 1 == len(latents)


def test_a_stream_is_as_long_as_its_tables_say(tables: LatentTables, latents: Latents) -> None:
    for packet in (1, 7, 150):
        packets = list(StreamReader(io.BytesIO(encode(latents, tables, packet))).packets())
        bits = tables.bits(latents)
        first = 0
        for each in packets:
            ideal = bits[first : first + each.frames].sum()
            # A byte and a half at most for where an interval lies; lucky intervals save one.
            assert abs(8 * len(each.payload) - ideal) < ideal * 1e-5 + 12
            first += each.frames
        assert first == len(latents)


def test_overhead_of_a_stream() -> None:
    rng = np.random.default_rng(2)
    torch = pytest.importorskip("torch")
    from ambi_rl.neural.priors import NormalPrior

    # 64 channels of about 3.75 bits: 30 bytes a frame.
    prior = NormalPrior(64)
    prior.log_deviation.fill_(np.log(3.3))
    training = rng.normal(0, 3.3, (500, 64, 1, 1)).round().astype(np.int32)
    latents = rng.normal(0, 3.3, (256, 64, 1, 1)).round().astype(np.int32)
    tables = tables_from_prior(prior, training)
    ideal = tables.bits(latents).sum() / 8
    entropy = prior.bits(torch.from_numpy(latents).float()).sum().item() / 8
    assert 28 < ideal / len(latents) < 32
    assert abs(ideal / entropy - 1) < 1e-3
    assert len(encode(latents, tables)) < 1.02 * ideal
    # Not even one packet's worth of frames has more, header included.
    assert len(encode(latents[:64], tables)) < 1.02 * tables.bits(latents[:64]).sum() / 8
    single = len(encode(latents, tables, 1)) - ideal
    assert single / len(latents) < 7


def test_tables_from_priors() -> None:
    torch = pytest.importorskip("torch")
    from ambi_rl.neural.priors import KINDS, build_prior

    rng = np.random.default_rng(1)
    seen = rng.normal(0, 4, (60, 3, 2, 2)).round().astype(np.int32)
    seen[0, 1] = 10**6
    for kind in KINDS:
        torch.manual_seed(0)
        prior = build_prior(kind, 3)
        prior.fit(torch.from_numpy(seen[1:]).float(), steps=30)
        tables = tables_from_prior(prior, seen)
        again = tables_from_prior(prior, seen)
        assert np.array_equal(tables.frequencies, again.frequencies)
        assert tables.frequencies.min() >= 1
        assert [int(tables.channel(c).sum()) for c in range(3)] == [TOTAL] * 3
        # What was seen is in the alphabet with room around it, but for the stray value.
        last = tables.minimum + tables.lengths - 1
        assert tables.lengths.max() <= MAX_LENGTH
        for channel in range(3):
            usual = seen[1:, channel]
            assert tables.minimum[channel] < usual.min()
            assert last[channel] > usual.max()
        assert last[1] < 10**6
        held_out = rng.normal(0, 4, (50, 3, 2, 2)).round().astype(np.int32)
        wanted = prior.bits(torch.from_numpy(held_out).float()).sum().item()
        assert abs(tables.bits(held_out).sum() / wanted - 1) < 0.01
        # A stray latent costs up to 24 bits of escape, 6 of width and 32 digits.
        stray = np.full((1, 3, 1, 1), LOW, np.int32)
        assert np.isfinite(tables.bits(stray)).all()
        assert tables.bits(stray)[0] <= 3 * 62
        assert np.array_equal(decode(encode(stray, tables), tables), stray)


def test_frequencies_are_shared_out_exactly() -> None:
    rng = np.random.default_rng(0)
    for weights in ([1.0, 1.0, 1.0], [1.0, 0.0], [1e-300, 1.0, 1e300], rng.random(4097).tolist()):
        found = quantize_frequencies(np.array(weights))
        assert found.sum(dtype=np.int64) == TOTAL
        assert found.min() >= 1
    assert quantize_frequencies(np.array([1.0, 1.0, 1.0])).tolist() == [5592406, 5592405, 5592405]
    for bad in ([0.0, 0.0], [np.inf, 1.0], [np.nan, 1.0]):
        with pytest.raises(ValueError, match="finite"):
            quantize_frequencies(np.array(bad))


@pytest.mark.parametrize(
    "change",
    [
        {"minimum": np.zeros(2, np.int32)},
        {"minimum": np.zeros(3, np.int64)},
        {"minimum": np.full(3, HIGH, np.int32)},
        {"lengths": np.array([19, 40, 0], np.int32)},
        {"lengths": np.array([19, 40, 2], np.int32)},
        {"lengths": np.array([HIGH, HIGH, 1], np.int32)},
        {"frequencies": np.ones(63, np.int32)},
        {"frequencies": np.zeros((63, 1), np.int32)},
        {"other": np.zeros(1, np.int32)},
    ],
)
def test_tables_are_validated(tables: LatentTables, change: dict[str, np.ndarray]) -> None:
    assert LatentTables.from_tensors(tables.tensors()).channels == 3
    with pytest.raises(BundleError, match="prior/"):
        LatentTables.from_tensors(tables.tensors() | change)
    negative = tables.frequencies.copy()
    negative[0] += negative[1] + 5
    negative[1] = -5
    with pytest.raises(BundleError, match="below 1"):
        LatentTables(tables.minimum, tables.lengths, negative)


GOLDEN = bytes.fromhex(
    "8d414d46010123456789abcdef54540202030855c81e9b032fb1810cee0058ecd582d0d3f7d4adb2"
    "ebb3bb324defdd0883bc0ecdedc0fe972bbd8d1b4b522ddc5b85eb0a9d0a1d8f1a419f8103323c19"
    "ed950058ecd582d0d3f7d4b9a14903d6172f2bfeca91bba7cc8e85bd705042a1a1ec19f577c2ecf9"
    "6c862242a700662e77bd0c160112069b4f090058edcbf3f382b3f9a7fe123274bf3d9ba1"
)
GOLDEN_TABLES = "9efc0e4d3707a22679b93ae679b1a1e88ee04321004356d576abc110c0842f66"


def golden() -> tuple[LatentTables, Latents]:
    """Integers by a rule, so that nothing of them has to be kept; one in eleven far outside."""
    tables = make_tables(
        [-4, -1], [[1, 2, 4, 8, 16, 8, 4, 2, 1, 0.001], [30, 20, 10, 0.5, 0.25, 0.125]]
    )
    n = np.arange(7 * 2 * 2 * 3, dtype=np.int64)
    values = (n * n * 7 + 3 * n) % 9 - 4
    values = np.where(n % 11 == 10, (n * 2654435761) % 2**32 - 2**31, values)
    return tables, values.astype(np.int32).reshape(7, 2, 2, 3)


def test_golden_stream() -> None:
    tables, latents = golden()
    everything = b"".join(
        tables.tensors()[name].astype("<i4").tobytes() for name in tables.tensors()
    )
    assert hashlib.sha256(everything).hexdigest() == GOLDEN_TABLES
    assert encode(latents, tables, 3).hex() == GOLDEN.hex()
    assert np.array_equal(decode(GOLDEN, tables), latents)
    assert decode_in_python(GOLDEN, alphabets(tables))[1] == latents.reshape(7, 2, 6).tolist()


def test_the_second_decoder_has_no_library() -> None:
    tree = ast.parse(Path(feature_reference.__file__).read_text(encoding="utf-8"))
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    names |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names == {"__future__", "dataclasses", "typing", "zlib"}


def test_reading_may_begin_at_any_frame(tables: LatentTables, latents: Latents) -> None:
    data = encode(latents, tables, 64)
    for first in (0, 1, 63, 64, 100, 149, 150, 1000):
        assert np.array_equal(decode(data, tables, first), latents[first:])


def test_packets_come_through_a_pipe_before_the_stream_ends(
    tables: LatentTables, latents: Latents
) -> None:
    ends = os.pipe()
    with os.fdopen(ends[0], "rb", buffering=0) as source, os.fdopen(ends[1], "wb") as sink:
        header = StreamHeader(ID, (84, 84), (3, 2, 1), None)
        with StreamWriter(sink, header, tables, frames_per_packet=1) as writer:
            writer.write(latents[:1])
            sink.flush()
            reader = StreamReader(cast(BinaryIO, source))
            assert reader.header == header
            parts = reader.latents(tables)
            assert np.array_equal(next(parts), latents[:1])
            writer.write(latents[1:4])
            sink.flush()
            assert [np.array_equal(next(parts), latents[i : i + 1]) for i in (1, 2, 3)] == [
                True
            ] * 3
        # The end is a packet of its own, so the pipe need not be closed for it.
        assert list(parts) == []


def test_sources_that_give_a_byte_at_a_time(tables: LatentTables, latents: Latents) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 1))

    reader = StreamReader(Slow(encode(latents, tables)))
    assert np.array_equal(np.concatenate(list(reader.latents(tables))), latents)


def test_writers_refuse_what_does_not_fit(tables: LatentTables, latents: Latents) -> None:
    header = StreamHeader(ID, (84, 84), (3, 2, 1), 3)
    wrongs: list[Any] = [latents.astype(np.int64), latents[:, :2], latents[:, :, :1]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="latents are"):
            StreamWriter(io.BytesIO(), header, tables).write(wrong)
    writer = StreamWriter(io.BytesIO(), header, tables)
    writer.write(latents[:2])
    with pytest.raises(ValueError, match="2 frames were written, not 3"):
        writer.close()
    for impossible in (
        StreamHeader(ID, (0, 84), (3, 2, 1), 1),
        StreamHeader(ID, (84, 84), (2, 2, 1), 1),
        StreamHeader(ID, (84, 84), (3, 1000, 1000), 1),
        StreamHeader(ID, (84, 84), (3, 2, 1), MAX_FRAMES + 1),
    ):
        with pytest.raises(ValueError, match="not possible"):
            StreamWriter(io.BytesIO(), impossible, tables)
    with pytest.raises(ValueError, match="one frame or more"):
        StreamWriter(io.BytesIO(), header, tables, frames_per_packet=0)


def small_stream(tables: LatentTables, latents: Latents) -> bytes:
    return encode(latents[60:75], tables, 5)


@pytest.mark.parametrize("frames", [15, None])
def test_every_truncation_is_noticed(
    tables: LatentTables, latents: Latents, frames: int | None
) -> None:
    out = io.BytesIO()
    header = StreamHeader(ID, (84, 84), (3, 2, 1), frames)
    with StreamWriter(out, header, tables, frames_per_packet=5) as writer:
        writer.write(latents[60:75])
    data = out.getvalue()
    assert np.array_equal(decode(data, tables), latents[60:75])
    for length in range(len(data)):
        with pytest.raises(CorruptFileError if length else NotAmbiFileError) as caught:
            decode(data[:length], tables)
        assert "\n" not in str(caught.value)
        if length:
            assert f"after {length} bytes" in str(caught.value)
    with pytest.raises(CorruptFileError, match=f"cut the file to {len(data)} bytes"):
        decode(data + b"\0", tables)


def test_every_changed_byte_is_noticed_and_its_packet_named(
    tables: LatentTables, latents: Latents
) -> None:
    data = small_stream(tables, latents)
    reader = StreamReader(io.BytesIO(data))
    sizes = [packet.size for packet in reader.packets()]
    starts = np.cumsum([reader.header_size, *sizes])
    for position in range(len(data)):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(data)
            changed[position] ^= flip
            with pytest.raises(AmbiError) as caught:
                decode(bytes(changed), tables)
            message = str(caught.value)
            assert "\n" not in message
            if position >= starts[0]:
                packet = int(np.searchsorted(starts, position, "right")) - 1
                assert f"packet {packet} (from frame {5 * packet})" in message
            elif position < 4:
                assert isinstance(caught.value, NotAmbiFileError)
            elif position == 4:
                assert isinstance(caught.value, UnsupportedVersionError)


def test_a_damaged_packet_does_not_take_those_before_it(
    tables: LatentTables, latents: Latents
) -> None:
    data = bytearray(small_stream(tables, latents))
    data[-1] ^= 1
    parts = StreamReader(io.BytesIO(bytes(data))).latents(tables)
    assert np.array_equal(next(parts), latents[60:65])
    assert np.array_equal(next(parts), latents[65:70])
    with pytest.raises(CorruptFileError, match=r"packet 2 \(from frame 10\) fails its checksum"):
        next(parts)


def with_crc(data: bytes) -> bytes:
    return data + zlib.crc32(data).to_bytes(4, "big")


def forged_header(*numbers: int) -> bytes:
    return with_crc(MAGIC + b"\1" + bytes(8) + b"".join(varint(number) for number in numbers))


def forged_packet(frames: int, payload: bytes, length: int | None = None) -> bytes:
    head = varint(frames) + varint(len(payload) if length is None else length)
    return head + zlib.crc32(head + payload).to_bytes(4, "big") + payload


@pytest.mark.parametrize(
    "numbers",
    [
        (0, 84, 3, 2, 1, 2),
        (84, 20000, 3, 2, 1, 2),
        (84, 84, 0, 2, 1, 2),
        (84, 84, 3, 2**31, 2**31, 2),
        (84, 84, 3, 2**20, 1, 2),
    ],
)
def test_forged_headers_are_refused(numbers: tuple[int, ...], tables: LatentTables) -> None:
    with pytest.raises(CorruptFileError, match="limits"):
        decode(forged_header(*numbers) + forged_packet(1, b""), tables)


def test_forged_claims_cost_no_memory(tables: LatentTables) -> None:
    huge = forged_header(84, 84, 3, 2, 1, 2**32 + 1)
    assert StreamReader(io.BytesIO(huge)).header.frames == 2**32
    long = forged_header(84, 84, 3, 2, 1, 2)
    one_channel = make_tables([0], [[1.0, 1e-9]])
    widest = forged_header(84, 84, 1, 256, 1, 2**32 + 1) + forged_packet(4096, b"\xff" * 9)
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        for data, some in (
            (huge, tables),
            (huge + forged_packet(1, b"", 2**34), tables),
            (huge + forged_packet(2**34, b""), tables),
            (long + forged_packet(2, b""), tables),
            (long + forged_packet(1, b"", 57), tables),
            (long + forged_packet(0, b""), tables),
            (long[:-5] + b"\x80\x80\x80\x80\x80\x80" + bytes(9), tables),
            (long[:-5] + b"\x82\0" + bytes(9), tables),
            (widest, one_channel),
            # Not the code of anything: the decoder ends or gives out what the bytes happen to mean.
            *((long + forged_packet(1, rng.bytes(50)), tables) for _ in range(50)),
            *((long + forged_packet(1, b"\xff" * n), tables) for n in range(20)),
        ):
            with contextlib.suppress(CorruptFileError):
                decode(data, some)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What docs/feature-format.md promises beyond the result.
    assert peak < 128 << 20


def test_forged_values_beyond_32_bits_are_refused() -> None:
    tables = make_tables([HIGH - 2], [[1.0, 1.0]])

    def code(number: int) -> bytes:
        import constriction

        encoder = constriction.stream.queue.RangeEncoder()
        half = constriction.stream.model.Categorical(np.full(2, TOTAL / 2 - 1), perfect=False)
        encoder.encode(1, half)
        encoder.encode(number.bit_length(), constriction.stream.model.Uniform(64))
        for shift in (0, 16):
            digits = min(max(number.bit_length() - 1 - shift, 0), 16)
            if digits:
                value = (number & ~(1 << number.bit_length() - 1)) >> shift & (1 << digits) - 1
                encoder.encode(value, constriction.stream.model.Uniform(1 << digits))
        return bytes(encoder.get_compressed().astype(">u4").tobytes())

    header = forged_header(84, 84, 1, 1, 1, 2)
    # The excess is one less: 0, 2, 4 are the values above, the first of which still has 32 bits.
    fits = decode(header + forged_packet(1, code(3)), tables)
    assert fits.tolist() == [[[[HIGH]]]]
    for number in (5, 2**33 - 1):
        with pytest.raises(CorruptFileError, match=r"packet 0 \(frames 0 to 0\).*32 bits"):
            decode(header + forged_packet(1, code(number)), tables)


def test_tables_of_another_number_of_channels_are_refused(
    tables: LatentTables, latents: Latents
) -> None:
    other = make_tables([0], [[1.0, 1.0]])
    with pytest.raises(CorruptFileError, match="3 channels, its bundle 1"):
        decode(small_stream(tables, latents), other)


def test_other_files_and_versions_are_refused(tables: LatentTables, latents: Latents) -> None:
    for data in (b"", b"\x8d", b"\x8dAMB" + bytes(60), b"GIF89a"):
        expected = CorruptFileError if data == b"\x8d" else NotAmbiFileError
        with pytest.raises(expected):
            StreamReader(io.BytesIO(data))
    newer = bytearray(small_stream(tables, latents))
    newer[4] = 2
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        StreamReader(io.BytesIO(bytes(newer)))
