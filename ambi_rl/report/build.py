"""From a finished benchmark to `report.html`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ambi_rl.bench.results import Results
from ambi_rl.codec.files import check_target, write_file
from ambi_rl.report.page import render_page
from ambi_rl.report.views import Views, make_views

REPORT = "report.html"
DEFAULT_IMAGES = 24
DEFAULT_MEGABYTES = 40.0


def write_report(
    results: Results,
    path: Path,
    *,
    images: int = DEFAULT_IMAGES,
    megabytes: float = DEFAULT_MEGABYTES,
    jobs: int = 1,
    progress: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Write the page of a benchmark; nothing is measured anew, but pictures are coded for the viewer.

    Args:
        results: The benchmark.
        path: The page.
        images: At most so many pictures are in the viewer.
        megabytes: What the page may take, in 10^6 bytes, however many pictures there are.
        jobs: Processes that code pictures.
        progress: Told what is done.

    Returns:
        What is not shown and why, a line each.

    Raises:
        UsageError: The page cannot be written there.
        ModuleNotFoundError: The plotting library is missing.
        AmbiError: The disk is full.
    """
    check_target(path)
    # Also finds out before any work whether the plotting library is there.
    base = len(_bytes(render_page(results, Views("", [], "", []))))
    budget = max(0, round(megabytes * 1e6) - base)
    views = make_views(results, images=images, budget=budget, jobs=jobs, progress=progress)
    write_file(path, _bytes(render_page(results, views)))
    full = [f"what did not fit, {views.left_out}"] if views.left_out else []
    return [*views.problems, *full]


def _bytes(page: str) -> bytes:
    """UTF-8; what file names have that is none is spelt out, as JSON does."""
    return page.encode(errors="backslashreplace")
