"""Table and plot of a sweep over the weight of the rate: what each weight does to bits and quality.

    ambi train -m experiment=rates reward.rate=0.5,1,2,4 seed=1,2,3
    python scripts/sweep_rates.py runs/rates --plot docs/images/rates.png

For every weight and quality: bits per pixel and PSNR on held-out photographs at the end of each run, mean and
range over seeds. It ends with an error if, for any seed and quality, bits do not fall as the weight rises.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.sweeps.records import find_runs


class Point(NamedTuple):
    """One run at one quality."""

    bpp: float
    psnr: float


Points = dict[float, dict[int, list[Point]]]
"""By weight and seed, the points of the curve, from the lowest quality."""


def read(folder: Path) -> tuple[Points, list[float]]:
    """The last curve of every run of a sweep, and the qualities of their points."""
    found: Points = defaultdict(dict)
    qualities: list[float] = []
    for run in find_runs(folder):
        if not run.evaluations:
            raise UsageError(f"{run.path} has no evaluation; let the sweep finish")
        curve = run.evaluations[-1]["curve"]
        points = [Point(*pair) for pair in zip(curve["bpp"], curve["values"]["psnr"], strict=True)]
        found[float(run.config["reward"]["rate"])][int(run.config["seed"])] = points
        qualities = sorted(run.config["evaluation"]["qualities"])
    if len(found) < 2:
        raise UsageError(f"{folder} has runs of {len(found)} weight(s) of the rate; sweep over two")
    return dict(sorted(found.items())), qualities


def table(found: Points, qualities: list[float]) -> str:
    """Mean and half the range over seeds, as Markdown."""
    lines = [
        "| reward.rate | " + " | ".join(f"quality {q:g}: bpp, dB" for q in qualities) + " |",
        "|---" * (1 + len(qualities)) + "|",
    ]
    for weight, runs in found.items():
        values = np.array(list(runs.values()))
        mean, spread = values.mean(axis=0), np.ptp(values, axis=0) / 2
        cells = [
            f"{m[0]:.3f} ± {s[0]:.3f}, {m[1]:.2f} ± {s[1]:.2f}"
            for m, s in zip(mean, spread, strict=True)
        ]
        lines.append(f"| {weight:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def exceptions(found: Points, qualities: list[float]) -> list[str]:
    """Where bits do not fall as the weight rises."""
    wrong = []
    weights = list(found)
    for low, high in itertools.pairwise(weights):
        for seed in sorted(set(found[low]) & set(found[high])):
            for k, quality in enumerate(qualities):
                if found[high][seed][k].bpp >= found[low][seed][k].bpp:
                    wrong.append(f"seed {seed}, quality {quality:g}: {low:g} to {high:g}")
    return wrong


def plot(found: Points, qualities: list[float], target: Path) -> None:
    """A curve over the weights for each quality and seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    seeds = sorted({seed for runs in found.values() for seed in runs})
    for k, quality in enumerate(qualities):
        for seed in seeds:
            runs = [(weight, runs[seed][k]) for weight, runs in found.items() if seed in runs]
            label = f"quality {quality:g}" if seed == seeds[0] else None
            axes.plot(
                [p.bpp for _, p in runs],
                [p.psnr for _, p in runs],
                marker="o",
                color=f"C{k}",
                alpha=0.7,
                label=label,
            )
            if seed == seeds[0]:
                for weight, point in runs:
                    axes.annotate(f"{weight:g}", point, textcoords="offset points", xytext=(6, -10))
    axes.set_xlabel("bits per pixel")
    axes.set_ylabel("PSNR [dB]")
    axes.set_title(f"reward.rate {', '.join(f'{w:g}' for w in found)}, {len(seeds)} seeds")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the sweep")
    parser.add_argument("--plot", type=Path, help="write a picture here")
    arguments = parser.parse_args()
    found, qualities = read(arguments.folder)
    print(table(found, qualities))
    if arguments.plot is not None:
        plot(found, qualities, arguments.plot)
    wrong = exceptions(found, qualities)
    if wrong:
        raise AmbiError(f"bits do not fall as the weight rises: {'; '.join(wrong)}")
    print("\nbits fall as the weight rises, for every seed and quality")


if __name__ == "__main__":
    try:
        main()
    except AmbiError as error:
        print(f"sweep_rates: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
