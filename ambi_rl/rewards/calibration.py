"""Terms of the `fixed` strategist; written by scripts/calibrate_rewards.py."""

STEPS: tuple[float, ...] = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
"""Quantizer steps of the columns below, in 1/64 of an 8-bit code value."""

FIXED_COST: tuple[float, ...] = (11.89, 8.713, 6.017, 3.93, 2.422, 1.372, 0.7003, 0.3202)
"""J/λ of the `fixed` strategist in bits per pixel."""

SSIM_SCALE: tuple[float, ...] = (1134, 375.3, 125.3, 42.83, 14.43, 4.7, 1.525, 0.5124)
"""What 1 − SSIM is multiplied by to be as large as squared error over λ, in bits per pixel."""

MS_SSIM_SCALE: tuple[tuple[float, ...], ...] = (
    (957.7, 323.2, 111.3, 40.12, 13.98, 4.653, 1.579, 0.5539),
    (3142, 958.7, 287.3, 88.86, 27.99, 8.546, 2.468, 0.7168),
    (5901, 1776, 506, 146.6, 43.77, 12.58, 3.292, 0.8666),
    (7936, 2397, 682.3, 197, 57.21, 15.79, 4.163, 1.068),
    (1.007e04, 3036, 853.3, 240.1, 67.54, 18.31, 4.558, 1.167),
)
"""The same for 1 − MS-SSIM, a row for each number of scales (1…5)."""
