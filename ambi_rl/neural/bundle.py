"""The bundle of the feature codec: an agent's encoder, its action net, the frame decoder and the tables.

A bundle is a file as `ambi_rl.codec.bundle_file` reads and writes it, of the profile "features". Its groups
of tensors are `encoder/...` (from stacked frames to the latent), `agent/...` (from the latent to actions),
`decoder/...` (from the latent to a frame) and `prior/...` (`LatentTables`). The manifest:

    profile         "features"
    format_version  int, `BUNDLE_VERSION`
    encoder         arguments of `FeatureEncoder`: frames, width, layer, channels, features
    decoder         of `FrameDecoder`: width
    action          widths, units of each linear layer, the last of them one for each action; activation
                    between the layers, one of `ACTIVATIONS`
    hashes          SHA-256 of every tensor's bytes, by tensor name

and whatever else its maker wants to tell, such as training, data and metrics; free JSON.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ambi_rl.codec import bundle_file
from ambi_rl.codec.bundle_file import Tensors
from ambi_rl.codec.files import write_file
from ambi_rl.errors import BundleError
from ambi_rl.neural.networks import LAYERS, FeatureEncoder, FrameDecoder
from ambi_rl.neural.tables import MAX_CHANNELS, LatentTables

PROFILE = "features"
BUNDLE_VERSION = 1
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}
_GROUPS = ("encoder", "agent", "decoder", "prior")
_OWN_KEYS = ("profile", "format_version", "encoder", "decoder", "action", "hashes")
_LIMITS = {
    "frames": 64,
    "width": 1024,
    "channels": MAX_CHANNELS,
    "features": 1 << 16,
}
_MAX_ACTION_LAYERS = 8
_SIDES = {"features": 1, "conv3": 7, "conv2": 9}
"""Rows and columns of the latent by the layer it is taken from; see `FeatureEncoder`."""


@dataclass(frozen=True)
class Networks:
    """The modules of a bundle, without gradients.

    Attributes:
        encoder: From stacked frames to the latent and on to features.
        action: From features to one number for each action.
        decoder: From the latent to a frame.
    """

    encoder: FeatureEncoder
    action: nn.Sequential
    decoder: FrameDecoder


@dataclass(frozen=True, eq=False)
class FeatureBundle:
    """An exported feature codec; treat it and its arrays as immutable.

    Attributes:
        manifest: See the module's documentation; `hashes` is filled in when it is saved.
        encoder: float32 tensors of `FeatureEncoder.before`, by name.
        agent: float32 tensors of `FeatureEncoder.after`, named `after.…`, and of the action net, `action.…`.
        decoder: float32 tensors of `FrameDecoder`.
        prior: Of `LatentTables`.
    """

    manifest: dict[str, Any]
    encoder: Tensors = field(repr=False)
    agent: Tensors = field(repr=False)
    decoder: Tensors = field(repr=False)
    prior: Tensors = field(repr=False)

    @cached_property
    def id(self) -> str:
        """16 hexadecimal digits over what decoding depends on: tables, frame decoder, shape of the latent."""
        facts = {key: self.manifest[key] for key in ("profile", "format_version", "decoder")}
        facts["latent"] = list(self.latent_shape)
        groups = {"decoder": self.decoder, "prior": self.prior}
        return bundle_file.digest(facts, bundle_file.join_groups(groups))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of a frame's latents."""
        encoder = self.manifest["encoder"]
        side = _SIDES[encoder["layer"]]
        return (encoder["channels"], side, side)

    @cached_property
    def tables(self) -> LatentTables:
        """What codes the latents."""
        return LatentTables.from_tensors(self.prior)

    def named_tensors(self) -> Tensors:
        """All tensors by their names in the file."""
        return bundle_file.join_groups({group: getattr(self, group) for group in _GROUPS})

    def networks(self) -> Networks:
        """The modules, with the bundle's weights."""
        networks = _empty_networks(self.manifest)
        for module, tensors in (
            (networks.encoder.before, self.encoder),
            (networks.encoder.after, _below("after", self.agent)),
            (networks.action, _below("action", self.agent)),
            (networks.decoder, self.decoder),
        ):
            state = {name: torch.from_numpy(tensor.copy()) for name, tensor in tensors.items()}
            module.load_state_dict(state, assign=True)
        for whole in (networks.encoder, networks.action, networks.decoder):
            whole.requires_grad_(False).eval()
        return networks


def _below(prefix: str, tensors: Tensors) -> Tensors:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def _empty_networks(manifest: Mapping[str, Any]) -> Networks:
    """The modules that a manifest describes, of which only shapes exist: no claim costs memory."""
    encoder, decoder, action = (manifest[key] for key in ("encoder", "decoder", "action"))
    with torch.device("meta"):
        features = FeatureEncoder(**encoder)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise([encoder["features"], *action["widths"]]):
            layers += [nn.Linear(inputs, outputs), ACTIVATIONS[action["activation"]]()]
        return Networks(
            features,
            nn.Sequential(*layers[:-1]),
            FrameDecoder(features.latent_shape, decoder["width"]),
        )


def _has(value: Any, keys: set[str]) -> bool:
    return isinstance(value, dict) and set(value) == keys


def _is_count(value: Any, limit: int) -> bool:
    return type(value) is int and 1 <= value <= limit


def _check_manifest(manifest: Any) -> None:
    """Check everything of a manifest that a program relies on."""
    bundle_file.check_manifest(manifest, PROFILE, BUNDLE_VERSION)
    encoder, decoder, action = (manifest.get(key) for key in ("encoder", "decoder", "action"))
    limits = ", ".join(f"{name} up to {limit}" for name, limit in _LIMITS.items())
    checks = [
        (
            "encoder",
            _has(encoder, {*_LIMITS, "layer"})
            and all(_is_count(encoder[name], limit) for name, limit in _LIMITS.items())
            and encoder["layer"] in LAYERS,
            f"{limits}, and layer, one of {', '.join(LAYERS)}",
        ),
        (
            "decoder",
            _has(decoder, {"width"}) and _is_count(decoder["width"], _LIMITS["width"]),
            f"width up to {_LIMITS['width']}",
        ),
        (
            "action",
            _has(action, {"widths", "activation"})
            and isinstance(action["widths"], list)
            and 1 <= len(action["widths"]) <= _MAX_ACTION_LAYERS
            and all(_is_count(width, _LIMITS["features"]) for width in action["widths"])
            and action["activation"] in tuple(ACTIVATIONS),
            f"up to {_MAX_ACTION_LAYERS} widths up to {_LIMITS['features']}, and activation, one of "
            f"{', '.join(ACTIVATIONS)}",
        ),
    ]
    bundle_file.check_values(manifest, checks)


def _expected_shapes(manifest: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all float tensors, by name, as the manifest wants them."""
    networks = _empty_networks(manifest)
    modules = {
        "encoder/": networks.encoder.before,
        "agent/after.": networks.encoder.after,
        "agent/action.": networks.action,
        "decoder/": networks.decoder,
    }
    return {
        f"{prefix}{name}": tuple(tensor.shape)
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def validate_bundle(bundle: FeatureBundle) -> None:
    """Check a bundle's manifest and tensors against each other.

    Raises:
        BundleError: Something is missing, of the wrong type or shape, or not finite.
        UnsupportedVersionError: A newer program wrote it.
    """
    _check_manifest(bundle.manifest)
    tensors = bundle.named_tensors()
    bundle_file.check_finite(tensors)
    shapes = _expected_shapes(bundle.manifest)
    floats = {name: tensor for name, tensor in tensors.items() if not name.startswith("prior/")}
    if set(floats) != set(shapes):
        wrong = sorted(set(floats) ^ set(shapes))
        raise BundleError(
            f"bundle tensors are missing or unknown: {bundle_file.short(', '.join(wrong))}; "
            "export it again"
        )
    for name, shape in shapes.items():
        tensor = floats[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise BundleError(
                f"bundle tensor {name} is {tensor.dtype} {list(tensor.shape)}, "
                f"not float32 {list(shape)}; export it again"
            )
    if bundle.tables.channels != bundle.latent_shape[0]:
        raise BundleError(
            f"the bundle's tables have {bundle.tables.channels} channels, its encoder "
            f"{bundle.latent_shape[0]}; export it again"
        )


def _state(module: nn.Module, prefix: str = "") -> Tensors:
    return {
        f"{prefix}{name}": tensor.detach().cpu().contiguous().numpy().astype(np.float32)
        for name, tensor in module.state_dict().items()
    }


def _describe_encoder(encoder: FeatureEncoder) -> dict[str, Any]:
    first = next(m for m in encoder.before.modules() if isinstance(m, nn.Conv2d))
    last = [m for m in encoder.after.modules() if isinstance(m, nn.Linear)][-1]
    channels, side, _ = encoder.latent_shape
    return {
        "frames": first.in_channels,
        "width": first.out_channels,
        "layer": next(layer for layer, rows in _SIDES.items() if rows == side),
        "channels": channels,
        "features": last.out_features,
    }


def _describe_action(action_net: nn.Module) -> tuple[list[nn.Linear], str]:
    """The linear layers of an action net, and the name of what is between them.

    Raises:
        BundleError: It has other parts.
    """
    # An agent without hidden layers of its own has an empty sequence for them.
    parts = [m for m in action_net.modules() if not isinstance(m, nn.Sequential)]
    layers = [part for part in parts if isinstance(part, nn.Linear)]
    between = parts[1::2]
    kind = type(between[0]) if between else nn.ReLU
    names = {module: name for name, module in ACTIVATIONS.items()}
    is_chain = len(parts) == 2 * len(layers) - 1 and parts[::2] == layers
    if not is_chain or kind not in names or any(type(part) is not kind for part in between):
        raise BundleError(
            "the action net cannot be exported: it has to be linear layers, the last at the end, with "
            f"one kind of activation between them, {' or '.join(ACTIVATIONS)}; it is "
            f"{bundle_file.short([type(part).__name__ for part in parts])}"
        )
    return layers, names[kind]


def feature_bundle(
    encoder: FeatureEncoder,
    action_net: nn.Module,
    decoder: FrameDecoder,
    tables: LatentTables,
    *,
    facts: Mapping[str, Any],
) -> FeatureBundle:
    """Make a bundle of trained parts.

    Args:
        encoder: Of the agent.
        action_net: From the encoder's features to actions: a linear layer, or several in a sequence with
            activations between them. Of a policy of Stable-Baselines3 it is
            `nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net)`.
        decoder: Trained on the encoder's latents.
        tables: Of the prior of these latents.
        facts: What else the manifest shall tell, JSON types only: for example training, data, metrics.

    Raises:
        BundleError: The parts do not fit together or cannot be exported, or `facts` has a key that the
            manifest uses itself.
    """
    bundle_file.check_free_keys(facts, _OWN_KEYS)
    layers, activation = _describe_action(action_net)
    output = [m for m in decoder.modules() if isinstance(m, nn.Conv2d)][-1]
    manifest = {
        **facts,
        "profile": PROFILE,
        "format_version": BUNDLE_VERSION,
        "encoder": _describe_encoder(encoder),
        "decoder": {"width": output.in_channels},
        "action": {
            "widths": [layer.out_features for layer in layers],
            "activation": activation,
        },
        "hashes": {},
    }
    # As `_empty_networks` builds it, linear layers are every other one.
    action = {f"{2 * i}.{n}": t for i, layer in enumerate(layers) for n, t in _state(layer).items()}
    bundle = FeatureBundle(
        manifest,
        encoder=_state(encoder.before),
        agent=_state(encoder.after, "after.") | {f"action.{n}": t for n, t in action.items()},
        decoder=_state(decoder),
        prior=tables.tensors(),
    )
    validate_bundle(bundle)
    return bundle


def dump_bundle(bundle: FeatureBundle) -> bytes:
    """Serialise a bundle, with fresh hashes in its manifest.

    Raises:
        BundleError: The bundle is not valid, or its manifest is not JSON.
    """
    validate_bundle(bundle)
    return bundle_file.dump(bundle.manifest, bundle.named_tensors())


def save_bundle(bundle: FeatureBundle, path: str | os.PathLike[str]) -> None:
    """Write a bundle to a file (to a temporary one first).

    Raises:
        BundleError: The bundle is not valid.
        UsageError: The file cannot be written.
    """
    write_file(Path(path), dump_bundle(bundle))


def parse_bundle(data: bytes) -> FeatureBundle:
    """Parse and validate a bundle from the bytes of its file.

    Raises:
        BundleError: Not a bundle, of another profile, damaged, or not usable.
        UnsupportedVersionError: A newer program wrote it.
    """
    manifest = bundle_file.read_manifest(data)
    _check_manifest(manifest)
    tensors = bundle_file.read_tensors(data, manifest)
    bundle = FeatureBundle(manifest, **bundle_file.split_groups(tensors, _GROUPS))
    validate_bundle(bundle)
    return bundle


def load_bundle(path: str | os.PathLike[str]) -> FeatureBundle:
    """Read and validate a bundle file.

    Raises:
        BundleError: The file is missing, over 64 MiB, not a bundle, damaged, or not usable.
        UnsupportedVersionError: A newer program wrote it.
    """
    return bundle_file.load(path, parse_bundle)


def find_bundle(bundle_id: str, explicit: FeatureBundle | None = None) -> FeatureBundle:
    """Find the bundle that a stream was coded with: `explicit`, or one in a folder of AMBI_BUNDLES.

    Args:
        bundle_id: 16 hexadecimal digits from the stream's header.
        explicit: A bundle the caller has at hand.

    Raises:
        UnknownBundleError: None of them has this id.
    """
    return bundle_file.find_given(bundle_id, explicit, load_bundle)
