"""The batched environment as Stable-Baselines3's `VecEnv`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices

from ambi_rl.codec.bundle import Bundle
from ambi_rl.envs.vector import BlockCodingVectorEnv


class BlockCodingVecEnv(VecEnv):
    """Wraps a `BlockCodingVectorEnv`; nothing is done per environment unless its episode ends.

    The info of an ended episode has `terminal_observation` (zeros: there is no node left),
    `episode_summary` (see `BlockCodingEnv`) and `episode` with r, l and t, which Stable-Baselines3 reports;
    other infos are empty.

    Args:
        vector: The environments; they belong to this object from here on.
    """

    def __init__(self, vector: BlockCodingVectorEnv) -> None:
        self.vector = vector
        self.render_mode = vector.render_mode
        super().__init__(
            vector.num_envs, vector.single_observation_space, vector.single_action_space
        )
        self._actions: npt.NDArray[Any] = np.zeros((vector.num_envs, 2), np.int64)
        self._terminal = np.zeros(vector.single_observation_space.shape or (), np.float32)
        self._start = time.time()

    def reset(self) -> npt.NDArray[np.float32]:
        """Begin an episode everywhere, with the seeds of `seed` if they are new."""
        seeds = self._seeds if any(s is not None for s in self._seeds) else None
        observations, _ = self.vector.reset(seed=seeds)
        self._reset_seeds()
        return observations

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Take note of actions, integers [B, 2]."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[
        npt.NDArray[np.float32],
        npt.NDArray[np.float32],
        npt.NDArray[np.bool_],
        list[dict[str, Any]],
    ]:
        """Take the actions; finished environments are reset."""
        observations, rewards, dones, _, info = self.vector.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if "final_info" in info:
            elapsed = round(time.time() - self._start, 6)
            summaries = info["final_info"]["episode_summary"]
            for index in np.flatnonzero(dones):
                summary = summaries[index]
                infos[index] = {
                    "terminal_observation": self._terminal,
                    "TimeLimit.truncated": False,
                    "episode_summary": summary,
                    "episode": {"r": summary["return"], "l": summary["decisions"], "t": elapsed},
                }
        return observations, rewards.astype(np.float32), dones, infos

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Valid choices for every current node, bool [B, S+1+O]."""
        return self.vector.action_masks()

    def set_bundle(self, bundle: Bundle) -> None:
        """Begin later episodes with the entropy state of another bundle of the same lists."""
        self.vector.set_bundle(bundle)

    def close(self) -> None:
        """Stop the threads of the compiled step."""
        self.vector.close()

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """What an environment's method returns, for each index; only `action_masks` is one.

        Raises:
            AttributeError: There is no such method.
        """
        if method_name != "action_masks":
            raise AttributeError(
                f"the environments have no method {method_name!r}, only action_masks"
            )
        masks = self.vector.action_masks()
        return [masks[index] for index in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the environments, the same for each index."""
        value = getattr(self.vector, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused, for the environments share their attributes.

        Raises:
            AttributeError: Always.
        """
        raise AttributeError(
            f"{attr_name!r} cannot be set: the environments share their attributes"
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """False for each index."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """One picture for each environment."""
        return self.vector.render() or [None] * self.num_envs
