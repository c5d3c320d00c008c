from __future__ import annotations

import io
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("constriction")
pytest.importorskip("stable_baselines3")

import torch
from torch import nn

from ambi_rl.bench.feature_agent import FeatureAgent, describe, load_agent, stream_of
from ambi_rl.bench.feature_figures import (
    SheetRow,
    animation,
    choose_moments,
    contact_sheet,
    score_figure,
)
from ambi_rl.bench.feature_table import (
    FrameRow,
    code_all,
    make_row,
    markdown_table,
    paper_note,
)
from ambi_rl.bench.frame_codecs import Frames, MeanFrame, OriginalFrames
from ambi_rl.bench.task import TaskScore
from ambi_rl.errors import UsageError
from ambi_rl.neural.bundle import feature_bundle, save_bundle
from ambi_rl.neural.networks import FeatureEncoder, FrameDecoder
from ambi_rl.neural.priors import build_prior
from ambi_rl.neural.tables import tables_from_prior
from ambi_rl.training.test_set import TestSet, frame_hashes

SIDE = 84
GREEN, RED = (64, 220, 96), (255, 72, 72)


def play_frames(bricks: float = 1.0, ball: tuple[int, int] | None = (50, 40)) -> Frames:
    """A frame of Breakout, drawn roughly: walls, a wall of bricks, paddle and ball."""
    frame = np.zeros((SIDE, SIDE), np.uint8)
    frame[7:13] = 142
    frame[7:78, :4] = frame[7:78, 80:] = 142
    frame[23:37, 4 : 4 + round(76 * bricks)] = 120
    frame[76, 30:38] = 110
    if ball is not None:
        frame[ball[0] : ball[0] + 2, ball[1] : ball[1] + 2] = 110
    return frame


def stacks_of(frames: Frames) -> Frames:
    return np.repeat(frames[:, None], 4, axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    encoder = FeatureEncoder(4, 4, "features", 6, 16)
    prior = build_prior("normal", 6)
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.normal(0, 8, (64, 6, 1, 1)).astype(np.float32))
    prior.fit(latents, steps=50)
    bundle = feature_bundle(
        encoder,
        nn.Linear(16, 4),
        FrameDecoder(encoder.latent_shape, 4),
        tables_from_prior(prior, np.round(latents.numpy()).astype(np.int32)),
        facts={"training": {"steps": 7}},
    )
    path = tmp_path_factory.mktemp("run")
    save_bundle(bundle, path / "bundle.ambic")
    return path


@pytest.fixture(scope="module")
def agent(folder: Path) -> FeatureAgent:
    return load_agent(folder)


@pytest.fixture(scope="module")
def frames() -> Frames:
    rng = np.random.default_rng(1)
    places = zip(rng.integers(42, 70, 9), rng.integers(8, 74, 9), strict=True)
    return np.stack([play_frames(1 - i / 12, place) for i, place in enumerate(places)])


def test_latents_cost_what_their_streams_do(agent: FeatureAgent, frames: Frames) -> None:
    coded = agent.frames().code(stacks_of(frames))
    latents = agent.codec.latents(stacks_of(frames))
    assert len(np.unique(latents)) > 4
    for latent, whole, bare in zip(latents, coded.whole, coded.bare, strict=True):
        assert whole == len(stream_of(agent.bundle, latent[None]))
        assert 0 < bare < whole
    np.testing.assert_array_equal(coded.frames, agent.codec.reconstruct(latents))
    # Together they need a header only once.
    together = len(stream_of(agent.bundle, latents))
    assert together < coded.whole.sum() / 2


def test_agent_takes_the_actions_of_its_logits(agent: FeatureAgent, frames: Frames) -> None:
    stacks = stacks_of(frames)
    likeliest = agent.codec.action_logits(agent.codec.latents(stacks)).argmax(axis=1)
    np.testing.assert_array_equal(agent.predict(stacks, deterministic=True)[0], likeliest)
    torch.manual_seed(3)
    drawn = np.stack([agent.predict(stacks)[0] for _ in range(400)])
    torch.manual_seed(3)
    np.testing.assert_array_equal(agent.predict(stacks)[0], drawn[0])
    logits = torch.from_numpy(agent.codec.action_logits(agent.codec.latents(stacks)))
    shares = np.stack([(drawn == action).mean(axis=0) for action in range(4)], axis=1)
    np.testing.assert_allclose(shares, torch.softmax(logits, 1).numpy(), atol=0.12)


def test_agents_come_from_a_bundle_or_a_folder_with_one(folder: Path, tmp_path: Path) -> None:
    told = describe(load_agent(folder / "bundle.ambic").bundle)
    assert told["latent_shape"] == [6, 1, 1]
    assert told["training"] == {"steps": 7}
    assert "hashes" not in told
    with pytest.raises(UsageError, match="ambi export"):
        load_agent(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.ambic").write_bytes(b"")
    with pytest.raises(UsageError, match=r"a\.ambic, b\.ambic"):
        load_agent(tmp_path)


def row_of(codec: OriginalFrames | MeanFrame, frames: Frames, **more: object) -> FrameRow:
    coded = code_all(codec, stacks_of(frames))
    return make_row(codec, "as set", frames, coded, is_breakout=True, **more)  # type: ignore[arg-type]


def test_rows_measure_pixels_and_objects(frames: Frames) -> None:
    exact = row_of(OriginalFrames(), frames)
    assert exact.mse == 0
    assert math.isinf(exact.psnr)
    assert exact.objects["ball_found"] == exact.objects["paddle_found"] == 1
    assert exact.objects["ball_error_95"] == 0

    mean = MeanFrame.of(frames)
    row = row_of(mean, frames, met=False)
    assert row.mse == pytest.approx(np.mean((frames - mean.frame.astype(float)) ** 2))
    assert row.psnr == pytest.approx(10 * math.log10(255**2 / row.mse))
    assert row.objects["ball_hit"] < 0.5
    assert math.isnan(row.objects["ball_false_alarms"])
    kept = json.dumps(row.to_json(), allow_nan=False)
    again = FrameRow.from_json(json.loads(kept))
    np.testing.assert_equal(vars(again), vars(row))


def score_of(codec: str, scores: tuple[float, ...], bare: float) -> TaskScore:
    steps = (5,) * len(scores)
    return TaskScore(codec, scores, steps, 0, 9, False, 1, 5 * len(scores), bare + 30, bare)


def test_table_has_a_line_for_each_codec_and_marks_what_was_not_met(frames: Frames) -> None:
    rows = [row_of(OriginalFrames(), frames), row_of(MeanFrame.of(frames), frames, met=False)]
    scores = {"mean frame": score_of("mean frame", (1, 2, 3), 0)}
    original = score_of("original", (4, 5, 6), 7056)
    head, rule, first, second = markdown_table(rows, scores, original).splitlines()
    assert head.count("|") == rule.count("|") == first.count("|") == second.count("|")
    assert "| 7056.0 | 7056.0 | 56448 | 0.0 | 0 | inf |" in first
    assert "| 0.0 (its least) |" in second
    assert f"| {rows[1].mse:.1f} | {rows[1].mse * 7056:.0f} |" in second
    assert second.endswith("± 0.6 | 5.0 [4.0, 6.0] ± 0.6 |")
    assert first.endswith("| – | 5.0 [4.0, 6.0] ± 0.6 |")
    assert "15.4 dB" in paper_note(rows)
    assert "0.27 a pixel" in paper_note(rows)


def test_moments_go_from_whole_walls_to_late_games(frames: Frames) -> None:
    without_ball = play_frames(0.1, None)[None]
    shuffled = np.concatenate([without_ball, frames[::-1]])
    chosen = choose_moments(shuffled, 3)
    assert chosen.tolist() == [9, 5, 1]
    assert len(choose_moments(shuffled, 50)) == len(frames)


def test_sheet_shows_frames_enlarged_with_the_balls_that_were_found() -> None:
    frames = np.stack([play_frames(), play_frames(0.5, (60, 20))])
    lost = np.stack([play_frames(ball=None), play_frames(0.5, (60, 20))])
    rows = [SheetRow(("original",), frames), SheetRow(("codec", "12 bytes"), lost)]
    with Image.open(io.BytesIO(contact_sheet(rows, mark_balls=False))) as image:
        plain = np.asarray(image.convert("RGB"))
    side = 4 * SIDE
    cell = plain[-8 - side : -8, -8 - side : -8, 0]
    np.testing.assert_array_equal(cell[::4, ::4], lost[1])
    np.testing.assert_array_equal(cell[3::4, 3::4], lost[1])
    with Image.open(io.BytesIO(contact_sheet(rows))) as image:
        marked = np.asarray(image.convert("RGB"))
    middle = 8 + side

    def has(colour: tuple[int, int, int], part: np.ndarray) -> bool:
        return bool((abs(part.astype(int) - colour).sum(axis=2) < 24).any())

    assert has(GREEN, marked[:middle])
    assert not has(RED, marked[:middle])
    lower = marked[middle:]
    assert has(RED, lower[:, : -8 - side])
    assert not has(RED, lower[:, -8 - side :])
    assert has(GREEN, lower[:, -8 - side :])


def test_animation_has_original_and_reconstruction_side_by_side(frames: Frames) -> None:
    with Image.open(io.BytesIO(animation(frames, 255 - frames, scale=2))) as image:
        assert image.format == "GIF"
        assert image.size == (2 * (2 * SIDE + 2), 2 * SIDE)
        assert getattr(image, "n_frames", 1) == len(frames)
        image.seek(4)
        shown = np.asarray(image.convert("L")).astype(int)
    assert abs(shown[::2, : 2 * SIDE : 2] - frames[4]).max() < 8
    assert abs(shown[::2, -2 * SIDE :: 2] - (255 - frames[4])).max() < 8


def test_figure_has_curves_and_a_line_for_what_has_no_place_on_the_axis() -> None:
    pytest.importorskip("matplotlib")
    original = score_of("original", (4, 5, 6), 7056)
    curves = {
        "features": [score_of("features", (3, 4, 5), 30)],
        "mean frame": [score_of("mean frame", (0, 1, 0), 0)],
        "JPEG": [score_of("JPEG", (1, 2, 3), 90), score_of("JPEG", (0, 1, 2), 40)],
    }
    (axes,) = score_figure(original, curves).axes
    labels = axes.get_legend_handles_labels()[1]
    assert axes.get_legend() is not None
    assert set(labels) == {"original frames", "mean frame, 0 bytes", "features", "JPEG"}
    jpeg = next(c for c in axes.containers if c.get_label() == "JPEG")
    assert jpeg[0].get_xdata().tolist() == [40, 90]
    assert jpeg[0].get_ydata().tolist() == [1, 2]


SCRIPT = Path(__file__).parent.parent / "scripts" / "bench_features.py"


def bench(bundle: Path, tests: Path, out: Path) -> subprocess.CompletedProcess[str]:
    sizes = {"episodes": 2, "max-steps": 12, "sample": 6, "multiple": 2}
    small = [word for name, size in sizes.items() for word in (f"--{name}", size)]
    files = ["--test-set", tests, "--out", out]
    command = [sys.executable, SCRIPT, bundle, *files, "--format", "jpeg", *small]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=240
    )


def test_script_writes_tables_and_pictures_and_goes_on_where_it_was(
    folder: Path, frames: Frames, tmp_path: Path
) -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    pytest.importorskip("matplotlib")
    out, tests = tmp_path / "out", tmp_path / "tests.npz"
    stacks = stacks_of(frames)
    TestSet(stacks, frame_hashes(frames), ["drawn"] * len(frames), {}).save(tests)
    done = bench(folder, tests, out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {
        *("results.json", "sample.npy", "tables.md", "moments.png", "scores.png", "play.gif")
    }
    results = json.loads((out / "results.json").read_text())
    assert {"original", "features", "mean frame"} < set(results["scores"])
    assert all(len(score["scores"]) == 2 for score in results["scores"].values())
    text = (out / "tables.md").read_text()
    assert text in done.stdout
    for name in ("features", "mean frame", "JPEG"):
        assert f"| {name} |" in text

    # What is known is not measured again, and what it was measured with may not change.
    results["scores"]["features"]["scores"] = [77.0, 77.0]
    (out / "results.json").write_text(json.dumps(results))
    again = bench(folder, tests, out)
    assert again.returncode == 0, again.stderr
    assert "77.0 [77.0, 77.0]" in again.stdout
    open_results = runpy.run_path(str(SCRIPT))["Results"].open
    with pytest.raises(UsageError, match="seed = 1000, not 3"):
        open_results(out / "results.json", {**results["request"], "seed": 3}, {})
    (out / "results.json").write_text("{}")
    with pytest.raises(UsageError, match="remove it"):
        open_results(out / "results.json", results["request"], {})


def test_the_sheet_shows_originals_and_every_bundle(
    folder: Path, frames: Frames, tmp_path: Path
) -> None:
    tests = tmp_path / "tests.npz"
    TestSet(stacks_of(frames), frame_hashes(frames), ["drawn"] * len(frames), {}).save(tests)
    script = SCRIPT.with_name("feature_sheet.py")
    heights = []
    for number in (1, 2):
        out = tmp_path / f"{number}.png"
        bundles = [folder / "bundle.ambic"] * number
        command = [sys.executable, script, *bundles, "--test-set", tests, "--out", out]
        subprocess.run(list(map(str, [*command, "--count", 3])), check=True, timeout=240)
        with Image.open(out) as sheet:
            heights.append(sheet.height)
    # A row more is half as much again of two.
    assert heights[1] == pytest.approx(1.5 * heights[0], rel=0.05)
