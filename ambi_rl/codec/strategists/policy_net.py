"""The exported policy: a small multilayer perceptron evaluated in compiled code, without torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.bundle import POLICY_TENSORS
from ambi_rl.codec.jit import kernel
from ambi_rl.codec.kernel.state import Work

CLIP = 5.0
"""Normalised features are clipped to ±CLIP."""


class Network(NamedTuple):
    """A policy's weights, in one piece.

    Attributes:
        shape: int64 [3], features F, hidden units H, outputs 1 + S + O; all 0 if there is no policy.
        weights: float32 [N], one after the other: mean [F], scale [F], w0ᵀ [F, H], b0 [H], w1ᵀ [H, H],
            b1 [H], w2ᵀ [H + F, 1 + S + O], b2 [1 + S + O]. Transposed, so that sums over inputs become
            vector code without reordering any sum.
    """

    shape: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]


NO_NETWORK = Network(np.zeros(3, np.int64), np.zeros(1, np.float32))


def network_of(policy: dict[str, npt.NDArray[np.float32]]) -> Network:
    """Pack a bundle's policy tensors (shapes as in `Network`)."""
    shape = np.array([policy["mean"].size, policy["b0"].size, policy["b2"].size], np.int64)
    weights = np.concatenate(
        [np.asarray(policy[name], np.float32).T.reshape(-1) for name in POLICY_TENSORS]
    )
    return Network(shape, weights)


@kernel
def _layer(
    weights: npt.NDArray[np.float32],
    at: int,
    inputs: npt.NDArray[np.float32],
    outputs: npt.NDArray[np.float32],
    width: int,
    count: int,
    squash: int,
) -> int:
    """One fully connected layer whose matrix starts at `at`; return where the next one starts."""
    bias = at + width * count
    out = outputs[:count]
    for k in range(count):  # Not a slice: its length check would bring in string formatting.
        out[k] = weights[bias + k]
    for i in range(width):
        row = weights[at + i * count : at + (i + 1) * count]
        value = inputs[i]
        for k in range(count):
            out[k] += value * row[k]
    if squash:
        for k in range(count):
            out[k] = np.tanh(out[k])
    return bias + count


@kernel
def evaluate(net: Network, s: Work) -> None:
    """Logits of `s.observation` into `s.scores`."""
    features, hidden, outputs = int(net.shape[0]), int(net.shape[1]), int(net.shape[2])
    clip = np.float32(CLIP)
    for i in range(features):
        value = (s.observation[i] - net.weights[i]) * net.weights[features + i]
        s.normalised[i] = min(max(value, -clip), clip)
    at = _layer(net.weights, 2 * features, s.normalised, s.hidden[0], features, hidden, 1)
    at = _layer(net.weights, at, s.hidden[0], s.hidden[1], hidden, hidden, 1)
    for i in range(features):
        s.hidden[1, hidden + i] = s.normalised[i]
    _layer(net.weights, at, s.hidden[1], s.scores, hidden + features, outputs, 0)


@kernel
def logits_batch(
    net: Network, s: Work, observations: npt.NDArray[np.float32], out: npt.NDArray[np.float32]
) -> None:
    """Logits [B, 1 + S + O] of observations [B, F], for comparison with the network that was trained."""
    for b in range(observations.shape[0]):
        for i in range(observations.shape[1]):
            s.observation[i] = observations[b, i]
        evaluate(net, s)
        for k in range(out.shape[1]):
            out[b, k] = s.scores[k]
