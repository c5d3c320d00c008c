"""A benchmark from end to end: codecs on pictures, to a result and the files that hold it."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import count
from pathlib import Path
from typing import Any

import PIL

import ambi_rl
from ambi_rl.bench.codecs import Codec
from ambi_rl.bench.compressai import curve_document
from ambi_rl.bench.curves import Point
from ambi_rl.bench.dataset import (
    Job,
    Outcome,
    PointStore,
    file_hash,
    measure_jobs,
    open_picture,
)
from ambi_rl.bench.derive import deltas, mean_images, means, whole_curves
from ambi_rl.bench.report import describe, markdown, result_rows
from ambi_rl.bench.results import (
    CodecEntry,
    Comparison,
    CurveEntry,
    DeltaEntry,
    Failure,
    ImageEntry,
    Machine,
    PointEntry,
    Results,
    save_results,
)
from ambi_rl.codec.files import write_file
from ambi_rl.errors import AmbiError, UsageError

STORE = "points.jsonl"
RESULTS = "results.json"


@dataclass(frozen=True)
class Plan:
    """What to measure and how to compare.

    Attributes:
        paths: The pictures.
        codecs: With distinct names, the anchor among them.
        imported: Curves that were measured elsewhere.
        comparison: Anchor and range.
        crop: Side of the centre to code, in pixels; None for whole pictures.
        workers: Processes.
        command: Arguments of the command line, for the record.
    """

    paths: tuple[Path, ...]
    codecs: tuple[Codec, ...]
    imported: tuple[CurveEntry, ...]
    comparison: Comparison
    crop: int | None = None
    workers: int = 1
    command: tuple[str, ...] = ()


def run_benchmark(
    plan: Plan,
    folder: Path,
    *,
    begin: Callable[[Sequence[Job], Sequence[Job]], None] = lambda work, known: None,
    done: Callable[[Job, Outcome], None] = lambda job, outcome: None,
) -> Results:
    """Measure what the folder does not hold yet, and derive the result.

    Args:
        plan: What to measure.
        folder: Exists; every point is kept there at once.
        begin: Called before the first point with all of them, and those of them that the folder holds.
        done: Called after each point that is measured.

    Raises:
        UsageError: Names are not distinct, the anchor is missing, or no picture can be read.
        AmbiError: A process ended abruptly.
    """
    names = [codec.name for codec in plan.codecs] + [curve.name for curve in plan.imported]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two codecs or curves are called {name!r}; leave one of them out")
    if plan.comparison.anchor not in names:
        raise UsageError(f"the anchor {plan.comparison.anchor!r} is not measured")
    paths, images, failures = _readable(plan)
    work = [
        Job(codec, path, setting, plan.crop)
        for path in paths
        for codec in plan.codecs
        for setting in codec.settings
    ]
    here = machine()
    store = PointStore(folder / STORE, {"jobs": plan.workers, "machine": asdict(here)})
    known = [job for job in work if store.get(job) is not None]
    is_mixed = any(map(store.is_of_another_run, known))
    begin(work, known)
    outcomes = measure_jobs(work, workers=plan.workers, store=store, done=done)
    name_of = {path: image.name for path, image in zip(paths, images, strict=True)}
    points = []
    for job, outcome in zip(work, outcomes, strict=True):
        if isinstance(outcome, str):
            failures.append(Failure(job.codec.name, name_of[job.path], job.setting, outcome))
        else:
            points.append(_point_entry(job.codec.name, name_of[job.path], outcome))
    result = _result(plan, here, images, points, failures)
    return replace(result, jobs=None) if is_mixed else result


def write_outputs(results: Results, folder: Path) -> None:
    """Write `results.json`, tables as CSV and Markdown, and each mean curve in CompressAI's schema.

    Curves that an earlier result left in the folder are removed.

    Raises:
        UsageError: The folder cannot be written to.
    """
    save_results(results, folder / RESULTS)
    write_file(folder / "points.csv", _csv(PointEntry, results.points))
    write_file(folder / "deltas.csv", _csv(DeltaEntry, results.deltas))
    table = markdown(result_rows(results), title=describe(results))
    write_file(folder / "table.md", _bytes(table + "\n"))
    curves = folder / "curves"
    curves.mkdir(exist_ok=True)
    names = _file_names([curve.name for curve in results.means])
    for curve, name in zip(results.means, names, strict=True):
        write_file(curves / name, json.dumps(curve_document(curve), indent=1).encode())
    for stale in set(curves.glob("*.json")) - {curves / name for name in names}:
        stale.unlink()


def _file_names(names: Sequence[str]) -> list[str]:
    """Names for files of curves, distinct: equal ones get a number."""
    found: list[str] = []
    for name in names:
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "curve"
        candidates = (f"{slug}{'' if i == 1 else f'-{i}'}.json" for i in count(1))
        found.append(next(candidate for candidate in candidates if candidate not in found))
    return found


def _bytes(text: str) -> bytes:
    """UTF-8; what file names have that is none is spelt out."""
    return text.encode(errors="backslashreplace")


def _readable(plan: Plan) -> tuple[list[Path], list[ImageEntry], list[Failure]]:
    """The pictures that can be read, and why others cannot."""
    paths, sizes, failures = [], [], []
    for path in plan.paths:
        try:
            sizes.append(open_picture(path, plan.crop).size)
            paths.append(path)
        except AmbiError as error:
            failures.append(Failure(None, str(path), None, str(error)))
    if not paths:
        raise UsageError(f"none of the pictures can be used: {failures[0].message}")
    images = [
        ImageEntry(name, str(path), *size, file_hash(path))
        for name, path, size in zip(_names(paths), paths, sizes, strict=True)
    ]
    return paths, images, failures


def _names(paths: Sequence[Path]) -> list[str]:
    """Short and distinct: the name without suffix, with the suffix or as much of the folders as it takes."""
    for candidate in (
        [path.stem for path in paths],
        [path.name for path in paths],
        ["/".join(path.parts[-2:]) for path in paths],
    ):
        if len(set(candidate)) == len(paths):
            return candidate
    return [str(path) for path in paths]


def _point_entry(codec: str, image: str, point: Point) -> PointEntry:
    values: dict[str, Any] = point._asdict()
    for name in ("ssim", "ms_ssim"):
        # nan, the only number that is not equal to itself.
        values[name] = values[name] if values[name] == values[name] else None
    return PointEntry(codec, image, **values)


def _result(
    plan: Plan,
    here: Machine,
    images: list[ImageEntry],
    points: list[PointEntry],
    failures: list[Failure],
) -> Results:
    codecs = [
        CodecEntry(c.name, c.family, c.description, c.selector, c.scale.label, c.settings)
        for c in plan.codecs
    ]
    order = {codec.name: i for i, codec in enumerate(codecs)}
    # Stable, so that pictures and settings stay in their order.
    points = sorted(points, key=lambda p: order[p.codec])
    curves = whole_curves(codecs, points)
    names = mean_images(codecs, images, curves)
    whole = means(codecs, names, curves)
    return Results(
        command=plan.command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(plan.codecs),
        machine=here,
        jobs=plan.workers,
        crop=plan.crop,
        comparison=plan.comparison,
        images=tuple(images),
        codecs=tuple(codecs),
        points=tuple(points),
        means=whole,
        mean_images=names,
        imported=plan.imported,
        deltas=deltas(plan.comparison, codecs, images, curves, (*whole, *plan.imported)),
        failures=tuple(failures),
    )


def _versions(codecs: Sequence[Codec]) -> dict[str, str]:
    versions = {
        "ambi-rl": ambi_rl.__version__,
        "python": platform.python_version(),
        "pillow": PIL.__version__,
    }
    versions |= {name: metadata.version(name) for name in ("numpy", "numba")}
    for codec in codecs:
        name, _, version = codec.library.rpartition(" ")
        versions[name] = version
    return versions


def machine() -> Machine:
    """The machine that this runs on."""
    cpu = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", facts.read_text(), re.MULTILINE)
        cpu = found[1] if found else cpu
    # Where the system does not say how many of the cores this process may use, all of them.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Machine(cpu, cores, f"{platform.system()} {platform.machine()}")


def _csv(kind: type, rows: Sequence[Any]) -> bytes:
    """Dataclasses as CSV; what is None is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return _bytes(text.getvalue())
