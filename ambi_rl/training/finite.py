"""Training stops at the first number that is not finite, and keeps what led to it."""

from __future__ import annotations

import io
import math
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.files import write_file
from ambi_rl.errors import NotFiniteError
from ambi_rl.training.run_folder import RunFolder

Array = npt.NDArray[Any]


def _batch(buffer: Any, steps: int) -> dict[str, Array]:
    """The first steps of a rollout: observations [T, B, F], actions [T, B, 2], rewards [T, B]."""
    return {name: getattr(buffer, name)[:steps] for name in ("observations", "actions", "rewards")}


class FiniteGuard:
    """Looks at observations and rewards after every step, at losses and weights after every update.

    Args:
        folder: The run folder, where the batch is saved.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._rollout: dict[str, Array] = {}

    def keep(self, agent: Any) -> None:
        """Remember the rollout that is about to be learned from, which its buffer soon forgets."""
        self._rollout = _batch(agent.rollout_buffer, agent.rollout_buffer.buffer_size)

    def check_step(self, agent: Any, seen: dict[str, Any]) -> None:
        """Look at what a step of the environments gave.

        Args:
            agent: Stable-Baselines3 agent.
            seen: Its local variables: new_obs, rewards and actions.

        Raises:
            NotFiniteError: A number is nan or infinite; the rollout so far and this step are saved.
        """
        for name, key in (("reward", "rewards"), ("observation", "new_obs")):
            values = seen[key]
            # A sum is the quickest look at all of them.
            if not math.isfinite(float(values.sum())) and not np.isfinite(values).all():
                where = np.argwhere(~np.isfinite(values))[0]
                step = {"step_actions": seen["actions"], "step_rewards": seen["rewards"]}
                self._stop(
                    agent,
                    f"the {name} of environment {where[0]} is {values[tuple(where)]}",
                    "look at the reward terms and the photographs",
                    _batch(agent.rollout_buffer, agent.rollout_buffer.pos)
                    | step
                    | {"step_observations": seen["new_obs"]},
                )

    def check_update(self, agent: Any) -> None:
        """Look at the losses that were logged and at the weights.

        Raises:
            NotFiniteError: A number is nan or infinite; the rollout that was learned from is saved.
        """
        for key, value in agent.logger.name_to_value.items():
            # Explained variance is undefined where all returns are equal.
            if key.startswith("train/") and "loss" in key and not math.isfinite(value):
                what = f"{key} is {value}"
                self._stop(agent, what, "lower agent.learning_rate", self._rollout)
        for name, tensor in agent.policy.state_dict().items():
            if not bool(tensor.isfinite().all()):
                what = f"the weights {name} are not finite"
                self._stop(agent, what, "lower agent.learning_rate", self._rollout)

    def _stop(self, agent: Any, what: str, advice: str, batch: dict[str, Array]) -> NoReturn:
        stop_not_finite(
            self._folder,
            steps=int(agent.num_timesteps),
            unit="decisions",
            what=what,
            advice=advice,
            batch=batch,
        )


def stop_not_finite(
    folder: RunFolder,
    *,
    steps: int,
    unit: str,
    what: str,
    advice: str,
    batch: dict[str, Array],
) -> NoReturn:
    """End a run, and keep what led to it.

    Args:
        folder: Of the run.
        steps: How far the run is.
        unit: What it counts.
        what: Which number is not finite.
        advice: What to change.
        batch: What was learned from, to be saved in the folder.

    Raises:
        NotFiniteError: Always.
    """
    path = folder.path / f"not-finite-{steps}.npz"
    stream = io.BytesIO()
    arrays: dict[str, Any] = {"step": np.int64(steps), **batch}
    np.savez_compressed(stream, **arrays)
    write_file(path, stream.getvalue())
    kept = (
        f"the last good checkpoint is {folder.last}"
        if folder.last.exists()
        else "no checkpoint yet"
    )
    raise NotFiniteError(
        f"training stopped at {steps:,} {unit}: {what}; {advice}. The batch is in {path}; {kept}"
    )
