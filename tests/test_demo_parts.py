"""What `make demo` does after training: drawing, comparing, moving old runs aside."""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ambi_rl.bench import demo
from ambi_rl.bench.codecs import AmbiCodec, jpeg, webp
from ambi_rl.bench.curves import Curve, Point
from ambi_rl.bench.draw import Panel, draw_decisions, figure, legend
from ambi_rl.codec.bundle import Bundle, save_bundle
from ambi_rl.codec.frame import Decision
from ambi_rl.errors import UsageError
from ambi_rl.palette import (
    COARSER_COLOUR,
    FINER_COLOUR,
    FLAT_COLOURS,
    OTHER_COLOUR,
    colour_of,
    direction_of,
)

STRATEGIES = ["dc", "planar", "angular_10", "angular_26"]
OFFSETS = [-2, 0, 2]


def decision(
    y: int, x: int, size: int, strategy: int, offset: int = 1, chroma: int = 0
) -> Decision:
    return Decision(y, x, size, strategy, offset, chroma, 0)


def test_directions_go_around_continuously() -> None:
    angles = [direction_of(f"angular_{i}") for i in range(2, 35)]
    assert all(angle is not None for angle in angles)
    degrees = [math.degrees(angle or 0.0) for angle in angles]
    assert degrees[0] == pytest.approx(45)  # up to the right
    assert degrees[8] == 0  # angular_10 continues the left column
    assert degrees[16] == pytest.approx(135)
    assert degrees[24] == pytest.approx(90)  # angular_26 continues the row above
    steps = [min(abs(a - b), 180 - abs(a - b)) for a, b in pairwise(degrees)]
    assert max(steps) < 12
    assert direction_of("dc") is None
    assert direction_of("learned_3") is None


def test_colours_tell_strategies_apart() -> None:
    assert colour_of("dc") == FLAT_COLOURS["dc"]
    assert colour_of("learned_3") == OTHER_COLOUR
    assert len({colour_of(name) for name in STRATEGIES}) == 4


def test_decisions_are_drawn_where_they_are() -> None:
    rgb = np.full((16, 32, 3), 200, np.uint8)
    leaves = [decision(0, 0, 16, 0), decision(0, 16, 16, 3)]
    drawn = draw_decisions(rgb, leaves, STRATEGIES, OFFSETS, scale=3)
    assert drawn.shape == (48, 96, 3)
    assert drawn.dtype == np.uint8
    left, right = drawn[40, 10], drawn[40, 60]
    assert left[0] == left[1] == left[2]  # DC is gray
    assert np.ptp(right) > 40  # a direction has a hue
    assert drawn[0, 5].max() < 40  # the outline
    # The stroke of a vertical direction goes up and down through the middle.
    assert drawn[18:30, 72].max() < 40
    assert drawn[24, 64].max() > 100


def test_offsets_are_marked() -> None:
    rgb = np.full((16, 32), 128, np.uint8)
    leaves = [decision(0, 0, 16, 0, offset=0), decision(0, 16, 16, 0, offset=2)]
    drawn = draw_decisions(rgb, leaves, STRATEGIES, OFFSETS, scale=2)
    assert tuple(drawn[2, 2]) == FINER_COLOUR
    assert tuple(drawn[2, 34]) == COARSER_COLOUR
    plain = draw_decisions(rgb, leaves, STRATEGIES, scale=2)
    assert tuple(plain[2, 2]) != FINER_COLOUR


def test_blocks_may_reach_beyond_the_picture() -> None:
    rgb = np.zeros((5, 7, 3), np.uint8)
    assert draw_decisions(rgb, [decision(0, 0, 8, 1)], STRATEGIES, scale=2).shape == (10, 14, 3)


def test_decisions_of_another_bundle_are_refused() -> None:
    with pytest.raises(UsageError, match="another bundle"):
        draw_decisions(np.zeros((8, 8, 3), np.uint8), [decision(0, 0, 8, 9)], STRATEGIES)


def test_figure_has_room_for_every_panel() -> None:
    small, large = np.zeros((20, 300, 3), np.uint8), np.full((40, 600, 3), 9, np.uint8)
    image = figure([Panel("a", small), Panel("b", large), Panel("c", small)], columns=2)
    assert image.width == 8 + 2 * 608
    assert image.height == 2 * 66 + 26 + 8
    with pytest.raises(UsageError, match="does not fit beside"):
        figure([Panel("a", np.zeros((30, 300, 3), np.uint8)), Panel("b", large)], columns=2)
    with pytest.raises(UsageError, match="at least one panel"):
        figure([], columns=1)
    assert legend(900).shape == (26, 900, 3)


def curve(name: str, factor: float, seconds: float) -> Curve:
    points = [
        Point(q, 1, factor * 2.0**i, 30.0 + 4 * i, 0.8, 0.9, seconds, 0.1)
        for i, q in enumerate((25, 60, 90))
    ]
    return Curve(name, "", tuple(points))


def test_summary_says_how_far_the_policy_gets() -> None:
    names = {demo.FIXED: 1.0, demo.POLICY: 0.8, demo.SEARCH: 0.75, "JPEG": 2.0}
    seconds = {demo.FIXED: 0.1, demo.POLICY: 0.2, demo.SEARCH: 4.0, "JPEG": 0.01}
    measured = {n: [curve(n, f, seconds[n])] * 2 for n, f in names.items()}
    summary = demo.summarise(measured)
    assert list(summary.bd_rates) == [demo.FIXED, demo.POLICY, demo.SEARCH]
    policy, search = summary.bd_rates[demo.POLICY], summary.bd_rates[demo.SEARCH]
    assert policy == pytest.approx({demo.FIXED: -20, "JPEG": -60})
    assert search[demo.FIXED] == pytest.approx(-25)
    assert summary.share == pytest.approx(80)
    assert summary.speed_up == pytest.approx(20)
    assert "-60.0 %" in text_of(summary.table("two photographs"))


def test_summary_without_a_common_range() -> None:
    curves = {name: [curve(name, 1.0, 0.1)] for name in (demo.FIXED, demo.POLICY, demo.SEARCH)}
    low = [p._replace(psnr=p.psnr - 20) for p in curves[demo.POLICY][0].points]
    curves[demo.POLICY] = [Curve(demo.POLICY, "", tuple(low))]
    summary = demo.summarise(curves)
    assert summary.share is None
    assert "–" in text_of(summary.table("one photograph"))


def test_shipped_photographs_are_split() -> None:
    held_out = demo.open_photographs(PHOTOGRAPHS)
    training = demo.open_photographs(PHOTOGRAPHS, "train-*.webp")
    assert (len(held_out), len(training)) == (2, 10)
    assert all(p.image.mode == "RGB" for p in [*held_out, *training])
    assert sum(p.stat().st_size for p in PHOTOGRAPHS.iterdir()) <= 4_000_000
    credits_text = (PHOTOGRAPHS / "CREDITS.md").read_text()
    assert all(f"`{p.name}.webp`" in credits_text for p in [*held_out, *training])


@pytest.fixture
def small() -> demo.Photograph:
    photo = demo.open_photographs(PHOTOGRAPHS)[0]
    return demo.Photograph(photo.name, photo.image.crop((200, 40, 264, 88)))


def test_comparing_measures_every_codec(default_bundle: Bundle, small: demo.Photograph) -> None:
    told: list[str] = []
    ours = AmbiCodec("fixed", "", (30.0, 80.0), "fixed")
    measured = demo.compare([ours, jpeg(), webp()], [small], progress=told.append)
    assert list(measured) == ["fixed", "JPEG 4:2:0", "WebP"]
    assert [p.setting for p in measured["fixed"][0].points] == [30.0, 80.0]
    assert told[0] == f"fixed, {small.name}, quality 30"


def test_figure_and_verification(
    default_bundle: Bundle,
    small: demo.Photograph,
    tmp_path: Path,
    random_policy: Callable[[Bundle], Bundle],
) -> None:
    path = tmp_path / "random.ambic"
    save_bundle(random_policy(default_bundle), path)
    ours, _ = demo.demo_codecs(path)
    image = demo.decision_figure(ours, small)
    assert image.width > 2 * 2 * small.image.width
    assert "all equal" in demo.verify_elsewhere(ours[2], small, tmp_path)
    with Image.open(tmp_path / f"{small.name}.png") as decoded:
        assert decoded.size == small.image.size


def text_of(table: object) -> str:
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def script() -> ModuleType:
    path = Path(__file__).parent.parent / "scripts" / "demo.py"
    spec = importlib.util.spec_from_file_location("demo_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PHOTOGRAPHS: Path = script().PHOTOGRAPHS


def test_an_earlier_run_is_moved_aside(tmp_path: Path) -> None:
    move_aside = script().move_aside
    run = tmp_path / "demo"
    assert move_aside(run) is None
    moved = []
    for i in range(3):
        run.mkdir()
        (run / "number").write_text(str(i))
        moved.append(move_aside(run))
    assert not run.exists()
    assert [(path / "number").read_text() for path in moved] == ["0", "1", "2"]
    assert all(path.name.startswith("demo-20") for path in moved)


@pytest.mark.parametrize("override", ["name=mine", "resume=true", "-m", "total_steps"])
def test_overrides_that_move_the_run_are_refused(override: str) -> None:
    check = script().check_overrides
    check(["total_steps=1000", "agent.imitation.patches=10"])
    with pytest.raises(UsageError, match="does not suit the demonstration"):
        check([override])
