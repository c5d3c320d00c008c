"""From a bundle to the arrays the compiled kernel works with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.kernel.state import Constants, Picture, Scratch, allocate_scratch
from ambi_rl.codec.strategists.observation import observation_size
from ambi_rl.codec.strategists.policy_net import MAX_HIDDEN, Network
from ambi_rl.errors import BundleError

DEFAULT_STRATEGIES = list(tables.PREDICTOR_NAMES)
DEFAULT_OFFSETS = [-4, -2, 0, 2, 4]
DEFAULT_LAMBDA_SCALE = 0.115
"""λ/Δ²; the near-optimum measured for squared error, see docs/decisions.md."""


class Context(NamedTuple):
    """What a bundle says, ready for the kernel."""

    constants: Constants
    network: Network
    has_policy: bool
    dc: int
    """Index of the DC strategy (of the first one, if the bundle has no DC)."""

    @property
    def strategies(self) -> int:
        """Number of prediction strategies, S."""
        return int(self.constants.strategies.shape[0])

    @property
    def offsets(self) -> int:
        """Number of quantization offsets, O."""
        return int(self.constants.multipliers.shape[0])

    @property
    def observation_size(self) -> int:
        """Number of features, F."""
        return observation_size(self.strategies)

    def scratch(self) -> Scratch:
        """Working memory for one thread."""
        return allocate_scratch(self.observation_size, self.strategies, self.offsets)


def _network(bundle: Bundle, features: int, outputs: int) -> tuple[Network, bool]:
    if not bundle.policy:
        empty = {name: np.zeros((1, 1), np.float32) for name in ("w0", "w1", "w2")}
        vectors = {name: np.zeros(1, np.float32) for name in ("mean", "scale", "b0", "b1", "b2")}
        return Network(**empty, **vectors), False
    weights = {name: np.ascontiguousarray(bundle.policy[name], np.float32) for name in Network._fields}
    if weights["mean"].shape != (features,) or weights["b2"].shape != (outputs,):
        raise BundleError(
            f"bundle's policy sees {weights['mean'].shape[0]} features and has {weights['b2'].shape[0]} "
            f"outputs; this program's has {features} and {outputs}: train and export it again"
        )
    if weights["b0"].shape[0] > MAX_HIDDEN:
        raise BundleError(f"bundle's policy is wider than {MAX_HIDDEN}")
    return Network(**weights), True


def context_of(bundle: Bundle) -> Context:
    """Prepare a bundle for the kernel.

    Raises:
        BundleError: It names a strategy this program does not have, or its policy does not fit.
    """
    names = list(bundle.manifest["strategies"])
    unknown = [name for name in names if name not in tables.PREDICTOR_NAMES]
    if unknown:
        raise BundleError(f"bundle uses the prediction strategy {unknown[0]!r}, unknown to this program")
    offsets = [int(value) for value in bundle.manifest["offsets"]]
    if 0 not in offsets:
        raise BundleError("bundle has no quantization offset 0; add it to the manifest's offsets")
    codes = [tables.PREDICTOR_NAMES.index(name) for name in names]
    constants = Constants(
        stretch=tables.STRETCH,
        squash=tables.SQUASH,
        cost=tables.COST,
        adaptation=tables.ADAPTATION,
        limits=np.ascontiguousarray(bundle.entropy["limits"], np.int32),
        transforms=tables.TRANSFORMS,
        scans=tables.SCANS,
        strategies=np.array(codes, np.int32),
        multipliers=tables.step_multipliers(offsets),
        neutral=offsets.index(0),
        chroma_scale=np.ascontiguousarray(bundle.entropy["chroma_scale"], np.int32),
        lambda_scale=float(bundle.manifest["lambda_scale"]),
    )
    network, has_policy = _network(
        bundle, observation_size(len(codes)), 1 + len(codes) + len(offsets)
    )
    dc = codes.index(tables.DC) if tables.DC in codes else 0
    return Context(constants, network, has_policy, dc)


def load_entropy(picture: Picture, bundle: Bundle) -> None:
    """Start a picture (or every picture of a batch) with the bundle's entropy state."""
    picture.probs[...] = bundle.entropy["counters"]
    picture.weights[...] = bundle.entropy["mixers"]
