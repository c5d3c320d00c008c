"""The exported policy: a small multilayer perceptron evaluated in compiled code, without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import Scratch

CLIP = 5.0
"""Normalised features are clipped to ±CLIP."""

MAX_HIDDEN = 256


class Network(NamedTuple):
    """Weights, all float32: observation [F] → tanh [H] → tanh [H] → logits [1 + S + O]."""

    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    w0: npt.NDArray[np.float32]
    b0: npt.NDArray[np.float32]
    w1: npt.NDArray[np.float32]
    b1: npt.NDArray[np.float32]
    w2: npt.NDArray[np.float32]
    b2: npt.NDArray[np.float32]


@kernel
def evaluate(net: Network, s: Scratch) -> None:
    """Logits of `s.observation` into `s.scores`."""
    features = net.mean.shape[0]
    hidden = net.b0.shape[0]
    first = s.hidden[0]
    second = s.hidden[1]
    for i in range(features):
        value = (s.observation[i] - net.mean[i]) * net.scale[i]
        s.normalised[i] = min(max(value, np.float32(-CLIP)), np.float32(CLIP))
    for k in range(hidden):
        total = np.float32(0.0)
        for i in range(features):
            total += net.w0[k, i] * s.normalised[i]
        first[k] = np.tanh(total + net.b0[k])
    for k in range(hidden):
        total = np.float32(0.0)
        for i in range(hidden):
            total += net.w1[k, i] * first[i]
        second[k] = np.tanh(total + net.b1[k])
    for k in range(net.b2.shape[0]):
        total = np.float32(0.0)
        for i in range(hidden):
            total += net.w2[k, i] * second[i]
        s.scores[k] = total + net.b2[k]


@kernel
def logits_batch(
    net: Network, s: Scratch, observations: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """Logits [B, 1 + S + O] of observations [B, F], for comparison with the network that was trained."""
    for b in range(observations.shape[0]):
        for i in range(observations.shape[1]):
            s.observation[i] = observations[b, i]
        evaluate(net, s)
        for k in range(out.shape[1]):
            out[b, k] = s.scores[k]
