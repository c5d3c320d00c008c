"""How encoding a folder scales: threads of one process (`ambi encode -j N`) against N processes.

    python scripts/bench_jobs.py FOLDER [--count 16] [--jobs 1 2] [-e 0]

Prints files per second of wall time, the CPU seconds spent, cores kept busy, and peak resident memory; of
several processes their sum, in which shared pages count for each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.corpus.plan import PICTURE_SUFFIXES


def encode(files: list[Path], folder: Path, jobs: int, effort: int) -> subprocess.Popen[bytes]:
    """Start `ambi encode`."""
    command = [sys.executable, "-m", "ambi_rl.cli", "encode", *map(str, files)]
    options = ["-o", str(folder), "-j", str(jobs), "-e", str(effort), "--quiet"]
    return subprocess.Popen([*command, *options])


def measure(groups: list[list[Path]], jobs: int, effort: int) -> str:
    """Encode each group in a process of its own, all at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        processes = [encode(group, Path(folder), jobs, effort) for group in groups]
        usages = []
        for process in processes:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(process.returncode)
            usages.append(usage)
        seconds = time.perf_counter() - start
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    memory = sum(usage.ru_maxrss for usage in usages) / 1024
    count = sum(map(len, groups))
    return f"{count / seconds:6.2f} files/s {cpu:7.1f} CPU s {cpu / seconds:5.2f} cores {memory:6.0f} MiB"


def main() -> None:
    """Measure threads, then processes, for each number of jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("-e", "--effort", type=int, default=0)
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.iterdir() if p.suffix in PICTURE_SUFFIXES)
    files = files[: arguments.count]
    ensure_compiled("encode", print)
    for jobs in arguments.jobs:
        print(f"{jobs} threads    {measure([files], jobs, arguments.effort)}", flush=True)
        groups = [files[k::jobs] for k in range(jobs)]
        print(f"{jobs} processes  {measure(groups, 1, arguments.effort)}", flush=True)


if __name__ == "__main__":
    main()
