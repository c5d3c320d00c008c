"""The networks of the feature codec: from stacked frames to a latent to features, and back to a frame."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

LAYERS = ("features", "conv3", "conv2")
"""Where the latent is taken: after the last layer, or after an earlier one."""
FRAME_SIDE = 84
LEAST_DEVIATION = 0.05
"""Deviations below count as this, values 0…1: what never changed in the frames at hand may change yet."""
LATENT_SCALE = 8.0
"""Untrained latents have about this deviation: with less, rounding would leave nothing to learn from."""


def _zero_bias(layer: nn.Linear | nn.Conv2d) -> None:
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def _convolution(inputs: int, outputs: int, side: int, stride: int) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, side, stride)
    nn.init.orthogonal_(layer.weight, math.sqrt(2))
    _zero_bias(layer)
    return nn.Sequential(layer, nn.ReLU())


def _project(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    nn.init.orthogonal_(layer.weight, 1.0)
    _zero_bias(layer)
    return layer


class Standardize(nn.Module):
    """Each pixel less its mean, over its deviation; as it is until `fit` has seen frames.

    What is hardly ever somewhere, such as a ball, is a large input when it is there; without this, its four
    dim pixels are lost beside bricks and walls.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 1, FRAME_SIDE, FRAME_SIDE))
        self.register_buffer("gain", torch.ones(1, 1, FRAME_SIDE, FRAME_SIDE))

    @torch.no_grad()
    def fit(self, frames: Tensor) -> None:
        """Take mean and deviation of frames, float [N, 1, 84, 84], 0…1."""
        self.mean.copy_(frames.mean(0, keepdim=True))
        self.gain.copy_(1 / frames.std(0, correction=0, keepdim=True).clamp_min(LEAST_DEVIATION))

    def forward(self, stack: Tensor) -> Tensor:
        """[B, k, 84, 84] likewise: all frames of a stack alike."""
        return (stack - self.mean) * self.gain


class FeatureEncoder(nn.Module):
    """The feature extractor of an Atari agent (Mnih et al. 2015) with a latent in its midst.

    stack [k, 84, 84] ─ standardize ─ conv 8/4 ─ conv 4/2 ─┬─ conv 3/1 ─┬─ linear → features
                                            conv2: latent ─┘     conv3 ─┘       └─ features: latent

    Args:
        frames: k, frames of a stack.
        width: Channels of the first convolution; the others have twice as many.
        layer: Where the latent is, one of `LAYERS`.
        channels: C of the latent.
        features: Units that a policy sees.
    """

    def __init__(self, frames: int, width: int, layer: str, channels: int, features: int) -> None:
        super().__init__()
        before: list[nn.Module] = [
            Standardize(),
            _convolution(frames, width, 8, 4),
            _convolution(width, 2 * width, 4, 2),
        ]
        third = _convolution(channels if layer == "conv2" else 2 * width, 2 * width, 3, 1)
        after: list[nn.Module] = []
        if layer == "conv2":
            before.append(_project(nn.Conv2d(2 * width, channels, 1)))
            self.latent_shape: tuple[int, int, int] = (channels, 9, 9)
            after += [third, nn.Flatten(), nn.Linear(2 * width * 49, features)]
        elif layer == "conv3":
            before += [third, _project(nn.Conv2d(2 * width, channels, 1))]
            self.latent_shape = (channels, 7, 7)
            after += [nn.Flatten(), nn.Linear(channels * 49, features)]
        else:
            before += [
                third,
                nn.Flatten(),
                _project(nn.Linear(2 * width * 49, channels)),
                nn.Unflatten(1, (channels, 1, 1)),
            ]
            self.latent_shape = (channels, 1, 1)
            after += [nn.Flatten(), nn.Linear(channels, features)]
        self.before = nn.Sequential(*before)
        self.after = nn.Sequential(*after, nn.ReLU())

    @property
    def standardize(self) -> Standardize:
        """What pixels pass first."""
        return cast(Standardize, self.before[0])

    def latent(self, stack: Tensor) -> Tensor:
        """The latent, not rounded: [B, C, h, w] of stacks [B, k, 84, 84], 0…1."""
        latent: Tensor = self.before(stack.contiguous(memory_format=torch.channels_last))
        return LATENT_SCALE * latent

    def features(self, latent: Tensor) -> Tensor:
        """What a policy sees, [B, F], of a latent as `latent` gives it or as it is after rounding."""
        features: Tensor = self.after(latent / LATENT_SCALE)
        return features


def _shuffle(inputs: int, outputs: int, factor: int) -> nn.Module:
    """Sub-pixel convolution (Shi et al. 2016): `factor` times as many rows and columns."""
    layer = nn.Conv2d(inputs, outputs * factor * factor, 3, padding=1)
    _zero_bias(layer)
    return nn.Sequential(layer, nn.PixelShuffle(factor))


class FrameDecoder(nn.Module):
    """From a rounded latent to the newest frame: 7x7 by steps of 3, 2 and 2 to 84x84.

    What is the same in all frames is a bias of each pixel, so that the network has only the rest to draw.

    Args:
        latent_shape: C, h, w.
        width: Channels of the last layers.
    """

    def __init__(self, latent_shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, breadth = latent_shape
        start: list[nn.Module]
        if (height, breadth) == (1, 1):
            start = [
                nn.Flatten(),
                nn.Linear(channels, 4 * width * 49),
                nn.ReLU(),
                nn.Unflatten(1, (4 * width, 7, 7)),
            ]
        else:
            # Valid convolutions lead from 9x9 to the 7x7 that the rest begins with.
            side = height - 6
            start = [nn.Conv2d(channels, 4 * width, side, padding=0), nn.ReLU()]
        self.layers = nn.Sequential(
            *start,
            nn.Conv2d(4 * width, 4 * width, 3, padding=1),
            nn.ReLU(),
            _shuffle(4 * width, 2 * width, 3),
            nn.ReLU(),
            _shuffle(2 * width, width, 2),
            nn.ReLU(),
            _shuffle(width, 1, 2),
        )
        self.background = nn.Parameter(torch.zeros(1, 1, FRAME_SIDE, FRAME_SIDE))

    def forward(self, latent: Tensor) -> Tensor:
        """Frames [B, 1, 84, 84], about 0…1, of rounded latents [B, C, h, w]."""
        drawn: Tensor = self.layers(latent / LATENT_SCALE)
        return drawn + self.background
