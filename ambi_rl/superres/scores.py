"""Scores of pictures that need no gradient: what an actor is rewarded by, for each tile of a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.metrics.fidelity import PEAK, WINDOW, ssim_map
from ambi_rl.superres.base_layer import Pixels, decode_base, encode_base
from ambi_rl.user_function import UserFunction

Values = npt.NDArray[np.float64]

SCORES = ("psnr", "ssim", "recompressed_psnr", "function")
"""Names of the scores."""
LEAST_ERROR = 0.01
"""Squared error in squared code values that PSNR takes smaller ones for, so that it ends at 68.1 dB."""


class Score(ABC):
    """How good pictures are beside their originals: higher is better.

    Attributes:
        name: One of `SCORES`.
    """

    name: str

    def tiles(self, original: Pixels, image: Pixels, tile: int) -> Values:
        """Score each tile of each picture.

        Args:
            original: uint8 [B, H, W, 3].
            image: Likewise.
            tile: Side t of the squares, in pixels, from the upper left corner on; those at the right and at
                the bottom are smaller where the sides are no multiples. 0 for whole pictures.

        Returns:
            float64 [B, ceil(H / t), ceil(W / t)]; [B, 1, 1] of whole pictures.

        Raises:
            UsageError: Shapes, types or `tile` differ from that, or pictures are too small for the score.
            ConfigError: A function of the user's fails.
        """
        if original.shape != image.shape or original.ndim != 4 or original.shape[3] != 3:
            raise UsageError(
                f"pictures to score must both have shape [B, H, W, 3], not {original.shape} and {image.shape}"
            )
        if original.dtype != np.uint8 or image.dtype != np.uint8:
            raise UsageError(
                f"pictures to score must be uint8, not {original.dtype} and {image.dtype}"
            )
        if original.size == 0 or tile < 0:
            raise UsageError(
                f"there is nothing to score in tiles of {tile} in pictures {original.shape}"
            )
        return self._tiles(original, image, tile or max(original.shape[1:3]))

    def mean(self, original: Pixels, image: Pixels) -> float:
        """Score a whole picture.

        Args:
            original: uint8 [H, W, 3].
            image: Likewise.

        Raises:
            UsageError: As `tiles` does.
            ConfigError: Likewise.
        """
        return float(self.tiles(original[None], image[None], 0)[0, 0, 0])

    def gains(self, better: Values, worse: Values) -> Values:
        """By how much each tile raises its picture's score, if one picture takes the place of another.

        Args:
            better: What `tiles` says of a picture, [B, h, w].
            worse: Likewise of another.

        Returns:
            float64 [B, h, w], whose mean is about the difference of the whole pictures' scores.
        """
        return better - worse

    @abstractmethod
    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> Values:
        """As `tiles`, of checked arguments, and at least 1 as the side."""


class PsnrScore(Score):
    """PSNR in dB, of the squared error over a tile's 8-bit samples."""

    name = "psnr"

    def gains(self, better: Values, worse: Values) -> Values:
        """See `Score`: squared errors add up, decibels of tiles do not, where flat ones would count most."""
        errors = [10 ** (-values / 10) for values in (better, worse)]
        whole = (errors[0] + errors[1]).mean((1, 2), keepdims=True) / 2
        # The derivative of 10 log10 of the picture's error.
        return np.asarray(10 / np.log(10) * (errors[1] - errors[0]) / whole)

    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> Values:
        difference = original.astype(np.int32)
        difference -= image
        # The weights of colours are equal: the sum over them comes first, and is exact.
        error = np.einsum("bhwc,bhwc->bhw", difference, difference)
        mean = _tile_means(error, tile) / 3
        return np.asarray(10 * np.log10(PEAK * PEAK / np.maximum(mean, LEAST_ERROR)))


class SsimScore(Score):
    """SSIM, averaged over the positions in a tile and over colours.

    A window lies around each pixel; at the border, where it does not fit, the nearest one that does counts.
    Whole pictures have the value of `ambi_rl.metrics.ssim`, in which each window counts once.
    """

    name = "ssim"

    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> Values:
        # One by one, which fits into the processor's cache.
        found = np.stack(
            [ssim_map(a, b).mean(axis=0) for a, b in zip(original, image, strict=True)]
        )
        if tile < max(original.shape[1:3]):
            reach = WINDOW // 2
            found = np.pad(found, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
        return _tile_means(found, tile)


class RecompressedPsnrScore(PsnrScore):
    """PSNR of what is left of the picture after it was coded as a JPEG (4:2:0) once more.

    Args:
        quality: Of the JPEG, 1…100.

    Raises:
        ConfigError: The quality is not in that range.
    """

    name = "recompressed_psnr"

    def __init__(self, quality: int, key: str = "score") -> None:
        if not 1 <= quality <= 100:
            raise ConfigError(f"{key}.quality is {quality}; give a JPEG quality, 1…100")
        self.quality = quality

    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> Values:
        height, width = image.shape[1:3]
        again = [
            decode_base(encode_base(picture, "jpeg", self.quality), "jpeg", height, width)
            for picture in image
        ]
        return super()._tiles(original, np.stack(again), tile)


class FunctionScore(Score):
    """What a function of the user's returns for each tile: higher is better.

    Args:
        target: Dotted path of a function of (original, image), uint8 [h, w, 3], to a number.
        arguments: Further keyword arguments for it.
        key: Place in the configuration, for messages.

    Raises:
        ConfigError: There is no such function.
    """

    name = "function"

    def __init__(self, target: str, arguments: Mapping[str, Any], key: str = "score") -> None:
        self._function = UserFunction(target, arguments, f"{key}.function")

    def _tiles(self, original: Pixels, image: Pixels, tile: int) -> Values:
        count, height, width = original.shape[:3]
        rows, columns = range(0, height, tile), range(0, width, tile)
        values = np.empty((count, len(rows), len(columns)))
        for index in np.ndindex(values.shape):
            number, top, left = index[0], rows[index[1]], columns[index[2]]
            place = np.s_[number, top : top + tile, left : left + tile]
            values[index] = self._function(original[place], image[place])
        return values


def make_score(
    name: str,
    *,
    quality: int = 75,
    function: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    key: str = "score",
) -> Score:
    """The score that a configuration names.

    Args:
        name: One of `SCORES`.
        quality: Of the JPEG of `recompressed_psnr`, 1…100.
        function: Dotted path of the function of `function`.
        arguments: Its further keyword arguments.
        key: Place in the configuration, for messages: `key`.score, `key`.quality, `key`.function.

    Raises:
        ConfigError: There is no such score or function, or it cannot have this quality.
    """
    if name == "psnr":
        return PsnrScore()
    if name == "ssim":
        return SsimScore()
    if name == "recompressed_psnr":
        return RecompressedPsnrScore(quality, key)
    if name == "function":
        if not function:
            raise ConfigError(
                f"{key}.function names no function; give its path, package.module.function"
            )
        return FunctionScore(function, arguments or {}, key)
    raise ConfigError(f"{key}.score is {name!r}; choose among {', '.join(SCORES)}")


def _tile_means(values: npt.NDArray[Any], tile: int) -> Values:
    """Means over the tiles of [B, H, W]."""
    rows = np.arange(0, values.shape[1], tile)
    columns = np.arange(0, values.shape[2], tile)
    # Rows first: they are long and few.
    sums = np.add.reduceat(values, rows, axis=1, dtype=np.float64)
    sums = np.add.reduceat(sums, columns, axis=2)
    heights = np.diff(np.append(rows, values.shape[1]))
    widths = np.diff(np.append(columns, values.shape[2]))
    return np.asarray(sums / (heights[:, None] * widths))
