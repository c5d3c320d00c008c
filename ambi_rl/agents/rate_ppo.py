"""PPO whose loss also counts the bits of the features: eq. 4 of Bader and von Bachmann 2021.

Stable-Baselines3 builds its loss from what `policy.evaluate_actions` returns. The policy here returns its
values with a further loss attached: they pass unchanged, and whoever asks for a gradient through them sends
the gradient 1 to that loss. So its `train` stays as it is, with any further loss added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, RolloutBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from ambi_rl.envs.players import Excluded
from ambi_rl.errors import UsageError
from ambi_rl.neural.networks import FeatureEncoder
from ambi_rl.neural.priors import Prior, build_prior
from ambi_rl.neural.quantization import add_noise, quantize

Array = npt.NDArray[Any]

FurtherLoss = Callable[[Tensor, Tensor], Tensor]
"""Of observations, 0…1 [B, k, 84, 84], and quantized latents [B, C, h, w]; a scalar."""


class _AttachLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, values: Tensor, loss: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        return gradient, torch.ones((), dtype=gradient.dtype, device=gradient.device)


def attach_loss(values: Tensor, loss: Tensor) -> Tensor:
    """`values`, such that differentiating anything made of them differentiates `loss` too, with weight 1."""
    return cast(Tensor, _AttachLoss.apply(values, loss))


class LatentFeatures(BaseFeaturesExtractor):
    """`FeatureEncoder` as Stable-Baselines3 calls it: from observations to features, through a quantizer.

    Args:
        observation_space: Of stacked frames.
        width: See `FeatureEncoder`, as the next two.
        layer: Where the latent is.
        channels: Of the latent.
        features: Units that the policy sees.
        quantization: See `ambi_rl.neural.quantization.quantize`.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        width: int,
        layer: str,
        channels: int,
        features: int,
        quantization: str,
    ) -> None:
        super().__init__(observation_space, features)
        self.encoder = FeatureEncoder(observation_space.shape[0], width, layer, channels, features)
        self.quantization = quantization

    def forward(self, observations: Tensor) -> Tensor:
        """Features [B, F] of observations [B, k, 84, 84], 0…1."""
        latent = self.encoder.latent(observations)
        return self.encoder.features(quantize(latent, self.quantization, training=self.training))


class RatePolicy(ActorCriticPolicy):
    """An actor-critic policy that knows what its latents cost.

    Args:
        arguments: Of `ActorCriticPolicy`.
        prior: Kind of the prior, one of `ambi_rl.neural.priors.KINDS`.
        keywords: Likewise.

    Attributes:
        alpha: Weight of the rate in the loss, per bit of a latent dimension.
        further_loss: Added to the loss where it is given.
        bits: Bits for each latent dimension of the batches since it was emptied.
        noise: What the noise of the rate is drawn from.
    """

    prior: Prior

    def __init__(self, *arguments: Any, prior: str = "factorized", **keywords: Any) -> None:
        self._prior_kind = prior
        super().__init__(*arguments, **keywords)
        self.alpha = 0.0
        self.further_loss: FurtherLoss | None = None
        self.bits: list[float] = []

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        # Twice as fast on CPUs; only now, for the initialisation above takes no such weights.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # After the optimizer was made: the prior follows the latents by itself (`RatePPO.train`), so that the
        # step size and clipping of the agent, which suit returns, are not imposed on it.
        # It has random numbers of its own: the agent draws the same ones as without a prior.
        with torch.random.fork_rng(devices=[]):
            self.prior = build_prior(self._prior_kind, self.encoder.latent_shape[0])
        self.noise = torch.Generator().manual_seed(torch.initial_seed())

    @property
    def encoder(self) -> FeatureEncoder:
        """The network that the latents are taken from."""
        return cast(LatentFeatures, self.features_extractor).encoder

    def latent(self, observations: PyTorchObs) -> Tensor:
        """The latent of observations uint8 [B, k, 84, 84], not rounded: float [B, C, h, w]."""
        return self.encoder.latent(self._scaled(observations))

    def _scaled(self, observations: PyTorchObs) -> Tensor:
        assert isinstance(observations, Tensor)
        # While they are bytes, the channels are moved last at a quarter of the cost.
        moved = observations.contiguous(memory_format=torch.channels_last)
        scaled = preprocess_obs(
            moved, self.observation_space, normalize_images=self.normalize_images
        )
        return cast(Tensor, scaled)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `ActorCriticPolicy`; the values carry α·rate, and the further loss, to the optimizer."""
        scaled = self._scaled(obs)
        latent = self.encoder.latent(scaled)
        extractor = cast(LatentFeatures, self.features_extractor)
        quantized = quantize(latent, extractor.quantization, training=self.training)
        latent_pi, latent_vf = self.mlp_extractor(self.encoder.features(quantized))
        distribution = self._get_action_dist_from_latent(latent_pi)
        rate = self.prior.bits(add_noise(latent, self.noise)).mean()
        self.bits.append(rate.item())
        loss = self.alpha * rate
        if self.further_loss is not None:
            loss = loss + self.further_loss(scaled, quantized)
        values = attach_loss(self.value_net(latent_vf), loss)
        return values, distribution.log_prob(actions), distribution.entropy()


class RateRolloutBuffer(RolloutBuffer):
    """Moves to learn from, without those whose newest frame must not be learned from.

    Args:
        arguments: Of `RolloutBuffer`.
        exclude: Which frames uint8 [N, 84, 84] they are, bool [N].
        keywords: Likewise.

    Attributes:
        excluded: How many were left out so far.
    """

    def __init__(self, *arguments: Any, exclude: Excluded | None = None, **keywords: Any) -> None:
        self._exclude = exclude
        self.excluded = 0
        self._out = np.zeros(0, bool)
        super().__init__(*arguments, **keywords)

    def compute_returns_and_advantage(self, last_values: Tensor, dones: Array) -> None:
        """See `RolloutBuffer`; it is called once for each rollout, when it is full."""
        super().compute_returns_and_advantage(last_values, dones)
        if self._exclude is None:
            return
        newest = self.observations[:, :, -1].swapaxes(0, 1)
        self._out = self._exclude(newest.reshape(-1, *newest.shape[2:]))
        self.excluded += int(self._out.sum())
        if self._out.all():
            raise UsageError(
                "every frame of a rollout is one of the test set; take another test_set.seed or more "
                "agent.n_steps"
            )

    def usable(self) -> npt.NDArray[np.int64]:
        """Which moves are learned from, counted as in batches: all of an environment, then the next's."""
        if not len(self._out):
            return np.arange(self.buffer_size * self.n_envs)
        return np.flatnonzero(~self._out)

    def _get_samples(
        self, batch_inds: Array, env: VecNormalize | None = None
    ) -> RolloutBufferSamples:
        if self._out.any():
            # Others take their places, so that no batch is small or empty.
            out = self._out[batch_inds]
            # From the stream that the batches themselves are drawn from.
            others = np.random.choice(self.usable(), int(out.sum()))  # noqa: NPY002
            batch_inds = batch_inds.copy()
            batch_inds[out] = others
        return super()._get_samples(batch_inds, env)


class RatePPO(PPO):
    """PPO on a `RatePolicy`: after each update the prior is fitted to the latents, and α set anew.

    Attributes:
        next_alpha: Called after every update with the mean bits of a latent dimension, as it is coded, before
            the prior was fitted to it; returns the α of the next update.
        prior_steps: Gradient steps of the prior for each update.
    """

    policy: RatePolicy

    next_alpha: Callable[[float], float] | None = None
    prior_steps: int = 10

    def train(self) -> None:
        """One update, as Stable-Baselines3 does it."""
        self.policy.bits.clear()
        super().train()
        noisy = sum(self.policy.bits) / max(len(self.policy.bits), 1)
        latents = self._latents()
        coded = float(self.policy.prior.bits(torch.round(latents)).mean())
        self.logger.record("rate/bits_per_latent", coded)
        self.logger.record("rate/bits_per_latent_with_noise", noisy)
        self.logger.record("rate/alpha", self.policy.alpha)
        self.policy.prior.fit(latents, steps=self.prior_steps, generator=self.policy.noise)
        if self.next_alpha is not None:
            self.policy.alpha = self.next_alpha(coded)

    @torch.no_grad()
    def _latents(self) -> Tensor:
        """Latents of some of what the rollout has to learn from, by the policy as it is now."""
        # As batches were taken of it, environments and steps are one axis already.
        seen = self.rollout_buffer.observations
        rows = cast(RateRolloutBuffer, self.rollout_buffer).usable()
        order = torch.randperm(len(rows), generator=self.policy.noise)[: 2 * self.batch_size]
        some = seen[rows[order.numpy()]]
        return self.policy.latent(torch.as_tensor(some, device=self.device))
