"""The arrays the kernel works on: what belongs to a picture, what is scratch, what is constant."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import coder, layout
from ambi_rl.codec.jit import kernel

# Fields of Picture.control (int64).
HEIGHT, WIDTH, PLANES, STEP, CURSOR, STACKED, NODE_Y, NODE_X, NODE_LOG2, LEAVES = range(10)
NUM_CONTROL = 10

# Channels of Picture.maps (uint8), one entry for each 4x4 unit.
CODED, STRATEGY, SIZE, OFFSET, CHROMA, ENERGY = 0, 1, 2, 3, 4, 5
NUM_MAPS = 8
"""ENERGY and the two after it hold the level energy of the three planes."""

REFERENCE = 4 * tables.SUPERBLOCK + 8
"""Length of a line of reference samples: twice the block's side and room for the filters."""

DISTORTION_WEIGHTS = np.array([1.0, 3.26 / 3, 2.475 / 3])
"""Squared error of Y, Cb, Cr in units of mean RGB squared error (columns of the YCbCr→RGB matrix)."""


class Picture(NamedTuple):
    """One picture being coded; in a batch every array has one more leading dimension.

    Attributes:
        source: int16 [P, H, W], 10 bits; H and W are multiples of 4. Not read when decoding.
        decoded: int16 [P, H, W].
        maps: uint8 [NUM_MAPS, H/4, W/4]; decisions are stored plus one, 0 means none.
        control: int64 [NUM_CONTROL].
        stack: int32 [64, 3], nodes (y, x, log2 size) still to code in this superblock.
        probs: int32 [C], the entropy model's counters.
        weights: int32 [S], its mixer weights.
        registers: int64 [NUM_REGISTERS], the arithmetic coder.
        stream: uint8 [N], bytes written or read.
    """

    source: npt.NDArray[np.int16]
    decoded: npt.NDArray[np.int16]
    maps: npt.NDArray[np.uint8]
    control: npt.NDArray[np.int64]
    stack: npt.NDArray[np.int32]
    probs: npt.NDArray[np.int32]
    weights: npt.NDArray[np.int32]
    registers: npt.NDArray[np.int64]
    stream: npt.NDArray[np.uint8]


class Scratch(NamedTuple):
    """Working memory of one thread."""

    index: npt.NDArray[np.int64]
    logits: npt.NDArray[np.int64]
    reference: npt.NDArray[np.int32]
    line: npt.NDArray[np.int32]
    prediction: npt.NDArray[np.int32]
    residual: npt.NDArray[np.int32]
    half: npt.NDArray[np.int32]
    coefficients: npt.NDArray[np.int32]
    levels: npt.NDArray[np.int32]
    costs: npt.NDArray[np.float64]
    saved: npt.NDArray[np.int16]
    saved_maps: npt.NDArray[np.uint8]
    planned: npt.NDArray[np.uint8]
    satd: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    observation: npt.NDArray[np.float32]
    normalised: npt.NDArray[np.float32]
    hidden: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


class Constants(NamedTuple):
    """What every picture shares: format tables and the bundle's lists.

    Attributes:
        strategies: int32 [S], predictor code of each strategy.
        multipliers: int64 [O], quantizer step multipliers of the offsets, in 1/65536.
        neutral: the offset index whose multiplier is 1 (an int).
        chroma_scale: int32 [2], steps of Cb and Cr relative to luma, in 1/64.
        lambda_scale: λ = lambda_scale·Δ².
    """

    stretch: npt.NDArray[np.int32]
    squash: npt.NDArray[np.int32]
    cost: npt.NDArray[np.int32]
    adaptation: npt.NDArray[np.int32]
    limits: npt.NDArray[np.int32]
    transforms: npt.NDArray[np.int32]
    scans: npt.NDArray[np.int32]
    strategies: npt.NDArray[np.int32]
    multipliers: npt.NDArray[np.int64]
    neutral: int
    chroma_scale: npt.NDArray[np.int32]
    lambda_scale: float


@kernel
def model_of(p: Picture, s: Scratch, c: Constants) -> coder.Model:
    """Gather what `code_bit` needs, so that the hot loop passes few arrays."""
    return coder.Model(
        p.probs,
        p.weights,
        c.stretch,
        c.squash,
        c.cost,
        c.adaptation,
        c.limits,
        s.index,
        s.logits,
        p.registers,
        p.stream,
    )


@kernel
def member(batch: Picture, index: int) -> Picture:
    """Views of one picture of a batch."""
    return Picture(
        batch.source[index],
        batch.decoded[index],
        batch.maps[index],
        batch.control[index],
        batch.stack[index],
        batch.probs[index],
        batch.weights[index],
        batch.registers[index],
        batch.stream[index],
    )


def allocate_picture(
    planes: int, height: int, width: int, stream: int, *, batch: int | None = None
) -> Picture:
    """Zeroed arrays for pictures of `height`×`width` (multiples of 4) and streams of `stream` bytes."""
    lead = () if batch is None else (batch,)
    shape = (*lead, planes, height, width)
    return Picture(
        source=np.zeros(shape, np.int16),
        decoded=np.zeros(shape, np.int16),
        maps=np.zeros((*lead, NUM_MAPS, height // 4, width // 4), np.uint8),
        control=np.zeros((*lead, NUM_CONTROL), np.int64),
        stack=np.zeros((*lead, 64, 3), np.int32),
        probs=np.zeros((*lead, layout.NUM_COUNTERS), np.int32),
        weights=np.zeros((*lead, layout.NUM_MIXERS * coder.MAX_INPUTS), np.int32),
        registers=np.zeros((*lead, coder.NUM_REGISTERS), np.int64),
        stream=np.zeros((*lead, stream), np.uint8),
    )


def allocate_scratch(observation: int, strategies: int, offsets: int) -> Scratch:
    """Working memory for one thread; sizes are those of the observation and of the decision."""
    side = tables.SUPERBLOCK
    return Scratch(
        index=np.zeros(coder.MAX_INPUTS, np.int64),
        logits=np.zeros(coder.MAX_INPUTS + 2, np.int64),
        reference=np.zeros((3, 2, REFERENCE), np.int32),
        line=np.zeros(REFERENCE + side, np.int32),
        prediction=np.zeros((side, side), np.int32),
        residual=np.zeros((side, side), np.int32),
        half=np.zeros((side, side), np.int32),
        coefficients=np.zeros((side, side), np.int32),
        levels=np.zeros((3, side + 4, side + 4), np.int32),
        costs=np.zeros((4, side * side), np.float64),
        saved=np.zeros((tables.NUM_SIZES, 3, side, side), np.int16),
        saved_maps=np.zeros((tables.NUM_SIZES, NUM_MAPS, side // 4, side // 4), np.uint8),
        planned=np.zeros((NUM_MAPS, side // 4, side // 4), np.uint8),
        satd=np.zeros(strategies, np.float64),
        order=np.zeros(strategies, np.int64),
        observation=np.zeros(observation, np.float32),
        normalised=np.zeros(observation, np.float32),
        hidden=np.zeros((2, 256), np.float32),
        scores=np.zeros(1 + strategies + offsets, np.float32),
    )
