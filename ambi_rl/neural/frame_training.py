"""Training of the decoder: its losses, with the code as it is or together with the agent that makes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ambi_rl.neural.networks import FRAME_SIDE, LATENT_SCALE, FeatureEncoder, FrameDecoder

Frames = npt.NDArray[np.uint8]

SCALES = (1, 2, 4, 12)
"""Factors by which frames are shrunk for the multi-scale loss: to 84, 42, 21 and 7 pixels a side."""
_LEAST_SPREAD = 0.02
"""Deviations of pixels below count as this, values 0…1: frames that are still to come may differ."""
_SAMPLE = 2048
"""Frames that statistics are taken from."""
_MOVED = 8 / 255
"""A pixel that differs by more than this from an earlier frame of the stack has changed."""


class FrameLoss(torch.nn.Module):
    """What a reconstruction costs.

    Args:
        pixel: Weight of the mean squared error of all pixels, values 0…1.
        motion: Weight of the squared error, beside that, of pixels within one of those that changed in the
            stack; the mean is over all pixels too.
        multiscale: Weight of the squared error of frames shrunk by each of `SCALES`, in units of each pixel's
            variance in the frames of `fit`; the mean over pixels and scales. The mean frame costs 1, or less
            where pixels hardly change. A ball that is wrong by a few pixels is as wrong as none for the
            squared error, but not for that of shrunk frames: there is a way from nothing to its place.
        latent: Weight of the mean squared difference between the latent of the stack and that of the stack
            with the reconstruction as its newest frame, in units of an untrained latent (Bader and von
            Bachmann 2021, 3.2.2).
    """

    def __init__(
        self,
        pixel: float = 0.0,
        motion: float = 0.0,
        multiscale: float = 0.0,
        latent: float = 0.0,
    ) -> None:
        super().__init__()
        self.pixel, self.motion, self.multiscale, self.latent = pixel, motion, multiscale, latent
        for scale in SCALES:
            side = FRAME_SIDE // scale
            self.register_buffer(f"precision_{scale}", torch.ones(1, side, side))

    @torch.no_grad()
    def fit(self, frames: Frames) -> None:
        """Take the variances of pixels from frames.

        Args:
            frames: Stacks, uint8 [N, k, 84, 84]; the newest of each counts.
        """
        device = self.get_buffer(f"precision_{SCALES[0]}").device
        newest = sample_newest(frames, device)
        for scale in SCALES:
            deviation = functional.avg_pool2d(newest, scale).std(0, correction=0)
            # Of shrunk frames less of a deviation is of importance.
            precision = deviation.clamp_min(_LEAST_SPREAD / scale).pow(-2)
            self.get_buffer(f"precision_{scale}").copy_(precision)

    def forward(self, encoder: FeatureEncoder, stacks: Tensor, frames: Tensor) -> Tensor:
        """The loss of reconstructions.

        Args:
            encoder: Whose latents are compared; its weights get no gradient from that.
            stacks: Float [B, k, 84, 84], 0…1.
            frames: Reconstructions of the newest frames, float [B, 1, 84, 84].
        """
        errors = frames - stacks[:, -1:]
        loss = self.pixel * errors.square().mean()
        if self.motion:
            loss = loss + self.motion * (errors.square() * moved(stacks)).mean()
        if self.multiscale:
            loss = loss + self.multiscale * self._multiscale_error(errors)
        if self.latent:
            loss = loss + self.latent * self._latent_error(encoder, stacks, frames)
        return loss

    def _multiscale_error(self, errors: Tensor) -> Tensor:
        parts = [
            (
                functional.avg_pool2d(errors, scale).square()
                * self.get_buffer(f"precision_{scale}")
            ).mean()
            for scale in SCALES
        ]
        return torch.stack(parts).mean()

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


def sample_newest(frames: Frames, device: torch.device) -> Tensor:
    """Newest frames of some of the stacks uint8 [N, k, 84, 84]: float [n, 1, 84, 84], 0…1."""
    # Frames of games that are played side by side lie in turns: a fixed stride could be of one game only.
    rows = np.random.default_rng(0).choice(len(frames), min(_SAMPLE, len(frames)), replace=False)
    return torch.as_tensor(frames[np.sort(rows), -1:], device=device).float() / 255


def begin_background(decoder: FrameDecoder, frames: Frames) -> None:
    """Set a decoder's background to the median of newest frames, so that only what changes is left to learn.

    Args:
        decoder: Not trained yet.
        frames: Stacks, uint8 [N, k, 84, 84].
    """
    background = sample_newest(frames, decoder.background.device).median(0, keepdim=True).values
    with torch.no_grad():
        decoder.background.copy_(background)


def joint_loss(
    encoder: FeatureEncoder, decoder: FrameDecoder, loss: FrameLoss, weight: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """The decoder's loss as a further loss of the agent, see `ambi_rl.agents.rate_ppo`."""

    def further(stacks: Tensor, latents: Tensor) -> Tensor:
        return weight * loss(encoder, stacks, decoder(latents))

    return further
