"""Tables of rate-distortion results for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from ambi_rl.bench.curves import Curve


def bd_rate_table(
    curves: Mapping[str, Curve], anchor: str, low: float, high: float, *, title: str
) -> Table:
    """Codecs by BD-rate against one of them, with their mean times.

    Args:
        curves: Dataset-mean curves by name.
        anchor: Name of the curve that the others are compared with.
        low: Lower end of the PSNR range in dB.
        high: Upper end.
        title: What was measured.

    Raises:
        UsageError: The anchor does not cover the range. Another curve that does not is in the table, with
            what it covers in the place of its BD-rate, so that a long measurement is not lost.
    """
    how = "\n".join(f"{curve.name}: {curve.description}" for curve in curves.values())
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, caption=how, caption_justify="left"
    )
    table.add_column("codec")
    table.add_column(f"BD-rate vs {anchor}", justify="right")
    middle = (low + high) / 2
    table.add_column(f"bit/px at {middle:g} dB", justify="right")
    table.add_column("encode s", justify="right")
    table.add_column("decode s", justify="right")
    reference = curves[anchor]
    reference.bd_rate(reference, low=low, high=high)  # The anchor itself must cover the range.
    for curve in curves.values():
        encode, decode = curve.mean_seconds(low, high)
        table.add_row(
            curve.name,
            "anchor" if curve is reference else _bd_rate_cell(curve, reference, low, high),
            f"{curve.bpp_at(middle):.3f}" if covers(curve, middle, middle) else "–",
            f"{encode:.3f}",
            f"{decode:.3f}",
        )
    return table


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


def _relative_rate(bpp: float, psnr: float, rival: Curve) -> str:
    if not covers(rival, psnr, psnr):
        return "–"
    return f"{(bpp / rival.bpp_at(psnr) - 1) * 100:+.0f} %"
