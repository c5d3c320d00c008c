"""The memory the kernel works on: what belongs to a picture, what is scratch, what is constant.

Fixed-size arrays live in NumPy records, which compiled code passes as one pointer: with dozens of arrays
as arguments, most of the compile time went into packing and unpacking them.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ambi_rl.codec import tables
from ambi_rl.codec.entropy import layout

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
I16 = npt.NDArray[np.int16]
I8 = npt.NDArray[np.int8]
U8 = npt.NDArray[np.uint8]

# Fields of State.control (int64).
HEIGHT, WIDTH, PLANES, STEP, CURSOR, STACKED, NODE_Y, NODE_X, NODE_LOG2 = range(9)
NUM_CONTROL = 9

# Fields of State.registers (int64): the arithmetic coder.
LOW, HIGH, VALUE, POSITION, LENGTH, MODE, BITS, FAULT = range(8)
NUM_REGISTERS = 8

# Channels of Picture.maps (uint8), one entry for each 4x4 unit; decisions are stored plus one.
STRATEGY, SIZE, OFFSET, CHROMA, TRANSFORM, ENERGY = range(6)
NUM_MAPS = 8
"""TRANSFORM is 0 where luma has no levels. ENERGY and the next two hold the three planes' level energy."""

# Fields of Constants.counts (int64).
NUM_STRATEGIES, NUM_OFFSETS, NEUTRAL = range(3)

MAX_INPUTS = 14
"""Inputs of a mixer, the bias included."""

MAX_FEATURES = 128
MAX_HIDDEN = 256
MAX_OUTPUTS = 1 + layout.MAX_STRATEGIES + layout.MAX_OFFSETS

REFERENCE = 4 * tables.SUPERBLOCK + 8
"""Length of a line of reference samples: twice the block's side and room for the filters."""

DISTORTION_WEIGHTS = np.array([1.0, 3.26 / 3, 2.475 / 3])
"""Squared error of Y, Cb, Cr in units of mean RGB squared error (columns of the YCbCr→RGB matrix)."""

_SIDE = tables.SUPERBLOCK
PATH_ROW = _SIDE + 4
"""Entries that a path of the trellis keeps of each of the last three diagonals."""
_UNITS = tables.SUPERBLOCK // 4

STATE = np.dtype(
    [
        ("control", np.int64, (NUM_CONTROL,)),
        ("registers", np.int64, (NUM_REGISTERS,)),
        ("stack", np.int32, (64, 3)),
        ("probs", np.int32, (layout.NUM_COUNTERS,)),
        ("weights", np.int32, (layout.NUM_MIXERS * MAX_INPUTS,)),
    ],
    align=True,
)

WORK = np.dtype(
    [
        ("index", np.int64, (MAX_INPUTS,)),
        ("logits", np.int64, (MAX_INPUTS + 2,)),
        ("net_inputs", np.int32, (layout.NET_INPUTS,)),
        ("net_near", np.int64, (6,)),
        ("net_base", np.int32, (layout.NET_HIDDEN,)),
        ("net_first", np.int32, (layout.NET_HIDDEN,)),
        ("net_second", np.int32, (layout.NET_SECOND,)),
        ("net_logits", np.int32, (layout.NET_BINS,)),
        ("costs", np.float64, (2 * layout.MAX_STRATEGIES,)),
        ("trellis", np.int32, (_SIDE * _SIDE, tables.NUM_STATES)),
        ("path_costs", np.float64, (2, tables.NUM_STATES)),
        ("paths", np.int8, (2, tables.NUM_STATES, 3 * PATH_ROW)),
        ("satd", np.float64, (layout.MAX_STRATEGIES,)),
        ("order", np.int64, (layout.MAX_STRATEGIES,)),
        ("refined", np.float64, (layout.MAX_STRATEGIES,)),
        ("transforms", np.int64, (layout.MAX_STRATEGIES,)),
        ("estimate", np.float64, (3,)),
        ("reference", np.int32, (3, 2, REFERENCE)),
        ("line", np.int32, (REFERENCE + _SIDE,)),
        ("prediction", np.int32, (_SIDE, _SIDE)),
        ("residual", np.int32, (_SIDE, _SIDE)),
        ("half", np.int32, (_SIDE, _SIDE)),
        ("coefficients", np.int32, (_SIDE, _SIDE)),
        ("levels", np.int32, (3, _SIDE + 4, _SIDE + 4)),
        ("magnitudes", np.uint8, (3, _SIDE + 4, _SIDE + 4)),
        ("observation", np.float32, (MAX_FEATURES,)),
        ("normalised", np.float32, (MAX_FEATURES,)),
        ("hidden", np.float32, (2, MAX_HIDDEN + MAX_FEATURES)),
        ("scores", np.float32, (MAX_OUTPUTS,)),
        ("saved", np.int16, (tables.NUM_SIZES, 3, _SIDE, _SIDE)),
        ("saved_maps", np.uint8, (tables.NUM_SIZES, NUM_MAPS, _UNITS, _UNITS)),
        ("planned", np.uint8, (NUM_MAPS, _UNITS, _UNITS)),
        ("emphasis", np.int8, (_UNITS, _UNITS)),
        ("known", np.uint8, (_UNITS, _UNITS)),
    ],
    align=True,
)

CONSTANTS = np.dtype(
    [
        ("counts", np.int64, (3,)),
        ("multipliers", np.int64, (layout.MAX_OFFSETS,)),
        ("lambda_scale", np.float64, (1,)),
        ("stretch", np.int32, (4096,)),
        ("squash", np.int32, (4096,)),
        ("cost", np.int32, (4096,)),
        ("adaptation", np.int32, (tables.COUNT_LIMIT + 1,)),
        ("limits", np.int32, (2,)),
        ("transforms", np.int32, (tables.NUM_BASES, _SIDE, _SIDE)),
        ("transposed", np.int32, (tables.NUM_BASES, _SIDE, _SIDE)),
        ("scans", np.int32, (tables.NUM_SIZES, _SIDE * _SIDE)),
        ("order", np.float32, (tables.NUM_SIZES, _SIDE, _SIDE)),
        ("strategies", np.int64, (layout.MAX_STRATEGIES,)),
        ("strategy_of", np.int64, (len(tables.PREDICTOR_NAMES),)),
        ("chroma_scale", np.int32, (2,)),
        ("net_rows", np.int16, (2, layout.NET_ROWS, layout.NET_HIDDEN)),
        ("net_bias", np.int32, (2, layout.NET_HIDDEN)),
        ("net_w1", np.int16, (2, layout.NET_HIDDEN, layout.NET_SECOND)),
        ("net_b1", np.int32, (2, layout.NET_SECOND)),
        ("net_w2", np.int16, (2, layout.NET_SECOND, layout.NET_BINS)),
        ("net_b2", np.int32, (2, layout.NET_BINS)),
    ],
    align=True,
)


class State(Protocol):
    """Record of dtype STATE: a picture's progress and its entropy state.

    Attributes:
        control: int64 [NUM_CONTROL], where coding stands.
        registers: int64 [NUM_REGISTERS], the arithmetic coder.
        stack: int32 [64, 3], nodes (y, x, log2 size) still to code in this superblock.
        probs: int32 [C], the entropy model's counters: probability of a one in 20 bits, count in 10.
        weights: int32 [S·MAX_INPUTS], its mixers' weights, 16 fractional bits.
    """

    control: I64
    registers: I64
    stack: I32
    probs: I32
    weights: I32


class Work(Protocol):
    """Record of dtype WORK: the working memory of one thread.

    Nothing in it outlives a node's coding, but for the plan of a superblock.

    Attributes:
        planned: uint8 [NUM_MAPS, 8, 8], decisions of the superblock at hand, as in `Picture.maps`.
        emphasis: int8 [8, 8], by 4x4 unit: how many half octaves below the block's λ that of its levels is.
        known: uint8 [8, 8], not 0 where a unit is coded; see `strategists.refine`.
    """

    index: I64
    logits: I64
    net_inputs: I32
    net_near: I64
    net_base: I32
    net_first: I32
    net_second: I32
    net_logits: I32
    costs: F64
    trellis: I32
    path_costs: F64
    paths: I8
    satd: F64
    order: I64
    refined: F64
    transforms: I64
    estimate: F64
    reference: I32
    line: I32
    prediction: I32
    residual: I32
    half: I32
    coefficients: I32
    levels: I32
    magnitudes: U8
    observation: F32
    normalised: F32
    hidden: F32
    scores: F32
    saved: I16
    saved_maps: U8
    planned: U8
    emphasis: I8
    known: U8


class Constants(Protocol):
    """Record of dtype CONSTANTS: format tables and the bundle's lists.

    Attributes:
        counts: int64 [3], number of strategies, number of offsets, index of the offset 0.
        multipliers: int64 [O], quantizer step multipliers of the offsets, in 1/65536.
        lambda_scale: float64 [1], λ = lambda_scale·Δ².
        stretch: int32 [4096], see `tables`; likewise squash, cost, adaptation, transforms, scans.
        limits: int32 [2], the counters' observation limit first.
        order: float32 [NUM_SIZES, 32, 32], log2(2 + scan position) of each coefficient; estimates only.
        strategies: int64 [S], predictor code of each strategy.
        strategy_of: int64, the strategy of each predictor code; −1 if none has it.
        chroma_scale: int32 [2], steps of Cb and Cr relative to luma, in 1/64.
        net_rows: int16 [2, R, H], the level network of luma and of chroma, see `entropy.network`; likewise
            net_bias int32 [2, H], net_w1 int16 [2, H, K], net_b1 int32 [2, K], net_w2 int16 [2, K, B] and
            net_b2 int32 [2, B].
    """

    counts: I64
    multipliers: I64
    lambda_scale: F64
    stretch: I32
    squash: I32
    cost: I32
    adaptation: I32
    limits: I32
    transforms: I32
    transposed: I32
    scans: I32
    order: F32
    strategies: I64
    strategy_of: I64
    chroma_scale: I32
    net_rows: I16
    net_bias: I32
    net_w1: I16
    net_b1: I32
    net_w2: I16
    net_b2: I32


class Picture(NamedTuple):
    """One picture being coded; in a batch every array has one more leading dimension.

    Attributes:
        source: int16 [P, H, W], 10 bits; H and W are multiples of 4. Not read when decoding.
        decoded: int16 [P, H, W].
        maps: uint8 [NUM_MAPS, H/4, W/4]; decisions are stored plus one, 0 means none.
        stream: uint8 [N], bytes written or read.
        state: Progress and entropy state.
        outlook: float32 [3, NUM_SIZES, H/4, W/4], see `strategists.lookahead`; [3, NUM_SIZES, 0, 0] if no
            policy looks at the picture.
        magnitudes: uint8 [P, H, W], magnitudes of the coefficients as coded, in units of the spacing
            (2·level, less one with quantizer 1) and at most 255; each block's at its place, zero where no
            levels are coded.
        importance: float32 [H/4, W/4], weight of each unit's squared error in the encoder's decisions; [0, 0]
            if all count alike. Not read when decoding.
    """

    source: I16
    decoded: I16
    maps: U8
    stream: U8
    state: State
    outlook: F32
    magnitudes: U8
    importance: F32


def records(dtype: np.dtype[np.void], count: int) -> np.recarray[tuple[int], np.dtype[np.void]]:
    """`count` zeroed records of a dtype."""
    return np.zeros(count, dtype).view(np.recarray)


def allocate_picture(
    planes: int,
    height: int,
    width: int,
    stream: int,
    *,
    batch: int | None = None,
    outlook: bool = False,
) -> Picture:
    """Zeroed memory for pictures of `height`×`width` (multiples of 4) and streams of `stream` bytes.

    Args:
        planes: 1 or 3.
        height: In pixels.
        width: In pixels.
        stream: In bytes.
        batch: How many pictures; None for one without the leading dimension.
        outlook: Whether a policy will look at them.
    """
    lead = () if batch is None else (batch,)
    shape = (*lead, planes, height, width)
    state = records(STATE, batch or 1)
    units = (height // 4, width // 4) if outlook else (0, 0)
    return Picture(
        source=np.zeros(shape, np.int16),
        decoded=np.zeros(shape, np.int16),
        maps=np.zeros((*lead, NUM_MAPS, height // 4, width // 4), np.uint8),
        stream=np.zeros((*lead, stream), np.uint8),
        state=state[0] if batch is None else state,
        outlook=np.zeros((*lead, 3, tables.NUM_SIZES, *units), np.float32),
        magnitudes=np.zeros(shape, np.uint8),
        importance=np.zeros((*lead, 0, 0), np.float32),
    )
