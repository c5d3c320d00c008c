"""Training runs of super-resolution: what they reach, how they stop and go on, and what they refuse."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from ambi_rl.cli.app import app
from ambi_rl.cli.train import compose_config
from ambi_rl.data import shipped_folder
from ambi_rl.errors import AmbiError, ConfigError, NotFiniteError
from ambi_rl.metrics import psnr
from ambi_rl.superres.base_layer import decode_base, encode_base, shrink
from ambi_rl.training.checkpoint import load_superres_checkpoint
from ambi_rl.training.display import Display
from ambi_rl.training.start import train
from ambi_rl.training.superres_config import SuperresConfig

TINY = (
    "experiment=superres_short",
    "network.channels=4",
    "network.blocks=1",
    "discriminator_channels=4",
    "training.crop=32",
    "training.batch_size=2",
    "rl.steps=2",
    "rl.tile=16",
    "evaluation.images=1",
    "evaluation.max_side=64",
)
ALL_LOSSES = ("loss=rl_srgan", "loss.mse=1")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def configured(*overrides: str) -> SuperresConfig:
    config = compose_config(list(overrides))
    assert isinstance(config, SuperresConfig)
    return config


def silent() -> Display:
    return Display(Console(file=io.StringIO()))


def trained(folder: Path, *overrides: str, **changes: Any) -> dict[str, Any]:
    config = dataclasses.replace(configured(*overrides), **changes)
    return train(config, folder=folder, overrides=list(overrides), display=silent())


def states(folder: Path) -> dict[str, Any]:
    return load_superres_checkpoint(folder / "last.pt").states


def assert_equal(a: Any, b: Any, where: str = "") -> None:
    """Nested states are the same, bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{k}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.mark.slow
def test_short_run_beats_interpolation_and_its_bundle_too(tmp_path: Path) -> None:
    """The whole way of a user: train, export, encode, decode; held-out photographs all along."""
    metrics = trained(tmp_path / "run", "experiment=superres_short")
    reached = {name: metrics[name]["psnr"] for name in ("network", "bicubic", "lanczos")}
    assert reached["network"] > reached["bicubic"] + 0.2
    assert reached["network"] > reached["lanczos"] + 0.15
    assert metrics["network"]["ms_ssim"] > metrics["bicubic"]["ms_ssim"]
    assert metrics["objective"] == -reached["network"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert list((tmp_path / "run" / "tensorboard").iterdir())

    ambi = CliRunner()
    bundle, photograph = tmp_path / "sr.ambic", tmp_path / "crop.png"
    result = ambi.invoke(app, ["export", str(tmp_path / "run"), "-o", str(bundle)])
    assert result.exit_code == 0, result.stderr
    assert "200 steps, held-out PSNR" in result.stdout
    held_out = next(iter(sorted(shipped_folder().glob("held-out-*"))))
    original = np.asarray(Image.open(held_out).convert("RGB"))[100:301, 100:363]
    Image.fromarray(original).save(photograph)
    coded, decoded = tmp_path / "crop.ambi", tmp_path / "decoded.png"
    for arguments in (
        ["encode", photograph, coded, "-b", bundle, "-q", 60],
        ["decode", coded, decoded, "-b", bundle],
    ):
        result = ambi.invoke(app, [str(word) for word in arguments])
        assert result.exit_code == 0, result.stderr
    found = np.asarray(Image.open(decoded))
    assert found.shape == original.shape
    small = shrink(original, 2)
    base = decode_base(encode_base(small, "jpeg", 60), "jpeg", *small.shape[:2])
    size = (2 * base.shape[1], 2 * base.shape[0])
    bicubic = np.asarray(Image.fromarray(base).resize(size, Image.Resampling.BICUBIC))
    assert psnr(original, found) > psnr(original, bicubic[:201, :263]) + 0.1


@pytest.mark.parametrize(
    "losses",
    [
        ALL_LOSSES,
        ("loss=rl", "rl.score=ssim"),
        ("loss=srresnet", "network.batch_norm=true", "training.precision=float32"),
    ],
    ids=["rl_srgan", "rl", "srresnet"],
)
def test_resumed_run_is_the_same_bit_for_bit(tmp_path: Path, losses: tuple[str, ...]) -> None:
    overrides = (*TINY, *losses, "checkpoint_every=5")
    trained(tmp_path / "whole", *overrides, total_steps=10)
    # The learning rate falls with the steps that are asked for, so the first half is interrupted instead.
    config = dataclasses.replace(configured(*overrides), total_steps=10)
    with pytest.raises(KeyboardInterrupt):
        train(
            dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, every=5)),
            folder=tmp_path / "parts",
            display=silent(),
            on_evaluation=_interrupt,
        )
    resumed = dataclasses.replace(config, resume="true")
    train(resumed, folder=tmp_path / "parts", display=silent())
    assert_equal(states(tmp_path / "whole"), states(tmp_path / "parts"))


def _interrupt(steps: int, found: dict[str, Any]) -> None:
    raise KeyboardInterrupt


def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    overrides = (*TINY, "checkpoint_every=2")
    trained(tmp_path / "run", *overrides, total_steps=4)
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(last.read_bytes()[:-200])
    trained(tmp_path / "run", *overrides, total_steps=6, resume="true")
    assert load_superres_checkpoint(last).progress.steps == 6


@pytest.mark.parametrize("loss", ["srresnet", "srgan", "rl_srgan", "rl"])
def test_each_loss_logs_its_parts_and_changes_the_generator(tmp_path: Path, loss: str) -> None:
    trained(tmp_path / "start", *TINY, total_steps=2)
    metrics = trained(
        tmp_path / "run", *TINY, f"loss={loss}", f"start={tmp_path / 'start'}", total_steps=5
    )
    assert metrics["steps"] == 5
    own = states(tmp_path / "run")
    before = states(tmp_path / "start")["average"]
    assert not torch.equal(own["generator"]["encoder.head.weight"], before["encoder.head.weight"])
    assert ("discriminator" in own) == (loss in ("srgan", "rl_srgan"))
    assert ("head" in own) == (loss == "rl_srgan")


@pytest.mark.parametrize("score", ["psnr", "ssim", "recompressed_psnr", "function"])
def test_any_score_is_rewarded_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_scores.py").write_text(
        "def closeness(original, image, power):\n"
        "    return 1 - float(abs(original / 255 - image / 255).mean()) ** power\n"
    )
    own = (
        ("rl.function=my_scores.closeness", "+rl.arguments.power=2") if score == "function" else ()
    )
    metrics = trained(
        tmp_path / "run", *TINY, "loss=rl", f"rl.score={score}", *own,
        "evaluation.metric=score", total_steps=3,
    )  # fmt: skip
    assert metrics["score_name"] == score
    assert metrics["objective"] == -metrics["network"]["score"]
    if score == "psnr":
        assert metrics["network"]["score"] == pytest.approx(metrics["network"]["psnr"])
    if score == "function":
        assert 0.9 < metrics["network"]["score"] < 1


def test_not_finite_stops_the_run_before_the_weights(tmp_path: Path) -> None:
    with pytest.raises(
        NotFiniteError, match=r"stopped at .* steps: .*loss.* is (nan|inf)"
    ) as caught:
        trained(
            tmp_path / "run", *TINY, "checkpoint_every=1", "training.learning_rate=1e30",
            total_steps=400,
        )  # fmt: skip
    (kept,) = (tmp_path / "run").glob("not-finite-*.npz")
    assert str(kept) in str(caught.value)
    batch = np.load(kept)
    assert batch["originals"].shape == (2, 32, 32, 3)
    assert batch["base"].shape == (2, 16, 16, 3)
    generator = states(tmp_path / "run")["generator"]
    assert all(bool(tensor.isfinite().all()) for tensor in generator.values())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("scale=3",), "scale is 3; it can be 2, 4"),
        (("base=jpg",), "base is 'jpg'; it can be jpeg, webp, avif, ambi; did you mean jpeg?"),
        (("training.crop=40",), "training.crop is 40; it must be a multiple of 16"),
        (("rl.tile=24", "loss=rl"), "rl.tile is 24, which does not divide training.crop=64"),
        (("loss.mse=0",), "loss.mse, loss.perceptual, loss.adversarial and loss.rl are all 0"),
        (("loss=rl", "loss.actor=estimate"), "loss.actor=estimate moves the encoder alone"),
        (("rl.score=function",), "rl.score=function and rl.function=package.module.function go"),
        (("loss=vgg",), "loss is 'vgg'; it can be"),
        (("loss.vgg=1",), "there is no key 'loss.vgg'"),
        (("evaluation.qualities=[]",), "evaluation.qualities is empty"),
        (("evaluation.qualities=[0]",), "evaluation.qualities is 0"),
        (("agent.n_steps=3",), "agent.n_steps is a key of system=block"),
        (("+rl.arguments.a=3",), "rl.arguments are for a function of yours"),
        (("loss.vgg_weights=x",), "give loss.features=vgg19 too"),
        (("rl.grain=1000",), "rl.grain is 1000; it can be at most training.crop=64"),
        (("rl.arguments.a=3",), "with a plus: +rl.arguments.NAME=VALUE"),
    ],
)
def test_mistakes_of_configuration_are_one_line(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured("experiment=superres_short", *overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("start=nowhere",), "start=nowhere is no folder of a run of system=superres"),
        (
            ("loss=srgan", "loss.features=vgg19", "loss.vgg_weights=nowhere.pth"),
            "nowhere.pth",
        ),
        (("rl.score=function", "rl.function=no.such.thing", "loss=rl"), "no.such.thing"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(AmbiError) as caught:
        trained(tmp_path / "run", *TINY, *overrides, total_steps=1)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float16_needs_a_gpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ConfigError, match=r"precision=float16 needs a GPU"):
        trained(tmp_path / "run", *TINY, "training.precision=float16", total_steps=1)


def test_generator_of_another_size_is_not_begun_with(tmp_path: Path) -> None:
    trained(tmp_path / "start", *TINY, total_steps=1)
    with pytest.raises(ConfigError, match="take over its scale and network"):
        trained(
            tmp_path / "run", *TINY, "network.channels=8", f"start={tmp_path / 'start'}",
            total_steps=1,
        )  # fmt: skip


def test_going_on_with_another_skip_is_refused(tmp_path: Path) -> None:
    """Its weights would fit, and draw something else."""
    trained(tmp_path / "run", *TINY, total_steps=1)
    with pytest.raises(ConfigError, match="go on with what it was started with"):
        trained(tmp_path / "run", *TINY, "network.skip=none", total_steps=2, resume="true")


def test_exact_reproduction_keeps_the_objective_finite(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for k in range(4):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{k}.png")
    Image.new("RGB", (64, 64)).save(folder / "held-out-black.png")
    metrics = trained(
        tmp_path / "run", *TINY, "data=folder", f"data.folder={folder}", total_steps=1
    )
    assert 60 < -metrics["objective"] < 70


def test_score_that_fails_on_pictures_is_found_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "small_scores.py").write_text(
        "def only_small(original, image):\n    assert original.shape[0] <= 32\n    return 0.0\n"
    )
    own = ("loss=rl", "rl.score=function", "rl.function=small_scores.only_small")
    with pytest.raises(ConfigError, match=r"rl\.function small_scores\.only_small failed"):
        trained(tmp_path / "run", *TINY, *own, total_steps=10**6)


def test_streams_and_other_formats_train_too(tmp_path: Path) -> None:
    for base in ("webp", "avif"):
        trained(tmp_path / base, *TINY, f"base={base}", "data.access=stream", total_steps=2)


def test_run_is_listed_with_what_it_reached(tmp_path: Path) -> None:
    trained(tmp_path / "runs" / "one", *TINY, "loss=rl", "rl.score=ssim", total_steps=2)
    result = CliRunner().invoke(app, ["runs", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.stderr
    assert "ssim: PSNR " in result.stdout
    assert "finished" in result.stdout
