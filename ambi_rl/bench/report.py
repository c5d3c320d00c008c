"""Tables of rate-distortion results, for a terminal and for a document."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table

from ambi_rl.bench.curves import Curve, Metric
from ambi_rl.errors import UsageError


class Rows(NamedTuple):
    """A table's headings and cells; all columns but the first are numbers. A note explains marks in it."""

    headings: list[str]
    cells: list[list[str]]
    note: str = ""


def bd_rate_rows(curves: Mapping[str, Curve], anchor: str, low: float, high: float) -> Rows:
    """Codecs by BD-rate against one of them, in three metrics, with their mean times.

    PSNR is compared over `low`…`high`. SSIM and MS-SSIM are compared in dB, −10·log10(1 − x), over the
    range that the anchor has from `low` to `high` dB of PSNR; where a codec covers less of that range,
    over what it covers, and its cell is marked.

    Args:
        curves: Dataset-mean curves by name.
        anchor: Name of the curve that the others are compared with.
        low: Lower end of the PSNR range in dB.
        high: Upper end.

    Raises:
        UsageError: The anchor does not cover the range. Another curve that does not is in the table, with
            what it covers in the place of its BD-rate, so that a long measurement is not lost.
    """
    middle = (low + high) / 2
    headings = [
        "codec",
        f"BD-rate vs {anchor}",
        "in SSIM",
        "in MS-SSIM",
        f"bit/px at {middle:g} dB",
        "encode s",
        "decode s",
    ]
    reference = curves[anchor]
    reference.bd_rate(reference, low=low, high=high)  # The anchor itself must cover the range.
    rows = []
    for curve in curves.values():
        encode, decode = curve.mean_seconds(low, high)
        deltas = ["anchor", "", ""]
        if curve is not reference:
            deltas = [
                _bd_rate_cell(curve, reference, low, high),
                _structural_cell(curve, reference, "ssim", low, high),
                _structural_cell(curve, reference, "ms_ssim", low, high),
            ]
        at_middle = f"{curve.bpp_at(middle):.3f}" if covers(curve, middle, middle) else "–"
        rows.append([curve.name, *deltas, at_middle, f"{encode:.3f}", f"{decode:.3f}"])
    is_marked = any(cell.endswith("*") for row in rows for cell in row)
    return Rows(headings, rows, "* over the part of the range that it covers" if is_marked else "")


def bd_rate_table(
    curves: Mapping[str, Curve], anchor: str, low: float, high: float, *, title: str
) -> Table:
    """What `bd_rate_rows` has, for a terminal, with how each codec was run.

    Args:
        curves: See `bd_rate_rows`; so the next three and the errors.
        anchor: Name of a curve.
        low: In dB.
        high: In dB.
        title: What was measured.
    """
    rows = bd_rate_rows(curves, anchor, low, high)
    how = [f"{curve.name}: {curve.description}" for curve in curves.values()]
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        caption="\n".join([rows.note, *how] if rows.note else how),
        caption_justify="left",
    )
    for heading in rows.headings:
        table.add_column(heading, justify="right" if len(table.columns) else "left")
    for cells in rows.cells:
        table.add_row(*cells)
    return table


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
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1))
    for heading in ("", "quality", "bit/px", "PSNR dB", "encode s", "decode s"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for rival in rivals:
        table.add_column(f"vs {rival.name}", justify="right")
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
            table.add_row(*cells, end_section=i == len(curve.points) - 1)
    return table


def covers(curve: Curve, low: float, high: float) -> bool:
    """Whether a curve's PSNR reaches from `low` to `high`."""
    return min(curve.psnr) <= low and high <= max(curve.psnr)


def _bd_rate_cell(curve: Curve, anchor: Curve, low: float, high: float) -> str:
    if not covers(curve, low, high):
        return f"covers {min(curve.psnr):.1f}…{max(curve.psnr):.1f} dB"
    return f"{curve.bd_rate(anchor, low=low, high=high):+.1f} %"


def _structural_cell(curve: Curve, anchor: Curve, metric: Metric, low: float, high: float) -> str:
    wanted = anchor.quality_at(metric, low), anchor.quality_at(metric, high)
    has = curve.quality(metric)
    start, stop = max(wanted[0], min(has)), min(wanted[1], max(has))
    # False as well where the metric was not measured.
    if not start < stop < math.inf:
        return "–"
    try:
        delta = curve.bd_rate(anchor, low=start, high=stop, metric=metric)
    except UsageError:
        # Points of equal quality: no rate belongs to it.
        return "–"
    return f"{delta:+.1f} %{'' if (start, stop) == wanted else '*'}"


def _relative_rate(bpp: float, psnr: float, rival: Curve) -> str:
    if not covers(rival, psnr, psnr):
        return "–"
    return f"{(bpp / rival.bpp_at(psnr) - 1) * 100:+.0f} %"
