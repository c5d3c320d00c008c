"""The binary arithmetic coder and the logistic mixing that gives it its probabilities.

One function, `code_bit`, serves every direction: it writes a bit, reads one, counts its cost while the
model learns, or only estimates its cost. The syntax above it is therefore written once.

Everything is integer. A counter is an int32: probability of a one in 20 bits, then the number of
observations in 10 bits. Logits ("stretched" probabilities) have 8 fractional bits, mixer weights 16.
After Mahoney, "Adaptive weighing of context models for lossless data compression" (2005).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.entropy import layout
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import (
    BITS,
    FAULT,
    HIGH,
    LENGTH,
    LOW,
    MAX_INPUTS,
    MODE,
    POSITION,
    VALUE,
    Constants,
    State,
    Work,
)

ENCODE, DECODE, COUNT, ESTIMATE, TRIAL = range(5)
"""What `code_bit` does. COUNT learns as the real coding will; ESTIMATE and TRIAL learn nothing, and with
TRIAL the bits of levels are the whole model's too, not the trellis's."""

REGISTER_BITS = 48
_ALL = (1 << REGISTER_BITS) - 1
_TOP = REGISTER_BITS - 8
_FILLING = 0x55
"""What a decoder reads past the end. Not zeros: they would leave it at an interval's edge, where bits cost
nothing, so that it would never run out of a truncated stream."""
_PAST_END = 0x555555555555
_OVERRUN = 8
"""Bytes past the end that a decoder may legitimately read: the width of its registers, and two."""

REFINE_SHIFT = 7
"""log2 of the distance of the refinement's counters, in 1/256 of a logit."""
_SPAN = 1 << REFINE_SHIFT
_CHANCE_MIN = 32

_LEARNING_RATE = 10
_LEARNING_SHIFT = 20
_WEIGHT_MAX = 1 << 22


class Model(NamedTuple):
    """What `code_bit` needs; the records are described in `ambi_rl.codec.kernel.state`.

    Attributes:
        state: Learned counters and mixer weights, and the coder's registers.
        work: The counters of the bit at hand and their logits.
        tables: Constant tables.
        stream: uint8 [N], written or read.
    """

    state: State
    work: Work
    tables: Constants
    stream: npt.NDArray[np.uint8]


@kernel
def start_encoding(registers: npt.NDArray[np.int64]) -> None:
    """Reset the registers for writing."""
    registers[:] = 0
    registers[HIGH] = _ALL
    registers[MODE] = ENCODE


@kernel
def start_decoding(registers: npt.NDArray[np.int64], stream: npt.NDArray[np.uint8]) -> None:
    """Reset the registers and load the first bytes of `stream`."""
    registers[:] = 0
    registers[HIGH] = _ALL
    registers[MODE] = DECODE
    registers[LENGTH] = stream.shape[0]
    value = 0
    for i in range(REGISTER_BITS // 8):
        byte = int(stream[i]) if i < stream.shape[0] else _FILLING
        value = (value << 8) | byte
    registers[VALUE] = value
    registers[POSITION] = REGISTER_BITS // 8


@kernel
def finish_encoding(registers: npt.NDArray[np.int64], stream: npt.NDArray[np.uint8]) -> int:
    """Write the fewest bytes that identify the final interval; return the stream's length in bytes."""
    low, high = int(registers[LOW]), int(registers[HIGH])
    position = int(registers[POSITION])
    kept = 0
    value = _PAST_END
    while (value < low or value > high) and kept < REGISTER_BITS:
        # The shortest prefix that lies in the interval when the decoder's filling follows it.
        kept += 8
        unit = 1 << (REGISTER_BITS - kept)
        value = low // unit * unit + _PAST_END % unit
        if value < low:
            value += unit
    if position + kept // 8 > stream.shape[0]:
        registers[FAULT] = 1
        return position
    for i in range(kept // 8):
        stream[position] = (value >> (_TOP - 8 * i)) & 255
        position += 1
    registers[POSITION] = position
    return position


@kernel
def _narrow(
    registers: npt.NDArray[np.int64], stream: npt.NDArray[np.uint8], bit: int, chance: int
) -> int:
    """Write or read one bit whose probability of being one is `chance`/65536; return it."""
    low, high = int(registers[LOW]), int(registers[HIGH])
    middle = low + ((high - low) >> 16) * chance
    decoding = registers[MODE] == DECODE
    if decoding:
        bit = 1 if registers[VALUE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> _TOP == 0:
        position = int(registers[POSITION])
        if decoding:
            byte = _FILLING
            if position < registers[LENGTH]:
                byte = int(stream[position])
            elif position > registers[LENGTH] + _OVERRUN:
                registers[FAULT] = 1
            registers[VALUE] = ((int(registers[VALUE]) << 8) & _ALL) | byte
        elif position < stream.shape[0]:
            stream[position] = high >> _TOP
        else:
            registers[FAULT] = 1
        registers[POSITION] = position + 1
        low = (low << 8) & _ALL
        high = ((high << 8) & _ALL) | 255
    registers[LOW] = low
    registers[HIGH] = high
    return bit


@kernel
def predict_bit(m: Model, count: int, given: int, set0: int, set1: int) -> int:
    """Probability, in 1/65536, that the next bit is one, from the `count` counters in `m.work.index`.

    `given` more logits, which the caller has put behind those of the counters, are mixed as well. Two mixers,
    each with the weights that its own context selects, are averaged as logits. The result is averaged with
    what has happened after such results: with counters at regular logits, between which is interpolated.
    """
    dot0 = 0
    dot1 = 0
    row0 = set0 * MAX_INPUTS
    row1 = set1 * MAX_INPUTS
    for i in range(count):
        logit = int(m.tables.stretch[int(m.state.probs[m.work.index[i]]) >> 18])
        m.work.logits[i] = logit
        dot0 += logit * int(m.state.weights[row0 + i])
        dot1 += logit * int(m.state.weights[row1 + i])
    total = count + given
    m.work.logits[total] = 256
    for i in range(count, total + 1):
        dot0 += int(m.work.logits[i]) * int(m.state.weights[row0 + i])
        dot1 += int(m.work.logits[i]) * int(m.state.weights[row1 + i])
    m.work.logits[MAX_INPUTS] = dot0
    m.work.logits[MAX_INPUTS + 1] = dot1
    final = ((dot0 + dot1) >> 17) + 2048
    final = min(max(final, 0), 4095)
    node = layout.REFINE + set0 * layout.REFINE_NODES + (final >> REFINE_SHIFT)
    part = final & (_SPAN - 1)
    # The nearer of the two counters learns, as the last one.
    m.work.index[count] = node + (1 if 2 * part >= _SPAN else 0)
    low = int(m.state.probs[node]) >> 14
    high = int(m.state.probs[node + 1]) >> 14
    refined = (low * (_SPAN - part) + high * part) >> REFINE_SHIFT
    chance = (int(m.tables.squash[final]) + refined) >> 1
    return min(max(chance, _CHANCE_MIN), 65536 - _CHANCE_MIN)


@kernel
def bit_cost(m: Model, chance: int, bit: int) -> int:
    """Cost in 1/65536 bit of a bit whose probability of being one is `chance`/65536."""
    return int(m.tables.cost[chance >> 4]) if bit else int(m.tables.cost[(65536 - chance) >> 4])


@kernel
def _learn(m: Model, bit: int, count: int, given: int, set0: int, set1: int) -> None:
    """Move the mixers' weights and the counters used for the last prediction towards `bit`."""
    p0 = int(m.tables.squash[min(max((int(m.work.logits[MAX_INPUTS]) >> 16) + 2048, 0), 4095)])
    p1 = int(m.tables.squash[min(max((int(m.work.logits[MAX_INPUTS + 1]) >> 16) + 2048, 0), 4095)])
    error0 = ((bit << 16) - p0) * _LEARNING_RATE
    error1 = ((bit << 16) - p1) * _LEARNING_RATE
    row0 = set0 * MAX_INPUTS
    row1 = set1 * MAX_INPUTS
    half = 1 << (_LEARNING_SHIFT - 1)
    for i in range(count + given + 1):
        logit = int(m.work.logits[i])
        w0 = int(m.state.weights[row0 + i]) + ((logit * error0 + half) >> _LEARNING_SHIFT)
        w1 = int(m.state.weights[row1 + i]) + ((logit * error1 + half) >> _LEARNING_SHIFT)
        m.state.weights[row0 + i] = min(max(w0, -_WEIGHT_MAX), _WEIGHT_MAX)
        m.state.weights[row1 + i] = min(max(w1, -_WEIGHT_MAX), _WEIGHT_MAX)
    limit = int(m.tables.limits[0])
    for i in range(count + 1):
        where = m.work.index[i]
        state = int(m.state.probs[where])
        seen = state & 1023
        chance = state >> 10
        chance += (((bit << 20) - chance) * int(m.tables.adaptation[seen])) >> 16
        chance = min(max(chance, 64), (1 << 20) - 64)
        m.state.probs[where] = (chance << 10) | min(seen + 1, limit)


@kernel
def code_bit(m: Model, bit: int, count: int, set0: int, set1: int) -> int:
    """Code one binary decision with the `count` counters in `m.work.index`; return the bit."""
    return code_advised(m, bit, count, 0, set0, set1)


@kernel
def code_advised(m: Model, bit: int, count: int, given: int, set0: int, set1: int) -> int:
    """Code one binary decision with counters and with predictions from elsewhere; return the bit.

    Args:
        m: The model and coder.
        bit: The bit to write or to cost; ignored when decoding.
        count: Number of counters in `m.work.index`, whose next entry is overwritten.
        given: Number of logits that the caller has put behind theirs in `m.work.logits`; with the counters at
            most MAX_INPUTS − 1 (a bias is the last input).
        set0: Row of mixer weights chosen by the first selecting context.
        set1: Row chosen by the second.
    """
    chance = predict_bit(m, count, given, set0, set1)
    mode = m.state.registers[MODE]
    if mode <= DECODE:
        bit = _narrow(m.state.registers, m.stream, bit, chance)
    m.state.registers[BITS] += bit_cost(m, chance, bit)
    if mode < ESTIMATE:
        _learn(m, bit, count, given, set0, set1)
    return bit


@kernel
def code_raw(m: Model, bit: int) -> int:
    """Code one bit of even odds (signs, and the low bits of rare large levels); return it."""
    if m.state.registers[MODE] <= DECODE:
        bit = _narrow(m.state.registers, m.stream, bit, 32768)
    m.state.registers[BITS] += 65536
    return bit
