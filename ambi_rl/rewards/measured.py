"""Terms whose scale nobody knows beforehand: it is measured against `fixed` when an environment is made."""

from __future__ import annotations

import math

import numpy as np

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import planes_to_rgb
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.strategists import by_name
from ambi_rl.data import PatchSource
from ambi_rl.errors import ConfigError
from ambi_rl.rewards.calibration import STEPS
from ambi_rl.rewards.pictures import PictureTerm
from ambi_rl.rewards.terms import interpolate

PATCHES = 8
"""Patches that a scale is measured on, at each step."""
_SEED = 20


class MeasuredTerm(PictureTerm):
    """A term that is scaled to the size of the `sse` term, or by a constant.

    Args:
        key: Its place in the configuration, for messages.
        constant: What the loss is multiplied by at every step; None to measure.

    Attributes:
        table: k for each of `STEPS`; None until `calibrate` was called.

    Raises:
        ConfigError: The constant is not a positive number.
    """

    def __init__(self, key: str, constant: float | None) -> None:
        if constant is not None and not (math.isfinite(constant) and constant > 0):
            raise ConfigError(
                f"{key}.scale is {constant}; give a number over 0, or null to measure it"
            )
        self.key = key
        self.table = None if constant is None else (float(constant),) * len(STEPS)

    def scale(self, step: int, height: int, width: int) -> float:
        """As measured, or the constant."""
        if self.table is None:
            raise RuntimeError(f"{self.key} has no scale yet; call calibrate")
        return interpolate(step, self.table)

    def calibrate(self, source: PatchSource, bundle: Bundle) -> None:
        """Measure k(step) on a few patches that `fixed` codes; nothing if it is known.

        Args:
            source: Of the patches. Equal sources give equal scales.
            bundle: The codec.

        Raises:
            ConfigError: The loss does not rise with the errors, so it is no cost.
        """
        if self.table is not None:
            return
        rng = np.random.default_rng(_SEED)
        patches = [source.sample(rng) for _ in range(PATCHES)]
        pixels = source.patch_size**2
        originals = [planes_to_rgb(patch.planes) for patch in patches]
        table = []
        for step in STEPS:
            lagrangian = float(bundle.manifest["lambda_scale"]) * (step / STEP_SCALE) ** 2
            error, loss = 0.0, 0.0
            for patch, original in zip(patches, originals, strict=True):
                frame = encode_frame(patch.planes, int(step), bundle, by_name("fixed"))
                error += frame.error / lagrangian / pixels
                loss += self.loss(original, planes_to_rgb(frame.planes))
            table.append(error / loss if loss > 0 else math.inf)
        if not math.isfinite(table[-1]):
            raise ConfigError(
                f"{self.key} is not over 0 for pictures with strong errors; it must return a cost, which "
                "is 0 for equal pictures and rises with what is lost"
            )
        # Fine steps may leave nothing that the loss can see: it then counts as at the next step it sees.
        for k in range(len(table) - 2, -1, -1):
            table[k] = table[k + 1] if not math.isfinite(table[k]) else table[k]
        self.table = tuple(table)
