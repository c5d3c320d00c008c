"""The result of a benchmark: what is derived from points, and its files."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from ambi_rl.bench.benchmark import RESULTS, Plan, run_benchmark, write_outputs
from ambi_rl.bench.codecs import Codec, jpeg, webp
from ambi_rl.bench.compressai import curve_document, read_curve
from ambi_rl.bench.curves import Curve, Point
from ambi_rl.bench.derive import as_entry, deltas, mean_images, means, whole_curves
from ambi_rl.bench.report import describe, markdown, result_rows, result_table
from ambi_rl.bench.results import (
    SCHEMA,
    CodecEntry,
    Comparison,
    ImageEntry,
    PointEntry,
    Results,
    from_json,
    load_results,
    save_results,
)
from ambi_rl.errors import UsageError

IMAGES = tuple(ImageEntry(name, f"in/{name}.png", 10, 10, "ff") for name in ("one", "two"))


def curve(name: str, bpp: list[float], psnr: list[float]) -> Curve:
    """With SSIM half, MS-SSIM a third of the PSNR in dB."""
    points = [
        Point(
            k,
            round(rate * 1000),
            rate,
            quality,
            1 - 10 ** (-quality / 20),
            1 - 10 ** (-quality / 30),
            0.1,
            0.01,
            quality + 1,
        )
        for k, (rate, quality) in enumerate(zip(bpp, psnr, strict=True))
    ]
    return Curve(name, f"how {name} was run", tuple(points))


def entry_of(codec: Curve) -> CodecEntry:
    return CodecEntry(codec.name, "", "", "", "", tuple(p.setting for p in codec.points))


def points_of(codec: Curve, image: str) -> list[PointEntry]:
    return [PointEntry(codec.name, image, **p._asdict()) for p in codec.points]


def compared(
    anchor: Curve, other: Curve, low: float, high: float
) -> dict[str, tuple[float | None, float | None, bool]]:
    """BD-rate, BD-quality and whether they are over the whole range, by metric."""
    whole = (as_entry(anchor), as_entry(other))
    found = deltas(Comparison(anchor.name, low, high), (), (), {}, whole)
    assert {d.codec for d in found} == {other.name}
    return {d.metric: (d.bd_rate, d.bd_quality, d.is_whole) for d in found}


def test_half_the_rate_is_minus_50_percent_in_every_metric() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0, 4.0], [30.0, 35.0, 40.0, 45.0])
    half = curve("half", [0.25, 0.5, 1.0, 2.0], [30.0, 35.0, 40.0, 45.0])
    for metric, (rate, gain, is_whole) in compared(anchor, half, 31, 44).items():
        # An octave of rate is 5 dB of PSNR, half of that of SSIM and a third of MS-SSIM.
        assert rate == pytest.approx(-50), metric
        octave = {"psnr": 5.0, "psnr_luma": 5.0, "ssim": 2.5, "ms_ssim": 5 / 3}[metric]
        assert gain == pytest.approx(octave), metric
        assert is_whole


def test_other_metrics_are_compared_where_the_anchor_has_the_range() -> None:
    # Half the rate up to 35 dB, equal above: the range decides what the mean is.
    anchor = curve("anchor", [0.5, 1.0, 2.0, 4.0], [30.0, 35.0, 40.0, 45.0])
    mixed = curve("mixed", [0.25, 0.5, 2.0, 4.0], [30.0, 35.0, 40.0, 45.0])
    for low, high in ((31, 34), (41, 44)):
        rates = [rate for rate, _, _ in compared(anchor, mixed, low, high).values()]
        assert rates == pytest.approx([rates[0]] * 4)
        assert rates[0] == pytest.approx(mixed.bd_rate(anchor, low=low, high=high))


def test_a_short_curve_is_compared_over_what_it_covers() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    short = curve("short", [0.5, 1.0], [33.0, 35.0])
    found = deltas(Comparison("anchor", 31, 39), (), (), {}, (as_entry(anchor), as_entry(short)))
    first = found[0]
    assert (first.metric, first.low, first.high, first.is_whole) == ("psnr", 33, 35, False)
    assert first.bd_rate == pytest.approx(short.bd_rate(anchor, low=33, high=35))
    assert first.bpp_low == pytest.approx(anchor.bpp_at(33))
    assert first.bpp_high == pytest.approx(1.0)
    far = curve("far", [0.5, 1.0], [50.0, 55.0])
    assert set(compared(anchor, far, 31, 39).values()) == {(None, None, False)}


def test_what_was_not_measured_is_not_compared() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    blind = Curve("blind", "", tuple(p._replace(ms_ssim=math.nan) for p in anchor.points))
    found = compared(anchor, blind, 31, 39)
    assert found["psnr"][0] == pytest.approx(0)
    assert found["ms_ssim"] == (None, None, False)
    # Nor are equal pictures, whose PSNR is infinite.
    last = anchor.points[-1]._replace(bpp=9.0, psnr=math.inf)
    lossless = Curve("lossless", "", (*anchor.points, last))
    assert compared(anchor, lossless, 31, 39)["psnr"][0] == pytest.approx(0)


def test_curves_of_equal_pictures_have_no_difference() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    equal = Curve("equal", "", tuple(p._replace(psnr=math.inf) for p in anchor.points))
    nothing = {(None, None, False)}
    # SSIM alone is finite, but says nothing about where to compare.
    assert set(compared(equal, anchor, 31, 39).values()) == nothing
    assert set(compared(anchor, equal, 31, 39).values()) == nothing
    # One point that is left is no curve.
    some = replace(equal, points=(anchor.points[0], *equal.points[1:]))
    assert set(compared(some, anchor, 31, 39).values()) == nothing


def test_an_anchor_that_lacks_a_part_marks_every_metric() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 38.0])
    other = curve("other", [0.2, 1.0, 4.0], [25.0, 36.0, 45.0])
    for metric, (rate, _, is_whole) in compared(anchor, other, 31, 40).items():
        assert rate is not None
        assert not is_whole, metric
    assert all(is_whole for _, _, is_whole in compared(anchor, other, 31, 37).values())


def test_a_gain_over_a_part_of_the_rates_is_marked(results: Results) -> None:
    # All of the qualities, but not of the anchor's rates there, which go down to 0.5.
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    dear = curve("dear", [0.8, 1.6, 3.2], [30.0, 35.0, 40.0])
    comparison = Comparison("anchor", 30, 40)
    whole = (as_entry(anchor), as_entry(dear))
    found = deltas(comparison, (), (), {}, whole)
    assert (found[0].is_whole, found[0].is_whole_rate) == (True, False)
    assert found[0].bpp_low == pytest.approx(0.8)
    table = replace(results, comparison=comparison, means=whole, imported=(), deltas=found)
    row = result_rows(table).cells[1]
    assert row[1] == "+60.0"
    assert row[5].endswith("*")
    assert "\\*" in markdown(result_rows(table))
    (covered, *_) = deltas(Comparison("anchor", 36, 37), (), (), {}, whole)
    assert covered.is_whole_rate


def test_results_of_before_gains_were_marked_are_read(results: Results) -> None:
    document = json.loads(json.dumps(results.to_json()))
    for delta in document["deltas"]:
        del delta["is_whole_rate"]
    old = from_json(document)
    assert {d.is_whole_rate for d in old.deltas} == {None}
    assert [d.is_gain_whole for d in old.deltas] == [d.is_whole for d in results.deltas]


def test_names_in_a_table_are_no_markup(results: Results) -> None:
    names = {"WebP": "VTM [intra]", "Old": "AV1 [/fast] :smile:", "JPEG 4:2:0": "[bold]JPEG"}
    odd = replace(
        results,
        comparison=replace(results.comparison, anchor="[bold]JPEG"),
        means=tuple(replace(c, name=names[c.name]) for c in results.means),
        imported=tuple(
            replace(c, name=names[c.name], description="by [/them]") for c in results.imported
        ),
    )
    console = Console(file=io.StringIO(), width=200)
    console.print(result_table(odd))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for part in (*names.values(), "by [/them]", "against [bold]JPEG"):
        assert part in text


def test_means_are_over_pictures_that_all_codecs_managed() -> None:
    a = curve("a", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    b = curve("b", [0.25, 0.5, 1.0], [30.0, 35.0, 40.0])
    none = curve("none", [1.0], [30.0])
    codecs = [entry_of(c) for c in (a, b, none)]
    points = points_of(a, "one") + points_of(a, "two") + points_of(b, "two")
    points += points_of(b, "one")[:2]
    curves = whole_curves(codecs, points)
    assert mean_images(codecs, IMAGES, curves) == ("two",)
    whole = means(codecs, ("two",), curves)
    assert [entry.name for entry in whole] == ["a", "b"]
    found = deltas(Comparison("a", 31, 39), codecs, IMAGES, curves, whole)
    assert {(d.codec, d.image) for d in found} == {("b", None), ("b", "two")}
    assert mean_images(codecs, IMAGES, {}) == ()


def test_a_mean_is_of_bits_and_decibels_at_each_setting() -> None:
    first = curve("a", [1.0, 2.0], [30.0, 34.0])
    second = curve("a", [2.0, 5.0], [32.0, 37.0])
    codecs = [entry_of(first)]
    points = points_of(first, "one") + points_of(second, "two")
    (mean,) = means(codecs, ("one", "two"), whole_curves(codecs, points))
    assert mean.bpp == (1.5, 3.5)
    assert mean.psnr == (31.0, 35.5)
    assert mean.psnr_luma == (32.0, 36.5)
    assert mean.quality("ssim")[0] == pytest.approx(-10 * math.log10(1 - mean.ssim[0]))


@pytest.fixture(scope="module")
def plan(photograph: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """JPEG, WebP and an imported curve on two pictures and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    photograph.save(folder / "a.png")
    photograph.rotate(180).save(folder / "b.png")
    (folder / "c.png").write_bytes(b"nothing")
    published = folder / "published.json"
    published.write_text(
        json.dumps({"name": "Old", "results": {"bpp": [4.0, 0.2], "psnr": [43, 27]}})
    )
    codecs: tuple[Codec, ...] = (jpeg(), webp())
    paths = tuple(folder / name for name in ("a.png", "b.png", "c.png"))
    comparison = Comparison("JPEG 4:2:0", 30, 38)
    return Plan(paths, codecs, (read_curve(published),), comparison, 64, command=("bench", "x"))


@pytest.fixture(scope="module")
def results(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_benchmark(plan, tmp_path_factory.mktemp("out"))


def test_a_benchmark_measures_everything(plan: Plan, results: Results) -> None:
    assert [(i.name, i.width, i.height) for i in results.images] == [("a", 64, 64), ("b", 64, 64)]
    settings = {codec.name: len(codec.settings) for codec in plan.codecs}
    assert len(results.points) == 2 * sum(settings.values())
    assert {p.ms_ssim for p in results.points} == {None}
    assert all(p.bpp == p.size * 8 / 64**2 for p in results.points)
    assert [c.name for c in results.means] == list(settings)
    assert results.mean_images == ("a", "b")
    (failure,) = results.failures
    assert failure.image is not None
    assert failure.image.endswith("c.png")
    assert results.versions["libwebp"]
    assert results.machine.cores > 0
    assert results.command == ("bench", "x")
    for name in ("WebP", "Old"):
        delta = results.delta(name)
        assert delta is not None
        assert delta.bd_rate is not None
    assert results.delta("WebP", "a") is not None
    assert results.delta("Old", "a") is None
    assert results.delta("JPEG 4:2:0") is None
    single = results.curve("WebP", "b")
    assert single is not None
    assert single.setting == webp().settings
    assert results.curve("WebP", "none") is None


def test_results_are_read_as_they_were_written(results: Results, tmp_path: Path) -> None:
    lossless = replace(results.points[0], psnr=math.inf)
    written = replace(results, points=(lossless, *results.points[1:]))
    save_results(written, tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    assert load_results(tmp_path / "r.json") == written
    # JavaScript reads neither Infinity nor NaN.
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "else"}, "no result of a benchmark"),
        ({"schema": SCHEMA + 1}, f"schema {SCHEMA + 1} of results is unknown"),
        ({"jobs": "two"}, 'results.jobs has an unexpected value, "two"'),
        ({"crop": "all"}, 'results.crop has an unexpected value, "all"'),
        ({"machine": None}, "results.machine has an unexpected value, null"),
        ({"failures": [{"codec": None}]}, r"results.failures\[0\] lacks the field image"),
        ({"more": 1}, "results has an unknown field, more"),
        ({"deltas": {}}, "results.deltas has an unexpected value"),
    ],
)
def test_what_is_no_result_is_refused(
    results: Results, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(results.to_json() | change))
    with pytest.raises(UsageError, match=message):
        load_results(path)


def test_a_result_that_is_no_json_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text("[1")
    with pytest.raises(UsageError, match="is not JSON"):
        load_results(tmp_path / "r.json")
    with pytest.raises(UsageError, match="does not exist"):
        load_results(tmp_path / "none.json")


def test_outputs(results: Results, tmp_path: Path) -> None:
    write_outputs(results, tmp_path)
    assert load_results(tmp_path / RESULTS) == results
    rows = list(csv.DictReader((tmp_path / "points.csv").open()))
    assert len(rows) == len(results.points)
    assert float(rows[0]["bpp"]) == results.points[0].bpp
    assert rows[0]["ms_ssim"] == ""
    changes = list(csv.DictReader((tmp_path / "deltas.csv").open()))
    assert len(changes) == len(results.deltas)
    assert sorted(p.name for p in (tmp_path / "curves").iterdir()) == [
        "jpeg-4-2-0.json",
        "webp.json",
    ]
    again = read_curve(tmp_path / "curves" / "webp.json")
    mean = results.mean("WebP")
    assert mean is not None
    assert replace(again, source=None) == mean
    assert "| WebP | −" in (tmp_path / "table.md").read_text()


def test_the_table_states_range_and_interpolation(results: Results) -> None:
    said = describe(results)
    assert "2 pictures, centre 64x64" in said
    assert "against JPEG 4:2:0 over RGB-PSNR 30…38 dB, pchip of log10(rate)" in said
    rows = result_rows(results)
    assert {len(cells) for cells in rows.cells} == {len(rows.headings)}
    assert [cells[0] for cells in rows.cells] == ["JPEG 4:2:0", "WebP", "Old"]
    assert rows.cells[0][1] == "anchor"
    delta = results.delta("WebP")
    assert delta is not None
    assert rows.cells[1][1] == f"{delta.bd_rate:+.1f}" + "*" * (not delta.is_whole)
    assert rows.cells[1][5].startswith(f"{delta.bd_quality:+.2f}")
    # Not measured: luma of the old curve, MS-SSIM of small pictures, its seconds.
    assert rows.cells[2][2] == rows.cells[1][4] == rows.cells[2][-1] == "–"
    console = Console(file=io.StringIO(), width=80)
    console.print(result_table(results))
    assert isinstance(console.file, io.StringIO)
    assert "libwebp" in console.file.getvalue()
    assert max(map(len, console.file.getvalue().splitlines())) <= 80
    assert markdown(rows).count("\n") == 4 + 2 * bool(rows.note)


def test_nothing_is_measured_twice(plan: Plan, tmp_path: Path) -> None:
    begun: list[tuple[int, int]] = []
    measured: list[object] = []
    for _ in range(2):
        run_benchmark(
            plan,
            tmp_path,
            begin=lambda work, known: begun.append((len(work), len(known))),
            done=lambda job, outcome: measured.append(job),
        )
    assert begun == [(38, 0), (38, 38)]
    assert len(measured) == 38


def test_points_of_other_runs_are_told(plan: Plan, tmp_path: Path) -> None:
    plan = replace(plan, codecs=(jpeg(),), imported=(), paths=plan.paths[:1])
    first = run_benchmark(plan, tmp_path)
    assert first.jobs == 1
    assert run_benchmark(plan, tmp_path).jobs == 1
    store = tmp_path / "points.jsonl"
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    assert {line["jobs"] for line in lines} == {1}
    assert lines[0]["machine"]["cpu"] == first.machine.cpu
    assert run_benchmark(replace(plan, workers=2), tmp_path).jobs is None
    # Elsewhere, or not known: lines of before this was kept.
    for change in ({"machine": lines[0]["machine"] | {"cpu": "another"}}, {"jobs": None}):
        text = [json.dumps(line | change) for line in lines[:1]] + list(map(json.dumps, lines[1:]))
        store.write_text("\n".join(text) + "\n")
        assert run_benchmark(plan, tmp_path).jobs is None
    del lines[0]["jobs"], lines[0]["machine"]
    store.write_text("\n".join(map(json.dumps, lines)) + "\n")
    mixed = run_benchmark(plan, tmp_path)
    assert mixed.jobs is None
    assert mixed.points == first.points
    assert "measured in several runs" in describe(mixed)
    assert from_json(json.loads(json.dumps(mixed.to_json()))) == mixed


def test_files_of_curves_are_distinct_and_of_this_result(results: Results, tmp_path: Path) -> None:
    write_outputs(results, tmp_path)
    one = results.means[0]
    named = tuple(
        replace(one, name=name) for name in ("ambi (a/x)", "ambi (a_x)", "été\udce9", "é")
    )
    points = tuple(replace(point, image="p\udce9") for point in results.points)
    write_outputs(replace(results, means=named, points=points), tmp_path)
    written = {path.name: path for path in (tmp_path / "curves").iterdir()}
    assert set(written) == {"ambi-a-x.json", "ambi-a-x-2.json", "t.json", "curve.json"}
    assert json.loads(written["ambi-a-x-2.json"].read_text())["name"] == "ambi (a_x)"
    assert "p\\udce9" in (tmp_path / "points.csv").read_text()
    assert "été\\udce9" in (tmp_path / "table.md").read_text()


def test_plans_that_cannot_work_are_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two codecs or curves are called 'WebP'"):
        run_benchmark(replace(plan, codecs=(webp(), jpeg(), webp())), tmp_path)
    with pytest.raises(UsageError, match="the anchor 'JPEG 4:2:0' is not measured"):
        run_benchmark(replace(plan, codecs=(webp(),)), tmp_path)
    with pytest.raises(UsageError, match=r"none of the pictures can be used: .*c\.png"):
        run_benchmark(replace(plan, paths=plan.paths[2:]), tmp_path)


def test_a_codec_that_fails_costs_only_its_own_curve(plan: Plan, tmp_path: Path) -> None:
    broken = replace(webp(), name="broken", settings=(10.0,), format="none")
    results = run_benchmark(replace(plan, codecs=(*plan.codecs, broken)), tmp_path)
    assert results.mean_images == ("a", "b")
    assert results.delta("WebP") is not None
    assert [(f.codec, f.setting) for f in results.failures[1:]] == [("broken", 10.0)] * 2
    assert from_json(json.loads(json.dumps(results.to_json()))) == results


def test_pictures_of_equal_names_are_told_apart(
    photograph: Image.Image, plan: Plan, tmp_path: Path
) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        photograph.save(tmp_path / folder / "same.png")
    paths = (tmp_path / "x" / "same.png", tmp_path / "y" / "same.png")
    results = run_benchmark(replace(plan, paths=paths), tmp_path)
    assert [image.name for image in results.images] == ["x/same.png", "y/same.png"]


def write(path: Path, results: object, **others: object) -> Path:
    path.write_text(json.dumps({"name": "n", "results": results, **others}))
    return path


def test_curves_of_compressai_are_read_with_their_older_names(tmp_path: Path) -> None:
    # As published: falling, with the names of older files, or with those of today.
    old = write(
        tmp_path / "old.json",
        {"bpp": [2, 1], "psnr": [40, 30], "ms-ssim": [0.99, 0.9], "encoding_time": [2.0, 1.0]},
        description="ffmpeg",
    )
    new = write(
        tmp_path / "new.json", {"bpp": [1, 2], "psnr-rgb": [30, 40], "ms-ssim-rgb": [10, 20]}
    )
    read = read_curve(old)
    assert (read.name, read.description, read.source) == ("n", "ffmpeg", str(old))
    assert (read.bpp, read.psnr, read.encode_seconds) == ((1, 2), (30, 40), (1, 2))
    assert read.ms_ssim == (0.9, 0.99)
    assert read.ssim == ()
    # Over 1 it can only be dB.
    assert read_curve(new).ms_ssim == pytest.approx((0.9, 0.99))
    assert read_curve(new).psnr == (30, 40)


def test_a_curve_is_written_in_the_schema_of_compressai() -> None:
    document = curve_document(as_entry(curve("a", [1.0, 2.0], [30.0, 34.0])))
    assert set(document) == {"name", "description", "results"}
    wanted = {"bpp", "psnr-rgb", "psnr-y", "ssim-rgb", "ms-ssim-rgb", "encoding_time"}
    assert wanted | {"decoding_time", "setting"} == set(document["results"])
    assert all(len(values) == 2 for values in document["results"].values())
    equal = curve("a", [1.0, 2.0, 3.0], [30.0, 34.0, math.inf])
    assert curve_document(as_entry(equal))["results"]["bpp"] == [1.0, 2.0]
    blind = Curve("a", "", (curve("a", [1.0], [30.0]).points[0]._replace(ssim=math.nan),))
    assert "ssim-rgb" not in curve_document(as_entry(blind))["results"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "is not in CompressAI's schema"),
        ({"psnr": [1, 2]}, "is not in CompressAI's schema"),
        ({"bpp": [1, 2], "vmaf": [1, 2]}, "has no metric .* it has bpp, vmaf"),
        ({"bpp": [1, 2], "psnr": [1]}, "psnr has 1 values, bpp has 2"),
        ({"bpp": [1, 2], "psnr": [1, "x"]}, "psnr is not a list of numbers"),
        ({"bpp": [1], "psnr": [1]}, "two rates or more"),
        ({"bpp": [0, 1], "psnr": [1, 2]}, "all positive"),
    ],
)
def test_what_is_no_curve_is_refused(tmp_path: Path, results: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_curve(write(tmp_path / "c.json", results))
