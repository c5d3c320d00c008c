"""Measures what decoding costs at worst, and that coding without end does not grow: see docs/reliability.md.

Usage: scripts/check_limits.py memory          (peak memory of files that claim much, and of large pictures)
       scripts/check_limits.py speed           (CPU time of decoding, by pixel and by byte, at worst)
       scripts/check_limits.py soak [COUNT]    (resident memory while coding COUNT pictures, 2000 by default)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import ambi_rl
from ambi_rl.codec.api import encode_image
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.container import (
    MAX_PIXELS,
    MAX_SIDE,
    Section,
    read_container,
    varint,
    write_container,
)
from ambi_rl.codec.frame import decode_frame
from ambi_rl.codec.restoration import restore
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.tiles import MIN_SIDE
from ambi_rl.errors import AmbiError

_MIB = 1 << 20


def peak_memory() -> int:
    """The most memory this process has had resident, in bytes.

    Not `getrusage`, whose peak is at first that of the process that started this one.
    """
    status = Path("/proc/self/status").read_text()
    return 1024 * next(
        int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
    )


def resident_memory() -> int:
    """The memory this process has resident now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- Memory -----------------------------------------------------------------------------------------------


def _claim(sections: dict[Section, bytes] | None = None) -> bytes:
    """A file of a few bytes, with right checksums, that claims 16384x16384 pixels."""
    data = ambi_rl.encode(Image.new("RGB", (8, 8), (10, 200, 30)))
    container = read_container(data)
    return write_container(
        replace(
            container,
            width=MAX_SIDE,
            height=MAX_SIDE,
            sections=container.sections if sections is None else sections,
        )
    )


def _flat(side: int, mode: str) -> Callable[[], bytes]:
    return lambda: ambi_rl.encode(Image.new(mode, (side, side), "teal"), quality=75)


def _noise(side: int) -> bytes:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    return ambi_rl.encode(Image.fromarray(pixels), quality=50, effort=0, tiles=False)


_TILE_COUNT = (MAX_SIDE // MIN_SIDE) ** 2
CLAIMS: dict[str, tuple[Callable[[], bytes], int]] = {
    "claim, max_pixels 2^20": (_claim, 1 << 20),
    "claim": (_claim, MAX_PIXELS),
    "claim without a payload": (lambda: _claim({Section.PICTURE: b""}), MAX_PIXELS),
    "claim with alpha": (
        lambda: _claim({Section.PICTURE: b"", Section.ALPHA: b"\x00\x80"}),
        MAX_PIXELS,
    ),
    "claim of 4096 empty tiles": (
        lambda: _claim({Section.TILES: varint(8) * 2 + bytes(_TILE_COUNT)}),
        MAX_PIXELS,
    ),
    "flat RGB 4096": (_flat(4096, "RGB"), MAX_PIXELS),
    "flat RGBA 4096": (_flat(4096, "RGBA"), MAX_PIXELS),
    "flat L 4096": (_flat(4096, "L"), MAX_PIXELS),
    "flat RGB 4096 in one piece": (
        lambda: ambi_rl.encode(Image.new("RGB", (4096, 4096), "teal"), tiles=False),
        MAX_PIXELS,
    ),
    "noise RGB 1024": (lambda: _noise(1024), MAX_PIXELS),
}


def memory_row(path: Path, max_pixels: int) -> dict[str, float | str]:
    """Decode a file in this process; what came of it, CPU seconds and growth of the peak in bytes."""
    ambi_rl.decode(ambi_rl.encode(Image.new("RGB", (8, 8))))
    before, start = peak_memory(), time.process_time()
    outcome = "decoded"
    try:
        ambi_rl.decode(path.read_bytes(), max_pixels=max_pixels)
    except AmbiError as error:
        outcome = type(error).__name__
    return {
        "outcome": outcome,
        "seconds": time.process_time() - start,
        "growth": peak_memory() - before,
    }


def memory(folder: Path) -> None:
    """Print a table of peak memory, each row from a process of its own."""
    print(f"{'file':<28}{'bytes':>9}  {'outcome':<20}{'CPU s':>8}{'MiB':>8}{'of picture':>12}")
    for name, (make, limit) in CLAIMS.items():
        path = folder / "file.ambi"
        path.write_bytes(make())
        command = [sys.executable, __file__, "memory", "--row", str(path), str(limit)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout)
        container = read_container(path.read_bytes())
        samples = container.num_planes + (Section.ALPHA in container.sections)
        picture = container.width * container.height * samples
        print(
            f"{name:<28}{path.stat().st_size:>9}  {row['outcome']:<20}{row['seconds']:>8.2f}"
            f"{row['growth'] / _MIB:>8.0f}{row['growth'] / picture:>12.2f}",
            flush=True,
        )


# --- Speed ------------------------------------------------------------------------------------------------


def speed(side: int = 512) -> None:
    """Print CPU time of decoding by pixel and by byte of payload: flat pictures, and noise at worst."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    flat = Image.new("RGB", (side, side), "teal")
    smallest = Strategist("fixed", fixed_size=4)
    bundle = default_bundle()
    # Kernels are read from the disk when they are first called.
    ambi_rl.decode(ambi_rl.encode(flat))
    print(f"{'picture':<34}{'payload':>9}{'CPU s':>8}{'ns/pixel':>10}{'ns/byte':>9}")
    for name, image, quality, strategist in (
        ("flat", flat, 75, None),
        ("flat, 4x4 blocks", flat, 75, smallest),
        ("noise, quality 50, 4x4 blocks", noise, 50, smallest),
        ("noise, quality 100, 4x4 blocks", noise, 100, smallest),
        ("noise, quality 100, effort 5", noise, 100, None),
    ):
        encoded = encode_image(image, quality=quality, strategist=strategist, restoration=False)
        payload, step = encoded.frame.payload, encoded.container.step
        start = time.process_time()
        decode_frame(payload, side, side, 3, step, bundle)
        _speed_row(name, len(payload), time.process_time() - start, side)
    planes, step = encoded.frame.planes, encoded.container.step
    start = time.process_time()
    restore(planes, step, bundle.restoration)
    _speed_row("restoration, after all checksums", 0, time.process_time() - start, side)


def _speed_row(name: str, size: int, seconds: float, side: int) -> None:
    each = f"{seconds / size * 1e9:9.0f}" if size > 1000 else f"{'-':>9}"
    print(f"{name:<34}{size:>9}{seconds:>8.3f}{seconds / side**2 * 1e9:>10.0f}{each}", flush=True)


# --- Soak -------------------------------------------------------------------------------------------------


def soak(count: int, marks: Sequence[int], *, report: Callable[[str], None] = print) -> list[int]:
    """Encode and decode small pictures of changing sizes, modes, qualities and efforts.

    Args:
        count: How many.
        marks: After how many the resident memory is noted.
        report: Called with a line at each mark.

    Returns:
        Resident memory at the marks, in bytes.
    """
    rng = np.random.default_rng(2)
    found = []
    for number in range(1, count + 1):
        height, width = (int(side) for side in rng.integers(8, 64, 2))
        pixels = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 4), dtype=np.uint8)
        mode = ("RGB", "L", "RGBA", "LA")[number % 4]
        image = Image.fromarray(pixels).resize((width, height)).convert(mode)
        data = ambi_rl.encode(image, quality=20 + number % 75, effort=number % 10)
        if ambi_rl.decode(data).size != image.size:
            raise AssertionError("a picture has another size after coding")
        if number in marks:
            found.append(resident_memory())
            report(f"{number} pictures: {found[-1] / _MIB:.1f} MiB resident")
    return found


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("memory", "speed", "soak"))
    parser.add_argument("count", nargs="?", type=int, default=2000)
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        print(json.dumps(memory_row(Path(options.row[0]), int(options.row[1]))))
    elif options.what == "memory":
        with tempfile.TemporaryDirectory() as folder:
            memory(Path(folder))
    elif options.what == "speed":
        speed()
    else:
        marks = sorted({options.count // 10, options.count // 2, options.count, 50})
        soak(options.count, marks)


if __name__ == "__main__":
    main()
