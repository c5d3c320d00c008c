"""The entropy model's learned state as tensors: untrained start, validation, and settling after training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.coder import REFINE_SHIFT
from ambi_rl.codec.entropy.network import BIAS_MAX, ROW_MAX, WEIGHT_MAX
from ambi_rl.codec.kernel.state import MAX_INPUTS
from ambi_rl.codec.tables import COUNT_LIMIT, SQUASH
from ambi_rl.errors import BundleError

Tensors = dict[str, npt.NDArray[np.generic]]

_SHAPES: dict[str, tuple[int, ...]] = {
    "counters": (layout.NUM_COUNTERS,),
    "mixers": (layout.NUM_MIXERS * MAX_INPUTS,),
    "limits": (2,),
    "chroma_scale": (2,),
    **layout.NET_TENSORS,
}
"""Every tensor of the model; those in `_SHORT` are int16, the others int32.

counters: probability of a one in 20 bits, observations in 10. mixers: weights with 16 fractional bits.
limits: observations a counter remembers when coding; observations it starts with at most.
chroma_scale: quantizer steps of Cb and Cr relative to luma, in 1/64. net_...: the level network, see
`entropy.network`.
"""

_SHORT = {"net_rows", "net_w1", "net_w2"}
_NET_MAX = {
    "net_rows": ROW_MAX,
    "net_bias": BIAS_MAX,
    "net_w1": WEIGHT_MAX,
    "net_b1": BIAS_MAX,
    "net_w2": WEIGHT_MAX,
    "net_b2": BIAS_MAX,
}

_START_WEIGHT = 16000
_ADAPT_LIMIT = 255
_START_CONFIDENCE = 24


def untrained() -> Tensors:
    """An entropy model that knows nothing: even odds everywhere, equal mixing."""
    mixers = np.full((layout.NUM_MIXERS, MAX_INPUTS), _START_WEIGHT, np.int32)
    return {
        "counters": _untrained_counters(),
        "mixers": mixers.reshape(-1),
        "limits": np.array([_ADAPT_LIMIT, _START_CONFIDENCE], np.int32),
        "chroma_scale": np.array([64, 72], np.int32),
        **{name: np.zeros(shape, _dtype(name)) for name, shape in layout.NET_TENSORS.items()},
    }


def _untrained_counters() -> npt.NDArray[np.int32]:
    """Counters of even odds, and a refinement that changes nothing."""
    counters = np.full(layout.NUM_COUNTERS, 1 << 29, np.int32)
    nodes = np.minimum(np.arange(layout.REFINE_NODES) << REFINE_SHIFT, len(SQUASH) - 1)
    counters[layout.REFINE :] = np.tile(SQUASH[nodes] << 14, layout.NUM_MIXERS)
    return counters


def _dtype(name: str) -> type[np.signedinteger[Any]]:
    return np.int16 if name in _SHORT else np.int32


def settle(counters: npt.NDArray[np.int32], confidence: int) -> npt.NDArray[np.int32]:
    """Counters to start a picture with: trained probabilities that still adapt.

    Args:
        counters: int32 [C] after training.
        confidence: Observations that a counter claims at most, 0…1023.
    """
    seen = np.minimum(counters & COUNT_LIMIT, confidence)
    return np.asarray((counters & ~COUNT_LIMIT) | seen, np.int32)


def validate_tensors(entropy: Tensors, num_strategies: int, num_offsets: int) -> None:
    """Check that the tensors are a usable entropy model.

    Raises:
        BundleError: A tensor is missing, unknown, of the wrong type or shape, or out of range.
    """
    if not 1 <= num_strategies <= layout.MAX_STRATEGIES:
        raise BundleError(
            f"bundle names {num_strategies} strategies; 1 to {layout.MAX_STRATEGIES} can be coded"
        )
    if not 1 <= num_offsets <= layout.MAX_OFFSETS:
        raise BundleError(
            f"bundle names {num_offsets} offsets; 1 to {layout.MAX_OFFSETS} can be coded"
        )
    if set(entropy) != set(_SHAPES):
        wrong = ", ".join(sorted(set(entropy) ^ set(_SHAPES)))
        raise BundleError(
            f"bundle's entropy tensors do not match this program: {wrong}; export it again"
        )
    for name, shape in _SHAPES.items():
        tensor = entropy[name]
        dtype = np.dtype(_dtype(name))
        if tensor.dtype != dtype or tensor.shape != shape:
            raise BundleError(
                f"bundle tensor entropy/{name} is {tensor.dtype} {list(tensor.shape)}, "
                f"not {dtype} {list(shape)}"
            )
    for name, most in _NET_MAX.items():
        if np.abs(entropy[name].astype(np.int64)).max() > most:
            raise BundleError(f"bundle tensor entropy/{name} has values out of range")
    if entropy["net_rows"][:, layout.NET_PADDING].any():
        raise BundleError("bundle tensor entropy/net_rows has a padding row that is not zero")
    counters = entropy["counters"].astype(np.int64)
    if counters.min() < 0 or counters.max() >= 1 << 30:
        raise BundleError("bundle tensor entropy/counters has values out of range")
    if np.abs(entropy["mixers"].astype(np.int64)).max() > 1 << 22:
        raise BundleError("bundle tensor entropy/mixers has values out of range")
    limits = entropy["limits"].astype(np.int64)
    if limits.min() < 0 or limits.max() > COUNT_LIMIT:
        raise BundleError("bundle tensor entropy/limits has values out of range")
    scale = entropy["chroma_scale"].astype(np.int64)
    if scale.min() < 16 or scale.max() > 256:
        raise BundleError("bundle tensor entropy/chroma_scale has values out of range")
