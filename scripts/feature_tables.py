"""Tables of docs/extremely-lossy.md from runs of the feature codec: rate, score and errors by setting.

    python scripts/feature_tables.py runs/alpha --by rate.alpha
    python scripts/feature_tables.py runs/decoders --by decoder.pixel --by decoder.motion --by decoder.latent

Runs that differ in nothing but their seed are one row: means, and in brackets the least and the greatest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ambi_rl.cli.guard import run_script
from ambi_rl.errors import UsageError
from ambi_rl.sweeps.records import RunRecord, find_runs, flatten

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        head: Its heading.
        value: The number of a run's metrics; None where there is none.
        digits: After the point.
    """

    head: str
    value: Callable[[Metrics], float | None]
    digits: int = 2


def _objects(key: str, scale: float = 1.0) -> Callable[[Metrics], float | None]:
    def value(metrics: Metrics) -> float | None:
        found = (metrics["test"].get("objects") or {}).get(key)
        return None if found is None else scale * found

    return value


COLUMNS = {
    column.head: column
    for column in (
        Column("α at the end", lambda m: m["alpha"], 4),
        Column("bits/latent", lambda m: m["test"]["table_bits_per_latent"], 3),
        Column("entropy", lambda m: m["test"]["entropy_per_latent"], 3),
        Column("Normal", lambda m: m["test"]["normal_bits_per_latent"], 3),
        Column(
            "Normal/entropy",
            lambda m: m["test"]["normal_bits_per_latent"] / m["test"]["entropy_per_latent"],
        ),
        Column("factorized", lambda m: m["test"]["factorized_bits_per_latent"], 3),
        Column(
            "factorized/entropy",
            lambda m: m["test"]["factorized_bits_per_latent"] / m["test"]["entropy_per_latent"],
            3,
        ),
        Column("bits/frame, test", lambda m: m["test"]["bits_per_frame"], 1),
        Column("bits/frame, play", lambda m: m["play"]["features"]["bits_per_frame"], 1),
        Column("score", lambda m: m["play"]["original"]["score"], 1),
        Column("score on reconstructions", lambda m: m["play"]["features"]["score"], 1),
        Column("MSE", lambda m: m["test"]["mse"], 1),
        Column("MSE, summed", lambda m: m["test"]["squared_error_per_frame"], 0),
        Column("ball found %", _objects("ball_hit", 100), 1),
        Column("ball error px", _objects("ball_error_median"), 2),
        Column("paddle error px", _objects("paddle_error_mean"), 2),
    )
}
"""By their headings."""


def _cell(values: list[float | None], digits: int) -> str:
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return "–"
    text = f"{np.mean(known):.{digits}f}"
    if len(known) > 1:
        text += f" ({min(known):.{digits}f}…{max(known):.{digits}f})"
    return text


def _by(run: RunRecord, keys: list[str]) -> tuple[str, ...]:
    flat = flatten(run.config)
    missing = [key for key in keys if key not in flat]
    if missing:
        raise UsageError(f"{run.path} has no key {missing[0]}; see its config.yaml")
    return tuple(str(flat[key]) for key in keys)


def table(runs: list[RunRecord], keys: list[str], columns: list[str]) -> str:
    """The Markdown table of finished runs, a row for each combination of the keys' values."""
    groups: dict[tuple[str, ...], list[Metrics]] = {}
    for run in runs:
        groups.setdefault(_by(run, keys), []).append(run.metrics)
    lines = [[*keys, "runs", *columns], ["---"] * (len(keys) + 1 + len(columns))]
    for values, found in sorted(groups.items(), key=lambda item: [_number(v) for v in item[0]]):
        cells = [
            _cell([COLUMNS[name].value(metrics) for metrics in found], COLUMNS[name].digits)
            for name in columns
        ]
        lines.append([*values, str(len(found)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return float("inf"), text


def main(
    folders: Annotated[list[Path], typer.Argument(help="Folders of runs or sweeps.")],
    by: Annotated[list[str], typer.Option(help="Key that rows differ in; may be repeated.")],
    column: Annotated[
        list[str] | None, typer.Option(help=f"Some of: {', '.join(COLUMNS)}; all if none is named.")
    ] = None,
) -> None:
    """Print the table."""
    unknown = sorted(set(column or ()) - set(COLUMNS))
    if unknown:
        raise UsageError(f"there is no column {unknown[0]!r}; take some of {', '.join(COLUMNS)}")
    runs = [
        run
        for folder in folders
        for run in find_runs(folder)
        if run.system == "features" and run.metrics
    ]
    if not runs:
        raise UsageError(f"there is no finished run of a feature codec in {folders[0]}")
    print(table(runs, by, column or list(COLUMNS)))


if __name__ == "__main__":
    run_script(main, "feature_tables")
