"""Runs that are killed, damaged or diverge: what is lost, and that what follows is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
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


class Killed(Exception):
    """Stands for a crash: nothing is saved on the way out."""


def crash_at(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrainingCallback._on_step

    def crash(self: TrainingCallback) -> bool:
        if self.num_timesteps > steps:
            raise Killed
        return original(self)

    monkeypatch.setattr(TrainingCallback, "_on_step", crash)


def assert_same(first: Any, second: Any, where: str = "") -> None:
    """Nested dictionaries, lists, arrays and tensors are the same to the last bit."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            # Seconds differ.
            if key not in ("t", "seconds", "log"):
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
    assert one.progress.evaluations == other.progress.evaluations
    assert one.progress.refits == other.progress.refits
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (first, second)]
    for found in metrics:
        del found["seconds"]
    assert metrics[0] == metrics[1]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "a2c", "maskable_ppo"])
def test_an_interruption_makes_no_difference(
    agent: str, tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"agent={agent}", "agent.warm_start=none"]
    train_command(arguments(tmp_path, photographs, "name=whole", *options))
    with monkeypatch.context() as patched:
        crash_at(300, patched)
        with pytest.raises(Killed):
            train_command(arguments(tmp_path, photographs, "name=broken", *options))
    stopped = load_checkpoint(tmp_path / "broken" / "last.pt").progress
    # The entropy model had just been refitted: some episodes run on with the one before.
    assert (stopped.steps, stopped.refits) == (256, 1)
    train_command([f"resume={tmp_path / 'broken'}"])
    assert_same_end(tmp_path / "whole", tmp_path / "broken")
