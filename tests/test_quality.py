"""Quality maps to the quantizer step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ambi_rl.codec.quality import MAX_STEP, MIN_STEP, step_from_quality
from ambi_rl.errors import UsageError


@pytest.mark.parametrize(
    ("quality", "step"),
    [(1, 1600), (25, 64), (50, 32), (75, 16), (90, 6.4), (97.5, 1.6), (100, 0.5)],
)
def test_known_steps(quality: float, step: float) -> None:
    assert step_from_quality(quality) == round(step * 64)


def test_step_falls_with_quality_and_stays_in_range() -> None:
    steps = [step_from_quality(1 + i / 10) for i in range(991)]
    assert steps == sorted(steps, reverse=True)
    assert (steps[-1], steps[0]) == (MIN_STEP, MAX_STEP)


@pytest.mark.parametrize("quality", [0, 0.99, 100.5, -1, math.nan, math.inf, "75", None, True])
def test_other_values_are_refused(quality: Any) -> None:
    with pytest.raises(UsageError, match="1 \\(smallest\\) to 100"):
        step_from_quality(quality)
