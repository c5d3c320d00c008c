"""Rebuilds `ambi_rl/rewards/calibration.py`: how large the reward terms are for the `fixed` strategist.

Usage: scripts/calibrate_rewards.py

On the shipped training photographs, coded by `fixed` with the default bundle, for each quantizer step: J/λ
per pixel, and what 1 − SSIM and 1 − MS-SSIM must be multiplied by to be as large as squared error over λ.
MS-SSIM is measured on square pieces for which 1…5 scales fit, for their number changes its size.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.color import planes_to_rgb, rgb_to_planes
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.strategists import by_name
from ambi_rl.data import list_photographs, read_photograph, split_held_out
from ambi_rl.metrics import ms_ssim, ssim

TARGET = Path(__file__).resolve().parent.parent / "ambi_rl" / "rewards" / "calibration.py"
STEPS = tuple(STEP_SCALE * step for step in (1, 2, 4, 8, 16, 32, 64, 128))
SIDES = (16, 32, 64, 128, 256)
"""Pieces for which 1, 2, … 5 scales of MS-SSIM fit."""


def _row(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:.4g}" for value in values) + ")"


def _pieces(height: int, width: int, side: int) -> list[tuple[slice, slice]]:
    # Sixteen of the smallest do, spread over the picture.
    rows = np.linspace(0, height - side, min(4, height // side)).astype(int)
    cols = np.linspace(0, width - side, min(4, width // side)).astype(int)
    return [(slice(y, y + side), slice(x, x + side)) for y in rows for x in cols]


def main() -> None:
    bundle = default_bundle()
    paths, _ = split_held_out(list_photographs(None), 10)
    cost, scale, scales = [], [], [[] for _ in SIDES]  # type: ignore[var-annotated]
    for step in STEPS:
        lagrangian = float(bundle.manifest["lambda_scale"]) * (step / STEP_SCALE) ** 2
        j, distortion, loss = [], [], []
        multi: list[list[float]] = [[] for _ in SIDES]
        for path in paths:
            original = read_photograph(path)
            frame = encode_frame(rgb_to_planes(original), step, bundle, by_name("fixed"))
            decoded = planes_to_rgb(frame.planes)
            pixels = original.shape[0] * original.shape[1]
            distortion.append(frame.error / lagrangian / pixels)
            j.append(distortion[-1] + frame.cost / 65536 / pixels)
            loss.append(1 - ssim(original, decoded))
            for number, side in enumerate(SIDES):
                for piece in _pieces(original.shape[0], original.shape[1], side):
                    value = ms_ssim(original[piece], decoded[piece], scales=number + 1)
                    multi[number].append(1 - value)
        cost.append(float(np.mean(j)))
        scale.append(float(np.mean(distortion) / np.mean(loss)))
        for number, losses in enumerate(multi):
            scales[number].append(float(np.mean(distortion) / np.mean(losses)))
        print(f"step {step / STEP_SCALE:g}: J/λ {cost[-1]:.3f} bpp, SSIM x {scale[-1]:.4g}")
    rows = "\n".join(f"    {_row(row)}," for row in scales)
    TARGET.write_text(f'''"""Terms of the `fixed` strategist; written by scripts/calibrate_rewards.py."""

STEPS: tuple[float, ...] = {_row([float(step) for step in STEPS])}
"""Quantizer steps of the columns below, in 1/{STEP_SCALE} of an 8-bit code value."""

FIXED_COST: tuple[float, ...] = {_row(cost)}
"""J/λ of the `fixed` strategist in bits per pixel."""

SSIM_SCALE: tuple[float, ...] = {_row(scale)}
"""What 1 − SSIM is multiplied by to be as large as squared error over λ, in bits per pixel."""

MS_SSIM_SCALE: tuple[tuple[float, ...], ...] = (
{rows}
)
"""The same for 1 − MS-SSIM, a row for each number of scales (1…5)."""
''')
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(TARGET)], check=True)


if __name__ == "__main__":
    main()
