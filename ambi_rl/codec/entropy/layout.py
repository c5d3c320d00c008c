"""Where each syntax element's counters and mixer weights lie in the two flat arrays of the entropy model."""

from __future__ import annotations

import numpy as np

from ambi_rl.codec.tables import NUM_STATES

MAX_STRATEGIES = 64
"""Strategies are coded as six binary decisions."""
MAX_OFFSETS = 8
"""Quantization offsets are coded as three."""

# Level coding: bins are "is it > k", in eight classes; sizes 4, 8, 16, 32; luma or chroma.
BINS = 8
SIZES = 4
ESCAPE = 14
"""Levels from here on are coded as Exp-Golomb remainders."""
MAX_GOLOMB_PREFIX = 20

_cursor = 0


def _counters(size: int) -> int:
    global _cursor
    start = _cursor
    _cursor += size
    return start


LEVEL_0 = _counters(2 * 2 * SIZES * BINS * 32)
LEVEL_1 = _counters(2 * 2 * BINS * SIZES * 16)
LEVEL_2 = _counters(2 * BINS * 256)
LEVEL_3 = _counters(3 * BINS * 8 * 8 * 4)
LEVEL_4 = _counters(2 * BINS * 6 * SIZES * 16)
LEVEL_5 = _counters(2 * BINS * 16 * 16)
LEVEL_6 = _counters(3 * BINS * 1024)
LEVEL_7 = _counters(2 * BINS * 8 * 8 * SIZES)
LEVEL_8 = _counters(2 * 2 * BINS * SIZES * 16 * 8)
LEVEL_9 = _counters(2 * BINS * 32 * 8)
LEVEL_10 = _counters(2 * BINS * 32 * 16)
SIGN_0 = _counters(2 * 3 * 3 * 4 * 16)
SIGN_1 = _counters(2 * 3 * 3 * SIZES * 6)
SIGN_2 = _counters(2 * 3 * 3 * 4 * 16)
CODED_0 = _counters(3 * SIZES * 16)
CODED_1 = _counters(3 * 4 * 64)
CODED_2 = _counters(3 * SIZES * 16)
LAST_0 = _counters(2 * SIZES * 16 * 16)
LAST_1 = _counters(3 * SIZES * 8 * 16)
LAST_2 = _counters(2 * SIZES * 6 * 16)
LAST_BITS_0 = _counters(2 * SIZES * 16 * 16)
LAST_BITS_1 = _counters(SIZES * 16 * 16 * 2)
GOLOMB = _counters(2 * (MAX_GOLOMB_PREFIX + 1))
SPLIT_0 = _counters(SIZES * 16)
SPLIT_1 = _counters(SIZES * 5 * 5)
SPLIT_2 = _counters(SIZES * 8 * 8)
SPLIT_3 = _counters(SIZES * 5 * 5 * 16)
STRATEGY_0 = _counters(SIZES * MAX_STRATEGIES)
STRATEGY_1 = _counters((MAX_STRATEGIES + 1) * MAX_STRATEGIES)
STRATEGY_2 = _counters((MAX_STRATEGIES + 1) * MAX_STRATEGIES)
STRATEGY_3 = _counters(9 * 9 * 9 * MAX_STRATEGIES)
STRATEGY_4 = _counters((MAX_STRATEGIES + 1) * MAX_STRATEGIES)
OFFSET_0 = _counters(SIZES * MAX_OFFSETS)
OFFSET_1 = _counters((MAX_OFFSETS + 1) * (MAX_OFFSETS + 1) * MAX_OFFSETS)
TRANSFORM_0 = _counters(SIZES * 6 * 4)
TRANSFORM_1 = _counters(SIZES * 5 * 5 * 4)
TRANSFORM_2 = _counters(SIZES * 16 * 4)
CHROMA_0 = _counters(SIZES * 4 * 16)
CHROMA_1 = _counters(5 * 5 * 4)
CHROMA_2 = _counters(9 * 4 * 4)

_counters_end = _cursor
_cursor = 0
MIX_LEVEL_0 = _counters(2 * 2 * BINS * SIZES)
MIX_LEVEL_1 = _counters(2 * BINS * 16)
MIX_SIGN = _counters(4)
MIX_CODED = _counters(3 * SIZES)
MIX_LAST = _counters(2 * SIZES * 2)
MIX_LAST_BITS = _counters(16)
MIX_GOLOMB = _counters(1)
MIX_SPLIT = _counters(SIZES)
MIX_STRATEGY_0 = _counters(SIZES * 2)
MIX_STRATEGY_1 = _counters(MAX_STRATEGIES)
MIX_OFFSET = _counters(1)
MIX_TRANSFORM = _counters(SIZES)
MIX_CHROMA = _counters(SIZES)
NUM_MIXERS = _cursor

REFINE_NODES = 33
REFINE = _counters_end
"""The final refinement: for each row of the first mixer, counters at REFINE_NODES mixed logits."""
NUM_COUNTERS = REFINE + REFINE_NODES * NUM_MIXERS

# The level network: rows of its first layer, one of which stands for each value of each input.
NET_BINS = BINS
NET_HIDDEN = 64
NET_SECOND = 32
NET_MAGNITUDES = 12
"""Classes of a neighbouring magnitude."""
NET_SUMS = 20
"""Classes of the sum of the like frequencies of a neighbouring block."""
NET_CELLS = 244
"""Classes of a frequency, over all sizes."""
NET_MODES = 38
"""35 predictors, and the chroma strategies other than luma's predictor."""
NET_NEAR_ROW = np.array([1, 2, 3, 0, 1, -1, 2, 3, -2, 0, 1, 2, -1, 3, 0, 1, 2, 3, 2, 1, 3])
NET_NEAR_COL = np.array([-1, -2, -3, 1, 0, 2, -1, -2, 3, 2, 1, 0, 3, -1, 3, 2, 1, 0, 2, 3, 1])
"""Where the levels that the network sees lie, relative to the one at hand; all are coded before it."""
NUM_NEAR = len(NET_NEAR_ROW)

_cursor = 1
NET_PADDING = 0
"""A row of zeros."""
NET_LEFT = _counters(SIZES * 16)
NET_ABOVE = _counters(SIZES * 16)
NET_MODE = _counters(SIZES * NET_MODES)
NET_PLANE = _counters(3 * 4 * SIZES)
NET_CELL = _counters(2 * NET_CELLS)
NET_STATE = _counters(NUM_STATES * SIZES)
NET_PAIR = _counters(2 * 64)
NET_LIKE_LEFT = _counters(SIZES * NET_SUMS)
NET_LIKE_ABOVE = _counters(SIZES * NET_SUMS)
NET_NEAR = _counters(NUM_NEAR * NET_MAGNITUDES)
NET_LUMA = _counters(9 * NET_MAGNITUDES)
NET_BLUE = _counters(9 * NET_MAGNITUDES)
NET_SAME = _counters(2 * 4 * NET_MAGNITUDES)
NET_ROWS = _cursor
NET_BLOCK_INPUTS = 4
NET_INPUTS = NET_BLOCK_INPUTS + 5 + NUM_NEAR + 19
"""Rows that are summed at most for one level."""
del _cursor

NET_TENSORS = {
    "net_rows": (2, NET_ROWS, NET_HIDDEN),
    "net_bias": (2, NET_HIDDEN),
    "net_w1": (2, NET_HIDDEN, NET_SECOND),
    "net_b1": (2, NET_SECOND),
    "net_w2": (2, NET_SECOND, NET_BINS),
    "net_b2": (2, NET_BINS),
}
"""Shapes of the network's tensors, of luma and of chroma."""
