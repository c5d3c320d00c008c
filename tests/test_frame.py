"""Planes through the payload and back: exact for every strategist, size and picture, safe for any bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.frame import COST_UNIT, Planes, decode_frame, encode_frame
from ambi_rl.codec.strategists import (
    EFFORTS,
    STRATEGISTS,
    Strategist,
    by_name,
    for_effort,
    for_search,
)
from ambi_rl.errors import BundleError, CorruptFileError, UsageError


@pytest.fixture(scope="module")
def planes(photograph: Image.Image) -> Planes:
    return rgb_to_planes(np.asarray(photograph))


def round_trip(planes: Planes, step: int, bundle: Bundle, strategist: Strategist) -> bytes:
    encoded = encode_frame(planes, step, bundle, strategist)
    count, height, width = planes.shape
    decoded = decode_frame(encoded.payload, height, width, count, step, bundle)
    assert np.array_equal(decoded, encoded.planes)
    # The payload is as long as the model's cost says, but for the coder's last byte or two.
    assert encoded.cost / COST_UNIT / 8 - 2 <= len(encoded.payload)
    assert len(encoded.payload) <= encoded.cost / COST_UNIT / 8 * 1.002 + 3
    covered = sum(d.size**2 for d in encoded.decisions)
    assert covered == -(-height // 4) * 4 * (-(-width // 4) * 4)
    return encoded.payload


@pytest.mark.parametrize("name", ["fixed", *(str(effort) for effort in range(5, 10))])
@pytest.mark.parametrize("step", [40, 700, 5000])
def test_round_trip_is_exact(planes: Planes, default_bundle: Bundle, name: str, step: int) -> None:
    strategist = by_name(name) if name == "fixed" else for_effort(int(name))
    round_trip(planes, step, default_bundle, strategist)


def test_every_transform_is_of_use_and_round_trips(planes: Planes, default_bundle: Bundle) -> None:
    encoded = encode_frame(planes, 600, default_bundle, for_search(7))
    kinds = {d.transform for d in encoded.decisions if d.size <= 16 and d.transform >= 0}
    assert kinds == set(range(tables.NUM_TRANSFORMS))
    assert {d.transform for d in encoded.decisions if d.size == 32} <= {-1, tables.DCT_DCT}


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    gray=st.booleans(),
    step=st.integers(1, 20000),
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([4, 8, 16, 32]),
)
def test_noise_of_any_size_round_trips(
    default_bundle: Bundle, height: int, width: int, gray: bool, step: int, seed: int, size: int
) -> None:
    shape = (1 if gray else 3, height, width)
    planes = np.random.default_rng(seed).integers(0, 1024, shape).astype(np.int16)
    round_trip(planes, step, default_bundle, Strategist("fixed", fixed_size=size))


@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (33, 1), (5, 7), (32, 32), (64, 31)])
def test_odd_sizes_with_search(
    planes: Planes, default_bundle: Bundle, shape: tuple[int, int]
) -> None:
    piece = np.ascontiguousarray(planes[:, : shape[0], : shape[1]])
    round_trip(piece, 500, default_bundle, for_search(7))
    round_trip(piece[:1], 500, default_bundle, for_search(8))


@pytest.mark.parametrize("shape", [(1, 1), (1, 33), (33, 1), (5, 7), (37, 42), (64, 31)])
@pytest.mark.parametrize("effort", [0, 3])
def test_odd_sizes_with_a_policy(
    planes: Planes, default_bundle: Bundle, shape: tuple[int, int], effort: int
) -> None:
    piece = np.ascontiguousarray(planes[:, : shape[0], : shape[1]])
    round_trip(piece, 500, default_bundle, for_effort(effort))
    round_trip(piece[:1], 500, default_bundle, for_effort(effort))


@pytest.mark.parametrize("size", [4, 8, 16, 32])
@pytest.mark.parametrize("value", [0, 1023])
def test_residuals_of_full_range_fit_the_arithmetic(
    default_bundle: Bundle, size: int, value: int
) -> None:
    # Predicted from one extreme, the block of the other one has the largest DC there is.
    planes = np.full((3, 32, 64), value, np.int16)
    planes[:, :, 32:] = 1023 - value
    strategist = Strategist("fixed", fixed_size=size)
    encoded = encode_frame(planes, 64, default_bundle, strategist)
    assert np.abs(encoded.planes.astype(int) - planes).max() <= 4


def test_a_finer_step_costs_more_and_errs_less(planes: Planes, default_bundle: Bundle) -> None:
    results = [
        encode_frame(planes, step, default_bundle, for_search(6)) for step in (200, 800, 3200)
    ]
    assert [len(r.payload) for r in results] == sorted(
        (len(r.payload) for r in results), reverse=True
    )
    assert [r.error for r in results] == sorted(r.error for r in results)


def test_reported_error_is_the_planes_weighted_error(
    planes: Planes, default_bundle: Bundle
) -> None:
    whole = np.ascontiguousarray(planes[:, :64, :96])
    encoded = encode_frame(whole, 800, default_bundle, for_search(6))
    squares = ((whole.astype(float) - encoded.planes) ** 2 / 16).sum(axis=(1, 2))
    assert encoded.error == pytest.approx(squares @ np.array([1, 3.26 / 3, 2.475 / 3]))


def test_search_beats_fixed_in_the_cost_it_minimises(
    planes: Planes, default_bundle: Bundle
) -> None:
    step = 1024
    delta = step / 64
    lagrangian = float(default_bundle.manifest["lambda_scale"]) * delta**2

    def cost(strategist: Strategist) -> float:
        encoded = encode_frame(planes, step, default_bundle, strategist)
        return encoded.error + lagrangian * encoded.cost / COST_UNIT

    fixed = min(cost(Strategist("fixed", fixed_size=size)) for size in (4, 8, 16, 32))
    quick, full = cost(for_search(5)), cost(for_search(9))
    assert full < quick < fixed


def test_importance_moves_the_error_and_round_trips(planes: Planes, default_bundle: Bundle) -> None:
    units = (-(-planes.shape[1] // 4), -(-planes.shape[2] // 4))
    half = units[0] // 2
    importance = np.full(units, 0.6, np.float32)
    importance[:half] = 1.7

    def luma_error(importance: np.ndarray | None) -> tuple[float, float]:
        encoded = encode_frame(planes, 700, default_bundle, for_search(5), importance=importance)
        decoded = decode_frame(
            encoded.payload, planes.shape[1], planes.shape[2], 3, 700, default_bundle
        )
        assert np.array_equal(decoded, encoded.planes)
        square = (encoded.planes[0].astype(float) - planes[0]) ** 2
        return float(square[: 4 * half].mean()), float(square[4 * half :].mean())

    flat, moved = luma_error(None), luma_error(importance)
    assert luma_error(np.ones_like(importance)) == flat
    assert moved[0] < 0.85 * flat[0]
    assert moved[1] > 1.15 * flat[1]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_impossible_importance_is_refused(
    planes: Planes, default_bundle: Bundle, value: float
) -> None:
    units = (-(-planes.shape[1] // 4), -(-planes.shape[2] // 4))
    with pytest.raises(UsageError, match="shape"):
        encode_frame(
            planes, 700, default_bundle, for_search(5), importance=np.ones((3, 3), np.float32)
        )
    with pytest.raises(UsageError, match="positive"):
        encode_frame(
            planes, 700, default_bundle, for_search(5), importance=np.full(units, value, np.float32)
        )


def test_encoding_is_deterministic(planes: Planes, default_bundle: Bundle) -> None:
    first, second = (encode_frame(planes, 900, default_bundle, for_search(8)) for _ in range(2))
    assert first.payload == second.payload


def test_truncated_payloads_raise_or_decode_but_never_crash(
    planes: Planes, default_bundle: Bundle
) -> None:
    piece = np.ascontiguousarray(planes[:, :40, :40])
    payload = encode_frame(piece, 600, default_bundle, for_search(5)).payload
    failures = 0
    for length in range(len(payload)):
        try:
            decode_frame(payload[:length], 40, 40, 3, 600, default_bundle)
        except CorruptFileError:
            failures += 1
    assert failures > len(payload) / 2


@settings(deadline=None, max_examples=60)
@given(payload=st.binary(max_size=300), step=st.integers(1, 1 << 24))
def test_any_bytes_decode_to_something_or_raise(
    default_bundle: Bundle, payload: bytes, step: int
) -> None:
    try:
        planes = decode_frame(payload, 37, 45, 3, step, default_bundle)
    except CorruptFileError:
        return
    assert planes.min() >= 0
    assert planes.max() <= 1023


def test_a_policy_is_asked_for_when_the_bundle_has_none(
    planes: Planes, default_bundle: Bundle
) -> None:
    bare = Bundle(default_bundle.manifest, default_bundle.entropy)
    with pytest.raises(BundleError, match="holds no policy"):
        encode_frame(planes, 900, bare, by_name("policy"))


def test_efforts_and_names_are_checked() -> None:
    assert for_effort(0).name == "policy"
    assert by_name("policy") is STRATEGISTS["policy"]
    assert for_effort(9) is EFFORTS[-1]
    # A bundle without a policy is searched with, where there is a search as thorough.
    assert for_effort(7, policy=False) is for_search(7)
    assert for_effort(7, policy=False).name == "search"
    assert for_effort(2, policy=False).needs_policy
    with pytest.raises(UsageError, match="no search of effort 4"):
        for_search(4)
    with pytest.raises(UsageError, match="effort 10"):
        for_effort(10)
    with pytest.raises(UsageError, match="choose one of fixed"):
        by_name("greedy")
