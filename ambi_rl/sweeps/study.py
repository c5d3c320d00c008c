"""Studies: a search over configurations with Optuna, by any number of processes, taken up where it stopped.

RUNS/STUDY/study.yaml    what is searched
RUNS/STUDY/journal.log   Optuna's storage: appended to under a lock, also over NFS, which SQLite cannot
RUNS/STUDY/lock          held while a worker decides what to do next
RUNS/STUDY/TRIAL/        an ordinary run folder
"""

from __future__ import annotations

import fcntl
import math
import os
import shlex
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from ambi_rl.codec.files import write_file
from ambi_rl.errors import AmbiError, ConfigError
from ambi_rl.sweeps.records import differences, read_json
from ambi_rl.sweeps.space import (
    CHANGEABLE,
    StudyConfig,
    as_override,
    contained,
    distributions,
    load_study,
)
from ambi_rl.training.config import TrainConfig
from ambi_rl.training.display import Display
from ambi_rl.training.run_folder import STUDY_FILE, SWEEP_FILE
from ambi_rl.training.start import train
from ambi_rl.training.status import (
    Pruned,
    State,
    Status,
    has_checkpoint,
    one_line,
    read_status,
    write_status,
)

_JOURNAL = "journal.log"
_LOCK = "lock"
_FAILURES = 3
"""Trials that fail one after the other before a worker gives up."""

Compose = Callable[[list[str]], TrainConfig]
"""Makes a checked configuration from overrides."""


class StudyError(AmbiError):
    """A study cannot go on (exit code 1)."""


@dataclass(frozen=True)
class Place:
    """Where a study is.

    Attributes:
        folder: RUNS/STUDY.
    """

    folder: Path

    @property
    def definition(self) -> Path:
        """What is searched."""
        return self.folder / STUDY_FILE

    def trial(self, number: int) -> Path:
        """The run folder of a trial."""
        return self.folder / str(number)

    def trials(self) -> dict[str, Path]:
        """The run folders that there are, by what to call them."""
        numbers = (p.name for p in self.folder.iterdir() if p.name.isdigit())
        return {f"trial {n}": self.folder / n for n in sorted(numbers, key=int)}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that decides; given up by the system when a process dies."""
        with (self.folder / _LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def begin(place: Place, wanted: StudyConfig | None, changes: list[str]) -> StudyConfig:
    """Make the folder of a study, or see that it is the one to go on with.

    Args:
        place: Of the study.
        wanted: What was asked for; None to go on with whatever is there.
        changes: KEY=VALUE of `CHANGEABLE` parts, which hold for a study that goes on too.

    Returns:
        What is searched.

    Raises:
        ConfigError: There is nothing to go on with, or it is another study.
    """
    for name in ("config.yaml", SWEEP_FILE):
        if (place.folder / name).exists():
            raise ConfigError(
                f"{place.folder} is the folder of a run or sweep; give another name=…"
            )
    if place.definition.exists():
        stored = load_study(place.definition, changes)
        if wanted is not None:
            _ensure_same(place, stored, wanted)
        study = stored
    elif wanted is None:
        raise ConfigError(f"{place.folder} is not the folder of a study; check name or runs")
    else:
        study = wanted
    place.folder.mkdir(parents=True, exist_ok=True)
    write_file(place.definition, OmegaConf.to_yaml(OmegaConf.structured(study)).encode())
    return study


def _ensure_same(place: Place, stored: StudyConfig, wanted: StudyConfig) -> None:
    def plain(study: StudyConfig) -> dict[str, Any]:
        value: Any = OmegaConf.to_container(OmegaConf.structured(study))
        return {key: item for key, item in value.items() if key not in CHANGEABLE}

    different = differences(plain(stored), plain(wanted))
    if different:
        key, (there, here) = next(iter(different.items()))
        raise ConfigError(
            f"{place.folder} holds another study ({key} is {there!r} there and {here!r} here); give "
            f"another name=…, or go on with it: ambi study name={place.folder.name}"
        )


def open_study(place: Place) -> optuna.Study:
    """Optuna's side of a study, made if there is none yet."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(place.folder / _JOURNAL)))
    return optuna.create_study(
        study_name=place.folder.name, storage=storage, direction="minimize", load_if_exists=True
    )


def _sampler(study: StudyConfig, number: int) -> optuna.samplers.BaseSampler:
    """Made anew for every trial, so that neither a restart nor another worker repeats random numbers."""
    # Optuna's generators take 32 bits.
    seed = (study.seed * 1_000_003 + number) % 2**32
    if study.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # The trials that other workers run count too, as bad ones, so that not all try the same.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def _pruner(study: StudyConfig, evaluations: int) -> optuna.pruners.BasePruner:
    pruner = study.pruner
    if pruner.kind == "median":
        return optuna.pruners.MedianPruner(pruner.startup_trials, pruner.warmup)
    if pruner.kind == "hyperband":
        return optuna.pruners.HyperbandPruner(1, max(evaluations, 1))
    return optuna.pruners.NopPruner()


class Worker:
    """Takes trials of a study and trains them, one after the other, until there are enough.

    Args:
        place: Of the study.
        study: What is searched.
        compose: Makes a configuration.
        console: For a line when a trial begins and ends.
        threads: Of the environment; None to leave it to the configuration.
        quiet: Whether training itself writes to log.txt in its folder instead of to the console.
    """

    def __init__(
        self,
        place: Place,
        study: StudyConfig,
        compose: Compose,
        console: Console,
        *,
        threads: int | None = None,
        quiet: bool = False,
    ) -> None:
        self._place = place
        self._study = study
        self._compose = compose
        self._console = console
        self._threads = threads
        self._quiet = quiet
        self._space = distributions(study)
        self._default = compose(self._overrides({}, 0))
        every = self._default.evaluation.every
        self._evaluations = self._default.total_steps // every if every else 1
        with place.locked():
            self._storage = open_study(place)
            if not self._storage.get_trials(deepcopy=False):
                # The configuration as it is comes first: what is found shall be better than that.
                self._storage.enqueue_trial(self._default_values())

    def _default_values(self) -> dict[str, Any]:
        config = OmegaConf.structured(self._default)
        found = {}
        for key, parameter in self._study.space.items():
            try:
                value = OmegaConf.select(config, key)
            except Exception:
                # A key of another agent than the default one.
                continue
            if contained(parameter, value):
                found[key] = value
        return found

    def _overrides(self, values: dict[str, Any], number: int) -> list[str]:
        own = [as_override(key, value) for key, value in values.items()]
        place = [f"name='{number}'", as_override("runs", str(self._place.folder))]
        return [*self._study.overrides, *own, *place]

    def run(self) -> None:
        """Work until the study has its trials.

        Raises:
            StudyError: Several trials failed one after the other.
            KeyboardInterrupt: After a checkpoint; the trial is taken up again by the next worker.
        """
        failures = 0
        while (trial := self._take()) is not None:
            error = self._work(trial)
            failures = failures + 1 if error else 0
            if failures == _FAILURES:
                raise StudyError(
                    f"{failures} trials in a row failed; the last, {trial.number}: {error}"
                )

    def _take(self) -> Trial | None:
        """The next trial, marked as this process's: one whose process died or was stopped, or a new one."""
        with self._place.locked():
            running = self._storage.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            for frozen in running:
                status = read_status(self._place.trial(frozen.number))
                if status is not None and status.state is State.RUNNING:
                    continue
                if status is None or status.state in (State.KILLED, State.INTERRUPTED):
                    return self._claim(Trial(self._storage, frozen._trial_id))
                self._settle(frozen, status)
            trials = self._storage.get_trials(deepcopy=False)
            begun = sum(trial.state is not TrialState.WAITING for trial in trials)
            if begun >= self._study.trials:
                return None
            self._storage.sampler = _sampler(self._study, begun)
            return self._claim(self._storage.ask(self._space))

    def _claim(self, trial: Trial) -> Trial:
        folder = self._place.trial(trial.number)
        folder.mkdir(exist_ok=True)
        now = time.time()
        before = read_status(folder) or Status(State.RUNNING)
        mine = {"state": State.RUNNING, "pid": os.getpid(), "host": socket.gethostname()}
        write_status(folder, Status(**vars(before) | mine | {"started": now, "updated": now}))
        return trial

    def _settle(self, frozen: FrozenTrial, status: Status) -> None:
        """Tell Optuna about a trial that ended when its process had no time left to do so."""
        metrics = read_json(self._place.trial(frozen.number) / "metrics.json") or {}
        objective = metrics.get("objective")
        if status.state is State.PRUNED:
            self._storage.tell(frozen.number, state=TrialState.PRUNED)
        elif status.state is State.FINISHED and objective is not None:
            self._storage.tell(frozen.number, float(objective))
        else:
            self._storage.tell(frozen.number, state=TrialState.FAIL)

    def _work(self, trial: Trial) -> str:
        """Train a trial and tell Optuna; what went wrong, or nothing."""
        folder = self._place.trial(trial.number)
        self._line(f"trial {trial.number}: {' '.join(parameters(trial.params))}")
        try:
            with nullcontext() if not self._quiet else (folder / "log.txt").open("a") as log:
                display = None if log is None else Display(Console(file=log, width=120))
                objective = self._train(trial, folder, display)
        except Pruned:
            self._storage.tell(trial, state=TrialState.PRUNED)
            self._line(f"trial {trial.number}: pruned")
            return ""
        except Exception as error:
            self._storage.tell(trial, state=TrialState.FAIL)
            self._line(f"trial {trial.number}: failed: {one_line(error)}")
            return one_line(error)
        self._storage.tell(trial, objective)
        best = self._storage.best_trial
        self._line(
            f"trial {trial.number}: held-out BD-rate {objective:+.2f} %; "
            f"best {best.value:+.2f} % (trial {best.number})"
        )
        return ""

    def _train(self, trial: Trial, folder: Path, display: Display | None) -> float:
        overrides = self._overrides(trial.params, trial.number)
        config = self._compose(overrides)
        if self._threads is not None and config.env.threads is None:
            config.env.threads = self._threads
        if has_checkpoint(folder):
            config = replace(config, resume="true")
        metrics = train(
            config,
            folder=folder,
            overrides=overrides,
            display=display,
            on_evaluation=self._hook(trial, config),
        )
        objective = float(metrics["objective"])
        if not math.isfinite(objective):
            raise StudyError("no evaluation had a BD-rate: its curve never met that of fixed")
        return objective

    def _hook(self, trial: Trial, config: TrainConfig) -> Callable[[int, dict[str, float]], None]:
        # Optuna compares trials at equal steps, which numbers of decisions are not quite.
        self._storage.pruner = _pruner(self._study, self._evaluations)
        seen = set(self._storage.get_trials(deepcopy=False)[trial.number].intermediate_values)

        def report(steps: int, found: dict[str, float]) -> None:
            every = config.evaluation.every
            index = steps // every if every else int(steps > 0)
            value = found["bd_rate_vs_fixed"]
            if index in seen or not math.isfinite(value):
                return
            seen.add(index)
            trial.report(value, index)
            if steps < config.total_steps and trial.should_prune():
                raise Pruned

        return report

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


def parameters(values: dict[str, Any]) -> list[str]:
    """KEY=VALUE of a trial, short, for people."""
    return [
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    ]


def best_trials(storage: optuna.Study, count: int) -> list[FrozenTrial]:
    """The best complete trials, best first."""
    complete = storage.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda t: math.inf if t.value is None else t.value)[:count]


def states_of(storage: optuna.Study) -> dict[str, int]:
    """How many trials are in which state."""
    names = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "not finished",
    }
    states = [trial.state for trial in storage.get_trials(deepcopy=False)]
    return {name: states.count(state) for state, name in names.items() if state in states}


def repeat_command(place: Place, number: int) -> str:
    """The `ambi train` command that repeats a trial under a name of its own."""
    overrides = read_json(place.trial(number) / "overrides.json") or []
    # The last of several values of a key is the one that counts.
    last = {o.partition("=")[0]: o for o in overrides}
    kept = [o for key, o in last.items() if key not in ("name", "runs")]
    where = [] if place.folder.parent == Path("runs") else [f"runs={place.folder.parent}"]
    return shlex.join(["ambi", "train", *kept, f"name={place.folder.name}-best", *where])
