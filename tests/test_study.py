"""Studies: search, pruning, going on, several workers; and what a study file may say."""

from __future__ import annotations

import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from typer.testing import CliRunner

from ambi_rl.cli.app import app
from ambi_rl.cli.study import study_command
from ambi_rl.cli.train import check_overrides
from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.sweeps import study as study_module
from ambi_rl.sweeps.space import as_override, load_study, study_file
from ambi_rl.sweeps.study import Place, StudyError, open_study, repeat_command
from ambi_rl.training.config import TrainConfig
from ambi_rl.training.run_folder import RunFolder, write_json
from ambi_rl.training.status import State, Status, Tracker, read_status, write_status

STUDY = """
trials: 12
sampler: tpe
seed: 1
pruner: {kind: median, startup_trials: 3, warmup: 0}
overrides: [total_steps=400, evaluation.every=100]
space:
  agent.learning_rate: {low: 1.0e-5, high: 1.0e-2, log: true}
  agent.n_epochs: {low: 1, high: 4, int: true}
  reward: {choices: [psnr, ms_ssim]}
"""
COMPLETE, PRUNED = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
FAIL = optuna.trial.TrialState.FAIL


def run(words: list[str], jobs: int = 1) -> None:
    study_command(words, jobs=jobs, is_worker=False, threads=None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(STUDY)
    return path


def quality(config: TrainConfig) -> float:
    """What the stand-in for training reaches: best at a step size of 1e-3."""
    return -10 + 5 * abs(math.log10(config.agent.learning_rate) + 3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces training by something that takes no time; the folders that it was called for."""
    called: list[Path] = []

    def train(
        config: TrainConfig,
        *,
        folder: Path,
        overrides: list[str],
        display: Any,
        on_evaluation: Callable[[int, dict[str, float]], None],
    ) -> dict[str, float]:
        called.append(folder)
        run = RunFolder(folder)
        run.prepare(config, overrides, resume=config.resume is not None)
        with Tracker(folder, config.total_steps):
            for steps in range(0, config.total_steps + 1, 100):
                value = quality(config) + 10 - steps / 40
                on_evaluation(steps, {"bd_rate_vs_fixed": value})
            metrics = {"objective": quality(config), "steps": config.total_steps}
            write_json(run.metrics, metrics)
        return metrics

    monkeypatch.setattr(study_module, "train", train)
    return called


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return open_study(Place(folder)).get_trials()


@pytest.mark.parametrize("kind", ["median", "hyperband", "none"])
def test_searches_and_prunes(
    kind: str,
    file: Path,
    tmp_path: Path,
    quick: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run([str(file), "name=s", f"runs={tmp_path}", f"study.pruner.kind={kind}", "study.trials=12"])
    trials = trials_of(tmp_path / "s")
    assert len(trials) == 12
    assert quick == [tmp_path / "s" / str(n) for n in range(12)]
    states = [trial.state for trial in trials]
    assert set(states) == ({COMPLETE} if kind == "none" else {COMPLETE, PRUNED})
    for trial in trials:
        status = read_status(tmp_path / "s" / str(trial.number))
        assert status is not None
        ended = State.FINISHED if trial.state == COMPLETE else State.PRUNED
        assert status.state == ended
        reported = list(trial.intermediate_values)
        assert reported == list(range(len(reported)))
        assert len(reported) == 5 if ended == State.FINISHED else len(reported) < 5
    # The configuration as it is comes first, and what is found is better.
    assert trials[0].params["agent.learning_rate"] == 2e-4
    best = min((t for t in trials if t.state == COMPLETE), key=lambda t: t.value or 0)
    assert best.value is not None
    assert trials[0].value is not None
    assert best.value < trials[0].value
    # The worst step sizes are not trained to the end.
    if kind == "median":
        worst = max(trials[3:], key=lambda t: abs(math.log10(t.params["agent.learning_rate"]) + 3))
        assert worst.state == PRUNED

    shown = capsys.readouterr().out.splitlines()
    assert shown[1].split()[:2] == [str(best.number), f"{best.value:+.2f}"]
    command = next(line for line in shown if line.startswith("the best again: "))
    words = shlex.split(command.partition(": ")[2])
    assert words[:2] == ["ambi", "train"]
    assert as_override("agent.learning_rate", best.params["agent.learning_rate"]) in words
    check_overrides(words[2:], multirun=False)


def test_goes_on_by_its_name(file: Path, tmp_path: Path, quick: list[Path]) -> None:
    words = [str(file), "name=s", f"runs={tmp_path}", "seed=7"]
    run([*words, "study.trials=2"])
    run(["name=s", f"runs={tmp_path}"])
    assert len(quick) == 2
    run(["name=s", f"runs={tmp_path}", "study.trials=4", "study.pruner.kind=none"])
    assert [folder.name for folder in quick] == ["0", "1", "2", "3"]
    values = [trial.params["agent.learning_rate"] for trial in trials_of(tmp_path / "s")]
    assert len(set(values)) == 4
    assert "seed: 7" in (tmp_path / "s" / "3" / "config.yaml").read_text()
    # The same command again finds its own study; another one is refused.
    run([*words, "study.trials=4"])
    for other in (["seed=8"], ["seed=7", "study.sampler=random"]):
        with pytest.raises(ConfigError, match=r"holds another study \(\w+ is") as caught:
            run([*words[:3], *other])
        assert "\n" not in str(caught.value)
    assert len(quick) == 4


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_may_have_any_seed(
    sampler: str, file: Path, tmp_path: Path, quick: list[Path]
) -> None:
    words = [f"runs={tmp_path}", "study.trials=1", f"study.sampler={sampler}"]
    for number, seed in enumerate((4295, 10**12)):
        run([str(file), f"name={number}", *words, f"study.seed={seed}"])
    first, second = (trials_of(tmp_path / name)[0].params for name in "01")
    assert first != second


def test_trials_that_were_running_are_taken_up(
    file: Path, tmp_path: Path, quick: list[Path]
) -> None:
    words = [str(file), "name=s", f"runs={tmp_path}", "study.trials=5"]
    study = study_module.begin(
        Place(tmp_path / "s"), load_study(file, ["trials=5"], []), ["trials=5"]
    )
    storage = open_study(Place(tmp_path / "s"))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    now, here = time.time(), socket.gethostname()
    space = study_module.distributions(study)
    for number, (state, pid) in enumerate(
        [
            (State.RUNNING, gone.pid),
            (State.RUNNING, os.getppid()),
            (State.FINISHED, gone.pid),
            (State.FAILED, gone.pid),
        ]
    ):
        storage.ask(space)
        folder = tmp_path / "s" / str(number)
        folder.mkdir()
        write_status(folder, Status(state, 1, 2, pid, here, now, now))
    write_json(tmp_path / "s" / "2" / "metrics.json", {"objective": -3.5})
    run(words)
    # Killed: trained under its own number. Alive: left alone. Ended: noted. And one that is new.
    assert [folder.name for folder in quick] == ["0", "4"]
    trials = trials_of(tmp_path / "s")
    states = [trial.state for trial in trials]
    assert states == [COMPLETE, optuna.trial.TrialState.RUNNING, COMPLETE, FAIL, COMPLETE]
    assert trials[2].value == -3.5


def test_failing_trials_end_the_study(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*arguments: Any, **options: Any) -> None:
        raise ConfigError("there are no photographs")

    monkeypatch.setattr(study_module, "train", train)
    with pytest.raises(StudyError, match=r"3 trials in a row failed; .*no photographs"):
        run([str(file), "name=s", f"runs={tmp_path}"])
    assert [trial.state for trial in trials_of(tmp_path / "s")] == [FAIL] * 3
    assert "trials: 3 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_side_by_side_can_be_stopped_and_killed(
    tiny: list[str], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = STUDY.replace("[total_steps=400, evaluation.every=100]", "[]")
    file.write_text(text.replace("  reward: {choices: [psnr, ms_ssim]}\n", ""))
    where = ["name=s", f"runs={tmp_path}"]
    words = [*(o for o in tiny if not o.startswith("runs=")), *where, "study.trials=2"]
    words += ["total_steps=10000000", "evaluation.every=0", "checkpoint_every=256"]
    command = [sys.executable, "-m", "ambi_rl.cli", "study", str(file), *words, "-j", "2"]
    folders = [tmp_path / "s" / n for n in "01"]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    deadline = time.monotonic() + 240
    while not all((folder / "last.pt").is_file() for folder in folders):
        assert process.poll() is None, (tmp_path / "out").read_text()
        assert time.monotonic() < deadline, (tmp_path / "out").read_text()
        time.sleep(0.05)
    before = [read_status(folder) for folder in folders]
    assert all(status is not None for status in before)
    pids = [status.pid for status in before if status is not None]
    assert len({*pids, process.pid, os.getpid()}) == 4
    # One worker is lost, then Ctrl-C: the other saves a checkpoint.
    os.kill(pids[0], signal.SIGKILL)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130, (tmp_path / "out").read_text()
    states = [status.state for folder in folders if (status := read_status(folder))]
    assert states == [State.KILLED, State.INTERRUPTED]
    text = (tmp_path / "out").read_text()
    assert "interrupted; go on with: ambi study name=s" in text
    assert "Traceback" not in text

    # Both are taken up from their checkpoints, under their own numbers.
    resumed = []

    def train(config: TrainConfig, *, folder: Path, **options: Any) -> dict[str, float]:
        RunFolder(folder).prepare(config, options["overrides"], resume=config.resume is not None)
        resumed.append((folder, config.resume))
        return {"objective": -1.0}

    monkeypatch.setattr(study_module, "train", train)
    run(where)
    assert resumed == [(folder, "true") for folder in folders]
    assert [trial.state for trial in trials_of(tmp_path / "s")] == [COMPLETE] * 2
    assert "name=s-best" in repeat_command(Place(tmp_path / "s"), 0)


MISTAKES = {
    "trials: 12|trials: 0": "trials is 0; it must be 1 or more",
    "trials: 12|": "trials has no value",
    "trials: 12|trails: 12": "trails",
    "sampler: tpe|sampler: tpa": "sampler is 'tpa'; it can be tpe, random",
    "kind: median|kind: mean": "pruner.kind is 'mean'; it can be median, hyperband, none",
    "low: 1.0e-5, high|high": "space agent.learning_rate: give low and high, or choices",
    "low: 1, high: 4|low: 4, high: 1": "space agent.n_epochs: low is 4 and high 1",
    "low: 1, high: 4|low: 1.5, high: 4": "whole numbers",
    "low: 1.0e-5|low: 0": "with log it must be over 0",
    "[psnr, ms_ssim]|[psnr]": "two or more",
    "[psnr, ms_ssim]|[psnr, nsnr]": "reward is 'nsnr'; it can be",
    "n_epochs|n_epoch": "no key 'agent.n_epoch'; did you mean agent.n_epochs",
    "high: 1.0e-2|high: 1.0e-2, lag: true": "lag",
}


@pytest.mark.parametrize("change", MISTAKES)
def test_mistakes_are_named_in_one_line(change: str, file: Path, tmp_path: Path) -> None:
    old, new = change.split("|")
    assert old in STUDY
    file.write_text(STUDY.replace(old, new))
    with pytest.raises(ConfigError, match=MISTAKES[change]) as caught:
        run([str(file), "name=s", f"runs={tmp_path}"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "s").exists()


def test_words_that_mean_nothing_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no study 'nothing'; .*one of: default"):
        run(["nothing"])
    with pytest.raises(UsageError, match="are two studies"):
        run([str(file), "default"])
    with pytest.raises(ConfigError, match="no key 'sed'"):
        run([str(file), "name=s", f"runs={tmp_path}", "sed=1"])
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="folder of a run or sweep"):
        run([str(file), "name=r", f"runs={tmp_path}"])


def test_the_default_study_is_valid() -> None:
    from ambi_rl.sweeps.space import extremes

    study = load_study(study_file("default"))
    check_overrides([*study.overrides, *extremes(study)], multirun=True)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("ambi_rl.cli.study", "ambi_rl.sweeps.study"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = CliRunner().invoke(app, ["study"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert 'pip install "ambi-rl[study]"' in result.stderr
