"""What every training run is configured by, whatever it trains."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from ambi_rl.training.rules import AtLeast, FolderName, OneOf, Rule

SYSTEMS = ("block", "features")
"""What can be trained, by the names of conf/system."""


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
    "seed": AtLeast(0),
    "total_steps": AtLeast(0),
    "checkpoint_every": AtLeast(1),
    "checkpoint_keep": AtLeast(1),
}
"""By key."""
