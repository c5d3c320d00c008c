"""Training end to end, small: every algorithm, checkpoints, resuming, export, encoding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import ambi_rl
from ambi_rl.agents.credit import (
    SIZES,
    STEP_FEATURE,
    fixed_cost,
    is_split,
    subtree_returns,
)
from ambi_rl.agents.imitation import collect_demonstrations, decision_sequence
from ambi_rl.cli.train import export_command, train_command
from ambi_rl.codec.bundle import default_bundle, load_bundle
from ambi_rl.codec.context import context_of
from ambi_rl.codec.frame import Decision
from ambi_rl.codec.strategists import Strategist
from ambi_rl.codec.strategists.policy_net import logits_batch
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.envs.episodes import make_source
from ambi_rl.errors import AmbiError, ConfigError, UsageError
from ambi_rl.rewards import Reward
from ambi_rl.rewards.calibration import FIXED_COST, STEPS
from ambi_rl.training.callback import Every
from ambi_rl.training.checkpoint import load_checkpoint

TINY = [
    "env.num_envs=8",
    "env.patch_size=32",
    "agent.n_steps=16",
    "agent.hidden=16",
    "agent.imitation.patches=12",
    "agent.imitation.rounds=1",
    "agent.imitation.visited=4",
    "agent.imitation.effort=5",
    "agent.imitation.epochs=2",
    "total_steps=384",
    "checkpoint_every=128",
    "entropy.refit_every=256",
    "entropy.patches=2",
    "evaluation.every=256",
    "evaluation.images=1",
    "evaluation.qualities=[40,70]",
    "evaluation.search_effort=5",
]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pieces of shipped photographs, so that encoding them takes no time."""
    folder = tmp_path_factory.mktemp("photographs")
    shipped = sorted((Path(ambi_rl.__file__).parent / "data" / "photographs").glob("*.webp"))
    for path in shipped[:4]:
        with Image.open(path) as image:
            image.convert("RGB").crop((100, 100, 196, 164)).save(folder / f"{path.stem}.png")
    return folder


def start(folder: Path, photographs: Path, *overrides: str) -> None:
    train_command([*TINY, f"data.folder={photographs}", f"runs={folder}", *overrides])


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["maskable_ppo", "ppo", "a2c"])
def test_trains_exports_and_codes(agent: str, tmp_path: Path, photographs: Path) -> None:
    start(tmp_path, photographs, f"agent={agent}", "name=run")
    run = tmp_path / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] >= 384
    assert metrics["refits"] >= 1
    assert {"objective", "bd_rate_vs_fixed", "bd_rate_vs_search", "imitation"} <= set(metrics)
    for name in ("config.yaml", "command.txt", "overrides.json", "environment.json", "last.pt"):
        assert (run / name).is_file(), name
    assert list((run / "tensorboard").glob("events*"))
    assert not list(run.glob("*.part"))

    bundle = tmp_path / "my.ambic"
    export_command(run, bundle)
    loaded = load_bundle(bundle)
    assert loaded.manifest["training"]["config"]["agent"]["algorithm"] == agent
    assert loaded.policy["b0"].shape == (16,)
    picture = Image.open(next(photographs.glob("*.png")))
    data = ambi_rl.encode(picture, quality=60, effort=0, bundle=bundle)
    decoded = ambi_rl.decode(data, bundle=bundle)
    difference = np.asarray(decoded, int) - np.asarray(picture, int)
    assert np.sqrt((difference**2).mean()) < 40


@pytest.mark.slow
def test_resumes_where_it_stopped(tmp_path: Path, photographs: Path) -> None:
    start(tmp_path, photographs, "name=run", "agent=ppo")
    run = tmp_path / "run"
    before = load_checkpoint(run / "last.pt")
    with pytest.raises(ConfigError, match="holds a run already"):
        start(tmp_path, photographs, "name=run")

    # The agent and everything else comes from the run itself.
    train_command(["name=run", f"runs={tmp_path}", "resume=true", "total_steps=640"])
    after = load_checkpoint(run / "last.pt")
    assert before.progress.steps < 640 <= after.progress.steps
    assert (
        after.progress.evaluations[: len(before.progress.evaluations)]
        == before.progress.evaluations
    )
    assert after.progress.seconds > before.progress.seconds
    assert "algorithm: ppo" in (run / "config.yaml").read_text()
    assert len((run / "command.txt").read_text().splitlines()) == 2

    with pytest.raises(ConfigError, match="another agent or network"):
        train_command([f"resume={run}", "total_steps=700", "agent.hidden=8"])


@pytest.mark.slow
def test_structural_rewards_and_no_warm_start(tmp_path: Path, photographs: Path) -> None:
    start(
        tmp_path,
        photographs,
        "name=run",
        "reward=ms_ssim",
        "agent.warm_start=none",
        "entropy.refit_every=0",
        "evaluation.every=0",
    )
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["metric"] == "ms_ssim"
    assert metrics["refits"] == 0
    assert metrics["imitation"] == {}


@pytest.mark.slow
def test_sweeps_make_a_folder_for_each_run(tmp_path: Path, photographs: Path) -> None:
    start(tmp_path, photographs, "-m", "name=sweep", "seed=1,2", "total_steps=0")
    for number in ("0", "1"):
        assert (tmp_path / "sweep" / number / "metrics.json").is_file()


@pytest.mark.slow
def test_sweeps_run_side_by_side(tmp_path: Path, photographs: Path) -> None:
    sweep = ["-m", "hydra/launcher=parallel", "name=sweep", "seed=1,2", "env.threads=1"]
    start(tmp_path, photographs, *sweep, "total_steps=0")
    for number in ("0", "1"):
        assert (tmp_path / "sweep" / number / "metrics.json").is_file()


@pytest.mark.slow
def test_offsets_stay_possible_after_imitation_where_they_may_pay(
    tmp_path: Path, photographs: Path
) -> None:
    least = {}
    for reward in ("psnr", "ms_ssim"):
        thorough = ["agent.imitation.epochs=80", "agent.imitation.learning_rate=0.02"]
        start(
            tmp_path,
            photographs,
            f"name={reward}",
            f"reward={reward}",
            "env.patch_size=64",
            "total_steps=0",
            "entropy.refit_every=0",
            *thorough,
        )
        bundle = load_checkpoint(tmp_path / reward / "last.pt").bundle
        context = context_of(bundle)
        offsets = len(bundle.offsets)
        logits = np.zeros((1, 1 + len(bundle.strategies) + offsets), np.float32)
        logits_batch(context.network, context.work(), bundle.policy["mean"][None], logits)
        weights = np.exp(logits[0, -offsets:] - logits[0, -offsets:].max())
        least[reward] = (weights / weights.sum()).min()
    # For squared error the teacher never leaves the neutral offset; for structure all stay possible.
    assert 10 * least["psnr"] < least["ms_ssim"]
    assert least["ms_ssim"] > 0.002


def test_nothing_to_resume_or_export(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a run"):
        train_command(["name=nothing", f"runs={tmp_path}", "resume=true"])
    with pytest.raises(ConfigError, match="needs the name"):
        train_command(["resume=true"])
    with pytest.raises(UsageError, match="not the folder of a run"):
        export_command(tmp_path / "nothing", tmp_path / "x.ambic")
    with pytest.raises(UsageError, match="no checkpoint yet"):
        export_command(tmp_path, tmp_path / "x.ambic")
    (tmp_path / "last.pt").write_bytes(b"damaged")
    with pytest.raises(AmbiError, match="cannot be read"):
        export_command(tmp_path, tmp_path / "x.ambic")


def leaf(reward: float) -> tuple[bool, float]:
    return False, reward


def split(reward: float) -> tuple[bool, float]:
    return True, reward


def test_subtree_returns_follow_the_quadtree() -> None:
    # One superblock: split into leaf, (split into four leaves), leaf, leaf; then another leaf.
    steps = [
        split(-1),
        leaf(-2),
        split(-1),
        *(leaf(-3) for _ in range(4)),
        leaf(-4),
        leaf(-5),
        leaf(-7),
    ]
    splits = np.array([[s] for s, _ in steps])
    rewards = np.array([[r] for _, r in steps], float)
    returns, complete = subtree_returns(rewards, splits)
    expected = [-1 - 2 - 1 - 12 - 4 - 5, -2, -13, -3, -3, -3, -3, -4, -5, -7]
    np.testing.assert_allclose(returns[:, 0], expected)
    assert complete.all()
    # Cut off inside: what is not covered is said to be incomplete.
    _, complete = subtree_returns(rewards[:5], splits[:5])
    assert complete[:, 0].tolist() == [False, True, False, True, True]


def test_credit_reads_the_observation_as_it_is_made() -> None:
    env = BlockCodingVectorEnv(8, patch_size=32)
    observations, _ = env.reset(seed=0)
    for _ in range(6):
        for index in range(8):
            patch = env.episodes.patches[index]
            assert patch is not None
            size = env.episodes.process.node(index)[2]
            assert observations[index, SIZES].tolist() == [float(4 << k == size) for k in range(4)]
            assert 512 * 2 ** observations[index, STEP_FEATURE] == pytest.approx(
                patch.step, rel=1e-4
            )
            expected = np.interp(np.log(patch.step), np.log(STEPS), np.log(FIXED_COST))
            assert np.log(fixed_cost(observations[index])) == pytest.approx(expected, abs=1e-3)
        actions = np.zeros((8, 2), np.int64)
        smallest = observations[:, 0] == 1
        np.testing.assert_array_equal(is_split(observations, actions), ~smallest)
        observations, *_ = env.step(actions)


def test_decision_sequence_visits_in_coding_order() -> None:
    leaves = [
        Decision(0, 0, 16, 3, 1, 0, 0),
        Decision(0, 16, 16, 4, 0, 0, 0),
        Decision(16, 0, 16, 5, 2, 0, 0),
        Decision(16, 16, 16, 6, 0, 0, 0),
        Decision(0, 32, 4, 7, 0, 0, 0),
    ]
    # The second superblock crosses the border and is split without a step.
    assert decision_sequence(leaves[:4], 32, 32, 1).tolist() == [
        [0, 1],
        [4, 1],
        [5, 0],
        [6, 2],
        [7, 0],
    ]
    narrow = decision_sequence(
        [*leaves, *(Decision(y, 32, 4, 0, 0, 0, 0) for y in range(4, 32, 4))], 32, 36, 1
    )
    assert len(narrow) == 5 + 8


def test_demonstrations_are_the_teachers_decisions() -> None:
    source = make_source(patch_size=32)
    data = collect_demonstrations(
        source,
        default_bundle(),
        Strategist("search"),
        Reward({"rate": 1, "sse": 1}),
        count=6,
        seed=1,
        tree_credit=True,
        gamma=1.0,
    )
    assert len(set(data.patches.tolist())) == 6
    assert (data.returns <= 0).all()
    smallest = data.observations[:, 0] == 1
    assert (data.decisions[smallest] > 0).all()
    assert not data.masks[smallest, 0].any()
    # A superblock's return is the sum of its leaves'.
    first = data.select(data.patches == 0)
    leaves = first.decisions > 0
    assert first.returns[0] <= first.returns[leaves].sum() + 1e-4


def test_every_waits_for_multiples() -> None:
    every = Every(100, 150)
    assert [every.due(steps) for steps in (160, 199, 205, 250, 430, 499, 500)] == [
        False,
        False,
        True,
        False,
        True,
        False,
        True,
    ]
    assert not Every(0, 0).due(10**9)


def test_checkpoints_are_read_without_pickle(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (print, ("executed",))

    torch.save({"policy": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(AmbiError, match="cannot be read"):
        load_checkpoint(tmp_path / "evil.pt")
