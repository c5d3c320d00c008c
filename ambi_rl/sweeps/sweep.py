"""Sweeps: one run for each combination of values, by any Hydra launcher, continued where they stopped.

ambi train -m …  →  jobs  →  plan: finished, resume, start  →  launcher  →  SweepRun in each process
"""

from __future__ import annotations

import enum
import importlib.util
import itertools
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ambi_rl.errors import AmbiError, ConfigError, UsageError
from ambi_rl.sweeps.records import differences, read_json, read_run
from ambi_rl.sweeps.watch import Watcher, outcome
from ambi_rl.training.run_folder import SWEEP_FILE, write_json
from ambi_rl.training.status import LOST_SECONDS, State, has_checkpoint, read_status

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext
    from omegaconf import DictConfig

    from ambi_rl.training.run_config import RunConfig

_LAUNCHERS = {
    "basic": None,
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "parallel": "hydra_plugins.hydra_joblib_launcher",
    "ray": "ray",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "local": "hydra_plugins.hydra_submitit_launcher",
    "submitit_slurm": "hydra_plugins.hydra_submitit_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
}
"""What `hydra/launcher` can be, and the module that it needs."""
_RAY_TARGET = "ambi_rl.sweeps.ray_launcher.RayLauncher"


class SweepError(AmbiError):
    """Some runs of a sweep did not finish (exit code 1)."""


class Action(enum.StrEnum):
    """What a sweep does about a run."""

    SKIP = "finished already"
    RESUME = "goes on from its checkpoint"
    START = "starts"
    BUSY = "runs in another process"


def action_for(folder: Path, config: RunConfig) -> Action:
    """What is to be done for a configuration whose run belongs in a folder.

    Raises:
        ConfigError: The folder holds the run of another configuration.
    """
    from omegaconf import OmegaConf

    status = read_status(folder)
    if status is None:
        return Action.START
    found = read_run(folder)
    # By way of YAML, as the folder's own.
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    wanted: Any = OmegaConf.to_container(OmegaConf.create(text))
    different = differences(found.config if found else {}, wanted)
    if different:
        key, (there, here) = next(iter(different.items()))
        raise ConfigError(
            f"{folder} holds a run of another configuration ({key} is {there!r} there and {here!r} here); "
            "give the sweep another name=…, or repeat the command that it was started with"
        )
    if status.state is State.RUNNING:
        return Action.BUSY
    if status.state in (State.FINISHED, State.PRUNED):
        return Action.SKIP
    return Action.RESUME if has_checkpoint(folder) else Action.START


def wait_until_idle(folder: Path) -> None:
    """Wait for a process of another machine that may be dead, as after a job was queued again.

    Raises:
        UsageError: A process trains there.
    """
    from ambi_rl.training.status import ensure_idle

    first = read_status(folder)
    deadline = time.time() + LOST_SECONDS
    while time.time() <= deadline + 1:
        status = read_status(folder)
        is_here = status is not None and status.host == socket.gethostname()
        is_renewed = status is not None and first is not None and status.updated > first.updated
        if status is None or status.state is not State.RUNNING or is_here or is_renewed:
            break
        time.sleep(1)
    ensure_idle(folder)


class SweepRun:
    """The task of one run of a sweep, called by a launcher, perhaps on another machine.

    What is to be done is decided there and then, so that a job that is queued again goes on by itself.

    Args:
        command: The command line, for the record.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)

    def __call__(self, composed: DictConfig) -> float:
        """Train, go on, or do nothing.

        Args:
            composed: By Hydra.

        Returns:
            The objective.

        Raises:
            AmbiError: The run failed; only its message has to travel between machines.
        """
        from hydra.core.hydra_config import HydraConfig

        from ambi_rl.training.config import register, to_config
        from ambi_rl.training.display import Display
        from ambi_rl.training.start import train
        from ambi_rl.training.status import one_line

        register()
        settings = HydraConfig.get()
        folder = Path(settings.runtime.output_dir)
        here = settings.runtime.choices.get("hydra/launcher") == "basic"
        argv, sys.argv = sys.argv, self._command
        try:
            config = to_config(composed)
            wait_until_idle(folder)
            action = action_for(folder, config)
            if action is Action.SKIP:
                return float((read_json(folder / "metrics.json") or {}).get("objective") or "nan")
            config = replace(config, resume="true" if action is Action.RESUME else None)
            folder.mkdir(parents=True, exist_ok=True)
            # Side by side, lines of many runs on one terminal would tell nothing.
            with nullcontext() if here else (folder / "log.txt").open("a") as log:
                display = None if log is None else Display(Console(file=log, width=120))
                overrides = list(settings.overrides.task)
                metrics = train(config, folder=folder, overrides=overrides, display=display)
            return float(metrics["objective"])
        except Exception as error:
            raise AmbiError(one_line(error)) from error
        finally:
            sys.argv = argv


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: All of its overrides.
        changes: Those that are swept over.
        folder: The run folder.
        action: What is to be done.
    """

    overrides: list[str]
    changes: list[str]
    folder: Path
    action: Action

    @property
    def label(self) -> str:
        """For a line."""
        return " ".join([self.folder.name, *self.changes])


def swept_values(parsed: Override) -> list[str]:
    """The overrides that one with several values stands for.

    Raises:
        ConfigError: It has no list of values.
    """
    key = parsed.get_key_element()
    if not parsed.is_discrete_sweep():
        raise ConfigError(
            f"{parsed.input_line} has no list of values; write {key}=A,B,C or {key}=range(1,4)"
        )
    return [f"{key}={value}" for value in parsed.sweep_string_iterator()]


def combinations(overrides: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """Overrides of every run of a sweep: all of them, and those that are swept over.

    Raises:
        ConfigError: A sweep has no list of values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices: dict[str, list[tuple[str, bool]]] = {}
    for parsed in OverridesParser.create().parse_overrides(list(overrides)):
        text = parsed.input_line or ""
        if parsed.is_hydra_override():
            continue
        key = parsed.get_key_element()
        if parsed.is_sweep_override():
            choices[key] = [(value, True) for value in swept_values(parsed)]
        else:
            choices[key] = [(text, False)]
    return [
        ([text for text, _ in choice], [text for text, swept in choice if swept])
        for choice in itertools.product(*choices.values())
    ]


def check_launcher(overrides: Sequence[str]) -> None:
    """Find out before anything is composed whether the launcher can be had.

    Raises:
        ConfigError: There is no such launcher.
        UsageError: What it needs is not installed.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "hydra/launcher":
            if value not in _LAUNCHERS:
                raise ConfigError(
                    f"hydra/launcher is {value!r}; it can be {', '.join(sorted(_LAUNCHERS))}"
                )
            module = _LAUNCHERS[value]
            if module is not None and not _is_installed(module):
                package = module.rpartition(".")[2].replace("_", "-")
                raise UsageError(
                    f"hydra/launcher={value} needs {package}, which is not installed: "
                    'pip install "ambi-rl[cluster]"'
                )
        elif key.lstrip("+~").startswith("hydra/sweeper") or key.startswith("hydra.sweeper"):
            raise ConfigError(
                f"{override}: sweeps are ambi's own, so that they can go on; "
                "list the values, key=A,B,C, or use `ambi study` to search"
            )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def run_sweep(overrides: Sequence[str], *, package: str, config_name: str, version: str) -> None:
    """Run, or go on with, every combination.

    Args:
        overrides: Of the command line, checked.
        package: Of the configuration.
        config_name: Primary configuration.
        version: Hydra's version base.

    Raises:
        ConfigError: A folder belongs to something else; nothing was started.
        SweepError: Some runs did not finish.
        KeyboardInterrupt: After the runs of this machine were stopped.
    """
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    from ambi_rl.training.config import register

    register()
    console = Console(stderr=True)
    with initialize_config_module(package, job_name="train", version_base=version):
        hydra = GlobalHydra.instance().hydra
        if hydra is None:
            raise RuntimeError("Hydra is not initialized")
        config = hydra.compose_config(config_name, list(overrides), RunMode.MULTIRUN)
        context = _context(hydra, config)
        jobs = plan(context, config, overrides)
        open_jobs = [job for job in jobs if job.action in (Action.RESUME, Action.START)]
        for job in jobs:
            if job.action is not Action.START:
                console.print(f"{job.label}: {job.action}", highlight=False, markup=False)
        launcher = _launcher(context, config)
        _note(jobs, overrides)
        trouble = ""
        if open_jobs:
            trouble = _launch(launcher, open_jobs, console, basic=_is_basic(config))
    _report(jobs, trouble, console)


def _context(hydra: Any, config: DictConfig) -> HydraContext:
    from hydra._internal.callbacks import Callbacks
    from hydra.types import HydraContext

    return HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))


def _is_basic(config: DictConfig) -> bool:
    return bool(config.hydra.runtime.choices.get("hydra/launcher") == "basic")


def _launcher(context: HydraContext, config: DictConfig) -> Launcher:
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    task = SweepRun(sys.argv)
    if config.hydra.launcher.get("_target_") == _RAY_TARGET:
        # Hydra takes plugins only from the package hydra_plugins; ours is not to be installed there.
        from ambi_rl.sweeps.ray_launcher import RayLauncher

        options = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        if not isinstance(options, dict):
            raise ConfigError("hydra.launcher must be a mapping")
        options.pop("_target_")
        launcher: Launcher = RayLauncher(**{str(key): value for key, value in options.items()})
        launcher.setup(hydra_context=context, task_function=task, config=config)
        return launcher
    return Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=task, config=config
    )


def plan(context: HydraContext, config: DictConfig, overrides: Sequence[str]) -> list[Job]:
    """Where every run of a sweep belongs and what is to be done about it.

    Raises:
        ConfigError: A folder belongs to something else.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from ambi_rl.training.config import to_config

    jobs = []
    for number, (own, changes) in enumerate(combinations(overrides)):
        composed = context.config_loader.load_sweep_config(config, own)
        with open_dict(composed):
            composed.hydra.job.num = number
            composed.hydra.job.id = str(number)
        HydraConfig.instance().set_config(composed)
        parent = Path(str(OmegaConf.select(composed, "hydra.sweep.dir")))
        subdir = str(OmegaConf.select(composed, "hydra.sweep.subdir"))
        if (parent / "config.yaml").exists():
            raise ConfigError(f"{parent} is the folder of a single run; give another name=…")
        with open_dict(composed):
            del composed["hydra"]
        folder = parent / subdir
        action = action_for(folder, to_config(composed))
        # The number among all runs, whichever of them are launched.
        own = [*own, f"hydra.sweep.subdir='{subdir}'"]
        jobs.append(Job(own, changes, folder, action))
    twice = {job.folder for job in jobs if [j.folder for j in jobs].count(job.folder) > 1}
    if twice:
        raise ConfigError(
            f"several runs would be written to {min(twice)}; check hydra.sweep.subdir"
        )
    return jobs


def _note(jobs: Sequence[Job], overrides: Sequence[str]) -> None:
    """Write down what the sweep consists of, for `resume` and `ambi runs`."""
    for parent in {job.folder.parent for job in jobs}:
        parent.mkdir(parents=True, exist_ok=True)
        runs = {job.folder.name: job.changes for job in jobs if job.folder.parent == parent}
        what = [o for o in overrides if o.partition("=")[0] not in ("name", "runs")]
        content = {"overrides": what, "runs": runs}
        if read_json(parent / SWEEP_FILE) != content:
            write_json(parent / SWEEP_FILE, content)


def _launch(launcher: Launcher, jobs: Sequence[Job], console: Console, *, basic: bool) -> str:
    """Run jobs; what went wrong with the launcher itself, or nothing."""
    folders = {job.label: job.folder for job in jobs}
    watcher = nullcontext() if basic else Watcher(console, lambda: folders)
    trouble = ""
    try:
        with watcher:
            try:
                results: Sequence[JobReturn] = launcher.launch([j.overrides for j in jobs], 0)
                trouble = "; ".join(_errors(results))
            except Exception as error:
                trouble = " ".join(str(error).split())[:300] or type(error).__name__
                # One lost job makes some launchers give up waiting for the others.
                while any(_is_running(job.folder) for job in jobs):
                    time.sleep(1)
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on with the sweep", highlight=False)
        raise
    return trouble


def _errors(results: Sequence[JobReturn]) -> list[str]:
    from hydra.core.utils import JobStatus

    found = [str(r._return_value) for r in results if r.status is JobStatus.FAILED]
    return list(dict.fromkeys(found))


def _is_running(folder: Path) -> bool:
    status = read_status(folder)
    return status is not None and status.state is State.RUNNING


def _report(jobs: Sequence[Job], trouble: str, console: Console) -> None:
    """Say how every run is.

    Raises:
        SweepError: Not all are finished.
    """
    unfinished = []
    for job in jobs:
        run = read_run(job.folder)
        text = "not started" if run is None else outcome(run)
        console.print(f"{job.label}: {text}", highlight=False, soft_wrap=True, markup=False)
        if run is None or run.status.state is not State.FINISHED:
            unfinished.append((job, run))
    if not unfinished:
        return
    names = []
    for job, run in unfinished:
        state = "not started" if run is None else str(run.status.state)
        names.append(f"{job.folder} ({state})")
    error = next((run.status.error for _, run in unfinished if run and run.status.error), trouble)
    raise SweepError(
        f"{len(unfinished)} of {len(jobs)} runs did not finish: {', '.join(names)}"
        f"{': ' if error else ''}{error}; the same command goes on with them"
    )
