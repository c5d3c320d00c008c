"""Where errors are visible: what the look ahead tells a policy of it."""

from __future__ import annotations

import numpy as np
import pytest

from ambi_rl.codec.strategists.visibility import SCALES, STABLE_VARIANCE, visibility
from ambi_rl.metrics import ssim


def seen(luma: np.ndarray) -> np.ndarray:
    out = np.zeros((SCALES, luma.shape[0] // 4, luma.shape[1] // 4), np.float32)
    visibility(luma.astype(np.int16), out)
    return out


def test_it_is_one_where_all_is_flat_and_follows_variance_elsewhere() -> None:
    rng = np.random.default_rng(0)
    assert seen(np.full((32, 48), 700)) == pytest.approx(1.0, abs=1e-5)
    noise = rng.normal(512, 80, (64, 64))
    weak, strong = seen(noise / 4 + 384), seen(noise)
    assert (strong < weak).all()
    # White noise of 20 code values; means of 4 and 16 samples have a quarter and a sixteenth of its variance.
    for scale, variance in enumerate((400.0, 100.0, 25.0)):
        expected = STABLE_VARIANCE / (2 * variance + STABLE_VARIANCE)
        assert strong[scale].mean() == pytest.approx(expected, rel=0.25)


def test_equal_errors_cost_ssim_in_proportion_to_it() -> None:
    rng = np.random.default_rng(1)
    # Texture on the left that fades towards the right.
    luma = 128 + rng.normal(0, 1, (64, 256)) * np.linspace(40, 1, 256)
    errors = rng.normal(0, 2, luma.shape)
    found = seen(luma * 4)[0]
    losses, predicted = [], []
    for left in range(32, 224, 32):
        copy = luma.copy()
        copy[:, left : left + 32] += errors[:, left : left + 32]
        pair = [np.clip(p, 0, 255).round().astype(np.uint8) for p in (luma, copy)]
        losses.append(1 - ssim(*pair))
        predicted.append(found[:, left // 4 : left // 4 + 8].mean())
    assert np.corrcoef(np.log(losses), np.log(predicted))[0, 1] > 0.97


def test_borders_see_only_the_picture() -> None:
    tile = np.random.default_rng(2).normal(512, 60, (16, 16))
    small, large = seen(np.tile(tile, (2, 2))), seen(np.tile(tile, (6, 6)))
    # A periodic picture is alike everywhere; padding with zeros would stand out at its border.
    assert small[2].mean() == pytest.approx(large[2].mean(), rel=0.3)
