"""What every training run is configured by, whatever it trains."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from ambi_rl.training.rules import AtLeast, FolderName, OneOf, Rule, Within

SYSTEMS = ("block", "features", "superres")
"""What can be trained, by the names of conf/system."""
MAX_SEED = 2**31 - 1
MAX_STEPS = 2 * 10**9
"""A run seeds its agent with `seed` and the decisions so far, of which the last rollout may go over
`total_steps`; and Stable-Baselines3 seeds numpy's global generator too, which takes 32 bits. All else that
is seeded takes what is derived from a seed for it: torch 64 bits; environments, spaces and numpy's other
generators any number."""


@dataclass
class RunConfig:
    """Keys of conf/config.yaml; each system adds its own."""

    system: str = MISSING
    name: str = MISSING
    runs: str = MISSING
    seed: int = MISSING
    total_steps: int = MISSING
    resume: str | None = MISSING
    checkpoint_every: int = MISSING
    checkpoint_keep: int = MISSING


RUN_RULES: dict[str, Rule] = {
    "system": OneOf(SYSTEMS),
    "name": FolderName(),
    "seed": Within(0, MAX_SEED),
    "total_steps": Within(0, MAX_STEPS),
    "checkpoint_every": AtLeast(1),
    "checkpoint_keep": AtLeast(1),
}
"""By key."""
