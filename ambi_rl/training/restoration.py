"""Training of the filter after decoding, on pairs of photographs and what the codec makes of them."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ambi_rl.codec.bundle import Tensors
from ambi_rl.codec.files import write_file
from ambi_rl.codec.kernel.state import DISTORTION_WEIGHTS
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.restoration import CODE_VALUE, MIDDLE, STEP_RANGE
from ambi_rl.data.pairs import Pair
from ambi_rl.errors import AmbiError

OUTPUT_UNIT = 0.1
"""What the network's last layer counts in, in quantizer steps: errors are a few tenths of a step."""
_FLOOR = 1e-3
"""Added to the squared errors in steps² whose ratio is the loss: flat crops are not all that counts."""
_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class RestorationSettings:
    """The network and how it is trained.

    Attributes:
        factor: Side of a cell in pixels, 2 or 4.
        channels: C.
        blocks: Residual blocks of two convolutions.
        batch: Crops in a step.
        crop: Side of a crop in pixels, a multiple of the factor.
        learning_rate: Adam's highest, from which it falls along a cosine.
        average: Weight of the past in the moving average of the weights, which is what is exported.
        seed: What chance begins with.
    """

    factor: int = 2
    channels: int = 48
    blocks: int = 2
    batch: int = 8
    crop: int = 128
    learning_rate: float = 2e-3
    average: float = 0.998
    seed: int = 1


class _Convolution(nn.Module):
    """A 3×3 convolution whose outputs are scaled and shifted by what is known of the step.

    Args:
        inputs: Channels.
        outputs: Channels.
        scale: Of the initial weights, beside He's.
    """

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        deviation = scale * math.sqrt(2 / (9 * inputs))
        self.weight = nn.Parameter(deviation * torch.randn(outputs, inputs, 3, 3))
        self.gain = nn.Parameter(torch.zeros(outputs, 2))
        self.bias = nn.Parameter(torch.zeros(outputs, 3))

    def kernel(self) -> torch.Tensor:
        """The weights [O, I, 3, 3] that are convolved with."""
        return self.weight

    def forward(self, x: torch.Tensor, powers: torch.Tensor, padding: int = 1) -> torch.Tensor:
        """Convolve x [B, I, H, W]; powers [B, 3] as `codec.restoration.basis` gives them."""
        # Products by hand, for autocast would round those of matrices.
        gain = torch.exp((powers[:, None, 1:] * self.gain).sum(2))[:, :, None, None]
        bias = (powers[:, None] * self.bias).sum(2)[:, :, None, None]
        return F.conv2d(x, self.kernel(), padding=padding) * gain + bias


class _Head(_Convolution):
    """A convolution that sees only differences: its weights sum to zero for each plane.

    A picture's brightness in steps is a hundred times what there is to restore, and drowns it otherwise.
    """

    def kernel(self) -> torch.Tensor:
        """The weights [O, I, 3, 3] that are convolved with."""
        by_plane = self.weight.unflatten(1, (3, -1))
        return (by_plane - by_plane.mean((2, 3, 4), keepdim=True)).flatten(1, 2)


class RestorationNetwork(nn.Module):
    """The network that `ambi_rl.codec.restoration` runs.

    Args:
        factor: Side of a cell in pixels.
        channels: C.
        blocks: Residual blocks.
    """

    def __init__(self, factor: int, channels: int, blocks: int) -> None:
        super().__init__()
        self.factor = factor
        samples = 3 * factor * factor
        layers: list[_Convolution] = [_Head(samples, channels)]
        for _ in range(blocks):
            # The second of each starts small, so that a deep network begins as a shallow one…
            layers += [_Convolution(channels, channels), _Convolution(channels, channels, 0.3)]
        # … and the last one at zero: before training nothing is changed.
        layers.append(_Convolution(channels, samples, 0.0))
        self.layers = nn.ModuleList(layers)

    def convolutions(self) -> list[_Convolution]:
        """All convolutions, from the head to the tail."""
        return [layer for layer in self.layers if isinstance(layer, _Convolution)]

    def forward(self, decoded: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """What to add to decoded planes, in quantizer steps.

        Args:
            decoded: float32 [B, 3, H, W], 0…1023, sides multiples of the factor.
            steps: float32 [B], in 8-bit code values.

        Returns:
            float32 [B, 3, H, W].
        """
        octaves = (torch.log2(steps.clamp(*STEP_RANGE)) - 4) / 2
        powers = torch.stack([torch.ones_like(octaves), octaves, octaves * octaves], 1)
        scaled = (decoded - MIDDLE) / (CODE_VALUE * steps)[:, None, None, None]
        padded = F.pad(scaled, (self.factor,) * 4, mode="replicate")
        head, *body, tail = self.convolutions()
        # Channels last is what convolutions of a CPU are quickest with. Half precision (autocast) would
        # lose small differences of large samples, so the head does without.
        cells = F.pixel_unshuffle(padded, self.factor).contiguous(memory_format=torch.channels_last)
        with torch.autocast(cells.device.type, enabled=False):
            hidden = head(cells, powers, 0)
        for first, second in zip(body[::2], body[1::2], strict=True):
            hidden = hidden + second(F.relu(first(hidden, powers)), powers)
        out = tail(F.relu(hidden), powers).float()
        return OUTPUT_UNIT * F.pixel_shuffle(out, self.factor)


def export_network(network: RestorationNetwork) -> Tensors:
    """A bundle's restoration tensors, in half precision."""
    tensors: Tensors = {}
    last = len(network.convolutions()) - 1
    with torch.no_grad():
        for k, layer in enumerate(network.convolutions()):
            unit = OUTPUT_UNIT if k == last else 1.0
            for name, tensor in (
                (f"w{k}", unit * layer.kernel()),
                (f"gain{k}", layer.gain),
                (f"bias{k}", unit * layer.bias),
            ):
                tensors[name] = tensor.cpu().numpy().astype(np.float16)
    return tensors


def _crops(
    pairs: Sequence[Pair], settings: RestorationSettings, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch, turned and mirrored at random: sources and decodings float32 [B, 3, S, S], steps [B]."""
    pixels, steps = [], []
    for k in rng.integers(len(pairs), size=settings.batch):
        pair = pairs[k]
        margin = pair.source.shape[1] - settings.crop
        # Multiples of 4, so that blocks lie to the network's cells as they do in pictures.
        y, x = 4 * rng.integers(margin // 4 + 1, size=2)
        window = np.s_[:, y : y + settings.crop, x : x + settings.crop]
        both = np.stack([pair.source[window], pair.decoded[window]])
        vertical, horizontal, transposed = rng.random(3) < 0.5
        both = both[..., :: -1 if vertical else 1, :: -1 if horizontal else 1]
        pixels.append(both.swapaxes(-1, -2) if transposed else both)
        steps.append(pair.step / STEP_SCALE)
    stacked = torch.from_numpy(np.stack(pixels, 1).astype(np.float32))
    return stacked[0], stacked[1], torch.tensor(steps, dtype=torch.float32)


def relative_loss(
    network: RestorationNetwork,
    sources: torch.Tensor,
    decoded: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    """Squared error after restoration by that before it, mean over crops: every quality counts alike."""
    weights = torch.as_tensor(DISTORTION_WEIGHTS, dtype=torch.float32, device=decoded.device)
    error = (sources - decoded) / (CODE_VALUE * steps)[:, None, None, None]
    left = error - network(decoded, steps)
    before, after = (((e * e).mean((2, 3)) * weights).sum(1) for e in (error, left))
    return ((after + _FLOOR) / (before + _FLOOR)).mean()


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class RestorationTraining:
    """A training that can be interrupted and goes on from its checkpoint.

    Args:
        pairs: What to train with.
        settings: The network and how it is trained.
        checkpoint: File of the checkpoint; one that exists is continued.

    Raises:
        AmbiError: The checkpoint is damaged or of other settings.
    """

    def __init__(
        self, pairs: Sequence[Pair], settings: RestorationSettings, checkpoint: Path
    ) -> None:
        self.settings = settings
        self._pairs = pairs
        self._path = checkpoint
        self._device = _device()
        torch.manual_seed(settings.seed)
        self.network = RestorationNetwork(settings.factor, settings.channels, settings.blocks)
        self.network.to(self._device)
        self._optimizer = torch.optim.Adam(self.network.parameters(), betas=(0.9, 0.99))
        self._average = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.seconds = 0.0
        self.steps = 0
        self.loss = math.nan
        if checkpoint.exists():
            self._load()

    def _load(self) -> None:
        try:
            content = torch.load(self._path, weights_only=True, map_location=self._device)
            same = content["settings"] == asdict(self.settings)
            if same:
                self.network.load_state_dict(content["network"])
                self._optimizer.load_state_dict(content["optimizer"])
                self._average = content["average"]
                self.seconds, self.steps = content["seconds"], content["steps"]
        except Exception as error:
            # Torch raises many kinds for a damaged file; all mean the same to the user.
            raise AmbiError(
                f"checkpoint {self._path} cannot be read ({str(error).splitlines()[0]}); "
                "remove it to start anew"
            ) from error
        if not same:
            raise AmbiError(
                f"checkpoint {self._path} is of other settings; go on with those, or remove it"
            )

    def save(self) -> None:
        """Write the checkpoint."""
        buffer = io.BytesIO()
        content: dict[str, Any] = {
            "settings": asdict(self.settings),
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average,
            "seconds": self.seconds,
            "steps": self.steps,
        }
        torch.save(content, buffer)
        write_file(self._path, buffer.getvalue())

    def run(self, seconds: float) -> Iterator[float]:
        """Train until `seconds` have gone into it, interruptions not counted; give the fraction done.

        The learning rate falls with the time, so that the result is ready at its end.
        """
        rng = np.random.default_rng((self.settings.seed, self.steps))
        begun = saved = time.monotonic()
        before = self.seconds
        while self.seconds < seconds:
            self._step(rng, self.seconds / seconds)
            now = time.monotonic()
            self.seconds = before + now - begun
            if now - saved > _CHECKPOINT_SECONDS:
                self.save()
                saved = now
            yield min(self.seconds / seconds, 1.0)
        self.save()

    def _step(self, rng: np.random.Generator, progress: float) -> None:
        s = self.settings
        warm_up = min(1.0, (self.steps + 1) / 100)
        rate = s.learning_rate * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        sources, decoded, steps = (t.to(self._device) for t in _crops(self._pairs, s, rng))
        with torch.autocast(self._device.type, torch.bfloat16):
            loss = relative_loss(self.network, sources, decoded, steps)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self._optimizer.step()
        self.steps += 1
        value = float(loss.detach())
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value
        # In the beginning, when weights change fast, only the latest are averaged.
        keep = min(s.average, self.steps / (self.steps + 20))
        with torch.no_grad():
            for name, tensor in self.network.state_dict().items():
                self._average[name].lerp_(tensor, 1 - keep)

    def averaged(self) -> RestorationNetwork:
        """The network of averaged weights, on the CPU."""
        s = self.settings
        network = RestorationNetwork(s.factor, s.channels, s.blocks)
        network.load_state_dict({k: v.cpu() for k, v in self._average.items()})
        return network
