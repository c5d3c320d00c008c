"""Benchmarks: peers, curves, caching over a folder, tables, and the script."""

from __future__ import annotations

import io
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ambi_rl.bench.codecs import AMBI_QUALITIES, PEERS, Codec, ambi_codec, jpeg, peer, webp
from ambi_rl.bench.curves import Curve, Point, mean_curve, measure, measure_curve
from ambi_rl.bench.dataset import (
    Job,
    PeerCache,
    dataset_curves,
    mean_curves,
    pictures,
    run_job,
)
from ambi_rl.bench.report import Rows, bd_rate_rows, bd_rate_table, markdown, points_table
from ambi_rl.errors import UsageError

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_kodak.py"


def curve(name: str, bpp: list[float], psnr: list[float]) -> Curve:
    points = [
        # SSIM so that it is half, MS-SSIM so that it is a third of the PSNR in dB.
        Point(
            setting,
            round(rate * 1000),
            rate,
            quality,
            1 - 10 ** (-quality / 20),
            1 - 10 ** (-quality / 30),
            0.1 * setting,
            0.01,
        )
        for setting, (rate, quality) in enumerate(zip(bpp, psnr, strict=True))
    ]
    return Curve(name, f"how {name} was run", tuple(points))


def text_of(table: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, photograph: Image.Image) -> Path:
    """Three small pictures and a file that is none."""
    for i in range(3):
        photograph.rotate(90 * i).resize((96, 64)).save(tmp_path / f"p{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def made(name: str) -> Codec:
    try:
        return peer(name)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", list(PEERS))
def test_peers_trade_rate_for_quality(name: str, photograph: Image.Image) -> None:
    codec = made(name)
    low, high = (measure(codec, photograph, codec.settings[i]) for i in (1, -2))
    assert low.size < high.size
    assert 20 < low.psnr < high.psnr < 60
    assert low.ms_ssim < high.ms_ssim < 1
    assert low.ssim < high.ssim < 1
    assert low.bpp == low.size * 8 / (photograph.width * photograph.height)
    assert low.encode_seconds > 0
    assert low.decode_seconds > 0


def test_structural_metrics_can_be_left_out(photograph: Image.Image) -> None:
    point = measure(jpeg(), photograph, 50, structural=False)
    assert math.isnan(point.ms_ssim)
    assert math.isnan(point.ssim)
    document = Curve("a", "", (point,)).as_json()
    assert document["results"]["ms-ssim-rgb"] == document["results"]["ssim-rgb"] == []
    assert json.loads(json.dumps(document)) == document


def test_jpeg_is_what_pillow_writes(photograph: Image.Image) -> None:
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=77, optimize=True, subsampling="4:2:0")
    assert jpeg().encode(photograph, 77) == buffer.getvalue()
    assert len(jpeg(full_chroma=True).encode(photograph, 77)) > len(buffer.getvalue())


def test_ambi_is_measured_like_a_peer(photograph: Image.Image) -> None:
    measured = measure_curve(ambi_codec(strategist="fixed", qualities=(40, 80)), photograph)
    assert [p.setting for p in measured.points] == [40, 80]
    assert measured.points[0].size < measured.points[1].size
    assert measured.points[0].psnr < measured.points[1].psnr
    assert ambi_codec(effort=9).settings == AMBI_QUALITIES


def test_unknown_and_unusable_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="no peer 'gif'; choose among jpeg,"):
        peer("gif")
    with pytest.raises(UsageError, match="mode L"):
        measure(jpeg(), Image.new("L", (64, 64)), 50)


def test_mean_curve_averages_pictures_at_each_setting() -> None:
    mean = mean_curve([curve("a", [1.0, 2.0], [30.0, 34.0]), curve("a", [2.0, 5.0], [32.0, 37.0])])
    assert mean.bpp == [1.5, 3.5]
    assert mean.psnr == [31.0, 35.5]
    assert mean.points[1].setting == 1
    with pytest.raises(UsageError, match="equal settings"):
        mean_curve([curve("a", [1.0], [30.0]), curve("a", [1.0, 2.0], [30.0, 34.0])])


def test_curves_compare() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    half = curve("half", [0.25, 0.5, 1.0], [30.0, 35.0, 40.0])
    assert half.bd_rate(anchor, low=31, high=39) == pytest.approx(-50)
    assert half.bpp_at(35.0) == pytest.approx(0.5)
    assert half.mean_seconds(low=34, high=36) == pytest.approx((0.1, 0.01))
    with pytest.raises(UsageError, match="half against anchor: the anchor curve covers quality"):
        half.bd_rate(anchor, low=29, high=39)
    with pytest.raises(UsageError, match="half: the curve covers"):
        half.bpp_at(50.0)


def test_curve_is_written_in_the_schema_of_compressai() -> None:
    document = curve("a", [1.0, 2.0], [30.0, 34.0]).as_json()
    assert set(document) == {"name", "description", "results"}
    wanted = {"bpp", "psnr-rgb", "ssim-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"}
    assert wanted <= set(document["results"])
    assert all(len(values) == 2 for values in document["results"].values())


def test_pictures_of_a_folder(folder: Path) -> None:
    assert [p.name for p in pictures(folder)] == ["p0.png", "p1.png", "p2.png"]
    assert [p.name for p in pictures(folder, every=2)] == ["p0.png", "p2.png"]
    with pytest.raises(UsageError, match="is not a folder"):
        pictures(folder / "none")
    (folder / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no picture"):
        pictures(folder / "empty")
    with pytest.raises(UsageError, match="every is 0"):
        pictures(folder, every=0)


def test_results_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    codecs = [jpeg(), webp()]
    paths = pictures(folder)
    alone = dataset_curves(codecs, paths, jobs=1)
    together = dataset_curves(codecs, paths, jobs=2)
    for name in ("JPEG 4:2:0", "WebP"):
        assert [c.bpp for c in alone[name]] == [c.bpp for c in together[name]]
    assert alone["WebP"][1].bpp == run_job(Job(webp(), paths[1])).bpp


def test_cache_remembers_peers_but_not_ambi(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    paths = pictures(folder)
    calls: list[str] = []

    def note(job: Job, measured: Curve) -> None:
        calls.append(job.codec.name)

    first = dataset_curves([jpeg()], paths, cache=PeerCache(file), progress=note)
    again = dataset_curves([jpeg()], paths, cache=PeerCache(file), progress=note)
    assert len(calls) == 3
    assert first == again
    ours = Job(ambi_codec(effort=9), paths[0])
    cache = PeerCache(file)
    cache.put(ours, first["JPEG 4:2:0"][0])
    assert cache.get(ours) is None
    file.write_text("{")
    with pytest.raises(UsageError, match="is not a cache file"):
        PeerCache(file)


def test_cache_entries_of_other_metrics_are_measured_anew(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "cache.json"
    paths = pictures(folder)[:1]
    first = dataset_curves([jpeg()], paths, cache=PeerCache(file))
    entries = json.loads(file.read_text())
    # As versions wrote them that did not measure SSIM.
    old = {key: [row[:4] + row[5:] for row in rows] for key, rows in entries.items()}
    file.write_text(json.dumps(old))
    assert PeerCache(file).get(Job(jpeg(), paths[0])) is None
    again = dataset_curves([jpeg()], paths, cache=PeerCache(file))
    assert again["JPEG 4:2:0"][0].quality("ssim") == first["JPEG 4:2:0"][0].quality("ssim")
    assert PeerCache(file).get(Job(jpeg(), paths[0])) == again["JPEG 4:2:0"][0]


def test_cache_of_another_file_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UsageError, match="is not a cache file"):
        PeerCache(tmp_path / "list.json")


def test_bd_rate_table() -> None:
    curves = {
        "anchor": curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0]),
        "half": curve("half", [0.25, 0.5, 1.0], [30.0, 35.0, 40.0]),
    }
    curves["short"] = curve("short", [0.5, 1.0], [33.0, 35.0])
    text = text_of(bd_rate_table(curves, "anchor", 31, 39, title="two curves"))
    assert "two curves" in text
    assert "-50.0 %" in text
    assert "bit/px at 35 dB" in text
    assert "how half was run" in text
    assert "covers 33.0…35.0 dB" in text
    with pytest.raises(UsageError, match="anchor curve covers"):
        bd_rate_table(curves, "anchor", 31, 41, title="too wide")


def test_similarities_are_compared_in_decibels() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    assert anchor.quality("ssim") == pytest.approx([15, 17.5, 20])
    assert anchor.quality("ms_ssim") == pytest.approx([10, 35 / 3, 40 / 3])
    assert anchor.quality_at("ssim", 33) == pytest.approx(16.5)
    point = anchor.points[0]._replace(ssim=1.0, ms_ssim=math.nan)
    equal = Curve("equal", "", (point,))
    assert equal.quality("ssim") == [math.inf]
    assert math.isnan(equal.quality("ms_ssim")[0])
    half = curve("half", [0.25, 0.5, 1.0], [30.0, 35.0, 40.0])
    assert half.bd_rate(anchor, metric="ssim") == pytest.approx(-50)
    with pytest.raises(UsageError, match="does not cover 41 dB"):
        anchor.quality_at("ssim", 41)


def cells(curves: list[Curve], low: float, high: float) -> dict[str, list[str]]:
    rows = bd_rate_rows({c.name: c for c in curves}, curves[0].name, low, high)
    assert {len(row) for row in rows.cells} == {len(rows.headings)}
    return {row[0]: row[1:] for row in rows.cells}


def test_similarities_are_compared_over_the_range_of_the_anchor() -> None:
    # Half the rate up to 35 dB, equal above: the range decides what the mean is.
    anchor = curve("anchor", [0.5, 1.0, 2.0, 4.0], [30.0, 35.0, 40.0, 45.0])
    mixed = curve("mixed", [0.25, 0.5, 2.0, 4.0], [30.0, 35.0, 40.0, 45.0])
    for low, high in ((31, 34), (41, 44)):
        table = cells([anchor, mixed], low, high)
        expected = mixed.bd_rate(anchor, low=low, high=high)
        assert table["mixed"][:3] == [f"{expected:+.1f} %"] * 3
    assert table["anchor"][:3] == ["anchor", "", ""]
    short = curve("short", [0.5, 1.0], [33.0, 35.0])
    table = cells([anchor, short], 31, 39)
    same = f"{short.bd_rate(anchor, low=33, high=35):+.1f} %"
    assert table["short"][:3] == ["covers 33.0…35.0 dB", same + "*", same + "*"]
    far = curve("far", [0.5, 1.0], [50.0, 55.0])
    assert cells([anchor, far], 31, 39)["far"][1:3] == ["–", "–"]


def test_what_was_not_measured_or_is_equal_has_a_dash() -> None:
    anchor = curve("anchor", [0.5, 1.0, 2.0], [30.0, 35.0, 40.0])
    points = [p._replace(ssim=math.nan, ms_ssim=0.97) for p in anchor.points]
    assert cells([anchor, Curve("other", "", tuple(points))], 31, 39)["other"][1:3] == ["–", "–"]
    unmeasured = [p._replace(ssim=math.nan, ms_ssim=math.nan) for p in anchor.points]
    half = curve("half", [0.25, 0.5, 1.0], [30.0, 35.0, 40.0])
    plain = Curve("plain", "", tuple(unmeasured))
    assert cells([plain, half], 31, 39)["half"][:3] == ["-50.0 %", "–", "–"]


def test_markdown() -> None:
    rows = Rows(
        ["codec", "vs a", "s"], [["a -e 9", "anchor", "1"], ["b", "-3.1 %*", "2"]], "* part"
    )
    assert markdown(rows, title="Two").splitlines() == [
        "Two",
        "",
        "|  | vs a | s |",
        "|---|---:|---:|",
        "| a -e 9 | anchor | 1 |",
        "| b | −3.1 %* | 2 |",
        "",
        "\\* part",
    ]


def test_points_table_compares_at_equal_psnr() -> None:
    ours = curve("ours", [0.5, 1.0, 4.0], [30.0, 35.0, 50.0])
    rival = curve("rival", [1.0, 2.0], [29.0, 36.0])
    text = text_of(points_table([ours], [rival], title="one picture"))
    expected = (0.5 / rival.bpp_at(30.0) - 1) * 100
    assert f"{expected:+.0f} %" in text
    last = next(line for line in text.splitlines() if "50.00" in line)
    assert last.rstrip().endswith("–")  # 50 dB is beyond the rival


def test_script_prints_a_table_and_writes_curves(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    command = [sys.executable, str(SCRIPT), str(folder), "--peers-only", "--peers", "webp"]
    command += ["-j", "1", "--low", "30", "--high", "38", "--json", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WebP" in done.stdout
    document = json.loads(output.read_text())
    assert document["dataset"] == ["p0.png", "p1.png", "p2.png"]
    assert [c["name"] for c in document["mean"]] == ["JPEG 4:2:0", "WebP"]
    assert len(document["pictures"]["p1.png"]) == 2
    rates = [c["results"]["bpp"] for c in document["mean"]]
    expected = mean_curves(dataset_curves([jpeg(), webp()], pictures(folder)))
    for found, curve in zip(rates, expected.values(), strict=True):
        assert np.allclose(found, curve.bpp)


def test_script_prints_markdown(folder: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(folder), "--peers-only", "--peers", "webp"]
    command += ["-j", "1", "--low", "30", "--high", "38", "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert {line.count("|") for line in table} == {8}
    assert table[2].startswith("| JPEG 4:2:0 | anchor |")
    assert table[3].startswith("| WebP | −")


def test_script_refuses_to_compare_with_what_it_does_not_measure(folder: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(folder), "--peers-only", "--against", "ambi fixed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "'ambi fixed' is not measured" in done.stderr


def test_script_reports_a_mistake_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), str(tmp_path / "none"), "--peers-only"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == f"bench_kodak: {tmp_path / 'none'} is not a folder"


def test_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(UsageError, match=r"needs the module imagecodecs; install ambi-rl\[bench\]"):
        peer("jxl")
