"""Prints what looking ahead gains over greedy exhaustive search on held-out photographs, with its certainty.

    python scripts/beyond_greedy.py PHOTOS
    python scripts/beyond_greedy.py PHOTOS --effort 5 --crop 256 --save points.jsonl

Photographs are those that training holds out of the same folder (`split_held_out`), cut to their centre.
Every row is compared with the greedy search at the factor of λ that suits *it* best, so that a mistuned λ
of the baseline is not taken for a gain of looking ahead. Sizes are of whole files, pictures are what a
decoder shows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image

from ambi_rl.bench.codecs import AmbiCodec, ambi_codec
from ambi_rl.bench.curves import Curve, Point, mean_curve, measure_curve, warm_up
from ambi_rl.bench.report import Rows, markdown
from ambi_rl.cli.guard import run_script
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.quality import STEP_SCALE, step_from_quality
from ambi_rl.codec.strategists import STRATEGISTS, Strategist, for_search
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data.source import list_photographs, read_photograph, split_held_out
from ambi_rl.errors import UsageError

QUALITIES = (30, 50, 72, 84, 91)
"""Steps of 53, 32, 18, 10 and 6 code values."""
RESAMPLES = 10_000

Floats = npt.NDArray[np.float64]


class Gain(NamedTuple):
    """What one row has over another.

    Attributes:
        mean_curve: BD-rate of the dataset-mean curves, in percent.
        photographs: Mean over photographs of their BD-rates, in percent.
        low: Lower end of its 95 % interval, by resampling photographs.
        high: Upper end.
        cost: Mean change of J = squared error + λ·bits at equal quality settings, in percent.
        seconds: Ratio of the encode times.
    """

    mean_curve: float
    photographs: float
    low: float
    high: float
    cost: float
    seconds: float


def interval(values: Floats, seed: int = 1) -> tuple[float, float]:
    """95 % interval of a mean: percentiles of the means of samples drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(values.size, size=(RESAMPLES, values.size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def lagrangian_costs(curve: Curve, lambda_scale: float) -> Floats:
    """J of each point, per pixel, in squared code values."""
    steps = np.array([step_from_quality(p.setting) / STEP_SCALE for p in curve.points])
    errors = 255.0**2 / 10 ** (np.array(curve.psnr) / 10)
    return np.asarray(errors + lambda_scale * steps**2 * np.array(curve.bpp))


def compare(base: Sequence[Curve], test: Sequence[Curve], lambda_scale: float) -> Gain:
    """What `test` has over `base`; curves of the same photographs in the same order."""
    each = np.array([t.bd_rate(b) for b, t in zip(base, test, strict=True)])
    costs = [
        lagrangian_costs(t, lambda_scale) / lagrangian_costs(b, lambda_scale)
        for b, t in zip(base, test, strict=True)
    ]
    whole, reference = mean_curve(test), mean_curve(base)
    return Gain(
        whole.bd_rate(reference),
        float(each.mean()),
        *interval(each),
        float(np.mean(costs) - 1) * 100,
        whole.mean_seconds()[0] / reference.mean_seconds()[0],
    )


def rows_for(effort: int, factors: Iterable[float]) -> dict[str, Strategist]:
    """The greedy search with each factor of λ, and what goes beyond it, by name."""
    greedy, ahead = for_search(effort), STRATEGISTS["lookahead"]
    rows = {f"greedy, λ·{f:g}": replace(greedy, lambda_factor=f) for f in factors}
    refined = replace(
        greedy,
        refines=True,
        horizon=ahead.horizon,
        slack=ahead.slack,
        lambda_factor=ahead.lambda_factor,
    )
    rows["refined, each leaf alone"] = replace(refined, horizon=0)
    rows["refined, looking ahead"] = refined
    return rows


def centre_crops(folder: Path, every: int, side: int, limit: int | None) -> dict[str, Image.Image]:
    """By file name, the middle of each photograph that training with this folder holds out."""
    _, paths = split_held_out(list_photographs(folder), every)
    crops = {}
    for path in paths[:limit]:
        image = Image.fromarray(read_photograph(path))
        width, height = min(image.width, side), min(image.height, side * 2 // 3)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        crops[path.name] = image.crop((left, top, left + width, top + height))
    return crops


class Saved:
    """Points measured before, one JSON line for each curve, so that an interrupted run goes on."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, list[list[float]]] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self._known[entry["key"]] = entry["points"]

    def curve(self, codec: AmbiCodec, name: str, image: Image.Image) -> Curve:
        """The codec's curve of a picture, measured unless it is known."""
        key = f"{codec.strategist} {codec.settings} {name} {image.size}"
        if key not in self._known:
            points = [list(p) for p in measure_curve(codec, image, structural=False).points]
            self._known[key] = points
            if self._path is not None:
                with self._path.open("a") as out:
                    out.write(json.dumps({"key": key, "points": points}) + "\n")
        return Curve(codec.name, codec.description, tuple(Point._make(p) for p in self._known[key]))


def best_factor(greedy: Mapping[str, Sequence[Curve]]) -> str:
    """The name of the greedy row of least mean BD-rate against the first."""
    names = list(greedy)
    first = mean_curve(greedy[names[0]])
    return min(names, key=lambda n: 0.0 if n == names[0] else mean_curve(greedy[n]).bd_rate(first))


def table(curves: Mapping[str, Sequence[Curve]], base: str, lambda_scale: float) -> Rows:
    """Every row against `base`."""
    headings = ["", "BD-rate of mean curves", "mean of BD-rates (95 %)", "J", "encode time"]
    cells = []
    for name, measured in curves.items():
        gain = compare(curves[base], measured, lambda_scale)
        each = f"{gain.photographs:+.2f} % ({gain.low:+.2f}…{gain.high:+.2f})"
        numbers = [f"{gain.mean_curve:+.2f} %", each, f"{gain.cost:+.2f} %"]
        cells.append([name, *(["–"] * 3 if name == base else numbers), f"{gain.seconds:.2f}"])
    return Rows(headings, cells)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    effort: Annotated[
        int, typer.Option("--effort", "-e", min=5, max=9, help="The greedy search.")
    ] = 9,
    factor: Annotated[
        list[float] | None, typer.Option(help="Factor of λ for the greedy search; may be repeated.")
    ] = None,
    crop: Annotated[int, typer.Option(min=96, help="Width of what is coded, 3:2.")] = 384,
    limit: Annotated[int | None, typer.Option(min=2, help="At most so many photographs.")] = None,
    every: Annotated[int, typer.Option(min=2, help="Every n-th photograph is held out.")] = 10,
    save: Annotated[
        Path | None, typer.Option(help="Keep points in this file, and go on from them.")
    ] = None,
) -> None:
    """Print a Markdown table of the greedy search and what goes beyond it."""
    crops = centre_crops(folder, every, crop, limit)
    if len(crops) < 2:
        raise UsageError(f"{folder} holds out {len(crops)} photograph; an interval needs two")
    rows = rows_for(effort, factor or [1.0, 0.8, 0.65])
    ensure_compiled("encode", lambda line: print(line, file=sys.stderr))
    saved = Saved(save)
    start = ambi_codec(effort=effort, qualities=QUALITIES)
    codecs = {name: replace(start, name=name, strategist=s) for name, s in rows.items()}
    warm_up(start)
    curves: dict[str, list[Curve]] = {name: [] for name in codecs}
    for done, (name, image) in enumerate(crops.items(), 1):
        # Rows take turns, so that a busy machine slows all of them alike.
        for row, codec in codecs.items():
            curves[row].append(saved.curve(codec, name, image))
        print(f"{done}/{len(crops)} {name}", file=sys.stderr, flush=True)
    base = best_factor({n: c for n, c in curves.items() if n.startswith("greedy")})
    scale = float(default_bundle().manifest["lambda_scale"]) * rows[base].lambda_factor
    title = f"{len(crops)} held-out photographs, the middle {crop}x{crop * 2 // 3}; against {base}"
    print(markdown(table(curves, base, scale), title=title))


if __name__ == "__main__":
    run_script(main, "beyond_greedy")
