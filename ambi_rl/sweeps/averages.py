"""Runs that differ in one key only, usually the seed, as one: means of their evaluations, and the range."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ambi_rl.errors import UsageError
from ambi_rl.sweeps.records import OBJECTIVE, WHERE_KEYS, RunRecord, flatten


def average(
    runs: Sequence[RunRecord], names: Sequence[str], over: str
) -> list[tuple[RunRecord, str]]:
    """One record for all runs that are alike but for a key.

    Its evaluations are those that all of its runs have at the same steps: means of the objective, of seconds
    and of curves; `low` and `high` are the least and the greatest objective.

    Args:
        runs: Evaluated or not; those without evaluations are left out.
        names: Of the runs.
        over: The dotted key.

    Raises:
        UsageError: No run has the key.
    """
    if not any(over in flatten(run.config) for run in runs):
        raise UsageError(f"--over: no run has the key {over!r}; usually it is seed")
    groups: dict[str, list[tuple[RunRecord, str]]] = {}
    for run, name in zip(runs, names, strict=True):
        if run.evaluations:
            flat = flatten(run.config)
            same = {key: flat[key] for key in sorted(flat) if key not in (*WHERE_KEYS, over)}
            groups.setdefault(json.dumps(same, default=str), []).append((run, name))
    return [_merge(group, over) for group in groups.values()]


def _merge(group: list[tuple[RunRecord, str]], over: str) -> tuple[RunRecord, str]:
    first, name = group[0]
    changes = [change for change in first.changes if change.partition("=")[0] != over]
    columns = zip(*(run.evaluations for run, _ in group), strict=False)
    evaluations = [_mean(list(column)) for column in columns]
    label = " ".join(changes) or name
    return replace(first, evaluations=evaluations), f"{label} ({len(group)} runs)"


def _mean(evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of one evaluation of each run."""
    steps = {float(evaluation["steps"]) for evaluation in evaluations}
    if len(steps) > 1:
        raise UsageError(f"--over: runs were evaluated at different steps, {sorted(steps)}")
    mean: dict[str, Any] = {"steps": steps.pop()}
    values = [e[OBJECTIVE] for e in evaluations if e.get(OBJECTIVE) is not None]
    if len(values) == len(evaluations):
        mean |= {OBJECTIVE: float(np.mean(values)), "low": min(values), "high": max(values)}
    if all("seconds" in evaluation for evaluation in evaluations):
        mean["seconds"] = float(np.mean([evaluation["seconds"] for evaluation in evaluations]))
    curves = [evaluation["curve"] for evaluation in evaluations if evaluation.get("curve")]
    if len(curves) == len(evaluations):
        mean["curve"] = {
            "bpp": np.mean([curve["bpp"] for curve in curves], axis=0).tolist(),
            "values": {
                metric: np.mean([curve["values"][metric] for curve in curves], axis=0).tolist()
                for metric in curves[0]["values"]
            },
        }
    return mean
