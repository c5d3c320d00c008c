"""From a bundle to the arrays the compiled kernel works with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.kernel.state import (
    CONSTANTS,
    MAX_HIDDEN,
    NUM_OFFSETS,
    NUM_STRATEGIES,
    WORK,
    Constants,
    Picture,
    Work,
    records,
)
from ambi_rl.codec.strategists.observation import observation_size
from ambi_rl.codec.strategists.policy_net import NO_NETWORK, Network, network_of
from ambi_rl.errors import BundleError

DEFAULT_STRATEGIES = list(tables.PREDICTOR_NAMES)
DEFAULT_OFFSETS = [-4, -2, 0, 2, 4]
DEFAULT_LAMBDA_SCALE = 0.104
"""λ/Δ²; the near-optimum measured for squared error, see docs/rate-distortion.md."""


class Context(NamedTuple):
    """What a bundle says, ready for the kernel."""

    constants: Constants
    network: Network
    dc: int
    """Index of the DC strategy (of the first one, if the bundle has no DC)."""

    @property
    def has_policy(self) -> bool:
        """Whether the bundle holds a policy."""
        return int(self.network.shape[0]) > 0

    @property
    def strategies(self) -> int:
        """Number of prediction strategies, S."""
        return int(self.constants.counts[NUM_STRATEGIES])

    @property
    def offsets(self) -> int:
        """Number of quantization offsets, O."""
        return int(self.constants.counts[NUM_OFFSETS])

    @property
    def observation_size(self) -> int:
        """Number of features, F."""
        return observation_size(self.strategies)

    def work(self) -> Work:
        """Working memory for one thread."""
        record: Work = records(WORK, 1)[0]
        return record


def _network(bundle: Bundle, features: int, outputs: int) -> Network:
    if not bundle.policy:
        return NO_NETWORK
    network = network_of(bundle.policy)
    if network.shape[0] != features or network.shape[2] != outputs:
        raise BundleError(
            f"bundle's policy sees {network.shape[0]} features and has {network.shape[2]} outputs; "
            f"this program's has {features} and {outputs}: train and export it again"
        )
    if network.shape[1] > MAX_HIDDEN:
        raise BundleError(f"bundle's policy is wider than {MAX_HIDDEN}")
    return network


def context_of(bundle: Bundle) -> Context:
    """Prepare a bundle for the kernel.

    Raises:
        BundleError: It names a strategy this program does not have, or its policy does not fit.
    """
    names = list(bundle.manifest["strategies"])
    unknown = [name for name in names if name not in tables.PREDICTOR_NAMES]
    if unknown:
        raise BundleError(
            f"bundle uses the prediction strategy {unknown[0]!r}, unknown to this program"
        )
    offsets = [int(value) for value in bundle.manifest["offsets"]]
    if 0 not in offsets:
        raise BundleError("bundle has no quantization offset 0; add it to the manifest's offsets")
    codes = [tables.PREDICTOR_NAMES.index(name) for name in names]
    constants = records(CONSTANTS, 1)[0]
    for name in ("stretch", "squash", "cost", "adaptation", "transforms", "transposed", "scans"):
        constants[name] = getattr(tables, name.upper())
    for size, scan in enumerate(tables.SCANS):
        area = 1 << 2 * (tables.MIN_BLOCK_LOG2 + size)
        constants["order"][size].reshape(-1)[scan[:area]] = np.log2(2 + np.arange(area))
    constants["limits"] = bundle.entropy["limits"]
    constants["chroma_scale"] = bundle.entropy["chroma_scale"]
    for name in layout.NET_TENSORS:
        constants[name] = bundle.entropy[name]
    constants["strategies"][: len(codes)] = codes
    constants["strategy_of"] = -1
    constants["strategy_of"][codes] = np.arange(len(codes))
    constants["multipliers"][: len(offsets)] = tables.step_multipliers(offsets)
    constants["counts"] = len(codes), len(offsets), offsets.index(0)
    constants["lambda_scale"] = float(bundle.manifest["lambda_scale"])
    network = _network(bundle, observation_size(len(codes)), 1 + len(codes) + len(offsets))
    dc = codes.index(tables.DC) if tables.DC in codes else 0
    return Context(constants, network, dc)


def load_entropy(picture: Picture, bundle: Bundle) -> None:
    """Start a picture (or every picture of a batch) with the bundle's entropy state."""
    picture.state.probs[...] = bundle.entropy["counters"]
    picture.state.weights[...] = bundle.entropy["mixers"]
