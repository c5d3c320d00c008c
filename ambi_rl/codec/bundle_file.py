"""The file behind every kind of bundle: safetensors with a JSON manifest, hashes, an id and limits.

What a bundle is for is its *profile*: a string in the manifest, `BLOCK` where there is none. This module
knows no profile's tensors; whoever does calls it.

The metadata key `ambi` of the safetensors file is the manifest, whose key `hashes` has the SHA-256 of every
tensor's bytes, by tensor name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ambi_rl.codec.files import read_file
from ambi_rl.errors import AmbiError, BundleError, UnknownBundleError, UnsupportedVersionError

SUFFIX = ".ambic"
FOLDERS_VARIABLE = "AMBI_BUNDLES"
"""Environment variable: folders, separated like PATH, in which bundles (*.ambic) are looked for."""
BLOCK = "block"
"""Profile of the block codec's bundles, which do not say so: they are older than profiles."""

MAX_BYTES = 64 << 20
_MAX_HEADER_BYTES = 4 << 20
_MAX_TENSORS = 256
_MAX_DEPTH = 32
"""Of lists and objects in a manifest; programs that print or write it again go down into them."""
_METADATA_KEY = "ambi"

Tensors = dict[str, npt.NDArray[Any]]


class HasId(Protocol):
    """What can be looked for by its id."""

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        ...


Found = TypeVar("Found", bound=HasId)
Loaded = TypeVar("Loaded")


def short(value: Any) -> str:
    """A value for a message: its text, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _little_endian(tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))


def hash_tensor(tensor: npt.NDArray[Any]) -> str:
    """SHA-256 of a tensor's bytes as they are in the file, in hexadecimal digits."""
    return hashlib.sha256(_little_endian(tensor).tobytes()).hexdigest()


def digest(facts: Mapping[str, Any], tensors: Tensors) -> str:
    """16 hexadecimal digits over facts, JSON types only, and over tensors with names, types and shapes."""
    total = hashlib.sha256()
    total.update(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        tensor = _little_endian(tensors[name])
        total.update(f"\n{name} {tensor.dtype.str} {list(tensor.shape)}\n".encode())
        total.update(tensor.tobytes())
    return total.hexdigest()[:16]


def _is_deeper(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list):
        return False
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in value)


def check_manifest(manifest: Any, profile: str, version: int) -> None:
    """Check what manifests of all profiles have in common.

    Args:
        manifest: From a file, or to be written.
        profile: Which one is expected.
        version: The format version of that profile that this program reads.

    Raises:
        BundleError: It is no object, nests too deep, or is of another profile or an older version.
        UnsupportedVersionError: It is of a newer one.
    """
    if not isinstance(manifest, dict):
        raise BundleError("the bundle's manifest is not a JSON object; export it again")
    if _is_deeper(manifest, _MAX_DEPTH):
        raise BundleError(
            f"the bundle's manifest has more than {_MAX_DEPTH} levels; export it again"
        )
    found = manifest.get("profile", BLOCK)
    if found != profile:
        raise BundleError(
            f"the bundle has the profile {short(found)} and cannot do the work of one with the profile "
            f"{profile!r}, which is needed here; give another bundle"
        )
    said = manifest.get("format_version")
    if isinstance(said, int) and said > version:
        raise UnsupportedVersionError(
            f"the bundle has format version {said}, this program reads version {version}; "
            "update ambi-rl"
        )
    check_values(
        manifest, [("format_version", type(said) is int and said == version, str(version))]
    )


def check_values(manifest: Mapping[str, Any], checks: Iterable[tuple[str, bool, str]]) -> None:
    """Refuse a manifest in which a value is not what it has to be.

    Args:
        manifest: The manifest.
        checks: Key, whether its value is valid, and what it should be.

    Raises:
        BundleError: One is not valid.
    """
    for key, valid, wanted in checks:
        if not valid:
            raise BundleError(
                f"the bundle's manifest says {key} = {short(manifest.get(key))}, not {wanted}; "
                "export it again"
            )


def check_finite(tensors: Tensors) -> None:
    """Refuse floats that are nan or infinite.

    Raises:
        BundleError: There are some.
    """
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BundleError(
                f"bundle tensor {name} has values that are not finite; export it again"
            )


def join_groups(groups: Mapping[str, Tensors]) -> Tensors:
    """Tensors by their names in the file, `group/name`."""
    return {
        f"{group}/{n}": tensor for group, named in groups.items() for n, tensor in named.items()
    }


def split_groups(tensors: Tensors, groups: Iterable[str]) -> dict[str, Tensors]:
    """The opposite of `join_groups`.

    Raises:
        BundleError: A tensor belongs to none of the groups.
    """
    parts: dict[str, Tensors] = {group: {} for group in groups}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        if group not in parts or not rest:
            raise BundleError(f"the bundle has an unknown tensor {short(name)}; export it again")
        parts[group][rest] = tensor
    return parts


def dump(manifest: Mapping[str, Any], tensors: Tensors) -> bytes:
    """Serialise a bundle, with fresh hashes in its manifest.

    Raises:
        BundleError: The manifest is not JSON, or the file would be too large.
    """
    tensors = {name: np.ascontiguousarray(t) for name, t in sorted(tensors.items())}
    hashes = {name: hash_tensor(tensor) for name, tensor in tensors.items()}
    try:
        text = json.dumps({**manifest, "hashes": hashes}, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the bundle's manifest cannot be written as JSON: {error}") from error
    data = save_tensors(tensors, {_METADATA_KEY: text})
    if len(data) > MAX_BYTES:
        raise BundleError(f"the bundle would have {len(data)} bytes, over the limit of {MAX_BYTES}")
    return data


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_manifest(data: bytes) -> Any:
    """The manifest of a safetensors file: 8 bytes of header length, then the header as JSON.

    Raises:
        BundleError: The file is over the limit, or has none.
    """
    if len(data) > MAX_BYTES:
        raise BundleError(f"the bundle has {len(data)} bytes, over the limit of {MAX_BYTES}")
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


def read_tensors(data: bytes, manifest: Mapping[str, Any]) -> Tensors:
    """All tensors of a file, checked against the hashes of its manifest.

    Args:
        data: The whole file.
        manifest: Of this file.

    Returns:
        Arrays of their own, that may be written to.

    Raises:
        BundleError: They cannot be read, or do not match their hashes.
    """
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
    for name, tensor in loaded.items():
        if hash_tensor(tensor) != hashes[name]:
            raise BundleError(f"bundle tensor {name} does not match its hash; fetch the file again")
    # Copies, because Numba compiles again for arrays that are read-only, and torch warns of them.
    return {name: tensor.copy() for name, tensor in loaded.items()}


def read_profile(path: str | os.PathLike[str]) -> str:
    """What a bundle file is for, without reading its tensors.

    Raises:
        BundleError: The file is missing or not a bundle.
    """
    manifest = load(path, read_manifest)
    profile = manifest.get("profile", BLOCK) if isinstance(manifest, dict) else None
    if not isinstance(profile, str):
        raise BundleError(
            f"{os.fspath(path)}: the bundle's manifest has no profile; export it again"
        )
    return profile


def load(path: str | os.PathLike[str], parse: Callable[[bytes], Loaded]) -> Loaded:
    """Read a file and hand its bytes to `parse`; errors name the file.

    Raises:
        BundleError: The file is missing, over 64 MiB, or `parse` says so.
        UnsupportedVersionError: `parse` says so.
    """
    try:
        return parse(read_file(Path(path), limit=MAX_BYTES))
    except (BundleError, UnsupportedVersionError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from error
    except AmbiError as error:
        raise BundleError(f"bundle {error}") from error


def check_free_keys(facts: Iterable[str], own: Iterable[str]) -> None:
    """Refuse facts for a manifest under keys that its profile uses itself.

    Raises:
        BundleError: There is one.
    """
    taken = sorted(set(facts) & set(own))
    if taken:
        raise BundleError(
            f"facts may not be called {', '.join(taken)}, which the manifest uses itself"
        )


def find_given(bundle_id: str, given: Found | None, load_one: Callable[[Path], Found]) -> Found:
    """As `find`, of a profile that has no default bundle: the one given, or one in a folder of AMBI_BUNDLES.

    Args:
        bundle_id: 16 hexadecimal digits.
        given: A bundle the caller has at hand.
        load_one: Reads a bundle of the profile in question.

    Raises:
        UnknownBundleError: None of them has this id.
    """
    at_hand = () if given is None else (given,)
    return find(bundle_id, at_hand, load_one, None if given is None else given.id)


def find(
    bundle_id: str, at_hand: Iterable[Found], load_one: Callable[[Path], Found], given: str | None
) -> Found:
    """Find a bundle by its id, among some at hand and then in the folders that AMBI_BUNDLES names.

    Args:
        bundle_id: 16 hexadecimal digits.
        at_hand: Looked at in this order, each only if those before are not the one.
        load_one: Reads a bundle of the profile in question.
        given: Id of the one that the caller named, for the message.

    Raises:
        UnknownBundleError: None of them has this id.
    """
    for bundle in at_hand:
        if bundle.id == bundle_id:
            return bundle
    unusable = []
    for folder in filter(None, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)):
        for path in sorted(Path(folder).glob(f"*{SUFFIX}")):
            if not path.is_file():
                # A pipe would be waited for.
                continue
            try:
                bundle = load_one(path)
            except AmbiError:
                # One bad file in a folder must not hide the good one; it is named if none is found.
                unusable.append(path.name)
                continue
            if bundle.id == bundle_id:
                return bundle
    named = f" (the one given is {given})" if given is not None else ""
    skipped = f"; unusable there: {', '.join(unusable)}" if unusable else ""
    raise UnknownBundleError(
        f"the file was coded with bundle {bundle_id}, which is not at hand{named}; name its file with -b "
        f"or put it in a folder named by {FOLDERS_VARIABLE}{skipped}"
    )
