"""Encoding to a size, a bit rate or a PSNR: what is met, what is refused, and in how many encodes."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner, Result

import ambi_rl
from ambi_rl.cli.app import app
from ambi_rl.codec import color
from ambi_rl.codec.api import encode_image
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.codec.target import (
    MAX_ATTEMPTS,
    PSNR_TOLERANCE,
    SIZE_TOLERANCE,
    Attempt,
    Found,
    Kind,
    Target,
    encode_to_target,
    make_target,
    parse_size,
    search,
)
from ambi_rl.errors import UnsupportedImageError, UsageError
from ambi_rl.metrics import psnr


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def meet(image: Image.Image, kind: Kind, value: float) -> Found:
    return encode_to_target(image, Target(kind, value), strategist="fixed")


@pytest.fixture
def file(photograph: Image.Image, tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    photograph.save(path)
    return path


@pytest.mark.parametrize("limit", [250, 1000, 4000, 12000])
def test_the_best_file_that_is_not_larger(photograph: Image.Image, limit: int) -> None:
    found = meet(photograph, "size", limit)
    data = found.encoded.data
    assert len(data) <= limit
    # A file of 1 % more step is not what was asked for; noise of a few bytes is allowed.
    assert len(data) >= limit * (1 - 2 * SIZE_TOLERANCE) - 5
    assert found.attempts[-1].size <= limit or len(found.attempts) > 1
    assert len(found.attempts) <= MAX_ATTEMPTS
    # What is returned was really made at the quality it names.
    again = encode_image(photograph, quality=found.encoded.container.quality, strategist="fixed")
    assert again.data == data


def test_bits_per_pixel_are_those_of_the_whole_file(photograph: Image.Image) -> None:
    data = ambi_rl.encode(photograph, target_bpp=1.5, strategist="fixed")
    bpp = 8 * len(data) / (photograph.width * photograph.height)
    assert 1.5 * (1 - 2 * SIZE_TOLERANCE) < bpp <= 1.5
    assert data == ambi_rl.encode(
        photograph, target_size=int(1.5 * 112 * 88 / 8), strategist="fixed"
    )


@pytest.mark.parametrize("decibels", [24, 30.5, 38, 47])
def test_the_smallest_file_that_reaches_a_psnr(photograph: Image.Image, decibels: float) -> None:
    data = ambi_rl.encode(photograph, target_psnr=decibels, strategist="fixed")
    reached = psnr(np.asarray(photograph), np.asarray(ambi_rl.decode(data)))
    assert decibels <= reached < decibels + 5 * PSNR_TOLERANCE


@pytest.mark.parametrize("strip_pixels", [1, 700, 1 << 20])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_psnr_is_that_of_the_decoded_picture(
    photograph: Image.Image, mode: str, strip_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever strips of rows it is computed in: of one row, of some with fewer at the end, of all."""
    image = photograph.convert(mode)
    encoded = encode_image(image, quality=60, strategist="fixed")
    decoded = ambi_rl.decode(encoded.data)
    seen = "L" if mode == "L" else "RGB"
    monkeypatch.setattr(color, "_STRIP_PIXELS", strip_pixels)
    first, second = (np.asarray(i.convert(seen)) for i in (image, decoded))
    assert encoded.psnr() == psnr(first, second)


def test_psnr_of_equal_pictures_is_infinite() -> None:
    flat = encode_image(Image.new("RGB", (16, 16), (128, 128, 128)), quality=100)
    assert flat.psnr() == math.inf


def test_the_file_is_made_with_the_effort_asked_for(photograph: Image.Image) -> None:
    small = photograph.crop((0, 0, 48, 40))
    found = encode_to_target(small, Target("size", 900), effort=6)
    quality = found.encoded.container.quality
    assert found.encoded.data == ambi_rl.encode(small, quality=quality, effort=6)
    assert len(found.encoded.data) <= 900


def test_metadata_and_transparency_count(photograph: Image.Image) -> None:
    rng = np.random.default_rng(0)
    image = photograph.copy()
    image.putalpha(Image.fromarray(rng.integers(0, 256, (88, 112), dtype=np.uint8)))
    image.info["icc_profile"] = rng.bytes(2000)
    found = meet(image, "size", 16000)
    assert 15800 < len(found.encoded.data) <= 16000
    back = ambi_rl.decode(found.encoded.data)
    assert back.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert back.info["icc_profile"] == image.info["icc_profile"]
    # Together they are larger than this, so that not even quality 1 is small enough.
    with pytest.raises(
        UsageError, match=r"smallest possible is 1\d,\d{3} bytes .*strip the 2,000 bytes"
    ) as caught:
        meet(image, "size", 9000)
    assert "at quality 1;" in str(caught.value)
    stripped = encode_to_target(image, Target("size", 12500), strategist="fixed", strip=True)
    assert len(stripped.encoded.data) <= 12500


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA"])
def test_all_modes(photograph: Image.Image, mode: str) -> None:
    image = photograph.crop((0, 0, 41, 33)).convert("LA" if mode == "LA" else mode)
    found = meet(image, "psnr", 31)
    assert found.encoded.psnr() >= 31
    size = len(found.encoded.data)
    assert len(meet(image, "size", size).encoded.data) <= size


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_one_pixel(mode: str) -> None:
    image = Image.new(mode, (1, 1), 77)
    assert meet(image, "psnr", 45).encoded.psnr() >= 45
    found = meet(image, "size", 1000)
    # All that there is fits, so the best is taken.
    assert found.encoded.container.step == step_from_quality(100)
    with pytest.raises(UsageError, match="smallest possible is"):
        meet(image, "size", 10)


def test_what_is_equal_at_any_quality_is_coded_at_the_lowest() -> None:
    found = meet(Image.new("L", (32, 32), 128), "psnr", 50)
    assert found.encoded.psnr() == math.inf
    assert len(found.encoded.data) == min(a.size for a in found.attempts)


def test_targets_that_cannot_be_met(photograph: Image.Image) -> None:
    smallest = len(ambi_rl.encode(photograph, quality=1, strategist="fixed"))
    with pytest.raises(
        UsageError, match=rf"of 30 bytes .* is {smallest} bytes .*quality 1; raise"
    ) as caught:
        meet(photograph, "size", 30)
    assert "\n" not in str(caught.value)
    assert "metadata" not in str(caught.value)
    assert len(meet(photograph, "size", smallest).encoded.data) == smallest
    with pytest.raises(UsageError, match=r"0.001 bit/pixel .* quality 1;"):
        meet(photograph, "bpp", 0.001)
    highest = encode_image(photograph, quality=100, strategist="fixed").psnr()
    with pytest.raises(UsageError, match=rf"90 dB .* is {highest:.2f} dB at quality 100; lower"):
        meet(photograph, "psnr", 90)


def test_every_file_is_reported(photograph: Image.Image) -> None:
    told: list[Attempt] = []
    found = encode_to_target(photograph, Target("psnr", 33), strategist="fixed", report=told.append)
    assert told == found.attempts
    best = [a for a in told if a.psnr is not None and a.psnr >= 33]
    assert min(best, key=lambda a: a.size).size == len(found.encoded.data)


def test_few_encodes_are_enough(photograph: Image.Image) -> None:
    counts = [len(meet(photograph, "size", size).attempts) for size in (700, 1500, 3000, 8000)]
    counts += [len(meet(photograph, "psnr", decibels).attempts) for decibels in (27, 32, 36, 41)]
    assert np.mean(counts) <= 7


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("98304", 98304),
        ("100kB", 100_000),
        ("100 KB", 100_000),
        ("64KiB", 65536),
        ("1.5MB", 1_500_000),
        (".5MiB", 524_288),
        ("12b", 12),
    ],
)
def test_sizes_as_text(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "kB", "-5", "1e3", "10GB", "1,000", "12 kB file"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="give bytes, or a number with kB"):
        parse_size(text)


def test_one_of_quality_and_targets() -> None:
    assert make_target() is None
    assert make_target(quality=75) is None
    assert make_target(bpp=0.5) == Target("bpp", 0.5)
    with pytest.raises(UsageError, match="quality and target size exclude each other"):
        make_target(quality=75, size=1000)
    with pytest.raises(UsageError, match="target bpp and target PSNR exclude each other"):
        make_target(bpp=1, psnr=30)
    for value in (0, -1, math.nan, math.inf, True, "35"):
        with pytest.raises(UsageError, match=r"target PSNR is .*; give a positive number"):
            make_target(psnr=value)  # type: ignore[arg-type]


def test_the_library_refuses_too() -> None:
    image = Image.new("RGB", (8, 8))
    with pytest.raises(UsageError, match="exclude each other"):
        ambi_rl.encode(image, quality=50, target_psnr=30)
    with pytest.raises(UsageError, match="effort 11"):
        ambi_rl.encode(image, target_psnr=30, effort=11)
    with pytest.raises(UnsupportedImageError):
        ambi_rl.encode(Image.new("CMYK", (8, 8)), target_size=300)


def test_the_default_quality_is_75(photograph: Image.Image) -> None:
    small = photograph.crop((0, 0, 24, 24))
    assert ambi_rl.encode(small) == ambi_rl.encode(small, quality=75)


def test_command_line(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.ambi"
    fixed = ("--strategist", "fixed")
    result = run("encode", file, out, "--target-size", "3kB", "--json", *fixed)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""  # Progress is for terminals.
    values = json.loads(result.stdout)
    assert 2900 < values["bytes"] == out.stat().st_size <= 3000
    assert 1 <= values["attempts"] <= MAX_ATTEMPTS
    expected = ambi_rl.encode(Image.open(file), quality=values["quality"], strategist="fixed")
    assert out.read_bytes() == expected
    values = json.loads(run("encode", file, out, "--target-psnr", 35, "--json", *fixed).stdout)
    assert 35 <= values["psnr"] < 35.2
    text = run("encode", file, out, "--target-bpp", "1", *fixed).stdout
    assert text.count("\n") == 1
    assert "encodes" in text
    assert json.loads(run("encode", file, out, "--json", *fixed).stdout)["attempts"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-q", 80, "--target-size", "3kB"), "quality and target size exclude each other"),
        (("--target-bpp", 1, "--target-psnr", 30), "exclude each other"),
        (("--target-size", "3 apples"), "'3 apples'"),
        (("--target-size", "0"), "positive"),
        (("--target-bpp", "nan"), "positive"),
        (("--target-size", "20"), "at quality 1; raise the target"),
        (("--target-psnr", "95"), "at quality 100; lower the target"),
    ],
)
def test_command_line_failures(
    file: Path, tmp_path: Path, options: tuple[object, ...], words: str
) -> None:
    result = run("encode", file, tmp_path / "x.ambi", "--strategist", "fixed", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("ambi: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert not (tmp_path / "x.ambi").exists()


def test_progress_on_a_terminal(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    from ambi_rl.cli.coding import _progress

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    report = _progress(Target("size", 3000))
    report(Attempt(80.25, 3100, None))
    report(Attempt(78, 2990, 34.5))
    assert screen.getvalue().splitlines() == [
        "ambi: target 3,000 bytes, encode 1: quality 80.25: 3,100 bytes",
        "ambi: target 3,000 bytes, encode 2: quality 78: 2,990 bytes, 34.50 dB",
    ]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=200),
    st.floats(-4, 4),
    st.booleans(),
    st.integers(0, 50),
)
def test_search_finds_what_there_is(
    values: list[float], goal: float, at_least: bool, top: int
) -> None:
    """On a monotone sequence: the value nearest to the goal from its side, or one within the tolerance."""
    tolerance = 1e-3
    sequence = [*sorted(values), *([math.inf] * top if at_least else [])]
    expected = np.linspace(-2, 2, len(sequence))
    seen: list[int] = []

    def measure(index: int) -> float:
        assert index not in seen
        seen.append(index)
        return sequence[index]

    search(measure, expected, goal, tolerance, at_least=at_least)
    met = [v for v in sequence if (v >= goal if at_least else v <= goal)]
    found = [
        sequence[i] for i in seen if (sequence[i] >= goal if at_least else sequence[i] <= goal)
    ]
    assert bool(met) == bool(found)
    if not met:
        assert (len(sequence) - 1 if at_least else 0) in seen
    elif len(seen) < MAX_ATTEMPTS:
        # Halving to the tolerance is over the expected values; here neighbours are further apart.
        nearest, best = (min(met), min(found)) if at_least else (max(met), max(found))
        assert abs(best - goal) <= tolerance or best == nearest
    assert len(seen) <= MAX_ATTEMPTS + 9


@settings(max_examples=100, deadline=None)
@given(st.floats(0.5, 2), st.floats(-3, 3), st.floats(-0.05, 0.05), st.integers(0, 2**32 - 1))
def test_search_is_quick_on_curves_like_the_expected_one(
    slope: float, offset: float, bend: float, seed: int
) -> None:
    expected = np.linspace(-8, 4, 5000)
    noise = np.random.default_rng(seed).normal(0, 0.001, expected.size)
    curve = slope * expected + offset + bend * expected**2 + noise
    goal = float(np.random.default_rng(seed).uniform(curve[100], curve[-100]))
    seen: list[int] = []

    def measure(index: int) -> float:
        seen.append(index)
        return float(curve[index])

    search(measure, expected, goal, 0.0072, at_least=False)
    assert len(seen) <= MAX_ATTEMPTS
    assert 0 <= goal - max(float(curve[i]) for i in seen if curve[i] <= goal) <= 0.02
