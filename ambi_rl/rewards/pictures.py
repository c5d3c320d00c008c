"""Terms of finished pictures: the interface, and the structural ones."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from ambi_rl.metrics import ms_ssim, ms_ssim_gradient
from ambi_rl.metrics.fidelity import MS_SSIM_WEIGHTS
from ambi_rl.rewards.calibration import MS_SSIM_SCALE, SSIM_SCALE
from ambi_rl.rewards.importance import fold, mirror
from ambi_rl.rewards.terms import Pixels, interpolate, ms_ssim_scales

Slope = npt.NDArray[np.float64]


class PictureTerm(ABC):
    """A cost that is known when a picture is complete."""

    @abstractmethod
    def loss(self, original: Pixels, decoded: Pixels) -> float:
        """The cost before scaling: 0 for equal pictures, more the worse the decoded one is.

        Args:
            original: uint8 [H, W, 3].
            decoded: Likewise.
        """

    @abstractmethod
    def scale(self, step: int, height: int, width: int) -> float:
        """k(step): what the loss of a picture of this size is multiplied by."""

    def slope(self, original: Pixels, decoded: Pixels, step: int) -> Slope | None:
        """Derivative of the term by the decoded samples, float64 [H, W, 3]; None if it is not known.

        Args:
            original: uint8 [H, W, 3].
            decoded: Likewise.
            step: Quantizer step in 1/64 of an 8-bit code value.
        """
        return None

    def cost(self, original: Pixels, decoded: Pixels, step: int) -> float:
        """The term's value in bits per pixel.

        Args:
            original: uint8 [H, W, 3].
            decoded: Likewise.
            step: Quantizer step in 1/64 of an 8-bit code value.
        """
        return self.loss(original, decoded) * self.scale(step, *original.shape[:2])

    def check_size(self, side: int) -> None:
        """Refuse patches that the term cannot be computed for.

        Raises:
            ConfigError: Patches of `side` pixels are too small.
        """
        del side


class MsSsimTerm(PictureTerm):
    """1 − MS-SSIM of both pictures, continued by reflection.

    A patch is part of a picture, but windows that fit into it hardly see its border; continued, all of it
    counts alike. Pictures that are then under 176 pixels a side use the scales that fit (64 pixels: four),
    with the published exponents scaled to sum to 1; the calibration has a row for each number of scales,
    so the term keeps its meaning.

    Args:
        scales: How many at most.
    """

    def __init__(self, scales: int = len(MS_SSIM_WEIGHTS)) -> None:
        self._most = scales

    def _scales(self, height: int, width: int) -> int:
        """Scales for a picture that has been continued."""
        return min(ms_ssim_scales(height, width), self._most)

    def loss(self, original: Pixels, decoded: Pixels) -> float:
        """1 − MS-SSIM."""
        place = mirror(*original.shape[:2])
        scales = self._scales(*(indices.size for indices in place))
        return 1.0 - ms_ssim(original[place], decoded[place], scales=scales)

    def slope(self, original: Pixels, decoded: Pixels, step: int) -> Slope:
        """Its derivative."""
        place = mirror(*original.shape[:2])
        scales = self._scales(*(indices.size for indices in place))
        wide = ms_ssim_gradient(original[place], decoded[place], scales)
        return -fold(wide, place) * self.scale(step, *original.shape[:2])

    def scale(self, step: int, height: int, width: int) -> float:
        """As calibrated for the scales in use."""
        scales = self._scales(*(indices.size for indices in mirror(height, width)))
        return interpolate(step, MS_SSIM_SCALE[scales - 1])

    def check_size(self, side: int) -> None:
        """The window must fit."""
        ms_ssim_scales(side, side)


class SsimTerm(MsSsimTerm):
    """1 − SSIM, which is MS-SSIM with one scale."""

    def __init__(self) -> None:
        super().__init__(1)

    def scale(self, step: int, height: int, width: int) -> float:
        """As calibrated."""
        return interpolate(step, SSIM_SCALE)
