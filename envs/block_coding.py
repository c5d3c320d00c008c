"""The single environment: one patch, one decision a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import numpy.typing as npt

from ambi_rl.codec.api import resolve_bundle
from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.process import Rate
from ambi_rl.data import PatchSource
from ambi_rl.envs.episodes import Episodes, Split, make_source
from ambi_rl.envs.render import render_episode
from ambi_rl.errors import ConfigError

_OPTIONS = ("photograph", "quality", "position")


class BlockCodingEnv(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.int64]]):
    """Coding a patch of a photograph, block by block, as the codec itself does.

    An episode is one patch at one quality, both drawn at `reset`. A step decides one quadtree node:

    * action: `MultiDiscrete([S + 1, O])`: 0 splits the node, 1…S codes it as a leaf with that prediction
      strategy; the second number is the quantization offset. `action_masks()` says what is valid; a 4x4
      block cannot be split, and is coded with the strategy of least estimated cost if one says so.
    * observation: float32 [F], what the encoder knows of the node (`codec.strategists.observation`).
    * reward: minus the weighted reward terms of the step (`ambi_rl.rewards`); with weights 1 for rate and
      sse the return is −J/λ of the patch in bits per pixel.
    * info: bits, sse and the unweighted `terms` of the step; after the last one `episode_summary`
      has the sums, bpp and psnr (from the codec's own squared error).

    Args:
        photographs: Folder or folders, or picture files; None for the shipped photographs.
        split: "train", "held_out" or "all" of them.
        held_out_every: Every how many of them is held out, if none is named held-out-….
        patch_size: Side of a patch in pixels, a multiple of 4.
        qualities: Range that qualities are drawn from.
        texture: How much textured places are preferred, 0…1.
        weights: Settings of the reward: weights by term, and more (`ambi_rl.rewards.Reward`).
        bundle: Codec bundle or its path; None for the default.
        rate: "model": bits are exactly those of a file; "estimate": as a search reckons them, twice as fast.
        source: Where patches come from, instead of `photographs`, `split`, `held_out_every`, `patch_size`,
            `qualities` and `texture`: for data that is streamed, see `ambi_rl.data.open_collection`.
        render_mode: "rgb_array" draws original, reconstruction and decisions side by side.

    `reset` takes `options` photograph (path), quality (1…100) and position (row, column), each instead of
    what is drawn.

    Raises:
        ConfigError: A value is impossible or there are no usable photographs.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as Gymnasium declares it
        "render_modes": ["rgb_array"],
        "render_fps": 10,
    }

    def __init__(
        self,
        photographs: str | Path | list[str] | None = None,
        *,
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
        self.episodes = Episodes(1, source, resolve_bundle(bundle), weights, threads=1, rate=rate)
        self.observation_space = self.episodes.observation_space
        self.action_space = self.episodes.action_space
        self.render_mode = render_mode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; see the class for `options`."""
        super().reset(seed=seed)
        given = dict(options or {})
        unknown = [key for key in given if key not in _OPTIONS]
        if unknown:
            raise ConfigError(f"reset has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
        photograph = given.get("photograph")
        patch = self.episodes.sample(
            self.np_random,
            path=None if photograph is None else Path(photograph),
            quality=given.get("quality"),
            position=given.get("position"),
        )
        self.episodes.begin(0, patch)
        self.episodes.observe()
        info = {"photograph": patch.name, "quality": patch.quality, "position": (patch.y, patch.x)}
        return self.episodes.observations[0], info

    def step(
        self, action: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide the current node; after the last one the observation is all zeros."""
        result = self.episodes.step(np.asarray(action).reshape(1, 2))
        reward = float(result.rewards[0])
        done = bool(result.done[0])
        info: dict[str, Any] = {
            "bits": float(result.bits[0]),
            "sse": float(result.sse[0]),
            "terms": {name: float(term[0]) for name, term in result.terms._asdict().items()},
        }
        if done:
            extra, summary = self.episodes.finish(0)
            reward += extra
            info["terms"] |= {k: v for k, v in summary["terms"].items() if k not in info["terms"]}
            info["episode_summary"] = summary
            observation = np.zeros(self.observation_space.shape or (), np.float32)
        else:
            self.episodes.observe()
            observation = self.episodes.observations[0]
        return observation, reward, done, False, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid choices for the current node, bool [S+1+O]."""
        return self.episodes.masks[0]

    def render(self) -> npt.NDArray[np.uint8] | None:
        """Original, reconstruction and decisions, uint8 [H', W', 3]; None without a render mode."""
        return render_episode(self.episodes, 0) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Stop the threads of the compiled step."""
        self.episodes.close()
