"""A batch of running episodes: the one place where patches, the block kernel and the reward meet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.color import planes_to_rgb
from ambi_rl.codec.process import BlockCodingBatch, Rate
from ambi_rl.codec.warmup import announce, ensure_compiled
from ambi_rl.data import PatchSource, PhotographSource, list_photographs, split_held_out
from ambi_rl.data.source import Patch
from ambi_rl.errors import ConfigError, UsageError
from ambi_rl.metrics.fidelity import PEAK
from ambi_rl.rewards import Reward, StepTerms
from ambi_rl.rewards.competition import PatchPool

Observations = npt.NDArray[np.float32]
Masks = npt.NDArray[np.bool_]
Split = Literal["train", "held_out", "all"]

DEFAULT_WEIGHTS = {"rate": 1.0, "sse": 1.0}
"""Plain rate-distortion: the episode's return is −J/λ in bits per pixel."""

_MULTIPLE = 4


class StepResult(NamedTuple):
    """What one decision in every episode led to.

    Attributes:
        rewards: float64 [B]; episode terms are not in it yet, see `Episodes.finish`.
        terms: Unweighted reward terms of the step.
        bits: float64 [B], bits of the decision and its levels.
        sse: float64 [B], squared error of the block (8-bit code values), 0 for a split.
        done: bool [B].
    """

    rewards: npt.NDArray[np.float64]
    terms: StepTerms
    bits: npt.NDArray[np.float64]
    sse: npt.NDArray[np.float64]
    done: Masks


def make_source(
    photographs: str | Path | list[str] | None = None,
    *,
    split: Split = "train",
    held_out_every: int = 10,
    patch_size: int = 64,
    qualities: tuple[float, float] = (30.0, 92.0),
    texture: float = 0.5,
) -> PhotographSource:
    """The patches of one side of the division into training and held-out photographs.

    Args:
        photographs: Folder or folders, or picture files; None for the shipped photographs.
        split: Which side; "all" for both.
        held_out_every: See `ambi_rl.data.split_held_out`.
        patch_size: Side of a patch, a multiple of 4 and at least 16.
        qualities: Lowest and highest quality.
        texture: 0 draws positions uniformly, 1 in proportion to texture.

    Raises:
        ConfigError: A value is impossible or there are no usable photographs.
    """
    if patch_size < 16 or patch_size % _MULTIPLE:
        raise ConfigError(f"patch_size is {patch_size}; give a multiple of {_MULTIPLE}, 16 or more")
    paths = list_photographs(photographs)
    if split != "all":
        train, held_out = split_held_out(paths, held_out_every)
        paths = train if split == "train" else held_out
    return PhotographSource(paths, patch_size, qualities, texture=texture)


class Episodes:
    """B episodes that advance together, one quadtree node each per step.

    Args:
        batch: Number of episodes B.
        source: Where patches come from.
        bundle: The codec: its lists, entropy state and λ.
        weights: Settings of the reward, see `Reward`; `DEFAULT_WEIGHTS` if None.
        threads: Threads of the compiled step; all cores if None.
        rate: How bits are counted, see `BlockCodingBatch`.

    Attributes:
        observations: float32 [B, F], of each current node; a new array after every step.
        masks: bool [B, S+1+O], valid choices; a new array after every step.
        patches: What each episode codes.
    """

    def __init__(
        self,
        batch: int,
        source: PatchSource,
        bundle: Bundle,
        weights: Mapping[str, Any] | None = None,
        *,
        threads: int | None = None,
        rate: Rate = "model",
    ) -> None:
        ensure_compiled("train", report=announce)
        size = source.patch_size
        self.batch = batch
        self.source = source
        self.reward = Reward(DEFAULT_WEIGHTS if weights is None else weights)
        self.reward.prepare(source, bundle)
        competition = self.reward.competition
        self._pool = None if competition is None else PatchPool(source, competition.patches)
        self.pixels = size * size
        self.process = BlockCodingBatch(batch, size, size, bundle, threads=threads, rate=rate)
        self.num_decisions = self.process.num_decisions
        self.num_offsets = self.process.num_offsets
        self._choices = np.array([self.num_decisions, self.num_offsets])
        self.patches: list[Patch | None] = [None] * batch
        self._lagrangian = np.ones(batch)
        self._totals = np.zeros((4, batch))
        self._lengths = np.zeros(batch, np.int64)
        self._allocate()

    def _allocate(self) -> None:
        # New arrays: learners keep the observation of a step while the next one is made.
        self.observations = np.zeros((self.batch, self.process.observation_size), np.float32)
        self.masks = np.ones((self.batch, self.num_decisions + self.num_offsets), np.bool_)

    @property
    def observation_space(self) -> spaces.Box:
        """Space of one observation, float32 [F]."""
        return spaces.Box(-np.inf, np.inf, (self.process.observation_size,), np.float32)

    @property
    def action_space(self) -> spaces.MultiDiscrete:
        """Space of one action: 0 = split or 1 + strategy, and the index of the quantization offset."""
        return spaces.MultiDiscrete([self.num_decisions, self.num_offsets])

    def set_bundle(self, bundle: Bundle) -> None:
        """Begin later episodes with another bundle's entropy state; those that run go on with theirs.

        Args:
            bundle: With the same strategies and offsets as the present one.
        """
        self.process.use_bundle(bundle)

    def sample(self, rng: np.random.Generator, **given: Any) -> Patch:
        """Draw what an episode codes: from the source, or in a competition from a pool that comes again.

        Args:
            rng: Where chance comes from.
            given: What is not to be drawn, see `PhotographSource.sample`.
        """
        if self._pool is not None and not any(value is not None for value in given.values()):
            return self._pool.sample(rng)
        return self.source.sample(rng, **given)

    def begin(self, index: int, patch: Patch) -> None:
        """Start an episode; call `observe` after the last one that is started."""
        self.patches[index] = patch
        self.process.load(index, patch.planes, patch.step)
        self._lagrangian[index] = self.process.lagrangian(index)
        self._totals[:, index] = 0.0
        self._lengths[index] = 0

    def observe(self) -> None:
        """Look at every episode's current node: fills `observations` and `masks`."""
        self._allocate()
        self.process.observe(self.observations, self.masks)

    def step(self, actions: npt.NDArray[np.integer]) -> StepResult:
        """Take a decision in every episode, none of which is done.

        Args:
            actions: Integers [B, 2], see `action_space`. An invalid choice is coded as the nearest valid
                one: the split of a 4x4 block as the strategy of least estimated cost.

        Raises:
            UsageError: An action is not in the action space.
        """
        # Compiled code does not check bounds.
        if actions.min() < 0 or (actions.max(axis=0) >= self._choices).any():
            raise UsageError(
                f"an action is outside MultiDiscrete({self._choices.tolist()}): {actions.tolist()}"
            )
        process = self.process
        process.step(actions[:, 0], actions[:, 1])
        terms = self.reward.step_terms(
            process.bits, process.error, process.chroma_error, self._lagrangian, self.pixels
        )
        self._totals[0] += process.bits
        self._totals[1] += process.error
        self._totals[2] += self.reward.of_step(terms)
        self._totals[3] += process.chroma_error
        self._lengths += 1
        rewards = self.reward.paid_at_once(terms)
        return StepResult(
            rewards, terms, process.bits.copy(), process.error.copy(), process.done.copy()
        )

    def finish(self, index: int) -> tuple[float, dict[str, Any]]:
        """Close an episode that is done, before another one begins in its place.

        Returns:
            What the end of the episode adds to the reward of the last step; and what there is to say of the
            episode: bits, bpp, sse, psnr in dB, quality, photograph, decisions, return, the terms, each in
            bits per pixel, and what `Reward.close` has to say.
        """
        patch = self._patch(index)
        bits, sse, total, chroma = (float(value) for value in self._totals[:, index])
        unit = float(self._lagrangian[index]) * self.pixels
        terms = {"rate": bits / self.pixels, "sse": sse / unit, "chroma": chroma / unit}
        reward = self.reward
        extra, closed = 0.0, {"return": total}
        if reward.needs_picture or reward.constraint is not None or reward.competition is not None:
            original, decoded = self.original(index), self.decoded(index)
            late = reward.episode_terms(original, decoded, patch.step)
            terms |= late
            score = total + reward.of_episode(late)
            closed = reward.close(patch, score, bits / self.pixels, original, decoded)
            extra = closed["return"] - (0.0 if reward.competition is not None else total)
        return extra, closed | {
            "bits": bits,
            "bpp": bits / self.pixels,
            "sse": sse,
            "psnr": 10 * math.log10(PEAK**2 * self.pixels / max(sse, 1e-9)),
            "quality": patch.quality,
            "photograph": patch.name,
            "decisions": int(self._lengths[index]),
            "terms": terms,
        }

    def state(self) -> dict[str, Any]:
        """Everything the running episodes are, to go on from exactly: arrays, numbers and strings."""
        return {
            "process": self.process.state(),
            # The planes are the process's source.
            "patches": [list(self._patch(index)[1:]) for index in range(self.batch)],
            "lagrangian": self._lagrangian.copy(),
            "totals": self._totals.copy(),
            "lengths": self._lengths.copy(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, with the bundle in use that was in use then.

        Raises:
            UsageError: It is the state of another number or size of patches, or of another version.
        """
        self.process.restore(state["process"])
        self.patches = [
            Patch(self.process.source(index), *facts)
            for index, facts in enumerate(state["patches"])
        ]
        self._lagrangian[:] = state["lagrangian"]
        self._totals[:] = state["totals"]
        self._lengths[:] = state["lengths"]
        self.observe()

    def close(self) -> None:
        """Stop the threads."""
        self.process.close()
        self.source.close()

    def _patch(self, index: int) -> Patch:
        patch = self.patches[index]
        if patch is None:
            raise RuntimeError("no episode has begun; call reset first")
        return patch

    def original(self, index: int) -> npt.NDArray[np.uint8]:
        """The patch as it was, uint8 [H, W, 3]."""
        return planes_to_rgb(self._patch(index).planes)

    def decoded(self, index: int) -> npt.NDArray[np.uint8]:
        """The patch as it is decoded so far, uint8 [H, W, 3]."""
        return planes_to_rgb(self.process.reconstruction(index))
