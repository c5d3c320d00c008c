"""Warm start: the policy first learns to decide as a search strategist does.

First on what the teacher itself comes across (behavioural cloning), then also on what the policy comes
across when it decides (DAgger; Ross, Gordon and Bagnell 2011): a policy that errs sees neighbours and borders
that no teacher leaves behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ambi_rl.agents.credit import learning_scale, subtree_returns
from ambi_rl.agents.policy import ObservationNormalizer, policy_logits, policy_values
from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import planes_to_rgb
from ambi_rl.codec.frame import Decision, encode_frame
from ambi_rl.codec.process import BlockCodingBatch
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.strategists import Strategist, for_search
from ambi_rl.data import PatchSource
from ambi_rl.data.source import Patch
from ambi_rl.rewards import Reward

SPLIT = 0
_BATCH = 128
"""Patches replayed at a time."""
_GLANCE = for_search(5)
"""Who encodes a patch first, so that it is known what goes wrong where."""

Report = Callable[[float], None]


@dataclass(frozen=True)
class Demonstrations:
    """What a teacher saw and decided.

    Attributes:
        observations: float32 [N, F].
        masks: bool [N, S+1+O].
        decisions: int64 [N], 0 = split, else 1 + strategy.
        offsets: int64 [N], index of the quantization offset; of no meaning for a split.
        returns: float32 [N], what the value function should say.
        patches: int64 [N], which patch.
    """

    observations: npt.NDArray[np.float32]
    masks: npt.NDArray[np.bool_]
    decisions: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    returns: npt.NDArray[np.float32]
    patches: npt.NDArray[np.int64]

    @staticmethod
    def join(parts: Sequence[Demonstrations]) -> Demonstrations:
        """One after the other; patches keep their numbers."""
        return Demonstrations(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Demonstrations)
            )
        )

    def select(self, rows: npt.NDArray[Any]) -> Demonstrations:
        """The demonstrations of an index array or mask."""
        return Demonstrations(*(getattr(self, field.name)[rows] for field in fields(self)))


def decision_sequence(
    decisions: Sequence[Decision], height: int, width: int, neutral: int
) -> npt.NDArray[np.int32]:
    """The steps that lead to given leaves, in coding order.

    Args:
        decisions: The leaves, in any order, covering the picture.
        height: Of the picture, a multiple of 4.
        width: Likewise.
        neutral: Offset index to give a split.

    Returns:
        int32 [T, 2]: 0 or 1 + strategy, and the offset's index. Nodes that cross the border are split
        without a step.
    """
    leaves = {(leaf.y, leaf.x): leaf for leaf in decisions}
    steps: list[tuple[int, int]] = []

    def visit(y: int, x: int, size: int) -> None:
        if y >= height or x >= width:
            return
        leaf = leaves.get((y, x))
        if leaf is not None and leaf.size == size:
            steps.append((leaf.strategy + 1, leaf.offset))
            return
        if y + size <= height and x + size <= width:
            steps.append((SPLIT, neutral))
        half = size // 2
        for quarter in range(4):
            visit(y + half * (quarter // 2), x + half * (quarter % 2), half)

    for y in range(0, height, tables.SUPERBLOCK):
        for x in range(0, width, tables.SUPERBLOCK):
            visit(y, x, tables.SUPERBLOCK)
    return np.array(steps, np.int32)


def _returns_to_go(rewards: npt.NDArray[Any], gamma: float) -> npt.NDArray[np.float64]:
    out = np.zeros(rewards.shape)
    following = np.zeros(rewards.shape[1])
    for t in range(rewards.shape[0] - 1, -1, -1):
        following = rewards[t] + gamma * following
        out[t] = following
    return out


def _replay(
    patches: Sequence[Patch],
    sequences: Sequence[npt.NDArray[np.int32]],
    process: BlockCodingBatch,
    reward: Reward,
    *,
    tree_credit: bool,
    gamma: float,
    first: int,
) -> Demonstrations:
    """Take the decisions again, in the environment's own process, and note what it shows."""
    count = len(patches)
    lengths = np.array([len(sequence) for sequence in sequences])
    steps = int(lengths.max())
    actions = np.ones((steps, process.batch, 2), np.int32)
    for index, sequence in enumerate(sequences):
        actions[: len(sequence), index] = sequence
    lagrangian = np.ones(process.batch)
    pixels = process.height * process.width
    for index, patch in enumerate(patches):
        process.load(index, patch.planes, patch.step)
        lagrangian[index] = process.lagrangian(index)
    choices = process.num_decisions + process.num_offsets
    observations = np.zeros((steps, process.batch, process.observation_size), np.float32)
    masks = np.ones((steps, process.batch, choices), np.bool_)
    rewards = np.zeros((steps, process.batch))
    for t in range(steps):
        process.observe(observations[t], masks[t])
        process.step(actions[t, :, 0], actions[t, :, 1])
        terms = reward.step_terms(
            process.bits, process.error, process.chroma_error, lagrangian, pixels
        )
        rewards[t] = reward.paid_at_once(terms)
    valid = np.arange(steps)[:, None] < lengths[None, :]
    if not bool(process.done[:count].all()):
        raise RuntimeError("the teacher's decisions do not cover the patch")
    rewards[:, :count] *= learning_scale(observations[:, :count], pixels)
    rewards = np.where(valid, rewards[:, :count], 0.0)
    if tree_credit:
        returns, _ = subtree_returns(rewards, (actions[:, :count, 0] == SPLIT) & valid)
    else:
        returns = _returns_to_go(rewards, gamma)
    number = np.broadcast_to(np.arange(first, first + count), valid.shape)
    return Demonstrations(
        observations[:, :count][valid],
        masks[:, :count][valid],
        actions[:, :count, 0][valid].astype(np.int64),
        actions[:, :count, 1][valid].astype(np.int64),
        returns[valid].astype(np.float32),
        number[valid].astype(np.int64),
    )


def importance_of(patch: Patch, bundle: Bundle, reward: Reward) -> npt.NDArray[np.float32] | None:
    """Where errors in a patch matter to a reward: float32 [H/4, W/4], or None if it is the codec's own cost.

    Args:
        patch: The patch.
        bundle: The codec.
        reward: See `Reward.importance`.
    """
    if not reward.steers_teacher:
        return None
    if not reward.weighs_places:
        return reward.uniform_importance(*patch.planes.shape[1:])
    lagrangian = float(bundle.manifest["lambda_scale"]) * (patch.step / STEP_SCALE) ** 2
    glance = encode_frame(patch.planes, patch.step, bundle, _GLANCE)
    original, decoded = planes_to_rgb(patch.planes), planes_to_rgb(glance.planes)
    return reward.importance(original, decoded, patch.step, lagrangian)


def collect_demonstrations(
    source: PatchSource,
    bundle: Bundle,
    teacher: Strategist,
    reward: Reward,
    *,
    count: int,
    seed: int,
    tree_credit: bool,
    gamma: float,
    threads: int | None = None,
    report: Report | None = None,
) -> Demonstrations:
    """Let a teacher encode random patches and note what it decided where.

    The quality of every patch is drawn as in the environment, so one policy learns all of them.

    Args:
        source: Where patches come from.
        bundle: The codec.
        teacher: Usually a search.
        reward: What the teacher heeds (`Reward.importance`), and for the value function, which leaves out
            terms of finished pictures.
        count: Number of patches.
        seed: Of the patches.
        tree_credit: Whether returns are those of subtrees (`ambi_rl.agents.credit`) or of steps.
        gamma: Discount of returns over steps.
        threads: Encoders that run side by side; one for each core if None.
        report: Called with the fraction done.
    """
    rng = np.random.default_rng(seed)
    patches = [source.sample(rng) for _ in range(count)]
    size = source.patch_size
    neutral = bundle.offsets.index(0)

    def teach(patch: Patch) -> npt.NDArray[np.int32]:
        frame = encode_frame(
            patch.planes,
            patch.step,
            bundle,
            teacher,
            importance=importance_of(patch, bundle, reward),
        )
        return decision_sequence(frame.decisions, size, size, neutral)

    process = BlockCodingBatch(min(_BATCH, count), size, size, bundle, threads=threads)
    parts: list[Demonstrations] = []
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        taught = pool.map(teach, patches)
        for first in range(0, count, _BATCH):
            some = patches[first : first + _BATCH]
            sequences = []
            for _ in some:
                sequences.append(next(taught))
                if report is not None:
                    report((first + len(sequences)) / count)
            part = _replay(
                some,
                sequences,
                process,
                reward,
                tree_credit=tree_credit,
                gamma=gamma,
                first=first,
            )
            parts.append(part)
    process.close()
    return Demonstrations.join(parts)


def collect_visited(
    policy: Any,
    source: PatchSource,
    bundle: Bundle,
    teacher: Strategist,
    reward: Reward,
    *,
    masked: bool,
    count: int,
    first: int,
    seed: int,
    tree_credit: bool,
    gamma: float,
    threads: int | None = None,
    report: Report | None = None,
) -> Demonstrations:
    """Let the policy encode random patches and note what a teacher would have decided at each node.

    Args:
        policy: Decides as it would when exported.
        source: Where patches come from.
        bundle: The codec.
        teacher: A search.
        reward: As for `collect_demonstrations`, but the returns are those of the policy.
        masked: Whether the agent masks invalid choices.
        count: Number of patches.
        first: Number of the first patch.
        seed: Of the patches.
        tree_credit: See `collect_demonstrations`; likewise gamma and threads.
        gamma: Discount of returns over steps.
        threads: Threads of the compiled step; all cores if None.
        report: Called with the fraction done.
    """
    rng = np.random.default_rng(seed)
    size = source.patch_size
    process = BlockCodingBatch(min(_BATCH, count), size, size, bundle, threads=threads)
    parts: list[Demonstrations] = []
    for start in range(0, count, process.batch):
        patches = [source.sample(rng) for _ in range(min(process.batch, count - start))]
        part = _visit(policy, patches, process, teacher, reward, masked, tree_credit, gamma)
        parts.append(replace(part, patches=part.patches + first + start))
        if report is not None:
            report((start + len(patches)) / count)
    process.close()
    return Demonstrations.join(parts)


def _importances(
    patches: Sequence[Patch], process: BlockCodingBatch, reward: Reward
) -> npt.NDArray[np.float32] | None:
    """Importance maps [B, H/4, W/4] for the patches that a batch codes; see `importance_of`."""
    if not reward.steers_teacher:
        return None
    maps = np.ones((process.batch, process.height // 4, process.width // 4), np.float32)
    for index, patch in enumerate(patches):
        maps[index] = importance_of(patch, process.bundle, reward)
    return maps


def _visit(
    policy: Any,
    patches: Sequence[Patch],
    process: BlockCodingBatch,
    teacher: Strategist,
    reward: Reward,
    masked: bool,
    tree_credit: bool,
    gamma: float,
) -> Demonstrations:
    """Code patches, at most one for each process, as the policy decides; note the teacher's advice."""
    pixels = process.height * process.width
    lagrangian = np.ones(process.batch)
    for index, patch in enumerate(patches):
        process.load(index, patch.planes, patch.step)
        lagrangian[index] = process.lagrangian(index)
    importance = _importances(patches, process, reward)
    choices = process.num_decisions + process.num_offsets
    steps: list[dict[str, npt.NDArray[Any]]] = []
    while not process.done.all():
        observations = np.zeros((process.batch, process.observation_size), np.float32)
        masks = np.ones((process.batch, choices), np.bool_)
        valid = ~process.done
        process.observe(observations, masks)
        decisions, offsets = process.advise(teacher, importance)
        actions = greedy_actions(policy, observations, masks, process.num_decisions, masked)
        process.step(actions[:, 0], actions[:, 1])
        terms = reward.step_terms(
            process.bits, process.error, process.chroma_error, lagrangian, pixels
        )
        scaled = reward.paid_at_once(terms) * learning_scale(observations, pixels)
        steps.append(
            {
                "observations": observations,
                "masks": masks,
                "decisions": decisions,
                "offsets": offsets,
                "rewards": np.where(valid, scaled, 0.0),
                "split": (process.taken == SPLIT) & valid,
                "valid": valid,
            }
        )
    stacked = {key: np.stack([step[key] for step in steps]) for key in steps[0]}
    if tree_credit:
        returns, _ = subtree_returns(stacked["rewards"], stacked["split"])
    else:
        returns = _returns_to_go(stacked["rewards"], gamma)
    valid = stacked["valid"]
    numbers = np.broadcast_to(np.arange(process.batch), valid.shape)
    return Demonstrations(
        stacked["observations"][valid],
        stacked["masks"][valid],
        stacked["decisions"][valid],
        stacked["offsets"][valid],
        returns[valid].astype(np.float32),
        numbers[valid].astype(np.int64),
    )


@dataclass(frozen=True)
class CloneResult:
    """How well the policy imitates, on patches it was not trained with.

    Attributes:
        decision_accuracy: Share of nodes with the teacher's decision, strategy included.
        split_accuracy: Share of nodes where split or not is the teacher's.
        offset_accuracy: Share of leaves with the teacher's offset.
        loss: Cross-entropy of decisions, nats.
        value_correlation: Correlation of the value function with the returns.
    """

    decision_accuracy: float
    split_accuracy: float
    offset_accuracy: float
    loss: float
    value_correlation: float


def _masked_logits(policy: Any, data: _Tensors, decisions: int, masked: bool) -> tuple[Any, Any]:
    logits = policy_logits(policy, data.observations)
    first, second = logits[:, :decisions], logits[:, decisions:]
    if masked:
        first = first.masked_fill(~data.masks[:, :decisions], -1e8)
    return first, second


@dataclass(frozen=True)
class _Tensors:
    observations: torch.Tensor
    masks: torch.Tensor
    decisions: torch.Tensor
    offsets: torch.Tensor
    returns: torch.Tensor

    @staticmethod
    def of(data: Demonstrations) -> _Tensors:
        return _Tensors(
            torch.as_tensor(data.observations),
            torch.as_tensor(data.masks),
            torch.as_tensor(data.decisions),
            torch.as_tensor(data.offsets),
            torch.as_tensor(data.returns),
        )

    def rows(self, index: torch.Tensor) -> _Tensors:
        return _Tensors(*(getattr(self, field.name)[index] for field in fields(self)))


def clone(
    policy: Any,
    data: Demonstrations,
    *,
    num_decisions: int,
    masked: bool,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    offset_smoothing: float = 0.0,
    further: bool = False,
    report: Report | None = None,
) -> CloneResult:
    """Behavioural cloning: fit policy and value function to demonstrations.

    Sets the policy's observation normalisation from the demonstrations first, unless it was cloned before.

    Args:
        policy: Made with `ambi_rl.agents.policy.policy_arguments`.
        data: At least two patches; every tenth is for validation only.
        num_decisions: S + 1.
        masked: Whether the agent masks invalid choices. Without masks the policy learns that a 4x4 block
            is not split.
        epochs: Passes over the data.
        batch_size: Samples of a gradient step.
        learning_rate: Of Adam at the start; it falls to zero along a cosine.
        seed: Of the order of samples.
        offset_smoothing: Probability that the policy keeps for offsets which the teacher did not choose, so
            that training can still find them.
        further: Whether the policy was cloned before; its normalisation stays.
        report: Called with the fraction done.
    """
    held_out = (
        data.patches % 10 == 9 if data.patches.max() >= 9 else data.patches == data.patches.max()
    )
    train, check = _Tensors.of(data.select(~held_out)), _Tensors.of(data.select(held_out))
    extractor = policy.features_extractor
    if not isinstance(extractor, ObservationNormalizer):
        raise TypeError("the policy has no observation normaliser")
    if not further:
        extractor.fit(data.observations)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    samples = len(train.decisions)
    per_epoch = -(-samples // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    policy.set_training_mode(True)
    for epoch in range(epochs):
        order = torch.randperm(samples, generator=generator)
        for start in range(0, samples, batch_size):
            batch = train.rows(order[start : start + batch_size])
            first, second = _masked_logits(policy, batch, num_decisions, masked)
            loss = nn.functional.cross_entropy(first, batch.decisions)
            leaf = batch.decisions != SPLIT
            if bool(leaf.any()):
                loss = loss + nn.functional.cross_entropy(
                    second[leaf], batch.offsets[leaf], label_smoothing=offset_smoothing
                )
            values = policy_values(policy, batch.observations)
            loss = loss + 0.5 * nn.functional.smooth_l1_loss(values, batch.returns)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        if report is not None:
            report((epoch + 1) / epochs)
    policy.set_training_mode(False)
    return _validate(policy, check, num_decisions, masked)


def _choices(first: torch.Tensor) -> torch.Tensor:
    """As the exported policy decides, from logits [B, S+1]: split or not first, then the strategy."""
    split = first.softmax(dim=1)[:, SPLIT] > 0.5
    return torch.where(split, SPLIT, 1 + first[:, 1:].argmax(dim=1))


@torch.no_grad()
def greedy_actions(
    policy: Any,
    observations: npt.NDArray[np.float32],
    masks: npt.NDArray[np.bool_],
    num_decisions: int,
    masked: bool,
) -> npt.NDArray[np.int64]:
    """The actions that the policy would take when exported, int64 [B, 2].

    Args:
        policy: Of Stable-Baselines3.
        observations: float32 [B, F].
        masks: bool [B, S+1+O].
        num_decisions: S + 1.
        masked: Whether the agent masks invalid choices.
    """
    logits = policy_logits(policy, torch.as_tensor(observations))
    first, second = logits[:, :num_decisions], logits[:, num_decisions:]
    if masked:
        first = first.masked_fill(~torch.as_tensor(masks[:, :num_decisions]), -1e8)
    return torch.stack([_choices(first), second.argmax(dim=1)], dim=1).numpy()


@torch.no_grad()
def _validate(policy: Any, check: _Tensors, num_decisions: int, masked: bool) -> CloneResult:
    first, second = _masked_logits(policy, check, num_decisions, masked)
    chosen = _choices(first)
    leaf = check.decisions != SPLIT
    values = policy_values(policy, check.observations)
    pair = torch.stack([values, check.returns])
    return CloneResult(
        decision_accuracy=float((chosen == check.decisions).float().mean()),
        split_accuracy=float(((chosen == SPLIT) == ~leaf).float().mean()),
        offset_accuracy=float((second[leaf].argmax(dim=1) == check.offsets[leaf]).float().mean()),
        loss=float(nn.functional.cross_entropy(first, check.decisions)),
        value_correlation=float(torch.corrcoef(pair)[0, 1]) if len(values) > 1 else 0.0,
    )
