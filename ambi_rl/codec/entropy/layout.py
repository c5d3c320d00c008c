"""Where each syntax element's counters and mixer weights lie in the two flat arrays of the entropy model."""

from __future__ import annotations

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
NUM_COUNTERS = _cursor

_cursor = 0
MIX_LEVEL_0 = _counters(2 * 2 * BINS * SIZES)
MIX_LEVEL_1 = _counters(2 * BINS * 16)
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
del _cursor
