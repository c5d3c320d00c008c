"""Latents to bytes and back: range coding with `constriction` under tables of integers.

`constriction` turns the probabilities p of n symbols into fixed point of `PRECISION` bits: each symbol's
interval begins at floor(scale·(p₀ + … )) + index with scale = (2^24 − n) / Σ p. Where p are a table's
frequencies less one, as floats of 64 bits, Σ p = 2^24 − n, scale is 1, all sums are whole numbers below 2^53,
and what is coded is the table itself, the same on every machine. `docs/feature-format.md` says what comes of
it without reference to the library.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
import numpy.typing as npt

from ambi_rl.errors import CorruptFileError
from ambi_rl.neural.tables import WIDTH_BITS, LatentTables, widths

MAX_VALUE_BYTES = 8
"""No value takes more: 24 bits for the escape, 6 for the width, 32 digits."""
_STATE_BITS, _WORD_BITS = 64, 32
_WORD_BYTES = _WORD_BITS // 8
_DIGITS_AT_ONCE = 16
_MAX_WIDTH = 33
"""Digits of e + 1 for the largest excess of 32-bit values."""
_INT32 = np.iinfo(np.int32)

_MODELS = constriction.stream.model
_QUEUE = constriction.stream.queue

Integers = npt.NDArray[np.int64]


class LatentCoder:
    """Codes blocks of latents, each by itself.

    Args:
        tables: Of the latents' channels.
    """

    def __init__(self, tables: LatentTables) -> None:
        self._tables = tables
        self._models = [
            _MODELS.Categorical((tables.channel(c) - 1).astype(np.float64), perfect=False)
            for c in range(tables.channels)
        ]
        self._width_model = _MODELS.Uniform(1 << WIDTH_BITS)
        self._digit_models = _MODELS.Uniform()

    def encode(self, latents: npt.NDArray[np.int32]) -> bytes:
        """Code latents as few bytes as can be, for a reader who knows their shape.

        Args:
            latents: int32 [N, C, h, w].
        """
        flat = latents.transpose(1, 0, 2, 3).reshape(self._tables.channels, -1)
        symbols, excess = self._tables.symbols(flat)
        escaped = symbols == self._tables.lengths[:, None]
        has_escapes = escaped.any(axis=1)
        encoder = _QUEUE.RangeEncoder()
        for channel, row in enumerate(symbols.astype(np.int32)):
            encoder.encode(row, self._models[channel])
            if has_escapes[channel]:
                self._encode_excess(encoder, excess[channel][escaped[channel]])
        return _shortest(encoder)

    def _encode_excess(self, encoder: Any, excess: Integers) -> None:
        width = widths(excess)
        encoder.encode(width.astype(np.int32), self._width_model)
        for shift, size, which in _digit_groups(width):
            digits = ((excess + 1) >> shift)[which] & (size - 1)
            encoder.encode(digits.astype(np.int32), self._digit_models, size.astype(np.int32))

    def decode(self, payload: bytes, shape: tuple[int, int, int, int]) -> npt.NDArray[np.int32]:
        """The opposite of `encode`.

        Args:
            payload: What it returned.
            shape: N, C, h, w of the latents.

        Raises:
            CorruptFileError: The bytes are not the code of latents of this shape.
        """
        frames, channels, height, width = shape
        # As if zeros followed without end; the decoder looks two words ahead.
        padded = payload + bytes(-len(payload) % _WORD_BYTES + 2 * _WORD_BYTES)
        decoder = _QUEUE.RangeDecoder(np.frombuffer(padded, ">u4").astype(np.uint32))
        symbols = np.empty((channels, frames * height * width), np.int64)
        excess = np.zeros_like(symbols)
        try:
            for channel, model in enumerate(self._models):
                symbols[channel] = decoder.decode(model, symbols.shape[1])
                escaped = symbols[channel] == self._tables.lengths[channel]
                if escaped.any():
                    excess[channel, escaped] = self._decode_excess(decoder, int(escaped.sum()))
        except AssertionError as error:
            # What the library raises for bytes that no encoder writes.
            raise CorruptFileError("the coded latents end in no symbol") from error
        values = self._tables.values(symbols, excess)
        if values.min() < _INT32.min or values.max() > _INT32.max:
            raise CorruptFileError("a coded latent has more than 32 bits")
        by_channel = values.astype(np.int32).reshape(channels, frames, height, width)
        return np.ascontiguousarray(by_channel.transpose(1, 0, 2, 3))

    def _decode_excess(self, decoder: Any, count: int) -> Integers:
        width = decoder.decode(self._width_model, count).astype(np.int64)
        if width.min() < 1 or width.max() > _MAX_WIDTH:
            raise CorruptFileError("a coded latent has more than 32 bits")
        total = np.int64(1) << (width - 1)
        for shift, size, which in _digit_groups(width):
            digits = decoder.decode(self._digit_models, size.astype(np.int32))
            total[which] += digits.astype(np.int64) << shift
        return total - 1


def _digit_groups(width: Integers) -> list[tuple[int, Integers, Integers]]:
    """How the digits after the first are coded: by groups from the lowest.

    Args:
        width: int64 [M], digits of each number.

    Returns:
        For each group its lowest digit, and of the numbers that have such digits 2 to the power of how many,
        and their indices.
    """
    groups = []
    for shift in range(0, _MAX_WIDTH - 1, _DIGITS_AT_ONCE):
        digits = np.clip(width - 1 - shift, 0, _DIGITS_AT_ONCE)
        which = np.flatnonzero(digits)
        if len(which):
            groups.append((shift, np.int64(1) << digits[which], which))
    return groups


def _shortest(encoder: Any) -> bytes:
    """The shortest bytes that, with zeros after them, lie in the interval that was coded.

    The library itself would end on a whole word of 32 bits, or two: much of a short packet.
    """
    if encoder.is_empty():
        return b""
    words = encoder.get_compressed()
    count, (low, size) = encoder.pos()
    # The library ends on the interval's beginning plus this; words before the state have its carry.
    ahead = (1 << (_STATE_BITS - _WORD_BITS)) - 1
    head = int.from_bytes(words[:count].astype(">u4").tobytes(), "big")
    begin = (head << _STATE_BITS | (low + ahead) % (1 << _STATE_BITS)) - ahead
    length = _WORD_BYTES * count + _STATE_BITS // 8
    # `size` is at least 2^32, so that four bytes can always go.
    for dropped in range(_STATE_BITS // 8, _WORD_BYTES - 1, -1):
        value = -(-begin >> (8 * dropped))
        if value << (8 * dropped) < begin + size:
            break
    return value.to_bytes(length - dropped, "big").rstrip(b"\0")
