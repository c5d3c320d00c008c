"""The native batched environment: many patches advance inside one compiled call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ambi_rl.codec.api import resolve_bundle
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.process import Rate
from ambi_rl.data import PatchSource
from ambi_rl.envs.episodes import Episodes, Split, make_source
from ambi_rl.envs.render import render_episode
from ambi_rl.errors import ConfigError


class BlockCodingVectorEnv(
    VectorEnv[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[Any]]
):
    """`num_envs` times `BlockCodingEnv`, stepped together on all cores.

    Environment i behaves exactly as a `BlockCodingEnv` that is reset with seed + i: same patches, same
    observations, same rewards. A finished episode is followed by the next one in the same step
    (`AutoresetMode.SAME_STEP`): the observation is the new episode's, `infos["final_info"]` has what the
    single environment would have said.

    Args:
        num_envs: How many.
        threads: Threads of the compiled step; all cores if None.
        photographs: This and what follows: as for `BlockCodingEnv`.
        split: Side of the division into training and held-out photographs.
        held_out_every: Every how many photographs one is held out.
        patch_size: Side of a patch in pixels.
        qualities: Range that qualities are drawn from.
        texture: How much textured places are preferred.
        weights: Settings of the reward: weights by term, and more (`ambi_rl.rewards.Reward`).
        bundle: Codec bundle or its path.
        rate: How bits are counted.
        source: As for `BlockCodingEnv`; what a stream gives an environment depends on the others.
        render_mode: "rgb_array" draws every environment.

    `infos` of a step: arrays [B] bits, sse, and the terms rate, sse and chroma of the reward under `terms`.

    Raises:
        ConfigError: A value is impossible or there are no usable photographs.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as Gymnasium declares it
        "render_modes": ["rgb_array"],
        "render_fps": 10,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        threads: int | None = None,
        photographs: str | Path | list[str] | None = None,
        split: Split = "train",
        held_out_every: int = 10,
        patch_size: int = 64,
        qualities: tuple[float, float] = (30.0, 92.0),
        texture: float = 0.5,
        weights: Mapping[str, Any] | None = None,
        bundle: Bundle | str | Path | None = None,
        rate: Rate = "model",
        source: PatchSource | None = None,
        render_mode: Literal["rgb_array"] | None = None,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs}; give 1 or more")
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is {render_mode!r}; it can be 'rgb_array' or None")
        source = source or make_source(
            photographs,
            split=split,
            held_out_every=held_out_every,
            patch_size=patch_size,
            qualities=qualities,
            texture=texture,
        )
        self.episodes = Episodes(
            num_envs, source, resolve_bundle(bundle), weights, threads=threads, rate=rate
        )
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = self.episodes.observation_space
        self.single_action_space = self.episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np_random(None)[0] for _ in range(num_envs)]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin an episode everywhere.

        Args:
            seed: Environment i gets seed + i, or the i-th of a sequence; None goes on with the generators.
            options: `reset_mask`, bool [B]: only these begin anew.
        """
        if seed is not None:
            seeds = (
                [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
            )
            if len(seeds) != self.num_envs:
                raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} environments")
            for i, value in enumerate(seeds):
                if value is not None:
                    self._generators[i] = np_random(value)[0]
        given = dict(options or {})
        mask = given.pop("reset_mask", None)
        if given:
            raise ConfigError(f"reset has no option {next(iter(given))!r}; it has reset_mask")
        for index in range(self.num_envs) if mask is None else np.flatnonzero(mask):
            self._begin(int(index))
        self.episodes.observe()
        patches = [self.episodes.patches[index] for index in range(self.num_envs)]
        begun = [patch for patch in patches if patch is not None]
        return self.episodes.observations, {
            "photograph": np.array([patch.name for patch in begun], dtype=object),
            "quality": np.array([patch.quality for patch in begun]),
            "position": np.array([(patch.y, patch.x) for patch in begun]),
        }

    def _begin(self, index: int) -> None:
        self.episodes.begin(index, self.episodes.sample(self._generators[index]))

    def step(
        self, actions: npt.NDArray[np.int64]
    ) -> tuple[
        npt.NDArray[np.float32],
        npt.NDArray[np.float64],
        npt.NDArray[np.bool_],
        npt.NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Decide the current node of every environment.

        Args:
            actions: Integers [B, 2].
        """
        result = self.episodes.step(actions)
        rewards = result.rewards
        infos: dict[str, Any] = {
            "bits": result.bits,
            "sse": result.sse,
            "terms": result.terms._asdict(),
        }
        finished = np.flatnonzero(result.done)
        if finished.size:
            summaries = np.full(self.num_envs, None, dtype=object)
            for index in finished:
                extra, summaries[index] = self.episodes.finish(int(index))
                rewards[index] += extra
                self._begin(int(index))
            # Gymnasium's layout: a value for each environment and `_key`, which says whose are valid.
            zeros = np.zeros(self.single_observation_space.shape or (), np.float32)
            final_obs = np.full(self.num_envs, None, dtype=object)
            for index in finished:
                final_obs[index] = zeros
            infos["final_obs"], infos["_final_obs"] = final_obs, result.done
            infos["final_info"] = {"episode_summary": summaries, "_episode_summary": result.done}
            infos["_final_info"] = result.done
        self.episodes.observe()
        truncated = np.zeros(self.num_envs, np.bool_)
        return self.episodes.observations, rewards, result.done, truncated, infos

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid choices for every current node, bool [B, S+1+O]."""
        return self.episodes.masks

    def set_bundle(self, bundle: Bundle) -> None:
        """Begin later episodes with the entropy state of another bundle of the same lists."""
        self.episodes.set_bundle(bundle)

    def state(self) -> dict[str, Any]:
        """Running episodes, generators and the data's position: arrays, numbers and strings."""
        return {
            "source": self.episodes.source.state(),
            "episodes": self.episodes.state(),
            "generators": [generator.bit_generator.state for generator in self._generators],
        }

    def restore(self, state: dict[str, Any]) -> npt.NDArray[np.float32]:
        """Go on from what `state` returned, with the bundle in use that was in use then.

        Returns:
            The observation of every current node, float32 [B, F].

        Raises:
            UsageError: It is the state of another number or size of patches, of other data, or of another
                version.
        """
        self.episodes.source.restore(state["source"])
        self.episodes.restore(state["episodes"])
        for generator, known in zip(self._generators, state["generators"], strict=True):
            generator.bit_generator.state = known
        return self.episodes.observations

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:
        """One picture for each environment; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(render_episode(self.episodes, index) for index in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads of the compiled step."""
        self.episodes.close()
