"""The bundle of the super-resolving codec: the generator as an ONNX network, and how to run it.

A bundle is a file as `ambi_rl.codec.bundle_file` reads and writes it, of the profile "superres". Its one
tensor `network/onnx`, uint8 [N], is the network's file. The manifest:

    profile         "superres"
    format_version  int, `BUNDLE_VERSION`
    scale           s, by which sides are enlarged, one of `SCALES`
    radius          how far an output of the network may depend on inputs around it, in base-layer pixels
    training        how it was trained; free JSON
    hashes          SHA-256 of every tensor's bytes, by tensor name
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import bundle_file
from ambi_rl.codec.bundle_file import Tensors
from ambi_rl.codec.files import write_file
from ambi_rl.errors import BundleError
from ambi_rl.superres.base_layer import SCALES
from ambi_rl.superres.upscale import Upscaler

PROFILE = "superres"
BUNDLE_VERSION = 1
MAX_RADIUS = 256
_TENSOR = "network/onnx"
_DECODING_KEYS = ("profile", "format_version", "scale", "radius")
"""What of the manifest decoding depends on."""
_TRIED_SIZES = ((1, 1), (3, 5), (8, 8))
"""Heights and widths of the pictures that a network is tried on."""
_RING = 8
"""By how much the picture that a radius is checked with is larger than the radius says."""


@dataclass(frozen=True, eq=False)
class SuperresBundle:
    """An exported generator; treat it as immutable.

    Attributes:
        manifest: See the module's documentation; `hashes` is filled in when it is saved.
        model: The network as an ONNX file.
    """

    manifest: dict[str, Any]
    model: bytes = field(repr=False)

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits over what decoding depends on: the network, scale and radius."""
        facts = {key: self.manifest[key] for key in _DECODING_KEYS}
        return bundle_file.digest(facts, self.named_tensors())

    @property
    def scale(self) -> int:
        """By how much sides are enlarged."""
        return int(self.manifest["scale"])

    @property
    def radius(self) -> int:
        """How far an output may depend on inputs around it, in base-layer pixels."""
        return int(self.manifest["radius"])

    def named_tensors(self) -> Tensors:
        """All tensors by their names in the file."""
        return {_TENSOR: np.frombuffer(self.model, np.uint8)}

    @cached_property
    def upscaler(self) -> Upscaler:
        """The network, ready to run.

        Raises:
            BundleError: It cannot be loaded, or onnxruntime is not installed.
        """
        return Upscaler(self.model, self.scale, self.radius)


def _check_manifest(manifest: Any) -> None:
    """Check everything of a manifest that a program relies on."""
    bundle_file.check_manifest(manifest, PROFILE, BUNDLE_VERSION)
    scale, radius = manifest.get("scale"), manifest.get("radius")
    checks = (
        ("scale", type(scale) is int and scale in SCALES, " or ".join(map(str, SCALES))),
        (
            "radius",
            type(radius) is int and 0 <= radius <= MAX_RADIUS,
            f"an integer from 0 to {MAX_RADIUS}",
        ),
        ("training", isinstance(manifest.get("training"), dict), "a JSON object"),
    )
    bundle_file.check_values(manifest, checks)


def validate_bundle(bundle: SuperresBundle) -> None:
    """Check a bundle's manifest, and try its network on tiny pictures.

    Raises:
        BundleError: Something is missing or of the wrong type, the network cannot be used, or onnxruntime
            is not installed.
        UnsupportedVersionError: A newer program wrote it.
    """
    _check_manifest(bundle.manifest)
    for height, width in _TRIED_SIZES:
        size = 3 * height * width
        ramp = np.linspace(0, 1, size, dtype=np.float32).reshape(3, height, width)
        bundle.upscaler.run(ramp)


def _check_radius(bundle: SuperresBundle) -> None:
    """Refuse a radius that is less than the network's reach, with which tiles would be seen.

    Raises:
        BundleError: A pixel of the output changes with what is further away than the radius.
    """
    rng = np.random.default_rng(1)
    middle = bundle.radius + _RING
    near = slice(middle - bundle.radius, middle + bundle.radius + 1)
    first, second = rng.random((2, 3, 2 * middle + 1, 2 * middle + 1), np.float32)
    second[:, near, near] = first[:, near, near]
    kept = slice(bundle.scale * middle, bundle.scale * (middle + 1))
    outputs: list[npt.NDArray[np.float32]] = [
        bundle.upscaler.run(planes)[:, kept, kept] for planes in (first, second)
    ]
    if not np.array_equal(outputs[0], outputs[1]):
        raise BundleError(
            f"the network looks further than radius = {bundle.radius} base-layer pixels, by which tiles "
            "overlap; give the radius of its receptive field"
        )


def make_bundle(
    model: bytes, scale: int, radius: int, training: Mapping[str, Any]
) -> SuperresBundle:
    """Make a bundle of a trained generator.

    Args:
        model: Its ONNX file: input `base` float32 [1, 3, h, w], RGB in 0…1; output `image` float32
            [1, 3, s h, s w], not clipped; any h and w.
        scale: s, one of `SCALES`.
        radius: Of its receptive field: how far an output may depend on inputs around it, in base-layer
            pixels.
        training: How it was trained, JSON types only.

    Raises:
        BundleError: The network cannot be used, or looks further than `radius`.
    """
    manifest = {
        "profile": PROFILE,
        "format_version": BUNDLE_VERSION,
        "scale": scale,
        "radius": radius,
        "training": dict(training),
        "hashes": {},
    }
    bundle = SuperresBundle(manifest, model)
    validate_bundle(bundle)
    _check_radius(bundle)
    return bundle


def dump_bundle(bundle: SuperresBundle) -> bytes:
    """Serialise a bundle, with fresh hashes in its manifest.

    Raises:
        BundleError: The bundle is not valid, or its manifest is not JSON.
    """
    validate_bundle(bundle)
    return bundle_file.dump(bundle.manifest, bundle.named_tensors())


def save_bundle(bundle: SuperresBundle, path: str | os.PathLike[str]) -> None:
    """Write a bundle to a file (to a temporary one first).

    Raises:
        BundleError: The bundle is not valid.
        UsageError: The file cannot be written.
    """
    write_file(Path(path), dump_bundle(bundle))


def parse_bundle(data: bytes) -> SuperresBundle:
    """Parse and validate a bundle from the bytes of its file.

    Raises:
        BundleError: Not a bundle, of another profile, damaged, or not usable.
        UnsupportedVersionError: A newer program wrote it.
    """
    manifest = bundle_file.read_manifest(data)
    _check_manifest(manifest)
    tensors = bundle_file.read_tensors(data, manifest)
    found = {name: (str(tensor.dtype), tensor.ndim) for name, tensor in tensors.items()}
    if found != {_TENSOR: ("uint8", 1)}:
        raise BundleError(
            f"the bundle holds {bundle_file.short(sorted(tensors))}, not just {_TENSOR}, the uint8 bytes "
            "of a network; export it again"
        )
    bundle = SuperresBundle(manifest, tensors[_TENSOR].tobytes())
    validate_bundle(bundle)
    return bundle


def load_bundle(path: str | os.PathLike[str]) -> SuperresBundle:
    """Read and validate a bundle file.

    Raises:
        BundleError: The file is missing, over 64 MiB, not a bundle, damaged, or not usable.
        UnsupportedVersionError: A newer program wrote it.
    """
    return bundle_file.load(path, parse_bundle)


def find_bundle(bundle_id: str, explicit: SuperresBundle | None = None) -> SuperresBundle:
    """Find the bundle that a file was coded with: `explicit`, or one in a folder of AMBI_BUNDLES.

    Args:
        bundle_id: 16 hexadecimal digits from the file's header.
        explicit: A bundle the caller has at hand.

    Raises:
        UnknownBundleError: None of them has this id.
    """
    return bundle_file.find_given(bundle_id, explicit, load_bundle)
