"""`ambi runs`: lists, compares and plots runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ambi_rl.errors import UsageError
from ambi_rl.sweeps.records import RunRecord, find_runs, flatten, planned_runs, read_run
from ambi_rl.training.run_folder import SWEEP_FILE
from ambi_rl.training.status import State

_STYLES = {
    State.FINISHED: "green",
    State.RUNNING: "cyan",
    State.FAILED: "red",
    State.KILLED: "red",
    State.INTERRUPTED: "yellow",
    State.PRUNED: "dim",
}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}"


def facts(run: RunRecord) -> dict[str, Any]:
    """What is listed of a run; JSON types only."""
    return {
        "run": str(run.path),
        "status": str(run.status.state),
        "error": run.status.error,
        "steps": run.steps,
        "total_steps": run.config.get("total_steps"),
        "seconds": run.seconds,
        "agent": run.agent,
        "reward": run.reward,
        "metric": run.metric,
        "best_bd_rate": run.best,
        "last_bd_rate": run.last,
        "changes": run.changes,
        "group": None if run.group is None else str(run.group),
    }


def list_command(folder: Path, *, as_json: bool) -> None:
    """Print every run in a folder and below.

    Raises:
        UsageError: There is no such folder.
    """
    runs = list(find_runs(folder))
    if as_json:
        typer.echo(json.dumps([facts(run) for run in runs], indent=2))
        return
    if not runs:
        typer.echo(f"no runs in {folder}; start one: ambi train experiment=demo")
        return
    header = ["run", "status", "steps", "seconds", "agent", "reward", "best %", "last %", "what"]
    rows = [_row(run, folder) for run in runs]
    _print_table(header, rows, [_STYLES[run.status.state] for run in runs])
    for group in dict.fromkeys(run.group for run in runs if run.group is not None):
        typer.echo(_group_line(group, [run for run in runs if run.group == group]))
    typer.echo(f"{len(runs)} runs: {_counts(runs)}; BD-rates on held-out photographs against fixed")


def _counts(runs: list[RunRecord]) -> str:
    states = [str(run.status.state) for run in runs]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _group_line(group: Path, runs: list[RunRecord]) -> str:
    """A sweep or study in a line: how far it is, and its best run."""
    kind = "sweep" if (group / SWEEP_FILE).is_file() else "study"
    left = planned_runs(group) - len(runs)
    line = f"{kind} {group}: {_counts(runs)}{f', {left} not started' if left > 0 else ''}"
    known = [run for run in runs if run.best is not None]
    if not known:
        return line
    best = min(known, key=lambda run: run.best or 0.0)
    return f"{line}; best {_percent(best.best)} %: {' '.join([best.path.name, *best.changes])}"


def _row(run: RunRecord, folder: Path) -> list[str]:
    path = run.path.relative_to(folder) if run.path != folder else run.path
    total = run.config.get("total_steps")
    return [
        str(path),
        str(run.status.state),
        f"{run.steps:,}" if not total or run.steps >= total else f"{run.steps:,}/{total:,}",
        _duration(run.seconds),
        run.agent,
        run.reward,
        _percent(run.best),
        _percent(run.last),
        run.status.error or " ".join(run.changes),
    ]


def _print_table(header: list[str], rows: list[list[str]], styles: list[str]) -> None:
    """A table on a terminal, aligned text in a pipe."""
    console = Console()
    if console.is_terminal:
        table = Table(*header)
        for row, style in zip(rows, styles, strict=True):
            table.add_row(*row, style=style or None)
        console.print(table)
        return
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _chosen(paths: list[Path]) -> list[RunRecord]:
    """The runs that folders stand for; those of a sweep if it is one."""
    runs = []
    for path in paths:
        found = read_run(path)
        below = [found] if found is not None else list(find_runs(path))
        if not below:
            raise UsageError(f"{path} is not the folder of a run or of a sweep")
        runs += below
    return list({run.path.resolve(): run for run in runs}.values())


def _names(runs: list[RunRecord]) -> list[str]:
    """Short names: paths without the folders that all share, and what was varied."""
    parts = [run.path.parts for run in runs]
    shared = 0
    while len(runs) > 1 and len({p[: shared + 1] for p in parts}) == 1:
        shared += 1
    return [
        " ".join([str(Path(*p[min(shared, len(p) - 1) :])), *run.changes])
        for p, run in zip(parts, runs, strict=True)
    ]


def compare_command(paths: list[Path], *, as_json: bool) -> None:
    """Print where the configurations of runs differ, and their metrics, side by side.

    Raises:
        UsageError: A folder has no run, or there is nothing to compare.
    """
    runs = _chosen(paths)
    if len(runs) < 2:
        raise UsageError("name two runs or more, or a sweep")
    configs = [flatten(run.config) for run in runs]
    keys = [k for k in dict.fromkeys(k for c in configs for k in c) if k not in ("name", "runs")]
    different = {k: [c.get(k) for c in configs] for k in keys}
    different = {k: v for k, v in different.items() if any(item != v[0] for item in v)}
    metrics = _metrics(runs)
    if as_json:
        names = [str(run.path) for run in runs]
        typer.echo(json.dumps({"runs": names, "config": different, "metrics": metrics}, indent=2))
        return
    header = ["", *(str(run.path) for run in runs)]
    rows = [[key, *map(_cell, values)] for key, values in [*different.items(), *metrics.items()]]
    _print_table(header, rows, [""] * len(rows))


def _metrics(runs: list[RunRecord]) -> dict[str, list[Any]]:
    last = [run.evaluations[-1] if run.evaluations else run.metrics for run in runs]
    played = {
        "score on reconstructions": [run.played.get("score") for run in runs],
        "bits of a frame": [run.played.get("bits_per_frame") for run in runs],
    }
    enlarged = {
        f"held-out {label}": [run.enlarged.get(key) for run in runs]
        for key, label in (("psnr", "PSNR [dB]"), ("ms_ssim", "MS-SSIM"), ("score", "score"))
    }
    return {
        "status": [str(run.status.state) for run in runs],
        "steps": [run.steps for run in runs],
        "seconds": [run.seconds for run in runs],
        "metric": [run.metric for run in runs],
        "best BD-rate vs fixed [%]": [run.best for run in runs],
        "last BD-rate vs fixed [%]": [run.last for run in runs],
        "last BD-rate vs search [%]": [record.get("bd_rate_vs_search") for record in last],
        **(played if any(run.system == "features" for run in runs) else {}),
        **(enlarged if any(run.system == "superres" for run in runs) else {}),
    }


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) >= 1 or not math.isfinite(value) else f"{value:.4g}"
    return str(value)


def plot_command(
    paths: list[Path], target: Path, metric: str | None, over: str | None = None
) -> None:
    """Draw rate-distortion and learning curves of runs.

    Args:
        paths: Of runs or sweeps.
        target: Picture or page to write.
        metric: psnr, ssim or ms_ssim; None for the first run's objective.
        over: Key that runs of one line differ in; None for a line for each run.

    Raises:
        UsageError: A folder has no run, none is of the block codec, or the file cannot be written.
    """
    from ambi_rl.sweeps.averages import average
    from ambi_rl.sweeps.plot import plot_runs

    found = _chosen(paths)
    runs = [run for run in found if run.system == "block"]
    if not runs:
        raise UsageError(
            "only runs of the block codec have BD-rates to plot; see the others with tensorboard --logdir, "
            "or with ambi runs compare"
        )
    chosen = metric or next((run.metric for run in runs if run.metric), "psnr")
    names = _names(runs)
    lines = list(zip(runs, names, strict=True)) if over is None else average(runs, names, over)
    plot_runs([run for run, _ in lines], [name for _, name in lines], target, chosen)
    left_out = len(found) - len(runs)
    note = f"; {left_out} of other systems left out, which have no BD-rates" if left_out else ""
    typer.echo(f"{target}: {len(runs)} runs{note}")
