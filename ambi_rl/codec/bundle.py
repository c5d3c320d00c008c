"""The codec bundle: the one file that holds what was learned, and how a file's bundle is found.

A bundle is a file as `bundle_file` reads and writes it, of the profile "block". Tensors are named
`entropy/...`, `policy/...` and `restoration/...`; the manifest:

    format_version  int, `BUNDLE_VERSION`
    strategies      names of the prediction strategies, in the order their indices are coded
    offsets         quantization offsets in sixths of an octave, in the order their indices are coded
    superblock      side of the superblock in pixels
    lambda_scale    λ/Δ², for the encoder
    hashes          SHA-256 of every tensor's bytes, by tensor name
    training, data, metrics, policy, restoration   where it comes from and how good it is; free JSON
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ambi_rl.codec import bundle_file, tables
from ambi_rl.codec.bundle_file import SUFFIX, Tensors
from ambi_rl.codec.files import write_file
from ambi_rl.errors import BundleError

BUNDLE_VERSION = 2
_MAX_OFFSET = 24
_MAX_SCALE = 1e6
_DECODING_KEYS = ("format_version", "strategies", "offsets", "superblock")
"""What of the manifest decoding depends on; the rest of it is not part of the bundle's id."""
_RESTORATION = "restoration"
_GROUPS = ("entropy", "policy", _RESTORATION)
"""Groups of tensors: attributes of `Bundle`, and what their names in the file begin with."""
POLICY_TENSORS = ("mean", "scale", "w0", "b0", "w1", "b1", "w2", "b2")
"""Names of the policy's tensors, in the order of `Network.weights` (`strategists/policy_net.py`)."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """An exported codec; treat it and its arrays as immutable.

    Attributes:
        manifest: See the module's documentation; `hashes` is filled in when it is saved.
        entropy: The entropy model's tensors, by name without `entropy/`.
        policy: The policy's float32 tensors, by name without `policy/`: mean, scale [F], w0 [H, F], b0 [H],
            w1 [H, H], b1 [H], w2 [1+S+O, H+F], b2 [1+S+O]; empty if the bundle has no policy.
        restoration: The tensors of the filter after decoding, by name without `restoration/` (see
            `restoration.validate_tensors`); empty if the bundle has none.
    """

    manifest: dict[str, Any]
    entropy: Tensors = field(repr=False)
    policy: Tensors = field(repr=False, default_factory=dict)
    restoration: Tensors = field(repr=False, default_factory=dict)

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits over exactly what a decoded picture depends on, so not over the policy."""
        filters = {f"{_RESTORATION}/{name}": t for name, t in self.restoration.items()}
        return self._digest(self.entropy | filters)

    @cached_property
    def encoder_id(self) -> str:
        """16 hexadecimal digits over what an encoded file depends on: `id`, the policy and λ."""
        text = f"{self.id} {self._digest(self.policy)} {self.manifest['lambda_scale']!r}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def planes_id(self) -> str:
        """16 hexadecimal digits over what planes before restoration depend on."""
        return self._digest(self.entropy)

    def _digest(self, tensors: Tensors) -> str:
        return bundle_file.digest({key: self.manifest[key] for key in _DECODING_KEYS}, tensors)

    @property
    def strategies(self) -> list[str]:
        """Names of the prediction strategies, S of them."""
        return list(self.manifest["strategies"])

    @property
    def offsets(self) -> list[int]:
        """Quantization offsets in sixths of an octave, O of them."""
        return list(self.manifest["offsets"])


def make_manifest(
    strategies: list[str],
    offsets: list[int],
    lambda_scale: float,
    *,
    training: Mapping[str, Any] | None = None,
    data: list[str] | None = None,
    metrics: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compose a manifest for this program's format.

    Args:
        strategies: Names of the prediction strategies.
        offsets: Quantization offsets in sixths of an octave.
        lambda_scale: λ/Δ².
        training: The resolved training configuration.
        data: What it was trained on.
        metrics: How good it was.
        policy: What describes the policy, for example its sizes.
    """
    return {
        "format_version": BUNDLE_VERSION,
        "strategies": list(strategies),
        "offsets": [int(offset) for offset in offsets],
        "superblock": tables.SUPERBLOCK,
        "lambda_scale": float(lambda_scale),
        "hashes": {},
        "training": dict(training or {}),
        "data": list(data or []),
        "metrics": dict(metrics or {}),
        "policy": dict(policy or {}),
    }


def _named_tensors(bundle: Bundle) -> Tensors:
    return bundle_file.join_groups({group: getattr(bundle, group) for group in _GROUPS})


def _check_manifest(manifest: Any) -> None:
    """Check everything of a manifest that a program relies on."""
    bundle_file.check_manifest(manifest, bundle_file.BLOCK, BUNDLE_VERSION)
    strategies, offsets = manifest.get("strategies"), manifest.get("offsets")
    scale = manifest.get("lambda_scale")
    checks = (
        ("strategies", _distinct(strategies, str), "a list of different names"),
        (
            "offsets",
            _distinct(offsets, int) and all(abs(o) <= _MAX_OFFSET for o in offsets or ()),
            f"a list of different integers from -{_MAX_OFFSET} to {_MAX_OFFSET}",
        ),
        ("superblock", manifest.get("superblock") == tables.SUPERBLOCK, f"{tables.SUPERBLOCK}"),
        (
            "lambda_scale",
            isinstance(scale, int | float) and 0 < scale <= _MAX_SCALE,
            f"a positive number up to {_MAX_SCALE:g}",
        ),
    )
    bundle_file.check_values(manifest, checks)


def _distinct(values: Any, kind: type) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(type(value) is kind for value in values)
        and len(set(values)) == len(values)
    )


def _check_policy(bundle: Bundle) -> None:
    policy = bundle.policy
    if not policy:
        return
    if set(policy) != set(POLICY_TENSORS):
        wrong = ", ".join(sorted(set(policy) ^ set(POLICY_TENSORS)))
        raise BundleError(
            f"bundle tensors policy/... are missing or unknown: {wrong}; export it again"
        )
    features = policy["mean"].size
    hidden = policy["b0"].size
    outputs = 1 + len(bundle.strategies) + len(bundle.offsets)
    shapes: dict[str, tuple[int, ...]] = {
        "mean": (features,),
        "scale": (features,),
        "w0": (hidden, features),
        "b0": (hidden,),
        "w1": (hidden, hidden),
        "b1": (hidden,),
        "w2": (outputs, hidden + features),
        "b2": (outputs,),
    }
    for name, shape in shapes.items():
        tensor = policy[name]
        if tensor.dtype != np.float32 or tensor.shape != shape or 0 in shape:
            raise BundleError(
                f"bundle tensor policy/{name} is {tensor.dtype} {list(tensor.shape)}, "
                f"not float32 {list(shape)}; export it again"
            )


def validate_bundle(bundle: Bundle) -> None:
    """Check a bundle's manifest and tensors against what the codec needs.

    Raises:
        BundleError: something is missing, of the wrong type or shape, or not finite.
        UnsupportedVersionError: a newer program wrote it.
    """
    # Deferred: the entropy model imports Numba, which whoever only parses a manifest need not wait for.
    from ambi_rl.codec.entropy.model import validate_tensors
    from ambi_rl.codec.restoration import validate_tensors as validate_network

    _check_manifest(bundle.manifest)
    bundle_file.check_finite(_named_tensors(bundle))
    validate_tensors(bundle.entropy, len(bundle.strategies), len(bundle.offsets))
    _check_policy(bundle)
    if bundle.restoration:
        validate_network(bundle.restoration)


def dump_bundle(bundle: Bundle) -> bytes:
    """Serialise a bundle, with fresh hashes in its manifest.

    Raises:
        BundleError: the bundle is not valid, or its manifest is not JSON.
    """
    validate_bundle(bundle)
    return bundle_file.dump(bundle.manifest, _named_tensors(bundle))


def save_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Write a bundle to a file (to a temporary one first).

    Raises:
        BundleError: the bundle is not valid.
        UsageError: the file cannot be written.
    """
    write_file(Path(path), dump_bundle(bundle))


def parse_bundle(data: bytes) -> Bundle:
    """Parse and validate a bundle from the bytes of its file.

    Raises:
        BundleError: not a bundle, damaged, or not usable.
        UnsupportedVersionError: a newer program wrote it.
    """
    manifest = bundle_file.read_manifest(data)
    _check_manifest(manifest)
    loaded = bundle_file.read_tensors(data, manifest)
    bundle = Bundle(manifest, **bundle_file.split_groups(loaded, _GROUPS))
    validate_bundle(bundle)
    return bundle


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and validate a bundle file.

    Raises:
        BundleError: the file is missing, over 64 MiB, not a bundle, damaged, or not usable.
        UnsupportedVersionError: a newer program wrote it.
    """
    return bundle_file.load(path, parse_bundle)


@cache
def default_bundle() -> Bundle:
    """The bundle that comes with the package."""
    return load_bundle(Path(__file__).with_name(f"default{SUFFIX}"))


def find_bundle(bundle_id: str, explicit: Bundle | None = None) -> Bundle:
    """Find the bundle that a file was coded with.

    Looks at `explicit`, the default bundle, and the *.ambic files of the folders that the environment
    variable AMBI_BUNDLES names (separated like PATH), in this order.

    Args:
        bundle_id: 16 hexadecimal digits from the file's header.
        explicit: A bundle the caller has at hand.

    Raises:
        UnknownBundleError: none of them has this id.
    """

    def at_hand() -> Iterator[Bundle]:
        if explicit is not None:
            yield explicit
        yield default_bundle()

    given = None if explicit is None else explicit.id
    return bundle_file.find(bundle_id, at_hand(), load_bundle, given)
