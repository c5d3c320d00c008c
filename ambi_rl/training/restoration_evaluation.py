"""What restoration gains on held-out photographs: PSNR by step, BD-rate, and what choices are worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.bundle import Bundle, Tensors
from ambi_rl.codec.color import planes_to_rgb, rgb_to_planes
from ambi_rl.codec.container import Restoration
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.kernel.state import DISTORTION_WEIGHTS
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.restoration import restore
from ambi_rl.codec.strategists import for_search
from ambi_rl.data.source import read_photograph
from ambi_rl.metrics import bd_rate, psnr

Planes = npt.NDArray[np.int16]

STEPS = (3, 6, 12, 24, 48, 96)
"""Quantizer steps of the curves, in 8-bit code values."""
_HEIGHT, _WIDTH = 384, 512
"""What of each photograph's centre is coded."""
_OVERHEAD = 39
"""Bytes of a file beside its payload."""


class Coded(NamedTuple):
    """A photograph at a step.

    Attributes:
        source: int16 [3, H, W].
        decoded: int16 [3, H, W], before restoration.
        step: In 1/64 code value.
        size: Bytes of its file.
    """

    source: Planes
    decoded: Planes
    step: int
    size: int


@dataclass(frozen=True)
class Gain:
    """What restoration brought.

    Attributes:
        bd_rate: Of curves of the photographs' means, in percent.
        psnr: Mean PSNR in dB by step, without restoration.
        gain: What is added to it, in dB by step, at full strength.
        weighed: … at the best strength of each photograph.
        harmed: Share of pictures that are worse at full strength than without.
        switched: What the best choice for each square of `square` pixels would take off the squared error
            beyond full strength everywhere, in percent, one bit a square taken into account.
        square: See `switched`.
    """

    bd_rate: float
    psnr: dict[int, float]
    gain: dict[int, float]
    weighed: dict[int, float]
    harmed: float
    switched: float
    square: int


def code_photographs(
    paths: Sequence[Path],
    bundle: Bundle,
    effort: int,
    cache: Path,
    report: Callable[[float], None] | None = None,
) -> list[Coded]:
    """Code the centres of photographs at all `STEPS`, or take up what was coded before.

    Args:
        paths: Photographs.
        bundle: What codes them.
        effort: The encoder's.
        cache: A folder that keeps decodings.
        report: Is told the fraction done.
    """
    cache.mkdir(parents=True, exist_ok=True)
    coded = []
    identity = f"{bundle.planes_id} {effort}"
    for number, path in enumerate(paths):
        rgb = read_photograph(path)
        top, left = (max(rgb.shape[k] - size, 0) // 2 for k, size in ((0, _HEIGHT), (1, _WIDTH)))
        source = rgb_to_planes(rgb[top : top + _HEIGHT, left : left + _WIDTH])
        for delta in STEPS:
            key = hashlib.sha256(f"{identity} {path.name} {delta}".encode()).hexdigest()[:16]
            kept = cache / f"{key}.npz"
            step = delta * STEP_SCALE
            if not kept.exists():
                frame = encode_frame(source, step, bundle, for_search(effort))
                size = len(frame.payload) + _OVERHEAD
                temporary = kept.with_suffix(".part")
                with temporary.open("wb") as stream:
                    np.savez(stream, planes=frame.planes, size=size)
                temporary.replace(kept)
            with np.load(kept) as content:
                coded.append(Coded(source, content["planes"], step, int(content["size"])))
        if report is not None:
            report((number + 1) / len(paths))
    return coded


def _psnr(source: Planes, shown: Planes) -> float:
    return float(psnr(planes_to_rgb(source), planes_to_rgb(shown)))


def _error_map(source: Planes, shown: Planes, square: int) -> npt.NDArray[np.float64]:
    """Squared error in 8-bit code values of each square, raster order."""
    error = (((source - shown) / 4.0) ** 2 * DISTORTION_WEIGHTS[:, None, None]).sum(axis=0)
    rows = np.add.reduceat(error, np.arange(0, error.shape[0], square), axis=0)
    return np.add.reduceat(rows, np.arange(0, error.shape[1], square), axis=1).ravel()


def measure(
    coded: Sequence[Coded], tensors: Tensors, lambda_scale: float, *, square: int = 64
) -> Gain:
    """Restore every picture and compare.

    Args:
        coded: What `code_photographs` returned.
        tensors: A bundle's restoration.
        lambda_scale: The bundle's λ/Δ², what a bit is worth.
        square: Side in pixels of the squares that might be switched.
    """
    table: dict[int, list[tuple[float, float, float, float]]] = {}
    harmed = 0
    full_error = switched_error = 0.0
    for source, decoded, step, size in coded:
        plain = _psnr(source, decoded)
        shown = {
            kind: restore(decoded, step, tensors, kind.strength)
            for kind in (Restoration.HALF, Restoration.FULL)
        }
        values = {kind: _psnr(source, planes) for kind, planes in shown.items()}
        full = values[Restoration.FULL]
        harmed += full < plain
        pixels = source.shape[1] * source.shape[2]
        row = (8 * size / pixels, plain, full, max(plain, *values.values()))
        table.setdefault(step // STEP_SCALE, []).append(row)
        with_it = _error_map(source, shown[Restoration.FULL], square)
        without = _error_map(source, decoded, square)
        # In units of the error before, so that every picture counts alike.
        bit = lambda_scale * (step / STEP_SCALE) ** 2
        full_error += with_it.sum() / without.sum()
        switched_error += (np.minimum(with_it, without) + bit).sum() / without.sum()
    means = {delta: np.mean(rows, axis=0) for delta, rows in sorted(table.items())}
    rates, plain_curve, full_curve, _ = np.array(list(means.values())).T
    return Gain(
        bd_rate=bd_rate(rates, plain_curve, rates, full_curve),
        psnr={delta: float(m[1]) for delta, m in means.items()},
        gain={delta: float(m[2] - m[1]) for delta, m in means.items()},
        weighed={delta: float(m[3] - m[1]) for delta, m in means.items()},
        harmed=harmed / len(coded),
        switched=float(100 * (1 - switched_error / full_error)),
        square=square,
    )
