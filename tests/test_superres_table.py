"""Comparisons of generators: values, intervals over seeds, equal bytes, going on, and sheets of crops."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from ambi_rl import metrics
from ambi_rl.bench import superres_table
from ambi_rl.bench.codecs import jpeg, webp
from ambi_rl.bench.superres_codecs import resampled
from ambi_rl.bench.superres_sheet import Box, Panel, draw_sheet, make_panels, middle
from ambi_rl.bench.superres_table import (
    Method,
    Request,
    RowStore,
    estimate,
    make_methods,
    markdown_tables,
    measure_all,
    row_at_bytes,
    summarize,
)
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.superres.bundle import save_bundle
from ambi_rl.superres.scores import make_score
from tests.superres_models import tiny_bundle

SCRIPTS = Path(__file__).parent.parent / "scripts"
NAMES = ("a1", "a2", "a3", "b1", "b2", "b3")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods of three seeds, and a bundle of another scale."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(NAMES):
        bundle = tiny_bundle(2, seed=seed, strength=0.01 if name[0] == "a" else 0.005)
        save_bundle(bundle, folder / f"{name}.ambic")
    save_bundle(tiny_bundle(4), folder / "x4.ambic")
    return folder


@pytest.fixture(scope="module")
def pictures(photograph: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One picture in which MS-SSIM's scales fit, and one in which they do not."""
    folder = tmp_path_factory.mktemp("pictures")
    photograph.resize((221, 180), Image.Resampling.BICUBIC).save(folder / "large.png")
    photograph.crop((0, 0, 81, 64)).save(folder / "small.png")
    return [folder / "large.png", folder / "small.png"]


def methods_of(bundles: Path) -> tuple[Method, ...]:
    given = {name: [bundles / f"{name}{seed}.ambic" for seed in (1, 2, 3)] for name in ("a", "b")}
    return make_methods(given, "jpeg")


def request_of(bundles: Path, sets: dict[str, list[Path]], **others: Any) -> Request:
    return Request(
        sets=sets,
        methods=methods_of(bundles),
        formats=[jpeg(), webp(method=0)],
        qualities=[40.0],
        score=make_score("recompressed_psnr", quality=50),
        score_text="recompressed_psnr (JPEG 50)",
        **others,
    )


@pytest.fixture(scope="module")
def summary(bundles: Path, pictures: list[Path]) -> dict[str, Any]:
    request = request_of(bundles, {"one": pictures[:1], "two": pictures})
    return summarize(request, measure_all(request, RowStore(None)))


def column(summary: dict[str, Any], table: int, name: str) -> dict[str, Any]:
    return next(c for c in summary["tables"][table]["columns"] if c["name"] == name)


def test_an_interval_is_students() -> None:
    for count in (2, 3, 5, 11):
        values = np.random.default_rng(count).normal(20, 2, count)
        low, high = stats.t.interval(0.95, count - 1, loc=values.mean(), scale=stats.sem(values))
        found = estimate(values.tolist())
        assert found.mean == pytest.approx((low + high) / 2)
        assert found.half_width == pytest.approx((high - low) / 2, rel=1e-3)
    assert estimate([3.0]) == (3.0, None)
    # With more seeds than there are quantiles, a little wider than need be.
    values = np.random.default_rng(0).normal(size=30)
    exact = stats.t.ppf(0.975, 29) * stats.sem(values)
    assert exact < (estimate(values.tolist()).half_width or 0) < 1.1 * exact


def test_rows_are_of_real_files(
    bundles: Path, pictures: list[Path], summary: dict[str, Any]
) -> None:
    image = Image.open(pictures[0]).convert("RGB")
    codec = methods_of(bundles)[1].codecs[2]
    data = codec.encode(image, 40)
    original, copy = np.asarray(image), np.asarray(codec.decode(data))
    assert column(summary, 0, "b")["rows"][2] == [
        {
            "setting": 40.0,
            "bytes": len(data),
            "psnr": pytest.approx(metrics.psnr(original, copy)),
            "ms_ssim": metrics.ms_ssim(original, copy),
            "ssim": metrics.ssim(original, copy),
            "score": make_score("recompressed_psnr", quality=50).mean(original, copy),
            "is_within": True,
        }
    ]
    plain = resampled(scale=2, method="bicubic")
    found = column(summary, 0, "Bicubic")["rows"][0][0]
    assert found["bytes"] == len(plain.encode(image, 40))
    shown = np.asarray(plain.decode(plain.encode(image, 40)))
    assert found["psnr"] == pytest.approx(metrics.psnr(original, shown))


def test_means_are_over_pictures_and_intervals_over_seeds(summary: dict[str, Any]) -> None:
    found = column(summary, 1, "a")
    psnr = np.array([[row["psnr"] for row in rows] for rows in found["rows"]])
    assert psnr.shape == (3, 2)
    assert found["psnr"]["seeds"] == pytest.approx(psnr.mean(axis=1))
    assert found["psnr"]["mean"] == pytest.approx(psnr.mean())
    half = stats.t.ppf(0.975, 2) * stats.sem(psnr.mean(axis=1))
    assert found["psnr"]["half_width"] == pytest.approx(half, rel=1e-3)
    # One of the pictures is too small for it.
    assert found["ms_ssim"] is None
    assert column(summary, 0, "a")["ms_ssim"] is not None
    assert column(summary, 0, "Lanczos")["psnr"]["half_width"] is None


def test_differences_are_of_paired_seeds(summary: dict[str, Any]) -> None:
    (found,) = summary["tables"][0]["differences"]
    assert (found["name"], found["minus"]) == ("b", "a")
    a, b = (np.array(column(summary, 0, name)["psnr"]["seeds"]) for name in "ab")
    assert found["psnr"]["seeds"] == pytest.approx(b - a)
    assert found["psnr"]["half_width"] == pytest.approx(
        stats.t.ppf(0.975, 2) * stats.sem(b - a), rel=1e-3
    )


def test_formats_spend_the_same_bytes(summary: dict[str, Any]) -> None:
    goal = column(summary, 0, "a")["bytes"]
    assert column(summary, 0, "b")["bytes"] == goal
    for name in ("JPEG 4:2:0", "WebP m0"):
        found = column(summary, 0, name)
        assert found["kind"] == "format"
        assert found["out_of_reach"] == 0
        # Qualities are integers.
        assert found["bytes"] == pytest.approx(goal, rel=0.05)


def test_what_cannot_be_so_small_says_so(pictures: list[Path]) -> None:
    image = Image.open(pictures[0]).convert("RGB")
    row = row_at_bytes(jpeg(), image, 300, make_score("psnr"))
    assert not row.is_within
    assert row.bytes == len(jpeg().encode(image, 1))
    assert row.setting == 1


def test_tables_say_it_all(summary: dict[str, Any]) -> None:
    assert json.loads(json.dumps(summary)) == summary
    text = markdown_tables(summary)
    bpp = 8 * column(summary, 0, "a")["bytes"] / (221 * 180)
    assert f"### one: 1 picture shrunk by 2, jpeg of quality 40, {bpp:.4f} bit/pixel" in text
    assert "### two: 2 pictures shrunk by 2" in text
    assert "|  | bytes | PSNR, dB | MS-SSIM | SSIM | recompressed_psnr (JPEG 50) |" in text
    psnr = column(summary, 0, "a")["psnr"]
    assert f"| {psnr['mean']:.2f} ± {psnr['half_width']:.2f} |" in text
    (difference,) = summary["tables"][0]["differences"]
    shown = f"{difference['psnr']['mean']:+.2f}".replace("-", "−")
    assert f"| b − a | {shown} ± " in text
    small = text.split("### two")[1]
    assert "| — |" in small
    beyond = json.loads(json.dumps(summary))
    beyond["tables"][0]["columns"][-1]["out_of_reach"] = 1
    assert "(1 out of reach) |" in markdown_tables(beyond)
    # Not twice.
    beyond["request"]["score"] = "psnr"
    assert "|  | bytes | PSNR, dB | MS-SSIM | SSIM |\n" in markdown_tables(beyond)


def test_pictures_are_cropped(bundles: Path, pictures: list[Path]) -> None:
    request = request_of(bundles, {"one": pictures[:1]}, crop=60)
    found = summarize(request, measure_all(request, RowStore(None)))
    (table,) = found["tables"]
    assert table["bpp"] == pytest.approx(8 * table["columns"][2]["bytes"] / 60**2)
    assert table["columns"][0]["ms_ssim"] is None


def test_it_goes_on_where_it_was(
    bundles: Path, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(bundles, {"two": pictures[1:]})
    path = tmp_path / "rows.jsonl"
    first = measure_all(request, RowStore(path))
    lines = path.read_text().splitlines()
    # Two interpolations, two methods of three seeds, two formats.
    assert len(lines) == 10
    path.write_text("\n".join([*lines[:7], lines[7][:20]]))
    done: list[object] = []
    measure = superres_table.measure_row

    def count(*arguments: Any, **others: Any) -> Any:
        done.append(arguments)
        return measure(*arguments, **others)

    monkeypatch.setattr(superres_table, "measure_row", count)
    assert measure_all(request, RowStore(path)) == first
    assert len(done) == 3
    assert measure_all(request, RowStore(path)) == first
    assert len(done) == 3
    # Another score is another row.
    other = replace(request, score=make_score("ssim"), score_text="ssim")
    measure_all(other, RowStore(path))
    assert len(done) == 13


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one method"),
        ({"a": []}, "at least one bundle"),
        ({"a": ["a1", "a2"], "b": ["b1"]}, "paired by seed, but a has 2, b has 1 bundles"),
        ({"a": ["a1"], "b": ["x4"]}, "bundles enlarge by 2 and 4"),
        ({"a": ["none"]}, "does not exist"),
    ],
)
def test_methods_that_cannot_be_compared(
    bundles: Path, given: dict[str, list[str]], message: str
) -> None:
    paths = {name: [bundles / f"{n}.ambic" for n in names] for name, names in given.items()}
    with pytest.raises(AmbiError, match=message):
        make_methods(paths, "jpeg")


def test_columns_need_names_of_their_own(bundles: Path, pictures: list[Path]) -> None:
    request = request_of(bundles, {"one": pictures})
    request = replace(request, methods=[Method("Lanczos", request.methods[0].codecs)])
    with pytest.raises(UsageError, match="two columns of the table are called 'Lanczos'"):
        measure_all(request, RowStore(None))


def test_panels_are_crops_of_what_is_decoded(bundles: Path, pictures: list[Path]) -> None:
    image = Image.open(pictures[0]).convert("RGB")
    methods = methods_of(bundles)
    box = Box(100, 60, 48)
    panels = list(make_panels(image, box, methods, [jpeg(), webp(method=0)], 40))
    names = [panel.name for panel in panels]
    assert names == ["original", "Lanczos", "a", "b", "JPEG 4:2:0", "WebP m0"]
    place = np.s_[60:108, 100:148]
    np.testing.assert_array_equal(panels[0].pixels, np.asarray(image)[place])
    codec = methods[1].codecs[0]
    data = codec.encode(image, 40)
    decoded = np.asarray(codec.decode(data))
    np.testing.assert_array_equal(panels[3].pixels, decoded[place])
    psnr = metrics.psnr(np.asarray(image), decoded)
    assert panels[3].told == f"{len(data):,} bytes, {psnr:.2f} dB"
    assert abs(int(panels[4].told.split()[0].replace(",", "")) / len(data) - 1) < 0.05
    assert " at least" not in panels[4].told
    with pytest.raises(UsageError, match="a crop of 48 pixels at 200,60 is not within"):
        list(make_panels(image, Box(200, 60, 48), methods, [], 40))


def test_a_sheet_has_them_all_in_their_places() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    panels = [
        Panel(f"p{i}", "1 byte", np.full((30, 30, 3), colour, np.uint8))
        for i, colour in enumerate(colours)
    ]
    sheet = Image.open(io.BytesIO(draw_sheet([panels, panels[:1]], columns=2, zoom=3)))
    # Three panels take two rows, the one of the other picture another.
    assert sheet.size == (8 + 2 * 98, 8 + 3 * (90 + 38 + 8))
    pixels = np.asarray(sheet)
    for index, (x, y) in enumerate([(8, 46), (106, 46), (8, 182)]):
        assert (pixels[y : y + 90, x : x + 90] == colours[index]).all()
    assert (pixels[318:408, 8:98] == colours[0]).all()
    # There are letters above.
    assert (pixels[8:46, 8:98] < 128).any()
    assert middle(sheet, 100) == (52, 158, 100)


def script(name: str, *arguments: object, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr


def test_the_script_writes_tables(bundles: Path, pictures: list[Path], tmp_path: Path) -> None:
    shots = tmp_path / "shots"
    shots.mkdir()
    for name in ("held-out-x.png", "train-y.png"):
        (shots / name).write_bytes(pictures[1].read_bytes())
    out = tmp_path / "out"
    text = script(
        "bench_superres", "-d", out, "--held-out", shots, "--set", "Kodak", pictures[1],
        "--method", "SRResNet", bundles / "a1.ambic", bundles / "a2.ambic",
        "--method", "SRGAN", bundles / "b1.ambic", bundles / "b2.ambic",
        "--quality", 30, "--quality", 60, "--format", "jpeg", "--score", "recompressed_psnr",
        "--score-quality", 40, "--crop", 64,
    )  # fmt: skip
    assert (out / "tables.md").read_text() == text
    assert "### held-out: 1 picture shrunk by 2, jpeg of quality 30" in text
    assert "### Kodak: 1 picture shrunk by 2, jpeg of quality 60" in text
    assert "recompressed_psnr (JPEG 40)" in text
    assert "| SRGAN − SRResNet |" in text
    summary = json.loads((out / "results.json").read_text())
    assert [t["quality"] for t in summary["tables"]] == [30, 60, 30, 60]
    assert summary["tables"][0]["pictures"] == ["held-out-x.png"]
    assert len(column(summary, 0, "SRGAN")["rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "A"], "--method A names no files"),
        (["--method", "A", "{a1}"], "give --held-out or --set"),
        (
            ["--method", "A", "{a1}", "--set", "k", "{p}", "--score", "function"],
            "names no function",
        ),
    ],
)
def test_wrong_use_is_one_line(
    bundles: Path, pictures: list[Path], tmp_path: Path, arguments: list[str], message: str
) -> None:
    known = {"{a1}": str(bundles / "a1.ambic"), "{p}": str(pictures[0])}
    given = [known.get(argument, argument) for argument in arguments]
    said = script("bench_superres", "-d", tmp_path / "out", *given, status=2)
    assert said.startswith("bench_superres: ")
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_script_draws_a_sheet(bundles: Path, pictures: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "sheet.png"
    common = ["--method", "SRResNet", bundles / "a1.ambic", "--format", "webp", "--side", 40]
    script("superres_sheet", f"{pictures[0]}@20,10", pictures[1], *common, "--out", target)
    with Image.open(target) as sheet:
        assert sheet.size == (8 + 4 * 88, 8 + 2 * (80 + 38 + 8))
    said = script(
        "superres_sheet", f"{pictures[0]}@20", *common, "--out", tmp_path / "x.png", status=2
    )
    assert "give the corner as x,y in pixels" in said
    assert not (tmp_path / "x.png").exists()
