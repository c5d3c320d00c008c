"""Targets and self-competition: what adapts the reward while training goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ambi_rl.cli.train import train_command
from ambi_rl.codec.bundle import Bundle
from ambi_rl.data import PhotographSource, list_photographs, shipped_folder
from ambi_rl.data.source import Patch
from ambi_rl.envs import BlockCodingVectorEnv
from ambi_rl.rewards import Reward
from ambi_rl.rewards.calibration import FIXED_COST, STEPS
from ambi_rl.rewards.competition import STAKE, Competition, PatchPool
from ambi_rl.rewards.constraint import LIMIT, Constraint
from ambi_rl.rewards.terms import interpolate

# How a policy answers the multiplier: bits fall with it, and quality with them.
PLANTS = {
    "bpp": lambda multiplier: 0.8 * multiplier**-0.3,
    "psnr": lambda multiplier: 34 - 3 * math.log(multiplier),
    "ssim": lambda multiplier: 1 - 0.05 * multiplier**0.4,
    "ms_ssim": lambda multiplier: 1 - 0.02 * multiplier**0.4,
    "metric": lambda multiplier: 3 * multiplier**0.5,
}
TARGETS = {
    "bpp": (0.5, 1.2),
    "psnr": (32.0, 36.0),
    "ssim": (0.93, 0.97),
    "ms_ssim": (0.97, 0.99),
    "metric": (1.5, 6.0),
}


@pytest.mark.parametrize("key", PLANTS)
def test_the_multiplier_leads_to_the_target_from_both_sides(key: str) -> None:
    rng = np.random.default_rng(0)
    for target in TARGETS[key]:
        constraint = Constraint(key, target, speed=0.1, window=16)
        for _ in range(16 * 200):
            noise = rng.normal(0, 0.01)
            value = PLANTS[key](constraint.multiplier * math.exp(noise))
            constraint.note(value)
        assert constraint.measured == pytest.approx(target, rel=0.01)
    # Where all it can do is not enough, the multiplier stops.
    hopeless = Constraint("bpp", 0.001, speed=10.0, window=1)
    for _ in range(100):
        hopeless.note(1.0)
    assert hopeless.log_multiplier == pytest.approx(LIMIT)


def test_the_multiplier_weighs_rate_against_all_distortion() -> None:
    reward = Reward(
        {"rate": 1, "sse": 1, "ms_ssim": 1, "constraint": {"target_bpp": 0.5, "window": 2}}
    )
    one = np.ones(1)
    terms = reward.step_terms(one, one, 0 * one, one, 1)
    before = reward.of_step(terms), reward.of_episode({"ms_ssim": 1.0})
    assert reward.constraint is not None
    for bpp in (2.0, 3.0):
        reward.constraint.note(bpp)
    assert reward.constraint.multiplier == pytest.approx((2.5 / 0.5) ** (11 * 0.1))
    root = math.sqrt(reward.constraint.multiplier)
    assert before[0] == pytest.approx(-2)
    assert before[1] == pytest.approx(-1)
    assert reward.of_step(terms)[0] == pytest.approx(-root - 1 / root)
    assert reward.of_episode({"ms_ssim": 1.0}) == pytest.approx(-1 / root)


def patch(name: str = "a", step: int = 1024) -> Patch:
    return Patch(np.zeros((3, 16, 16), np.int16), step, 50.0, name, 0, 0)


def test_competition_judges_by_the_own_past() -> None:
    sign = Competition("sign", patches=2, memory=0.5)
    stake = STAKE * 4.0
    scores = [-1.0, -0.9, -0.9, -0.96, -0.8]
    # The mean goes −1, −0.95, −0.925, −0.9425.
    assert [sign.judge(patch(), score, 4.0) for score in scores] == [0, stake, stake, -stake, stake]
    assert sign.judge(patch("b"), -5.0, 4.0) == 0
    assert sign.judge(patch(step=512), -5.0, 4.0) == 0

    margin = Competition("margin", patches=2, memory=0.5)
    assert margin.judge(patch(), -1.0, 4.0) == 0
    assert margin.judge(patch(), -0.98, 4.0) == pytest.approx(0.02)
    assert margin.judge(patch(), -9.0, 4.0) == -stake
    assert margin.judge(patch(), 9.0, 4.0) == stake


def test_competition_heeds_the_weights() -> None:
    better, cheaper = {"rate": 1.0, "sse": 0.2}, {"rate": 0.2, "sse": 1.0}
    for weight, winner in ((10.0, better), (0.1, cheaper)):
        reward = Reward({"rate": 1, "sse": weight, "competition": {"kind": "sign"}})
        one = np.ones(1)

        def close(terms: dict[str, float], reward: Reward = reward, one: np.ndarray = one) -> float:
            step = reward.step_terms(terms["rate"] * one, terms["sse"] * one, 0 * one, one, 1)
            black = np.zeros((16, 16, 3), np.uint8)
            score = float(reward.of_step(step)[0])
            return reward.close(patch(), score, terms["rate"], black, black)["return"]

        loser = cheaper if winner is better else better
        assert close(loser) == 0
        assert close(winner) > 0
        assert close(loser) < 0


def test_a_pool_of_patches_comes_again_and_is_the_same_for_equal_sources() -> None:
    photographs = list_photographs(None)
    pools = [PatchPool(PhotographSource(photographs, 16, (30, 92)), 3) for _ in range(2)]
    drawn = [[pool.sample(np.random.default_rng(k)) for k in range(12)] for pool in pools]
    keys = [[(p.name, p.y, p.x, p.step) for p in patches] for patches in drawn]
    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 3


def test_state_survives_json() -> None:
    settings = {
        "rate": 1,
        "sse": 1,
        "constraint": {"target_psnr": 33.0, "window": 3},
        "competition": {"kind": "margin"},
    }
    first, second = Reward(settings), Reward(settings)
    black = np.zeros((16, 16, 3), np.uint8)
    gray = black + np.uint8(9)
    for score in (-1.0, -0.9, -0.8, -0.7):
        first.close(patch(), score, 1.0, black, gray)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    assert first.constraint is not None
    assert first.constraint.log_multiplier != 0
    again = [reward.close(patch(), -0.75, 1.0, black, gray) for reward in (first, second)]
    assert again[0] == again[1]
    # A run that goes on with other settings begins its control anew.
    Reward({"rate": 1, "sse": 1}).restore(first.state())


def test_environments_pay_competitors_at_the_end(default_bundle: Bundle) -> None:
    env = BlockCodingVectorEnv(
        2,
        threads=1,
        patch_size=16,
        bundle=default_bundle,
        rate="estimate",
        weights={"rate": 1, "sse": 1, "competition": {"kind": "sign", "patches": 1}},
    )
    env.reset(seed=0)
    paid, returns = [], []
    for step in range(40):
        _, rewards, dones, _, infos = env.step(np.array([[1 + step % 3, 2], [1 + step % 5, 2]]))
        assert not rewards[~dones].any()
        paid += rewards[dones].tolist()
        if dones.any():
            found = infos["final_info"]["episode_summary"]
            returns += [s["return"] for s in found if s is not None]
            assert all(s["score"] < 0 for s in found if s is not None)
    assert paid == returns
    unit = interpolate(env.episodes.sample(np.random.default_rng(0)).step, FIXED_COST)
    assert {round(abs(p) / (STAKE * unit), 6) for p in paid} <= {0.0, 1.0}
    assert min(paid) < 0 < max(paid)
    env.close()
    assert len(STEPS) == len(FIXED_COST)


@pytest.mark.slow
def test_training_meets_a_rate_from_both_sides(tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for path in sorted(shipped_folder().glob("*.webp"))[:6]:
        with Image.open(path) as image:
            image.convert("RGB").crop((100, 100, 292, 228)).save(photographs / f"{path.stem}.png")
    rates, multipliers = [], []
    for target in (0.9, 1.8):
        train_command(
            [
                f"data.folder={photographs}",
                "data.min_quality=60",
                "data.max_quality=60",
                "reward=target_rate",
                f"reward.constraint.target_bpp={target}",
                "reward.constraint.window=150",
                "env.num_envs=32",
                "env.patch_size=32",
                "agent.n_steps=32",
                "agent.batch_size=256",
                "agent.hidden=16",
                "agent.learning_rate=3e-3",
                "agent.final_learning_rate=1",
                "agent.target_kl=null",
                "agent.imitation.patches=60",
                "agent.imitation.rounds=0",
                "agent.imitation.rounds=0",
                "agent.imitation.effort=5",
                "agent.imitation.epochs=3",
                "total_steps=16384",
                "entropy.refit_every=0",
                "evaluation.every=0",
                "evaluation.images=1",
                "evaluation.qualities=[40,70]",
                "evaluation.search_effort=5",
                f"runs={tmp_path}",
                f"name=target-{target}",
            ]
        )
        metrics = json.loads((tmp_path / f"target-{target}" / "metrics.json").read_text())
        found = metrics["reward"]["constraint"]
        assert found["target"] == target
        rates.append(found["measured"])
        multipliers.append(found["multiplier"])
    # Left to itself, the policy takes about 1.3 bits per pixel.
    assert rates == [pytest.approx(0.9, rel=0.15), pytest.approx(1.8, rel=0.15)]
    assert multipliers[0] > 1 > multipliers[1]
