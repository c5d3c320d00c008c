"""The networks of RL-SRGAN in torch: generator (encoder and decoder), actor and critic, discriminator.

The architecture is Savioli's (2019, section 2.1), with SRGAN's numbers (Ledig et al. 2017, arXiv:1609.04802)
where the paper leaves them open::

    base ─▶ Encoder ─▶ features ─▶ Decoder ─▶ (+) ─▶ image ─▶ Discriminator ─▶ logit
      │                   └──────▶ ScoreHead   ▲  └▶ estimated score, its spread, value
      └──────────────▶ bicubic ────────────────┘

A PReLU has one slope for all its maps: it exports as a LeakyReLU, which runtimes fuse with the convolution
before it, while one slope per map costs onnxruntime as much as a convolution of 32 maps.

Pictures are float32 RGB in 0…1. s is the scale, C the number of feature maps, B the batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SKIPS = ("bicubic", "none")
"""What is added to the decoder's output: the enlarged base layer, or nothing as in the paper."""

_OUTER_SIDE = 9
"""Side of the first and the last kernel, as in SRGAN."""
_INNER_SIDE = 3
"""Side of all other kernels."""
_BICUBIC_REACH = 2
"""Base pixels on each side of a pixel that bicubic interpolation reads."""


def _convolution(inputs: int, outputs: int, side: int = _INNER_SIDE, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2)


class ResidualBlock(nn.Module):
    """Convolution, PReLU, convolution, each with batch normalisation if wanted, plus the input.

    Args:
        channels: C.
        batch_norm: Whether to normalise.
    """

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.first_norm = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.activation = nn.PReLU()
        self.second = _convolution(channels, channels)
        self.second_norm = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, h, w] to the same shape."""
        residual = self.activation(self.first_norm(self.first(features)))
        result: Tensor = features + self.second_norm(self.second(residual))
        return result


class Encoder(nn.Module):
    """The paper's ResNet encoder: what the decoder draws the picture from, and the actor its estimate.

    Args:
        channels: C (64 in SRGAN).
        blocks: Residual blocks (5 in the paper).
        batch_norm: Whether the residual blocks and the last convolution are batch-normalised.
    """

    def __init__(self, channels: int, blocks: int, batch_norm: bool) -> None:
        super().__init__()
        self.head = _convolution(3, channels, _OUTER_SIDE)
        self.activation = nn.PReLU()
        self.blocks = nn.ModuleList(ResidualBlock(channels, batch_norm) for _ in range(blocks))
        self.tail = _convolution(channels, channels)
        self.tail_norm = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()

    @property
    def reach(self) -> int:
        """How many pixels of the base layer a feature sees on each side of its own."""
        return _OUTER_SIDE // 2 + (2 * len(self.blocks) + 1) * (_INNER_SIDE // 2)

    def forward(self, base: Tensor) -> Tensor:
        """Map the base layer, [B, 3, h, w] in 0…1, to features [B, C, h, w]."""
        start: Tensor = self.activation(self.head(base))
        features = start
        for block in self.blocks:
            features = block(features)
        result: Tensor = start + self.tail_norm(self.tail(features))
        return result


class SubPixelStage(nn.Module):
    """Doubles both sides: convolution to 4 C maps, PReLU, pixel shuffle.

    It begins without checkerboard (ICNR, Aitken et al. 2017, arXiv:1707.02937): the four kernels that make
    the four pixels of a square are equal, so the stage begins as a convolution and a nearest-neighbour
    enlargement.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = _convolution(channels, 4 * channels)
        self.activation = nn.PReLU()
        self.shuffle = nn.PixelShuffle(2)
        small = _convolution(channels, channels)
        assert self.convolution.bias is not None
        assert small.bias is not None
        with torch.no_grad():
            # The shuffle takes its four pixels from four maps in a row.
            self.convolution.weight.copy_(small.weight.repeat_interleave(4, 0))
            self.convolution.bias.copy_(small.bias.repeat_interleave(4, 0))

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, h, w] to [B, C, 2 h, 2 w]."""
        enlarged: Tensor = self.shuffle(self.activation(self.convolution(features)))
        return enlarged


class Decoder(nn.Module):
    """Sub-pixel stages that double both sides until the scale is reached, and a convolution to RGB.

    Args:
        scale: s, a power of two.
        channels: C.

    Raises:
        ValueError: The scale is not a power of two, at least 2.
    """

    def __init__(self, scale: int, channels: int) -> None:
        super().__init__()
        if scale < 2 or scale & (scale - 1):
            raise ValueError(f"the scale must be a power of two, at least 2, not {scale}")
        self.stages = nn.ModuleList(SubPixelStage(channels) for _ in range(scale.bit_length() - 1))
        self.tail = _convolution(channels, 3, _OUTER_SIDE)

    @property
    def reach(self) -> int:
        """How many features on each side of its own a pixel of the output sees."""
        pixels = _OUTER_SIDE // 2
        for _ in self.stages:
            # Of half as many pixels, the stage's own convolution sees some more.
            pixels = -(-pixels // 2) + _INNER_SIDE // 2
        return pixels

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, h, w] to a picture (or what to add to one) [B, 3, s h, s w]."""
        for stage in self.stages:
            features = stage(features)
        picture: Tensor = self.tail(features)
        return picture


def bicubic_kernels(scale: int) -> Tensor:
    """Kernels whose outputs, shuffled, are the picture enlarged by bicubic interpolation.

    Args:
        scale: s.

    Returns:
        float32 [s², 5, 5]; number s·y + x makes the pixel in row y and column x of each square of s×s.
    """
    # Where the s pixels lie, measured in base pixels from the middle of the one that they stand on.
    places = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = torch.arange(-_BICUBIC_REACH, _BICUBIC_REACH + 1, dtype=torch.float64)
    distance = (places[:, None] - taps).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    zero = torch.zeros_like(distance)
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, zero))
    kernels = weights[:, None, :, None] * weights[None, :, None, :]
    return kernels.reshape(scale * scale, len(taps), len(taps)).float()


class BicubicEnlargement(nn.Module):
    """Bicubic interpolation as Pillow has it (a = −½, Catmull-Rom), made of a convolution and a shuffle.

    Torch's own has a = −¾. What Pillow does at the border is done here too: taps outside of the picture are
    left out, and the others' weights divided by their sum.

    Args:
        scale: s.
    """

    kernels: Tensor
    reach = _BICUBIC_REACH

    def __init__(self, scale: int) -> None:
        super().__init__()
        # The same kernels for each of the three colours; not saved, they follow from the scale.
        kernels = bicubic_kernels(scale)[:, None].repeat(3, 1, 1, 1)
        self.register_buffer("kernels", kernels, persistent=False)
        self.shuffle = nn.PixelShuffle(scale)

    def forward(self, base: Tensor) -> Tensor:
        """Enlarge pictures, float32 [B, 3, h, w], to [B, 3, s h, s w]; values can leave 0…1 by a little."""
        # Half precision has fewer steps than the 256 code values of a pixel.
        with torch.autocast(base.device.type, enabled=False):
            sums = self._convolve(base.float())
            present = self._convolve(torch.ones_like(base[:1], dtype=torch.float32))
            enlarged: Tensor = self.shuffle(sums / present)
        return enlarged

    def _convolve(self, planes: Tensor) -> Tensor:
        return nn.functional.conv2d(planes, self.kernels, padding=self.reach, groups=3)


class Generator(nn.Module):
    """Encoder and decoder: from the base layer to the picture.

    With the skip `bicubic` it draws only what bicubic interpolation misses; its last convolution begins at
    zero, so that an untrained generator is exactly bicubic interpolation.

    Args:
        scale: s, a power of two.
        channels: C (64 in SRGAN).
        blocks: Residual blocks of the encoder (5 in the paper).
        batch_norm: Whether the encoder is batch-normalised (as in the paper).
        skip: One of `SKIPS`.

    Raises:
        ValueError: The scale or the skip is none of those.
    """

    def __init__(self, scale: int, channels: int, blocks: int, batch_norm: bool, skip: str) -> None:
        super().__init__()
        if skip not in SKIPS:
            raise ValueError(f"skip must be one of {', '.join(SKIPS)}, not {skip!r}")
        self.scale = scale
        self.encoder = Encoder(channels, blocks, batch_norm)
        self.decoder = Decoder(scale, channels)
        self.enlargement = BicubicEnlargement(scale) if skip == "bicubic" else None
        if self.enlargement is not None:
            assert self.decoder.tail.bias is not None
            nn.init.zeros_(self.decoder.tail.weight)
            nn.init.zeros_(self.decoder.tail.bias)

    @property
    def radius(self) -> int:
        """How many pixels of the base layer, on each side of its own, a pixel of the picture depends on."""
        return self.encoder.reach + self.decoder.reach

    def forward(self, base: Tensor) -> Tensor:
        """Enlarge base layers.

        Args:
            base: float32 [B, 3, h, w], RGB in 0…1.

        Returns:
            float32 [B, 3, s h, s w], also under autocast; not clipped.
        """
        return self.decode(base, self.encoder(base))

    def decode(self, base: Tensor, features: Tensor) -> Tensor:
        """Draw pictures from the features that the encoder has made of the base layers.

        Args:
            base: float32 [B, 3, h, w], RGB in 0…1.
            features: [B, C, h, w], of `encoder`; the score head takes the same.

        Returns:
            As `forward`.
        """
        picture: Tensor = self.decoder(features).float()
        if self.enlargement is not None:
            picture = picture + self.enlargement(base)
        return picture


class Estimate(NamedTuple):
    """What actor and critic say of each picture of a batch."""

    mean: Tensor
    """float32 [B]: the score that the actor predicts, the mean of its Gaussian."""
    log_std: Tensor
    """float32 [B]: logarithm of the Gaussian's standard deviation."""
    value: Tensor
    """float32 [B]: the return that the critic expects."""


class ScoreHead(nn.Module):
    """Actor and critic: averages of the shared encoder's features, and one fully connected layer.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 2)
        self.log_std = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Estimate:
        """Estimate scores from features [B, C, h, w]; computed in float32, also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            mean, value = self.linear(features.float().mean((2, 3))).unbind(1)
        return Estimate(mean, self.log_std.expand_as(mean), value)


class Discriminator(nn.Module):
    """A VGG-style network that tells pictures from photographs: strides, no pooling, LeakyReLU.

    Eight convolutions as in SRGAN; their averages over the picture, instead of the values at each place, go
    into the fully connected layers, so that pictures may have any size. In training mode a batch of one needs
    sides over 16: batch normalisation cannot learn from a single value.

    Args:
        channels: Feature maps of the first convolution (64 in SRGAN), an eighth of the last one's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        stages = []
        inputs = 3
        for number in range(8):
            outputs = channels * 2 ** (number // 2)
            layers: list[nn.Module] = [_convolution(inputs, outputs, stride=1 + number % 2)]
            if number:
                layers.append(nn.BatchNorm2d(outputs))
            stages.append(nn.Sequential(*layers, nn.LeakyReLU(0.2)))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.dense = nn.Sequential(
            nn.Linear(inputs, 2 * inputs), nn.LeakyReLU(0.2), nn.Linear(2 * inputs, 1)
        )

    def features(self, image: Tensor) -> list[Tensor]:
        """Feature maps after each of the eight activations.

        Args:
            image: float32 [B, 3, H, W], RGB in 0…1; sides of 16 or more.

        Returns:
            [B, c, h, w] each; sides are halved (rounded up) and c doubled from pair to pair.
        """
        maps = []
        # Centred, as inputs of networks should be.
        current = 2 * image - 1
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        """Judge pictures.

        Args:
            image: As for `features`.

        Returns:
            [B]: logits of the probability that the picture is a photograph.
        """
        logits: Tensor = self.dense(self.features(image)[-1].mean((2, 3)))[:, 0]
        return logits
