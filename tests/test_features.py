"""The names, meanings and bounds of features are those of the numbers that the kernel computes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.frame import Decision
from ambi_rl.codec.strategists.features import GENERAL, features
from ambi_rl.codec.strategists.observation import GENERAL_FEATURES, observation_size
from ambi_rl.envs import BlockCodingEnv

PATCH = 64


class Seen(NamedTuple):
    """A node, and what was seen of it."""

    values: dict[str, float]
    node: tuple[int, int, int]
    leaves: list[Decision]
    source: npt.NDArray[np.float64]
    step: float


@pytest.fixture(scope="module")
def seen(default_bundle: Bundle) -> list[Seen]:
    """Every node of a few episodes of random decisions."""
    env = BlockCodingEnv(patch_size=PATCH, bundle=default_bundle)
    names = [feature.name for feature in features(default_bundle.strategies)]
    return [node for seed in range(4) for node in _nodes(env, names, seed)]


def _nodes(env: BlockCodingEnv, names: list[str], seed: int) -> Iterator[Seen]:
    rng = np.random.default_rng(seed)
    quality = (20.0, 50.0, 75.0, 95.0)[seed]
    observation, _ = env.reset(seed=seed, options={"quality": quality})
    process = env.episodes.process
    patch = env.episodes.patches[0]
    assert patch is not None
    source = process.source(0)[0] / tables.PIXEL_SCALE
    done = False
    while not done:
        values = dict(zip(names, map(float, observation), strict=True))
        yield Seen(values, process.node(0), process.decisions(0), source, patch.step / 64)
        splits = process.node(0)[2] > 4 and rng.random() < 0.5
        strategy = 0 if splits else rng.integers(1, process.num_decisions)
        action = np.array([strategy, rng.integers(process.num_offsets)])
        observation, _, done, _, _ = env.step(action)


def leaf_at(leaves: list[Decision], y: int, x: int) -> Decision | None:
    """The coded leaf that covers a pixel."""
    for leaf in leaves:
        if leaf.y <= y < leaf.y + leaf.size and leaf.x <= x < leaf.x + leaf.size:
            return leaf
    return None


def test_there_is_a_name_for_every_number(default_bundle: Bundle) -> None:
    names = [feature.name for feature in features(default_bundle.strategies)]
    assert len(GENERAL) == GENERAL_FEATURES
    assert len(names) == observation_size(len(default_bundle.strategies))
    assert len(set(names)) == len(names)
    assert names[GENERAL_FEATURES:] == [f"cost_of_{name}" for name in default_bundle.strategies]


def test_numbers_stay_within_their_bounds(seen: list[Seen], default_bundle: Bundle) -> None:
    for feature in features(default_bundle.strategies):
        values = [node.values[feature.name] for node in seen]
        assert feature.low - 1e-5 <= min(values), feature
        assert max(values) <= feature.high + 1e-5, feature
        if feature.unit == "0 or 1":
            assert set(values) <= {0.0, 1.0}, feature
        # What never changes says nothing; no name may stand for such a number.
        assert min(values) < max(values), feature


def test_size_place_and_step(seen: list[Seen]) -> None:
    for node in seen:
        y, x, side = node.node
        shown = [s for s in (4, 8, 16, 32) if node.values[f"size_{s}"] == 1]
        assert shown == [side]
        assert node.values["row"] == pytest.approx((y % 32) / 32)
        assert node.values["column"] == pytest.approx((x % 32) / 32)
        assert node.values["step"] == pytest.approx(math.log2(node.step / 8), abs=1e-5)
        assert node.values["has_row_above"] == (y > 0)


def test_neighbours_sizes_and_offsets(seen: list[Seen]) -> None:
    for node in seen:
        y, x, side = node.node
        last = side - 1
        places = {"left": (y, x - 1), "above": (y - 1, x)}
        corners = {"bottom_left": (y + last, x - 1), "top_right": (y - 1, x + last)}
        for name, (row, column) in (places | corners).items():
            leaf = leaf_at(node.leaves, row, column)
            coded = 0 if leaf is None else leaf.size.bit_length() - 2
            assert node.values[f"size_of_{name}"] == coded
        for name, (row, column) in places.items():
            leaf = leaf_at(node.leaves, row, column)
            assert node.values[f"offset_of_{name}"] * 4 == (0 if leaf is None else leaf.offset + 1)


def test_neighbours_directions(seen: list[Seen], default_bundle: Bundle) -> None:
    kinds = set()
    for node in seen:
        y, x, side = node.node
        for name, place in {
            "left": (y + side - 1, x - 1),
            "above": (y - 1, x + side - 1),
        }.items():
            leaf = leaf_at(node.leaves, *place)
            strategy = "" if leaf is None else default_bundle.strategies[leaf.strategy]
            kinds.add(strategy.partition("_")[0])
            angle = math.pi * (int(strategy[8:]) - 2) / 32 if "angular" in strategy else math.nan
            expected = {
                "is_coded": float(leaf is not None),
                "is_planar": float(strategy == "planar"),
                "is_dc": float(strategy == "dc"),
                "cos": 0.0 if math.isnan(angle) else math.cos(angle),
                "sin": 0.0 if math.isnan(angle) else math.sin(angle),
                "cos_2": 0.0 if math.isnan(angle) else math.cos(2 * angle),
            }
            found = {key: node.values[f"{name}_{key}"] for key in expected}
            assert found == pytest.approx(expected, abs=1e-6)
    assert kinds == {"", "planar", "dc", "angular"}


def test_texture(seen: list[Seen]) -> None:
    for node in seen:
        y, x, side = node.node
        block = node.source[y : y + side, x : x + side]
        area = side * side
        expected = {
            "variance": math.log2(1 + block.var() / (node.step**2 / 12)),
            "gradient_across": math.log2(
                1 + np.abs(np.diff(block, axis=1)).sum() / (area * node.step)
            ),
            "gradient_down": math.log2(
                1 + np.abs(np.diff(block, axis=0)).sum() / (area * node.step)
            ),
        }
        found = {key: node.values[key] for key in expected}
        assert found == pytest.approx(expected, abs=1e-4)


def test_costs_hang_together(seen: list[Seen], default_bundle: Bundle) -> None:
    for node in seen:
        values, side = node.values, node.node[2]
        assert min(values[f"cost_of_{name}"] for name in default_bundle.strategies) == 0
        # The same cost, once as a logarithm over Δn and once as 4 times that over Δn².
        cost = (2 ** values["satd"] - 1) / side * 4
        assert values["satd_density"] == pytest.approx(cost, rel=1e-3)
        assert values["leaf_bits"] <= values["leaf_cost"]
        for name in ("split_bits", "outlook_split", "outlook_gain", "leaf_against_outlook"):
            assert (values[name] == 0) or side > 4, name
        if side > 4:
            leaf, split = (2 ** values[f"outlook_{k}"] - 1 for k in ("leaf", "split"))
            gain = 8 * (leaf - split) / (leaf + split + 4)
            assert values["outlook_gain"] == pytest.approx(gain, abs=1e-2)
            own = 2 ** values["leaf_cost"] - 1
            against = 8 * (own - split) / (own + split + 4)
            assert values["leaf_against_outlook"] == pytest.approx(against, abs=1e-2)


def test_residuals_have_more_power_than_mean(seen: list[Seen]) -> None:
    quarters = ("top_left", "top_right", "bottom_left", "bottom_right")
    for node in seen:
        for name in quarters:
            power, mean = (node.values[f"residual_{k}_{name}"] for k in ("power", "mean"))
            assert mean <= power + 1e-5
