"""Restoration: the compiled network is the trained one, and files, bundles and commands switch it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import ambi_rl
from ambi_rl.bench.codecs import ambi_codec
from ambi_rl.cli.app import app
from ambi_rl.codec import restoration as module
from ambi_rl.codec.api import choose_restoration, encode_image
from ambi_rl.codec.bundle import Bundle, dump_bundle, parse_bundle, save_bundle
from ambi_rl.codec.container import (
    FORMAT_VERSION,
    Restoration,
    crc_of_planes,
    read_container,
    write_container,
)
from ambi_rl.codec.frame import decode_frame
from ambi_rl.codec.restoration import best_strength, blank_tensors, restore, validate_tensors
from ambi_rl.codec.threads import THREADS_VARIABLE
from ambi_rl.data.pairs import Pair, PairFolder, PairSettings
from ambi_rl.errors import AmbiError, BundleError, ConfigError, CorruptFileError
from ambi_rl.training.restoration import (
    RestorationNetwork,
    RestorationSettings,
    RestorationTraining,
    export_network,
)
from ambi_rl.training.restoration_evaluation import Coded, measure
from tests import reference_decoder as reference

STEP = 24 * 64


def network(
    factor: int = 2, channels: int = 7, blocks: int = 2, seed: int = 3
) -> RestorationNetwork:
    """A network of random weights, all of which matter and which half precision holds exactly."""
    torch.manual_seed(seed)
    made = RestorationNetwork(factor, channels, blocks)
    with torch.no_grad():
        for layer in made.convolutions():
            layer.gain.normal_(0, 0.1)
            layer.bias.normal_(0, 0.1)
        made.convolutions()[-1].weight.normal_(0, 0.2)
        for parameter in made.parameters():
            parameter.copy_(parameter.half())
    return made


def noise(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1024, shape).astype(np.int16)


def restored_by_torch(made: RestorationNetwork, planes: np.ndarray, step: int) -> np.ndarray:
    """What the network makes of planes [3, H, W] of any size, by torch alone."""
    _, height, width = planes.shape
    rest = [(-size) % made.factor for size in (height, width)]
    padded = np.pad(planes, ((0, 0), (0, rest[0]), (0, rest[1])), "edge").astype(np.float32)
    with torch.no_grad():
        residual = made(torch.from_numpy(padded)[None], torch.tensor([step / 64]))[0].numpy()
    sums = planes + 4 * step / 64 * residual[:, :height, :width]
    return np.clip(np.rint(sums), 0, 1023)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return export_network(network())


@pytest.fixture
def bundle(default_bundle: Bundle, tensors: dict[str, np.ndarray]) -> Bundle:
    """The default bundle with a network that visibly changes pictures."""
    return dataclasses.replace(default_bundle, restoration=tensors)


@pytest.fixture(scope="module")
def small(photograph: Image.Image) -> Image.Image:
    return photograph.crop((20, 10, 67, 51))


@pytest.mark.parametrize(
    ("factor", "channels", "blocks", "step"),
    [(2, 7, 2, 24), (2, 3, 0, 3), (4, 8, 1, 100), (2, 5, 1, 0.5), (2, 5, 1, 1600)],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (33, 2), (37, 51), (64, 48)])
def test_runs_as_it_was_trained(
    factor: int, channels: int, blocks: int, step: float, size: tuple[int, int]
) -> None:
    made = network(factor, channels, blocks)
    planes = noise(3, *size)
    ours = restore(planes, round(64 * step), export_network(made))
    theirs = restored_by_torch(made, planes, round(64 * step))
    assert ours.dtype == np.int16
    # The head's weights are rounded to half precision after their mean is taken off.
    assert np.abs(ours - theirs).max() <= 1 + 0.01 * step
    if planes.size > 100 and step >= 3:
        assert np.abs(ours - planes).mean() > 0.2


def test_tiles_and_threads_do_not_show(
    tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = noise(3, 75, 101)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(5))
    monkeypatch.setenv(THREADS_VARIABLE, "1")
    whole = restore(planes, STEP, tensors)
    monkeypatch.setattr(module, "TILE_ROWS", 7)
    monkeypatch.setattr(module, "TILE_COLUMNS", 9)
    tiled = restore(planes, STEP, tensors)
    # Sums are rounded in other groups of rows, which now and then decides a rounding.
    assert np.abs(tiled - whole).max() <= 1
    assert (tiled != whole).mean() < 0.001
    monkeypatch.setenv(THREADS_VARIABLE, "5")
    assert np.array_equal(restore(planes, STEP, tensors), tiled)


def test_rows_wider_than_the_kernel_takes_at_once(
    tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    planes = noise(3, 8, 900)
    narrow = restore(planes, STEP, tensors)
    monkeypatch.setattr(module, "TILE_COLUMNS", 450)
    wide = restore(planes, STEP, tensors)
    assert np.abs(wide - narrow).max() <= 1
    assert (wide != narrow).mean() < 0.001


def test_gray_is_a_colour_picture_without_colour(tensors: dict[str, np.ndarray]) -> None:
    luma = noise(1, 21, 34)
    coloured = np.concatenate([luma, np.full((2, 21, 34), 512, np.int16)])
    assert np.array_equal(restore(luma, STEP, tensors)[0], restore(coloured, STEP, tensors)[0])


def test_strengths(tensors: dict[str, np.ndarray]) -> None:
    planes = noise(3, 20, 30) // 2 + 256
    full = restore(planes, STEP, tensors, 1.0).astype(int) - planes
    half = restore(planes, STEP, tensors, 0.5).astype(int) - planes
    assert np.abs(full).max() > 8
    assert np.abs(2 * half - full).max() <= 2
    assert np.array_equal(restore(planes, STEP, tensors, 0.0), planes)


def test_a_blank_network_changes_nothing() -> None:
    planes = noise(3, 9, 13)
    blank = blank_tensors(2, 4, 1)
    validate_tensors(blank)
    assert np.array_equal(restore(planes, STEP, blank), planes)


def test_the_best_strength_is_the_one_of_least_error(tensors: dict[str, np.ndarray]) -> None:
    decoded = noise(3, 40, 50) // 2 + 256
    shown = {kind.strength: restore(decoded, STEP, tensors, kind.strength) for kind in Restoration}
    for source in (*shown.values(), 2 * decoded - shown[1.0]):
        errors = {a: float(((source - planes) ** 2).sum()) for a, planes in shown.items()}
        found = best_strength(source, decoded, STEP, tensors, list(shown))
        assert found == min(errors, key=errors.__getitem__)


def test_bundle_round_trip_and_id(default_bundle: Bundle, bundle: Bundle) -> None:
    loaded = parse_bundle(dump_bundle(bundle))
    assert loaded.id == bundle.id
    assert set(loaded.restoration) == set(bundle.restoration)
    for name, tensor in bundle.restoration.items():
        assert loaded.restoration[name].dtype == np.float16
        assert np.array_equal(loaded.restoration[name], tensor)
    plain = dataclasses.replace(default_bundle, restoration={})
    assert plain.id == plain.planes_id == bundle.planes_id
    other = bundle.restoration | {"bias0": bundle.restoration["bias0"] + np.float16(1)}
    changed = dataclasses.replace(bundle, restoration=other)
    assert len({plain.id, bundle.id, changed.id}) == 3


def _without(name: str) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda t: t.pop(name)


def _with(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., object]:
    return lambda t: t.update({name: change(t[name])})


def _blind(tensors: dict[str, np.ndarray], name: str, value: float) -> dict[str, np.ndarray]:
    """A network whose first layers give nothing, followed by one with weights as large as they can be."""
    zeros = {n: np.zeros_like(t) for n, t in tensors.items() if n[-1] == "0"}
    return {**zeros, name: np.full(tensors[name].shape, value, np.float32)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("w0"), "convolutions"),
        (_without("gain1"), "gain1"),
        (lambda t: t.update(w6=t["w5"], gain6=t["gain5"], bias6=t["bias5"]), "7 convolutions"),
        (lambda t: t.update(extra=t["w0"]), "extra"),
        (_with("w0", lambda a: a[:, :11]), "w0"),
        (_with("w0", lambda a: np.zeros((257, 12, 3, 3), np.float32)), "257"),
        (_with("w1", lambda a: a[:, :, :, :2]), "w1"),
        (_with("w1", lambda a: a[:5]), "w1"),
        (_with("w1", lambda a: a.astype(np.float64)), "float64"),
        (_with("bias1", lambda a: np.full_like(a, np.inf)), "not finite"),
        (_with("w1", lambda a: np.full(a.shape, 1e35, np.float32)), "overflow"),
        (_with("gain1", lambda a: np.full(a.shape, 6e4, np.float16)), "overflow"),
        # Nothing at the ends of the range of steps, and past every number between them.
        (
            _with("gain1", lambda a: np.tile(np.array([6e4, -6e4], np.float16), (len(a), 1))),
            "overflow",
        ),
        (lambda t: t.update(_blind(t, "w1", 1e38)), "overflow"),
    ],
)
def test_unusable_tensors_are_refused(
    bundle: Bundle, change: Callable[[dict[str, np.ndarray]], object], message: str
) -> None:
    altered = dict(bundle.restoration)
    change(altered)
    with pytest.raises(BundleError, match=message):
        dump_bundle(dataclasses.replace(bundle, restoration=altered))


@pytest.mark.parametrize(
    ("gains", "weight", "is_valid"),
    [
        # Each convolution alone, and no step both of them: the bound is not one of a single step.
        (([30, 0], [-30, 0]), 0.01, False),
        (([30, 0], [0, 0]), 0.01, True),
        # The largest exponent, 70, is at the vertex.
        (([140, -70], [0, 0]), 0.01, False),
        (([130, -70], [0, 0]), 0.01, True),
    ],
)
def test_the_bound_is_over_all_steps_at_once(
    gains: tuple[list[int], list[int]], weight: float, is_valid: bool
) -> None:
    """By section 14 of docs/format.md."""
    tensors = blank_tensors(2, 4, 0)
    for k, gain in enumerate(gains):
        tensors[f"w{k}"] = np.full(tensors[f"w{k}"].shape, weight, np.float32)
        tensors[f"gain{k}"] = np.tile(np.array(gain, np.float32), (len(tensors[f"w{k}"]), 1))
    refusal = pytest.raises(BundleError, match="overflow")
    with nullcontext() if is_valid else refusal:
        validate_tensors(tensors)
    second = reference.Bundle({}, {}, dict(tensors))
    with nullcontext() if is_valid else pytest.raises(reference.RefusedError, match="overflow"):
        reference.check_restoration(second)


def test_files_say_whether_they_are_restored(bundle: Bundle, small: Image.Image) -> None:
    full = encode_image(small, bundle=bundle)
    off = encode_image(small, bundle=bundle, restoration=False)
    assert full.container.restoration is Restoration.FULL
    assert off.container.restoration is Restoration.OFF
    assert len(full.data) == len(off.data)
    assert full.data[4] == FORMAT_VERSION == 2
    shown = {
        name: ambi_rl.decode(e.data, bundle=bundle) for name, e in (("on", full), ("off", off))
    }
    assert shown["on"].tobytes() == full.decoded().tobytes()
    assert shown["off"].tobytes() == off.decoded().tobytes()
    assert shown["on"].tobytes() != shown["off"].tobytes()
    plain = ambi_rl.decode(full.data, bundle=bundle, restoration=False)
    assert plain.tobytes() == shown["off"].tobytes()


def test_the_checksum_is_of_the_planes_before(bundle: Bundle, small: Image.Image) -> None:
    container = encode_image(small, bundle=bundle).container
    size = container.height, container.width
    payload = next(iter(container.sections.values()))
    planes = decode_frame(payload, *size, 3, container.step, bundle)
    assert crc_of_planes(planes) == container.planes_crc


def test_high_effort_leaves_out_what_harms(
    default_bundle: Bundle, bundle: Bundle, small: Image.Image
) -> None:
    # Random weights do not restore anything.
    weighed = encode_image(small, bundle=bundle, effort=7)
    assert weighed.container.restoration is Restoration.OFF
    plain = dataclasses.replace(default_bundle, restoration={})
    assert encode_image(small, bundle=plain, effort=7).decoded().tobytes() == (
        weighed.decoded().tobytes()
    )


def test_weighing_finds_half_and_full(bundle: Bundle, small: Image.Image) -> None:
    frame = encode_image(small, bundle=bundle).frame
    for wanted in (Restoration.HALF, Restoration.FULL):
        source = restore(frame.planes, STEP, bundle.restoration, wanted.strength)
        assert choose_restoration(None, frame, source, STEP, bundle, weigh=True) is wanted


def test_restoration_is_asked_for_in_vain(
    default_bundle: Bundle, bundle: Bundle, small: Image.Image
) -> None:
    plain = dataclasses.replace(default_bundle, restoration={})
    assert encode_image(small, bundle=plain).container.restoration is Restoration.OFF
    with pytest.raises(BundleError, match="no restoration"):
        ambi_rl.encode(small, bundle=plain, restoration=True)
    container = encode_image(small, bundle=plain).container
    forged = write_container(dataclasses.replace(container, restoration=Restoration.HALF))
    with pytest.raises(CorruptFileError, match="asks for restoration"):
        ambi_rl.decode(forged, bundle=plain)


def test_gray_and_transparent_pictures(bundle: Bundle, small: Image.Image) -> None:
    transparent = small.copy()
    transparent.putalpha(small.convert("L"))
    for image in (small.convert("L"), transparent, small.crop((0, 0, 1, 1))):
        encoded = encode_image(image, bundle=bundle)
        shown = ambi_rl.decode(encoded.data, bundle=bundle)
        assert shown.mode == image.mode
        assert shown.tobytes() == encoded.decoded().tobytes()


def test_every_strength_survives_the_container(bundle: Bundle, small: Image.Image) -> None:
    container = encode_image(small, bundle=bundle).container
    for kind in Restoration:
        written = write_container(dataclasses.replace(container, restoration=kind))
        assert read_container(written).restoration is kind


def test_command_line(bundle: Bundle, small: Image.Image, tmp_path: Path) -> None:
    picture, with_it = tmp_path / "small.png", tmp_path / "with.ambic"
    small.save(picture)
    save_bundle(bundle, with_it)

    def run(*arguments: object) -> dict[str, object]:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == 0, result.stderr
        content: dict[str, object] = json.loads(result.stdout)
        return content

    pictures = {}
    for name, flags in (("on", ()), ("off", ("--no-restoration",))):
        file, out = tmp_path / f"{name}.ambi", tmp_path / f"{name}.png"
        said = run("encode", picture, file, "-b", with_it, "--json", *flags)
        assert said["restoration"] == run("info", file, "--json")["restoration"]
        assert said["restoration"] == {"on": "full", "off": "off"}[name]
        run("decode", file, out, "-b", with_it, "--json")
        pictures[name] = Image.open(out).tobytes()
    plain = tmp_path / "plain.png"
    run("decode", tmp_path / "on.ambi", plain, "-b", with_it, "--no-restoration", "--json")
    assert Image.open(plain).tobytes() == pictures["off"] != pictures["on"]
    assert run("info", with_it, "--json")["has_restoration"] is True


def test_benchmarks_leave_it_out_on_demand(
    bundle: Bundle, small: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "with.ambic"
    save_bundle(bundle, path)
    codecs = [ambi_codec(effort=5, bundle=path, restoration=value) for value in (True, False)]
    assert codecs[0].name != codecs[1].name
    kinds = [read_container(codec.encode(small, 60)).restoration for codec in codecs]
    assert kinds == [Restoration.FULL, Restoration.OFF]


def blurred_pairs(photograph: Image.Image) -> list[Pair]:
    """Pairs whose decodings lack detail in a way that a small network learns quickly."""
    rng = np.random.default_rng(1)
    luma = np.asarray(photograph.convert("L"), np.int16)[:64, :64] * 4
    pairs = []
    for k in range(4):
        source = np.stack([np.roll(luma, 9 * k, 1)] * 3)
        detail = 2 * source - np.roll(source, 1, 2) - np.roll(source, 1, 1)
        decoded = source - detail * (k + 1) // 16 + rng.integers(-2, 3, source.shape)
        pairs.append(Pair(source, decoded.astype(np.int16), 64 * (8 + 4 * k)))
    return pairs


def test_training_restores_and_resumes(photograph: Image.Image, tmp_path: Path) -> None:
    pairs = blurred_pairs(photograph)
    settings = RestorationSettings(channels=8, blocks=1, batch=4, crop=32, average=0.9)
    checkpoint = tmp_path / "checkpoint.pt"
    first = RestorationTraining(pairs, settings, checkpoint)
    for _ in first.run(3.0):
        if first.steps == 60:
            break
    first.save()
    again = RestorationTraining(pairs, settings, checkpoint)
    assert (again.steps, again.seconds) == (first.steps, first.seconds)
    for ours, theirs in zip(again.network.parameters(), first.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    enough = again.steps + 400
    for _ in again.run(again.seconds + 120.0):
        if again.steps >= enough:
            break
    tensors = export_network(again.averaged())
    validate_tensors(tensors)
    coded = [
        Coded(p.source, p.decoded, p.step, size)
        for p, size in zip(pairs, (4000, 3000, 2000, 1000), strict=True)
    ]
    gain = measure(coded, tensors, 0.1, square=16)
    assert all(value > 0.05 for value in gain.gain.values())
    assert gain.harmed == 0
    assert all(gain.weighed[step] >= gain.gain[step] for step in gain.gain)
    other = dataclasses.replace(settings, channels=9)
    with pytest.raises(AmbiError, match="other settings"):
        RestorationTraining(pairs, other, checkpoint)
    checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(AmbiError, match="cannot be read"):
        RestorationTraining(pairs, settings, checkpoint)


def test_pairs_are_made_once_and_the_same(
    photograph: Image.Image, default_bundle: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    photograph.save(paths[0])
    photograph.rotate(90, expand=True).save(paths[1])
    settings = PairSettings(crop=32, effort=5)
    folder = PairFolder(tmp_path / "pairs", paths, default_bundle, settings)
    folder.make(2)
    pairs = folder.open(2)
    assert len(pairs) == 64
    assert pairs[0].source.shape == pairs[0].decoded.shape == (3, 32, 32)
    steps = np.array([pair.step for pair in pairs]) / 64
    assert steps.min() < 2.5 < 80 < steps.max()
    errors = [float(np.abs(p.source - p.decoded).mean()) for p in pairs]
    assert 0 < errors[0] < errors[31]
    # What an interruption left behind is not counted, and made again as it was.
    (tmp_path / "pairs" / "steps-00001.npy").unlink()
    # Restoration has no part in it.
    resumed = PairFolder(tmp_path / "pairs", paths, bundle, settings)
    assert resumed.shards == 1
    resumed.make(2)
    assert np.array_equal(resumed.open(2)[40].decoded, pairs[40].decoded)
    with pytest.raises(ConfigError, match="another"):
        PairFolder(tmp_path / "pairs", paths[:1], default_bundle, settings)
