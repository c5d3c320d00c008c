"""Beyond greedy search: hill climbing by exact costs of what follows, and the script that measures it."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ambi_rl
from ambi_rl.bench.codecs import AmbiCodec
from ambi_rl.bench.curves import Curve, Point
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.frame import EncodedFrame, Planes, decode_frame, encode_frame
from ambi_rl.codec.strategists import WHOLE_SUPERBLOCK, Strategist, by_name, for_search

SCRIPT = Path(__file__).parent.parent / "scripts" / "beyond_greedy.py"
STEPS = (500, 1400)

GREEDY = for_search(5)
ALONE = replace(GREEDY, refines=True)
AHEAD = replace(ALONE, horizon=WHOLE_SUPERBLOCK, slack=8.0)


@pytest.fixture(scope="module")
def planes(photograph: Image.Image) -> Planes:
    return rgb_to_planes(np.asarray(photograph))


def coded(planes: Planes, step: int, bundle: Bundle, strategist: Strategist) -> EncodedFrame:
    """The frame, after checking that a decoder sees the same."""
    frame = encode_frame(planes, step, bundle, strategist)
    count, height, width = planes.shape
    decoded = decode_frame(frame.payload, height, width, count, step, bundle)
    assert np.array_equal(decoded, frame.planes)
    return frame


def cost(planes: Planes, bundle: Bundle, strategist: Strategist) -> float:
    """J of real payloads, over two steps, each in units of its step squared."""
    total = 0.0
    for step in STEPS:
        frame = coded(planes, step, bundle, strategist)
        squared = (step / 64) ** 2
        scale = float(bundle.manifest["lambda_scale"]) * strategist.lambda_factor
        total += frame.error / squared + scale * 8 * len(frame.payload)
    return total


def test_each_look_further_lowers_the_true_cost(planes: Planes, default_bundle: Bundle) -> None:
    greedy, alone, ahead = (cost(planes, default_bundle, s) for s in (GREEDY, ALONE, AHEAD))
    assert ahead < alone < greedy
    assert ahead < 0.985 * greedy


def test_what_it_says_it_coded_is_what_was_planned(planes: Planes, default_bundle: Bundle) -> None:
    greedy = coded(planes, 700, default_bundle, GREEDY).decisions
    ahead = coded(planes, 700, default_bundle, AHEAD).decisions
    # The first superblock has the partition that the same search found, with other decisions in it.
    first = [[d for d in frame if d.y < 32 and d.x < 32] for frame in (greedy, ahead)]
    squares = [[(d.y, d.x, d.size) for d in leaves] for leaves in first]
    assert squares[0] == squares[1]
    assert first[0] != first[1]


def test_it_is_deterministic(planes: Planes, default_bundle: Bundle) -> None:
    first, second = (encode_frame(planes, 900, default_bundle, AHEAD).payload for _ in range(2))
    assert first == second


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (33, 1), (64, 31), (37, 70)])
def test_odd_sizes_and_gray(planes: Planes, default_bundle: Bundle, shape: tuple[int, int]) -> None:
    piece = np.ascontiguousarray(planes[:, : shape[0], : shape[1]])
    coded(piece, 500, default_bundle, AHEAD)
    coded(piece[:1], 500, default_bundle, AHEAD)


def test_the_policys_proposals_can_be_refined(planes: Planes, default_bundle: Bundle) -> None:
    guided = by_name("guided")
    refined = replace(guided, refines=True, horizon=8, slack=4.0)
    assert cost(planes, default_bundle, refined) < cost(planes, default_bundle, guided)


def test_importance_counts_in_the_refinement(planes: Planes, default_bundle: Bundle) -> None:
    units = (-(-planes.shape[1] // 4), -(-planes.shape[2] // 4))
    importance = np.full(units, 0.6, np.float32)
    importance[: units[0] // 2] = 1.7
    weight = np.repeat(np.repeat(importance, 4, 0), 4, 1)[: planes.shape[1], : planes.shape[2]]
    weights = np.array([1.0, 3.26 / 3, 2.475 / 3])[:, None, None]

    def weighted(strategist: Strategist) -> float:
        frame = encode_frame(planes, 700, default_bundle, strategist, importance=importance)
        squares = (planes.astype(float) - frame.planes) ** 2 / 16 * weights * weight
        lagrangian = float(default_bundle.manifest["lambda_scale"]) * (700 / 64) ** 2
        return float(squares.sum()) + lagrangian * 8 * len(frame.payload)

    assert weighted(AHEAD) < 0.99 * weighted(GREEDY)


def test_a_smaller_lambda_buys_quality(planes: Planes, default_bundle: Bundle) -> None:
    frames = [
        encode_frame(planes, 900, default_bundle, replace(GREEDY, lambda_factor=f))
        for f in (0.5, 1.0, 2.0)
    ]
    assert [f.error for f in frames] == sorted(f.error for f in frames)
    assert [f.cost for f in frames] == sorted((f.cost for f in frames), reverse=True)


def test_the_name_works_through_the_api(photograph: Image.Image) -> None:
    piece = photograph.crop((0, 0, 40, 36))
    data = ambi_rl.encode(piece, quality=60, strategist="lookahead")
    assert ambi_rl.decode(data).size == piece.size


def curve(psnr: list[float], bpp: list[float], seconds: float) -> Curve:
    points = [
        Point(quality, 1000, b, p, np.nan, np.nan, seconds, 0.1)
        for quality, b, p in zip((30, 60, 90), bpp, psnr, strict=True)
    ]
    return Curve("any", "", tuple(points))


def test_the_script_compares_with_the_best_greedy_row() -> None:
    script = runpy.run_path(str(SCRIPT))
    base = [curve([30, 35, 40], [0.5, 1.0, 2.0], 1.0) for _ in range(3)]
    less = [curve([30, 35, 40], [0.5 * k, 1.0 * k, 2.0 * k], 2.0) for k in (0.98, 0.97, 0.96)]
    assert script["best_factor"]({"greedy, λ·1": base, "greedy, λ·0.8": less}) == "greedy, λ·0.8"
    assert script["best_factor"]({"greedy, λ·1": less, "greedy, λ·0.8": base}) == "greedy, λ·1"
    gain = script["compare"](base, less, 0.13)
    assert gain.photographs == pytest.approx(-3)
    assert -4.001 < gain.low < -3 < gain.high < -1.999
    assert gain.mean_curve == pytest.approx(-3)
    assert -3 < gain.cost < 0
    assert gain.seconds == 2


def test_rows_differ_in_what_they_say() -> None:
    rows = runpy.run_path(str(SCRIPT))["rows_for"](5, [1.0, 0.8])
    assert list(rows)[:2] == ["greedy, λ·1", "greedy, λ·0.8"]
    assert rows["greedy, λ·0.8"] == replace(GREEDY, lambda_factor=0.8)
    ahead, alone = rows["refined, looking ahead"], rows["refined, each leaf alone"]
    assert ahead.refines
    assert ahead.horizon == WHOLE_SUPERBLOCK
    assert alone == replace(ahead, horizon=0)


def test_the_script_goes_on_from_what_it_saved(tmp_path: Path, photograph: Image.Image) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for k, name in enumerate(("a", "held-out-b", "held-out-c")):
        photograph.crop((8 * k, 0, 8 * k + 96, 64)).save(folder / f"{name}.png")
    saved = tmp_path / "points.jsonl"
    command = [
        sys.executable, str(SCRIPT), str(folder), "-e", "5", "--crop", "96", "--factor", "0.8",
        "--save", str(saved),
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = saved.read_text()
    assert len(lines.splitlines()) == 6
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert saved.read_text() == lines
    assert second.stdout == first.stdout
    assert "| greedy, λ·0.8 " in first.stdout
    assert "| refined, looking ahead " in first.stdout


def test_codec_settings_reach_the_encoder() -> None:
    # The script hands a Strategist over where a name usually stands.
    codec = AmbiCodec("x", "", (50.0,), strategist=AHEAD)
    image = Image.new("RGB", (32, 32), (90, 120, 60))
    assert codec.encode_verbosely(image, 50.0).strategist is AHEAD
