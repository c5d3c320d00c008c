"""Curves over a folder of pictures, on several processes, with measured peers remembered in a file."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ambi_rl.bench.codecs import AmbiCodec, Codec
from ambi_rl.bench.curves import Curve, Point, mean_curve, measure_curve, warm_up
from ambi_rl.data.source import SUFFIXES
from ambi_rl.errors import UsageError


class Job(NamedTuple):
    """One codec on one picture."""

    codec: Codec
    path: Path


def pictures(folder: Path, *, every: int = 1) -> list[Path]:
    """The pictures of a folder by name, every n-th of them.

    Raises:
        UsageError: The folder does not exist or holds no picture, or `every` is not positive.
    """
    if every < 1:
        raise UsageError(f"every is {every}; give 1 for all pictures, 2 for every second one, …")
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UsageError(f"{folder} holds no picture ({', '.join(SUFFIXES)})")
    return found[::every]


class PeerCache:
    """Points of peers, which change only with their version, their settings and the picture.

    Ambi itself is always measured anew, because its code is what changes. What an older version of this
    program wrote with other metrics is measured anew as well.

    Args:
        path: A JSON file, made if it does not exist; None to remember nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[str, list[list[float]]] = {}
        if path is not None and path.exists():
            try:
                entries = json.loads(path.read_text())
            except ValueError:
                entries = None
            if not isinstance(entries, dict):
                raise UsageError(f"{path} is not a cache file; delete it or name another")
            self._entries = entries

    def get(self, job: Job) -> Curve | None:
        """The curve as measured before, or None."""
        entry = self._entries.get(self._key(job))
        if entry is None or isinstance(job.codec, AmbiCodec):
            return None
        if any(len(row) != len(Point._fields) for row in entry):
            return None
        points = tuple(Point(row[0], int(row[1]), *row[2:]) for row in entry)
        return Curve(job.codec.name, job.codec.description, points)

    def put(self, job: Job, curve: Curve) -> None:
        """Remember a peer's curve, on disk at once."""
        if self._path is None or isinstance(job.codec, AmbiCodec):
            return
        self._entries[self._key(job)] = [list(p) for p in curve.points]
        partial = self._path.with_suffix(self._path.suffix + ".part")
        partial.write_text(json.dumps(self._entries))
        partial.replace(self._path)

    @staticmethod
    def _key(job: Job) -> str:
        picture = hashlib.sha256(job.path.read_bytes()).hexdigest()[:16]
        return f"{job.codec!r} {picture}"


def run_job(job: Job) -> Curve:
    """Measure one codec on one picture, in whatever process this is called."""
    with Image.open(job.path) as image:
        rgb = image.convert("RGB")
    warm_up(job.codec)
    return measure_curve(job.codec, rgb)


def dataset_curves(
    codecs: Sequence[Codec],
    paths: Sequence[Path],
    *,
    jobs: int = 1,
    cache: PeerCache | None = None,
    progress: Callable[[Job, Curve], None] = lambda job, curve: None,
) -> dict[str, list[Curve]]:
    """Measure codecs on pictures.

    Args:
        codecs: With distinct names.
        paths: The pictures.
        jobs: Processes. Seconds are of single calls; with as many jobs as cores they are a little longer than
            on an idle machine.
        cache: Where peers' points are looked up and kept.
        progress: Called after each job.

    Returns:
        By codec name, the curves of the pictures in the order of `paths`.
    """
    cache = PeerCache(None) if cache is None else cache
    work = [Job(codec, path) for codec in codecs for path in paths]
    curves = [cache.get(job) for job in work]
    waiting = [i for i, curve in enumerate(curves) if curve is None]

    def keep(index: int, curve: Curve) -> None:
        curves[index] = curve
        cache.put(work[index], curve)
        progress(work[index], curve)

    if jobs == 1:
        for i in waiting:
            keep(i, run_job(work[i]))
    else:
        # Spawned, not forked: compiled code and its threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            futures = {pool.submit(run_job, work[i]): i for i in waiting}
            for future in as_completed(futures):
                keep(futures[future], future.result())
    measured = iter(curve for curve in curves if curve is not None)
    return {codec.name: [next(measured) for _ in paths] for codec in codecs}


def mean_curves(measured: dict[str, list[Curve]]) -> dict[str, Curve]:
    """The dataset-mean curve of each codec in what `dataset_curves` returned."""
    return {name: mean_curve(curves) for name, curves in measured.items()}
