"""Bundles of the feature codec round-trip, are validated in full, and code frames as their networks do."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from ambi_rl.codec import bundle as block_bundle  # noqa: E402
from ambi_rl.codec import bundle_file  # noqa: E402
from ambi_rl.errors import (  # noqa: E402
    AmbiError,
    BundleError,
    CorruptFileError,
    ImageTooLargeError,
    UnknownBundleError,
    UnsupportedVersionError,
)
from ambi_rl.neural.bundle import (  # noqa: E402
    FeatureBundle,
    dump_bundle,
    feature_bundle,
    find_bundle,
    load_bundle,
    parse_bundle,
    save_bundle,
)
from ambi_rl.neural.feature_codec import FeatureCodec, Frames  # noqa: E402
from ambi_rl.neural.networks import LAYERS, FeatureEncoder, FrameDecoder  # noqa: E402
from ambi_rl.neural.priors import NormalPrior  # noqa: E402
from ambi_rl.neural.stream import StreamHeader, StreamReader, StreamWriter  # noqa: E402
from ambi_rl.neural.tables import tables_from_prior  # noqa: E402

Tensors = dict[str, np.ndarray]
Parts = tuple[FeatureEncoder, nn.Module, FrameDecoder]


def make_parts(layer: str = "features", channels: int = 6) -> Parts:
    torch.manual_seed(1)
    encoder = FeatureEncoder(4, 3, layer, channels, 8)
    action = nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4))
    return encoder, action, FrameDecoder(encoder.latent_shape, 2)


def make_bundle(parts: Parts) -> FeatureBundle:
    encoder, action, decoder = parts
    seen = np.random.default_rng(0).integers(-20, 20, (5, *encoder.latent_shape), np.int32)
    tables = tables_from_prior(NormalPrior(encoder.latent_shape[0]), seen)
    return feature_bundle(encoder, action, decoder, tables, facts={"metrics": {"mse": 3.5}})


@pytest.fixture(scope="module")
def parts() -> Parts:
    return make_parts()


@pytest.fixture(scope="module")
def bundle(parts: Parts) -> FeatureBundle:
    return make_bundle(parts)


@pytest.fixture(scope="module")
def frames() -> Frames:
    """70 frames: one more packet than one, and more than a batch."""
    return np.random.default_rng(4).integers(0, 256, (70, 84, 84), np.uint8)


def altered(
    bundle: FeatureBundle,
    change_manifest: Callable[[dict[str, Any]], object] = lambda manifest: None,
    change_tensors: Callable[[Tensors], object] = lambda tensors: None,
) -> bytes:
    """A bundle's file with something changed and fitting hashes."""
    data = dump_bundle(bundle)
    manifest = bundle_file.read_manifest(data)
    tensors = {name: tensor.copy() for name, tensor in load_tensors(data).items()}
    change_tensors(tensors)
    manifest["hashes"] = {n: bundle_file.hash_tensor(tensor) for n, tensor in tensors.items()}
    change_manifest(manifest)
    return save_tensors(tensors, {"ambi": json.dumps(manifest)})


@pytest.mark.parametrize("layer", LAYERS)
def test_round_trip_and_the_codec_does_what_the_networks_do(
    layer: str, frames: Frames, tmp_path: Path
) -> None:
    encoder, action, decoder = parts = make_parts(layer)
    bundle = make_bundle(parts)
    path = tmp_path / "x.ambic"
    save_bundle(bundle, path)
    loaded = load_bundle(path)
    assert loaded.id == bundle.id
    assert loaded.latent_shape == encoder.latent_shape
    assert loaded.manifest["metrics"] == {"mse": 3.5}
    assert dump_bundle(loaded) == path.read_bytes() == dump_bundle(bundle)
    codec = FeatureCodec(loaded)
    stacks = codec.stacks(frames[:9]).copy()
    latents = codec.latents(stacks)
    assert latents.dtype == np.int32
    with torch.no_grad():
        expected = torch.round(encoder.latent(torch.from_numpy(stacks) / 255.0))
        assert np.array_equal(latents, expected.numpy().astype(np.int32))
        assert np.ptp(latents) > 3, "latents say too little for the test to mean anything"
        drawn = decoder(expected)[:, 0].clamp(0, 1) * 255
        assert np.abs(codec.reconstruct(latents) - drawn.numpy()).max() < 0.51
        logits = action(encoder.features(expected))
        assert np.allclose(codec.action_logits(latents), logits.numpy(), atol=1e-5)
    data = codec.encode(frames)
    assert data == codec.encode(frames)
    decoded = codec.decode(data)
    assert np.array_equal(decoded, codec.reconstruct(codec.latents(codec.stacks(frames))))
    assert np.array_equal(codec.decode(io.BytesIO(data), first=66), decoded[66:])
    assert codec.decode(codec.encode(frames[:0])).shape == (0, 84, 84)


def test_networks_have_no_gradients(bundle: FeatureBundle) -> None:
    networks = bundle.networks()
    for module in (networks.encoder, networks.action, networks.decoder):
        assert not any(parameter.requires_grad for parameter in module.parameters())
        assert not module.training


def test_stacks_are_those_of_stable_baselines3(bundle: FeatureBundle, frames: Frames) -> None:
    stacking = pytest.importorskip("stable_baselines3.common.vec_env.stacked_observations")
    from gymnasium import spaces

    space = spaces.Box(0, 255, (1, 84, 84), np.uint8)
    theirs = stacking.StackedObservations(1, 4, space, "first")
    expected = [theirs.reset(frames[None, :1])]
    for frame in frames[1:10]:
        stacked, _ = theirs.update(frame[None, None], np.array([False]), [{}])
        expected.append(stacked)
    codec = FeatureCodec(bundle)
    assert np.array_equal(codec.stacks(frames[:10]), np.concatenate(expected))
    for first in range(10):
        assert np.array_equal(
            codec.stacks(frames, first, 3), codec.stacks(frames)[first : first + 3]
        )


def test_streams_of_unknown_length_decode_as_they_come(
    bundle: FeatureBundle, frames: Frames
) -> None:
    codec, out = FeatureCodec(bundle), io.BytesIO()
    with StreamWriter(out, codec.header(None), bundle.tables, frames_per_packet=1) as writer:
        writer.write(codec.latents(codec.stacks(frames[:3])))
    data = out.getvalue()
    parts = list(codec.frames(StreamReader(io.BytesIO(data))))
    assert [part.shape for part in parts] == [(1, 84, 84)] * 3
    assert np.array_equal(codec.decode(data), np.concatenate(parts))
    with pytest.raises(ImageTooLargeError, match="limit of 2"):
        codec.decode(data, max_pixels=3 * 84 * 84 - 1)


def test_the_id_covers_exactly_what_decoding_depends_on(bundle: FeatureBundle) -> None:
    def other(**changes: Any) -> FeatureBundle:
        return dataclasses.replace(bundle, **changes)

    encoder = {name: tensor + 1 for name, tensor in bundle.encoder.items()}
    agent = {name: tensor + 1 for name, tensor in bundle.agent.items()}
    decoder = {name: tensor + 1 for name, tensor in bundle.decoder.items()}
    minimum = {"minimum": bundle.prior["minimum"] + 1}
    told = bundle.manifest | {"metrics": {}, "note": "x", "action": {"widths": [7]}}
    assert {other(encoder=encoder).id, other(agent=agent).id, other(manifest=told).id} == {
        bundle.id
    }
    changed = bundle.manifest | {"encoder": bundle.manifest["encoder"] | {"channels": 7}}
    ids = {
        bundle.id,
        other(decoder=decoder).id,
        other(prior=bundle.prior | minimum).id,
        other(manifest=changed).id,
        other(manifest=bundle.manifest | {"format_version": 2}).id,
    }
    assert len(ids) == 5


def test_each_profile_refuses_the_other(bundle: FeatureBundle, tmp_path: Path) -> None:
    default = Path(block_bundle.__file__).with_name("default.ambic")
    path = tmp_path / "features.ambic"
    save_bundle(bundle, path)
    with pytest.raises(BundleError, match=r"features\.ambic.*'features'.*'block'"):
        block_bundle.load_bundle(path)
    with pytest.raises(BundleError, match=r"default\.ambic.*'block'.*'features'"):
        load_bundle(default)
    assert bundle_file.read_profile(path) == "features"
    assert bundle_file.read_profile(default) == "block"


def test_bundles_are_found_by_their_id(
    bundle: FeatureBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    assert find_bundle(bundle.id, bundle) is bundle
    with pytest.raises(UnknownBundleError, match=rf"{'0' * 16}.*given is {bundle.id}"):
        find_bundle("0" * 16, bundle)
    save_bundle(bundle, tmp_path / "b.ambic")
    (tmp_path / "a.ambic").write_bytes(b"rubbish")
    monkeypatch.setenv("AMBI_BUNDLES", f"{tmp_path / 'none'}{os.pathsep}{tmp_path}")
    assert find_bundle(bundle.id).id == bundle.id


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", 0),
        ("encoder", None),
        ("encoder", {"frames": 4}),
        ("encoder", {"frames": 4, "width": 3, "layer": "conv9", "channels": 6, "features": 8}),
        ("encoder", {"frames": 4, "width": 3, "layer": [], "channels": 6, "features": 8}),
        ("encoder", {"frames": True, "width": 3, "layer": "conv2", "channels": 6, "features": 8}),
        ("encoder", {"frames": 4, "width": 10**9, "layer": "conv2", "channels": 6, "features": 8}),
        ("decoder", {"width": 0}),
        ("decoder", {"width": 2, "depth": 1}),
        ("action", {"widths": [], "activation": "relu"}),
        ("action", {"widths": [4] * 9, "activation": "relu"}),
        ("action", {"widths": [4.0], "activation": "relu"}),
        ("action", {"widths": [5, 4], "activation": "sin"}),
        ("action", {"widths": [5, 4], "activation": {}}),
    ],
)
def test_manifest_values_are_validated(bundle: FeatureBundle, key: str, value: Any) -> None:
    with pytest.raises(BundleError, match=f"says {key} = "):
        parse_bundle(altered(bundle, lambda manifest: manifest.update({key: value})))


def test_a_manifest_cannot_make_large_allocations(bundle: FeatureBundle) -> None:
    largest = {"frames": 64, "width": 1024, "layer": "conv2", "channels": 4096, "features": 65536}
    data = altered(
        bundle,
        lambda manifest: manifest.update(
            encoder=largest,
            decoder={"width": 1024},
            action={"widths": [65536] * 8, "activation": "relu"},
        ),
    )
    # Kilobytes; of the whole process, for torch's memory is not Python's.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match="missing or unknown"):
        parse_bundle(data)
    # The one weight of the action net's first layer would take 16 GiB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("encoder/1.0.weight"),
        lambda t: t.pop("prior/minimum"),
        lambda t: t.update({"encoder/1.0.bias": t["encoder/1.0.bias"][:-1].copy()}),
        lambda t: t.update({"agent/after.1.bias": t["agent/after.1.bias"].astype(np.float64)}),
        lambda t: t["decoder/background"].fill(np.nan),
        lambda t: t["prior/frequencies"].fill(1),
        lambda t: t.update({"decoder/other": np.zeros(1, np.float32)}),
        lambda t: t.update({"entropy/other": np.zeros(1, np.float32)}),
    ],
)
def test_tensors_are_validated(bundle: FeatureBundle, change: Callable[[Tensors], object]) -> None:
    with pytest.raises(BundleError) as caught:
        parse_bundle(altered(bundle, change_tensors=change))
    assert "\n" not in str(caught.value)


def test_newer_and_damaged_bundles_are_refused(bundle: FeatureBundle) -> None:
    with pytest.raises(UnsupportedVersionError, match="version 2"):
        parse_bundle(altered(bundle, lambda manifest: manifest.update(format_version=2)))
    data = dump_bundle(bundle)
    for length in (0, 7, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(BundleError):
            parse_bundle(data[:length])
    rng = np.random.default_rng(3)
    ids, refused = {bundle.id}, 0
    for position in rng.integers(0, len(data), 40).tolist():
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        try:
            # A flip inside free text changes nothing that matters.
            ids.add(parse_bundle(bytes(flipped)).id)
        except AmbiError as error:
            assert "\n" not in str(error)  # noqa: PT017 - which of the flips raise is not known
            refused += 1
    assert ids == {bundle.id}
    assert refused > 20


def test_parts_that_cannot_be_exported_are_refused(bundle: FeatureBundle, parts: Parts) -> None:
    encoder, action, decoder = parts
    for wrong in (
        nn.Sequential(nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 4)),
        nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(8, 4), nn.Tanh()),
        nn.Sequential(),
    ):
        with pytest.raises(BundleError, match="action net cannot be exported"):
            feature_bundle(encoder, wrong, decoder, bundle.tables, facts={})
    with pytest.raises(BundleError, match="hashes"):
        feature_bundle(encoder, action, decoder, bundle.tables, facts={"hashes": {}})
    with pytest.raises(BundleError, match="JSON"):
        dump_bundle(
            feature_bundle(encoder, action, decoder, bundle.tables, facts={"x": float("nan")})
        )
    other = make_bundle(make_parts(channels=5)).tables
    with pytest.raises(BundleError, match="5 channels, its encoder 6"):
        feature_bundle(encoder, action, decoder, other, facts={})
    with pytest.raises(BundleError, match="decoder/"):
        feature_bundle(encoder, action, make_parts("conv3")[2], bundle.tables, facts={})
    single = feature_bundle(encoder, nn.Linear(8, 4), decoder, bundle.tables, facts={})
    assert single.manifest["action"] == {"widths": [4], "activation": "relu"}
    assert single.id == bundle.id
    nested = nn.Sequential(nn.Sequential(), nn.Linear(8, 4))
    assert (
        feature_bundle(encoder, nested, decoder, bundle.tables, facts={}).manifest
        == single.manifest
    )


def test_streams_of_other_bundles_are_refused(bundle: FeatureBundle, frames: Frames) -> None:
    codec = FeatureCodec(bundle)
    data = codec.encode(frames[:2])
    other = FeatureCodec(make_bundle(make_parts("conv3")))
    with pytest.raises(UnknownBundleError, match=rf"{bundle.id}.*{other.bundle.id}"):
        other.decode(data)
    for header in (
        StreamHeader(bundle.id, (84, 85), bundle.latent_shape, 0),
        StreamHeader(bundle.id, (84, 84), (6, 1, 2), 0),
    ):
        out = io.BytesIO()
        StreamWriter(out, header, bundle.tables).close()
        with pytest.raises(CorruptFileError, match="does not make"):
            codec.decode(out.getvalue())
    with pytest.raises(CorruptFileError, match="more follows"):
        codec.decode(data + b"\0")


def test_a_short_stream_of_many_frames_is_limited(bundle: FeatureBundle) -> None:
    out = io.BytesIO()
    codec = FeatureCodec(bundle)
    StreamWriter(out, codec.header(2**32), bundle.tables)
    with pytest.raises(ImageTooLargeError, match=f"{2**32} frames or more.*max_pixels"):
        codec.decode(out.getvalue())


def test_no_network_is_run_for_frames_over_the_limit(
    bundle: FeatureBundle, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packet's count is all that a stream of unknown length says, and it may be of few bytes."""
    codec, out = FeatureCodec(bundle), io.BytesIO()
    with StreamWriter(out, codec.header(None), bundle.tables) as writer:
        writer.write(codec.latents(codec.stacks(frames[:5])))
    drawn: list[int] = []
    reconstruct = codec.reconstruct

    def counting(latents: np.ndarray) -> Frames:
        drawn.append(len(latents))
        return reconstruct(latents)

    monkeypatch.setattr(codec, "reconstruct", counting)
    assert len(codec.decode(out.getvalue(), max_pixels=5 * 84 * 84)) == sum(drawn) == 5
    drawn.clear()
    with pytest.raises(ImageTooLargeError, match="limit of 4"):
        codec.decode(out.getvalue(), max_pixels=5 * 84 * 84 - 1)
    assert drawn == []


def test_frames_of_another_kind_are_refused(bundle: FeatureBundle, frames: Frames) -> None:
    wrongs: list[Any] = [frames.astype(np.float32), frames[:, :80], frames[0]]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="frames are"):
            FeatureCodec(bundle).encode(wrong)


def test_latents_without_an_integer_do_not_stop_a_stream(
    parts: Parts, bundle: FeatureBundle, frames: Frames
) -> None:
    huge = {name: np.full_like(t, 3e38) for name, t in bundle.encoder.items()}
    codec = FeatureCodec(dataclasses.replace(bundle, encoder=huge))
    assert codec.decode(codec.encode(frames[:3])).shape == (3, 84, 84)
