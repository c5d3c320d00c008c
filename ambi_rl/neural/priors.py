"""Priors P of latents: what a latent costs in bits, learned from latents.

A rounded latent k has the probability F(k + ½) − F(k − ½); the same expression at z + u, u uniform in ±½, is
the density of the noisy latent that stands for it in training (Ballé et al. 2018, "Variational image
compression with a scale hyperprior", appendix 6.1).
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from ambi_rl.neural.quantization import add_noise

KINDS = ("normal", "factorized")
_LEAST_STEP = 1e-7
"""Least step of ln F over a bin: less is rounding, not a distribution."""
_FIT_RATE = 0.01


class Prior(nn.Module, ABC):
    """A distribution for each channel, independent of place.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @abstractmethod
    def log_cumulative(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of F, the distribution function of each channel, from both ends.

        Args:
            values: Float [C, N].

        Returns:
            ln F(values) and ln (1 − F(values)), [C, N], each exact where it is far below 0.
        """

    def cumulative(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """F(values) and 1 − F(values), [C, N], of values [C, N], each exact where it is small."""
        below, above = self.log_cumulative(values)
        return below.exp(), above.exp()

    @abstractmethod
    def fit(
        self, latents: Tensor, *, steps: int = 1, generator: torch.Generator | None = None
    ) -> None:
        """Fit to latents by maximum likelihood; further calls go on from where the last ended.

        Args:
            latents: Float [B, C, h, w], not rounded.
            steps: Gradient steps, for a prior that has no closed form.
            generator: See `add_noise`, likewise.
        """

    def bits(self, latents: Tensor) -> Tensor:
        """−log₂ (F(z + ½) − F(z − ½)).

        It is computed from logarithms, so that a latent that strayed however far costs what it costs, and is
        pulled back by a gradient: probabilities vanish beyond some deviations, and with them the gradient.

        Args:
            latents: Float [B, C, ...], noisy or rounded.

        Returns:
            Of the same shape, 0 or more.
        """
        flat = latents.transpose(0, 1).reshape(self.channels, -1)
        below_low, above_low = self.log_cumulative(flat - 0.5)
        below_high, above_high = self.log_cumulative(flat + 0.5)
        # Differences in the smaller tail, or they would vanish in rounding far from the middle.
        in_upper = above_high < below_low
        more = torch.where(in_upper, above_low, below_high)
        less = torch.where(in_upper, above_high, below_low)
        nats = -(more + torch.log(-torch.expm1((less - more).clamp_max(-_LEAST_STEP))))
        moved = latents.transpose(0, 1).shape
        return (nats / math.log(2)).reshape(moved).transpose(0, 1)

    def probability(self, latents: Tensor) -> Tensor:
        """F(z + ½) − F(z − ½), of the same shape."""
        return torch.exp2(-self.bits(latents))


def _log_normal_cumulative(values: Tensor) -> Tensor:
    """Logarithm of the standard Normal's distribution function.

    As torch.special.log_ndtr, whose gradient in single precision is wrong from some thousand deviations on.
    """
    scaled = values / math.sqrt(2)
    # Each branch is clamped to where it is good: the gradient of the one not taken must be finite too.
    far = (-scaled).clamp_min(-1.0)
    lower = torch.log(0.5 * torch.special.erfcx(far)) - far.square()
    upper = torch.log1p(-0.5 * torch.erfc(scaled.clamp_min(-1.0)))
    return torch.where(values < 0, lower, upper)


class NormalPrior(Prior):
    """Zero-mean Normal with a learned variance: the prior of Bader and von Bachmann 2021, 3.2.1.

    Args:
        channels: C.
        deviation: Standard deviation at the start.
    """

    log_deviation: Tensor

    def __init__(self, channels: int, deviation: float = 4.0) -> None:
        super().__init__(channels)
        # Its maximum likelihood has a closed form, so it is no parameter for an optimizer.
        self.register_buffer("log_deviation", torch.full((channels,), math.log(deviation)))

    def log_cumulative(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `Prior`."""
        scaled = values * torch.exp(-self.log_deviation)[:, None]
        return _log_normal_cumulative(scaled), _log_normal_cumulative(-scaled)

    @torch.no_grad()
    def fit(
        self, latents: Tensor, *, steps: int = 1, generator: torch.Generator | None = None
    ) -> None:
        """See `Prior`; exact, whatever `steps` is."""
        axes = [0, *range(2, latents.ndim)]
        # The noise that is added has a variance of 1/12; the mass of a bin takes care of it, so it stays out.
        variance = latents.square().mean(axes)
        self.log_deviation.copy_(0.5 * torch.log(variance.clamp_min(1e-4)))


class FactorizedPrior(Prior):
    """The non-parametric prior of Ballé et al. 2018, appendix 6.1: F is a monotone network of its own.

    f_K ∘ … ∘ f_1 with f_k(x) = g_k(H_k x + b_k), g_k(x) = x + tanh(a_k) ⊙ tanh(x), H_k = softplus(Ĥ_k), and
    the logistic function at the end.

    Args:
        channels: C.
        filters: Widths of the layers between.
        scale: About the range of the latents at the start.
    """

    def __init__(
        self, channels: int, filters: tuple[int, ...] = (3, 3, 3), scale: float = 10.0
    ) -> None:
        super().__init__(channels)
        widths = (1, *filters, 1)
        step = scale ** (1 / (len(filters) + 1))
        self.matrices, self.biases, self.factors = (nn.ParameterList() for _ in range(3))
        for inputs, outputs in itertools.pairwise(widths):
            start = math.log(math.expm1(1 / step / outputs))
            self.matrices.append(nn.Parameter(torch.full((channels, outputs, inputs), start)))
            self.biases.append(nn.Parameter(torch.rand(channels, outputs, 1) - 0.5))
            self.factors.append(nn.Parameter(torch.zeros(channels, outputs, 1)))
        # Only `fit` moves them: what else differentiates bits wants the gradient of the latents.
        self.requires_grad_(False)
        self._optimizer: torch.optim.Optimizer | None = None

    def log_cumulative(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """See `Prior`."""
        logits = values[:, None, :]
        last = len(self.matrices) - 1
        for index, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            logits = torch.matmul(functional.softplus(matrix), logits) + bias
            if index < last:
                logits = logits + torch.tanh(self.factors[index]) * torch.tanh(logits)
        logits = logits[:, 0]
        return functional.logsigmoid(logits), functional.logsigmoid(-logits)

    def fit(
        self, latents: Tensor, *, steps: int = 1, generator: torch.Generator | None = None
    ) -> None:
        """See `Prior`; Adam on the mean bits of latents with fresh noise."""
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(self.parameters(), lr=_FIT_RATE)
        latents = latents.detach()
        self.requires_grad_(True)
        with torch.enable_grad():
            for _ in range(steps):
                self._optimizer.zero_grad()
                self.bits(add_noise(latents, generator)).mean().backward()
                self._optimizer.step()
        # Or they would count in the norm that an agent's gradients are clipped to.
        self._optimizer.zero_grad()
        self.requires_grad_(False)


def build_prior(kind: str, channels: int) -> Prior:
    """A prior by its name, one of `KINDS`."""
    return NormalPrior(channels) if kind == "normal" else FactorizedPrior(channels)
