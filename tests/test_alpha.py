"""The alpha plane is lossless, bounded and checked."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ambi_rl.codec.alpha import decode_alpha, encode_alpha
from ambi_rl.errors import CorruptFileError

SIDES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(arrays(np.uint8, SIDES))
def test_round_trip(alpha: np.ndarray) -> None:
    assert np.array_equal(decode_alpha(encode_alpha(alpha), *alpha.shape), alpha)


def test_a_constant_plane_costs_two_bytes() -> None:
    assert encode_alpha(np.full((500, 700), 255, np.uint8)) == b"\x00\xff"


def test_filters_help_on_a_gradient() -> None:
    plane = np.add.outer(np.arange(200), 2 * np.arange(300)).astype(np.uint8)
    payload = encode_alpha(plane)
    assert np.array_equal(decode_alpha(payload, *plane.shape), plane)
    assert len(payload) < len(zlib.compress(plane.tobytes(), 9)) / 3


def test_truncation_at_every_byte_is_noticed() -> None:
    rng = np.random.default_rng(0)
    plane = rng.integers(0, 256, (7, 5), dtype=np.uint8)
    payload = encode_alpha(plane)
    for length in range(len(payload)):
        with pytest.raises(CorruptFileError):
            decode_alpha(payload[:length], 7, 5)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x02\x00",
        b"\x00\x01\x02",
        b"\x01rubbish",
        b"\x01" + zlib.compress(bytes(5)),
        b"\x01" + zlib.compress(bytes(7)),
        b"\x01" + zlib.compress(bytes(6)) + b"more",
        b"\x01" + zlib.compress(b"\x03\x00\x00\x00\x00\x00"),
    ],
)
def test_impossible_payloads(payload: bytes) -> None:
    with pytest.raises(CorruptFileError):
        decode_alpha(payload, 2, 2)


def test_a_bomb_is_not_inflated() -> None:
    bomb = b"\x01" + zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(CorruptFileError):
        decode_alpha(bomb, 4, 4)
