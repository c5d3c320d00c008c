"""All that later steps depend on besides the weights: taken between updates, and put back exactly."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch

from ambi_rl.envs.sb3 import BlockCodingVecEnv


def capture(agent: Any, env: BlockCodingVecEnv) -> dict[str, Any]:
    """The state of a run between an update and the next rollout.

    Args:
        agent: Stable-Baselines3 agent whose episodes have begun.
        env: Its environments.

    Returns:
        Nested dictionaries and lists of arrays, numbers and strings.
    """
    numpy_state: dict[str, Any] = dict(np.random.get_state(legacy=False))  # noqa: NPY002 - the learner's
    return {
        "random": {
            "python": random.getstate(),
            "numpy": numpy_state,
            "torch": torch.get_rng_state().numpy().copy(),
        },
        "environment": env.vector.state(),
        "agent": {
            "updates": int(agent._n_updates),
            "episode_starts": np.array(agent._last_episode_starts),
            # What is logged of the last update and of recent episodes goes on, too.
            "episodes": list(agent.ep_info_buffer or ()),
            "log": {
                key: (float(value), agent.logger.name_to_excluded[key])
                for key, value in agent.logger.name_to_value.items()
                if isinstance(value, int | float | np.number)
            },
        },
    }


def put_back(agent: Any, env: BlockCodingVecEnv, state: dict[str, Any]) -> None:
    """Go on from what `capture` returned; the last thing to do before learning goes on.

    Args:
        agent: Its weights and optimizer are put back already.
        env: With the bundle in use that was in use then.
        state: Of `capture`.

    Raises:
        UsageError: It is of other environments; nothing was changed.
    """
    agent._last_obs = env.vector.restore(state["environment"])
    own = state["agent"]
    agent._last_episode_starts = own["episode_starts"]
    agent._n_updates = own["updates"]
    agent.ep_info_buffer = deque(own["episodes"], maxlen=agent._stats_window_size)
    agent.ep_success_buffer = deque(maxlen=agent._stats_window_size)
    for key, (value, excluded) in own["log"].items():
        agent.logger.record(key, value, excluded)
    random.setstate(state["random"]["python"])
    np.random.set_state(state["random"]["numpy"])  # noqa: NPY002
    torch.set_rng_state(torch.from_numpy(state["random"]["torch"]))
