"""Integer transforms of square blocks; exact, separable, orthonormal up to rounding.

Residuals are 10-bit samples; coefficients have 4 more fractional bits, so that one unit is 1/64 of an
8-bit code value, like the quantizer step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.jit import kernel

COEFFICIENT_MAX = (1 << 19) - 1
"""Largest dequantised coefficient: the DC of a 32x32 residual of full range needs 2^19 − 1."""
_HALF_MAX = (1 << 17) - 1
"""Largest value between the two passes of the inverse: real residuals stay below 92 700, and the sums of the
second pass must fit 32 bits."""
_FORWARD_SHIFT = tables.TRANSFORM_BITS - 4
_INVERSE_SHIFT = tables.TRANSFORM_BITS + 4


@kernel
def _add_product(
    out: npt.NDArray[np.int32],
    weights: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int32],
    count: int,
    size: int,
    shift: int,
) -> None:
    """out[j] += Σ (weights[i] >> shift)·rows[i, j] over the first `count` rows (a multiple of 4).

    Four rows at a time: `out` is loaded and stored less often, which made it twice as fast.
    """
    for i in range(0, count, 4):
        w0 = weights[i] >> shift
        w1 = weights[i + 1] >> shift
        w2 = weights[i + 2] >> shift
        w3 = weights[i + 3] >> shift
        r0 = rows[i]
        r1 = rows[i + 1]
        r2 = rows[i + 2]
        r3 = rows[i + 3]
        for j in range(size):
            out[j] = out[j] + w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]


@kernel
def forward(
    basis: npt.NDArray[np.int32],
    transposed: npt.NDArray[np.int32],
    residual: npt.NDArray[np.int32],
    half: npt.NDArray[np.int32],
    coefficients: npt.NDArray[np.int32],
    size: int,
) -> None:
    """coefficients = basis · residual · transposed; all int32 [32, 32], of which size×size is used."""
    for k in range(size):
        for j in range(size):
            half[k, j] = 1 << (_FORWARD_SHIFT - 1)
            coefficients[k, j] = 1 << (tables.TRANSFORM_BITS - 1)
        _add_product(half[k], basis[k], residual, size, size, 0)
        _add_product(coefficients[k], half[k], transposed, size, size, _FORWARD_SHIFT)
        for j in range(size):
            coefficients[k, j] >>= tables.TRANSFORM_BITS


@kernel
def inverse(
    basis: npt.NDArray[np.int32],
    transposed: npt.NDArray[np.int32],
    coefficients: npt.NDArray[np.int32],
    half: npt.NDArray[np.int32],
    residual: npt.NDArray[np.int32],
    size: int,
    rows: int,
    cols: int,
) -> None:
    """residual = transposed · coefficients · basis; coefficients outside the first rows×cols are zero."""
    rows = (rows + 3) // 4 * 4
    cols = (cols + 3) // 4 * 4
    for k in range(rows):
        for j in range(size):
            half[k, j] = 1 << (tables.TRANSFORM_BITS - 1)
        _add_product(half[k], coefficients[k], basis, cols, size, 0)
        for j in range(size):
            value = half[k, j] >> tables.TRANSFORM_BITS
            half[k, j] = min(max(value, -_HALF_MAX), _HALF_MAX)
    for i in range(size):
        for j in range(size):
            residual[i, j] = 1 << (_INVERSE_SHIFT - 1)
        _add_product(residual[i], transposed[i], half, rows, size, 0)
        for j in range(size):
            residual[i, j] >>= _INVERSE_SHIFT
