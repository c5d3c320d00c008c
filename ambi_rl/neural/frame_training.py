"""Training of the decoder: its losses, with the code as it is or together with the agent that makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ambi_rl.neural.networks import LATENT_SCALE, FeatureEncoder, FrameDecoder

Frames = npt.NDArray[np.uint8]

_MOVED = 8 / 255
"""A pixel that differs by more than this from an earlier frame of the stack has changed."""


@dataclass(frozen=True)
class FrameLoss:
    """What a reconstruction costs.

    Attributes:
        pixel: Weight of the mean squared error of all pixels, values 0…1.
        motion: Weight of the squared error, beside that, of pixels within one of those that changed in the
            stack; the mean is over all pixels too.
        latent: Weight of the mean squared difference between the latent of the stack and that of the stack
            with the reconstruction as its newest frame, in units of an untrained latent (Bader and von
            Bachmann 2021, 3.2.2).
    """

    pixel: float
    motion: float
    latent: float

    def __call__(self, encoder: FeatureEncoder, stacks: Tensor, frames: Tensor) -> Tensor:
        """The loss of reconstructions.

        Args:
            encoder: Whose latents are compared; its weights get no gradient from that.
            stacks: Float [B, k, 84, 84], 0…1.
            frames: Reconstructions of the newest frames, float [B, 1, 84, 84].
        """
        newest = stacks[:, -1:]
        errors = (frames - newest).square()
        loss = self.pixel * errors.mean()
        if self.motion:
            loss = loss + self.motion * (errors * moved(stacks)).mean()
        if self.latent:
            loss = loss + self.latent * self._latent_error(encoder, stacks, frames)
        return loss

    @staticmethod
    def _latent_error(encoder: FeatureEncoder, stacks: Tensor, frames: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = encoder.latent(stacks)
        seen = torch.cat([stacks[:, :-1], frames.clamp(0, 1)], dim=1)
        frozen = {name: tensor.detach() for name, tensor in encoder.named_parameters()}
        found = torch.func.functional_call(_Latents(encoder), _below(frozen), (seen,))
        return ((found - wanted) / LATENT_SCALE).square().mean()


class _Latents(torch.nn.Module):
    """`FeatureEncoder.latent` as a module's call."""

    def __init__(self, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, stacks: Tensor) -> Tensor:
        return self.encoder.latent(stacks)


def _below(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"encoder.{name}": tensor for name, tensor in tensors.items()}


def moved(stacks: Tensor) -> Tensor:
    """Where something moves: 1 within a pixel of what differs from an earlier frame of the stack, else 0.

    Args:
        stacks: Float [B, k, 84, 84], 0…1.

    Returns:
        Float [B, 1, 84, 84].
    """
    if stacks.shape[1] == 1:
        return torch.zeros_like(stacks)
    changes = (stacks[:, :-1] - stacks[:, -1:]).abs().amax(dim=1, keepdim=True)
    return functional.max_pool2d((changes > _MOVED).float(), 3, stride=1, padding=1)


def as_input(stacks: Frames, device: torch.device) -> Tensor:
    """Stacks as networks take them: float [B, k, 84, 84], 0…1, of uint8."""
    # While they are bytes, the channels are moved last at a quarter of the cost.
    moved_last = torch.as_tensor(stacks, device=device).contiguous(
        memory_format=torch.channels_last
    )
    return moved_last.float() / 255


class DecoderTrainer:
    """Trains a decoder for the rounded latents of an encoder that stays as it is.

    Args:
        encoder: Makes the latents.
        decoder: To be trained.
        loss: What counts.
        frames: Stacks of play, uint8 [N, k, 84, 84].
        steps: Gradient steps in all.
        batch_size: Stacks in one.
        learning_rate: Of Adam at the start; it falls to zero along a cosine.
        seed: Of the order of stacks.

    Attributes:
        losses: Of the gradient steps done.
    """

    def __init__(
        self,
        encoder: FeatureEncoder,
        decoder: FrameDecoder,
        loss: FrameLoss,
        frames: Frames,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        self._encoder, self._decoder, self._loss = encoder, decoder, loss
        self._frames, self._steps, self._batch_size = frames, steps, batch_size
        self._device = decoder.background.device
        self._rng = np.random.default_rng(seed)
        self._optimizer = torch.optim.Adam(decoder.parameters(), lr=learning_rate)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, steps)
        self.losses: list[float] = []

    def run(self, report: Callable[[float], None] = lambda fraction: None) -> float:
        """Train to the end.

        Returns:
            The loss of the last hundredth of the steps.
        """
        self._decoder.train()
        while len(self.losses) < self._steps:
            self.losses.append(self._one_step())
            report(len(self.losses) / self._steps)
        self._decoder.eval()
        return float(np.mean(self.losses[-max(self._steps // 100, 1) :]))

    def _one_step(self) -> float:
        rows = self._rng.integers(len(self._frames), size=self._batch_size)
        stacks = as_input(self._frames[np.sort(rows)], self._device)
        with torch.no_grad():
            latents = torch.round(self._encoder.latent(stacks))
        loss = self._loss(self._encoder, stacks, self._decoder(latents))
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._decoder.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        return loss.item()


def begin_background(decoder: FrameDecoder, frames: Frames) -> None:
    """Set a decoder's background to the median of newest frames, so that only what changes is left to learn.

    Args:
        decoder: Not trained yet.
        frames: Stacks, uint8 [N, k, 84, 84].
    """
    some = frames[:: max(len(frames) // 512, 1), -1]
    background = np.median(some, axis=0) / 255
    with torch.no_grad():
        decoder.background.copy_(torch.as_tensor(background, dtype=torch.float32)[None, None])


def joint_loss(
    encoder: FeatureEncoder, decoder: FrameDecoder, loss: FrameLoss, weight: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The decoder's loss as a further loss of the agent, see `ambi_rl.agents.rate_ppo`."""

    def further(stacks: Tensor, latents: Tensor) -> Tensor:
        return weight * loss(encoder, stacks, decoder(latents))

    return further
