"""What each number of an observation is: names, meanings, units and bounds of what `observation.py` fills in.

A module of its own, because what stands beside kernels has them compiled anew when it changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.quality import MAX_STEP, MIN_STEP, STEP_SCALE
from ambi_rl.codec.strategists.visibility import SCALES, STABLE_VARIANCE

_SMALLEST, _LARGEST = 1 << tables.MIN_BLOCK_LOG2, tables.SUPERBLOCK
_FURTHEST = 1 - _SMALLEST / _LARGEST
"""Where the last 4x4 block of a superblock begins, as a fraction of its side."""
_MOST_ENERGY = 7 / 2
"""Classes of level energy are 0…7, and are halved."""
_LEAST_VISIBLE = math.log2(STABLE_VARIANCE / (2 * (255 / 2) ** 2 + STABLE_VARIANCE))
"""With the largest variance that 8-bit code values can have."""


class Feature(NamedTuple):
    """One number of an observation.

    Attributes:
        name: Unique.
        meaning: Half a sentence, Markdown.
        unit: What 1 means; Δ is the quantizer step, n the node's side in pixels.
        low: It is never lower.
        high: It is never higher; infinite where only the picture says.
    """

    name: str
    meaning: str
    unit: str
    low: float
    high: float


def _flag(name: str, meaning: str) -> Feature:
    return Feature(name, meaning, "0 or 1", 0.0, 1.0)


def _magnitude(name: str, meaning: str, unit: str) -> Feature:
    return Feature(name, meaning, unit, 0.0, math.inf)


def _sizes() -> list[Feature]:
    sides = [1 << (tables.MIN_BLOCK_LOG2 + k) for k in range(tables.NUM_SIZES)]
    return [_flag(f"size_{side}", f"the node is {side}×{side}") for side in sides]


def _place() -> list[Feature]:
    low, high = (math.log2(step / STEP_SCALE / 8) for step in (MIN_STEP, MAX_STEP))
    return [
        Feature(
            "step", "quantizer step Δ: log2(Δ/8), Δ in 8-bit code values", "octaves", low, high
        ),
        Feature("row", "top row of the node in its superblock", "superblocks", 0.0, _FURTHEST),
        Feature(
            "column", "left column of the node in its superblock", "superblocks", 0.0, _FURTHEST
        ),
    ]


def _neighbours() -> list[Feature]:
    coded = "0 not coded, 1…4 for 4×4…32×32"
    sizes = [
        ("left", "left of the node's top-left corner"),
        ("above", "above the node's top-left corner"),
        ("bottom_left", "left of its bottom-left corner"),
        ("top_right", "above its top-right corner"),
    ]
    most = (layout.MAX_OFFSETS) / 4
    offset = "quantization offset of the block {}: index in the list plus 1, 0 if none is coded"
    return [
        *(
            Feature(f"size_of_{name}", f"size of the block {where}", coded, 0.0, tables.NUM_SIZES)
            for name, where in sizes
        ),
        Feature(
            "energy",
            "mean energy class (0…7, by the sum of luma's level magnitudes) of the blocks left and above",
            "2 classes",
            0.0,
            _MOST_ENERGY,
        ),
        Feature(
            "energy_left_minus_above",
            "energy class of the block left minus that of the block above",
            "2 classes",
            -_MOST_ENERGY,
            _MOST_ENERGY,
        ),
        Feature("offset_of_left", offset.format("left"), "4 indices", 0.0, most),
        Feature("offset_of_above", offset.format("above"), "4 indices", 0.0, most),
    ]


def _direction(name: str, where: str) -> list[Feature]:
    turn = "θ = π(k − 2)/32 is the angle of angular_k; 0 for other strategies"
    return [
        _flag(f"{name}_is_coded", f"there is a coded block {where}"),
        _flag(f"{name}_is_planar", "… and its strategy is planar"),
        _flag(f"{name}_is_dc", "… and its strategy is DC"),
        Feature(f"{name}_cos", f"… cos θ, where {turn}", "", -1.0, 1.0),
        Feature(f"{name}_sin", "… sin θ", "", 0.0, 1.0),
        Feature(f"{name}_cos_2", "… cos 2θ", "", -1.0, 1.0),
    ]


def _costs() -> list[Feature]:
    of_leaf = "as a leaf with the best strategy: estimated"
    compared = "8 times the difference over the sum plus 4, in bits"
    return [
        _magnitude(
            "satd", "log2(1 + c/(Δn)), c the least SATD + √λ·bits of all strategies", "octaves"
        ),
        _magnitude("satd_density", "4c/(Δn²), the same per pixel", "¼ Δ"),
        _magnitude(
            "leaf_levels", f"{of_leaf} sum of luma's level magnitudes, log2(1 + ·)", "octaves"
        ),
        _magnitude("leaf_bits", f"{of_leaf} bits of these levels, log2(1 + ·)", "octaves"),
        _magnitude("leaf_cost", f"{of_leaf} J/λ, log2(1 + ·)", "octaves"),
        Feature(
            "split_bits",
            "bits of the flag “leaf” minus those of “split”, as the entropy model stands; 0 for 4×4",
            "4 bits",
            -math.inf,
            math.inf,
        ),
        _flag("has_row_above", "the node does not touch the top of the picture"),
        _magnitude("outlook_leaf", "look ahead: J/λ of the node as a leaf, log2(1 + ·)", "octaves"),
        _magnitude(
            "outlook_split",
            "look ahead: least J/λ of its quarters, split further or not, log2(1 + ·); 0 for 4×4",
            "octaves",
        ),
        Feature(
            "outlook_gain", f"look ahead: leaf against split, {compared}; 0 for 4×4", "⅛", -8.0, 8.0
        ),
        Feature(
            "leaf_against_outlook",
            f"`leaf_cost` against the look ahead's split, {compared}; 0 for 4×4",
            "⅛",
            -8.0,
            8.0,
        ),
    ]


def _texture() -> list[Feature]:
    over = "of luma in the node, in units of Δ, log2(1 + ·)"
    return [
        _magnitude("variance", "variance of luma in the node over Δ²/12, log2(1 + ·)", "octaves"),
        _magnitude(
            "gradient_across", f"mean magnitude of horizontal differences {over}", "octaves"
        ),
        _magnitude("gradient_down", f"mean magnitude of vertical differences {over}", "octaves"),
    ]


def _quarters() -> list[Feature]:
    names = ("top_left", "top_right", "bottom_left", "bottom_right")
    quantities = (
        ("power", "mean square of the best strategy's residual"),
        ("mean", "square of its mean"),
    )
    return [
        _magnitude(
            f"residual_{kind}_{name}",
            f"{what} in the {name.replace('_', ' ')} quarter over Δ²/12, log2(1 + ·)",
            "octaves",
        )
        for kind, what in quantities
        for name in names
    ]


def _visibility() -> list[Feature]:
    return [
        Feature(
            f"visibility_{1 << scale}",
            "log2 of how much SSIM falls for an error in the node, over what it falls where all is flat; "
            + (
                "the picture itself"
                if scale == 0
                else f"means over {1 << scale}×{1 << scale} pixels"
            ),
            "octaves",
            _LEAST_VISIBLE,
            0.0,
        )
        for scale in range(SCALES)
    ]


GENERAL: tuple[Feature, ...] = (
    *_sizes(),
    *_place(),
    *_neighbours(),
    *_direction("left", "left of the node's bottom-left corner"),
    *_direction("above", "above the node's top-right corner"),
    *_costs(),
    *_texture(),
    *_quarters(),
    *_visibility(),
)
"""The features before those of the strategies, in their order."""


def features(strategies: Sequence[str]) -> tuple[Feature, ...]:
    """Every feature of an observation, in order.

    Args:
        strategies: The bundle's list of prediction strategies.
    """
    costs = [
        _magnitude(
            f"cost_of_{name}",
            f"{name}: c = estimated cost above that of the best strategy, log2(1 + 4c/(Δn))",
            "octaves",
        )
        for name in strategies
    ]
    return (*GENERAL, *costs)
