"""`ambi study`: searches configurations with one or several worker processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from ambi_rl.cli.train import check_overrides, compose_config
from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.sweeps.space import CHANGEABLE, StudyConfig, extremes, load_study, study_file
from ambi_rl.sweeps.study import (
    Place,
    StudyError,
    Worker,
    begin,
    best_trials,
    open_study,
    parameters,
    repeat_command,
    states_of,
)
from ambi_rl.sweeps.watch import Watcher

if TYPE_CHECKING:
    import optuna

    from ambi_rl.training.config import TrainConfig

_PREFIX = "study."
_STOP_SECONDS = 60.0
"""That workers have to save their checkpoints after an interruption."""


def _sorted_out(words: list[str]) -> tuple[Place, StudyConfig | None, list[str]]:
    """What the words of a command line mean: where, which study if any is named, and changes to one.

    Raises:
        UsageError: Several studies are named.
        ConfigError: A key or value is wrong.
    """
    files = [word for word in words if "=" not in word]
    changes = [w.removeprefix(_PREFIX) for w in words if "=" in w and w.startswith(_PREFIX)]
    rest = [word for word in words if "=" in word and not word.startswith(_PREFIX)]
    where = {w.partition("=")[0]: w.partition("=")[2] for w in rest}
    overrides = [w for w in rest if w.partition("=")[0] not in ("name", "runs")]
    for word in words:
        if word.startswith("-"):
            raise UsageError(f"there is no option {word}; see ambi study --help")
    if len(files) > 1:
        raise UsageError(f"{files[0]} and {files[1]} are two studies; name one")
    name = where.get("name") or f"study-{datetime.now():%Y%m%d-%H%M%S}"
    place = Place(Path(where.get("runs", "runs")) / name)
    later = [c for c in changes if c.partition("=")[0].partition(".")[0] in CHANGEABLE]
    goes_on = place.definition.exists() and not files and not overrides and later == changes
    if goes_on:
        return place, None, later
    study = load_study(study_file(files[0] if files else "default"), changes, overrides)
    # Every value of every parameter must make a configuration, before hours are spent on the others.
    check_overrides([*study.overrides, *extremes(study), "name=check"], multirun=True)
    return place, study, later


def study_command(words: list[str], *, jobs: int, is_worker: bool, threads: int | None) -> None:
    """Search, or go on with a search.

    Args:
        words: A study, KEY=VALUE.
        jobs: Processes that train side by side.
        is_worker: Whether another `ambi study` started this one.
        threads: Of each environment; None for the configuration's.

    Raises:
        ConfigError: A key or value is wrong, or the folder belongs to something else.
        StudyError: Too many trials failed, or a worker died.
        KeyboardInterrupt: After checkpoints were saved.
    """
    place, wanted, changes = _sorted_out(words)
    console = Console(stderr=True)
    if is_worker:
        _follow_parent()
        study = load_study(place.definition)
        Worker(place, study, _compose_block, console, threads=threads, quiet=True).run()
        return
    study = begin(place, wanted, changes)
    go_on = f"ambi study name={place.folder.name}"
    if place.folder.parent != Path("runs"):
        go_on += f" runs={place.folder.parent}"
    console.print(f"study in {place.folder}; to go on with it: {go_on}", highlight=False)
    try:
        if jobs == 1:
            Worker(place, study, _compose_block, console, threads=threads).run()
        else:
            _side_by_side(place, jobs, threads, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; go on with: {go_on}", highlight=False)
        raise
    finally:
        _show(place, open_study(place))


def _compose_block(overrides: list[str]) -> TrainConfig:
    """A configuration of the block codec, whose BD-rates trials are judged by.

    Raises:
        ConfigError: It is of another system, or wrong.
    """
    from ambi_rl.training.config import TrainConfig

    config = compose_config(overrides)
    if not isinstance(config, TrainConfig):
        raise ConfigError(
            f"a study compares BD-rates, which the system {config.system} does not have; vary its settings "
            "with ambi train -m"
        )
    return config


def _follow_parent() -> None:
    """Stop, as after Ctrl-C, when the process that started this one is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _side_by_side(place: Place, jobs: int, threads: int | None, console: Console) -> None:
    """Run worker processes until all have ended.

    Raises:
        StudyError: One of them failed.
        KeyboardInterrupt: After all were interrupted too.
    """
    each = threads or max(1, (os.cpu_count() or 1) // jobs)
    command = [sys.executable, "-m", "ambi_rl.cli", "study", f"name={place.folder.name}"]
    command += [f"runs={place.folder.parent}", "--worker", "--threads", str(each)]
    workers: list[tuple[Path, subprocess.Popen[bytes]]] = []
    with Watcher(console, place.trials):
        try:
            for number in range(jobs):
                log = place.folder / f"worker-{number}.log"
                with log.open("ab") as file:
                    # A session of its own: Ctrl-C reaches it once, from here.
                    worker = subprocess.Popen(
                        command, stdout=file, stderr=file, start_new_session=True
                    )
                workers.append((log, worker))
            for _, worker in workers:
                worker.wait()
        except BaseException:
            _stop([worker for _, worker in workers])
            raise
    for log, worker in workers:
        if worker.returncode:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise StudyError(f"a worker ended with {worker.returncode}: {lines[-1]}; see {log}")


def _stop(workers: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    for worker in workers:
        worker.send_signal(signal.SIGINT)
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(deadline - time.monotonic(), 0.1))
        if worker.poll() is None:
            worker.kill()
            worker.wait()


def _show(place: Place, storage: optuna.Study) -> None:
    """Print the best trials, and how to have the best one again."""
    counts = ", ".join(f"{count} {state}" for state, count in states_of(storage).items())
    typer.echo(f"trials: {counts or 'none'}")
    best = best_trials(storage, 10)
    if not best:
        return
    rows = [
        [str(t.number), f"{t.value:+.2f} %", *parameters(t.params)]
        for t in best
        if t.value is not None
    ]
    console = Console()
    if console.is_terminal:
        table = Table("trial", "held-out BD-rate", "values")
        for number, value, *values in rows:
            table.add_row(number, value, " ".join(values))
        console.print(table)
    else:
        for number, value, *values in rows:
            typer.echo(f"{number:>5} {value:>10}  {' '.join(values)}")
    typer.echo(f"the best again: {repeat_command(place, best[0].number)}")
    typer.echo(f"the best as a bundle: ambi export {place.trial(best[0].number)} -o best.ambic")
