"""Speed and memory of ambi's efforts, AVIF's speeds, WebP's methods and JPEG XL's efforts, in one run.

    python scripts/bench_speed.py PHOTOGRAPHS --every 4

Each codec encodes in one fresh process and decodes in another, one after the other, at the setting that has
about the same PSNR. A table in Markdown is printed: megapixels per second of wall-clock time (the best of the
repetitions; pictures and files are in memory), seconds of CPU time per megapixel, and the process's peak
memory, of which the second number is what coding added to the interpreter with libraries and pictures loaded.
Peers run on one thread; ambi as it comes, so on all cores where it can.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from PIL import Image

from ambi_rl.bench.benchmark import machine
from ambi_rl.bench.codecs import use_one_thread
from ambi_rl.bench.dataset import expand, open_picture
from ambi_rl.bench.find_close import find_close
from ambi_rl.bench.report import Rows, markdown
from ambi_rl.bench.selector import make_codec
from ambi_rl.codec.files import write_file
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.metrics import psnr

SELECTORS = (
    *(f"ambi:effort={effort}" for effort in range(10)),
    *(f"avif:tune=psnr,speed={speed}" for speed in (10, 8, 6, 4, 2)),
    *(f"webp:method={method}" for method in (0, 2, 4, 6)),
    *(f"jxl:effort={effort}" for effort in (1, 3, 5, 7, 9)),
    "heic:chroma=444,tune=psnr",
    "jpeg2000",
    "jpeg",
)
FIND_SIDE = 384
"""The setting is searched for on the centre of the first picture, of this many pixels a side."""
MIB = 1 << 20


class Cost(NamedTuple):
    """What one direction takes.

    Attributes:
        wall: Seconds of wall-clock time for all pictures, for each picture the best of the repetitions.
        cpu: Seconds of CPU time, mean of the repetitions.
        peak: Largest resident memory of the process while it codes, in bytes.
        added: The same without what was resident before the first picture, but after a warm-up.
        value: Mean bits per pixel where pictures are coded, mean PSNR in dB where they are decoded.
    """

    wall: float
    cpu: float
    peak: int
    added: int
    value: float


def memory(what: str) -> int:
    """A line of what the system says of this process's memory, VmRSS or VmHWM (the peak), in bytes.

    Not getrusage: its peak begins with that of the process that started this one.
    """
    found = re.search(rf"^{what}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise UsageError(f"this system does not tell {what}; memory is measured on Linux only")
    return int(found[1]) * 1024


def forget_peak() -> None:
    """Begin a new peak at what is resident now."""
    # Where the kernel cannot, the peak is that of the whole process.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def child(text: str) -> None:
    """Code or decode in this process as a JSON text says, and print as JSON what it took.

    Files lie in a folder as 0, 1…: written where pictures are coded, read where they are decoded.
    """
    task = json.loads(text)
    use_one_thread()
    codec = make_codec(task["selector"])
    pictures = [open_picture(Path(path), task["crop"]) for path in task["paths"]]
    files = [Path(task["folder"]) / str(i) for i in range(len(pictures))]
    is_encode = task["is_encode"]
    inputs: list[Any] = pictures if is_encode else [file.read_bytes() for file in files]
    # A warm-up only in the direction that is measured: the other one needs memory of its own.
    tiny = Path(task["folder"]) / "tiny"
    if is_encode:
        tiny.write_bytes(codec.encode(Image.new("RGB", (64, 64), (90, 120, 60)), task["setting"]))
    else:
        codec.decode(tiny.read_bytes())
    forget_peak()
    before, start_cpu = memory("VmRSS"), time.process_time()
    best, outputs = [float("inf")] * len(inputs), list[Any]()
    for _ in range(task["repeat"]):
        outputs.clear()
        for i, item in enumerate(inputs):
            start = time.perf_counter()
            outputs.append(codec.encode(item, task["setting"]) if is_encode else codec.decode(item))
            best[i] = min(best[i], time.perf_counter() - start)
    cpu = (time.process_time() - start_cpu) / task["repeat"]
    # What is kept for later, pixels or files, is small beside it.
    peak = memory("VmHWM")
    if is_encode:
        for file, data in zip(files, outputs, strict=True):
            file.write_bytes(data)
        values = [
            len(data) * 8 / (p.width * p.height) for data, p in zip(outputs, pictures, strict=True)
        ]
    else:
        values = [
            psnr(np.asarray(p), np.asarray(o)) for p, o in zip(pictures, outputs, strict=True)
        ]
    cost = Cost(sum(best), cpu, peak, max(0, peak - before), float(np.mean(values)))
    print(json.dumps(cost))


def cost(task: dict[str, Any]) -> Cost:
    """What a task takes in a fresh process.

    Raises:
        AmbiError: It failed.
    """
    command = [sys.executable, __file__, _CHILD, json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise AmbiError(f"{task['selector']}: {lines[-1]}")
    return Cost(*json.loads(done.stdout))


def main(
    sources: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Files or folders.")],
    codec: Annotated[
        list[str] | None, typer.Option("--codec", help="As for ambi bench; may be repeated.")
    ] = None,
    decibels: Annotated[float, typer.Option("--psnr", help="RGB-PSNR to work at, dB.")] = 36,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th picture.")] = 1,
    crop: Annotated[int | None, typer.Option(min=64, help="Side of the centre to take.")] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Times that each picture is coded.")] = 3,
    output: Annotated[Path | None, typer.Option("--json", help="Write all numbers here.")] = None,
) -> None:
    """Measure speed and peak memory; prints a Markdown table."""
    paths = expand(sources, every=every)
    sizes = [open_picture(path, crop).size for path in paths]
    megapixels = sum(width * height for width, height in sizes) / 1e6
    sample = open_picture(paths[0], FIND_SIDE)
    ensure_compiled("encode", announce)
    rows, numbers = [], []
    for selector in codec or SELECTORS:
        made = make_codec(selector)
        setting = find_close(made, sample, "psnr", decibels).best.setting
        with tempfile.TemporaryDirectory() as folder:
            task = {
                "selector": selector,
                "setting": setting,
                "paths": [str(path) for path in paths],
                "crop": crop,
                "repeat": repeat,
                "folder": folder,
            }
            encode, decode = (cost(task | {"is_encode": flag}) for flag in (True, False))
        announce(f"{made.name}: {megapixels / encode.wall:.2f} MPixel/s")
        rows.append(_row(made.name, megapixels, encode, decode))
        facts = {"codec": made.name, "description": made.description, "setting": setting}
        numbers.append(facts | {"encode": encode._asdict(), "decode": decode._asdict()})
    here = machine()
    title = (
        f"{len(paths)} pictures, {megapixels:.2f} Mpixel, {here.cpu}, {here.cores} cores; "
        f"settings for about {decibels:g} dB"
    )
    print(markdown(Rows(_HEADINGS, rows), title=title))
    if output is not None:
        document = {"title": title, "megapixels": megapixels, "codecs": numbers}
        write_file(output, json.dumps(document, indent=1).encode())


_CHILD = "--child"
_HEADINGS = [
    "codec",
    "PSNR dB",
    "bpp",
    "encode MPixel/s",
    "CPU s/Mpixel",
    "peak MiB (added)",
    "decode MPixel/s",
    "CPU s/Mpixel",
    "peak MiB (added)",
]


def _row(name: str, megapixels: float, encode: Cost, decode: Cost) -> list[str]:
    cells = [name, f"{decode.value:.1f}", f"{encode.value:.2f}"]
    for one in (encode, decode):
        cells += [
            f"{megapixels / one.wall:.2f}",
            f"{one.cpu / megapixels:.3f}",
            f"{one.peak / MIB:.0f} ({one.added / MIB:.0f})",
        ]
    return cells


if __name__ == "__main__":
    try:
        if sys.argv[1:2] == [_CHILD]:
            child(sys.argv[2])
        else:
            app = typer.Typer(add_completion=False)
            app.command()(main)
            app()
    except AmbiError as error:
        print(f"bench_speed: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
