"""Reward terms: scale, weights, and what moves what."""

from __future__ import annotations

import numpy as np
import pytest

from ambi_rl.errors import ConfigError
from ambi_rl.rewards import TERMS, Reward
from ambi_rl.rewards.calibration import FIXED_COST, MS_SSIM_SCALE, SSIM_SCALE, STEPS
from ambi_rl.rewards.pictures import MsSsimTerm, SsimTerm
from ambi_rl.rewards.terms import interpolate, ms_ssim_scales

BITS, SSE, LAMBDA = np.array([40.0, 0.0]), np.array([900.0, 0.0]), np.array([30.0, 30.0])
CHROMA = SSE / 3


def reward_of(**weights: float) -> np.ndarray:
    reward = Reward(weights)
    return reward.of_step(reward.step_terms(BITS, SSE, CHROMA, LAMBDA, 256))


def test_unit_weights_are_j_over_lambda_per_pixel() -> None:
    j = SSE + LAMBDA * BITS
    np.testing.assert_allclose(reward_of(rate=1, sse=1), -j / LAMBDA / 256)


@pytest.mark.parametrize("term", ["rate", "sse", "chroma"])
def test_a_weight_scales_its_term_alone(term: str) -> None:
    both = {"rate": 1.0, "sse": 1.0, "chroma": 1.0}
    more = reward_of(**(both | {term: 3.0})) - reward_of(**both)
    np.testing.assert_allclose(more, 2 * reward_of(**{term: 1.0}))


@pytest.mark.parametrize("term", ["ssim", "ms_ssim"])
def test_structural_weight_scales_the_episode_reward(term: str) -> None:
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (64, 64, 3), np.uint8)
    noisy = np.clip(original.astype(int) + rng.integers(-20, 20, original.shape), 0, 255).astype(
        np.uint8
    )
    one, three = Reward({"rate": 1, term: 1}), Reward({"rate": 1, term: 3})
    assert one.needs_picture
    terms = one.episode_terms(original, noisy, 512)
    assert set(terms) == {term}
    assert terms[term] > 0
    assert three.of_episode(terms) == pytest.approx(3 * one.of_episode(terms))
    same = one.episode_terms(original, original, 512)
    assert one.of_episode(same) == pytest.approx(0, abs=1e-9)


def test_terms_without_a_weight_are_not_computed() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    assert not Reward({"rate": 1, "sse": 1}).needs_picture
    assert Reward({"rate": 1, "sse": 1}).episode_terms(picture, picture, 512) == {}


def test_calibration_covers_the_steps() -> None:
    assert list(STEPS) == sorted(STEPS)
    for column in (FIXED_COST, SSIM_SCALE, *MS_SSIM_SCALE):
        assert len(column) == len(STEPS)
        assert min(column) > 0
    assert len(MS_SSIM_SCALE) == 5


def test_interpolation_meets_the_table_and_stays_between() -> None:
    for step, value in zip(STEPS, SSIM_SCALE, strict=True):
        assert interpolate(int(step), SSIM_SCALE) == pytest.approx(value)
    between = interpolate(int((STEPS[1] * STEPS[2]) ** 0.5), SSIM_SCALE)
    assert min(SSIM_SCALE[1:3]) < between < max(SSIM_SCALE[1:3])


@pytest.mark.parametrize(
    ("side", "scales"), [(11, 1), (22, 2), (64, 3), (128, 4), (176, 5), (999, 5)]
)
def test_ms_ssim_uses_the_scales_that_fit(side: int, scales: int) -> None:
    assert ms_ssim_scales(side, side) == scales


def test_ssim_needs_a_window() -> None:
    with pytest.raises(ConfigError, match="at least 11"):
        ms_ssim_scales(8, 64)


def test_structural_terms_are_as_large_as_squared_error_for_the_fixed_strategist() -> None:
    from ambi_rl.codec.bundle import default_bundle
    from ambi_rl.codec.color import planes_to_rgb
    from ambi_rl.codec.frame import encode_frame
    from ambi_rl.codec.strategists import by_name
    from ambi_rl.envs.episodes import make_source

    source = make_source(patch_size=128, texture=0.0)
    rng = np.random.default_rng(0)
    bundle, step = default_bundle(), 1024
    squared, ssim, ms_ssim = [], [], []
    for _ in range(12):
        patch = source.sample(rng)
        frame = encode_frame(patch.planes, step, bundle, by_name("fixed"))
        lagrangian = bundle.manifest["lambda_scale"] * (step / 64) ** 2
        squared.append(frame.error / lagrangian / 128**2)
        pair = planes_to_rgb(patch.planes), planes_to_rgb(frame.planes)
        ssim.append(SsimTerm().cost(*pair, step))
        ms_ssim.append(MsSsimTerm().cost(*pair, step))
    # A dozen patches are a small sample of ten photographs.
    assert 0.5 < np.mean(ssim) / np.mean(squared) < 2
    assert 0.5 < np.mean(ms_ssim) / np.mean(squared) < 2


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"psnr": 1.0}, "no term 'psnr'; it has rate, sse, chroma, ssim, ms_ssim, metric, task"),
        ({"rate": -1.0}, "reward.rate is -1"),
        ({"rate": float("nan")}, "reward.rate is nan"),
        ({"rate": 0.0}, "every reward weight is 0"),
        ({"rate": 1, "metric": 1.0}, "reward.metric is 1.0; it has target, weight"),
        (
            {"rate": 1, "metric": {"wieght": 1}},
            "reward.metric has no 'wieght'; it has target, weight",
        ),
        ({"rate": 1, "metric": {"weight": 1}}, "reward.metric.weight is set, but not"),
        ({"rate": 1, "task": {"weight": 1}}, "reward.task.weight is set, but not"),
        (
            {"rate": 1, "sse": 1, "constraint": {"target_bpp": 0}},
            "target_bpp is 0; it must be over 0",
        ),
        ({"rate": 1, "sse": 1, "constraint": {"target_ssim": 1.5}}, "over 0 and under 1"),
        ({"rate": 1, "sse": 1, "constraint": {"target_bpp": 1, "target_psnr": 30}}, "one can be"),
        ({"rate": 1, "constraint": {"target_bpp": 1}}, "give reward.rate and one other a weight"),
        ({"rate": 1, "sse": 1, "constraint": {"target_metric": 1}}, "needs reward.metric.weight"),
        ({"rate": 1, "sse": 1, "competition": {"kind": "signs"}}, "it can be none, sign, margin"),
    ],
)
def test_wrong_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reward(weights)


def test_terms_say_what_they_are() -> None:
    for name, term in TERMS.items():
        assert term.name == name
        assert term.unit
        assert term.summary
    later = [t.name for t in TERMS.values() if t.when == "episode"]
    assert later == ["ssim", "ms_ssim", "metric", "task"]
