"""Several files on the command line: which are found, what they are called, and what becomes of each."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import ambi_rl
from ambi_rl.cli.app import app
from ambi_rl.codec import restoration, tiles
from ambi_rl.codec.api import EncodedImage
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.container import MAX_PIXELS
from ambi_rl.codec.threads import available_cores, limit_threads, thread_count
from ambi_rl.corpus.manifest import NAME, Manifest, read_manifest
from ambi_rl.corpus.plan import PICTURE_SUFFIXES, Job, Naming, make_plan
from ambi_rl.corpus.pool import run_threads
from ambi_rl.corpus.settings import _OwnPixelLimit
from ambi_rl.corpus.work import Outcome, Status, StoppedError, Writer
from ambi_rl.errors import UsageError

AMBI = [sys.executable, "-m", "ambi_rl.cli"]
FAST = ("-e", "0")


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr


def files_below(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def lines(result: Result) -> list[dict[str, Any]]:
    """The objects that --json printed."""
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def photos(photograph: Image.Image, tmp_path: Path) -> Path:
    """A tree of three pictures, each another one, and what else lies about in such trees."""
    folder = tmp_path / "photos"
    (folder / "sub" / "deep").mkdir(parents=True)
    photograph.crop((20, 10, 60, 50)).save(folder / "a.png")
    photograph.crop((40, 10, 81, 44)).save(folder / "sub" / "b.jpg", quality=90)
    photograph.crop((10, 30, 50, 62)).save(folder / "sub" / "deep" / "c.PNG")
    (folder / "notes.txt").write_text("no picture")
    (folder / "sub" / "._b.jpg").write_bytes(b"what a file manager leaves")
    (folder / ".hidden").mkdir()
    shutil.copy(folder / "a.png", folder / ".hidden" / "d.png")
    return folder


@pytest.fixture
def coded(photos: Path, tmp_path: Path) -> Path:
    """The tree as ambi files, with its manifest."""
    folder = tmp_path / "coded"
    assert run("encode", photos, "-o", folder, *FAST, "--manifest").exit_code == 0
    return folder


def test_large_pictures_are_divided_unless_told_not_to(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILED_PIXELS", 1000)
    monkeypatch.setattr(tiles, "TYPICAL_SIDE", tiles.MIN_SIDE // 2)
    large = tmp_path / "large.png"
    Image.open(photos / "a.png").resize((300, 40)).save(large)
    for number, (options, section) in enumerate((((), "tiles"), (("--no-tiles",), "picture"))):
        alone, out = tmp_path / f"{number}.ambi", tmp_path / f"out-{number}"
        result = run("encode", large, alone, *FAST, "--json", *options)
        assert section in lines(result)[0]["sections"]
        assert run("encode", large, "-o", out, *FAST, "--manifest", *options).exit_code == 0
        assert (out / "large.ambi").read_bytes() == alone.read_bytes()


def test_a_folder_keeps_its_tree(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "coded"
    result = run("encode", photos, "-o", out, *FAST, "-q", 60, "-j", 2)
    assert result.exit_code == 0
    assert files_below(out) == ["a.ambi", "sub/b.ambi", "sub/deep/c.ambi"]
    expected = ambi_rl.encode(Image.open(photos / "sub" / "b.jpg"), quality=60, effort=0)
    assert (out / "sub" / "b.ambi").read_bytes() == expected
    *each, summary = result.stdout.splitlines()
    assert len(each) == 3
    assert any("b.jpg 41x34 -> " in line and "dB" in line for line in each)
    assert "3 encoded" in summary
    assert "3 skipped" in summary
    back = tmp_path / "back"
    assert run("decode", out, "-o", back, "--format", "webp").exit_code == 0
    assert files_below(back) == ["a.webp", "sub/b.webp", "sub/deep/c.webp"]
    decoded = ambi_rl.decode((out / "a.ambi").read_bytes())
    assert Image.open(back / "a.webp").tobytes() == decoded.tobytes()


def test_among_several_a_folder_keeps_its_name(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("encode", photos / "a.png", photos / "sub", "-o", out, *FAST)
    assert files_below(out) == ["a.ambi", "sub/b.ambi", "sub/deep/c.ambi"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["a.ambi"]),
        ("**/*.[jp]*g", ["a.ambi", "sub/b.ambi"]),
        ("*", ["a.ambi", "sub/b.ambi", "sub/deep/c.ambi"]),
        ("**", ["a.ambi", "sub/b.ambi", "sub/deep/c.ambi"]),
        ("sub/*", ["b.ambi", "deep/c.ambi"]),
    ],
)
def test_a_pattern_that_the_shell_left(
    pattern: str, found: list[str], photos: Path, tmp_path: Path
) -> None:
    plan = make_plan(
        [str(photos / pattern)], tmp_path, suffixes=PICTURE_SUFFIXES, naming=Naming(".ambi")
    )
    outputs = sorted(job.output for job in plan.jobs)
    # Only the first pattern's root is "photos" for sure; names begin where the pattern is no longer fixed.
    assert outputs == found


@pytest.mark.parametrize(
    "pattern", ["**/*.png", "**", "*", "**/**/*.png", "*/**", "**/", "*/*.png"]
)
def test_patterns_do_not_follow_links_that_lead_back(pattern: str, tmp_path: Path) -> None:
    folder = tmp_path / "w"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (folder / name).touch()
    # Followed, each of them would double the paths of every level.
    for number in range(8):
        (folder / f"loop{number}").symlink_to(".")
        (folder / "sub" / f"loop{number}").symlink_to("..")
    inputs = [str(folder / pattern), str(folder / "**" / "*.png")]
    plan = make_plan(inputs, tmp_path, suffixes=PICTURE_SUFFIXES, naming=Naming(".ambi"))
    assert sorted(job.output for job in plan.jobs) == ["a.ambi", "sub/b.ambi"]
    assert {why for _, why in plan.skipped} == {"a link to a folder above it"}
    assert len(plan.skipped) == 16


@pytest.mark.parametrize("pattern", ["**/*.png", "**", "*", "*/", "*/*", "*/deep/*.png", "*/deep"])
def test_patterns_do_not_find_the_output_folder(pattern: str, tmp_path: Path) -> None:
    out = tmp_path / "w" / "out"
    for folder in (tmp_path / "w" / "in" / "deep", out / "deep"):
        folder.mkdir(parents=True)
        (folder / "a.png").touch()
    inputs = [str(tmp_path / "w" / pattern)] * 2
    plan = make_plan(inputs, out, suffixes=PICTURE_SUFFIXES, naming=Naming(".ambi"))
    assert [job.output for job in plan.jobs] == ["in/deep/a.ambi"]
    assert plan.skipped == [(str(out), "the output folder")]


def test_names_stay_within_the_output_folder(photos: Path, tmp_path: Path) -> None:
    for pattern in ("*/../../*.png", "*/../a.png", "**/.."):
        result = run("encode", photos / pattern, "-o", tmp_path / "out", "--dry-run")
        refused(result, ".. behind a wildcard")
    # Before it, .. is a folder like others.
    result = run("encode", photos / "sub" / ".." / "*.png", "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0
    assert f" -> {tmp_path / 'out' / 'a.ambi'}\n" in result.stdout


def test_patterns_match_as_a_shell_does(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    for pattern in (
        *(
            "*",
            "**",
            "*.png",
            "**/*.png",
            "sub/*/*",
            "**/deep/*",
            ".*/*",
            "s*/b.jpg",
            "**/.*/*.png",
        ),
        *("*/", "[a]*", "?.png", "**/d*", "**/*.txt"),
    ):
        matches = [Path(m) for m in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - what it is held to
        assert matches
        found = {match for match in matches if match.is_file()}
        for match in matches:
            below = match.rglob("*") if match.is_dir() else ()
            found |= {p for p in below if "/." not in f"/{p.relative_to(match)}"}
        expected = {str(p) for p in found if p.suffix.lower() in PICTURE_SUFFIXES}
        plan = make_plan([pattern], tmp_path, suffixes=PICTURE_SUFFIXES, naming=Naming(".ambi"))
        assert {job.source for job in plan.jobs} == expected


def test_a_file_whose_name_looks_like_a_pattern(photos: Path, tmp_path: Path) -> None:
    shutil.copy(photos / "a.png", tmp_path / "[1].png")
    assert run("encode", tmp_path / "[1].png", tmp_path / "x.ambi", *FAST).exit_code == 0
    assert run("encode", tmp_path / "[1].png", "-o", tmp_path / "out", *FAST).exit_code == 0
    assert files_below(tmp_path / "out") == ["[1].ambi"]


def test_output_of_one_file(photos: Path, tmp_path: Path) -> None:
    """As cwebp and avifenc have it: -o FILE; a folder is one by its being there, or by having no ending."""
    picture = photos / "a.png"
    expected = ambi_rl.encode(Image.open(picture), effort=0)
    for output, file in (("x.ambi", "x.ambi"), ("new", "new/a.ambi"), ("v1.2/", "v1.2/a.ambi")):
        assert run("encode", picture, "-o", f"{tmp_path}/{output}", *FAST).exit_code == 0
        assert (tmp_path / file).read_bytes() == expected
    (tmp_path / "odd.ambi").mkdir()
    run("encode", picture, "-o", tmp_path / "odd.ambi", *FAST)
    assert (tmp_path / "odd.ambi" / "a.ambi").read_bytes() == expected
    piped = run("encode", "-", "-o", "-", *FAST, stdin=picture.read_bytes())
    assert piped.stdout_bytes == expected
    assert run("decode", tmp_path / "x.ambi", "-o", tmp_path / "x.bmp").exit_code == 0
    assert Image.open(tmp_path / "x.bmp").format == "BMP"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("encode", "{p}/a.png"), ["OUT", "-o DIR", "help"]),
        (("encode", "{p}/a.png", "{p}/sub/b.jpg", "{p}/x"), ["3 names", "-o DIR", "help"]),
        (("encode", "{p}", "{p}/x"), ["is a folder", "-o {p}/x"]),
        (("encode", "{p}/*.png", "{p}/x"), ["is a pattern", "-o {p}/x"]),
        (("encode", "{p}/a.png", "{p}/sub/b.jpg"), ["b.jpg is a picture", "-o"]),
        (("encode", "{p}", "-o", "{p}/x.ambi"), ["x.ambi is a file", "name a folder"]),
        (("encode", "{p}", "-o", "-"), ["-o - is a file"]),
        (("encode", "-", "-o", "{p}/x"), ["stdin", "has no name"]),
        (("encode", "{p}/a.png", "{p}/b.png", "-o", "{p}/x"), ["b.png does not exist"]),
        (("encode", "{p}/*.tif", "-o", "{p}/x"), ["nothing matches"]),
        (("encode", "{p}", "-o", "{p}/notes.txt"), ["notes.txt is a file"]),
        (("decode", "{p}", "-o", "{p}/x"), ["hold no .ambi files", "others"]),
        (("encode", "{p}/a.png", "{p}/x", "--dry-run"), ["--dry-run", "-o DIR"]),
        (("encode", "{p}/a.png", "{p}/x", "--ray", "local"), ["--ray", "-o DIR"]),
        (("decode", "{p}/a.png", "{p}/x", "--format", "tif"), ["--format", "-o DIR"]),
        (("encode", "{p}", "-o", "{p}/x", "--verify"), ["--verify", "--manifest"]),
        (("encode", "{p}", "-o", "{p}/x", "--threads", "2"), ["--threads", "--ray"]),
        (("encode", "{p}", "-o", "{p}/x", "--quiet", "-v"), ["--quiet", "--verbose"]),
        (("encode", "{p}", "-o", "{p}/x", "-q", "5", "--target-bpp", "1"), ["exclude"]),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_work(
    arguments: tuple[str, ...], words: list[str], photos: Path
) -> None:
    before = files_below(photos)
    refused(
        run(*(a.format(p=photos) for a in arguments)), *(word.format(p=photos) for word in words)
    )
    assert files_below(photos) == before


def test_two_files_of_one_name(photos: Path, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    Image.open(photos / "a.png").save(photos / "a.jpg")
    refused(run("encode", photos, "-o", out, *FAST), "a.jpg", "a.png", "a.ambi", "--full-names")
    assert not out.exists()
    assert run("encode", photos, "-o", out, *FAST, "--full-names").exit_code == 0
    assert "a.jpg.ambi" in files_below(out)
    assert run("decode", out, "-o", back).exit_code == 0
    assert files_below(back) == ["a.jpg.png", "a.png", "sub/b.jpg.png", "sub/deep/c.PNG"]
    # The same file twice is no clash.
    assert run("encode", photos / "a.png", photos / "*.png", "-o", out, "--dry-run").exit_code == 0


def test_one_bad_file_does_not_stop_the_others(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (photos / "sub" / "half.png").write_bytes((photos / "a.png").read_bytes()[:900])
    (photos / "gone.png").symlink_to("nowhere.png")
    Image.new("CMYK", (8, 8)).save(photos / "z.jpg")
    result = run("encode", photos, "-o", out, *FAST)
    assert result.exit_code == 9
    assert files_below(out) == ["a.ambi", "sub/b.ambi", "sub/deep/c.ambi"]
    errors = result.stderr.splitlines()
    assert len(errors) == 3
    for words in (("half.png", "damaged"), ("gone.png", "does not exist"), ("z.jpg", "CMYK")):
        assert any(all(word in line for word in words) for line in errors)
    assert "3 failed" in result.stdout
    # What is named is meant to be a picture.
    result = run("encode", photos / "a.png", photos / "notes.txt", "-o", out, "--json", *FAST)
    assert result.exit_code == 9
    by_name = {Path(values["input"]).name: values for values in lines(result)}
    assert by_name["a.png"]["status"] == "done"
    assert by_name["notes.txt"]["exit_code"] == 3
    assert "not a picture" in by_name["notes.txt"]["error"]


def test_a_folder_that_may_not_be_read(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def scan(path: str) -> Any:
        # Root, as which tests may run, may read everything.
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", scan)
    result = run("encode", photos, "-o", tmp_path / "out", *FAST)
    assert result.exit_code == 9
    assert "deep: Permission denied" in result.stderr
    assert files_below(tmp_path / "out") == ["a.ambi", "sub/b.ambi"]


def test_an_output_folder_within_the_input_and_links_that_lead_back(
    photos: Path, tmp_path: Path
) -> None:
    (photos / "sub" / "up").symlink_to(photos)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "a.png", tmp_path / "elsewhere" / "e.png")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    out = photos / "out"
    assert run("encode", photos, "-o", out, *FAST).exit_code == 0
    expected = ["a", "linked/e", "sub/b", "sub/deep/c"]
    assert files_below(out) == [f"{name}.ambi" for name in expected]
    assert run("decode", photos, "-o", out / "png", "-j", 1).exit_code == 0
    shutil.rmtree(out / "png")
    # In place: ambi files beside their pictures, which are never decoded over.
    assert run("encode", photos, "-o", photos, *FAST, "--quiet").stdout == ""
    before = (photos / "a.png").read_bytes()
    refused(run("decode", photos, "-o", photos), "a.png", "original", "--no-overwrite")
    result = run("decode", photos / "a.ambi", "-o", photos, "--no-overwrite")
    assert "a.png exists" in result.stdout
    assert (photos / "a.png").read_bytes() == before


def test_no_overwrite_skips_what_exists(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.ambi").write_bytes(b"mine")
    result = run("encode", photos, "-o", out, *FAST, "--no-overwrite", "--json")
    assert result.exit_code == 0
    statuses = {Path(v["input"]).name: v["status"] for v in lines(result)}
    assert statuses == {"a.png": "exists", "b.jpg": "done", "c.PNG": "done"}
    assert (out / "a.ambi").read_bytes() == b"mine"
    assert "1 existed" in result.stderr


def test_dry_run_writes_nothing(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("encode", photos, "-o", out, "--dry-run", "-v")
    assert result.exit_code == 0
    assert f"{photos}/a.png -> {out}/a.ambi\n" in result.stdout
    assert "notes.txt skipped: another kind of file" in result.stdout
    assert "would write 3 files" in result.stdout
    assert not out.exists()
    out.mkdir()
    (out / "a.ambi").write_bytes(b"mine")
    (plan,) = (v for v in lines(run("encode", photos, "-o", out, "--dry-run", "--json"))[:1])
    assert plan["status"] == "would replace"
    result = run("encode", photos, "-o", out, "--dry-run", "--no-overwrite")
    assert "a.ambi exists" in result.stdout
    assert "would write 2 files" in result.stdout
    assert (out / "a.ambi").read_bytes() == b"mine"


def test_metadata_stays_or_goes(photos: Path, tmp_path: Path) -> None:
    Image.open(photos / "a.png").save(photos / "a.png", icc_profile=b"profile")
    for option, kept in (("--keep-metadata", True), ("--strip", False)):
        (values,) = lines(
            run("encode", photos / "a.png", "-o", tmp_path / "out", "--json", option, *FAST)
        )
        assert ("icc" in values["sections"]) is kept


def test_quiet_and_verbose(photos: Path, tmp_path: Path) -> None:
    picture, out = photos / "a.png", tmp_path / "out"
    result = run("encode", picture, tmp_path / "x.ambi", "--quiet", *FAST)
    assert (result.exit_code, result.output) == (0, "")
    assert "quality" in json.loads(
        run("encode", picture, tmp_path / "x.ambi", "--quiet", "--json", *FAST).stdout
    )
    assert run("encode", photos, "-o", out, "--quiet", *FAST).output == ""
    assert "sections (bytes)" in run("encode", photos, "-o", out, "-v", *FAST).stdout


def test_what_nobody_reads_is_not_measured(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(encoded: EncodedImage) -> float:
        raise AssertionError

    picture, out = photos / "a.png", tmp_path / "out"
    assert lines(run("encode", picture, "-o", out, "-q", 60, "--json", "--quiet", *FAST))[0]["psnr"]
    monkeypatch.setattr(EncodedImage, "psnr", refuse)
    assert run("encode", picture, tmp_path / "x.ambi", "--quiet", *FAST).exit_code == 0
    assert run("encode", photos, "-o", out, "--quiet", *FAST).exit_code == 0
    assert run("encode", photos, "-o", out, "--quiet", *FAST, "--manifest").exit_code == 9


def test_the_second_run_does_what_is_missing(
    photos: Path, coded: Path, photograph: Image.Image
) -> None:
    def encode(*options: object) -> dict[str, str]:
        result = run("encode", photos, "-o", coded, *FAST, "--manifest", "--json", *options)
        assert result.exit_code == 0, result.output
        return {Path(v["input"]).stem: v["status"] for v in lines(result)}

    same = dict.fromkeys("abc", "unchanged")
    assert encode() == same
    record = read_manifest(coded / NAME)["sub/b.ambi"]
    data = (coded / "sub" / "b.ambi").read_bytes()
    assert record["path"] == "sub/b.jpg"
    assert record["bytes"] == len(data)
    assert record["psnr"] > 25
    assert record["settings"]["bundle_id"] == record["bundle_id"]
    # A new time is not yet a change, a new content is.
    os.utime(photos / "a.png", (1, 1))
    before, manifest = read_manifest(coded / NAME)["a.ambi"], (coded / NAME).read_bytes()
    assert encode("--dry-run") == same
    assert (coded / NAME).read_bytes() == manifest
    assert encode() == same
    # And is noted, so that the content is not looked at again.
    assert read_manifest(coded / NAME)["a.ambi"] == before | {"modified_ns": 10**9}
    manifest = (coded / NAME).read_bytes()
    assert encode() == encode("--verify") == same
    assert (coded / NAME).read_bytes() == manifest
    photograph.crop((0, 0, 30, 30)).save(photos / "a.png")
    assert encode() == same | {"a": "done"}
    (coded / "sub" / "b.ambi").unlink()
    (coded / "sub" / "deep" / "c.ambi").write_bytes(b"short")
    assert encode() == {"a": "unchanged", "b": "done", "c": "done"}
    assert (coded / "sub" / "b.ambi").read_bytes() == data
    # Of the right size, and damaged all the same.
    (coded / "sub" / "b.ambi").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert encode() == same
    assert encode("--verify") == same | {"b": "done"}
    assert encode("-q", 50) == dict.fromkeys("abc", "done")
    assert encode("-q", 50, "--dry-run") == same


def test_a_manifest_that_was_cut_short_or_is_none(photos: Path, coded: Path) -> None:
    path = coded / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    (coded / ".a.ambi.x1y2z3.part").write_bytes(b"left by a killed process")
    result = run("encode", photos, "-o", coded, *FAST, "--manifest", "--json")
    assert sorted(v["status"] for v in lines(result)) == ["done", "unchanged", "unchanged"]
    assert len(read_manifest(path)) == 3
    assert not list(coded.glob(".*.part"))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(run("encode", photos, "-o", coded, "--manifest"), "another command")
    path.write_text("something else\n")
    refused(run("encode", photos, "-o", coded, "--manifest"), "line 1", "not a manifest")
    assert path.read_text() == "something else\n"


def test_a_manifest_that_another_command_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment between its being opened and locked, as a command does for which nothing came of it."""
    folder, flock = tmp_path / "out", fcntl.flock
    removed: list[bytes] = []

    def lock(handle: int, operation: int) -> None:
        if not removed:
            removed.append((folder / NAME).read_bytes())
            shutil.rmtree(folder)
        flock(handle, operation)

    monkeypatch.setattr("fcntl.flock", lock)
    job = Job("a.png", str(folder / "a.ambi"), "a.png", "a.ambi")
    with Manifest(folder) as manifest:
        manifest.add(Outcome(job, Status.FAILED, error="no picture", exit_code=3))
    assert removed == [b""]
    assert read_manifest(folder / NAME)["a.ambi"]["error"] == "no picture"
    # One with nothing in it does not stay.
    with Manifest(tmp_path / "new" / "out"):
        pass
    assert not (tmp_path / "new" / "out").exists()


def test_a_file_that_failed_is_tried_again(photos: Path, tmp_path: Path) -> None:
    out, good = tmp_path / "out", (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(good[:900])
    assert run("encode", photos, "-o", out, *FAST, "--manifest").exit_code == 9
    record = read_manifest(out / NAME)["a.ambi"]
    assert (record["status"], record["exit_code"]) == ("failed", 4)
    assert "damaged" in record["error"]
    (photos / "a.png").write_bytes(good)
    assert run("encode", photos, "-o", out, *FAST, "--manifest").exit_code == 0
    assert read_manifest(out / NAME)["a.ambi"]["status"] == "done"


def test_an_interruption_keeps_what_is_finished(photograph: Image.Image, tmp_path: Path) -> None:
    folder, out = tmp_path / "many", tmp_path / "out"
    folder.mkdir()
    for number in range(40):
        photograph.save(folder / f"{number:02}.png")
    command = [*AMBI, "encode", str(folder), "-o", str(out), "-e", "9", "-j", "2", "--manifest"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while len(list(out.glob("*.ambi"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == ""
    assert stdout.splitlines()[-1].startswith("interrupted: ")
    finished = sorted(out.glob("*.ambi"))
    assert 3 <= len(finished) < 40
    assert {p.name for p in out.iterdir()} == {NAME} | {p.name for p in finished}
    for path in finished:
        assert ambi_rl.decode(path.read_bytes()).size == photograph.size
    result = run("encode", folder, "-o", out, "-e", 9, "--manifest", "--dry-run", "--json")
    # All but what was written in the very moment.
    done = sum(v["status"] == "unchanged" for v in lines(result))
    assert len(finished) - 2 <= done <= len(finished)


def test_a_bar_on_a_terminal(photos: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    command = [*AMBI, "encode", str(photos), "-o", str(tmp_path / "out"), *FAST]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 4096):
            shown += chunk
    except OSError:
        pass  # The other end is closed.
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"3/3" in shown
    assert b"files/s" in shown
    assert stdout.count(b"\n") == 1
    assert stdout.startswith(b"3 encoded")


@pytest.mark.parametrize("option", ["--json", "-v"])
def test_lines_for_a_file_stay_out_of_the_bar(option: str, photos: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    log = tmp_path / "log"
    command = [*AMBI, "encode", str(photos), "-o", str(tmp_path / "out"), *FAST, option]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "40"}
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=slave, env=environment)
        os.close(slave)
        shown = b""
        with suppress(OSError):  # The other end is closed.
            while chunk := os.read(master, 4096):
                shown += chunk
    assert process.wait(timeout=60) == 0
    assert b"3/3" in shown
    assert b"sections" not in shown
    written = log.read_text().splitlines()
    if option == "--json":
        assert {json.loads(line)["status"] for line in written} == {"done"}
        assert len(written) == 3
    else:
        assert sum(line.startswith("sections (bytes): ") for line in written) == 3
        assert written[-1].startswith("3 encoded")


def test_info_of_several(coded: Path, photos: Path) -> None:
    names = [coded / "a.ambi", photos / "a.png", coded / "sub" / "b.ambi"]
    result = run("info", *names, "--json")
    assert result.exit_code == 9
    assert "a.png is neither" in result.stderr
    first, second = lines(result)
    assert (first["file"], second["width"]) == (str(names[0]), 41)
    text = run("info", names[0], names[2])
    assert text.exit_code == 0
    for word in (str(names[0]), str(names[2]), "  width", "41"):
        assert word in text.stdout


def test_threads_share_jobs_and_stop() -> None:
    jobs = [Job(str(n), str(n), str(n), str(n)) for n in range(40)]
    together, most, lock = 0, 0, threading.Lock()

    def work(job: Job) -> Outcome:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.002)
        with lock:
            together -= 1
        return Outcome(job, Status.DONE)

    assert {o.job for o in run_threads(jobs, work, 3)} == set(jobs)
    assert most == 3
    begun = []

    def note(job: Job) -> Outcome:
        begun.append(job)
        return work(job)

    outcomes = run_threads(iter(jobs), note, 2)
    next(outcomes)
    outcomes.close()
    time.sleep(0.05)
    assert len(begun) < 10

    def fail(job: Job) -> Outcome:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(run_threads(jobs, fail, 2))


def test_nothing_is_written_after_an_interruption(tmp_path: Path) -> None:
    writer = Writer(overwrite=True)
    writer(str(tmp_path / "sub" / "a"), b"a")
    writer.close()
    with pytest.raises(StoppedError):
        writer(str(tmp_path / "sub" / "b"), b"b")
    assert files_below(tmp_path) == ["sub/a"]


def test_the_number_of_threads_is_limited(
    default_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    planes = rng.integers(0, 1024, (3, 600, 1000), dtype=np.int16)
    assert thread_count() == available_cores()
    expected = restoration.restore(planes, 1000, default_bundle.restoration)
    monkeypatch.setattr("ambi_rl.codec.threads.ThreadPoolExecutor", None)
    limit_threads(1)
    try:
        assert thread_count() == 1
        alone = restoration.restore(planes, 1000, default_bundle.restoration)
    finally:
        limit_threads(None)
    np.testing.assert_array_equal(alone, expected)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What the installation makes of pyproject's `ambi`."""
    path = tmp_path / "bin" / "ambi"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom ambi_rl.cli import main\nmain()\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("ambi en", ["encode"]),
        ("ambi encode --targ", ["--target-size", "--target-bpp", "--target-psnr"]),
        ("ambi encode a.png --strategist gu", ["guided"]),
        ("ambi runs co", ["compare"]),
        # Nothing of ours: bash completes names of files.
        ("ambi decode pho", []),
    ],
)
def test_bash_completes(script: Path, words: str, completed: list[str]) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    code = (
        'eval "$(ambi --show-completion)"; COMP_WORDS=($WORDS); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); '
        'complete -p ambi >&2; _ambi_completion ambi; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = os.environ | {"WORDS": words, "PATH": f"{script.parent}:{os.environ['PATH']}"}
    result = subprocess.run(
        [bash, "--norc", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == completed
    assert "-o default" in result.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete(script: Path, shell: str) -> None:
    environment = os.environ | {
        "_TYPER_COMPLETE_ARGS": "ambi encode --targ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_AMBI_COMPLETE": f"complete_{shell}",
    }
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    assert "--target-psnr" in done.stdout


def test_completion_imports_no_compiler(script: Path) -> None:
    environment = os.environ | {
        "COMP_WORDS": "ambi encode --q",
        "COMP_CWORD": "2",
        "_AMBI_COMPLETE": "complete_bash",
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    done = subprocess.run([script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--quality", "--quiet"]
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"numpy", "numba", "PIL", "rich.console", "torch", "ray"}


def test_refusals_of_a_plan(photos: Path, tmp_path: Path) -> None:
    """What only a caller of the module meets: targets that are sources."""

    def plan(inputs: list[str], folder: Path, suffix: str) -> Callable[[], object]:
        return lambda: make_plan(inputs, folder, suffixes=(".png",), naming=Naming(suffix))

    with pytest.raises(UsageError, match="itself an input"):
        plan([str(photos)], photos, ".png")()
    with pytest.raises(UsageError, match="is a file"):
        plan([str(photos)], photos / "a.png", ".ambi")()


def test_pillows_limit_is_put_back_by_the_last_thread_to_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two files at a time: whoever begins second sees a limit that is not Pillow's own."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    limit, second_is_inside, first_has_left = _OwnPixelLimit(), threading.Event(), threading.Event()

    def second() -> None:
        with limit:
            second_is_inside.set()
            assert first_has_left.wait(10)

    thread = threading.Thread(target=second)
    with limit:
        thread.start()
        assert second_is_inside.wait(10)
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    first_has_left.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 12345
