"""How fast photographs become patches, and with how much memory, from a folder and from shards.

    python scripts/bench_data.py /path/to/photographs --into /path/with/space --times 5

Copies given photographs (as JPEG of quality 92, unless --keep, and enlarged by --scale) --times over into
a folder and into shards, and ten times as often; draws patches from each in a process of its own; writes a
Markdown table: photographs and patches a second, for each number of workers and of patches per photograph,
and the peak of the process's memory. What it makes is removed again.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ambi_rl.data import DataSettings, list_photographs, open_collection, read_photograph
from ambi_rl.data.source import decode_photograph

SHARD = 100
"""Photographs in a shard."""
TOTAL_BYTES = 200e9
PATCHES = 8
"""Patches of a photograph, unless their number is what is compared."""


def encoded(path: Path, *, keep: bool, scale: float) -> tuple[str, bytes]:
    """A photograph's file as it is used: its suffix and bytes."""
    if keep:
        return path.suffix, path.read_bytes()
    image = Image.fromarray(read_photograph(path))
    if scale != 1:
        image = image.resize((round(image.width * scale), round(image.height * scale)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return ".jpg", stream.getvalue()


def make(files: list[tuple[str, bytes]], times: int, into: Path) -> None:
    """Write a folder of folders, and shards, of the photographs so many times over."""
    folder, shards = into / "folder", into / "shards"
    shards.mkdir(parents=True)
    number = 0
    archive: tarfile.TarFile | None = None
    for turn in range(times):
        place = folder / f"{turn:04}"
        place.mkdir(parents=True)
        for suffix, data in files:
            name = f"{turn:04}-{number:07}{suffix}"
            (place / name).write_bytes(data)
            if number % SHARD == 0:
                if archive is not None:
                    archive.close()
                archive = tarfile.open(shards / f"{number // SHARD:05}.tar", "w")  # noqa: SIM115
            if archive is not None:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
            number += 1
    if archive is not None:
        archive.close()


def peak_memory() -> float:
    """Most memory the process had so far, in MB (Linux)."""
    # Not getrusage, which goes on from what the parent had.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def measure(arguments: argparse.Namespace) -> None:
    """Draw patches as training does, and print what it took as JSON; run in a process of its own."""
    settings = DataSettings(
        **{arguments.kind: arguments.place},
        access=arguments.access,
        workers=arguments.workers,
        patches_per_picture=arguments.patches,
        shuffle=arguments.shuffle,
    )
    before = peak_memory()
    began = time.perf_counter()
    source = open_collection(settings).source(64, texture=0.5, seed=1)
    rng = np.random.default_rng(1)
    source.sample(rng)
    first = time.perf_counter() - began
    began = time.perf_counter()
    processor = time.process_time()
    count = 0
    while time.perf_counter() - began < arguments.seconds:
        source.sample(rng)
        count += 1
    seconds = time.perf_counter() - began
    found = {
        "patches": count / seconds,
        "first": first,
        "busy": (time.process_time() - processor) / seconds,
        "base": before,
        "peak": peak_memory(),
    }
    source.close()
    print(json.dumps(found))


def decode_time(files: list[tuple[str, bytes]]) -> float:
    """Seconds that one thread needs to decode a photograph."""
    some = files[:50]
    began = time.perf_counter()
    for _, data in some:
        decode_photograph(data, "it")
    return (time.perf_counter() - began) / len(some)


def compare(arguments: argparse.Namespace) -> None:
    """Make the data, measure each kind, and print the table."""
    paths = list_photographs(arguments.photographs)
    files = [encoded(path, keep=arguments.keep, scale=arguments.scale) for path in paths]
    size = sum(len(data) for _, data in files) / len(files)
    decode = decode_time(files)
    print(
        f"{len(files)} photographs, {size / 1e3:.0f} kB each; to decode one takes {1e3 * decode:.1f} ms "
        f"({1 / decode:.0f} a second and thread)\n"
    )
    columns = ["data", "photographs", "workers", "patches of each", "photographs/s", "patches/s"]
    columns += ["cores busy", "patches/s of a busy core", "first patch s"]
    columns += ["memory before MB", "peak MB"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    root = Path(tempfile.mkdtemp(prefix="bench-data-", dir=arguments.into))
    best = 0.0
    try:
        for times in (arguments.times, 10 * arguments.times):
            place = root / str(times)
            make(files, times, place)
            for kind, access, workers, patches in cases(
                arguments.workers, times == arguments.times
            ):
                command = [
                    sys.executable,
                    __file__,
                    "--measure",
                    "--kind",
                    kind,
                    "--access",
                    access,
                ]
                command += ["--place", str(place / kind.replace("_file", ""))]
                command += ["--workers", str(workers), "--patches", str(patches)]
                command += [
                    "--seconds",
                    str(arguments.seconds),
                    "--shuffle",
                    str(arguments.shuffle),
                ]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout)
                pictures = found["patches"] / patches
                if access == "stream" and patches == PATCHES:
                    best = max(best, pictures / found["busy"])
                shown = f"{pictures:.0f}" if access == "stream" else "—"
                each = patches if access == "stream" else "—"
                print(
                    f"| {kind}, {access} | {times * len(files)} | {workers} | {each} | {shown} "
                    f"| {found['patches']:.0f} | {found['busy']:.2f} "
                    f"| {found['patches'] / found['busy']:.0f} | {found['first']:.1f} "
                    f"| {found['base']:.0f} | {found['peak']:.0f} |",
                    flush=True,
                )
    finally:
        shutil.rmtree(root)
    pictures = TOTAL_BYTES / size
    hours, rate = pictures / best / 3600, best * size / 1e6
    print(
        f"\n200 GB are {pictures / 1e6:.2f} million of these; at {best:.0f} photographs/s of a busy core, "
        f"one pass takes {hours:.1f} core hours and reads {rate:.1f} MB/s a core"
    )


def cases(workers: list[int], small: bool) -> list[tuple[str, str, int, int]]:
    """Kind, access, workers, patches of each photograph."""
    most = max(workers)
    found = [(kind, "stream", most, PATCHES) for kind in ("folder", "shards")]
    if small:
        found += [("shards", "stream", count, PATCHES) for count in workers if count != most]
        found += [("shards", "stream", most, patches) for patches in (1, 32)]
    found.append(("folder", "random", 1, 1))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photographs", nargs="?", help="folder of photographs")
    parser.add_argument(
        "--into", help="where to make the data; the system's temporary folder if left out"
    )
    parser.add_argument("--times", type=int, default=1, help="how often the smaller data has each")
    parser.add_argument("--keep", action="store_true", help="use the files as they are")
    parser.add_argument("--scale", type=float, default=1.0, help="enlarge by this factor")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each measurement")
    parser.add_argument("--shuffle", type=int, default=1000, help="photographs in the buffer")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    for name in ("kind", "access", "place"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--patches", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        arguments.workers = arguments.workers[0]
        measure(arguments)
    elif arguments.photographs is None:
        parser.error("give a folder of photographs")
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
