"""Sizes of the reward terms for the `fixed` strategist; written by scripts/calibrate_rewards.py."""

STEPS: tuple[float, ...] = (128.0, 4096.0)
"""Quantizer steps of the columns below, in 1/64 of an 8-bit code value."""

FIXED_COST: tuple[float, ...] = (4.0, 0.5)
"""J/λ of the `fixed` strategist in bits per pixel."""

SSIM_SCALE: tuple[float, ...] = (10.0, 10.0)
"""What 1 − SSIM is multiplied by to be as large as squared error over λ, in bits per pixel."""

MS_SSIM_SCALE: tuple[tuple[float, ...], ...] = (
    (10.0, 10.0),
    (10.0, 10.0),
    (10.0, 10.0),
    (10.0, 10.0),
    (10.0, 10.0),
)
"""The same for 1 − MS-SSIM, a row for each number of scales (1…5)."""
