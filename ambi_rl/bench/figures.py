"""Rate-distortion plots, and figures as files: pictures, vector graphics, or a page of their own."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ambi_rl.bench.results import CurveEntry, Metric
from ambi_rl.codec.files import check_target, write_file
from ambi_rl.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf", "html")
LABELS: dict[str, str] = {
    "psnr": "PSNR [dB]",
    "psnr_luma": "luma PSNR [dB]",
    "ssim": "SSIM [dB]",
    "ms_ssim": "MS-SSIM [dB]",
}
"""Names of axes, by metric."""
_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>body {{ font-family: sans-serif; margin: 2em }} svg {{ max-width: 100%; height: auto }}</style>
<h1>{title}</h1>
{svg}
"""
Axes = tuple[float, float, float, float]


def check_figure(target: Path) -> None:
    """Find out before the work begins whether a figure could be written.

    Raises:
        UsageError: The name has no known suffix, or see `check_target`.
    """
    if target.suffix.removeprefix(".").lower() not in FORMATS:
        raise UsageError(f"{target} has no known format; use .png, .svg, .pdf or .html")
    check_target(target)


def write_figure(figure: Figure, target: Path, title: str) -> None:
    """Write a figure in the format that the name's suffix says.

    Args:
        figure: What to write.
        target: As for `check_figure`.
        title: Of the page, where it is one.

    Raises:
        UsageError: As `check_figure` does.
    """
    check_figure(target)
    kind = target.suffix.removeprefix(".").lower()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg" if kind == "html" else kind, dpi=150)
    data = buffer.getvalue()
    if kind == "html":
        svg = data.decode()
        data = _PAGE.format(title=html.escape(title), svg=svg[svg.index("<svg") :]).encode()
    write_file(target, data)


def draw_curves(
    curves: Sequence[CurveEntry], metric: Metric, *, title: str = "", axes: Axes | None = None
) -> Figure:
    """Rate-distortion curves in the manner of CompressAI's plots.

    Args:
        curves: At least one with the metric; the others are left out.
        metric: On the vertical axis, similarities in dB.
        title: Above the plot.
        axes: Least and greatest rate, least and greatest quality; None for all that there is.

    Raises:
        UsageError: No curve has the metric.
    """
    from matplotlib.figure import Figure

    drawn = [curve for curve in curves if curve.quality(metric)]
    if not drawn:
        raise UsageError(f"none of the curves has {metric}; choose another --metric")
    # Without pyplot there is no global state and no window.
    figure = Figure(figsize=(9, 6), layout="constrained")
    plot = figure.subplots()
    for i, curve in enumerate(drawn):
        # Ten colours, then the same ones with another line.
        style = (".-", ".--", ".:")[i // 10 % 3]
        plot.plot(curve.bpp, curve.quality(metric), style, label=curve.name)
    plot.set_xlabel("Bit-rate [bpp]")
    plot.set_ylabel(LABELS[metric])
    plot.set_title(title)
    plot.grid(alpha=0.3)
    plot.legend(loc="lower right", fontsize="small")
    if axes is not None:
        plot.axis(axes)
    return figure
