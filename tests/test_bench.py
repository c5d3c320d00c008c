"""Benchmarks: peers, curves, points kept over a folder, and tables."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ambi_rl.bench.codecs import AMBI_QUALITIES, ambi_codec, jpeg, webp
from ambi_rl.bench.curves import Curve, Point, mean_curve, measure, measure_curve
from ambi_rl.bench.dataset import (
    Job,
    Outcome,
    PointStore,
    dataset_curves,
    expand,
    measure_jobs,
    open_picture,
    pictures,
    run_job,
)
from ambi_rl.bench.report import Rows, markdown, points_table
from ambi_rl.bench.selector import PEERS, make_codec
from ambi_rl.codec.bundle import Bundle, save_bundle
from ambi_rl.errors import AmbiError, UsageError
from ambi_rl.metrics import psnr_luma


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


@pytest.fixture(scope="module")
def large(photograph: Image.Image) -> Image.Image:
    """Large enough for MS-SSIM."""
    return photograph.resize((224, 176), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("selector", PEERS)
def test_peers_trade_rate_for_quality(selector: str, large: Image.Image) -> None:
    codec = make_codec(selector)
    low, high = (measure(codec, large, codec.settings[i]) for i in (1, -2))
    assert low.size < high.size
    assert 20 < low.psnr < high.psnr < 60
    assert 20 < low.psnr_luma < high.psnr_luma < 60
    assert low.ms_ssim < high.ms_ssim < 1
    assert low.ssim < high.ssim < 1
    assert low.bpp == low.size * 8 / (large.width * large.height)
    assert low.encode_seconds > 0
    assert low.decode_seconds > 0
    assert list(codec.settings) == sorted(codec.settings)
    assert codec.scale.low <= codec.settings[0] < codec.settings[-1] <= codec.scale.high


def test_a_selector_makes_the_same_codec_again() -> None:
    for selector in (*PEERS, "ambi:effort=9", "ambi:strategist=search,restoration=no"):
        codec = make_codec(selector)
        assert make_codec(codec.selector) == codec
        assert codec.selector.partition(":")[0] == codec.family
    assert make_codec("avif:speed=8").name == "AVIF 4:4:4 s8"
    assert "speed 8, default tune" in make_codec("avif:speed=8").description


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("gif", "there is no codec 'gif'; choose among ambi, jpeg,"),
        ("web", "did you mean webp"),
        ("webp:metod=4", "webp has no option 'metod'; it has method; did you mean method"),
        ("webp:method=7", "method is '7'; give one of 0, 1,"),
        ("webp:method", "method is ''; give one of"),
        ("jpeg2000:rate=1", "it has none"),
        ("ambi:effort=1,strategist=search", "exclude each other"),
        ("ambi:bundle=/none.ambic", "does not exist"),
    ],
)
def test_a_wrong_selector_is_explained(selector: str, message: str) -> None:
    with pytest.raises(AmbiError, match=message):
        make_codec(selector)


def test_options_of_peers_reach_the_encoder(large: Image.Image) -> None:
    def size(selector: str) -> int:
        return len(make_codec(selector).encode(large, 50))

    assert size("jpeg:chroma=444") > size("jpeg")
    assert size("webp:method=6") < size("webp:method=0")
    assert size("avif:tune=psnr,speed=10") != size("avif:tune=ssim,speed=10")
    assert size("avif:chroma=444,speed=10") != size("avif:chroma=420,speed=10")
    assert size("heic:chroma=444") != size("heic:chroma=420")
    assert size("heic:tune=psnr") != size("heic")


def test_ms_ssim_is_left_out_where_its_scales_do_not_fit(large: Image.Image) -> None:
    assert math.isfinite(measure(jpeg(), large, 50).ms_ssim)
    narrow = measure(jpeg(), large.crop((0, 0, 224, 175)), 50)
    assert math.isnan(narrow.ms_ssim)
    assert math.isfinite(narrow.ssim)
    tiny = measure(jpeg(), large.crop((0, 0, 224, 10)), 50)
    assert math.isnan(tiny.ssim)
    assert math.isfinite(tiny.psnr)


def test_luma_psnr_weighs_the_channels() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        other = black.copy()
        other[..., channel] = 10
        assert psnr_luma(black, other) == pytest.approx(20 * math.log10(255 / (10 * weight)))
    assert psnr_luma(black, black) == math.inf
    with pytest.raises(UsageError, match="RGB"):
        psnr_luma(black[..., 0], black[..., 0])


def test_structural_metrics_can_be_left_out(photograph: Image.Image) -> None:
    point = measure(jpeg(), photograph, 50, structural=False)
    assert math.isnan(point.ms_ssim)
    assert math.isnan(point.ssim)


def test_jpeg_is_what_pillow_writes(photograph: Image.Image) -> None:
    buffer = io.BytesIO()
    photograph.save(buffer, "JPEG", quality=77, optimize=True, subsampling="4:2:0")
    assert jpeg().encode(photograph, 77) == buffer.getvalue()
    assert len(jpeg(chroma="444").encode(photograph, 77)) > len(buffer.getvalue())


def test_ambi_is_measured_like_a_peer(photograph: Image.Image) -> None:
    measured = measure_curve(ambi_codec(strategist="fixed", qualities=(40, 80)), photograph)
    assert [p.setting for p in measured.points] == [40, 80]
    assert measured.points[0].size < measured.points[1].size
    assert measured.points[0].psnr < measured.points[1].psnr
    assert ambi_codec(effort=9).settings == AMBI_QUALITIES


def test_pictures_of_other_modes_are_refused() -> None:
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


def test_pictures_of_files_folders_and_patterns(folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    Image.new("RGB", (16, 16)).save(below / "q.png")
    names = [p.name for p in expand([str(folder / "p1.png"), str(folder), str(below)])]
    assert names == ["p1.png", "p0.png", "p2.png", "q.png"]
    found = expand([str(folder / "**" / "*.png")], every=2)
    assert [p.name for p in found] == ["q.png", "p1.png"]
    for source, message in (("none.png", "does not exist"), ("*.gif", "matches no picture")):
        with pytest.raises(UsageError, match=message):
            expand([str(folder / source)])


def test_only_opaque_pictures_of_8_bits_are_measured(folder: Path) -> None:
    path = folder / "p.png"
    Image.new("RGBA", (20, 12), (9, 8, 7, 255)).save(path)
    assert open_picture(path).getpixel((0, 0)) == (9, 8, 7)
    Image.new("L", (20, 12), 9).save(path)
    assert open_picture(path, 8).size == (8, 8)
    Image.new("RGBA", (20, 12), (9, 8, 7, 100)).save(path)
    with pytest.raises(AmbiError, match="transparent"):
        open_picture(path)
    Image.new("I;16", (20, 12), 9).save(path)
    with pytest.raises(AmbiError, match="convert it to 8-bit gray or RGB"):
        open_picture(path)
    path.write_bytes(b"nothing")
    with pytest.raises(AmbiError, match="cannot be read as a picture"):
        open_picture(path)


def test_a_crop_is_the_centre(folder: Path) -> None:
    whole, part = open_picture(folder / "p0.png"), open_picture(folder / "p0.png", 32)
    assert part.tobytes() == whole.crop((32, 16, 64, 48)).tobytes()
    assert open_picture(folder / "p0.png", 80).size == (80, 64)


def test_results_do_not_depend_on_the_number_of_processes(folder: Path) -> None:
    codecs = [jpeg(), webp()]
    paths = pictures(folder)
    alone = dataset_curves(codecs, paths)
    together = dataset_curves(codecs, paths, workers=2)
    for name in ("JPEG 4:2:0", "WebP"):
        assert [c.bpp for c in alone[name]] == [c.bpp for c in together[name]]
    point = run_job(Job(webp(), paths[1], webp().settings[2]))
    assert isinstance(point, Point)
    assert alone["WebP"][1].bpp[2] == point.bpp


def test_points_are_measured_once(folder: Path, tmp_path: Path) -> None:
    work = [Job(jpeg(), path, 50, 48) for path in pictures(folder)]
    measured: list[Job] = []

    def note(job: Job, outcome: Outcome) -> None:
        measured.append(job)

    file = tmp_path / "points.jsonl"
    first = measure_jobs(work, store=PointStore(file), done=note)
    assert measured == work
    # As text, for an MS-SSIM that was not measured is not equal to itself.
    assert repr(measure_jobs(work, store=PointStore(file), done=note)) == repr(first)
    assert measured == work
    # Whatever decides the result makes another point; what is called otherwise does not.
    others = [
        work[0]._replace(setting=51),
        work[0]._replace(crop=None),
        work[0]._replace(codec=jpeg(chroma="444")),
        work[0]._replace(codec=webp(method=2)),
    ]
    measure_jobs(others, store=PointStore(file), done=note)
    assert measured == work + others
    (folder / "p0.png").rename(folder / "renamed.png")
    renamed = work[0]._replace(path=folder / "renamed.png")
    assert repr(PointStore(file).get(renamed)) == repr(first[0])


def test_a_store_that_was_cut_off_goes_on(folder: Path, tmp_path: Path) -> None:
    work = [Job(jpeg(), path, 50) for path in pictures(folder)]
    file = tmp_path / "points.jsonl"
    first = measure_jobs(work, store=PointStore(file))
    file.write_bytes(file.read_bytes()[:-20])
    store = PointStore(file)
    assert [store.get(job) is None for job in work] == [False, False, True]
    store.put(work[2], first[2])  # type: ignore[arg-type]
    assert repr([PointStore(file).get(job) for job in work]) == repr(first)


def test_a_bundle_belongs_to_what_is_remembered(
    folder: Path, tmp_path: Path, plain_bundle: Bundle
) -> None:
    job = Job(ambi_codec(strategist="fixed"), pictures(folder)[0], 50)
    other = tmp_path / "other.ambic"
    save_bundle(plain_bundle, other)
    store = PointStore(tmp_path / "points.jsonl")
    store.put(job, Point(50, 1, 1.0, 30.0, 0.9, 0.9, 1.0, 1.0, 30.0))
    assert store.get(job) is not None
    assert store.get(job._replace(codec=ambi_codec(strategist="fixed", bundle=other))) is None
    assert store.get(job._replace(codec=ambi_codec(effort=1))) is None


def test_what_fails_is_told_and_the_rest_is_measured(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "points.jsonl"
    broken = folder / "broken.png"
    broken.write_bytes((folder / "p0.png").read_bytes()[:500])
    work = [Job(jpeg(), path, 50) for path in (folder / "p0.png", broken, folder / "p1.png")]
    outcomes = measure_jobs(work, store=PointStore(file))
    assert isinstance(outcomes[0], Point)
    assert isinstance(outcomes[2], Point)
    assert "cannot be read as a picture" in str(outcomes[1])
    # A library that refuses what it is asked for.
    refused = run_job(Job(webp(), folder / "p0.png", 1e9))
    assert isinstance(refused, str)
    assert "\n" not in refused
    with pytest.raises(AmbiError, match=r"JPEG 4:2:0 on .*broken\.png at 12"):
        dataset_curves([jpeg()], [broken])


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


@pytest.mark.parametrize(("module", "selector"), [("imagecodecs", "jxl"), ("pillow_heif", "heic")])
def test_missing_module_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, selector: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf'needs {module}, .* pip install "ambi-rl\[bench\]"'):
        make_codec(selector)
