"""The level network: its integer arithmetic, what it sees, and its training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ambi_rl.codec.bundle import Bundle, dump_bundle
from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.context import context_of, load_entropy
from ambi_rl.codec.entropy import layout, network
from ambi_rl.codec.entropy.coder import Model
from ambi_rl.codec.entropy.fit import fit_entropy
from ambi_rl.codec.frame import Planes, decode_frame, encode_frame
from ambi_rl.codec.kernel.record import TARGET_FIRST, TARGET_MAGNITUDE, TARGET_PLANE
from ambi_rl.codec.kernel.state import allocate_picture
from ambi_rl.codec.strategists import Strategist
from ambi_rl.errors import BundleError
from ambi_rl.training.level_network import (
    LevelNetwork,
    fit_level_network,
    level_bits,
    record_levels,
)

FIXED = Strategist("fixed", fixed_size=8)


def random_network(seed: int, fill: float = 1.0) -> dict[str, np.ndarray]:
    """Integer weights over `fill` of the range that a bundle may hold."""
    rng = np.random.default_rng(seed)
    most = {
        "net_rows": network.ROW_MAX,
        "net_w1": network.WEIGHT_MAX,
        "net_w2": network.WEIGHT_MAX,
    }
    out = {}
    for name, shape in layout.NET_TENSORS.items():
        high = int(most.get(name, network.BIAS_MAX) * fill)
        dtype = np.int16 if name in most else np.int32
        out[name] = rng.integers(-high, high + 1, shape).astype(dtype)
    out["net_rows"][:, layout.NET_PADDING] = 0
    return out


def reference(tensors: dict[str, np.ndarray], chroma: int, rows: np.ndarray) -> np.ndarray:
    """The network in unbounded integers."""
    exact = {name: tensor[chroma].astype(object) for name, tensor in tensors.items()}
    hidden = np.clip(exact["net_bias"] + exact["net_rows"][rows].sum(0), 0, network.ACTIVATION_MAX)
    sums = exact["net_b1"] + hidden @ exact["net_w1"]
    hidden = np.clip(sums >> network.WEIGHT_BITS, 0, network.ACTIVATION_MAX)
    sums = exact["net_b2"] + hidden @ exact["net_w2"]
    half = 1 << (network.WEIGHT_BITS - 1)
    return np.clip((sums + half) >> network.WEIGHT_BITS, -2047, 2047).astype(int)


def planes_of(seed: int, height: int = 64, width: int = 48) -> Planes:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height // 4, width // 4, 3)).repeat(4, 0).repeat(4, 1)
    noise = rng.integers(-30, 31, (height, width, 3))
    return rgb_to_planes(np.clip(rgb + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("fill", [1.0, 0.01])
@pytest.mark.parametrize("plane", [0, 2])
def test_the_largest_weights_do_not_overflow(plain_bundle: Bundle, plane: int, fill: float) -> None:
    tensors = random_network(plane, fill)
    bundle = replace(plain_bundle, policy={}, entropy=plain_bundle.entropy | tensors)
    dump_bundle(bundle)
    context = context_of(bundle)
    picture, work = allocate_picture(3, 8, 8, 1), context.work()
    model = Model(picture.state, work, context.constants, picture.stream)
    rng = np.random.default_rng(5)
    for _ in range(20):
        work.magnitudes[:, :8, :8] = rng.integers(0, 256, (3, 8, 8))
        network.block_inputs(picture, model, plane, 0, 0, 1, 20, 1)
        state, row, col = rng.integers(0, 8, 3)
        count = network.level_inputs(picture, model, plane, 1, row, col, state, 20)
        network.run_network(model, plane, count)
        rows = work.net_inputs[:count]
        assert rows.min() > 0
        assert rows.max() < layout.NET_ROWS
        assert np.array_equal(work.net_logits, reference(tensors, min(plane, 1), rows))


def test_integers_say_what_floats_say() -> None:
    torch.manual_seed(1)
    model = LevelNetwork()
    rng = np.random.default_rng(2)
    inputs = rng.integers(1, layout.NET_ROWS, (50, layout.NET_INPUTS)).astype(np.int32)
    wanted = model(torch.from_numpy(inputs)).detach().numpy()
    tensors = {name: tensor[None] for name, tensor in model.integers().items()}
    said = np.stack([reference(tensors, 0, rows) for rows in inputs]) / 256
    assert np.abs(wanted).max() > 0.3
    assert np.abs(said - wanted).max() < 0.03


def test_pictures_come_back_through_any_network(plain_bundle: Bundle) -> None:
    bundle = replace(
        plain_bundle, policy={}, entropy=plain_bundle.entropy | random_network(3, 0.02)
    )
    planes = planes_of(1)
    coded = encode_frame(planes, 400, bundle, Strategist("search", candidates=2))
    assert np.array_equal(decode_frame(coded.payload, 64, 48, 3, 400, bundle), coded.planes)


def test_every_level_is_recorded(plain_bundle: Bundle) -> None:
    planes = planes_of(2)
    inputs, targets = record_levels(planes, 900, replace(plain_bundle, policy={}), FIXED)
    assert inputs.shape == (len(targets), layout.NET_INPUTS)
    first = targets[:, TARGET_FIRST] == 1
    # A block's first level is its last nonzero one.
    assert (targets[first, TARGET_MAGNITUDE] > 0).all()
    assert set(np.unique(targets[:, TARGET_PLANE])) == {0, 1, 2}
    padding = (inputs == layout.NET_PADDING).sum(1)
    for plane, missing in enumerate((19, 9, 0)):
        assert (padding[targets[:, TARGET_PLANE] == plane] == missing).all()


def test_training_makes_levels_cheaper(plain_bundle: Bundle) -> None:
    images = [(planes_of(seed), 900) for seed in range(12)]
    bundle = replace(plain_bundle, policy={})
    lines: list[str] = []
    trained = fit_level_network(images, bundle, FIXED, epochs=4, report=lines.append)
    assert len(lines) == 8
    inputs, targets = record_levels(planes_of(99), 900, bundle, FIXED)
    luma = targets[:, TARGET_PLANE] == 0
    tensors = {name: trained[name] for name in layout.NET_TENSORS}
    said = np.stack([reference(tensors, 0, rows) for rows in inputs[luma][:300].astype(int)])
    meant = torch.from_numpy(targets[luma][:300])
    before = level_bits(torch.zeros(len(said), layout.NET_BINS), meant).sum()
    after = level_bits(torch.from_numpy(said / 256).float(), meant).sum()
    assert after < 0.9 * before
    with_network = fit_entropy(images[:6], replace(bundle, entropy=trained), FIXED)
    without = fit_entropy(images[:6], bundle, FIXED)
    costs = [
        encode_frame(planes_of(99), 900, replace(bundle, entropy=entropy), FIXED).cost
        for entropy in (with_network, without)
    ]
    assert costs[0] < costs[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("net_w1", network.WEIGHT_MAX + 1),
        ("net_rows", network.ROW_MAX + 1),
        ("net_b2", -network.BIAS_MAX - 1),
    ],
)
def test_weights_that_could_overflow_are_refused(
    plain_bundle: Bundle, name: str, value: int
) -> None:
    tensor = plain_bundle.entropy[name].copy()
    tensor.reshape(-1)[-1] = value
    with pytest.raises(BundleError, match=name):
        dump_bundle(replace(plain_bundle, entropy=plain_bundle.entropy | {name: tensor}))


def test_the_padding_row_must_be_zero(plain_bundle: Bundle) -> None:
    rows = plain_bundle.entropy["net_rows"].copy()
    rows[1, layout.NET_PADDING, 3] = 1
    with pytest.raises(BundleError, match="padding"):
        dump_bundle(replace(plain_bundle, entropy=plain_bundle.entropy | {"net_rows": rows}))


def test_the_state_starts_with_the_network(plain_bundle: Bundle) -> None:
    tensors = random_network(4)
    bundle = replace(plain_bundle, policy={}, entropy=plain_bundle.entropy | tensors)
    constants = context_of(bundle).constants
    load_entropy(allocate_picture(1, 4, 4, 1), bundle)
    for name, tensor in tensors.items():
        assert np.array_equal(getattr(constants, name), tensor)
