"""Measures what dividing large pictures into tiles costs in rate, and what threads gain by it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from PIL import Image

from ambi_rl.cli.guard import run_script
from ambi_rl.codec.api import decode_image, encode_image
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.threads import THREADS_VARIABLE
from ambi_rl.codec.tiles import TILED_PIXELS, grid_for
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.errors import UsageError
from ambi_rl.metrics import bd_rate

QUALITIES = (30, 50, 70, 85)
TIMED_QUALITY = 60

_PEAK = """
import re, sys
from pathlib import Path
from PIL import Image
from ambi_rl.codec.api import decode_image, encode_image
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
Image.MAX_IMAGE_PIXELS = None
with Image.open(sys.argv[1]) as opened:
    image = opened.convert("RGB")
options = {"quality": 60, "effort": int(sys.argv[2]), "tiles": sys.argv[3] == "tiles"}
encode_image(image.crop((0, 0, 64, 64)), **options)
# Forgets the peak so far, part of which is of the process that started this one.
Path("/proc/self/clear_refs").write_text("5")
before = peak()
encode_image(image, **options)
print(before, peak())
"""
"""What a fresh process does whose memory is measured."""


class Seconds(NamedTuple):
    """Wall-clock times of one picture."""

    encode: float
    decode: float


def loss(image: Image.Image, effort: int) -> float:
    """BD-rate of tiles against one piece, in percent."""
    curves = []
    for tiles in (False, True):
        coded = [encode_image(image, quality=q, effort=effort, tiles=tiles) for q in QUALITIES]
        curves.append(([len(c.data) for c in coded], [c.psnr() for c in coded]))
    (rates, psnrs), (tiled_rates, tiled_psnrs) = curves
    return bd_rate(rates, psnrs, tiled_rates, tiled_psnrs)


def timed(image: Image.Image, effort: int, *, tiles: bool, threads: int) -> Seconds:
    """Code a picture once."""
    os.environ[THREADS_VARIABLE] = str(threads)
    start = time.perf_counter()
    data = encode_image(image, quality=TIMED_QUALITY, effort=effort, tiles=tiles).data
    middle = time.perf_counter()
    decode_image(data)
    return Seconds(middle - start, time.perf_counter() - middle)


def peak_memory(path: Path, effort: int, *, tiles: bool) -> float:
    """MiB that encoding in a fresh process adds to what it has with the picture loaded."""
    command = [sys.executable, "-c", _PEAK, str(path), str(effort), "tiles" if tiles else "whole"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    before, after = map(float, done.stdout.split())
    return after - before


def main(
    pictures: Annotated[list[Path], typer.Argument(help="Photographs of 4 Mpixel or more.")],
    effort: Annotated[int, typer.Option("--effort", "-e", min=0, max=9)] = 0,
    threads: Annotated[
        int | None, typer.Option("--threads", "-t", min=2, show_default="all cores")
    ] = None,
) -> None:
    """Print, for each picture, BD-rate of tiles over four qualities, times and memory.

    Memory is that of the process beyond the loaded picture. Times are of one thread and one piece, and how
    many times as fast tiles are on several.
    """
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    cores = threads or len(os.sched_getaffinity(0))
    ensure_compiled("encode", print)
    print(f"effort {effort}, {cores} threads")
    losses = []
    for path in pictures:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        grid = grid_for(image.height, image.width)
        if grid is None:
            raise UsageError(f"{path} has fewer than {TILED_PIXELS} pixels and is not divided")
        one = timed(image, effort, tiles=False, threads=1)
        many = timed(image, effort, tiles=True, threads=cores)
        memory = [peak_memory(path, effort, tiles=tiles) for tiles in (False, True)]
        losses.append(loss(image, effort))
        print(
            f"{path.name} {image.width}x{image.height}, {len(grid.tiles())} tiles: "
            f"BD-rate {losses[-1]:+.2f} %; encode {one.encode:.1f} s, x{one.encode / many.encode:.2f}; "
            f"decode {one.decode:.1f} s, x{one.decode / many.decode:.2f}; "
            f"memory {memory[0]:.0f} -> {memory[1]:.0f} MiB",
            flush=True,
        )
    print(f"mean BD-rate {np.mean(losses):+.2f} %, worst {np.max(losses):+.2f} %")


if __name__ == "__main__":
    run_script(main, "bench_tiles")
