"""The parts of the block kernel: arithmetic coder, transforms, predictors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.context import context_of
from ambi_rl.codec.entropy.coder import (
    DECODE,
    ESTIMATE,
    Model,
    code_bit,
    code_raw,
    finish_encoding,
    start_decoding,
    start_encoding,
)
from ambi_rl.codec.entropy.network import block_inputs
from ambi_rl.codec.kernel.block import dequantize
from ambi_rl.codec.kernel.predict import LEFT, ORIGIN, TOP, predict, predict_from_luma
from ambi_rl.codec.kernel.quantize import quantize
from ambi_rl.codec.kernel.state import BITS, FAULT, MODE, Picture, Work, allocate_picture
from ambi_rl.codec.kernel.syntax import code_last, code_levels
from ambi_rl.codec.kernel.transform import forward, inverse


def make_model(bundle: Bundle, stream: np.ndarray) -> tuple[Model, Picture, Work]:
    context = context_of(bundle)
    picture = allocate_picture(3, 32, 32, 1)._replace(stream=stream)
    picture.state.probs[:] = bundle.entropy["counters"]
    picture.state.weights[:] = bundle.entropy["mixers"]
    work = context.work()
    return Model(picture.state, work, context.constants, stream), picture, work


@settings(deadline=None, max_examples=40)
@given(bits=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=600))
def test_bits_come_back_and_cost_what_the_model_says(
    default_bundle: Bundle, bits: list[tuple[bool, int]]
) -> None:
    stream = np.zeros(4096, np.uint8)
    model, picture, _ = make_model(default_bundle, stream)
    start_encoding(picture.state.registers)
    for bit, context in bits:
        model.work.index[:3] = (context, 1000 + context, 2000)
        code_bit(model, int(bit), 3, 0, 1)
    cost = int(picture.state.registers[BITS]) / 65536
    length = finish_encoding(picture.state.registers, stream)
    assert cost / 8 - 2 <= length <= cost / 8 * 1.002 + 2

    model, picture, _ = make_model(default_bundle, stream[:length].copy())
    start_decoding(picture.state.registers, model.stream)
    for bit, context in bits:
        model.work.index[:3] = (context, 1000 + context, 2000)
        assert code_bit(model, 0, 3, 0, 1) == int(bit)
    assert int(picture.state.registers[BITS]) / 65536 == cost


def test_a_skewed_source_costs_little_once_learned(plain_bundle: Bundle) -> None:
    bare = Bundle(plain_bundle.manifest, plain_bundle.entropy)
    model, picture, _ = make_model(bare, np.zeros(4096, np.uint8))
    start_encoding(picture.state.registers)
    for _ in range(2000):
        model.work.index[0] = 0
        code_bit(model, 0, 1, 0, 0)
    assert picture.state.registers[BITS] / 65536 < 200


def test_estimating_changes_neither_the_model_nor_the_stream(default_bundle: Bundle) -> None:
    stream = np.zeros(64, np.uint8)
    model, picture, _ = make_model(default_bundle, stream)
    start_encoding(picture.state.registers)
    picture.state.registers[MODE] = ESTIMATE
    for bit in (0, 1, 1, 0) * 50:
        model.work.index[0] = 7
        code_bit(model, bit, 1, 0, 0)
        code_raw(model, bit)
    assert picture.state.registers[BITS] > 0
    assert not stream.any()
    assert np.array_equal(picture.state.probs, default_bundle.entropy["counters"])
    assert np.array_equal(picture.state.weights, default_bundle.entropy["mixers"])


def test_reading_far_past_the_end_is_noticed(default_bundle: Bundle) -> None:
    model, picture, _ = make_model(default_bundle, np.array([200, 3], np.uint8))
    start_decoding(picture.state.registers, model.stream)
    assert picture.state.registers[MODE] == DECODE
    for _ in range(400):
        code_raw(model, 0)
    assert picture.state.registers[FAULT] == 1


@settings(deadline=None, max_examples=30)
@given(
    log2=st.integers(2, 5),
    plane=st.integers(0, 2),
    scale=st.sampled_from([1, 4, 40, 3000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_levels_of_any_size_come_back(
    default_bundle: Bundle, log2: int, plane: int, scale: int, seed: int
) -> None:
    size = 1 << log2
    rng = np.random.default_rng(seed)
    levels = np.rint(rng.laplace(0, scale, (size, size)) * rng.random((size, size)) ** 3).astype(
        int
    )
    scan = tables.SCANS[log2 - 2][: size * size]
    flat = [levels[cell // 32, cell % 32] for cell in scan]
    nonzero = np.flatnonzero(flat)
    if nonzero.size == 0:
        return
    last = int(nonzero[-1])
    stream = np.zeros(1 << 16, np.uint8)

    model, picture, work = make_model(default_bundle, stream)
    start_encoding(picture.state.registers)
    work.levels[plane, :size, :size] = levels
    assert code_last(model, plane, size, 2, 1, 8, last) == last
    block_inputs(picture, model, plane, 0, 0, log2 - 2, 3, 0)
    total = code_levels(picture, model, scan, work.levels, plane, size, 2, 1, 8, last, 3)
    assert total == np.abs(levels).sum()
    length = finish_encoding(picture.state.registers, stream)

    model, picture, work = make_model(default_bundle, stream[:length].copy())
    start_decoding(picture.state.registers, model.stream)
    assert code_last(model, plane, size, 2, 1, 8, 0) == last
    block_inputs(picture, model, plane, 0, 0, log2 - 2, 3, 0)
    code_levels(picture, model, scan, work.levels, plane, size, 2, 1, 8, last, 3)
    assert np.array_equal(work.levels[plane, :size, :size], levels)


@pytest.mark.parametrize("index", range(tables.NUM_BASES))
def test_transform_is_orthonormal_up_to_rounding(index: int) -> None:
    size = 4 << index % tables.NUM_SIZES
    basis = tables.TRANSFORMS[index, :size, :size].astype(float) / (1 << tables.TRANSFORM_BITS)
    assert np.abs(basis @ basis.T - np.eye(size)).max() < 0.002


@settings(deadline=None, max_examples=30)
@given(index=st.integers(0, tables.NUM_BASES - 1), seed=st.integers(0, 2**32 - 1))
def test_inverse_transform_undoes_the_forward_one(index: int, seed: int) -> None:
    size = 4 << index % tables.NUM_SIZES
    rng = np.random.default_rng(seed)
    residual, half, coefficients, back = (np.zeros((32, 32), np.int32) for _ in range(4))
    residual[:size, :size] = rng.integers(-1023, 1024, (size, size))
    bases = tables.TRANSFORMS[index], tables.TRANSPOSED[index]
    forward(*bases, residual, half, coefficients, size)
    # One unit is 1/64 of an 8-bit code value, a residual is in 1/4: energy is kept.
    energy = (coefficients[:size, :size].astype(float) ** 2).sum() / 256
    assert energy == pytest.approx((residual.astype(float) ** 2).sum(), rel=0.01)
    inverse(*bases, coefficients, half, back, size, size, size)
    # White noise of full range is the worst there is. In 4000 blocks of each size the root mean square was
    # never over 1.12 units (4 are one 8-bit code value); in 6.5 % of those of 32x32 a sample was off by 4.
    miss = (back - residual)[:size, :size].astype(float)
    assert np.sqrt((miss**2).mean()) <= 1.25
    assert np.abs(miss).max() <= 5


def border(work: Work, plane: int, top: np.ndarray, left: np.ndarray, corner: int) -> None:
    for side, values in ((TOP, top), (LEFT, left)):
        work.reference[plane, side, ORIGIN] = corner
        work.reference[plane, side, ORIGIN + 1 : ORIGIN + 1 + len(values)] = values


@pytest.mark.parametrize("size", [4, 8, 16, 32])
@pytest.mark.parametrize("code", range(len(tables.PREDICTOR_NAMES)))
def test_a_flat_border_predicts_a_flat_block(default_bundle: Bundle, size: int, code: int) -> None:
    work = context_of(default_bundle).work()
    flat = np.full(2 * size + 4, 777)
    border(work, 0, flat, flat, 777)
    predict(work, 0, size, code, 1)
    assert (work.prediction[:size, :size] == 777).all()


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_vertical_and_horizontal_repeat_the_border(default_bundle: Bundle, size: int) -> None:
    work = context_of(default_bundle).work()
    ramp = np.arange(2 * size + 4) * 5 + 100
    flat = np.full(2 * size + 4, 95)
    border(work, 0, ramp, flat, 95)
    predict(work, 0, size, tables.VERTICAL, 1)
    assert np.array_equal(work.prediction[:size, :size], np.tile(ramp[:size], (size, 1)))
    border(work, 0, flat, ramp, 95)
    predict(work, 0, size, tables.HORIZONTAL, 1)
    assert np.array_equal(work.prediction[:size, :size], np.tile(ramp[:size, None], (1, size)))


def test_angles_mirror_at_the_diagonal(default_bundle: Bundle) -> None:
    work = context_of(default_bundle).work()
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 1024, 68), rng.integers(0, 1024, 68)
    for code in range(tables.FIRST_ANGLE, tables.DIAGONAL):
        border(work, 0, a, b, 500)
        predict(work, 0, 16, code, 1)
        one = work.prediction[:16, :16].copy()
        border(work, 0, b, a, 500)
        predict(work, 0, 16, 2 * tables.DIAGONAL - code, 1)
        assert np.array_equal(one, work.prediction[:16, :16].T)


@pytest.mark.parametrize("code", [0, 1, 10, 17, 26, 33])
def test_a_lattice_is_a_sample_of_the_whole(default_bundle: Bundle, code: int) -> None:
    work = context_of(default_bundle).work()
    rng = np.random.default_rng(4)
    border(work, 0, rng.integers(0, 1024, 68), rng.integers(0, 1024, 68), 500)
    predict(work, 0, 32, code, 1)
    whole = work.prediction.copy()
    predict(work, 0, 32, code, 4)
    assert np.array_equal(work.prediction[:8, :8], whole[2::4, 2::4])


def test_chroma_from_luma_finds_a_line(default_bundle: Bundle) -> None:
    work = context_of(default_bundle).work()
    picture = allocate_picture(3, 16, 16, 1)
    rng = np.random.default_rng(5)
    luma = rng.integers(100, 900, (16, 16))
    picture.decoded[0] = luma
    top, left = rng.integers(100, 900, 36), rng.integers(100, 900, 36)
    border(work, 0, top, left, 400)
    border(work, 1, top // 2 + 100, left // 2 + 100, 300)
    predict_from_luma(picture, work, 1, 0, 0, 16, 1)
    assert np.abs(work.prediction[:16, :16] - (luma // 2 + 100)).max() <= 5


def best_plain(coefficients: np.ndarray, size: int, step: int) -> float:
    """Squared error of plain scalar quantization whose step is twice `step`."""
    levels = np.rint(coefficients / (2 * step))
    return float(((coefficients - levels * 2 * step) ** 2).sum())


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_the_trellis_reports_what_decoding_its_levels_gives(
    default_bundle: Bundle, size: int
) -> None:
    context = context_of(default_bundle)
    model, _, work = make_model(default_bundle, np.zeros(1 << 16, np.uint8))
    rng = np.random.default_rng(size)
    step = 300
    for _ in range(10):
        exact = (
            rng.laplace(0, 1200, (size, size)) / (1 + np.add.outer(*[np.arange(size)] * 2))
        ).astype(int)
        work.coefficients[:size, :size] = exact
        arguments = (work, context.constants, model, 0, size, step, 0.36 * step * step, 2, 0, 8)
        last, distortion, bits = quantize(*arguments)
        assert (last >= 0) == (work.levels[0] != 0).any()
        dequantize(work, context.constants, 0, size, step, last)
        miss = exact - work.coefficients[:size, :size].astype(float)
        assert (miss**2).sum() == pytest.approx(distortion)
        assert bits > 0 if last >= 0 else bits == 0
        assert distortion + 0.36 * step * step * bits <= (exact.astype(float) ** 2).sum()


def test_dependent_quantization_packs_denser_than_a_scalar_quantizer(
    default_bundle: Bundle,
) -> None:
    # At high rates a trellis of eight states gains about 0.9 dB over the scalar quantizer of equal spacing
    # (Marcellin and Fischer, "Trellis coded quantization of memoryless and Gauss-Markov sources", 1990).
    context = context_of(default_bundle)
    model, _, work = make_model(default_bundle, np.zeros(1 << 16, np.uint8))
    rng = np.random.default_rng(1)
    step, ours, plain = 64, 0.0, 0.0
    for _ in range(20):
        exact = rng.integers(-1500, 1500, (32, 32))
        work.coefficients[:] = exact
        _, distortion, _ = quantize(work, context.constants, model, 0, 32, step, 1e-3, 2, 0, 8)
        ours += distortion
        plain += best_plain(exact, 32, step)
    assert 0.7 < 10 * np.log10(plain / ours) < 1.6
