"""BD-rate against encode time: ambi's efforts beside AVIF's speeds and WebP's methods, a table and a plot.

    python scripts/bench_efforts.py PHOTOGRAPHS --cache runs/efforts.json --plot docs/images/efforts.png

Seconds are CPU time of one core, so that other work on the machine disturbs them little. What is measured is
kept in the cache file, picture by picture, and not measured again with the same bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib
import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from ambi_rl.bench.codecs import Codec, ambi_codec, avif, jpeg, webp
from ambi_rl.bench.curves import warm_up
from ambi_rl.bench.dataset import open_picture, pictures
from ambi_rl.cli.guard import run_script
from ambi_rl.codec.files import write_file
from ambi_rl.codec.strategists import EFFORTS, SEARCHES
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.metrics import bd_rate, psnr

matplotlib.use("Agg")
from matplotlib import pyplot as plt

QUALITIES = (30, 45, 62, 77, 88)
Row = list[float]
"""Setting, bits per pixel, RGB-PSNR in dB, CPU seconds per megapixel."""


def families(bundle: Path | None, efforts: Sequence[int]) -> dict[str, list[Codec]]:
    """What is compared: each line of the plot, from fast to slow."""
    ambi: list[Codec] = [
        replace(
            ambi_codec(effort=effort, bundle=bundle, qualities=QUALITIES), name=f"ambi -e {effort}"
        )
        for effort in efforts
    ]
    searches: list[Codec] = [
        replace(
            ambi_codec(effort=effort, bundle=bundle, qualities=QUALITIES),
            name=f"search s{effort}",
            strategist=search,
        )
        for effort, search in SEARCHES.items()
        if effort in (5, 7, 9)
    ]
    return {
        "ambi": ambi,
        "ambi without a policy": searches,
        "AVIF": [avif(speed=speed) for speed in (10, 8, 6, 4, 2)],
        "WebP": [webp(method=method) for method in (0, 2, 4, 6)],
        "JPEG": [jpeg()],
    }


def measure(codec: Codec, image: Image.Image) -> list[Row]:
    """A codec's points on a picture."""
    original = np.asarray(image)
    pixels = image.width * image.height
    rows = []
    for setting in codec.settings:
        start = time.process_time()
        data = codec.encode(image, setting)
        seconds = time.process_time() - start
        quality = psnr(original, np.asarray(codec.decode(data)))
        rows.append([setting, len(data) * 8 / pixels, quality, seconds / pixels * 1e6])
    return rows


def measured(
    codecs: list[Codec], paths: list[Path], side: int, cache: Path | None, console: Console
) -> dict[str, list[list[Row]]]:
    """Points by codec and picture, those of the cache file among them."""
    known = json.loads(cache.read_text()) if cache is not None and cache.exists() else {}
    found: dict[str, list[list[Row]]] = {}
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("measuring", total=len(codecs) * len(paths))
        for codec in codecs:
            warm_up(codec)
            found[codec.name] = []
            for path in paths:
                key = f"{codec.identity()}|{list(codec.settings)}|{path.name}|{side}"
                if key not in known:
                    known[key] = measure(codec, open_picture(path, side))
                    if cache is not None:
                        write_file(cache, json.dumps(known).encode())
                found[codec.name].append(known[key])
                bar.update(task, advance=1, description=f"{codec.name} {path.stem}")
    return found


def summary(
    found: dict[str, list[list[Row]]], anchor: str, low: float, high: float
) -> dict[str, tuple[float, float]]:
    """BD-rate of dataset-mean curves against `anchor` in percent and mean seconds per megapixel, by codec."""
    means = {name: np.mean(rows, axis=0) for name, rows in found.items()}
    base = means[anchor]
    out = {}
    for name, mean in means.items():
        delta = bd_rate(base[:, 1], base[:, 2], mean[:, 1], mean[:, 2], low=low, high=high)
        inside = (mean[:, 2] >= low) & (mean[:, 2] <= high)
        out[name] = (delta, float(mean[inside, 3].mean()))
    return out


def draw(
    groups: dict[str, list[str]], results: dict[str, tuple[float, float]], anchor: str, path: Path
) -> None:
    """The plot: a line for each family, time from left to right, better to the bottom."""
    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for family, names in groups.items():
        if family == "JPEG":
            continue
        points = np.array([results[name][::-1] for name in names])
        axes.plot(points[:, 0], points[:, 1], "o-", label=family)
        for name, (x, y) in zip(names, points, strict=True):
            label = name.split()[-1]
            label = {"psnr": "s4", "WebP": "m6"}.get(label, label)
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(4, 5), fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("encode, CPU seconds per megapixel")
    axes.set_ylabel(f"BD-rate against {anchor}, %")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, dpi=110)


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of photographs.")],
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b")] = None,
    effort: Annotated[
        list[int] | None, typer.Option("--effort", "-e", help="0…9, may be repeated; all.")
    ] = None,
    every: Annotated[int, typer.Option(help="Take every n-th picture.")] = 1,
    side: Annotated[int, typer.Option(help="Centre crops of at most this many pixels.")] = 512,
    low: Annotated[float, typer.Option(help="Lower end of the RGB-PSNR range, dB.")] = 30,
    high: Annotated[float, typer.Option(help="Upper end, dB.")] = 39,
    cache: Annotated[Path | None, typer.Option(help="JSON file of what is measured.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture to write: .png or .svg.")] = None,
) -> None:
    """Measure and compare; prints a Markdown table."""
    console = Console(stderr=True)
    ensure_compiled("encode", console.print)
    lines = families(bundle, effort or range(len(EFFORTS)))
    codecs = [codec for family in lines.values() for codec in family]
    found = measured(codecs, pictures(folder, every=every), side, cache, console)
    anchor, slowest = lines["JPEG"][0].name, lines["ambi without a policy"][-1].name
    results = summary(found, anchor, low, high)
    against = summary(found, slowest, low, high)
    print(f"| codec | BD-rate vs {anchor} | vs {slowest} | CPU s/Mpixel | speed vs {slowest} |")
    print("|---|---|---|---|---|")
    for name, (delta, seconds) in results.items():
        speed = results[slowest][1] / seconds
        print(
            f"| {name} | {delta:+.1f} % | {against[name][0]:+.1f} % | {seconds:.2f} | {speed:.1f} |"
        )
    if plot is not None:
        groups = {family: [codec.name for codec in some] for family, some in lines.items()}
        draw(groups, results, anchor, plot)


if __name__ == "__main__":
    run_script(main, "bench_efforts")
