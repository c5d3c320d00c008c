"""Integer constants of the format: transforms, scans, prediction angles and probability tables."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

SUPERBLOCK_LOG2 = 5
SUPERBLOCK = 1 << SUPERBLOCK_LOG2
MIN_BLOCK_LOG2 = 2
NUM_SIZES = SUPERBLOCK_LOG2 - MIN_BLOCK_LOG2 + 1

# Pixels have 10 bits inside the codec: 8-bit code values times 4.
PIXEL_MAX = 1023
PIXEL_MID = 512
PIXEL_SCALE = 4

TRANSFORM_BITS = 11
"""The transform matrices are orthonormal, times 2**TRANSFORM_BITS: as many as int32 sums allow."""

# Predictor codes: planar, DC, then the 33 angles of HEVC (ITU-T H.265, 8.4.4.2.6).
PLANAR, DC, FIRST_ANGLE, HORIZONTAL, DIAGONAL, VERTICAL, LAST_ANGLE = 0, 1, 2, 10, 18, 26, 34
PREDICTOR_NAMES = ("planar", "dc", *(f"angular_{i}" for i in range(FIRST_ANGLE, LAST_ANGLE + 1)))
ANGLES = np.array(
    [
        *(0, 0, 32, 26, 21, 17, 13, 9, 5, 2, 0, -2, -5, -9, -13, -17, -21, -26),
        *(-32, -26, -21, -17, -13, -9, -5, -2, 0, 2, 5, 9, 13, 17, 21, 26, 32),
    ],
    dtype=np.int32,
)


def _cubic_taps() -> npt.NDArray[np.int32]:
    """Catmull-Rom interpolation filters for 32 phases, four taps summing to 64."""
    taps = np.zeros((32, 4), dtype=np.int32)
    for phase in range(32):
        t = phase / 32
        exact = [
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        ]
        rounded = [round(64 * value) for value in exact]
        rounded[1 if t < 0.5 else 2] += 64 - sum(rounded)
        taps[phase] = rounded
    return taps


def _smooth_taps() -> npt.NDArray[np.int32]:
    """The smoothing interpolation filters of VVC (ITU-T H.266, table 25, fG), summing to 64."""
    return np.array(
        [[16 - (p >> 1), 32 - (p >> 1), 16 + (p >> 1), p >> 1] for p in range(32)], dtype=np.int32
    )


INTERPOLATION = np.stack([_cubic_taps(), _smooth_taps()])
"""int32 [2, 32, 4]: sharp and smooth four-tap filters by phase."""


def _dct(size: int) -> npt.NDArray[np.float64]:
    k, i = np.mgrid[:size, :size]
    matrix = np.sqrt(2 / size) * np.cos((2 * i + 1) * k * np.pi / (2 * size))
    matrix[0] /= math.sqrt(2)
    return np.asarray(matrix, dtype=np.float64)


def _dst7(size: int) -> npt.NDArray[np.float64]:
    """DST-VII, which fits residuals that grow away from the predicted border."""
    k, i = np.mgrid[:size, :size]
    matrix = 2 / np.sqrt(2 * size + 1) * np.sin(np.pi * (2 * k + 1) * (i + 1) / (2 * size + 1))
    return np.asarray(matrix, dtype=np.float64)


NUM_BASES = 2 * NUM_SIZES - 1


def _transforms() -> npt.NDArray[np.int32]:
    """int32 [7, 32, 32]: DCT-II of size 4, 8, 16, 32, DST-VII of size 4, 8, 16; rows are basis vectors."""
    out = np.zeros((NUM_BASES, SUPERBLOCK, SUPERBLOCK), dtype=np.int32)
    for index in range(NUM_BASES):
        size = 4 << (index % NUM_SIZES)
        exact = _dct(size) if index < NUM_SIZES else _dst7(size)
        out[index, :size, :size] = np.rint(exact * (1 << TRANSFORM_BITS))
    return out


TRANSFORMS = _transforms()
TRANSPOSED = np.ascontiguousarray(TRANSFORMS.transpose(0, 2, 1))

# How luma's residual is transformed vertically and horizontally: DCT-II or DST-VII (blocks of up to 16x16).
DCT_DCT, DST_DST, DST_DCT, DCT_DST = range(4)
NUM_TRANSFORMS = 4


def _scans() -> npt.NDArray[np.int32]:
    """int32 [4, 1024]: positions row·32+col in diagonal order for sizes 4, 8, 16, 32."""
    out = np.zeros((NUM_SIZES, SUPERBLOCK * SUPERBLOCK), dtype=np.int32)
    for index in range(NUM_SIZES):
        size = 4 << index
        cells = sorted(
            ((r, c) for r in range(size) for c in range(size)), key=lambda p: (p[0] + p[1], p[0])
        )
        out[index, : size * size] = [r * SUPERBLOCK + c for r, c in cells]
    return out


SCANS = _scans()


def _squash() -> npt.NDArray[np.int32]:
    """int32 [4096]: probability in 1/65536 of the logit (i − 2048)/256."""
    return np.array(
        [
            min(max(round(65536 / (1 + math.exp(-(i - 2048) / 256))), 32), 65536 - 32)
            for i in range(4096)
        ],
        dtype=np.int32,
    )


def _stretch() -> npt.NDArray[np.int32]:
    """int32 [4096]: logit times 256 of the probability (i + ½)/4096."""
    return np.array(
        [
            min(max(round(256 * math.log((i + 0.5) / (4095.5 - i))), -2047), 2047)
            for i in range(4096)
        ],
        dtype=np.int32,
    )


def _cost() -> npt.NDArray[np.int32]:
    """int32 [4096]: −log2((i + ½)/4096) in 1/65536 bit."""
    return np.array([round(-65536 * math.log2((i + 0.5) / 4096)) for i in range(4096)], np.int32)


SQUASH = _squash()
STRETCH = _stretch()
COST = _cost()

# Dependent quantization (ITU-T H.266, 8.7.3, here with eight states): the state a level is coded in says
# which of two quantizers it belongs to, and the level's parity leads to the next state. The trellis is the
# eight-state one of JPEG 2000 (ITU-T T.801, annex D), which is Ungerboeck's.
NUM_STATES = 8
NEXT_STATE = np.array(
    [[0, 1], [3, 2], [5, 4], [6, 7], [1, 0], [2, 3], [4, 5], [7, 6]], dtype=np.int32
)
"""int32 [8, 2]: the state after a level, by the state it is in and the level's parity."""
QUANTIZER = np.array([0, 1, 0, 1, 0, 1, 0, 1], dtype=np.int32)
"""int32 [8]: quantizer 0 holds the even multiples of the step, quantizer 1 the odd ones and zero."""

COUNT_LIMIT = 1023
ADAPTATION = np.array([round(65536 / (n + 1.6)) for n in range(COUNT_LIMIT + 1)], dtype=np.int32)
"""int32 [1024]: step towards the coded bit, in 1/65536, after n observations."""

OFFSET_SCALE = 65536


def step_multipliers(offsets: list[int]) -> npt.NDArray[np.int64]:
    """Multipliers of the quantizer step for offsets in sixths of an octave, in 1/65536."""
    return np.array([round(OFFSET_SCALE * 2 ** (o / 6)) for o in offsets], dtype=np.int64)
