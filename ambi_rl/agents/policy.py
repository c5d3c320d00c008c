"""The policy network: exactly what the exported bundle can hold, in Stable-Baselines3's form.

observation [F] ─ normalise, clip ±5 ─┬─ tanh [H] ─ tanh [H] ─┬─ logits [S+1 | O]   (exported)
                                      ├───────────────────────┘
                                      └─ tanh [H] ─ tanh [H] ─── value [1]          (training only)

The logits see the observation itself beside the hidden units: it holds an estimated cost for every
strategy, of which the logits are nearly a linear function, and which would not fit through the hidden ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, MlpExtractor
from torch import nn

from ambi_rl.codec.strategists.policy_net import CLIP

_MIN_DEVIATION = 0.05
"""Features that hardly vary are not blown up beyond this."""


class ObservationNormalizer(BaseFeaturesExtractor):
    """(x − mean)·scale clipped to ±5, with constants that travel with the policy.

    They are fixed before training (`fit`), not updated during it, so that the exported policy sees what
    the trained one saw.

    Args:
        observation_space: Box [F].
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, observation_space: spaces.Box) -> None:
        features = int(np.prod(observation_space.shape))
        super().__init__(observation_space, features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def fit(self, observations: npt.NDArray[np.float32]) -> None:
        """Set mean and scale from observations [N, F]."""
        mean = observations.mean(axis=0, dtype=np.float64)
        deviation = observations.std(axis=0, dtype=np.float64)
        self.mean.copy_(torch.as_tensor(mean, dtype=torch.float32))
        scale = 1 / np.maximum(deviation, _MIN_DEVIATION)
        self.scale.copy_(torch.as_tensor(scale, dtype=torch.float32))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Normalise float32 [B, F]."""
        return torch.clamp((observations - self.mean) * self.scale, -CLIP, CLIP)


class _Extractor(MlpExtractor):
    """Hidden layers whose policy side hands on its input beside its output."""

    def __init__(self, features: int, **arguments: Any) -> None:
        super().__init__(features, **arguments)
        self.latent_dim_pi += features

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        """Policy latent [B, H + F] of normalised observations [B, F]."""
        return torch.cat([self.policy_net(features), features], dim=-1)


class _WithObservation:
    """Mixed into a policy of Stable-Baselines3: uses `_Extractor`."""

    mlp_extractor: Any

    def _build_mlp_extractor(self: Any) -> None:
        self.mlp_extractor = _Extractor(
            self.features_dim,
            net_arch=self.net_arch,
            activation_fn=self.activation_fn,
            device=self.device,
        )


class BlockPolicy(_WithObservation, ActorCriticPolicy):
    """The policy of PPO and A2C."""


class MaskedBlockPolicy(_WithObservation, MaskableActorCriticPolicy):
    """The policy of MaskablePPO."""


def policy_arguments(hidden: int) -> dict[str, Any]:
    """`policy_kwargs` of Stable-Baselines3 for the network above.

    Args:
        hidden: Units H of each of the two hidden layers.
    """
    return {
        "features_extractor_class": ObservationNormalizer,
        "net_arch": {"pi": [hidden, hidden], "vf": [hidden, hidden]},
        "activation_fn": nn.Tanh,
    }


def policy_logits(policy: Any, observations: torch.Tensor) -> torch.Tensor:
    """Logits [B, S+1+O] of a Stable-Baselines3 policy, before masking."""
    features = policy.extract_features(observations)
    return policy.action_net(policy.mlp_extractor.forward_actor(features))


def policy_values(policy: Any, observations: torch.Tensor) -> torch.Tensor:
    """Values [B] of a Stable-Baselines3 policy."""
    features = policy.extract_features(observations)
    return policy.value_net(policy.mlp_extractor.forward_critic(features)).squeeze(-1)
