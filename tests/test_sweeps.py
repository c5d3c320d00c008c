"""Sweeps: by every launcher, one failing run among others, and going on after an interruption."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ambi_rl.cli.train import check_overrides, compose_config, train_command
from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.sweeps import sweep
from ambi_rl.sweeps.space import load_study, study_file
from ambi_rl.sweeps.sweep import SweepError
from ambi_rl.training import status as status_module
from ambi_rl.training.callback import TrainingCallback
from ambi_rl.training.checkpoint import load_checkpoint
from ambi_rl.training.run import Run
from ambi_rl.training.run_folder import RunFolder
from ambi_rl.training.status import (
    Pruned,
    State,
    Status,
    Tracker,
    ensure_idle,
    read_status,
    write_status,
)


def state_of(folder: Path) -> str:
    status = read_status(folder)
    return "nothing" if status is None else str(status.state)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.slow
def test_goes_on_where_it_stopped_and_overwrites_nothing(
    tiny: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["-m", *tiny, "name=sweep", "seed=1,2,3", "total_steps=256"]
    folder = tmp_path / "sweep"
    on_step, warm_start, warmed = TrainingCallback._on_step, Run.warm_start, []

    def break_some(self: TrainingCallback) -> bool:
        seed = self.model.seed
        if seed == 2 and self.num_timesteps > 0:
            raise ValueError("not a good seed")
        if seed == 3 and self.num_timesteps > 150:
            raise KeyboardInterrupt
        return on_step(self)

    def count(self: Run) -> None:
        warmed.append(self.config.seed)
        warm_start(self)

    monkeypatch.setattr(Run, "warm_start", count)
    monkeypatch.setattr(TrainingCallback, "_on_step", break_some)
    # The second run fails, and the others are done nevertheless, until the third is interrupted.
    with pytest.raises(KeyboardInterrupt):
        train_command(command)
    assert [state_of(folder / n) for n in "012"] == ["finished", "failed", "interrupted"]
    failed = read_status(folder / "1")
    assert failed is not None
    assert failed.error == "ValueError: not a good seed"
    assert "not a good seed" in (folder / "1" / "traceback.txt").read_text()
    assert "the same command goes on" in capsys.readouterr().err

    # Another configuration is refused before anything begins, in one line.
    before = files_of(folder)
    with pytest.raises(ConfigError, match=r"another configuration \(seed is 1 there and 5") as no:
        train_command([*command[:-2], "seed=5,2,3", "total_steps=256"])
    assert "\n" not in str(no.value)
    assert files_of(folder) == before

    monkeypatch.setattr(TrainingCallback, "_on_step", on_step)
    finished = files_of(folder / "0")
    reached = load_checkpoint(folder / "2" / "last.pt").progress
    # Raised in the middle of a rollout, the interruption loses what came after the last checkpoint.
    assert reached.steps == 128
    train_command(command)
    assert [state_of(folder / n) for n in "012"] == ["finished"] * 3
    assert files_of(folder / "0") == finished
    # The interrupted one went on from its checkpoint, without learning from the teacher again.
    assert warmed.count(3) == 1
    assert len((folder / "2" / "command.txt").read_text().splitlines()) == 2
    after = load_checkpoint(folder / "2" / "last.pt").progress
    assert after.evaluations[: len(reached.evaluations)] == reached.evaluations
    assert not (folder / "1" / "traceback.txt").exists()
    assert capsys.readouterr().err.count("finished already") == 1

    # Finished as a whole, by its name alone: nothing happens.
    before = files_of(folder)
    train_command(["-m", "name=sweep", f"runs={tmp_path}", "resume=true"])
    assert files_of(folder) == before


@pytest.mark.slow
def test_a_failing_run_is_named_and_the_others_are_done(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"1 of 2 runs did not finish: .*sweep/0 \(failed\)") as e:
        train_command(
            ["-m", *tiny, "name=sweep", "seed=1", f"data.folder={tmp_path},{photos(tiny)}"]
        )
    assert e.value.exit_code == 1
    assert [state_of(tmp_path / "sweep" / n) for n in "01"] == ["failed", "finished"]
    # With nothing learned yet, a run that failed begins anew.
    for path in photos(tiny).glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    train_command(["-m", "name=sweep", f"runs={tmp_path}", "resume=true"])
    assert state_of(tmp_path / "sweep" / "0") == "finished"


def photos(tiny: list[str]) -> Path:
    return Path(next(o for o in tiny if o.startswith("data.folder=")).partition("=")[2])


def one_fails(tiny: list[str], empty: Path, *more: str) -> list[str]:
    empty.mkdir()
    folders = f"data.folder={photos(tiny)},{empty}"
    return ["-m", *(o for o in tiny if "data.folder" not in o), "name=sweep", folders, *more]


@pytest.mark.slow
def test_runs_as_submitit_jobs(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"sweep/1 \(failed\): .*no photographs"):
        train_command(one_fails(tiny, tmp_path / "empty", "hydra/launcher=local"))
    assert [state_of(tmp_path / "sweep" / n) for n in "01"] == ["finished", "failed"]
    # Each job was a process of its own, and wrote a log instead of to the terminal.
    found = read_status(tmp_path / "sweep" / "0")
    assert found is not None
    assert found.pid != os.getpid()
    assert "imitation" in (tmp_path / "sweep" / "0" / "log.txt").read_text()
    assert list((tmp_path / "sweep" / ".submitit").iterdir())


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """A Ray cluster of one node on this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
def test_runs_on_a_ray_cluster(tiny: list[str], tmp_path: Path, ray_address: str) -> None:
    import ray

    options = ["hydra/launcher=ray", f"hydra.launcher.address={ray_address}"]
    with pytest.raises(SweepError, match=r"sweep/1 \(failed\): .*no photographs"):
        train_command(one_fails(tiny, tmp_path / "empty", *options, "env.threads=1"))
    assert [state_of(tmp_path / "sweep" / n) for n in "01"] == ["finished", "failed"]
    found = read_status(tmp_path / "sweep" / "0")
    assert found is not None
    assert found.pid != os.getpid()
    assert "seed" not in (tmp_path / "sweep" / "0" / "command.txt").read_text()
    # The cluster is the user's, the connection was the sweep's.
    assert not ray.is_initialized()
    with pytest.raises(ConfigError, match="another configuration"):
        train_command(
            [*one_fails(tiny, tmp_path / "other", *options), "env.threads=1", "agent.hidden=8"]
        )


@pytest.mark.parametrize("launcher", ["parallel", "local", "slurm", "ray"])
def test_a_missing_extra_is_named(
    launcher: str, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_is_installed", lambda module: False)
    with pytest.raises(UsageError, match=rf"{launcher} needs .*pip install .ambi-rl\[cluster\]"):
        train_command(["-m", *tiny, "seed=1,2", "name=sweep", f"hydra/launcher={launcher}"])
    assert not (tmp_path / "sweep").exists()


def test_mistakes_of_sweeps_are_one_line(tiny: list[str], tmp_path: Path) -> None:
    mistakes = {
        "hydra/launcher=rya": "it can be basic, joblib, local, parallel, ray",
        "hydra/sweeper=optuna": "ambi study",
        "agent.learning_rate=interval(0,1)": r"list of values; write agent.learning_rate=A,B,C",
        "hydra.sweep.subdir=same": "several runs would be written to",
    }
    for override, message in mistakes.items():
        with pytest.raises((ConfigError, UsageError), match=message) as caught:
            train_command(["-m", *tiny, "name=sweep", "seed=1,2", override])
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="do not go with -m"):
        train_command(["-m", "--config-dir", str(tmp_path), *tiny, "name=sweep", "seed=1,2"])
    with pytest.raises(ConfigError, match="not the folder of a sweep"):
        train_command(["-m", "name=sweep", f"runs={tmp_path}", "resume=true"])
    assert not (tmp_path / "sweep").exists()


def test_runs_and_sweeps_do_not_share_folders(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(ConfigError, match="folder of a single run"):
        train_command(["-m", *tiny, "name=run", "seed=1,2"])
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="folder of a sweep or study"):
        train_command([*tiny, "name=sweep"])


def test_documented_commands_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "docs" / "sweeps.md").read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    trains = [words[2:] for words in commands if words[:2] == ["ambi", "train"]]
    studies = [words[2:] for words in commands if words[:2] == ["ambi", "study"]]
    assert (len(trains), len(studies)) == (6, 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_bytes(study_file("default").read_bytes())
    for words in trains:
        overrides = [word for word in words if word != "-m"]
        # What to go on with exists only on the reader's machine.
        if not any(word.startswith("resume=") for word in words):
            sweep.check_launcher(overrides)
            check_overrides(overrides, multirun="-m" in words)
    for words in studies:
        file = study_file("mine.yaml" if "mine.yaml" in words else "default")
        given = [word for word in words if "=" in word]
        changes = [w.removeprefix("study.") for w in given if w.startswith("study.")]
        own = [w for w in given if not w.startswith(("study.", "name="))]
        study = load_study(file, changes, own)
        check_overrides([*study.overrides, "name=check"], multirun=True)


def test_combinations_name_what_is_swept() -> None:
    found = sweep.combinations(["seed=range(1,3)", "agent=ppo,a2c", "name=x", "hydra.verbose=true"])
    assert [changes for _, changes in found] == [
        ["seed=1", "agent=ppo"],
        ["seed=1", "agent=a2c"],
        ["seed=2", "agent=ppo"],
        ["seed=2", "agent=a2c"],
    ]
    assert found[0][0] == ["seed=1", "agent=ppo", "name=x"]


@pytest.mark.parametrize("launcher", [None, "parallel", "local", "slurm", "ray"])
def test_sweeps_of_the_feature_codec_are_planned(
    launcher: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be launched; tests of the feature codec itself train."""
    launched: list[sweep.Job] = []

    def launch(_: object, jobs: Sequence[sweep.Job], *rest: object, basic: bool) -> str:
        assert basic == (launcher is None)
        launched.extend(jobs)
        return ""

    monkeypatch.setattr(sweep, "_launch", launch)
    monkeypatch.setattr(sweep, "_report", lambda *_: None)
    own = [
        "experiment=breakout",
        "test_set.policies={random: 0.5, scripted: 0.5}",
        f"runs={tmp_path}",
    ]
    given = [] if launcher is None else [f"hydra/launcher={launcher}"]
    command = ["-m", *given, *own, "name=codes", "rate.alpha=0.01,0.1", "seed=1,2"]
    train_command(command)
    changes = [[f"rate.alpha={a}", f"seed={s}"] for a in ("0.01", "0.1") for s in (1, 2)]
    assert [job.changes for job in launched] == changes
    assert [job.folder for job in launched] == [tmp_path / "codes" / n for n in "0123"]
    if launcher is not None:
        return
    # One of them has been trained meanwhile; its settings are found to be the same again.
    done = launched[2].folder
    config = compose_config([*own, "name=codes", "rate.alpha=0.1", "seed=1"])
    RunFolder(done).prepare(config, [], resume=False)
    write_status(done, Status(State.FINISHED, 100_000, 100_000, 1, "elsewhere", 0.0, 0.0, ""))
    launched.clear()
    train_command(command)
    assert [job.folder.name for job in launched] == ["0", "1", "3"]
    with pytest.raises(ConfigError, match=r"another configuration \(rate\.alpha is 0\.1 there"):
        train_command([word.replace("0.01,0.1", "0.01,0.2") for word in command])


@pytest.mark.slow
def test_a_hook_on_evaluations_can_prune(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ambi_rl.training import start as start_module

    seen: list[tuple[int, dict[str, float]]] = []

    def hook(steps: int, found: dict[str, float]) -> None:
        seen.append((steps, found))
        if steps >= 128:
            raise Pruned

    train = start_module.train

    def hooked(*arguments: Any, **options: Any) -> Any:
        return train(*arguments, **options, on_evaluation=hook)

    monkeypatch.setattr(start_module, "train", hooked)
    with pytest.raises(Pruned):
        train_command([*tiny, "name=run", "total_steps=100000"])
    assert state_of(tmp_path / "run") == "pruned"
    progress = load_checkpoint(tmp_path / "run" / "last.pt").progress
    assert [steps for steps, _ in seen] == [0, progress.steps]
    stored = json.loads((tmp_path / "run" / "evaluations.json").read_text())["evaluations"]
    assert [e["bd_rate_vs_fixed"] for e in stored] == [f["bd_rate_vs_fixed"] for _, f in seen]
    assert all(len(e["curve"]["bpp"]) == len(e["curve"]["values"]["ssim"]) == 2 for e in stored)
    assert 0 < stored[0]["seconds"] < stored[1]["seconds"]


def test_status_tells_how_a_run_ended(tmp_path: Path) -> None:
    endings: list[tuple[BaseException | None, State]] = [
        (None, State.FINISHED),
        (KeyboardInterrupt(), State.INTERRUPTED),
        (SystemExit(1), State.INTERRUPTED),
        (Pruned(), State.PRUNED),
        (ConfigError("no such\nthing"), State.FAILED),
    ]
    assert read_status(tmp_path) is None
    for error, state in endings:
        try:
            with Tracker(tmp_path, 70) as tracker:
                tracker.steps = lambda: 7
                inside = read_status(tmp_path)
                assert inside is not None
                assert (inside.state, inside.pid) == (State.RUNNING, os.getpid())
                ensure_idle(tmp_path)
                if error is not None:
                    raise error
        except (KeyboardInterrupt, SystemExit, Pruned, ConfigError):
            pass
        after = read_status(tmp_path)
        assert after is not None
        assert (after.state, after.steps, after.total_steps) == (state, 7, 70)
        if state is State.FAILED:
            assert after.error == "no such thing"
    assert not list(tmp_path.glob("*.part"))


def test_a_folder_that_another_process_trains_in_is_refused(
    tiny: list[str], tmp_path: Path
) -> None:
    folder, now = tmp_path / "run", time.time()
    folder.mkdir()
    status = Status(State.RUNNING, 1, 2, os.getppid(), socket.gethostname(), now, now)
    write_status(folder, status)
    for more in ([], ["resume=true"]):
        (folder / "overrides.json").write_text(json.dumps(tiny))
        with pytest.raises(UsageError, match=r"is being trained by process \d+ on"):
            train_command([*tiny, "name=run", *more])
    assert not (folder / "config.yaml").exists()


def test_status_is_renewed_while_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "HEARTBEAT_SECONDS", 0.01)
    with Tracker(tmp_path, 70) as tracker:
        tracker.steps = lambda: 35
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = read_status(tmp_path)
            if found is not None and found.steps == 35:
                return
            time.sleep(0.01)
    pytest.fail("the status was never renewed")


def test_a_dead_process_is_told_from_a_living_one(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, now = socket.gethostname(), time.time()
    cases = [
        (os.getpid(), here, now, State.RUNNING),
        (gone.pid, here, now, State.KILLED),
        (gone.pid, "elsewhere", now, State.RUNNING),
        (gone.pid, "elsewhere", now - 1000, State.KILLED),
        # Its number belongs to another process by now.
        (os.getpid(), here, now - 1000, State.KILLED),
    ]
    for pid, host, updated, expected in cases:
        write_status(tmp_path, Status(State.RUNNING, 1, 2, pid, host, now, updated))
        found = read_status(tmp_path)
        assert found is not None
        assert found.state == expected, (pid, host, updated)
    (tmp_path / "status.json").write_text('{"state"')
    found = read_status(tmp_path)
    assert found is not None
    assert found.state == State.KILLED


def test_runs_without_a_status_file_are_judged_by_the_others(tmp_path: Path) -> None:
    for name, state in [
        ("config.yaml", State.KILLED),
        ("last.pt", State.INTERRUPTED),
        ("metrics.json", State.FINISHED),
    ]:
        (tmp_path / name).write_text("{}")
        found = read_status(tmp_path)
        assert found is not None
        assert found.state == state
