"""From a trained Stable-Baselines3 policy to the bundle's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ambi_rl.agents.policy import ObservationNormalizer


def policy_tensors(policy: Any) -> dict[str, npt.NDArray[np.float32]]:
    """The exported part of a policy: mean, scale, w0, b0, w1, b1, w2, b2, all float32.

    Args:
        policy: A policy made with `ambi_rl.agents.policy.policy_arguments`.

    Raises:
        TypeError: The policy has another architecture.
    """
    extractor = policy.features_extractor
    hidden = list(policy.mlp_extractor.policy_net)
    kinds = [type(layer) for layer in hidden]
    if not isinstance(extractor, ObservationNormalizer) or kinds != [
        nn.Linear,
        nn.Tanh,
        nn.Linear,
        nn.Tanh,
    ]:
        raise TypeError("only a normaliser and two tanh layers can be exported")
    tensors = {
        "mean": extractor.mean,
        "scale": extractor.scale,
        "w0": hidden[0].weight,
        "b0": hidden[0].bias,
        "w1": hidden[2].weight,
        "b1": hidden[2].bias,
        "w2": policy.action_net.weight,
        "b2": policy.action_net.bias,
    }
    return {name: _to_numpy(tensor) for name, tensor in tensors.items()}


def _to_numpy(tensor: torch.Tensor) -> npt.NDArray[np.float32]:
    return np.array(tensor.detach().cpu().numpy(), np.float32)
