"""Training of the entropy model's level network: float in torch, exported to the codec's integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.context import context_of, load_entropy
from ambi_rl.codec.entropy import layout, network
from ambi_rl.codec.entropy.coder import start_decoding
from ambi_rl.codec.entropy.model import Tensors
from ambi_rl.codec.frame import Planes, encode_frame, pad_planes
from ambi_rl.codec.kernel.block import begin
from ambi_rl.codec.kernel.record import (
    TARGET_FIRST,
    TARGET_MAGNITUDE,
    TARGET_PLANE,
    record_picture,
)
from ambi_rl.codec.kernel.state import allocate_picture
from ambi_rl.codec.kernel.syntax import bin_class
from ambi_rl.codec.strategists import Strategist

Inputs = npt.NDArray[np.int16]
Targets = npt.NDArray[np.uint8]
Report = Callable[[str], None]

_SCALE = float(1 << network.ACTIVATION_BITS)
_DENSE_SCALE = float(1 << network.WEIGHT_BITS)
_CEILING = network.ACTIVATION_MAX / _SCALE
_CLASSES = [bin_class(k) for k in range(layout.ESCAPE)]
_BATCH = 2048
_RATE = 1e-2


class LevelNetwork(nn.Module):
    """The float form of one of the two networks of `ambi_rl.codec.entropy.network`.

    inputs [N, NET_INPUTS] ─ rows ─▶ [N, 64] ─ dense ─▶ [N, 32] ─ dense ─▶ logits [N, 8]
    """

    def __init__(self) -> None:
        """Start from small random rows."""
        super().__init__()
        self.rows = nn.EmbeddingBag(
            layout.NET_ROWS, layout.NET_HIDDEN, mode="sum", padding_idx=layout.NET_PADDING
        )
        with torch.no_grad():
            self.rows.weight.normal_(0, 0.08)
            self.rows.weight[layout.NET_PADDING] = 0
        self.bias = nn.Parameter(torch.full((layout.NET_HIDDEN,), 0.3))
        self.second = nn.Linear(layout.NET_HIDDEN, layout.NET_SECOND)
        self.last = nn.Linear(layout.NET_SECOND, layout.NET_BINS)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits [N, NET_BINS] of "magnitude > k" by bin class, for int32 inputs [N, NET_INPUTS]."""
        hidden = torch.clamp(self.rows(inputs) + self.bias, 0, _CEILING)
        hidden = torch.clamp(self.second(hidden), 0, _CEILING)
        logits: Tensor = self.last(hidden)
        return logits

    def limit(self) -> None:
        """Keep the weights where the integer form can hold them."""
        most = network.WEIGHT_MAX / _DENSE_SCALE
        with torch.no_grad():
            for layer in (self.second, self.last):
                layer.weight.clamp_(-most, most)

    def integers(self) -> Tensors:
        """The integer form: tensors of `layout.NET_TENSORS` without their leading dimension."""
        scale = _SCALE * _DENSE_SCALE
        return {
            "net_rows": _rounded(self.rows.weight, _SCALE, network.ROW_MAX).astype(np.int16),
            "net_bias": _rounded(self.bias, _SCALE, network.BIAS_MAX),
            "net_w1": _rounded(self.second.weight.T, _DENSE_SCALE, network.WEIGHT_MAX).astype(
                np.int16
            ),
            "net_b1": _rounded(self.second.bias, scale, network.BIAS_MAX),
            "net_w2": _rounded(self.last.weight.T, _DENSE_SCALE, network.WEIGHT_MAX).astype(
                np.int16
            ),
            "net_b2": _rounded(self.last.bias, scale, network.BIAS_MAX),
        }


def _rounded(values: Tensor, scale: float, most: int) -> npt.NDArray[np.int32]:
    scaled = np.rint(values.detach().numpy() * scale)
    return np.ascontiguousarray(np.clip(scaled, -most, most).astype(np.int32))


def record_levels(
    planes: Planes, step: int, bundle: Bundle, strategist: Strategist
) -> tuple[Inputs, Targets]:
    """Code a picture and record what the network would see at each level.

    Args:
        planes: int16 [P, H, W].
        step: Quantizer step in 1/64 code value.
        bundle: What to code with.
        strategist: Who decides.

    Returns:
        Inputs int16 [N, NET_INPUTS] and targets uint8 [N, 3], see `ambi_rl.codec.kernel.record`.
    """
    padded = pad_planes(planes)
    frame = encode_frame(padded, step, bundle, strategist)
    context = context_of(bundle)
    count, height, width = padded.shape
    picture = allocate_picture(count, height, width, 1)
    picture = picture._replace(stream=np.frombuffer(frame.payload, np.uint8).copy())
    load_entropy(picture, bundle)
    begin(picture, count, height, width, step)
    start_decoding(picture.state.registers, picture.stream)
    inputs = np.zeros((padded.size, layout.NET_INPUTS), np.int16)
    targets = np.zeros((padded.size, 3), np.uint8)
    number = record_picture(picture, context.work(), context.constants, inputs, targets)
    return inputs[:number].copy(), targets[:number].copy()


def level_bits(logits: Tensor, targets: Tensor) -> Tensor:
    """Bits [N] that levels cost with these predictions alone, without signs and what follows an escape.

    Args:
        logits: [N, NET_BINS].
        targets: uint8 [N, 3].
    """
    magnitude = targets[:, TARGET_MAGNITUDE, None]
    threshold = torch.arange(layout.ESCAPE, dtype=torch.uint8)[None]
    coded = (threshold <= magnitude) & ((threshold > 0) | (targets[:, TARGET_FIRST, None] == 0))
    loss = functional.binary_cross_entropy_with_logits(
        logits[:, _CLASSES], (magnitude > threshold).float(), reduction="none"
    )
    return (loss * coded).sum(1) / math.log(2)


def train_network(
    inputs: Inputs,
    targets: Targets,
    *,
    epochs: int,
    seed: int,
    report: Report | None = None,
) -> Tensors:
    """Train a network for luma and one for chroma.

    Args:
        inputs: int16 [N, NET_INPUTS], see `record_levels`.
        targets: uint8 [N, 3].
        epochs: How often to go through the samples.
        seed: Of initial weights and order.
        report: Called with a line of progress after each epoch.

    Returns:
        The tensors of `layout.NET_TENSORS`; zeros for planes that have no samples.
    """
    torch.manual_seed(seed)
    parts = []
    for name, chosen in (
        ("luma", targets[:, TARGET_PLANE] == 0),
        ("chroma", targets[:, TARGET_PLANE] > 0),
    ):
        model = LevelNetwork()
        if chosen.any():
            _descend(model, inputs[chosen], targets[chosen], epochs, name, report)
            parts.append(model.integers())
        else:
            parts.append({key: np.zeros_like(value) for key, value in model.integers().items()})
    return {key: np.stack([parts[0][key], parts[1][key]]) for key in parts[0]}


def _descend(
    model: LevelNetwork,
    inputs: Inputs,
    targets: Targets,
    epochs: int,
    name: str,
    report: Report | None,
) -> None:
    """Minimise the bits with Adam, the rate rising and falling once."""
    steps = epochs * -(-len(inputs) // _BATCH)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, steps + 1, pct_start=0.1)
    for epoch in range(epochs):
        order = torch.randperm(len(inputs)).numpy()
        total = 0.0
        for start in range(0, len(inputs), _BATCH):
            batch = order[start : start + _BATCH]
            logits = model(torch.from_numpy(inputs[batch].astype(np.int32)))
            bits = level_bits(logits, torch.from_numpy(targets[batch]))
            optimizer.zero_grad()
            bits.mean().backward()
            optimizer.step()
            schedule.step()
            model.limit()
            total += float(bits.detach().sum())
        if report is not None:
            mean = total / len(inputs)
            report(f"level network, {name}: pass {epoch + 1} of {epochs}, {mean:.4f} bits a level")


def fit_level_network(
    images: Sequence[tuple[Planes, int]],
    bundle: Bundle,
    strategist: Strategist,
    *,
    epochs: int = 4,
    most: int = 4_000_000,
    seed: int = 1,
    report: Report | None = None,
) -> Tensors:
    """Train the level network on the levels of coded pictures.

    What counters and mixers learned beside another network no longer fits: run `fit_entropy` again.

    Args:
        images: Planes (int16 [P, H, W]) and quantizer steps.
        bundle: What to code them with; its counters should be trained, so that the levels are those that
            trained costs lead to.
        strategist: Who decides.
        epochs: How often to go through the levels.
        most: Levels to train on at most, an equal share of every picture.
        seed: Of initial weights and order.
        report: Called with lines of progress.

    Returns:
        The bundle's entropy tensors with a new network.
    """
    inputs, targets = [], []
    rng = np.random.default_rng(seed)
    share = -(-most // max(len(images), 1))
    for planes, step in images:
        seen, meant = record_levels(planes, step, bundle, strategist)
        # A limit for each picture keeps the coarse steps, whose levels are few, from being drowned.
        kept = rng.permutation(len(seen))[:share]
        inputs.append(seen[kept])
        targets.append(meant[kept])
    trained = train_network(
        np.concatenate(inputs), np.concatenate(targets), epochs=epochs, seed=seed, report=report
    )
    return {**bundle.entropy, **trained}
