"""What codes a latent: integer frequencies of each channel's symbols, with an escape for any other value.

A channel's alphabet is `minimum` … `minimum + length − 1` and, after these, the escape. Frequencies are at
least 1 and sum to 2^`PRECISION`, so that nothing about a code depends on how a machine rounds.

A value outside the alphabet has the *excess* e ≥ 0: e = 2·(value − last − 1) above it, and
e = 2·(minimum − 1 − value) + 1 below. After the escape follow, at equal odds, the number of binary digits of
e + 1 (in `WIDTH_BITS` bits) and these digits but for the first, which is 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import BundleError

if TYPE_CHECKING:
    from ambi_rl.neural.priors import Prior

PRECISION = 24
"""Frequencies sum to 2**PRECISION: the fixed point of `constriction`."""
TOTAL = 1 << PRECISION
WIDTH_BITS = 6
MAX_CHANNELS = 1 << 12
MAX_LENGTH = 4096
"""Symbols of a channel beside the escape; what lies further out is rare enough to be escaped."""
_LEAST_MARGIN = 8
_INT32 = np.iinfo(np.int32)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LatentTables:
    """Frequencies of C channels; treat the arrays as immutable.

    Attributes:
        minimum: int32 [C], each alphabet's lowest value.
        lengths: int32 [C], values of each alphabet without the escape, 1…`MAX_LENGTH`.
        frequencies: int32 [Σ (lengths + 1)], channel after channel, the escape's last.

    Raises:
        BundleError: The arrays are not of these types and shapes, or the frequencies do not add up.
    """

    minimum: npt.NDArray[np.int32] = field(repr=False)
    lengths: npt.NDArray[np.int32] = field(repr=False)
    frequencies: npt.NDArray[np.int32] = field(repr=False)

    def __post_init__(self) -> None:
        arrays = {
            "minimum": self.minimum,
            "lengths": self.lengths,
            "frequencies": self.frequencies,
        }
        for name, array in arrays.items():
            if array.dtype != np.int32 or array.ndim != 1:
                raise _invalid(f"{name} is {array.dtype} {list(array.shape)}, not int32 [n]")
        if not 1 <= len(self.lengths) == len(self.minimum) <= MAX_CHANNELS:
            raise _invalid(f"there are {len(self.lengths)} lengths and {len(self.minimum)} minima")
        if self.lengths.min() < 1 or self.lengths.max() > MAX_LENGTH:
            raise _invalid(f"a length is not from 1 to {MAX_LENGTH}")
        if (self.minimum.astype(np.int64) + self.lengths - 1).max() > _INT32.max:
            raise _invalid("an alphabet goes beyond 32 bits")
        if len(self.frequencies) != self.starts[-1]:
            raise _invalid(f"there are {len(self.frequencies)} frequencies, not {self.starts[-1]}")
        if self.frequencies.min() < 1:
            raise _invalid("a frequency is below 1")
        if (np.add.reduceat(self.frequencies, self.starts[:-1], dtype=np.int64) != TOTAL).any():
            raise _invalid(f"the frequencies of a channel do not sum to {TOTAL}")

    @property
    def channels(self) -> int:
        """C."""
        return len(self.minimum)

    @cached_property
    def starts(self) -> Integers:
        """int64 [C + 1], where each channel's frequencies begin, and where the last ones end."""
        return np.concatenate([[0], np.cumsum(self.lengths.astype(np.int64) + 1)])

    def channel(self, index: int) -> npt.NDArray[np.int32]:
        """Frequencies of one channel, the escape's last."""
        return self.frequencies[self.starts[index] : self.starts[index + 1]]

    def symbols(self, latents: npt.NDArray[np.int32]) -> tuple[Integers, Integers]:
        """What latents are coded as.

        Args:
            latents: int32 [C, M], each channel's values.

        Returns:
            Symbols, int64 [C, M], 0…length, which is the escape; and the excess of those that are escaped,
            int64 [C, M], 0 elsewhere.
        """
        length = self.lengths.astype(np.int64)[:, None]
        symbols = latents.astype(np.int64) - self.minimum[:, None]
        above, below = symbols >= length, symbols < 0
        excess = np.where(above, 2 * (symbols - length), np.where(below, -2 * symbols - 1, 0))
        return np.where(above | below, length, symbols), excess

    def values(self, symbols: Integers, excess: Integers) -> Integers:
        """The opposite of `symbols`, not limited to 32 bits."""
        length = self.lengths.astype(np.int64)[:, None]
        escaped = np.where(excess % 2 == 0, length + excess // 2, -(excess + 1) // 2)
        low = self.minimum.astype(np.int64)[:, None]
        return low + np.where(symbols == length, escaped, symbols)

    def bits(self, latents: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """The ideal cost of each frame: −log₂ of the frequencies, escapes with what follows them.

        Args:
            latents: int32 [N, C, h, w].

        Returns:
            float64 [N], in bits.
        """
        frames = len(latents)
        flat = latents.transpose(1, 0, 2, 3).reshape(self.channels, -1)
        symbols, excess = self.symbols(flat)
        cost = PRECISION - np.log2(self.frequencies.astype(np.float64))
        bits = cost[symbols + self.starts[:-1, None]]
        escaped = symbols == self.lengths[:, None]
        bits += escaped * (WIDTH_BITS + widths(excess) - 1)
        return np.asarray(bits.reshape(self.channels, frames, -1).sum(axis=(0, 2)))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by their names in a bundle."""
        return {
            "minimum": self.minimum,
            "lengths": self.lengths,
            "frequencies": self.frequencies,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> LatentTables:
        """The opposite of `tensors`.

        Raises:
            BundleError: Some are missing or unknown, or see the class.
        """
        names = {"minimum", "lengths", "frequencies"}
        if set(tensors) != names:
            raise _invalid(f"missing or unknown: {', '.join(sorted(set(tensors) ^ names))}")
        return cls(**tensors)


def _invalid(what: str) -> BundleError:
    return BundleError(f"bundle tensors prior/... are not tables: {what}; export the bundle again")


def widths(excess: Integers) -> Integers:
    """Binary digits of e + 1, exact up to e < 2^52."""
    return np.frexp((excess + 1).astype(np.float64))[1].astype(np.int64)


def quantize_frequencies(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Integer frequencies as near to probabilities as a sum of `TOTAL` and none below 1 allow.

    Args:
        probabilities: float64 [n], not negative; they need not sum to 1.

    Returns:
        int32 [n]. What rounding down leaves over goes to the largest remainders, of equal ones to the first.
    """
    free = TOTAL - len(probabilities)
    total = probabilities.sum()
    if not (np.isfinite(total) and total > 0):
        raise ValueError("probabilities have to be finite and positive in sum")
    shares = probabilities / total * free
    whole = np.floor(shares).astype(np.int64)
    left = free - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:left]] += 1
    return (whole + 1).astype(np.int32)


def _range(values: npt.NDArray[np.int32]) -> tuple[int, int]:
    """The alphabet that latents of a channel suggest: a margin around them, but not around strays."""
    low, high = int(values.min()), int(values.max())
    margin = max(_LEAST_MARGIN, (high - low) // 4)
    if high - low + 1 + 2 * margin > MAX_LENGTH:
        middle = int(np.median(values))
        low = max(low, middle - MAX_LENGTH // 2 + _LEAST_MARGIN)
        high = min(high, middle + MAX_LENGTH // 2 - _LEAST_MARGIN - 1)
        margin = min(_LEAST_MARGIN, (MAX_LENGTH - (high - low + 1)) // 2)
    return max(low - margin, _INT32.min), min(high + margin, _INT32.max)


def tables_from_prior(prior: Prior, latents: npt.NDArray[np.int32]) -> LatentTables:
    """Tables that code latents as a prior expects them.

    Args:
        prior: Fitted, C channels.
        latents: int32 [N, C, h, w], rounded latents of training, N ≥ 1: they say how far the alphabets
            reach. What a prior expects beyond is the escape's share.
    """
    # Deferred: tables are numpy's, and are read where there is nothing to train.
    import torch

    ranges = [_range(latents[:, channel]) for channel in range(prior.channels)]
    longest = max(high - low + 1 for low, high in ranges)
    edges = np.array([low for low, _ in ranges])[:, None] + np.arange(longest)
    device = next((t.device for t in (*prior.parameters(), *prior.buffers())), None)
    with torch.no_grad():
        grid = torch.as_tensor(edges, dtype=torch.float32, device=device)
        inside = prior.probability(grid.T).T.double().cpu().numpy()
        below = prior.cumulative(grid[:, :1] - 0.5)[0].double().cpu().numpy()[:, 0]
        ends = torch.as_tensor([[high + 0.5] for _, high in ranges], device=device)
        above = prior.cumulative(ends.float())[1].double().cpu().numpy()[:, 0]
    frequencies = [
        quantize_frequencies(np.append(inside[c, : high - low + 1], below[c] + above[c]))
        for c, (low, high) in enumerate(ranges)
    ]
    return LatentTables(
        np.array([low for low, _ in ranges], np.int32),
        np.array([high - low + 1 for low, high in ranges], np.int32),
        np.concatenate(frequencies),
    )
