"""Prints node decisions per second: single environment, batched environment, and PPO end to end.

Usage: scripts/bench_env.py [SECONDS]

"model" counts bits exactly as a file has them, "estimate" (what training uses) as the search reckons them.
CPU time per decision is printed beside, for it hardly depends on what else the machine does.

Actions are random. "split half": a node that can be split is, with probability ½, else each strategy is
equally likely, which gives block sizes like a real encoding. "uniform": every valid choice of the action
space is equally likely, so that nearly all blocks are 32x32. "raw": uniform without masks, where the split
of a 4x4 block is coded as the nearest valid choice. PPO is the default configuration's
agent after a short imitation, updates included.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from inspect import signature
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from hydra import compose, initialize_config_module

from ambi_rl.agents.algorithms import build_agent
from ambi_rl.agents.imitation import clone, collect_demonstrations
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.process import RATES, Rate
from ambi_rl.codec.strategists import for_search
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.envs import BlockCodingEnv, BlockCodingVectorEnv
from ambi_rl.envs.sb3 import BlockCodingVecEnv
from ambi_rl.rewards import Reward
from ambi_rl.training.config import PPOConfig, TrainConfig, register, to_config

Actions = npt.NDArray[np.int64]
Masks = npt.NDArray[np.bool_]
BATCH = 128
_SHARED = frozenset(signature(build_agent).parameters)
"""Keys of the configuration that an agent is built from."""


def random_actions(masks: Masks, decisions: int, kind: str, rng: np.random.Generator) -> Actions:
    """Actions int64 [B, 2] of one of the kinds above."""
    score = rng.random(masks.shape)
    if kind != "raw":
        score *= masks
    if kind == "split half":
        score[:, 0] = 2 * (rng.random(len(masks)) < 0.5) * masks[:, 0]
    return np.stack([score[:, :decisions].argmax(1), score[:, decisions:].argmax(1)], axis=1)


def measure(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Decisions per second of calls that return how many they took, and CPU microseconds for each."""
    for _ in range(20):
        step()
    start, before, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        count += step()
    elapsed, busy = time.perf_counter() - start, time.process_time() - before
    return count / elapsed, 1e6 * busy / count


def bench_single(kind: str, rate: Rate, seconds: float) -> tuple[float, float]:
    env = BlockCodingEnv(rate=rate)
    env.reset(seed=1)
    rng = np.random.default_rng(1)

    def step() -> int:
        masks = env.action_masks()[None]
        action = random_actions(masks, env.episodes.num_decisions, kind, rng)[0]
        if env.step(action)[2]:
            env.reset()
        return 1

    return measure(step, seconds)


def bench_batch(kind: str, rate: Rate, seconds: float) -> tuple[float, float]:
    env = BlockCodingVectorEnv(BATCH, rate=rate)
    env.reset(seed=1)
    rng = np.random.default_rng(1)

    def step() -> int:
        env.step(random_actions(env.action_masks(), env.episodes.num_decisions, kind, rng))
        return BATCH

    return measure(step, seconds)


def configured() -> PPOConfig:
    """The default `agent` group of the configuration."""
    register()
    with initialize_config_module("ambi_rl.conf", version_base="1.3"):
        config = to_config(compose("config", ["name=bench"]))
    assert isinstance(config, TrainConfig)
    assert isinstance(config.agent, PPOConfig)
    return config.agent


class Stopwatch:
    """Adds up the seconds that an object's method takes, under the method's name.

    Args:
        owner: The object.
        name: Of its method, which is replaced.
    """

    def __init__(self, owner: Any, name: str) -> None:
        """Put itself between."""
        self.seconds = 0.0
        self._method = getattr(owner, name)
        setattr(owner, name, self._call)

    def _call(self, *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._method(*arguments, **named)
        finally:
            self.seconds += time.perf_counter() - start


def bench_ppo(seconds: float) -> tuple[float, dict[str, float]]:
    """Decisions per second, updates included, and the shares of time by what is done."""
    agent = configured()
    env = BlockCodingVecEnv(BlockCodingVectorEnv(BATCH, rate="estimate"))
    shared = {key: value for key, value in vars(agent).items() if key in _SHARED}
    model = build_agent(env=env, pixels=64 * 64, tree_credit=True, seed=1, **shared)
    # Decisions of a policy that knows nothing are nearly all 32x32 blocks; a configured run imitates first.
    data = collect_demonstrations(
        env.vector.episodes.source,
        default_bundle(),
        for_search(5),
        Reward({"rate": 1.0, "sse": 1.0}),
        count=400,
        seed=1,
        tree_credit=True,
        gamma=1.0,
    )
    clone(
        model.policy,
        data,
        num_decisions=env.vector.episodes.num_decisions,
        masked=True,
        epochs=4,
        batch_size=256,
        learning_rate=2e-3,
        seed=1,
    )
    rollout = agent.n_steps * BATCH
    model.learn(rollout)
    process = env.vector.episodes.process
    watches = {
        "look at nodes": Stopwatch(process, "observe"),
        "code blocks": Stopwatch(process, "step"),
        "environment": Stopwatch(env, "step_wait"),
        "rollout": Stopwatch(model, "collect_rollouts"),
        "update": Stopwatch(model, "train"),
    }
    start, before = time.perf_counter(), model.num_timesteps
    while time.perf_counter() - start < seconds:
        model.learn(rollout, reset_num_timesteps=False)
    elapsed = time.perf_counter() - start
    spent = {name: watch.seconds / elapsed for name, watch in watches.items()}
    inside = spent["look at nodes"] + spent["code blocks"]
    shares = {
        "look at nodes": spent["look at nodes"],
        "code blocks": spent["code blocks"],
        "the rest of the environment": spent["environment"] - inside,
        "policy's decisions": spent["rollout"] - spent["environment"],
        "update": spent["update"],
    }
    return (model.num_timesteps - before) / elapsed, shares


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    # As a training run does.
    torch.set_num_threads(1)
    ensure_compiled("train", report=print)
    print(f"node decisions/s (CPU µs each), 64x64 patches, {os.cpu_count()} cores, batch {BATCH}")
    for rate in RATES:
        for kind in ("split half", "uniform", "raw"):
            for name, bench in (("single", bench_single), ("batched", bench_batch)):
                speed, busy = bench(kind, cast(Rate, rate), seconds)
                print(f"  {name:8} {rate:9} {kind:11} {speed:8,.0f} ({busy:.0f})")
    speed, shares = bench_ppo(max(seconds, 10))
    print(f"  MaskablePPO end to end, estimate {speed:7,.0f}")
    for name, share in shares.items():
        print(f"    {name:28} {share:5.1%}")


if __name__ == "__main__":
    main()
