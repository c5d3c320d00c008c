"""Runs that are killed, damaged or diverge: what is lost, and that what follows is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ambi_rl
from ambi_rl.cli.train import train_command
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.entropy.model import untrained
from ambi_rl.codec.process import BlockCodingBatch
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.errors import AmbiError, ConfigError, NotFiniteError, UsageError
from ambi_rl.training.callback import TrainingCallback
from ambi_rl.training.checkpoint import load_checkpoint
from ambi_rl.training.run_folder import RunFolder

TINY = [
    "env.num_envs=8",
    "env.patch_size=32",
    "agent.n_steps=16",
    "agent.hidden=8",
    "agent.warm_start=none",
    "total_steps=512",
    "checkpoint_every=128",
    "entropy.refit_every=256",
    "entropy.patches=1",
    "evaluation.every=256",
    "evaluation.images=1",
    "evaluation.qualities=[40,70]",
    "evaluation.search_effort=5",
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pieces of shipped photographs, so that encoding them takes no time."""
    folder = tmp_path_factory.mktemp("photographs")
    shipped = sorted((Path(ambi_rl.__file__).parent / "data" / "photographs").glob("*.webp"))
    for path in shipped[:4]:
        with Image.open(path) as image:
            image.convert("RGB").crop((100, 100, 196, 164)).save(folder / f"{path.stem}.png")
    return folder


def arguments(runs: Path, photographs: Path, *overrides: str) -> list[str]:
    return [*TINY, f"data.folder={photographs}", f"runs={runs}", *overrides]


class KilledError(Exception):
    """Stands for a crash: nothing is saved on the way out."""


def crash_at(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrainingCallback._on_step

    def crash(self: TrainingCallback) -> bool:
        if self.num_timesteps > steps:
            raise KilledError
        return original(self)

    monkeypatch.setattr(TrainingCallback, "_on_step", crash)


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Nested dictionaries, lists, arrays and tensors are the same to the last bit."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert set(first) == set(second), where
        for key in first:
            # Seconds differ.
            if key not in ("t", "seconds", "evaluation_seconds", "log"):
                assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    elif isinstance(first, np.ndarray):
        np.testing.assert_array_equal(first, second, where)
    else:
        assert first == second, where


def assert_same_end(first: Path, second: Path) -> None:
    one, other = load_checkpoint(first / "last.pt"), load_checkpoint(second / "last.pt")
    for part in ("policy", "optimizer", "trajectory"):
        assert_same(getattr(one, part), getattr(other, part), part)
    assert_same(one.bundle.entropy, other.bundle.entropy, "entropy")
    assert_same(one.progress.evaluations, other.progress.evaluations, "evaluations")
    assert one.progress.refits == other.progress.refits
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (first, second)]
    assert_same(metrics[0], metrics[1], "metrics")


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "a2c", "maskable_ppo"])
def test_an_interruption_makes_no_difference(
    agent: str, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"agent={agent}"]
    train_command(arguments(tmp_path, photographs, "name=whole", *options))
    with monkeypatch.context() as patched:
        crash_at(300, patched)
        with pytest.raises(KilledError):
            train_command(arguments(tmp_path, photographs, "name=broken", *options))
    stopped = load_checkpoint(tmp_path / "broken" / "last.pt").progress
    # The entropy model had just been refitted: some episodes run on with the one before.
    assert (stopped.steps, stopped.refits) == (256, 1)
    train_command([f"resume={tmp_path / 'broken'}"])
    assert_same_end(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.slow
def test_a_stream_goes_on_where_it_was(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, place in enumerate(sorted(photographs.glob("*.png")) * 2):
        with tarfile.open(tmp_path / f"train-{number % 3}.tar", "a") as archive:
            archive.add(place, f"{number}-{place.name}")
    with tarfile.open(tmp_path / "train-3.tar", "w") as archive:
        (tmp_path / "damaged.png").write_bytes(b"no picture")
        archive.add(tmp_path / "damaged.png", "damaged.png")
    options = ["data=shards", f"data.shards={tmp_path}", "data.folder=null", "data.shuffle=4"]
    options += ["data.patches_per_picture=3", "data.held_out_every=3", "evaluation.every=0"]
    train_command(arguments(tmp_path, photographs, "name=whole", *options, "data.workers=1"))
    with monkeypatch.context() as patched:
        crash_at(300, patched)
        with pytest.raises(KilledError):
            train_command(arguments(tmp_path, photographs, "name=broken", *options))
    train_command([f"resume={tmp_path / 'broken'}", "data.workers=2"])
    skipped = json.loads((tmp_path / "whole" / "metrics.json").read_text())["skipped"]
    assert skipped["training"]["count"] + skipped["held_out"]["count"] == 1
    ((name, reason),) = skipped["training"]["named"] or skipped["held_out"]["named"]
    assert name == "train-3.tar/damaged.png"
    assert "not a picture" in reason
    # The passes that were decoded ahead differ with the number of workers; what was drawn does not.
    one, other = (load_checkpoint(tmp_path / run / "last.pt") for run in ("whole", "broken"))
    assert_same(one.policy, other.policy)
    trajectories = [found.trajectory or {} for found in (one, other)]
    episodes = [found["environment"]["episodes"] for found in trajectories]
    assert_same(episodes[0], episodes[1])


@pytest.mark.slow
def test_sigkill_loses_at_most_the_steps_since_the_last_checkpoint(
    tmp_path: Path, photographs: Path
) -> None:
    # The warm start is in the checkpoint of step 0, so it is not repeated.
    options = [
        "agent.warm_start=imitation",
        "agent.imitation.patches=12",
        "agent.imitation.visited=4",
        "agent.imitation.epochs=1",
    ]
    options += ["evaluation.every=0", "entropy.refit_every=0", "total_steps=1280"]
    train_command(arguments(tmp_path, photographs, "name=whole", *options))
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "ambi_rl.cli", "train"]
    command += arguments(tmp_path, photographs, "name=broken", *options)
    process = subprocess.Popen(command, env=dict(os.environ), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (broken / "step-000000000128.pt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    saved = load_checkpoint(RunFolder(broken).checkpoints[0])
    assert saved.progress.warm_started
    assert 128 <= saved.progress.steps < 1280
    # What a killed process was writing is no part of the run.
    (broken / ".last.pt.x.part").write_bytes(b"half a checkpoint")
    train_command([f"resume={broken}"])
    assert not list(broken.glob(".*.part"))
    assert_same_end(tmp_path / "whole", broken)


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over_and_old_ones_pruned(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["evaluation.every=0", "entropy.refit_every=0", "checkpoint_keep=2"]
    train_command(arguments(tmp_path, photographs, "name=run", *options))
    run = tmp_path / "run"
    assert sorted(path.name for path in run.glob("*.pt")) == [
        "best.pt",
        "last.pt",
        "step-000000000384.pt",
    ]
    content = bytearray((run / "last.pt").read_bytes())
    good = load_checkpoint(run / "last.pt")
    # One bit of the numbers, which torch itself reads without a complaint.
    content[len(content) // 2] ^= 1
    (run / "last.pt").write_bytes(content)
    capsys.readouterr()
    train_command([f"resume={run}"])
    said = capsys.readouterr().err
    assert "is damaged; trying the one before" in said
    assert "at 384 decisions" in said
    again = load_checkpoint(run / "last.pt")
    assert_same(good.trajectory, again.trajectory)

    for path in RunFolder(run).checkpoints:
        path.write_bytes(b"nothing")
    with pytest.raises(AmbiError, match=r"last\.pt cannot be read"):
        train_command([f"resume={run}"])


@pytest.mark.slow
def test_interrupting_waits_for_the_update_and_saves_it(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TrainingCallback._on_step

    def interrupt(self: TrainingCallback) -> bool:
        if self.num_timesteps == 160:
            signal.raise_signal(signal.SIGINT)
        return original(self)

    monkeypatch.setattr(TrainingCallback, "_on_step", interrupt)
    options = ["checkpoint_every=100000", "evaluation.every=0", "entropy.refit_every=0"]
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train_command(arguments(tmp_path, photographs, "name=run", *options))
    assert signal.getsignal(signal.SIGINT) is before
    assert load_checkpoint(tmp_path / "run" / "last.pt").progress.steps == 256


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("what", ["reward", "observation", "weights"])
def test_numbers_that_are_not_finite_stop_the_run(
    what: str, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = BlockCodingVectorEnv.step
    steps = 0

    def step(self: BlockCodingVectorEnv, actions: Any) -> Any:
        nonlocal steps
        steps += 1
        observations, rewards, *rest = original(self, actions)
        # After 30 steps that show what observations are like: in the third rollout, 5 steps in.
        if steps == 67 and what == "reward":
            rewards[3] = np.nan
        if steps == 67 and what == "observation":
            observations[2, 1] = np.inf
        if steps == 67 and what == "weights":
            rewards[:] = 3e38
        return observations, rewards, *rest

    monkeypatch.setattr(BlockCodingVectorEnv, "step", step)
    run = tmp_path / "run"
    message = {
        "reward": r"at 296 decisions: the reward of environment 3 is nan.*last good checkpoint is",
        "observation": r"at 296 decisions: the observation of environment 2 is inf",
        "weights": r"at 384 decisions: (train/\w*loss is|the weights)",
    }
    options = ["evaluation.every=0", "entropy.refit_every=0"]
    with pytest.raises(NotFiniteError, match=message[what]) as caught:
        train_command(arguments(tmp_path, photographs, "name=run", *options))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 8
    assert load_checkpoint(run / "last.pt").progress.steps == 256
    (saved,) = run.glob("not-finite-*.npz")
    with np.load(saved) as batch:
        if what == "weights":
            assert batch["observations"].shape[:2] == batch["rewards"].shape == (16, 8)
            assert batch["actions"].shape == (16, 8, 2)
        else:
            assert batch["observations"].shape[:2] == (4, 8)
            bad = batch[f"step_{what}s"]
            assert np.argwhere(~np.isfinite(bad))[0, 0] == (3 if what == "reward" else 2)
        assert batch["step"] == (384 if what == "weights" else 296)


def test_a_run_without_a_checkpoint_begins_anew(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ambi_rl.training.run import Run

    def fail(self: Run) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Run, "warm_start", fail)
        with pytest.raises(KilledError):
            train_command(arguments(tmp_path, photographs, "name=run"))
    train_command([f"resume={tmp_path / 'run'}", "total_steps=0", "entropy.refit_every=0"])
    assert load_checkpoint(tmp_path / "run" / "last.pt").progress.finished
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(ConfigError, match="holds no run to go on with"):
        train_command([f"resume={tmp_path / 'run'}"])


def random_actions(masks: np.ndarray, decisions: int, rng: np.random.Generator) -> np.ndarray:
    scores = rng.random(masks.shape) * masks
    scores[:, 0] = 2 * (rng.random(len(masks)) < 0.5) * masks[:, 0]
    return np.stack([scores[:, :decisions].argmax(1), scores[:, decisions:].argmax(1)], axis=1)


def test_environments_go_on_exactly_with_any_number_of_threads() -> None:
    first = BlockCodingVectorEnv(6, patch_size=32, threads=1)
    first.reset(seed=3)
    rng = np.random.default_rng(0)
    decisions = first.episodes.num_decisions
    for _ in range(30):
        first.step(random_actions(first.action_masks(), decisions, rng))
    # Some episodes began with this entropy model, the others begin with the next.
    other = default_bundle()
    first.set_bundle(type(other)(other.manifest, untrained(), other.policy, other.restoration))
    for _ in range(8):
        first.step(random_actions(first.action_masks(), decisions, rng))
    state = first.state()
    distinct = state["episodes"]["process"]["probs_began"]
    assert len(distinct) == 2

    second = BlockCodingVectorEnv(6, patch_size=32, threads=2)
    second.set_bundle(first.episodes.process.bundle)
    observations = second.restore(state)
    np.testing.assert_array_equal(observations, first.episodes.observations)
    np.testing.assert_array_equal(second.action_masks(), first.action_masks())
    for _ in range(60):
        actions = random_actions(first.action_masks(), decisions, rng)
        for one, same in zip(first.step(actions)[:3], second.step(actions)[:3], strict=True):
            np.testing.assert_array_equal(one, same)
    assert_same(first.state(), second.state())


def test_states_of_other_environments_are_refused() -> None:
    batch = BlockCodingBatch(2, 32, 32, default_bundle(), threads=1)
    state = batch.state()
    with pytest.raises(UsageError, match="another number or size"):
        BlockCodingBatch(3, 32, 32, default_bundle(), threads=1).restore(state)
    with pytest.raises(UsageError, match="another number or size"):
        BlockCodingBatch(2, 32, 36, default_bundle(), threads=1).restore(state)
    with pytest.raises(UsageError, match="another version"):
        batch.restore({name: value for name, value in state.items() if name != "outlook"})
