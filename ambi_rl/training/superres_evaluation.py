"""How well a generator enlarges held-out photographs' base layers, beside interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from ambi_rl.data import Photograph
from ambi_rl.errors import UsageError
from ambi_rl.metrics import ms_ssim, ssim
from ambi_rl.metrics.fidelity import WINDOW
from ambi_rl.superres.base_layer import Pixels, decode_base, encode_base, shrink
from ambi_rl.superres.resample import FILTERS, enlarge
from ambi_rl.superres.scores import PsnrScore, Score

Upscale = Callable[[Pixels], Pixels]
"""From a base layer, uint8 [h, w, 3], to uint8 [s h, s w, 3]."""

TILE = 128
"""Side in base-layer pixels of what goes through a network at once."""


@dataclass(frozen=True)
class Fidelity:
    """Means over pictures.

    Attributes:
        bytes: Of the base layer.
        bpp: Its bits per pixel of the picture.
        psnr: In dB.
        ssim: At most 1.
        ms_ssim: At most 1; where a picture is below 176 pixels a side, with the scales that fit.
        score: What is rewarded.
    """

    bytes: float
    bpp: float
    psnr: float
    ssim: float
    ms_ssim: float
    score: float


@dataclass(frozen=True)
class Measured:
    """What an enlargement is worth; all of it is JSON.

    Attributes:
        qualities: By the quality of the base layer, as text.
        mean: Over the qualities.
        objective: Minus the mean score: lower is better.
    """

    qualities: dict[str, Fidelity]
    mean: Fidelity
    objective: float


@dataclass(frozen=True)
class _Case:
    """A picture at a quality: the original, uint8 [H, W, 3], the base layer as decoded, and its bytes."""

    original: Pixels
    base: Pixels
    size: int


class SuperresEvaluation:
    """Held-out pictures with their base layers at several qualities.

    Args:
        pictures: Photographs that nothing is trained with.
        scale: By how much their sides are shrunk.
        base: Format of the base layer.
        qualities: Of it.
        score: What is rewarded.
        max_side: Of larger pictures the middle is taken, at most so many pixels a side.

    Raises:
        UsageError: There is no picture or no quality, or a picture is below 11 pixels a side.
    """

    def __init__(
        self,
        pictures: Sequence[Photograph],
        *,
        scale: int,
        base: str,
        qualities: Sequence[float],
        score: Score,
        max_side: int,
    ) -> None:
        if not pictures or not qualities:
            raise UsageError("an evaluation needs at least one picture and one quality")
        for picture in pictures:
            height, width = picture.rgb.shape[:2]
            if min(height, width, max_side) < WINDOW:
                raise UsageError(
                    f"{picture.name} has {width}x{height} pixels, of which {max_side} a side are evaluated; "
                    f"SSIM needs at least {WINDOW}"
                )
        self._scale, self._score = scale, score
        originals = [_middle(picture.rgb, max_side) for picture in pictures]
        shrunk = [shrink(original, scale) for original in originals]
        self._cases: dict[str, list[_Case]] = {}
        for quality in sorted(set(qualities)):
            files = [encode_base(small, base, quality) for small in shrunk]
            self._cases[f"{quality:g}"] = [
                _Case(original, decode_base(data, base, *small.shape[:2]), len(data))
                for original, small, data in zip(originals, shrunk, files, strict=True)
            ]
        self._baselines: dict[str, Any] | None = None

    def baselines(self) -> dict[str, Any]:
        """What `measure` says of each interpolation, by its name; computed once."""
        if self._baselines is None:
            self._baselines = {
                name: self.measure(partial(enlarge, scale=self._scale, method=name))
                for name in FILTERS
            }
        return self._baselines

    def measure(self, upscale: Upscale) -> dict[str, Any]:
        """Enlarge every base layer and compare with the originals.

        Args:
            upscale: The enlargement.

        Returns:
            A `Measured` as JSON has it.

        Raises:
            UsageError: What it returns has another shape or type.
            ConfigError: A score that is a function of the user's fails.
        """
        found = {
            quality: _mean([self._fidelity(case, upscale) for case in cases])
            for quality, cases in self._cases.items()
        }
        mean = _mean(list(found.values()))
        return asdict(Measured(found, mean, -mean.score))

    def picture(self, upscale: Upscale) -> Pixels:
        """The first picture at the middle quality: original, Lanczos and `upscale`, side by side.

        Returns:
            uint8 [H, 3 W, 3].
        """
        cases = list(self._cases.values())
        case = cases[len(cases) // 2][0]
        height, width = case.original.shape[:2]
        enlarged = (enlarge(case.base, scale=self._scale, method="lanczos"), upscale(case.base))
        return np.hstack([case.original, *(image[:height, :width] for image in enlarged)])

    def _fidelity(self, case: _Case, upscale: Upscale) -> Fidelity:
        height, width = case.original.shape[:2]
        rows, columns = case.base.shape[:2]
        enlarged = upscale(case.base)
        wanted = (rows * self._scale, columns * self._scale, 3)
        if enlarged.shape != wanted or enlarged.dtype != np.uint8:
            raise UsageError(
                f"an enlargement must be uint8 {wanted}, not {enlarged.dtype} {enlarged.shape}"
            )
        # What the base layer has beyond the picture's sides is not shown.
        image = np.ascontiguousarray(enlarged[:height, :width])
        return Fidelity(
            bytes=case.size,
            bpp=8 * case.size / (height * width),
            # Limited where a picture comes back exactly: one of them must not be all that a mean says.
            psnr=PsnrScore().mean(case.original, image),
            ssim=ssim(case.original, image),
            ms_ssim=ms_ssim(case.original, image),
            score=self._score.mean(case.original, image),
        )


def network_upscale(network: nn.Module, *, scale: int, radius: int, tile: int = TILE) -> Upscale:
    """A generator as an enlargement of whole pictures, in tiles, so that memory does not grow with them.

    It runs in evaluation mode, on the device that it lies on, and is in the mode of before after each call.

    Args:
        network: From float32 [1, 3, h, w], RGB in 0…1, to [1, 3, s h, s w].
        scale: s.
        radius: How far, in base-layer pixels, a pixel of the result depends on the base layer. Tiles overlap
            by so much, and come out as the whole picture would.
        tile: Side of the tiles in base-layer pixels.
    """

    def upscale(base: Pixels) -> Pixels:
        height, width = base.shape[:2]
        result = np.empty((height * scale, width * scale, 3), np.uint8)
        with _evaluating(network), torch.inference_mode():
            device = next(network.parameters()).device
            for top in range(0, height, tile):
                for left in range(0, width, tile):
                    bottom, right = min(top + tile, height), min(left + tile, width)
                    y, x = max(top - radius, 0), max(left - radius, 0)
                    # A copy, for pictures of Pillow's cannot be written to, which PyTorch warns of.
                    piece = np.array(base[y : bottom + radius, x : right + radius])
                    inputs = torch.from_numpy(piece).to(device).permute(2, 0, 1)[None].float() / 255
                    output = network(inputs)[0, :, (top - y) * scale :, (left - x) * scale :]
                    output = output[:, : (bottom - top) * scale, : (right - left) * scale]
                    pixels = output.float().mul(255).round().clamp(0, 255).byte()
                    place = np.s_[top * scale : bottom * scale, left * scale : right * scale]
                    result[place] = pixels.permute(1, 2, 0).cpu().numpy()
        return result

    return upscale


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then the mode that each module had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _middle(rgb: Pixels, side: int) -> Pixels:
    height, width = min(side, rgb.shape[0]), min(side, rgb.shape[1])
    top, left = (rgb.shape[0] - height) // 2, (rgb.shape[1] - width) // 2
    return np.ascontiguousarray(rgb[top : top + height, left : left + width])


def _mean(values: Sequence[Fidelity]) -> Fidelity:
    rows = [list(asdict(value).values()) for value in values]
    return Fidelity(*map(float, np.mean(rows, axis=0)))
