"""`ambi runs`: listing, comparing and plotting run folders."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ambi_rl.cli.app import app
from ambi_rl.sweeps.averages import average
from ambi_rl.sweeps.plot import draw
from ambi_rl.sweeps.records import read_run
from ambi_rl.training.run_folder import write_json
from ambi_rl.training.status import State, Status, write_status


def ambi(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["runs", *map(str, arguments)])


def curve(offset: float) -> dict[str, Any]:
    return {
        "bpp": [0.2, 0.5, 1.0],
        "values": {m: [30 + offset, 33 + offset, 36 + offset] for m in ("psnr", "ssim", "ms_ssim")},
    }


def make_run(
    folder: Path, state: State, values: list[float | None], *, seed: int = 1, error: str = ""
) -> Path:
    """A run folder as training would leave it."""
    folder.mkdir(parents=True)
    config = f"name: x\nseed: {seed}\ntotal_steps: 1000\nagent: {{algorithm: ppo}}\n"
    (folder / "config.yaml").write_text(f"{config}reward: {{rate: 1.0, sse: 0.25, ssim: 0.0}}\n")
    evaluations = [
        {
            "bd_rate_vs_fixed": value,
            "bd_rate_vs_search": 5.0,
            "steps": 100.0 * index,
            "seconds": 60.0 * index,
            "curve": curve(-(value or 0.0) / 10),
        }
        for index, value in enumerate(values)
    ]
    write_json(folder / "evaluations.json", {"metric": "psnr", "evaluations": evaluations})
    write_json(folder / "baselines.json", {"fixed": curve(0), "search": curve(1)})
    if state is State.FINISHED:
        best = min(v for v in values if v is not None)
        write_json(folder / "metrics.json", {"objective": best, "seconds": 777.0, "metric": "psnr"})
    now = time.time()
    write_status(folder, Status(state, 450, 1000, os.getpid(), "elsewhere", now, now, error))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    make_run(folder / "alone", State.FINISHED, [3.0, -2.5, -1.0])
    make_run(folder / "sweep" / "0", State.FINISHED, [1.0, -4.0], seed=1)
    make_run(folder / "sweep" / "2", State.FAILED, [None], seed=2, error="no photographs")
    make_run(folder / "sweep" / "10", State.RUNNING, [2.0], seed=3)
    changes = {str(n): [f"seed={n}"] for n in (0, 2, 10, 11)}
    write_json(folder / "sweep" / "sweep.json", {"overrides": [], "runs": changes})
    (folder / "empty").mkdir()
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").write_text("damaged: [")
    return folder


def test_lists_runs_and_sweeps(runs: Path) -> None:
    result = ambi(runs)
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    by_run = {line[0]: line for line in lines}
    row = "finished 450/1,000 777 ppo rate=1 sse=0.25 -2.50 -1.00"
    assert " ".join(by_run["alone"][1:]) == row
    assert by_run["sweep/0"][-3:] == ["-4.00", "-4.00", "seed=0"]
    assert by_run["sweep/2"][1] == "failed"
    assert by_run["sweep/2"][-4:] == ["-", "-", "no", "photographs"]
    assert by_run["sweep/10"][1] == "running"
    assert by_run["old"][1] == "killed"
    # Numbers in order of their values.
    names = [line[0] for line in lines[1:6]]
    assert names == ["alone", "old", "sweep/0", "sweep/2", "sweep/10"]
    assert "1 finished, 1 failed, 1 running, 1 not started; best -4.00 %: 0 seed=0" in result.stdout
    assert "\x1b" not in result.stdout
    assert ambi("list", runs).stdout == result.stdout


def test_lists_as_json(runs: Path) -> None:
    found = {Path(run["run"]).name: run for run in json.loads(ambi(runs, "--json").stdout)}
    assert set(found) == {"alone", "0", "2", "10", "old"}
    assert found["alone"] | {"run": "", "error": ""} == {
        "run": "",
        "status": "finished",
        "error": "",
        "steps": 450,
        "total_steps": 1000,
        "seconds": 777.0,
        "agent": "ppo",
        "reward": "rate=1 sse=0.25",
        "metric": "psnr",
        "best_bd_rate": -2.5,
        "last_bd_rate": -1.0,
        "changes": [],
        "group": None,
    }
    assert found["2"]["error"] == "no photographs"
    assert found["2"]["best_bd_rate"] is None
    assert found["10"]["seconds"] == 0.0


def test_compares(runs: Path) -> None:
    result = ambi("compare", runs / "alone", runs / "sweep")
    assert result.exit_code == 0
    rows = {line[:27].strip(): line[27:].split() for line in result.stdout.splitlines()}
    assert rows["seed"] == ["1", "1", "2", "3"]
    assert "agent.algorithm" not in rows
    assert rows["status"] == ["finished", "finished", "failed", "running"]
    assert rows["best BD-rate vs fixed [%]"] == ["-2.50", "-4.00", "-", "2.00"]
    values = json.loads(ambi("compare", runs / "alone", runs / "sweep" / "2", "--json").stdout)
    assert values["config"] == {"seed": [1, 2]}
    assert values["metrics"]["last BD-rate vs fixed [%]"] == [-1.0, None]


def numbers(data: Any) -> list[float]:
    return [float(value) for value in data]


def test_plots_what_was_measured(runs: Path, tmp_path: Path) -> None:
    for name, begins in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.html", b"<!doctype html")):
        target = tmp_path / name
        result = ambi("plot", runs / "alone", runs / "sweep", "-o", target, "--metric", "ssim")
        assert result.exit_code == 0, result.stderr
        assert target.read_bytes().startswith(begins)
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > image.height > 300
    page = (tmp_path / "a.html").read_text()
    assert "<svg" in page
    assert "sweep/0 seed=0" in page

    records = [read_run(runs / "alone"), read_run(runs / "sweep" / "0")]
    figure = draw([(r, f"run {i}") for i, r in enumerate(records) if r], "psnr")
    left, middle, right = figure.axes
    lines = {line.get_label(): line for line in left.lines}
    # The best evaluation of each, and baselines only once for all.
    assert set(lines) == {"run 0", "run 1", "fixed", "search"}
    assert numbers(lines["run 0"].get_ydata()) == pytest.approx([30.25, 33.25, 36.25])
    assert numbers(lines["search"].get_ydata()) == [31, 34, 37]
    assert [numbers(line.get_ydata()) for line in middle.lines] == [[3.0, -2.5, -1.0], [1.0, -4.0]]
    assert [numbers(line.get_xdata()) for line in middle.lines] == [[0, 100, 200], [0, 100]]
    assert [numbers(line.get_xdata()) for line in right.lines] == [[0, 1, 2], [0, 1]]


def test_runs_that_differ_in_their_seed_are_one_line(tmp_path: Path) -> None:
    for seed, values in enumerate(([4.0, 2.0, -1.0], [2.0, -4.0])):
        make_run(tmp_path / "sweep" / str(seed), State.FINISHED, [*values], seed=seed)
    records = [record for i in range(2) if (record := read_run(tmp_path / "sweep" / str(i)))]
    ((run, name),) = average(records, ["a", "b"], "seed")
    assert name == "a (2 runs)"
    # Means of what both have: the third evaluation is of one run only.
    assert run.values == [3.0, -1.0]
    assert [(e["low"], e["high"]) for e in run.evaluations] == [(2.0, 4.0), (-4.0, 2.0)]
    assert run.evaluations[1]["curve"]["values"]["psnr"] == pytest.approx([30.1, 33.1, 36.1])
    assert len(average(records, ["a", "b"], "total_steps")) == 2
    result = ambi("plot", tmp_path / "sweep", "-o", tmp_path / "a.svg", "--over", "seed")
    assert result.exit_code == 0, result.stderr
    result = ambi("plot", tmp_path / "sweep", "-o", tmp_path / "a.svg", "--over", "sead")
    assert result.exit_code != 0
    assert "no run has the key 'sead'" in result.stderr


def make_feature_run(folder: Path, state: State, *, alpha: float) -> Path:
    """A run folder of the feature codec."""
    folder.mkdir(parents=True)
    config = f"system: features\nname: x\nseed: 1\ntotal_steps: 1000\nrate: {{alpha: {alpha}}}\n"
    (folder / "config.yaml").write_text(config)
    scores = [{"steps": 500.0, "score": 3.0, "score_error": float("nan"), "objective": -3.0}]
    write_json(folder / "evaluations.json", {"evaluations": scores})
    if state is State.FINISHED:
        play = {"original": {"score": 6.0}, "features": {"score": 5.25, "bits_per_frame": 91.6}}
        metrics = {"objective": -5.25, "seconds": 60.0, "steps": 1000, "play": play}
        write_json(folder / "metrics.json", metrics)
    now = time.time()
    write_status(folder, Status(state, 1000, 1000, os.getpid(), "elsewhere", now, now, ""))
    return folder


def test_runs_of_both_systems_are_listed_compared_and_plotted(runs: Path, tmp_path: Path) -> None:
    block = runs / "alone"
    done = make_feature_run(runs / "features" / "0", State.FINISHED, alpha=0.1)
    failed = make_feature_run(runs / "features" / "1", State.FAILED, alpha=0.5)
    changes = {"0": ["rate.alpha=0.1"], "1": ["rate.alpha=0.5"]}
    write_json(runs / "features" / "sweep.json", {"overrides": [], "runs": changes})

    lines = {line.split()[0]: line.split() for line in ambi(runs).stdout.splitlines()}
    row = "finished 1,000 60 rate_ppo 92 bits, score 5.2 - - rate.alpha=0.1"
    assert " ".join(lines["features/0"][1:]) == row
    assert " ".join(lines["features/1"][1:]) == "failed 1,000 - rate_ppo - - rate.alpha=0.5"
    assert lines["alone"][-2:] == ["-2.50", "-1.00"]
    # What is lower for a score is no BD-rate.
    best = {run["run"]: run["best_bd_rate"] for run in json.loads(ambi(runs, "--json").stdout)}
    assert (best[str(done)], best[str(block)]) == (None, -2.5)

    table = ambi("compare", block, done, failed).stdout
    rows = {line[:27].strip(): line[27:].split() for line in table.splitlines()}
    assert rows["system"] == ["-", "features", "features"]
    assert rows["best BD-rate vs fixed [%]"] == ["-2.50", "-", "-"]
    assert rows["score on reconstructions"] == ["-", "5.25", "-"]
    assert rows["bits of a frame"] == ["-", "91.60", "-"]

    for over in ([], ["--over", "seed"]):
        result = ambi("plot", block, runs / "features", "-o", tmp_path / "both.svg", *over)
        assert result.exit_code == 0, result.stderr
        assert "1 runs; 2 of other systems left out" in result.stdout
        assert "features" not in (tmp_path / "both.svg").read_text()
    result = ambi("plot", done, "-o", tmp_path / "none.svg")
    assert result.exit_code == 2
    assert "only runs of the block codec have BD-rates" in result.stderr
    assert not (tmp_path / "none.svg").exists()


def test_mistakes_are_one_line(runs: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ([tmp_path / "nothing"], "there is no folder"),
        (["compare", runs / "alone"], "two runs or more"),
        (["compare", runs / "alone", runs / "empty"], "not the folder of a run"),
        (["plot", runs / "alone", "-o", tmp_path / "x.gif"], "no known format"),
        (["plot", runs / "old", "-o", tmp_path / "x.png"], "none of these runs"),
        (["plot", runs / "alone", "-o", tmp_path / "no" / "x.png"], "does not exist"),
    ):
        result = ambi(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1
        assert words in result.stderr
    assert not list(tmp_path.glob("x.*"))
    assert "no runs in" in ambi(runs / "empty").stdout
