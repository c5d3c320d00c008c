"""Runs of the feature codec: a short one of Breakout that learns, and smaller ones that are broken off."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium import spaces
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner, Result

from ambi_rl.cli.app import app
from ambi_rl.cli.train import export_command, train_command
from ambi_rl.envs.breakout import ScriptedPlayer
from ambi_rl.errors import AmbiError, ConfigError, UsageError
from ambi_rl.neural.bundle import load_bundle
from ambi_rl.neural.feature_codec import FeatureCodec
from ambi_rl.neural.frame_training import DecoderTrainer
from ambi_rl.training.checkpoint import FeatureCheckpoint, load_feature_checkpoint
from ambi_rl.training.feature_evaluation import FeatureEvaluation, entropy
from ambi_rl.training.feature_run import FeatureCallback, FeatureRun, collect_frames
from ambi_rl.training.test_set import TestSet, load_test_set

GAME = "ambi_test/Blocks-v0"
TINY = [
    "system=features",
    f"env.id={GAME}",
    "env.preprocessing=image",
    "env.num_envs=2",
    "latent.channels=4",
    "prior.steps=2",
    "prior.final_steps=20",
    "agent.warm_start=none",
    "agent.width=4",
    "agent.features=16",
    "agent.n_steps=16",
    "agent.n_epochs=1",
    "total_steps=128",
    "checkpoint_every=32",
    "decoder.width=4",
    "decoder.frames=40",
    "decoder.steps=10",
    "decoder.batch_size=8",
    "test_set.frames=20",
    "evaluation.episodes=1",
    "evaluation.max_steps=20",
]


class Blocks(gymnasium.Env[npt.NDArray[np.uint8], Any]):
    """A picture that is no game of the Arcade Learning Environment: a block that is pushed about."""

    observation_space = spaces.Box(0, 255, (84, 84, 3), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self._place = np.zeros(2, int)
        self._steps = 0

    def _look(self) -> npt.NDArray[np.uint8]:
        picture = np.full((84, 84, 3), 60, np.uint8)
        row, column = self._place
        picture[row : row + 12, column : column + 12] = (250, 200, 20)
        return picture

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self._place = self.np_random.integers(10, 60, 2)
        self._steps = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        self._place = (self._place + self.np_random.integers(-4, 5, 2)) % 70
        self._steps += 1
        return self._look(), float(action == 1), self._steps == 12, False, {}


@pytest.fixture(autouse=True)
def blocks() -> Iterator[None]:
    kind: Any = Blocks
    gymnasium.register(GAME, entry_point=kind)
    yield
    del gymnasium.registry[GAME]


@pytest.fixture(scope="module")
def test_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs of this module find their test set."""
    return tmp_path_factory.mktemp("test-sets")


@pytest.fixture
def tiny(tmp_path: Path, test_sets: Path) -> list[str]:
    return [*TINY, f"runs={tmp_path}", f"test_set.folder={test_sets}"]


def ambi(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def scalars(run: Path) -> dict[str, list[float]]:
    """What TensorBoard shows of a run."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [e.value for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def last(run: Path) -> FeatureCheckpoint:
    return load_feature_checkpoint(run / "last.pt")


def same_tensors(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)


# One short run of Breakout


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of experiment=breakout_short, trained by the command line."""
    runs = tmp_path_factory.mktemp("short")
    result = ambi("train", "experiment=breakout_short", f"runs={runs}")
    assert result.exit_code == 0, result.output
    return runs / "breakout-short"


@pytest.fixture(scope="module")
def short_bundle(short: Path) -> Path:
    path = short.parent / "short.ambic"
    result = ambi("export", short, "-o", path)
    assert result.exit_code == 0, result.output
    assert "2,048 moves" in result.output
    return path


@pytest.fixture(scope="module")
def short_test_set(short: Path) -> TestSet:
    (path,) = (short.parent / "test-sets").glob("BreakoutNoFrameskip-v4-*.npz")
    return load_test_set(path)


@pytest.mark.slow
def test_the_rate_falls(short: Path) -> None:
    shown = scalars(short)
    coded = shown["rate/bits_per_latent"]
    assert len(coded) == 2048 // (4 * 64)
    assert coded[-1] < 0.75 * coded[0]
    assert np.mean(coded[-2:]) < np.mean(coded[:2])
    noisy = shown["rate/bits_per_latent_with_noise"]
    assert noisy[-1] < 0.75 * noisy[0]
    assert {"rate/alpha", "train/loss", "train/approx_kl", "episode/score"} <= set(shown)


@pytest.mark.slow
def test_reconstructions_are_better_than_the_background(
    short: Path, short_bundle: Path, short_test_set: TestSet
) -> None:
    codec = FeatureCodec(load_bundle(short_bundle))
    latents = codec.latents(short_test_set.observations)
    frames = short_test_set.frames.astype(float)
    errors = ((codec.reconstruct(latents) - frames) ** 2).mean()
    # Best of all pictures that do not change, for they are the test frames' own.
    constants = [np.median(frames, axis=0), frames.mean(axis=0)]
    assert errors < 0.97 * ((frames - constants[0]) ** 2).mean()
    # Other frames' codes give worse pictures: what is drawn is of the frame.
    others = ((codec.reconstruct(np.roll(latents, 97, axis=0)) - frames) ** 2).mean()
    assert errors < 0.97 * others
    learned = scalars(short)["decoder/loss"]
    assert learned[-1] < 0.7 * learned[0]
    metrics = metrics_of(short)["test"]
    assert metrics["mse"] == pytest.approx(errors, rel=0.01)
    assert metrics["squared_error_per_frame"] == pytest.approx(84 * 84 * metrics["mse"], rel=1e-6)


@pytest.mark.slow
def test_the_cross_entropy_of_the_learned_prior_is_near_the_entropy(
    short: Path, short_bundle: Path, short_test_set: TestSet
) -> None:
    metrics = metrics_of(short)
    test = metrics["test"]
    bundle = load_bundle(short_bundle)
    latents = FeatureCodec(bundle).latents(short_test_set.observations)
    # Nearly, for latents lie near a half now and then, and machines round differently.
    assert test["entropy_per_latent"] == pytest.approx(entropy(latents), rel=0.02)
    assert test["entropy_per_latent"] > 0.05
    assert (
        test["entropy_per_latent"]
        < test["factorized_bits_per_latent"]
        < 1.5 * test["entropy_per_latent"] + 0.1
    )
    assert test["normal_bits_per_latent"] > test["factorized_bits_per_latent"]
    assert test["table_bits_per_latent"] == pytest.approx(
        test["factorized_bits_per_latent"], rel=0.05
    )
    per_frame = bundle.tables.bits(latents).mean()
    assert test["bits_per_frame"] == pytest.approx(per_frame, rel=0.02)
    assert test["bits_per_frame"] == pytest.approx(
        metrics["latents"] * test["table_bits_per_latent"], rel=1e-6
    )


@pytest.mark.slow
def test_metrics_say_everything(short: Path) -> None:
    metrics = metrics_of(short)
    assert metrics["steps"] == 2048
    played = metrics["play"]
    assert metrics["objective"] == -played["features"]["score"]
    assert played["original"]["bits_per_frame"] == 8 * 84 * 84
    assert 0 < played["features"]["bits_per_frame"] < 1000
    assert len(played["features"]["scores"]) == 2
    assert metrics["imitation"]["accuracy"] > 0.2
    assert metrics["test"]["objects"]["frames"] == 200
    kept_out = metrics["test_set"]
    assert kept_out["request"]["frames"] == 200
    names = [
        "excluded_moves_of_the_agent",
        "excluded_moves_of_imitation",
        "excluded_frames_of_the_decoder",
    ]
    # Games begin with the same few frames, so that some of the test set are always met.
    assert sum(kept_out[name] for name in names) > 0
    assert (short / "config.yaml").is_file()
    progress = last(short).progress
    assert progress.finished
    assert progress.extra["metrics"]["steps"] == 2048
    events = EventAccumulator(str(short / "tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == ["held_out/original_and_reconstruction"]


@pytest.mark.slow
def test_files_of_frames_come_back_as_the_codec_draws_them(
    short_bundle: Path, short_test_set: TestSet, tmp_path: Path
) -> None:
    frames = short_test_set.frames[:30]
    np.save(tmp_path / "frames.npy", frames)
    coded, decoded = tmp_path / "game.ambi", tmp_path / "decoded.npy"
    for arguments in (
        ["encode", tmp_path / "frames.npy", coded, "-b", short_bundle],
        ["decode", coded, decoded, "-b", short_bundle],
    ):
        result = ambi(*arguments)
        assert result.exit_code == 0, result.output
    codec = FeatureCodec(load_bundle(short_bundle))
    latents = codec.latents(codec.stacks(frames))
    np.testing.assert_array_equal(np.load(decoded), codec.reconstruct(latents))
    ideal = codec.bundle.tables.bits(latents).sum() / 8
    assert ideal <= coded.stat().st_size < 1.2 * ideal + 100
    config = codec.bundle.manifest["training"]["config"]
    assert config["env"]["id"] == "BreakoutNoFrameskip-v4"
    assert config["resume"] is None


# Smaller runs, of another environment


def test_any_environment_of_pictures_trains_and_exports(tiny: list[str], tmp_path: Path) -> None:
    train_command([*tiny, "name=run", "agent.batch_size=4096", "evaluation.every=64"])
    run = tmp_path / "run"
    metrics = metrics_of(run)
    assert metrics["steps"] == 128
    assert metrics["imitation"] == {}
    assert "objects" not in metrics["test"]
    assert np.isfinite(metrics["test"]["factorized_bits_per_latent"])
    # Of a single game there is no standard error, and it must not keep anybody from exporting.
    assert metrics["play"]["features"]["standard_error"] is None
    evaluations = json.loads((run / "evaluations.json").read_text())["evaluations"]
    # The end has the score on reconstructions as well.
    assert [e["steps"] for e in evaluations] == [64]
    assert scalars(run)["held_out/score"] == [evaluations[0]["score"]]
    export_command(run, tmp_path / "x.ambic")
    bundle = load_bundle(tmp_path / "x.ambic")
    assert bundle.manifest["metrics"]["play"]["features"]["standard_error"] is None
    frames = np.zeros((3, 84, 84), np.uint8)
    codec = FeatureCodec(bundle)
    assert codec.decode(codec.encode(frames)).shape == (3, 84, 84)


def test_evaluations_on_the_way_do_not_change_what_is_learned(
    tiny: list[str], tmp_path: Path
) -> None:
    for every in (0, 32):
        train_command([*tiny, f"name=every-{every}", f"evaluation.every={every}", "total_steps=96"])
    first, second = (last(tmp_path / f"every-{every}") for every in (0, 32))
    assert len(second.progress.evaluations) == 2
    for name, tensor in first.policy.items():
        torch.testing.assert_close(tensor, second.policy[name], rtol=1e-4, atol=1e-6)


def interrupt_at(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = FeatureCallback._on_step

    def interrupt(self: FeatureCallback) -> bool:
        if self.num_timesteps == steps:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(FeatureCallback, "_on_step", interrupt)


@pytest.mark.parametrize("at", [40, 128])
def test_interrupting_waits_for_the_update_and_the_run_goes_on(
    at: int, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        interrupt_at(at, patched)
        before = signal.getsignal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            train_command([*tiny, "name=run", "checkpoint_every=100000", "rate.schedule=target"])
        assert signal.getsignal(signal.SIGINT) is before
    stopped = last(run)
    # The update in which it was asked for is done; the decoder, even after the last one, is not.
    assert stopped.progress.steps == -(-at // 32) * 32
    assert not stopped.progress.finished
    assert not (run / "metrics.json").exists()
    with pytest.raises(UsageError, match=r"not finished.*resume="):
        export_command(run, tmp_path / "x.ambic")
    train_command([f"resume={run}"])
    ended = last(run)
    assert ended.progress.finished
    assert ended.progress.steps == metrics_of(run)["steps"] == 128
    excluded = ended.progress.extra["excluded"]
    assert excluded >= stopped.progress.extra["excluded"]
    export_command(run, tmp_path / "x.ambic")


def test_what_breaks_off_in_the_decoders_training_trains_it_again(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def interrupted(self: DecoderTrainer, report: Any) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DecoderTrainer, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_command([*tiny, "name=run"])
    agent = last(run)
    assert agent.progress.steps == 128
    assert not agent.progress.finished
    train_command([f"resume={run}"])
    ended = last(run)
    assert ended.progress.finished
    encoders = [
        {k: v for k, v in state.items() if not k.startswith("prior.")}
        for state in (agent.policy, ended.policy)
    ]
    assert same_tensors(*encoders)
    assert not same_tensors(agent.decoder, ended.decoder)


def test_finished_runs_go_on_and_measure_again(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_command([*tiny, "name=run", "total_steps=32"])
    with pytest.raises(ConfigError, match="holds a run already"):
        train_command([*tiny, "name=run"])
    before, first = metrics_of(run), last(run)
    # A process may die between its last checkpoint and the metrics.
    (run / "metrics.json").unlink()
    train_command([f"resume={run}"])
    assert metrics_of(run) == before
    # What is measured otherwise is measured again, though there is nothing to learn.
    train_command([f"resume={run}", "evaluation.max_steps=10"])
    assert metrics_of(run)["play"]["original"]["lengths"] == [10]
    assert same_tensors(last(run).policy, first.policy)
    train_command([f"resume={run}", "total_steps=96"])
    after, second = metrics_of(run), last(run)
    assert (before["steps"], after["steps"]) == (32, 96)
    assert after["seconds"] > before["seconds"]
    assert not same_tensors(first.policy, second.policy)
    assert not same_tensors(first.decoder, second.decoder)
    # Games of what follows are not those of the beginning.
    assert not np.array_equal(second.tables["frequencies"], first.tables["frequencies"])


def test_what_is_configured_anew_counts_when_a_run_goes_on(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_command([*tiny, "name=run", "total_steps=32", "rate.alpha=0.001"])
    train_command([f"resume={run}", "total_steps=64", "rate.alpha=0.002"])
    assert metrics_of(run)["alpha"] == 0.002
    with pytest.raises(ConfigError, match="of other networks"):
        train_command([f"resume={run}", "total_steps=96", "agent.width=5"])


def test_games_that_begin_anew_are_others(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[npt.NDArray[np.uint8]] = []
    original = FeatureCallback._on_rollout_end

    def noted(self: FeatureCallback) -> None:
        seen.append(self._run.agent.rollout_buffer.observations[0].copy())
        original(self)

    monkeypatch.setattr(FeatureCallback, "_on_rollout_end", noted)
    train_command([*tiny, "name=run", "total_steps=32"])
    train_command([f"resume={tmp_path / 'run'}", "total_steps=64"])
    train_command([*tiny, "name=other", "total_steps=32", "seed=2"])
    assert len(seen) == 3
    assert not np.array_equal(seen[0], seen[1])
    # Not only in another order either, which neighbouring seeds would give.
    assert not np.array_equal(seen[0][1], seen[2][0])


def test_damaged_checkpoints_are_passed_over_and_old_ones_pruned(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_command([*tiny, "name=run", "checkpoint_keep=2"])
    run = tmp_path / "run"
    assert sorted(path.name for path in run.glob("*.pt")) == ["last.pt", "step-000000000096.pt"]
    content = bytearray((run / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (run / "last.pt").write_bytes(content)
    capsys.readouterr()
    train_command([f"resume={run}"])
    said = capsys.readouterr().err
    assert "is damaged; trying the one before" in said
    assert "at 96 moves" in said
    assert last(run).progress.finished
    for path in run.glob("*.pt"):
        path.write_bytes(b"nothing")
    with pytest.raises(AmbiError, match=r"last\.pt cannot be read"):
        train_command([f"resume={run}"])
    with pytest.raises(AmbiError, match=r"last\.pt cannot be read"):
        export_command(run, tmp_path / "x.ambic")


def test_runs_take_over_another_runs_agent(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_command([*tiny, "name=first", "total_steps=32"])
    first = last(tmp_path / "first")
    started: list[dict[str, Any]] = []
    original = FeatureRun.checkpoint

    def noted(self: FeatureRun, steps: int) -> None:
        if steps == 0:
            started.append({k: v.clone() for k, v in self.agent.policy.state_dict().items()})
        original(self, steps)

    monkeypatch.setattr(FeatureRun, "checkpoint", noted)
    over = ["agent.warm_start=run", f"agent.pretrained={tmp_path / 'first'}", "total_steps=32"]
    train_command([*tiny, "name=second", *over, "seed=5"])
    assert same_tensors(started[0], first.policy)
    assert not same_tensors(last(tmp_path / "second").policy, first.policy)
    # Another prior is fitted anew; the rest is the same.
    train_command([*tiny, "name=third", *over, "prior.kind=normal"])
    agents = [
        {k: v for k, v in state.items() if not k.startswith("prior.")}
        for state in (started[1], first.policy)
    ]
    assert same_tensors(*agents)
    assert "prior.log_deviation" in started[1]
    with pytest.raises(ConfigError, match="has other networks than this configuration asks for"):
        train_command([*tiny, "name=fourth", *over, "latent.channels=5"])
    (tmp_path / "first" / "config.yaml").write_text("system: [")
    with pytest.raises(ConfigError, match=r"first/config\.yaml does not say what the run trains"):
        train_command([*tiny, "name=fifth", *over])


def test_the_decoder_trains_with_the_agent(tiny: list[str], tmp_path: Path) -> None:
    for how in ("joint", "after"):
        train_command([*tiny, f"name={how}", f"decoder.training={how}", "decoder.steps=1"])
    joint, after = last(tmp_path / "joint"), last(tmp_path / "after")
    assert not same_tensors(joint.policy, after.policy)
    # Moved by as many updates as the agent, and by one step more.
    assert len(joint.optimizer["param_groups"]) == 2
    assert len(after.optimizer["param_groups"]) == 1
    train_command([f"resume={tmp_path / 'joint'}", "total_steps=160"])
    assert metrics_of(tmp_path / "joint")["steps"] == 160


def test_a_joint_run_takes_over_a_joint_run_s_decoder(tiny: list[str], tmp_path: Path) -> None:
    over = ["agent.warm_start=run", f"agent.pretrained={tmp_path / 'first'}", "total_steps=32"]
    joint = "decoder.training=joint"
    train_command([*tiny, "name=first", "total_steps=32", joint])
    first = last(tmp_path / "first")
    train_command([*tiny, "name=joint", *over, joint, "seed=5"])
    train_command([*tiny, "name=after", *over, "seed=5"])
    begun = {
        name: load_feature_checkpoint(tmp_path / name / "step-000000000000.pt")
        for name in ("joint", "after")
    }
    assert same_tensors(begun["joint"].decoder, first.decoder)
    assert same_tensors(begun["joint"].loss, first.loss)
    assert not same_tensors(begun["after"].decoder, first.decoder)


def test_statistics_of_pixels_are_those_of_the_beginning(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_command([*tiny, "name=run", "total_steps=32", "decoder.training=joint"])
    begun = load_feature_checkpoint(run / "step-000000000000.pt")
    mean, gain = (
        begun.policy[f"features_extractor.encoder.before.0.{name}"][0, 0]
        for name in ("mean", "gain")
    )
    # The block is everywhere but at the edges of the picture.
    assert mean[40, 40] > mean[0, 0]
    assert gain[40, 40] < gain[0, 0]
    precisions = begun.loss["precision_1"][0]
    assert precisions[40, 40] < precisions[0, 0]
    train_command([f"resume={run}", "total_steps=64"])
    ended = last(run)
    for name in ("mean", "gain"):
        key = f"features_extractor.encoder.before.0.{name}"
        assert torch.equal(ended.policy[key], begun.policy[key])
    assert same_tensors(ended.loss, begun.loss)
    with pytest.raises(ConfigError, match=r"give agent\.standardize=true"):
        train_command([f"resume={run}", "total_steps=96", "agent.standardize=false"])
    train_command([*tiny, "name=plain", "total_steps=32", "agent.standardize=false"])
    assert not last(tmp_path / "plain").policy["features_extractor.encoder.before.0.mean"].any()


def test_frames_for_the_decoder_are_none_of_the_test_set(tiny: list[str], tmp_path: Path) -> None:
    from ambi_rl.cli.train import compose_config
    from ambi_rl.envs.atari import make_vec_env
    from ambi_rl.training.feature_config import FeatureConfig
    from ambi_rl.training.feature_run import build_agent, env_settings

    config = compose_config([*tiny, "name=x"])
    assert isinstance(config, FeatureConfig)
    env = make_vec_env(env_settings(config.env), seed=1, training=True)
    agent = build_agent(config, env, seed=1)

    def exclude(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
        return frames[:, 40, 40] > 100

    def act(seen: npt.NDArray[np.uint8]) -> Any:
        return agent.predict(seen)[0]

    frames = np.zeros((150, 4, 84, 84), np.uint8)
    assert collect_frames(act, env, frames, exclude, seed=0) > 0
    assert not exclude(frames[:, -1]).any()
    # Every one of them is a frame of the game.
    assert (frames.max(axis=(2, 3)) > 100).any(axis=1).all()
    with pytest.raises(UsageError, match=r"take fewer test_set\.frames"):
        collect_frames(act, env, frames[:5], lambda seen: np.ones(len(seen), bool), seed=0)


# What is configured wrongly


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["agent.warm_start=imitation"], r"imitation has a scripted player for Breakout only"),
        (["agent.warm_start=run"], r"it is not said which; give agent\.pretrained=runs/NAME"),
        (["agent.pretrained=x"], r"give agent\.warm_start=run too"),
        (
            ["agent.warm_start=run", "agent.pretrained=nowhere"],
            r"agent\.pretrained=nowhere is no folder of a feature codec's run",
        ),
        (["env.frame_skip=2"], r"frame_skip is for preprocessing=atari only; leave it at 4"),
        (["env.id=ambi_test/Blocs-v0"], r"did you mean ambi_test/Blocks-v0"),
        (["env.preprocessing=atari"], r"no game of the Arcade Learning.*set preprocessing=image"),
        (["decoder.pixel=0"], r"are all 0; give one of them a weight"),
        (
            ["decoder.training=joint", "decoder.multiscale=1"],
            r"needs variances of pixels.*take agent\.warm_start=imitation or run",
        ),
        (["latent.layer=conv4"], r"latent\.layer is 'conv4'; it (must|can) be .*conv3"),
        (["test_set.policies={scripted: 1}"], r"'scripted' plays Breakout only"),
    ],
)
def test_wrong_configurations_are_explained_in_a_line(
    overrides: list[str], message: str, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def played(*arguments: Any) -> None:
        raise AssertionError("games were played before it was said")

    monkeypatch.setattr(ScriptedPlayer, "act", played)
    monkeypatch.setattr(TestSet, "save", played)
    monkeypatch.setattr(FeatureEvaluation, "score", played)
    with pytest.raises((ConfigError, UsageError), match=message) as caught:
        train_command([*tiny, "name=run", "test_set.seed=3", *overrides])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["ale_py", "cv2"])
def test_missing_packages_are_named(module: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        f"sys.argv = ['ambi', 'train', 'experiment=breakout', 'name=x', 'runs={tmp_path}']\n"
        "from ambi_rl.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert 'pip install "ambi-rl[atari]"' in line


def test_freed_memory_is_kept() -> None:
    program = """
import platform, resource
import numpy as np
from ambi_rl.training.memory import keep_freed_memory

def pages() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (5, 7, 6) * 20:
        np.ones(size << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
pages()
print(pages() if platform.libc_ver()[0] == "glibc" else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # Each of the sixty blocks has more than a thousand pages of 4 kB; new ones are counted when touched.
    assert int(done.stdout) < 2000
