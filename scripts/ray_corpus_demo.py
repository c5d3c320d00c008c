"""A corpus on a Ray cluster, one of whose workers is killed, against the plain folder mode.

    python scripts/ray_corpus_demo.py FOLDER [--count 200] [--side 256] [--workers 2] [-e 0]

Photographs of FOLDER are scaled down into a tree of folders. `ambi encode --manifest` encodes it with one
thread, then `ambi encode --ray local` on a cluster of this machine; when a quarter of the results is there, a
worker is killed. Files are compared by their hashes, and what second runs do is counted. Exits with 1 if
anything is not as it should be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from ambi_rl.corpus.manifest import NAME, read_manifest
from ambi_rl.corpus.plan import PICTURE_SUFFIXES


def prepare(source: Path, corpus: Path, count: int, side: int) -> None:
    """Scale photographs down to PNG files, in a folder for each source of photographs."""
    paths = sorted(p for p in source.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
    for path in paths[:count]:
        folder, _, number = path.stem.rpartition("-")
        target = corpus / folder / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            small = image.convert("RGB")
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        small.save(target)


def encode(
    corpus: Path, output: Path, *options: str, kill_after: int | None = None
) -> tuple[list[dict[str, Any]], str]:
    """Run `ambi encode --json`, and kill the worker that gave a certain result; results and the summary."""
    command = [sys.executable, "-m", "ambi_rl.cli", "encode", str(corpus), "-o", str(output)]
    results = []
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            [*command, "--json", *options], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                results.append(json.loads(line))
                if len(results) == kill_after:
                    worker = results[-1]["process"]
                    assert worker != process.pid
                    os.kill(worker, signal.SIGKILL)
                    print(f"killed worker {worker} after {kill_after} results", flush=True)
        errors.seek(0)
        text = errors.read().strip()
    if process.returncode:
        sys.exit(f"ambi encode failed with {process.returncode}: {text}")
    return results, text.splitlines()[-1]


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every ambi file."""
    paths = sorted(folder.rglob("*.ambi"))
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths
    }


def statuses(results: list[dict[str, Any]]) -> str:
    """How many results there are of each status."""
    return ", ".join(f"{n} {name}" for name, n in Counter(r["status"] for r in results).items())


def main() -> None:
    """Prepare, encode twice, compare, encode again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-e", "--effort", type=int, default=0)
    arguments = parser.parse_args()
    options = ["-e", str(arguments.effort)]
    with tempfile.TemporaryDirectory() as folder:
        corpus, plain, spread = (Path(folder, name) for name in ("corpus", "plain", "ray"))
        prepare(arguments.folder, corpus, arguments.count, arguments.side)
        results, summary = encode(corpus, plain, "--manifest", "-j", "1", *options)
        print(f"one thread: {summary}", flush=True)

        ray = ["--ray", "local", "-j", str(arguments.workers), *options]
        start = time.perf_counter()
        results, summary = encode(corpus, spread, *ray, kill_after=len(results) // 4)
        print(f"ray: {summary} ({time.perf_counter() - start:.0f} s with Ray's start)")
        print(f"workers that gave results: {len({r['process'] for r in results})}")
        ours, theirs = hashes(spread), hashes(plain)
        manifest = read_manifest(spread / NAME)
        equal = sum(ours.get(name) == digest for name, digest in theirs.items())
        recorded = sum(manifest[name]["output_sha256"] == digest for name, digest in ours.items())
        print(
            f"{equal} of {len(theirs)} files equal the plain mode's, {recorded} the manifest's hash"
        )
        leftovers = list(spread.rglob("*.part"))
        print(f"temporary files left: {len(leftovers)}")

        again, _ = encode(corpus, spread, *ray)
        print(f"second run: {statuses(again)}")
        for name in sorted(ours)[:3]:
            (spread / name).unlink()
        third, _ = encode(corpus, spread, *ray)
        print(f"after 3 files were removed: {statuses(third)}")
        is_well = (
            equal == recorded == len(theirs) == len(results)
            and hashes(spread) == theirs
            and not leftovers
            and {r["status"] for r in again} == {"unchanged"}
            and Counter(r["status"] for r in third)["done"] == 3
        )
    sys.exit(0 if is_well else "not as it should be")


if __name__ == "__main__":
    main()
