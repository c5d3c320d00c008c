"""`ambi bench`, `find-close` and `plot` on the command line, and the script that measures speed."""

from __future__ import annotations

import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ambi_rl.bench.codecs import ambi_codec, jpeg, webp
from ambi_rl.bench.compressai import read_curve
from ambi_rl.bench.dataset import open_picture
from ambi_rl.bench.find_close import find_close
from ambi_rl.bench.results import load_results
from ambi_rl.cli.app import app
from ambi_rl.cli.bench import (
    ambi_selectors,
    make_codecs,
    parse_efforts,
    read_curves,
    with_anchor,
)
from ambi_rl.codec.bundle import Bundle, save_bundle
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.metrics import ms_ssim, psnr

SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_speed.py"
CHEAP = ["--codec", "jpeg", "--codec", "webp:method=0", "--low", "30", "--high", "38"]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def folder(photograph: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of 80x64."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(2):
        photograph.rotate(180 * i).resize((80, 64)).save(folder / f"p{i}.png")
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a benchmark."""
    out = tmp_path_factory.mktemp("out")
    run("bench", folder, "-o", out, *CHEAP)
    return out / "results.json"


def test_bench_prints_a_table_and_writes_everything(measured: Path, folder: Path) -> None:
    results = load_results(measured)
    assert [codec.selector for codec in results.codecs] == ["jpeg:chroma=420", "webp:method=0"]
    assert results.comparison.anchor == "JPEG 4:2:0"
    assert len(results.mean_images) == 2
    written = {path.name for path in measured.parent.iterdir()}
    assert {"points.csv", "deltas.csv", "table.md", "points.jsonl", "curves"} <= written
    # The same command measures nothing again, and prints the same table.
    kept = (measured.parent / "points.jsonl").read_bytes()
    result = run("bench", folder, "-o", measured.parent, *CHEAP)
    assert (measured.parent / "points.jsonl").read_bytes() == kept
    assert "38 points, 38 of them measured before" in result.stderr
    assert "WebP m0" in result.stdout
    assert "RGB-PSNR" in result.stdout
    assert load_results(measured).points == results.points


def test_bench_prints_json_and_markdown(measured: Path, folder: Path, tmp_path: Path) -> None:
    arguments = ("bench", folder, "-o", measured.parent, *CHEAP)
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["codecs"][1]["name"] == "WebP m0"
    assert document["points"] == load_results(measured).to_json()["points"]
    table = [line for line in run(*arguments, "--markdown").stdout.splitlines() if "|" in line]
    assert table[2].startswith("| JPEG 4:2:0 | anchor |")
    assert table[3].startswith("| WebP m0 | −")


def test_ambi_is_measured_with_efforts_strategists_and_bundles(
    folder: Path, tmp_path: Path, default_bundle: Bundle
) -> None:
    bundle = tmp_path / "mine.ambic"
    save_bundle(default_bundle, bundle)
    out = tmp_path / "out"
    options = ["--codec", "jpeg", "--efforts", "0", "--strategist", "fixed", "-b", bundle]
    run("bench", folder / "p0.png", "-o", out, "--crop", 32, *options, "-b", "default")
    results = load_results(out / "results.json")
    names = ["JPEG 4:2:0", "ambi -e 0 mine", "ambi fixed mine", "ambi -e 0", "ambi fixed"]
    assert [codec.name for codec in results.codecs] == names
    assert results.codecs[1].selector == f"ambi:effort=0,bundle={bundle}"
    assert default_bundle.id in results.codecs[1].description
    sizes = {p.codec: p.size for p in results.points if p.setting == 56}
    assert sizes["ambi -e 0 mine"] == sizes["ambi -e 0"] != sizes["ambi fixed"]


def test_a_published_curve_is_compared(measured: Path, folder: Path, tmp_path: Path) -> None:
    curve = tmp_path / "vtm.json"
    curve.write_text(
        json.dumps({"name": "VTM", "results": {"bpp": [0.2, 0.5, 3.0], "psnr": [28, 34, 45]}})
    )
    arguments = ("bench", folder, "-o", measured.parent, *CHEAP, "--curve", curve, "--json")
    document = json.loads(run(*arguments).stdout)
    assert document["imported"][0]["name"] == "VTM"
    assert {d["codec"] for d in document["deltas"] if d["image"] is None} == {"WebP m0", "VTM"}
    # And it can be the anchor.
    document = json.loads(run(*arguments, "--anchor", "VTM").stdout)
    assert document["comparison"]["anchor"] == "VTM"
    assert {d["codec"] for d in document["deltas"]} == {"JPEG 4:2:0", "WebP m0"}


def test_published_curves_may_have_the_names_of_codecs(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.json", "b.json", "c.json")]
    for path, name in zip(paths, ("WebP", "VTM", "VTM"), strict=True):
        path.write_text(json.dumps({"name": name, "results": {"bpp": [1, 2], "psnr": [30, 40]}}))
    names = [curve.name for curve in read_curves(paths, [webp()])]
    assert names == ["WebP (a.json)", "VTM (b.json)", "VTM (c.json)"]
    assert [curve.name for curve in read_curves(paths[:1], [jpeg()])] == ["WebP"]


def test_flat_pictures_do_not_end_a_benchmark(tmp_path: Path) -> None:
    for name, colour in (("white", "white"), ("gray", (128, 128, 128))):
        Image.new("RGB", (48, 32), colour).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    pictures = [tmp_path / "white.png", tmp_path / "gray.png"]
    run("bench", *pictures, "-o", out, *CHEAP, "--report", "--report-images", 0)
    results = load_results(out / "results.json")
    assert results.failures == ()
    assert results.deltas
    numbers = [v for d in results.deltas for v in (d.bd_rate, d.bd_quality) if v is not None]
    assert all(map(math.isfinite, numbers))
    assert (out / "report.html").exists()
    for path in out.glob("curves/*.json"):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_one_broken_picture_does_not_lose_the_rest(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    result = run("bench", folder, broken, "-o", tmp_path / "out", *CHEAP, status=1)
    assert "broken.png cannot be read as a picture" in result.stderr
    assert "1 of the measurements failed" in result.stderr
    assert "WebP m0" in result.stdout
    assert len(load_results(tmp_path / "out" / "results.json").failures) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "gif"], "there is no codec 'gif'"),
        (["--efforts", "0,10"], "--efforts is '0,10'; give numbers of 0…9"),
        (["--low", "40", "--high", "30"], "the range 40…30 dB is empty"),
        (["--codec", "jpeg", "--anchor", "BPG"], "--anchor: there is no codec 'BPG'"),
        (["--codec", "jpeg", "--curve", "none.json"], "none.json does not exist"),
        (["--codec", "jpeg", "-b", "none.ambic"], "bundle none.ambic does not exist"),
    ],
)
def test_bench_explains_mistakes_in_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["bench", str(folder), "-o", str(tmp_path / "o"), *arguments])
    assert result.exit_code in (2, 7)
    assert message in result.stderr
    assert result.stderr.strip().count("\n") == 0
    assert not (tmp_path / "o").exists()


def test_an_output_that_is_no_folder_is_refused(folder: Path) -> None:
    result = run("bench", folder, "-o", folder / "p0.png", *CHEAP, status=2)
    assert "is not a folder; choose another -o" in result.stderr


def test_what_is_measured_is_what_was_asked_for() -> None:
    assert parse_efforts(None) == []
    assert parse_efforts("0, 5,9") == [0, 5, 9]
    assert ambi_selectors([], [], []) == ["ambi:effort=5"]
    assert ambi_selectors([1], ["search"], ["a.ambic", "default"]) == [
        "ambi:effort=1,bundle=a.ambic",
        "ambi:strategist=search,bundle=a.ambic",
        "ambi:effort=1",
        "ambi:strategist=search",
    ]
    codecs = make_codecs(["webp", "webp:method=6", "jpeg:chroma=444"])
    assert [codec.name for codec in codecs] == ["WebP", "JPEG 4:4:4"]
    some, _, anchor = with_anchor(codecs, (), "jpeg")
    assert ([c.name for c in some], anchor) == (["JPEG 4:2:0", "WebP", "JPEG 4:4:4"], "JPEG 4:2:0")
    assert with_anchor(codecs, (), "WebP") == (codecs, (), "WebP")
    assert with_anchor(codecs, (), "webp") == (codecs, (), "WebP")


@pytest.mark.parametrize("name", ["JPEG 4:2:0", "jpeg"])
def test_a_published_curve_does_not_replace_the_anchor(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"name": name, "results": {"bpp": [1, 2], "psnr": [30, 40]}}))
    codecs, (curve,), anchor = with_anchor([webp()], [path], "jpeg")
    assert [codec.name for codec in codecs] == ["JPEG 4:2:0", "WebP"]
    assert anchor == "JPEG 4:2:0"
    assert curve.name == (f"{name} (a.json)" if name == anchor else name)


def test_a_log_has_a_line_for_each_picture(folder: Path, tmp_path: Path, measured: Path) -> None:
    lines = measured.parent.joinpath("points.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "points.jsonl").write_text("".join(lines[:-1]))
    log = run("bench", folder, "-o", tmp_path, *CHEAP).stderr
    assert "38 points, 37 of them measured before" in log
    assert "p1: 2 of 2 pictures" in log


def test_pictures_that_would_be_read_with_loss_are_refused(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "a.jpg")
    rows = b"".join(b"\0" + bytes(48) for _ in range(8))
    header = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    (tmp_path / "b.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in parts
        )
    )
    with pytest.raises(AmbiError, match=r"a\.jpg: the image has Pillow mode 'CMYK'"):
        open_picture(tmp_path / "a.jpg")
    with pytest.raises(AmbiError, match=r"b\.png: the image has 16 bits a sample"):
        open_picture(tmp_path / "b.png")


def test_bundles_of_equal_names_are_told_apart(tmp_path: Path, plain_bundle: Bundle) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_bundle(plain_bundle, tmp_path / name / "mine.ambic")
    paths = [str(tmp_path / name / "mine.ambic") for name in ("a", "b")]
    names = [codec.name for codec in make_codecs(ambi_selectors([0], [], paths))]
    assert names == [f"ambi -e 0 mine ({path})" for path in paths]


def test_peers_that_are_not_installed_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    names = [codec.family for codec in make_codecs(["peers"])]
    assert "heic" not in names
    assert "avif" in names
    assert "heic is left out: peer heic needs pillow_heif" in capsys.readouterr().err
    with pytest.raises(UsageError, match="needs pillow_heif"):
        make_codecs(["heic"])


@pytest.mark.parametrize("command", ["bench", "find-close", "plot"])
def test_without_the_extra_there_is_one_line(command: str, tmp_path: Path) -> None:
    arguments = {
        "bench": ["x.png", "-o", "out"],
        "find-close": ["jpeg", "x.png", "--bpp", "1"],
        "plot": ["x.json", "-o", "x.png"],
    }[command]
    code = (
        "import sys; sys.modules['rich'] = None; sys.modules['rich.console'] = None;"
        "sys.argv[0] = 'ambi'; from ambi_rl.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ambi: this command needs rich")
    assert done.stderr.endswith('pip install "ambi-rl[bench]"\n')
    assert done.stderr.count("\n") == 1


def test_interrupted_it_exits_with_130_and_goes_on_later(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # Slow enough to be caught at it.
    slow = ["bench", folder, "-o", out, "--codec", "jpeg", "--codec", "avif:speed=2", "-j", 2]
    command = [sys.executable, "-m", "ambi_rl.cli", *map(str, slow)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    store = out / "points.jsonl"
    while process.poll() is None and not (store.exists() and store.read_text().count("\n") > 2):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "interrupted; what is measured is kept" in errors
    kept = store.read_text()
    assert not (out / "results.json").exists()
    result = run(*slow[:-1], 1)
    assert store.read_text().startswith(kept)
    assert f"{kept.count(chr(10))} of them measured before" in result.stderr
    lines = store.read_text().splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines})
    assert len(load_results(out / "results.json").points) == len(lines)


def closest(codec: Any, image: Image.Image, kind: Any, goal: float) -> float:
    """How far the closest of all settings is from the goal, by trying them."""
    import numpy as np

    values = []
    for quality in range(1, 101):
        data = codec.encode(image, quality)
        if kind == "bpp":
            values.append(np.log2(len(data) * 8 / image.width / image.height / goal))
        else:
            values.append(psnr(np.asarray(image), np.asarray(codec.decode(data))) - goal)
    return float(min(map(abs, values)))


def test_find_close_finds_the_closest_setting(photograph: Image.Image) -> None:
    import numpy as np

    image = photograph.crop((0, 0, 64, 64))
    for codec in (jpeg(), webp(method=0)):
        found = find_close(codec, image, "psnr", 33.0)
        assert abs(found.best.psnr - 33) <= closest(codec, image, "psnr", 33.0) + 0.01
        found = find_close(codec, image, "bpp", 2.0)
        assert abs(np.log2(found.best.bpp / 2)) <= closest(codec, image, "bpp", 2.0) + 0.003
        assert found.is_within
        assert found.trials <= 11
    fine = find_close(ambi_codec(strategist="fixed"), image, "psnr", 33.0)
    assert fine.best.psnr == pytest.approx(33, abs=0.05)


def test_find_close_says_what_is_out_of_reach(photograph: Image.Image) -> None:
    image = photograph.crop((0, 0, 64, 64))
    high = find_close(jpeg(), image, "psnr", 70.0)
    assert (high.best.setting, high.is_within) == (100, False)
    low = find_close(jpeg(), image, "bpp", 0.01)
    assert (low.best.setting, low.is_within) == (1, False)
    for kind, goal, message in (("psnr", -1, "positive"), ("ms_ssim", 1.0, "below 1")):
        with pytest.raises(UsageError, match=message):
            find_close(jpeg(), image, kind, goal)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="MS-SSIM needs 176 pixels a side; the picture has 64x64"):
        find_close(jpeg(), image, "ms_ssim", 0.98)


def test_find_close_writes_the_file_and_tells_what_it_met(
    photograph: Image.Image, tmp_path: Path
) -> None:
    import numpy as np

    large, target = tmp_path / "large.png", tmp_path / "found.webp"
    photograph.resize((224, 176), Image.Resampling.BICUBIC).save(large)
    result = run("find-close", "webp", large, "--ms-ssim", 0.97, "-o", target, "--json")
    facts = json.loads(result.stdout)
    original = np.asarray(open_picture(large))
    decoded = np.asarray(open_picture(target))
    assert facts["ms_ssim"] == pytest.approx(ms_ssim(original, decoded))
    assert facts["ms_ssim"] == pytest.approx(0.97, abs=0.003)
    assert facts["psnr"] == pytest.approx(psnr(original, decoded))
    assert facts["bytes"] == target.stat().st_size
    assert facts["setting_name"] == "quality"
    text = run("find-close", "jpeg2000", large, "--psnr", 35, "-v")
    assert text.stdout.startswith("JPEG 2000, target PSNR in dB ")
    assert "PSNR 35.0" in text.stdout or "PSNR 34.9" in text.stdout
    assert text.stderr.count("JPEG 2000, target PSNR") >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --psnr, --bpp and --ms-ssim"),
        (["--psnr", "35", "--bpp", "1"], "give one of"),
        (["--bpp", "1", "-o", "none/x.jpg"], "none"),
    ],
)
def test_find_close_explains_mistakes(folder: Path, arguments: list[str], message: str) -> None:
    result = run("find-close", "jpeg", folder / "p0.png", *arguments, status=2)
    assert message in result.stderr


def test_plot_draws_results_and_published_curves(measured: Path, tmp_path: Path) -> None:
    published = tmp_path / "bpg.json"
    published.write_text(
        json.dumps({"name": "BPG <444>", "results": {"bpp": [1, 2], "psnr": [30, 40]}})
    )
    page = tmp_path / "plot.html"
    run("plot", measured, published, "-o", page, "--title", "Mine", "--axes", 0, 3, 25, 45)
    text = page.read_text()
    assert "<title>Mine</title>" in text
    assert "<svg" in text
    for name in ("JPEG 4:2:0", "WebP m0", "BPG &lt;444&gt;", "Bit-rate [bpp]", "PSNR [dB]"):
        # Matplotlib draws text as paths and leaves it beside them as a comment.
        assert f"<!-- {name} -->" in text
    for suffix in ("png", "svg", "pdf"):
        run(
            "plot", measured, "-o", tmp_path / f"plot.{suffix}", "--metric", "ssim", "--image", "p1"
        )
    with Image.open(tmp_path / "plot.png") as image:
        assert image.size == (1350, 900)


def test_plot_explains_mistakes(measured: Path, tmp_path: Path) -> None:
    curve = tmp_path / "curve.json"
    curve.write_text(json.dumps({"name": "a", "results": {"bpp": [1, 2], "psnr": [30, 40]}}))
    assert read_curve(curve).name == "a"
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}')
    out = tmp_path / "plot.png"
    for arguments, message in (
        ([curve, "-o", tmp_path / "plot.xyz"], "has no known format"),
        ([other, "-o", out], "is not in CompressAI's schema"),
        ([curve, "-o", out, "--metric", "ms-ssim"], "none of the curves has ms_ssim"),
        ([measured, "-o", out, "--image", "p9"], "no curves of a picture 'p9'; it has p0, p1"),
    ):
        assert message in run("plot", *arguments, status=2).stderr
    assert not out.exists()


def test_speed_is_measured_in_fresh_processes(folder: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "speed.json"
    command = [sys.executable, str(SCRIPT), str(folder / "p0.png"), "--codec", "webp:method=0"]
    command += ["--repeat", "1", "--json", str(numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in table[2:]] == ["WebP m0"]
    (codec,) = json.loads(numbers.read_text())["codecs"]
    for direction in ("encode", "decode"):
        cost = codec[direction]
        assert cost["wall"] > 0
        assert cost["peak"] > cost["added"] >= 0
        assert cost["peak"] > 20 << 20
    assert codec["decode"]["value"] == pytest.approx(36, abs=1)
