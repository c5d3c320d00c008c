"""Shrunk pictures in the benchmark: networks and interpolation as codecs like every other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ambi_rl.bench import superres_codecs
from ambi_rl.bench.codecs import Codec
from ambi_rl.bench.curves import measure
from ambi_rl.bench.find_close import find_close
from ambi_rl.bench.results import load_results
from ambi_rl.bench.selector import PEERS, make_codec, runs_kernels
from ambi_rl.bench.superres_codecs import SuperresCodec
from ambi_rl.cli.app import app
from ambi_rl.cli.bench import make_codecs
from ambi_rl.errors import AmbiError, CorruptFileError
from ambi_rl.superres.base_layer import decode_base, encode_base, shrink
from ambi_rl.superres.bundle import save_bundle
from ambi_rl.superres.codec import decode_picture, encode_picture
from ambi_rl.superres.resample import enlarge
from tests.superres_models import tiny_bundle

BASES = ["jpeg", "webp", "avif"]


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of one name that differ, and one of another scale; their networks change little."""
    folder = tmp_path_factory.mktemp("bundles")
    for name, scale, seed in (("a/sr", 2, 1), ("b/sr", 2, 2), ("x4", 4, 1)):
        path = folder / f"{name}.ambic"
        path.parent.mkdir(exist_ok=True)
        save_bundle(tiny_bundle(scale, seed=seed, strength=0.005), path)
    return folder


@pytest.fixture(scope="module")
def large(photograph: Image.Image) -> Image.Image:
    """Large enough for MS-SSIM, and no side a multiple of 4."""
    return photograph.resize((223, 178), Image.Resampling.BICUBIC)


def superres(folder: Path, options: str = "", name: str = "a/sr") -> Codec:
    return make_codec(f"superres:bundle={folder / name}.ambic{options}")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("family", ["superres", "resampled"])
def test_they_trade_rate_for_quality(
    folder: Path, large: Image.Image, family: str, base: str
) -> None:
    if family == "superres":
        codec = superres(folder, f",base={base}")
    else:
        codec = make_codec(f"resampled:scale=2,base={base}")
    low, high = (measure(codec, large, codec.settings[i]) for i in (1, -2))
    assert low.size < high.size
    assert 20 < low.psnr < high.psnr < 60
    assert low.ms_ssim < high.ms_ssim < 1
    assert low.ssim < high.ssim < 1
    assert list(codec.settings) == sorted(codec.settings)
    assert codec.scale.low <= codec.settings[0] < codec.settings[-1] <= codec.scale.high
    assert codec.family == family


def test_files_are_those_of_the_profile(folder: Path, large: Image.Image) -> None:
    path = folder / "x4.ambic"
    codec = make_codec(f"superres:bundle={path},base=webp")
    data = codec.encode(large, 40)
    assert data == encode_picture(large, path, base="webp", quality=40, strip=True).data
    assert codec.decode(data) == decode_picture(data, path)
    assert codec.decode(data).size == large.size
    assert codec.description.startswith("superres x4 of ambi-rl")
    assert codec.library.startswith("onnxruntime ")
    assert codec.name == "x4 WebP"


def test_interpolation_is_of_the_same_base_layer(large: Image.Image) -> None:
    codec = make_codec("resampled:filter=bicubic")
    small = shrink(np.asarray(large), 4)
    base = encode_base(small, "jpeg", 30)
    data = codec.encode(large, 30)
    assert len(data) == len(base) + 4
    expected = enlarge(decode_base(base, "jpeg", 45, 56), 4, "bicubic")[:178, :223]
    np.testing.assert_array_equal(codec.decode(data), expected)
    other = make_codec("resampled:filter=lanczos")
    assert other.encode(large, 30) == data
    assert (np.asarray(other.decode(data)) != expected).any()
    for damaged in (data[:3], data[:4], b"\0\1" + data[2:]):
        with pytest.raises(CorruptFileError):
            codec.decode(damaged)


def test_a_selector_makes_the_same_codec_again(folder: Path) -> None:
    for selector in (
        "resampled",
        "resampled:scale=2,filter=bicubic,base=avif",
        f"superres:bundle={folder / 'x4.ambic'}",
        f"superres:base=ambi,bundle={folder / 'x4.ambic'}",
    ):
        codec = make_codec(selector)
        assert make_codec(codec.selector) == codec
        assert codec.selector.partition(":")[0] == codec.family
    assert make_codec("resampled").selector == "resampled:scale=4,filter=lanczos,base=jpeg"
    # They are compared when somebody asks for it.
    assert not any(peer.startswith(("superres", "resampled")) for peer in PEERS)


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("superres", "superres needs a bundle of the profile superres, as in superres:bundle="),
        ("superres:bundle=/none.ambic", "does not exist"),
        ("superres:bundle=x,base=png", "base is 'png'; give one of jpeg, webp, avif, ambi"),
        ("resampled:scale=3", "scale is '3'; give one of 2, 4"),
        ("resampled:filter=nearest", "filter is 'nearest'; give one of lanczos, bicubic"),
        ("resample", "did you mean resampled"),
    ],
)
def test_a_wrong_selector_is_explained(selector: str, message: str) -> None:
    with pytest.raises(AmbiError, match=message):
        make_codec(selector)


def test_identities_differ_where_results_may(folder: Path, tmp_path: Path) -> None:
    codecs = [
        make_codec("resampled"),
        make_codec("resampled:scale=2"),
        make_codec("resampled:filter=bicubic"),
        make_codec("resampled:base=webp"),
        make_codec("resampled:base=ambi"),
        superres(folder),
        superres(folder, ",base=webp"),
        superres(folder, name="b/sr"),
    ]
    assert len({codec.identity() for codec in codecs}) == len(codecs)
    # Of one path, by its content.
    path = tmp_path / "sr.ambic"
    found = set()
    for name in ("a/sr", "b/sr"):
        path.write_bytes((folder / f"{name}.ambic").read_bytes())
        superres_codecs.superres_bundle.cache_clear()
        codec = SuperresCodec("n", "d", (50,), "jpeg", path)
        found.add(codec.identity())
    assert len(found) == 2


def test_which_of_them_need_the_kernels() -> None:
    assert runs_kernels("ambi:effort=5")
    assert runs_kernels("resampled:scale=4,base=ambi")
    assert runs_kernels("superres:base=ambi,bundle=x.ambic")
    assert not runs_kernels("superres:bundle=ambi.ambic,base=jpeg")
    assert not runs_kernels("jpeg:chroma=420")


def test_bundles_of_equal_names_are_told_apart(folder: Path) -> None:
    paths = [folder / name / "sr.ambic" for name in "ab"]
    names = [codec.name for codec in make_codecs([f"superres:bundle={path}" for path in paths])]
    assert names == [f"sr JPEG ({path})" for path in paths]


def test_bytes_are_met(folder: Path, large: Image.Image) -> None:
    codec = superres(folder)
    goal = len(codec.encode(large, 60)) * 8 / (large.width * large.height)
    found = find_close(codec, large, "bpp", goal)
    assert found.is_within
    assert found.best.bpp == pytest.approx(goal, rel=0.01)


def test_a_benchmark_with_curves_plot_and_report(
    folder: Path, large: Image.Image, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    large.save(pictures / "p.png")
    out = tmp_path / "out"
    arguments = [
        "bench", pictures, "-o", out, "--low", 22, "--high", 27, "--report",
        "--codec", f"superres:bundle={folder / 'a/sr.ambic'}",
        "--codec", "resampled:scale=2", "--codec", "jpeg",
    ]  # fmt: skip
    text = run(*arguments).output
    assert "sr JPEG" in text
    assert "lanczos x2 JPEG" in text
    results = load_results(out / "results.json")
    assert [codec.family for codec in results.codecs] == ["superres", "resampled", "jpeg"]
    assert results.codecs[0].setting_name == "base quality"
    assert {point.codec for point in results.points} == {codec.name for codec in results.codecs}
    assert not results.failures
    rates = [delta for delta in results.deltas if delta.codec == "lanczos x2 JPEG"]
    assert rates
    page = (out / "report.html").read_text()
    assert "sr JPEG" in page
    # What is kept is not measured again.
    count = len((out / "points.jsonl").read_text().splitlines())
    run(*arguments[:-6], *arguments[-6:])
    assert len((out / "points.jsonl").read_text().splitlines()) == count
    run("plot", out / "results.json", "-o", tmp_path / "curves.svg", "--metric", "ms-ssim")
    assert "lanczos x2 JPEG" in (tmp_path / "curves.svg").read_text()


def test_find_close_on_the_command_line(folder: Path, large: Image.Image, tmp_path: Path) -> None:
    large.save(tmp_path / "p.png")
    path = folder / "a/sr.ambic"
    text = run(
        "find-close", f"superres:bundle={path}", tmp_path / "p.png", "--bpp", 0.3,
        "-o", tmp_path / "p.ams", "--json",
    ).output  # fmt: skip
    facts = json.loads(text)
    assert facts["is_within"]
    assert facts["setting_name"] == "base quality"
    assert (tmp_path / "p.ams").stat().st_size == facts["bytes"]
    assert decode_picture((tmp_path / "p.ams").read_bytes(), path).size == large.size


@pytest.mark.slow
def test_the_block_codec_as_base_layer(folder: Path, large: Image.Image) -> None:
    for codec in (superres(folder, ",base=ambi"), make_codec("resampled:scale=2,base=ambi")):
        low, high = (measure(codec, large, setting) for setting in (40.25, 80))
        assert low.size < high.size
        assert low.psnr < high.psnr
