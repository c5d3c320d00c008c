"""Lossless coding of the alpha plane: PNG's simplest row filters and DEFLATE.

The payload's first byte is its kind: `_CONSTANT`, followed by the one value of the plane, or `_ROWS`,
followed by a zlib stream of [H, 1 + W] bytes: each row's filter, then the filtered row.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import CorruptFileError

_CONSTANT, _ROWS = 0, 1
_NONE, _SUB, _UP = 0, 1, 2


def encode_alpha(alpha: npt.NDArray[np.uint8]) -> bytes:
    """Code an alpha plane, uint8 [H, W]."""
    first = alpha[0, 0]
    if np.all(alpha == first):
        return bytes([_CONSTANT, int(first)])
    filtered = np.stack([alpha, alpha, alpha])
    filtered[_SUB, :, 1:] -= alpha[:, :-1]
    filtered[_UP, 1:] -= alpha[:-1]
    # PNG's heuristic: the row whose bytes, read as signed, are smallest compresses best.
    magnitude = np.minimum(filtered, -filtered).sum(axis=2, dtype=np.int64)
    best = magnitude.argmin(axis=0)
    rows = np.empty((alpha.shape[0], 1 + alpha.shape[1]), np.uint8)
    rows[:, 0] = best
    rows[:, 1:] = filtered[best, np.arange(alpha.shape[0])]
    return bytes([_ROWS]) + zlib.compress(rows.data, 9)


def decode_alpha(payload: bytes, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Decode what `encode_alpha` returned, never inflating more than the plane needs.

    Returns:
        uint8 [height, width].

    Raises:
        CorruptFileError: the payload is not an alpha plane of this size.
    """
    if len(payload) == 2 and payload[0] == _CONSTANT:
        return np.full((height, width), payload[1], np.uint8)
    if not payload or payload[0] != _ROWS:
        raise _corrupt()
    size = height * (1 + width)
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(payload[1:], size)
        # A stream's end may follow its last byte; asking for one more reaches it, or shows a surplus.
        surplus = b"" if inflater.eof else inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as error:
        raise _corrupt() from error
    if len(data) != size or surplus or not inflater.eof or inflater.unused_data:
        raise _corrupt()
    rows = np.frombuffer(data, np.uint8).reshape(height, 1 + width)
    alpha = np.empty((height, width), np.uint8)
    above = np.zeros(width, np.uint8)
    for y, row in enumerate(rows):
        if row[0] == _NONE:
            alpha[y] = row[1:]
        elif row[0] == _SUB:
            np.cumsum(row[1:], dtype=np.uint8, out=alpha[y])
        elif row[0] == _UP:
            np.add(row[1:], above, out=alpha[y])
        else:
            raise _corrupt()
        above = alpha[y]
    return alpha


def _corrupt() -> CorruptFileError:
    return CorruptFileError("the alpha section cannot be decoded; fetch or encode the file again")
