"""The command line: what it writes, prints and returns, and that every failure is one line."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ambi_rl
from ambi_rl.cli.app import app
from ambi_rl.codec.bundle import Bundle, save_bundle

AMBI = [sys.executable, "-m", "ambi_rl.cli"]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def one_line(result: Result, code: int, *words: str) -> None:
    """The command failed with this exit code and one line on stderr that says these words."""
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("ambi: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


@pytest.fixture
def picture(photograph: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    photograph.crop((20, 10, 67, 51)).save(path)
    return path


@pytest.fixture
def coded(picture: Path, tmp_path: Path) -> Path:
    path = tmp_path / "small.ambi"
    path.write_bytes(ambi_rl.encode(Image.open(picture)))
    return path


def test_encode_and_decode(picture: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "x.ambi", tmp_path / "x.png"
    result = run("encode", picture, file, "-q", "80.5", "-e", 6)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    for word in ("47x41", "bytes", "bpp", "PSNR", "dB", " s"):
        assert word in result.stdout
    expected = ambi_rl.encode(Image.open(picture), quality=80.5, effort=6)
    assert file.read_bytes() == expected
    result = run("decode", file, out)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert Image.open(out).tobytes() == ambi_rl.decode(expected).tobytes()


def test_json(picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.ambi"
    values = json.loads(run("encode", picture, file, "--json").stdout)
    assert values["bytes"] == file.stat().st_size
    assert values["bpp"] == pytest.approx(8 * values["bytes"] / (47 * 41), abs=1e-3)
    source = np.asarray(Image.open(picture), np.float64)
    decoded = np.asarray(ambi_rl.decode(file.read_bytes()), np.float64)
    psnr = 10 * np.log10(255**2 / np.mean((source - decoded) ** 2))
    assert values["psnr"] == pytest.approx(psnr, abs=1e-3)
    values = json.loads(run("decode", file, tmp_path / "x.png", "--json").stdout)
    assert (values["width"], values["height"], values["mode"]) == (47, 41, "RGB")


def test_verbose_says_more(picture: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.ambi"
    result = run("encode", picture, file, "-v", "--strategist", "fixed")
    assert "strategist fixed" in result.stdout
    assert "bundle" in result.stdout
    assert "metadata: none" in run("decode", file, tmp_path / "x.png", "-v").stdout


def test_stdin_and_stdout(picture: Path) -> None:
    encoded = run("encode", "-", "-", stdin=picture.read_bytes())
    assert encoded.stdout_bytes == ambi_rl.encode(Image.open(picture))
    assert "stdin 47x41 -> stdout" in encoded.stderr
    decoded = run("decode", "-", "-", "--json", stdin=encoded.stdout_bytes)
    assert decoded.stdout_bytes.startswith(b"\x89PNG")
    assert json.loads(decoded.stderr)["format"] == "PNG"


def test_info_of_a_file(coded: Path) -> None:
    facts = json.loads(run("info", coded, "--json").stdout)
    assert (facts["width"], facts["height"], facts["quality"]) == (47, 41, 75)
    assert facts["bytes"] == coded.stat().st_size
    text = run("info", coded).stdout
    assert facts["bundle_id"] in text
    assert "picture" in text
    assert run("info", "-", stdin=coded.read_bytes()).stdout == text


def test_info_of_a_bundle(plain_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "my.ambic"
    save_bundle(plain_bundle, path)
    facts = json.loads(run("info", path, "--json").stdout)
    assert facts["bundle_id"] == plain_bundle.id
    assert facts["has_policy"] is True
    assert facts["manifest"]["metrics"] == {"note": "untrained"}
    assert plain_bundle.id in run("info", path).stdout


def test_another_bundle(picture: Path, plain_bundle: Bundle, tmp_path: Path) -> None:
    bundle, file = tmp_path / "my.ambic", tmp_path / "x.ambi"
    save_bundle(dataclasses.replace(plain_bundle, policy={}), bundle)
    assert run("encode", picture, file, "-b", bundle).exit_code == 0
    out = tmp_path / "x.png"
    one_line(run("decode", file, out), 6, plain_bundle.id, "-b", "AMBI_BUNDLES")
    assert not out.exists()
    assert run("decode", file, out, "-b", bundle).exit_code == 0
    one_line(run("encode", picture, file, "-b", bundle, "-e", 0), 7, "policy")
    one_line(run("encode", picture, file, "-b", picture), 7, "small.png", "not a bundle")


def test_no_overwrite(picture: Path, coded: Path, tmp_path: Path) -> None:
    before = coded.read_bytes()
    one_line(run("encode", picture, coded, "-q", 10, "--no-overwrite"), 2, "exists")
    assert coded.read_bytes() == before
    one_line(run("decode", coded, picture, "--no-overwrite"), 2, "exists")
    assert run("encode", picture, coded, "-q", 10).exit_code == 0
    assert coded.read_bytes() != before


def test_the_input_is_never_overwritten(picture: Path, coded: Path, tmp_path: Path) -> None:
    before = picture.read_bytes()
    link = tmp_path / "link.png"
    link.symlink_to(picture)
    for target in (picture, link):
        one_line(run("encode", picture, target), 2, "input itself")
    assert picture.read_bytes() == before


def test_strip_and_output_formats(coded: Path, picture: Path, tmp_path: Path) -> None:
    image = Image.open(picture)
    image.save(tmp_path / "icc.png", icc_profile=b"profile")
    sections = json.loads(run("encode", tmp_path / "icc.png", tmp_path / "x", "--json").stdout)
    assert "icc" in sections["sections"]
    stripped = run("encode", tmp_path / "icc.png", tmp_path / "x", "--json", "--strip")
    assert list(json.loads(stripped.stdout)["sections"]) == ["picture"]
    exact = ambi_rl.decode(coded.read_bytes()).tobytes()
    for suffix in ("png", "tif", "webp", "bmp", "ppm", "jpg"):
        out = tmp_path / f"out.{suffix}"
        assert run("decode", coded, out).exit_code == 0
        assert suffix == "jpg" or Image.open(out).tobytes() == exact


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda p: ("encode", p / "none.png", p / "x"), 2, ["none.png does not exist"]),
        (lambda p: ("encode", p, p / "x"), 2, ["is a folder"]),
        (lambda p: ("encode", p / "small.png", p), 2, ["is a folder"]),
        (lambda p: ("encode", p / "small.png", p / "no" / "x"), 2, ["no does not exist"]),
        (lambda p: ("encode", p / "small.ambi", p / "x"), 3, ["small.ambi is not a picture"]),
        (lambda p: ("encode", p / "cmyk.jpg", p / "x"), 3, ["cmyk.jpg", "CMYK"]),
        (lambda p: ("encode", p / "half.png", p / "x"), 4, ["half.png", "damaged"]),
        (lambda p: ("encode", p / "small.png", p / "x", "-b", p / "n"), 7, ["n does not exist"]),
        (lambda p: ("decode", p / "none.ambi", p / "x.png"), 2, ["none.ambi does not exist"]),
        (lambda p: ("decode", p / "small.ambi", p / "x.gif"), 2, [".gif", ".png"]),
        (lambda p: ("decode", p / "small.png", p / "x.png"), 4, ["not an ambi file"]),
        (lambda p: ("decode", p / "half.ambi", p / "x.png"), 4, ["truncated"]),
        (lambda p: ("decode", p / "new.ambi", p / "x.png"), 5, ["version 9"]),
        (
            lambda p: ("decode", p / "small.ambi", p / "x.png", "--max-pixels", 100),
            3,
            ["limit of 100"],
        ),
        (lambda p: ("info", p / "small.png"), 4, ["neither"]),
        (lambda p: ("info", p / "rubbish.ambic"), 7, ["not a bundle"]),
        (lambda p: ("info", p / "half.ambi"), 4, ["truncated"]),
        (lambda p: ("encode", p / "small.png", "/dev/full"), 1, ["No space left"]),
    ],
)
def test_failures_are_one_line_and_leave_nothing(
    make: Callable[[Path], tuple[object, ...]],
    code: int,
    words: list[str],
    picture: Path,
    coded: Path,
    tmp_path: Path,
) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "cmyk.jpg")
    (tmp_path / "half.png").write_bytes(picture.read_bytes()[:1500])
    (tmp_path / "half.ambi").write_bytes(coded.read_bytes()[:100])
    data = coded.read_bytes()
    (tmp_path / "new.ambi").write_bytes(data[:4] + b"\x09" + data[5:])
    (tmp_path / "rubbish.ambic").write_bytes(b"rubbish" * 9)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    one_line(run(*make(tmp_path)), code, *words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode"],
        ["encode", "a"],
        ["encode", "a", "b", "-q", "0"],
        ["encode", "a", "b", "-q", "fine"],
        ["encode", "a", "b", "-e", "10"],
        ["encode", "a", "b", "--strategist", "clever"],
        ["decode", "a", "b.png", "--max-pixels", "0"],
        ["encode", "a", "b", "--unknown"],
        ["frobnicate"],
    ],
)
def test_wrong_options_exit_with_2_and_name_the_help(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "help" in result.stderr
    assert "Error" in result.stderr


def test_help_lists_commands_options_and_exit_codes() -> None:
    text = run("--help").stdout
    for word in ("encode", "decode", "info", "train", "export", "Exit codes", "130"):
        assert word in text
    for word in ("--quality", "--effort", "--bundle", "--no-overwrite", "--json", "Exit codes"):
        assert word in run("encode", "-h").stdout
    # Examples stay on lines of their own.
    assert "\n  ambi info photo.ambi\n" in text
    assert "\n  ambi train --cfg job " in run("train", "-h").stdout
    assert run("--version").stdout == f"ambi-rl {ambi_rl.__version__}\n"


def test_internal_errors_are_one_line_and_a_traceback_on_request(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("ambi_rl.corpus.coding.encode_image", fail)
    monkeypatch.delenv("AMBI_DEBUG", raising=False)
    result = run("encode", picture, tmp_path / "x")
    one_line(result, 70, "RuntimeError: two lines", "AMBI_DEBUG=1")
    monkeypatch.setenv("AMBI_DEBUG", "1")
    assert isinstance(run("encode", picture, tmp_path / "x").exception, RuntimeError)


def test_running_out_of_memory_is_one_line(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ambi_rl.corpus.coding.encode_image", fail)
    one_line(run("encode", picture, tmp_path / "x"), 1, "out of memory")


def test_training_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("ambi_rl.cli.train")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "hydra", "omegaconf", "stable_baselines3", "gymnasium"):
        monkeypatch.setitem(sys.modules, name, None)
    one_line(run("train"), 2, 'pip install "ambi-rl[train]"')


def test_the_installed_script_shows_no_traceback(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "AMBI_DEBUG"}
    result = subprocess.run(
        [*AMBI, "decode", "missing.ambi", "x.png"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr == "ambi: missing.ambi does not exist; check the name\n"


def test_a_closed_pipe_is_no_traceback(picture: Path) -> None:
    process = subprocess.Popen(
        [*AMBI, "encode", str(picture), "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 1


def test_a_full_disk_behind_stdout_is_one_line(coded: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    for arguments in (["--help"], ["info", str(coded)], ["decode", str(coded), "-"]):
        with Path("/dev/full").open("wb") as full:
            result = subprocess.run(
                [*AMBI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert result.returncode == 1
        assert result.stderr == "ambi: No space left on device\n"


def test_an_interrupt_exits_with_130() -> None:
    """While it waits for its input."""
    process = subprocess.Popen(
        [*AMBI, "info", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([*AMBI, "--help"], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 1
