"""Integer transforms of square blocks; exact, separable, orthonormal up to rounding.

Residuals are 10-bit samples; coefficients have 4 more fractional bits, so that one unit is 1/64 of an
8-bit code value, like the quantizer step.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.jit import kernel

COEFFICIENT_MAX = (1 << 17) - 1
_FORWARD_SHIFT = tables.TRANSFORM_BITS - 4
_INVERSE_SHIFT = tables.TRANSFORM_BITS + 4


@kernel
def forward(
    basis: npt.NDArray[np.int32],
    residual: npt.NDArray[np.int32],
    half: npt.NDArray[np.int32],
    coefficients: npt.NDArray[np.int32],
    size: int,
) -> None:
    """coefficients = basis · residual · basisᵀ; all int32 [32, 32], of which size×size is used."""
    for k in range(size):
        for j in range(size):
            half[k, j] = 1 << (_FORWARD_SHIFT - 1)
        for i in range(size):
            weight = basis[k, i]
            for j in range(size):
                half[k, j] += weight * residual[i, j]
        for j in range(size):
            half[k, j] >>= _FORWARD_SHIFT
    for k in range(size):
        for m in range(size):
            total = np.int32(1 << (tables.TRANSFORM_BITS - 1))
            for j in range(size):
                total += np.int32(half[k, j] * basis[m, j])
            coefficients[k, m] = total >> tables.TRANSFORM_BITS


@kernel
def inverse(
    basis: npt.NDArray[np.int32],
    coefficients: npt.NDArray[np.int32],
    half: npt.NDArray[np.int32],
    residual: npt.NDArray[np.int32],
    size: int,
    rows: int,
    cols: int,
) -> None:
    """residual = basisᵀ · coefficients · basis; only the first rows×cols coefficients are nonzero."""
    for k in range(rows):
        for j in range(size):
            half[k, j] = 1 << (tables.TRANSFORM_BITS - 1)
        for m in range(cols):
            weight = coefficients[k, m]
            if weight != 0:
                for j in range(size):
                    half[k, j] += weight * basis[m, j]
        for j in range(size):
            value = half[k, j] >> tables.TRANSFORM_BITS
            half[k, j] = min(max(value, -COEFFICIENT_MAX), COEFFICIENT_MAX)
    for i in range(size):
        for j in range(size):
            residual[i, j] = 1 << (_INVERSE_SHIFT - 1)
        for k in range(rows):
            weight = basis[k, i]
            for j in range(size):
                residual[i, j] += weight * half[k, j]
        for j in range(size):
            residual[i, j] >>= _INVERSE_SHIFT
