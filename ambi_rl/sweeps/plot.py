"""Plots of runs: rate-distortion curves on held-out photographs, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ambi_rl.bench.figures import LABELS, check_figure, write_figure
from ambi_rl.errors import UsageError
from ambi_rl.sweeps.records import OBJECTIVE, RunRecord, read_json
from ambi_rl.training.evaluation import best_evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_runs(runs: Sequence[RunRecord], names: Sequence[str], target: Path, metric: str) -> None:
    """Draw runs into one picture.

    Args:
        runs: To be compared.
        names: Of the runs, for the legend.
        target: .png, .svg, .pdf or .html.
        metric: Of the rate-distortion curves: psnr, ssim or ms_ssim.

    Raises:
        UsageError: The file cannot be written, or no run has been evaluated yet.
    """
    check_figure(target)
    known = [(r, n) for r, n in zip(runs, names, strict=True) if r.evaluations]
    if not known:
        raise UsageError("none of these runs has an evaluation with a curve yet")
    title = ", ".join(name for _, name in known)
    write_figure(draw(known, metric), target, title)


def draw(runs: Sequence[tuple[RunRecord, str]], metric: str) -> Figure:
    """The picture: rate-distortion on the left, objective over steps and over time on the right.

    Args:
        runs: Evaluated ones, with their names.
        metric: Of the rate-distortion curves.
    """
    from matplotlib.figure import Figure

    # Without pyplot there is no global state and no window.
    figure = Figure(figsize=(15, 5), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_curves(left, runs, metric)
    for axes, key, scale, label in (
        (middle, "steps", 1.0, "node decisions"),
        (right, "seconds", 60.0, "minutes"),
    ):
        for run, name in runs:
            points = [e for e in run.evaluations if _is_number(e.get(OBJECTIVE)) and key in e]
            x = [e[key] / scale for e in points]
            axes.plot(x, [e[OBJECTIVE] for e in points], marker=".", label=name)
            if all("low" in e for e in points):
                low, high = ([e[end] for e in points] for end in ("low", "high"))
                axes.fill_between(x, low, high, alpha=0.15)
        axes.set_xlabel(label)
        axes.set_ylabel("held-out BD-rate against fixed [%]")
        axes.grid(alpha=0.3)
    middle.legend(fontsize="small")
    return figure


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _draw_curves(axes: Axes, runs: Sequence[tuple[RunRecord, str]], metric: str) -> None:
    drawn = []
    for run, name in runs:
        evaluation = best_evaluation(run.evaluations) or run.evaluations[-1]
        curve = evaluation.get("curve")
        if curve:
            axes.plot(curve["bpp"], curve["values"][metric], marker="o", label=name)
        baselines = read_json(run.path / "baselines.json") or {}
        for kind, style in (("fixed", ":"), ("search", "--")):
            # Runs of the same bundle and photographs share their baselines.
            if kind in baselines and baselines[kind] not in drawn:
                drawn.append(baselines[kind])
                shared = baselines[kind]
                axes.plot(shared["bpp"], shared["values"][metric], style, color="gray", label=kind)
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel(LABELS[metric])
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
