"""`ambi report`, and `ambi bench --report`: the HTML page of a benchmark that has been measured."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ambi_rl.bench.benchmark import RESULTS
from ambi_rl.bench.results import Results, load_results
from ambi_rl.bench.selector import runs_kernels
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.errors import UsageError
from ambi_rl.report.build import DEFAULT_IMAGES, DEFAULT_MEGABYTES, REPORT, write_report


def check_options(wanted: bool, images: int | None, megabytes: float | None) -> None:
    """Refuse options of a report that is not asked for, and one that could not be made after hours.

    Raises:
        UsageError: There is one.
        ModuleNotFoundError: The plotting library is missing.
    """
    if wanted:
        import_module("plotly")
    for name, value in (("--report-images", images), ("--report-size", megabytes)):
        if value is not None and not wanted:
            raise UsageError(f"{name} needs --report")


def report_command(
    folder: Path, *, target: Path | None, images: int | None, megabytes: float | None, jobs: int
) -> None:
    """Make the page of what a folder holds.

    Raises:
        UsageError: The folder holds no benchmark, or the page cannot be written.
        AmbiError: The disk is full.
    """
    results = load_results(folder / RESULTS)
    make_report(results, target or folder / REPORT, images=images, megabytes=megabytes, jobs=jobs)


def make_report(
    results: Results, target: Path, *, images: int | None, megabytes: float | None, jobs: int
) -> None:
    """Write a page and say where it is, and what could not be shown.

    Raises:
        UsageError: The page cannot be written.
        AmbiError: The disk is full.
    """
    if any(runs_kernels(codec.selector) for codec in results.codecs):
        # Here and once, rather than in every process at the same time.
        ensure_compiled("encode", announce)
    problems = write_report(
        results,
        target,
        images=DEFAULT_IMAGES if images is None else images,
        megabytes=DEFAULT_MEGABYTES if megabytes is None else megabytes,
        jobs=jobs,
        progress=announce,
    )
    for problem in problems:
        announce(f"not in the viewer: {problem}")
    announce(f"written to {target}, {target.stat().st_size / 1e6:.1f} MB")
