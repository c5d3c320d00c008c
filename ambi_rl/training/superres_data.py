"""Batches for super-resolution: crops of photographs, and what the encoder leaves of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ambi_rl.codec.color import planes_to_rgb
from ambi_rl.data import PatchSource
from ambi_rl.superres.base_layer import decode_base, encode_base, shrink

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Batch:
    """Crops and their base layers.

    Attributes:
        originals: uint8 [B, H, W, 3].
        base: Decoded base layers, uint8 [B, H/s, W/s, 3].
    """

    originals: Pixels
    base: Pixels


def to_tensor(pixels: Pixels, device: torch.device) -> torch.Tensor:
    """uint8 [B, H, W, 3] as float32 [B, 3, H, W] in 0…1."""
    return torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255


class CropSource:
    """Draws crops and codes them at random qualities, mirrored and turned at random.

    Args:
        source: Of crops; its qualities are those of the base layer.
        scale: s.
        base: Format of the base layer.
        batch_size: Crops in a batch.
        seed: Of all chance.

    Raises:
        ConfigError: As `PatchSource.sample` does.
    """

    def __init__(
        self, source: PatchSource, *, scale: int, base: str, batch_size: int, seed: int
    ) -> None:
        self._source = source
        self._scale, self._base, self._batch_size = scale, base, batch_size
        self._rng = np.random.default_rng(seed)

    def draw(self) -> Batch:
        """The next batch."""
        originals, bases = [], []
        for _ in range(self._batch_size):
            patch = self._source.sample(self._rng)
            original = self._turned(planes_to_rgb(patch.planes))
            small = shrink(original, self._scale)
            height, width = small.shape[:2]
            data = encode_base(small, self._base, patch.quality)
            originals.append(original)
            bases.append(decode_base(data, self._base, height, width))
        return Batch(np.stack(originals), np.stack(bases))

    def _turned(self, pixels: Pixels) -> Pixels:
        upside_down, mirrored, transposed = self._rng.random(3) < 0.5
        pixels = pixels[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if transposed else pixels)

    def state(self) -> dict[str, Any]:
        """The position, to go on from exactly."""
        return {"rng": self._rng.bit_generator.state, "source": self._source.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            UsageError: It is the state of other data.
        """
        self._rng.bit_generator.state = state["rng"]
        self._source.restore(state["source"])
