"""What `quality` 1…100 means: the quantizer step it stands for."""

from __future__ import annotations

import math

from ambi_rl.errors import UsageError

MIN_QUALITY, MAX_QUALITY = 1.0, 100.0
STEP_SCALE = 64
"""Steps are integers in 1/64 of an 8-bit code value."""
MIN_STEP = STEP_SCALE // 2
MAX_STEP = 1600 * STEP_SCALE


def step_from_quality(quality: float) -> int:
    """Map a quality to the quantizer step, on the scale that libjpeg made familiar.

    The scale is 5000/q percent below 50 and 200 − 2q percent from there on; the step is 0.32 code values
    per percent (q=90 → 6.4, q=75 → 16, q=50 → 32) and at least half a code value.

    Args:
        quality: 1…100, fractions allowed.

    Returns:
        The step in 1/64 of an 8-bit code value, `MIN_STEP`…`MAX_STEP`.

    Raises:
        UsageError: the quality is not a number from 1 to 100.
    """
    if (
        isinstance(quality, bool)
        or not isinstance(quality, int | float)
        or not math.isfinite(quality)
        or not MIN_QUALITY <= quality <= MAX_QUALITY
    ):
        raise UsageError(f"quality is {quality!r}; give a number from 1 (smallest) to 100 (best)")
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return max(round(0.32 * percent * STEP_SCALE), MIN_STEP)
