"""Tables of rate-distortion results, for a terminal and for a document."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from ambi_rl.bench.curves import Curve
from ambi_rl.bench.derive import as_curve, finite_points
from ambi_rl.bench.results import Comparison, CurveEntry, DeltaEntry, Metric, Results
from ambi_rl.errors import UsageError


class Rows(NamedTuple):
    """A table's headings and cells; all columns but the first are numbers. A note explains marks in it."""

    headings: list[str]
    cells: list[list[str]]
    note: str = ""


_METRIC_NAMES: dict[Metric, str] = {
    "psnr": "PSNR",
    "psnr_luma": "luma",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
}


def result_rows(results: Results) -> Rows:
    """Codecs and imported curves by BD-rate in % and BD-PSNR in dB of the whole set, with mean times.

    Args:
        results: Of a benchmark.
    """
    comparison = results.comparison
    middle = (comparison.low + comparison.high) / 2
    headings = ["codec", *(f"{name} %" for name in _METRIC_NAMES.values()), "PSNR dB"]
    headings += [f"bpp at {middle:g} dB", "enc s", "dec s"]
    rows = []
    for entry in (*results.means, *results.imported):
        found = {metric: results.delta(entry.name, metric=metric) for metric in _METRIC_NAMES}
        if entry.name == comparison.anchor:
            cells = ["anchor", "", "", "", ""]
        else:
            cells = [_rate_cell(delta) for delta in found.values()] + [_gain_cell(found["psnr"])]
        rows.append([entry.name, *cells, *_plain_cells(entry, comparison)])
    is_marked = any(cell.endswith("*") for row in rows for cell in row)
    return Rows(headings, rows, "* over the part of the range that it covers" if is_marked else "")


def describe(results: Results) -> str:
    """What was measured and how it is compared, in one line: the sentence that belongs to every table."""
    comparison, count = results.comparison, len(results.mean_images)
    what = f"{count} picture{'s' * (count != 1)}"
    if results.crop is not None:
        what += f", centre {results.crop}x{results.crop}"
    return (
        f"{what}, dataset-mean curves; BD-rate in % by four metrics and BD-PSNR in dB against "
        f"{comparison.anchor} over RGB-PSNR {comparison.low:g}…{comparison.high:g} dB, "
        f"{comparison.interpolation} of log10(rate); seconds are means over that range, "
        f"{processes_text(results)}"
    )


def processes_text(results: Results) -> str:
    """How many processes measured, as far as that is one number."""
    if results.jobs is None:
        return "measured in several runs"
    return f"{results.jobs} process{'es' * (results.jobs != 1)}"


def result_table(results: Results) -> Table:
    """What `result_rows` has, for a terminal, with how each codec was run."""
    rows = result_rows(results)
    how = [f"{c.name}: {c.description}" for c in results.codecs]
    how += [f"{c.name}: {c.description}, from {c.source}" for c in results.imported]
    # Text, for in names [brackets] and :colons: are no markup.
    table = Table(
        title=Text(describe(results), style="table.title"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption=Text("\n".join([rows.note, *how] if rows.note else how), style="table.caption"),
        caption_justify="left",
        padding=(0, 1, 0, 0),
    )
    for heading in rows.headings:
        table.add_column(
            heading,
            justify="right" if len(table.columns) else "left",
            min_width=min(len(heading), 6),
        )
    table.columns[0].no_wrap = True
    for cells in rows.cells:
        table.add_row(*map(Text, cells))
    return table


def _rate_cell(delta: DeltaEntry | None) -> str:
    if delta is None or delta.bd_rate is None:
        return "–"
    return f"{delta.bd_rate:+.1f}{'' if delta.is_whole else '*'}"


def _gain_cell(delta: DeltaEntry | None) -> str:
    if delta is None or delta.bd_quality is None:
        return "–"
    return f"{delta.bd_quality:+.2f}{'' if delta.is_gain_whole else '*'}"


def _plain_cells(entry: CurveEntry, comparison: Comparison) -> list[str]:
    """Bits per pixel in the middle of the range, and seconds."""
    curve = finite_points(as_curve(entry))
    middle = (comparison.low + comparison.high) / 2
    try:
        rate = f"{curve.bpp_at(middle):.3f}"
    except UsageError:
        rate = "–"
    seconds = as_curve(entry).mean_seconds(comparison.low, comparison.high)
    return [rate, *(f"{s:.3f}" if math.isfinite(s) else "–" for s in seconds)]


def markdown(rows: Rows, *, title: str = "") -> str:
    """A table as Markdown, with a typographic minus in front of numbers, to paste into a document.

    Args:
        rows: The table.
        title: A paragraph before it.
    """
    lines = [title, ""] if title else []
    lines.append("| " + " | ".join(["", *rows.headings[1:]]) + " |")
    lines.append("|---|" + "---:|" * (len(rows.headings) - 1))
    for name, *numbers in rows.cells:
        shown = [re.sub(r"^-(?=\d)", "−", number) for number in numbers]
        lines.append("| " + " | ".join([name.replace("|", "\\|"), *shown]) + " |")
    if rows.note:
        lines += ["", rows.note.replace("*", "\\*")]
    return "\n".join(lines)


def points_table(curves: Sequence[Curve], rivals: Sequence[Curve], *, title: str) -> Table:
    """Every point of some curves, with its rate relative to rivals' at the same PSNR.

    Fits a terminal of 80 columns with two rivals.

    Args:
        curves: What is shown, of one picture or of a set.
        rivals: Curves of the same pictures; where one does not reach a PSNR the cell has a dash.
        title: What was measured.
    """
    shown = Text(title, style="table.title")
    table = Table(title=shown, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("", "quality", "bit/px", "PSNR dB", "encode s", "decode s"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for rival in rivals:
        table.add_column(Text(f"vs {rival.name}"), justify="right")
    for curve in curves:
        for i, p in enumerate(curve.points):
            cells = [
                curve.name if i == 0 else "",
                f"{p.setting:g}",
                f"{p.bpp:.3f}",
                f"{p.psnr:.2f}",
                f"{p.encode_seconds:.3f}",
                f"{p.decode_seconds:.3f}",
            ]
            cells += [_relative_rate(p.bpp, p.psnr, rival) for rival in rivals]
            table.add_row(*map(Text, cells), end_section=i == len(curve.points) - 1)
    return table


def covers(curve: Curve, low: float, high: float) -> bool:
    """Whether a curve's PSNR reaches from `low` to `high`."""
    return min(curve.psnr) <= low and high <= max(curve.psnr)


def _relative_rate(bpp: float, psnr: float, rival: Curve) -> str:
    if not covers(rival, psnr, psnr):
        return "–"
    return f"{(bpp / rival.bpp_at(psnr) - 1) * 100:+.0f} %"
