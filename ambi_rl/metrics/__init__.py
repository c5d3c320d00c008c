"""Measures of fidelity and of rate-distortion curves, in NumPy alone."""

from ambi_rl.metrics.bjontegaard import bd_psnr, bd_rate, rate_at_quality
from ambi_rl.metrics.fidelity import ms_ssim, ms_ssim_gradient, mse, psnr, psnr_luma, ssim, ssim_map

__all__ = [
    "bd_psnr",
    "bd_rate",
    "ms_ssim",
    "ms_ssim_gradient",
    "mse",
    "psnr",
    "psnr_luma",
    "rate_at_quality",
    "ssim",
    "ssim_map",
]
