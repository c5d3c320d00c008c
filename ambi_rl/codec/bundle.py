"""The codec bundle: the one file that holds what was learned, and how a file's bundle is found.

A bundle is a safetensors file. Tensors are named `entropy/...`, `policy/...` and `restoration/...`; the
metadata key `ambi` is the JSON manifest:

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
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ambi_rl.codec import tables
from ambi_rl.codec.files import read_file, write_file
from ambi_rl.errors import AmbiError, BundleError, UnknownBundleError, UnsupportedVersionError

BUNDLE_VERSION = 2
SUFFIX = ".ambic"
FOLDERS_VARIABLE = "AMBI_BUNDLES"
"""Environment variable: folders, separated like PATH, in which `find_bundle` looks for *.ambic."""

MAX_BYTES = 64 << 20
_MAX_HEADER_BYTES = 4 << 20
_MAX_TENSORS = 256
_MAX_OFFSET = 24
_MAX_DEPTH = 32
"""Of lists and objects in a manifest; programs that print or write it again go down into them."""
_MAX_SCALE = 1e6
_METADATA_KEY = "ambi"
_DECODING_KEYS = ("format_version", "strategies", "offsets", "superblock")
"""What of the manifest decoding depends on; the rest of it is not part of the bundle's id."""
_RESTORATION = "restoration"
_GROUPS = ("entropy", "policy", _RESTORATION)
"""Groups of tensors: attributes of `Bundle`, and what their names in the file begin with."""
POLICY_TENSORS = ("mean", "scale", "w0", "b0", "w1", "b1", "w2", "b2")
"""Names of the policy's tensors, in the order of `Network.weights` (`strategists/policy_net.py`)."""

Tensors = dict[str, npt.NDArray[Any]]


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
        digest = hashlib.sha256()
        facts = {key: self.manifest[key] for key in _DECODING_KEYS}
        digest.update(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())
        for name in sorted(tensors):
            tensor = _little_endian(tensors[name])
            digest.update(f"\n{name} {tensor.dtype.str} {list(tensor.shape)}\n".encode())
            digest.update(tensor.tobytes())
        return digest.hexdigest()[:16]

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


def _little_endian(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))


def _hash(tensor: npt.NDArray[Any]) -> str:
    return hashlib.sha256(_little_endian(tensor).tobytes()).hexdigest()


def _named_tensors(bundle: Bundle) -> Tensors:
    return {
        f"{group}/{name}": tensor
        for group in _GROUPS
        for name, tensor in getattr(bundle, group).items()
    }


def _check_manifest(manifest: Any) -> None:
    """Check everything of a manifest that a program relies on."""
    if not isinstance(manifest, dict):
        raise BundleError("the bundle's manifest is not a JSON object; export it again")
    if _is_deeper(manifest, _MAX_DEPTH):
        raise BundleError(
            f"the bundle's manifest has more than {_MAX_DEPTH} levels; export it again"
        )
    version = manifest.get("format_version")
    if isinstance(version, int) and version > BUNDLE_VERSION:
        raise UnsupportedVersionError(
            f"the bundle has format version {version}, this program reads version {BUNDLE_VERSION}; "
            "update ambi-rl"
        )
    strategies, offsets = manifest.get("strategies"), manifest.get("offsets")
    scale = manifest.get("lambda_scale")
    for key, valid, wanted in (
        ("format_version", type(version) is int and version == BUNDLE_VERSION, f"{BUNDLE_VERSION}"),
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
    ):
        if not valid:
            raise BundleError(
                f"the bundle's manifest says {key} = {_short(manifest.get(key))}, not {wanted}; "
                "export it again"
            )


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in value)


def _distinct(values: Any, kind: type) -> bool:
    return (
        isinstance(values, list)
        and len(values) > 0
        and all(type(value) is kind for value in values)
        and len(set(values)) == len(values)
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
    for name, tensor in _named_tensors(bundle).items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BundleError(
                f"bundle tensor {name} has values that are not finite; export it again"
            )
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
    tensors = {n: np.ascontiguousarray(t) for n, t in sorted(_named_tensors(bundle).items())}
    manifest = bundle.manifest | {"hashes": {name: _hash(t) for name, t in tensors.items()}}
    try:
        text = json.dumps(manifest, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the bundle's manifest cannot be written as JSON: {error}") from error
    data = save_tensors(tensors, {_METADATA_KEY: text})
    if len(data) > MAX_BYTES:
        raise BundleError(f"the bundle would have {len(data)} bytes, over the limit of {MAX_BYTES}")
    return data


def save_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> None:
    """Write a bundle to a file (to a temporary one first).

    Raises:
        BundleError: the bundle is not valid.
        UsageError: the file cannot be written.
    """
    write_file(Path(path), dump_bundle(bundle))


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _read_manifest(data: bytes) -> Any:
    """The manifest of a safetensors file: 8 bytes of header length, then the header as JSON."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(len(data) - 8, _MAX_HEADER_BYTES):
        raise BundleError("this is not a bundle: it is no safetensors file; use an exported .ambic")
    try:
        header = json.loads(data[8 : 8 + length])
        return json.loads(header["__metadata__"][_METADATA_KEY], parse_constant=_reject_constant)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(
            "this is not a bundle: it has no readable manifest; use a file that `ambi export` wrote"
        ) from None


def parse_bundle(data: bytes) -> Bundle:
    """Parse and validate a bundle from the bytes of its file.

    Raises:
        BundleError: not a bundle, damaged, or not usable.
        UnsupportedVersionError: a newer program wrote it.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"the bundle has {len(data)} bytes, over the limit of {MAX_BYTES}")
    manifest = _read_manifest(data)
    _check_manifest(manifest)
    try:
        loaded = load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BundleError(
            f"the bundle's tensors cannot be read ({reason}); export it again"
        ) from None
    if len(loaded) > _MAX_TENSORS:
        raise BundleError(f"the bundle has {len(loaded)} tensors, over the limit of {_MAX_TENSORS}")
    hashes = manifest.get("hashes")
    if not isinstance(hashes, dict) or set(hashes) != set(loaded):
        raise BundleError("the bundle's hashes do not name its tensors; export it again")
    groups: dict[str, Tensors] = {group: {} for group in _GROUPS}
    for name, tensor in loaded.items():
        group, _, rest = name.partition("/")
        if group not in groups or not rest:
            raise BundleError(f"the bundle has an unknown tensor {_short(name)}; export it again")
        if _hash(tensor) != hashes[name]:
            raise BundleError(f"bundle tensor {name} does not match its hash; fetch the file again")
        # A copy, because Numba compiles again for arrays that are read-only.
        groups[group][rest] = tensor.copy()
    bundle = Bundle(manifest, **groups)
    validate_bundle(bundle)
    return bundle


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and validate a bundle file.

    Raises:
        BundleError: the file is missing, over 64 MiB, not a bundle, damaged, or not usable.
        UnsupportedVersionError: a newer program wrote it.
    """
    try:
        return parse_bundle(read_file(Path(path), limit=MAX_BYTES))
    except (BundleError, UnsupportedVersionError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error
    except AmbiError as error:
        raise BundleError(f"bundle {error}") from error


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
    if explicit is not None and explicit.id == bundle_id:
        return explicit
    if default_bundle().id == bundle_id:
        return default_bundle()
    unusable = []
    for folder in filter(None, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)):
        for path in sorted(Path(folder).glob(f"*{SUFFIX}")):
            if not path.is_file():
                # A pipe would be waited for.
                continue
            try:
                bundle = load_bundle(path)
            except AmbiError:
                # One bad file in a folder must not hide the good one; it is named if none is found.
                unusable.append(path.name)
                continue
            if bundle.id == bundle_id:
                return bundle
    given = f" (the one given is {explicit.id})" if explicit is not None else ""
    skipped = f"; unusable there: {', '.join(unusable)}" if unusable else ""
    raise UnknownBundleError(
        f"the file was coded with bundle {bundle_id}, which is not at hand{given}; name its file with -b "
        f"or put it in a folder named by {FOLDERS_VARIABLE}{skipped}"
    )
