"""`ambi encode`, `decode` and `info` of super-resolved pictures, one and many, and refusals in one line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from ambi_rl.cli import app as app_module
from ambi_rl.cli.app import app
from ambi_rl.codec import bundle as block_bundle
from ambi_rl.superres.base_layer import BASES
from ambi_rl.superres.bundle import save_bundle
from ambi_rl.superres.codec import decode_picture, encode_picture
from ambi_rl.superres.stream import read_stream
from tests.superres_models import tiny_bundle

DEFAULT = Path(block_bundle.__file__).with_name("default.ambic")
GRAY = Path(__file__).parent / "golden" / "gray.ambi"


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def one_line(result: Result, code: int, *words: object) -> None:
    """The command failed with this exit code and one line on stderr that says these words."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("ambi: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert str(word) in result.stderr


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "sr.ambic"
    save_bundle(tiny_bundle(), path)
    return path


@pytest.fixture
def photo(photograph: Image.Image, tmp_path: Path) -> Path:
    photograph.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_picture_goes_through(bundle: Path, photo: Path, tmp_path: Path) -> None:
    target, back = tmp_path / "photo.ambi", tmp_path / "back.png"
    result = run("encode", photo, target, "-b", bundle, "--base", "webp", "-q", 60)
    assert result.exit_code == 0, result.stderr
    assert "112x88" in result.stdout
    assert "PSNR" not in result.stdout
    data = target.read_bytes()
    with Image.open(photo) as image:
        assert data == encode_picture(image, bundle, base="webp", quality=60).data
    assert run("decode", target, back, "-b", bundle).exit_code == 0
    with Image.open(back) as image:
        expected = np.asarray(decode_picture(data, bundle))
        assert np.array_equal(np.asarray(image), expected)
    through = run("decode", "-", "-", "-b", bundle, stdin=data)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(through.stdout_bytes))), expected)


def test_without_options_the_base_is_jpeg_of_quality_75(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    result = run("encode", photo, tmp_path / "x.ambi", "-b", bundle, "--json")
    facts = json.loads(result.stdout)
    assert (facts["base"], facts["quality"], facts["profile"]) == ("jpeg", 75.0, "superres")
    assert facts["psnr"] > 10
    assert facts["bytes"] == (tmp_path / "x.ambi").stat().st_size
    assert f"{facts['psnr']:.2f} dB" in run("encode", photo, "-", "-b", bundle, "-v").stderr
    assert [name.value for name in app_module.BaseName] == list(BASES)


def test_metadata_is_kept_unless_stripped(bundle: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "p.png", tmp_path / "p.ambi"
    Image.new("RGB", (20, 20)).save(source, icc_profile=b"profile")
    for options, icc in ((["--keep-metadata"], b"profile"), (["--strip"], None)):
        assert run("encode", source, target, "-b", bundle, *options).exit_code == 0
        assert read_stream(target.read_bytes()).metadata.icc == icc


def test_many_pictures_go_to_a_folder(bundle: Path, photo: Path, tmp_path: Path) -> None:
    folder, coded, back = tmp_path / "in", tmp_path / "coded", tmp_path / "back"
    (folder / "sub").mkdir(parents=True)
    with Image.open(photo) as image:
        image.save(folder / "a.png")
        image.convert("L").save(folder / "sub" / "b.png")
    (folder / "notes.txt").write_text("no picture")
    (folder / "bad.png").write_bytes(b"no picture either")
    result = run("encode", folder, "-o", coded, "-b", bundle, "--manifest", "-j", 2)
    assert result.exit_code == 9
    assert "bad.png" in result.stderr
    (folder / "bad.png").unlink()
    again = run("encode", folder, "-o", coded, "-b", bundle, "--manifest", "--json")
    assert again.exit_code == 0
    lines = [json.loads(line) for line in again.stdout.splitlines()]
    assert {line["status"] for line in lines} == {"unchanged"}
    other = run("encode", folder, "-o", coded, "-b", bundle, "--manifest", "--json", "-q", 50)
    assert "done" in other.stdout
    assert "would write 2" in run("decode", coded, "-o", back, "-b", bundle, "--dry-run").stdout
    result = run("decode", coded, "-o", back, "-b", bundle, "--format", "webp")
    assert result.exit_code == 0, result.stderr
    with Image.open(back / "a.webp") as image:
        assert image.size == (112, 88)
    assert (back / "sub" / "b.webp").exists()


def test_info_tells_of_files_and_bundles(bundle: Path, photo: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.ambi"
    assert run("encode", photo, target, "-b", bundle, "--base", "avif").exit_code == 0
    facts = json.loads(run("info", target, "--json").stdout)
    assert (facts["kind"], facts["profile"], facts["base"]) == ("file", "superres", "avif")
    assert (facts["width"], facts["height"]) == (112, 88)
    assert facts["sections"] == {"base_layer": facts["bytes"] - 22}
    told = json.loads(run("info", bundle, "--json").stdout)
    assert (told["kind"], told["scale"], told["radius"]) == ("bundle", 2, 3)
    assert told["bundle_id"] == facts["bundle_id"]
    assert facts["bundle_id"] in run("info", target).stdout
    target.write_bytes(target.read_bytes()[:-1])
    one_line(run("info", target), 4, "truncated or damaged")


def test_the_bundle_is_found_by_its_id(
    bundle: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMBI_BUNDLES", raising=False)
    target, back = tmp_path / "x.ambi", tmp_path / "x.png"
    assert run("encode", photo, target, "-b", bundle).exit_code == 0
    one_line(run("decode", target, back), 6, "not at hand", "AMBI_BUNDLES")
    assert not back.exists()
    monkeypatch.setenv("AMBI_BUNDLES", str(bundle.parent))
    assert run("decode", target, back).exit_code == 0


@pytest.mark.parametrize(
    "options", [["-e", "5"], ["--target-size", "9kB"], ["--no-tiles"], ["--ray", "auto"]]
)
def test_options_without_a_meaning_are_refused(
    options: list[str], bundle: Path, photo: Path, tmp_path: Path
) -> None:
    result = run("encode", photo, tmp_path / "x.ambi", "-b", bundle, *options)
    one_line(result, 2, options[0] if len(options[0]) > 2 else "--effort", "superres")


def test_a_base_belongs_to_bundles_that_super_resolve(photo: Path, tmp_path: Path) -> None:
    for options in ([], ["-b", DEFAULT]):
        result = run("encode", photo, tmp_path / "x.ambi", "--base", "webp", *options)
        one_line(result, 2, "--base has no meaning for the block codec")
    assert not (tmp_path / "x.ambi").exists()


def test_files_and_bundles_of_different_profiles(bundle: Path, photo: Path, tmp_path: Path) -> None:
    target, back = tmp_path / "x.ambi", tmp_path / "x.png"
    assert run("encode", photo, target, "-b", bundle).exit_code == 0
    one_line(run("decode", target, back, "-b", DEFAULT), 7, "'block'", "'superres'")
    one_line(run("decode", GRAY, back, "-b", bundle), 4, "not a super-resolved picture")
    one_line(run("encode", target, tmp_path / "y.ambi", "-b", bundle), 3, "an ambi file")
    one_line(run("encode", photo, photo, "-b", bundle), 2, "input itself")
    one_line(run("decode", target, tmp_path / "x.gif", "-b", bundle), 2, "'.gif'")
    one_line(run("decode", target, back, "-b", bundle, "--max-pixels", 99), 3, "max_pixels")


def test_decoding_on_the_command_line_imports_no_torch(
    bundle: Path, photo: Path, tmp_path: Path
) -> None:
    target = tmp_path / "x.ambi"
    assert run("encode", photo, target, "-b", bundle).exit_code == 0
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'numba', 'rich'): sys.modules[name] = None\n"
        "from ambi_rl.cli import main\n"
        f"names = {[str(target), str(tmp_path / 'x.png'), '-b', str(bundle)]!r}\n"
        "sys.argv = ['ambi', 'decode', *names]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "112x88 RGB" in done.stdout
