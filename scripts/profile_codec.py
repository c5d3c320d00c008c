"""Prints which kernels the time of encoding and decoding a picture goes to, sampled by Linux' `perf`."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from elftools.elf.elffile import ELFFile
from numba.core.codegen import CPUCodeLibrary
from PIL import Image

from ambi_rl.cli.guard import run_script
from ambi_rl.errors import UsageError

_SHOWN = 24


class Task(StrEnum):
    """What is sampled."""

    ENCODE = "encode"
    DECODE = "decode"


class _Symbols:
    """Where the functions of loaded kernels lie: Numba's machine code is nameless to a profiler."""

    def __init__(self) -> None:
        self._loaded: list[tuple[Any, bytes]] = []
        # Numba has no hook for this, and no type hints for what is private.
        private: Any = CPUCodeLibrary
        original = private._unserialize.__func__

        def unserialize(cls: type, codegen: Any, state: tuple[str, str, Any]) -> Any:
            library = original(cls, codegen, state)
            if state[1] == "object":
                self._loaded.append((library, state[2][0]))
            return library

        private._unserialize = classmethod(unserialize)

    def write_map(self, path: Path) -> None:
        """Write a map in the format that `perf report` reads."""
        lines = []
        for library, code in self._loaded:
            engine = library._codegen._engine
            table: Any = ELFFile(io.BytesIO(code)).get_section_by_name(".symtab")
            for symbol in table.iter_symbols():
                is_function = symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_size"]
                address = engine.get_function_address(symbol.name) if is_function else 0
                if address:
                    lines.append(f"{address:x} {symbol['st_size']:x} {_readable(symbol.name)}")
        path.write_text("\n".join(lines) + "\n")


def _readable(mangled: str) -> str:
    """Module and function of a name such as `_ZN7ambi_rl5codec8convolve5_storeB4v128…`; others unchanged."""
    parts, rest = [], mangled.removeprefix("_ZN")
    while (found := re.match(r"\d+", rest)) is not None:
        start = found.end()
        stop = start + int(found[0])
        parts.append(rest[start:stop])
        rest = rest[stop:]
    return ".".join(parts[2:]) if parts[:1] == ["ambi_rl"] else mangled


def _report(recording: Path) -> list[tuple[str, float]]:
    """Shares of the samples by function, in percent; versions of one kernel are added up."""
    command = ["perf", "report", "-i", str(recording), "--sort", "symbol", "--stdio", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shares: dict[str, float] = defaultdict(float)
    for line in done.stdout.splitlines():
        if found := re.match(r"\s*([\d.]+)%\s+\[(.)\]\s+(\S+)", line):
            name = "(operating system)" if found[2] == "k" else found[3]
            shares[name] += float(found[1])
    return sorted(shares.items(), key=lambda item: -item[1])[:_SHOWN]


def _record(recording: Path, work: Callable[[], None], seconds: float) -> tuple[float, int]:
    """Do something over and over while perf samples it; returns the CPU time of once, and how often."""
    command = ["perf", "record", "-q", "-o", str(recording), "-e", "cpu-clock", "-F", "997"]
    with subprocess.Popen([*command, "-p", str(os.getpid())]) as recorder:
        begin, times = time.process_time(), 0
        try:
            while times == 0 or time.process_time() - begin < seconds:
                work()
                times += 1
        finally:
            recorder.send_signal(signal.SIGINT)
    return (time.process_time() - begin) / times, times


def main(
    picture: Annotated[Path, typer.Argument(help="A photograph.")],
    task: Annotated[Task, typer.Option(help="What to sample.")] = Task.DECODE,
    effort: Annotated[int, typer.Option("--effort", "-e", min=0, max=9)] = 5,
    quality: Annotated[float, typer.Option("--quality", "-q")] = 60,
    seconds: Annotated[float, typer.Option(help="CPU time to sample.")] = 10,
) -> None:
    """Code a picture over and over on one thread and print where the time goes."""
    if shutil.which("perf") is None:
        raise UsageError("this needs the program perf; on Debian it is in the package linux-perf")
    os.environ["AMBI_THREADS"] = "1"
    symbols = _Symbols()
    # Only now, so that kernels are seen when they are loaded.
    from ambi_rl.codec.api import decode_image, encode_image
    from ambi_rl.codec.warmup import ensure_compiled

    ensure_compiled("encode", print)
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    tiny = encode_image(image.resize((64, 64)), quality=quality, effort=effort)
    decode_image(tiny.data)
    data = encode_image(image, quality=quality, effort=effort).data

    def work() -> None:
        if task is Task.DECODE:
            decode_image(data)
        else:
            encode_image(image, quality=quality, effort=effort)

    # perf looks for the names of a process' functions under this name.
    names = Path(tempfile.gettempdir()) / f"perf-{os.getpid()}.map"
    try:
        symbols.write_map(names)
        with tempfile.TemporaryDirectory() as folder:
            recording = Path(folder) / "perf.data"
            spent, times = _record(recording, work, seconds)
            shares = _report(recording)
    finally:
        names.unlink(missing_ok=True)
    pixels = image.width * image.height / 1e6
    what = f"{task}, effort {effort}, quality {quality:g}" if task is Task.ENCODE else task
    print(f"{what}: {spent:.2f} s of CPU time, {spent / pixels:.2f} s/Mpixel, {times} times")
    for name, share in shares:
        print(f"{share:5.1f} %  {name}")


if __name__ == "__main__":
    run_script(main, "profile_codec")
