"""The report's page: what the templates in `page/` are filled with, and the one file that comes of it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import shlex
from collections.abc import Sequence
from datetime import datetime
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from ambi_rl.bench.codecs import AmbiCodec
from ambi_rl.bench.derive import as_curve, finite_points
from ambi_rl.bench.report import processes_text
from ambi_rl.bench.results import (
    METRICS,
    CodecEntry,
    CurveEntry,
    DeltaEntry,
    Metric,
    PointEntry,
    Results,
    curve_of,
)
from ambi_rl.bench.selector import make_codec
from ambi_rl.codec.api import resolve_bundle
from ambi_rl.codec.tables import SUPERBLOCK
from ambi_rl.errors import UsageError
from ambi_rl.palette import HEAT, colour_of, direction_of, offset_colour
from ambi_rl.report.views import Asset, Side, View, Views

METRIC_NAMES: dict[Metric, str] = {
    "psnr": "RGB-PSNR",
    "psnr_luma": "luma PSNR",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
}
_SCRIPTS = (
    "dom.js",
    "curves.js",
    "tables.js",
    "assets.js",
    "overlays.js",
    "viewport.js",
    "viewer.js",
    "main.js",
)
_RATE_ORDER = ("low", "middle", "high")

Json = dict[str, Any]


class _Assets:
    """Bytes for the page, each once, by number."""

    def __init__(self) -> None:
        self._numbers: dict[Asset, int] = {}

    def number(self, asset: Asset) -> int:
        """The number of these bytes in the page."""
        return self._numbers.setdefault(asset, len(self._numbers))

    def elements(self) -> str:
        """Script elements that nothing runs: a browser keeps their text and looks no further."""
        return "\n".join(
            f'<script type="{asset.mime};base64" id="asset-{number}">'
            f"{base64.b64encode(asset.data).decode()}</script>"
            for asset, number in self._numbers.items()
        )


class _Scripts(NamedTuple):
    """The page's code, in the order in which it runs."""

    theme: str
    script: str
    plotly: str
    start: str

    def policy(self) -> str:
        """A content security policy: these scripts and no others, and nothing from anywhere else."""
        digests = (hashlib.sha256(text.encode()).digest() for text in self)
        allowed = " ".join(f"'sha256-{base64.b64encode(d).decode()}'" for d in digests)
        return (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'"
        )


def render_page(results: Results, views: Views) -> str:
    """The report as HTML; equal results and views give an equal page.

    Raises:
        ModuleNotFoundError: The extra `bench`, which has the plotting library, is not installed.
    """
    assets = _Assets()
    title = title_of(results)
    scripts = _Scripts(
        theme=_template("theme.js"),
        script="\n".join(_template(name) for name in _SCRIPTS),
        plotly=_plotly(),
        start=_template("start.js"),
    )
    return Template(_template("page.html")).substitute(
        scripts._asdict(),
        policy=html.escape(scripts.policy()),
        title=html.escape(title),
        style=_template("page.css"),
        data=_json(page_data(results, views, assets)),
        assets=assets.elements(),
    )


def title_of(results: Results) -> str:
    """What was measured, in a few words."""
    folders = {Path(image.path).parent.name for image in results.images}
    place = f" of {folders.pop()}" if len(folders) == 1 and "" not in folders else ""
    return f"Rate and distortion on {_count(len(results.images), 'picture')}{place}"


def page_data(results: Results, views: Views, assets: _Assets) -> Json:
    """Everything that the page's scripts read, as JSON types."""
    curves, deltas = _curves(results), _deltas(results)
    pictures = [
        {
            "name": image.name,
            "curves": curves.get(image.name, {}),
            "deltas": deltas.get(image.name, {}),
        }
        for image in results.images
    ]
    named = [*results.means, *results.imported]
    return {
        "lede": _lede(results),
        "facts": _facts(results),
        "versions": [[name, version] for name, version in results.versions.items()],
        "command": shlex.join(["ambi", *results.command]),
        "failures": [[_place(f.codec, f.image, f.setting), f.message] for f in results.failures],
        "comparison": {
            "anchor": results.comparison.anchor,
            "low": results.comparison.low,
            "high": results.comparison.high,
        },
        "metrics": [{"id": metric, "name": METRIC_NAMES[metric]} for metric in _measured(results)],
        "codecs": _codecs(results),
        "summaryNote": _summary_note(results),
        "summary": [
            _summary_row(results, curve, deltas.get(None, {}).get(curve.name, {}))
            for curve in named
        ],
        "meanCount": len(results.mean_images),
        "meanCurves": {curve.name: _curve(curve) for curve in named},
        "pictures": pictures,
        "meanPicture": {"name": "Mean curve", "deltas": deltas.get(None, {})},
        "viewsNote": _views_note(results, views),
        "views": [_view(view, views.reference, results, assets) for view in views.pictures],
        "reference": views.reference,
        "superblock": SUPERBLOCK,
        "palette": {"heat": HEAT},
        **_lists(results, views),
    }


def _template(name: str) -> str:
    return resources.files("ambi_rl.report").joinpath("page", name).read_text("utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # A script ends at the first closing tag, whatever that is part of; in a string this means the same.
    return str(get_plotlyjs()).replace("</script", "<\\/script")


def _json(data: Json) -> str:
    """JSON that is safe inside a script element: no tag can begin or end in it."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _day(iso: str) -> str:
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def _lede(results: Results) -> str:
    names = [codec.name for codec in results.codecs]
    text = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
    if results.imported:
        text += f", with published curves of {', '.join(c.name for c in results.imported)}"
    return f"{text}. Real files, measured on {_day(results.date)}."


def _facts(results: Results) -> list[list[str]]:
    comparison, machine = results.comparison, results.machine
    sizes = sorted({(image.width, image.height) for image in results.images})
    shapes = ", ".join(f"{w}×{h}" for w, h in sizes[:3]) + (", …" if len(sizes) > 3 else "")
    crop = f", centre {results.crop} pixels" if results.crop else ""
    return [
        ["Pictures", f"{len(results.images)}: {shapes}{crop}"],
        ["Anchor", comparison.anchor],
        ["Quality range", f"{comparison.low:g} to {comparison.high:g} dB RGB-PSNR"],
        ["Interpolation", f"{comparison.interpolation.upper()}, log rate over quality"],
        [
            "Machine",
            f"{machine.cpu}, {_count(machine.cores, 'core')}, {machine.system}; "
            f"{processes_text(results)}",
        ],
        ["ambi-rl", results.versions.get("ambi-rl", "unknown")],
    ]


def _summary_note(results: Results) -> str:
    anchor = results.comparison.anchor
    low, high = results.comparison.low, results.comparison.high
    text = (
        f"BD-rate: mean difference in rate against {anchor} at equal quality, over the mean curves. RGB-PSNR "
        f"is compared over {low:g} to {high:g} dB, other metrics over what "
        f"{anchor} has there, similarities in dB. Seconds are wall-clock time of single calls. Headings sort."
    )
    left = len(results.images) - len(results.mean_images)
    if left:
        text += f" Left out: {_count(left, 'picture')} that not every codec managed."
    return text


def _measured(results: Results) -> list[Metric]:
    """Metrics that some curve has."""
    curves = [*results.means, *results.imported]
    return [m for m in METRICS if any(curve.quality(m) for curve in curves)] or ["psnr"]


def _codecs(results: Results) -> list[Json]:
    ours = [
        {
            "name": codec.name,
            "family": codec.family,
            "description": codec.description,
            "settingName": codec.setting_name,
            "imported": False,
        }
        for codec in results.codecs
    ]
    return ours + [
        {
            "name": curve.name,
            "family": "imported",
            "description": f"{curve.description} (from {curve.source})",
            "settingName": "setting",
            "imported": True,
        }
        for curve in results.imported
    ]


def _delta(delta: DeltaEntry) -> Json:
    return {
        "rate": delta.bd_rate,
        "low": delta.low,
        "high": delta.high,
        "whole": delta.is_whole,
    }


def _deltas(results: Results) -> dict[str | None, dict[str, Json]]:
    """By picture, None for the whole set, then by codec and metric."""
    found: dict[str | None, dict[str, Json]] = {}
    for delta in results.deltas:
        by_codec = found.setdefault(delta.image, {})
        by_codec.setdefault(delta.codec, {})[delta.metric] = _delta(delta)
    return found


def _curves(results: Results) -> dict[str, dict[str, Json]]:
    """By picture and codec, the curves that have all settings."""
    points: dict[tuple[str, str], list[PointEntry]] = {}
    for point in results.points:
        points.setdefault((point.image, point.codec), []).append(point)
    found: dict[str, dict[str, Json]] = {}
    for image in results.images:
        for codec in results.codecs:
            some = points.get((image.name, codec.name), [])
            if len(some) == len(codec.settings):
                found.setdefault(image.name, {})[codec.name] = _curve(curve_of(codec, some))
    return found


def _summary_row(results: Results, curve: CurveEntry, deltas: Json) -> Json:
    comparison = results.comparison
    psnr = results.delta(curve.name)
    try:
        finite = finite_points(as_curve(curve))
        middle = finite.bpp_at((comparison.low + comparison.high) / 2)
    except UsageError:
        middle = None
    codec = next((c for c in results.codecs if c.name == curve.name), None)
    return {
        "name": curve.name,
        "family": codec.family if codec else "imported",
        "description": curve.description,
        "imported": curve.source is not None,
        "anchor": curve.name == comparison.anchor,
        "deltas": deltas,
        "bdPsnr": psnr.bd_quality if psnr else None,
        "bdPsnrWhole": psnr is None or psnr.is_gain_whole,
        "bdPsnrRange": _rate_range(psnr),
        "bppAtMiddle": middle,
        "encode": _seconds(curve, curve.encode_seconds, comparison.low, comparison.high),
        "decode": _seconds(curve, curve.decode_seconds, comparison.low, comparison.high),
    }


def _rate_range(delta: DeltaEntry | None) -> str:
    """The rates that a BD-PSNR is over, in words."""
    if delta is None or delta.bpp_low is None or delta.bpp_high is None:
        return ""
    return f"over {delta.bpp_low:.3f} to {delta.bpp_high:.3f} bit/pixel"


def _seconds(curve: CurveEntry, seconds: Sequence[float], low: float, high: float) -> float | None:
    """Mean over the points in the range of qualities, or over all where none is in it."""
    if not seconds:
        return None
    inside = [s for s, q in zip(seconds, curve.psnr, strict=False) if low <= q <= high]
    chosen = inside or list(seconds)
    return sum(chosen) / len(chosen)


def _curve(curve: CurveEntry) -> Json:
    """A curve by metric id; a quality that is not finite (equal pictures) is null, which is not drawn."""
    found: Json = {"bpp": curve.bpp, "setting": curve.setting}
    for metric in METRICS:
        values = curve.quality(metric)
        if values:
            found[metric] = [v if math.isfinite(v) else None for v in values]
    return found


def _place(codec: str | None, image: str | None, setting: float | None) -> str:
    parts = [codec, image, None if setting is None else f"{setting:g}"]
    return ", ".join(part for part in parts if part is not None) or "benchmark"


def _views_note(results: Results, views: Views) -> str:
    full = f"The page was full {views.left_out}: --report-size makes it larger."
    problems = [f"Not shown: {problem}." for problem in views.problems]
    if not views.pictures:
        return " ".join([full, *problems] if views.left_out else problems)
    text = (
        f"Everything at one rate is as close in bytes to {views.reference} as a codec's setting allows; "
        "sizes are those of the real files. JPEG, WebP and AVIF are these files, decoded by this browser; "
        "other pictures are stored without loss."
    )
    if len(views.pictures) < len(results.images):
        text += f" {len(views.pictures)} of {len(results.images)} pictures are here."
    return " ".join([text, full, *problems] if views.left_out else [text, *problems])


def _view(view: View, reference: str, results: Results, assets: _Assets) -> Json:
    encoded = base64.b64encode(view.thumbnail.data).decode()
    return {
        "name": view.image.name,
        "width": view.image.width,
        "height": view.image.height,
        "original": assets.number(view.original),
        "thumbnail": f"data:{view.thumbnail.mime};base64,{encoded}",
        "thumbnailSize": view.thumbnail_size,
        "rates": [
            _rate(name, view, reference, results, assets)
            for name in _RATE_ORDER
            if name in view.sides
        ],
    }


def _rate(name: str, view: View, reference: str, results: Results, assets: _Assets) -> Json:
    pixels = view.image.width * view.image.height
    sides = view.sides[name]
    aim = next(side.size for side in sides if side.codec == reference)
    units = {codec.name: codec.setting_name for codec in results.codecs}
    return {
        "id": name,
        "label": name.capitalize(),
        "bytes": aim,
        "bpp": 8 * aim / pixels,
        "sides": {side.codec: _side(side, pixels, units[side.codec], assets) for side in sides},
    }


def _side(side: Side, pixels: int, unit: str, assets: _Assets) -> Json:
    packed = side.blocks
    return {
        "bytes": side.size,
        "bpp": 8 * side.size / pixels,
        "psnr": side.psnr,
        "msSsim": side.ms_ssim,
        "setting": side.setting,
        "settingName": unit,
        "asset": assets.number(side.shown),
        "blocks": packed
        and {
            "count": packed.blocks,
            "asset": assets.number(Asset("application/zlib", packed.data)),
        },
    }


def _lists(results: Results, views: Views) -> Json:
    """Strategies and offsets, by bundle, as colours and angles; codecs of one bundle share a list."""
    lists: list[Json] = []
    list_of: dict[str, int] = {}
    shown = {
        side.codec
        for view in views.pictures
        for sides in view.sides.values()
        for side in sides
        if side.blocks
    }
    for codec in results.codecs:
        if codec.name in shown:
            entry = _decision_lists(codec)
            if entry not in lists:
                lists.append(entry)
            list_of[codec.name] = lists.index(entry)
    return {"lists": lists, "listOf": list_of}


def _decision_lists(entry: CodecEntry) -> Json:
    codec = make_codec(entry.selector)
    bundle = resolve_bundle(codec.bundle if isinstance(codec, AmbiCodec) else None)
    return {
        "strategies": [
            {"name": name, "colour": colour_of(name), "angle": direction_of(name)}
            for name in bundle.strategies
        ],
        "offsets": [{"value": value, "colour": offset_colour(value)} for value in bundle.offsets],
    }
