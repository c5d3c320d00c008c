"""Rounding of latents: noise for training the rate, rounding for the code, a gradient through either."""

from __future__ import annotations

import torch
from torch import Tensor

QUANTIZATIONS = ("round", "noise", "none")
"""What the network after the latent sees while it is trained; see `quantize`."""
_LARGEST = float(2**31 - 128)
"""The largest 32-bit integer that is a float of 32 bits too."""


def add_noise(latent: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Add noise, uniform in ±½, which stands for rounding where a gradient is needed (Ballé et al. 2016).

    Args:
        latent: Float, any shape.
        generator: Of the CPU, that the noise is drawn from; torch's own if None.
    """
    if generator is None:
        return latent + torch.rand_like(latent) - 0.5
    noise = torch.rand(latent.shape, generator=generator, dtype=latent.dtype)
    return latent + noise.to(latent.device) - 0.5


def round_latent(latent: Tensor) -> Tensor:
    """Round to whole numbers; the gradient is that of the identity (straight-through)."""
    return latent + (torch.round(latent) - latent).detach()


def to_integers(latent: Tensor) -> Tensor:
    """What is coded of a latent: int32, of the same shape.

    Weights may be such that a latent has no integer, for it is nan or too large; no frame shall end in an
    error for that, nor in whatever number the processor makes of it.
    """
    return torch.nan_to_num(torch.round(latent)).clamp(-_LARGEST, _LARGEST).to(torch.int32)


def quantize(latent: Tensor, how: str, *, training: bool) -> Tensor:
    """What a receiver would have of a latent.

    Args:
        latent: Float, any shape.
        how: One of `QUANTIZATIONS`. `round` rounds always; `noise` adds noise in training and rounds
            otherwise; `none` lets the latent pass as it is, so that whoever reads it does not notice how
            little is left of it after rounding.
        training: Whether a gradient is to be taken.

    Returns:
        Of the same shape.
    """
    if how == "none":
        return latent
    if how == "noise" and training:
        return add_noise(latent)
    return round_latent(latent)
