"""The run folder: everything that is needed to look at a run, repeat it, or go on with it."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ambi_rl.codec.files import write_file
from ambi_rl.errors import ConfigError
from ambi_rl.training.run_config import SYSTEMS
from ambi_rl.training.status import ensure_idle

if TYPE_CHECKING:
    from ambi_rl.training.run_config import RunConfig

_PACKAGES = (
    "ambi-rl",
    "gymnasium",
    "hydra-core",
    "llvmlite",
    "numba",
    "numpy",
    "pillow",
    "sb3-contrib",
    "stable-baselines3",
    "torch",
)

SWEEP_FILE = "sweep.json"
"""Marks the folder of a sweep, whose runs are in numbered folders below."""
STUDY_FILE = "study.yaml"
"""Marks the folder of a study, likewise."""


def finite_json(value: Any) -> Any:
    """The value with null for numbers that JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, all of it or nothing; numbers that are not finite become null."""
    text = json.dumps(finite_json(value), indent=2, sort_keys=True, allow_nan=False)
    write_file(path, f"{text}\n".encode())


def environment() -> dict[str, Any]:
    """What a run depends on besides its configuration."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


class RunFolder:
    """Paths of a run.

        config.yaml        the resolved configuration
        command.txt        the command, one line for each start
        overrides.json     what `resume` composes the configuration from again
        environment.json   versions and machine
        baselines.json     rate-distortion curves that the policy is compared with
        evaluations.json   what every evaluation on held-out photographs found, with its curve
        metrics.json       how it went, written at the end
        status.json        whether it runs, and how it ended
        last.pt, best.pt   checkpoints: the newest, and the best on held-out photographs
        step-*.pt          older checkpoints, to go on from if the newest is damaged
        not-finite-*.npz   what was met when training stopped at a number that is not finite
        tensorboard/       curves and pictures

    Args:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.pt"
        self.best = path / "best.pt"
        self.config = path / "config.yaml"
        self.command = path / "command.txt"
        self.overrides = path / "overrides.json"
        self.environment = path / "environment.json"
        self.baselines = path / "baselines.json"
        self.metrics = path / "metrics.json"
        self.evaluations = path / "evaluations.json"
        self.tensorboard = path / "tensorboard"

    def system(self) -> str | None:
        """What the run trains, by the names of conf/system; runs of older versions have the block codec.

        Returns:
            None if the folder has no configuration.

        Raises:
            ConfigError: The configuration cannot be read, or says something else.
        """
        try:
            config = OmegaConf.load(self.config)
            found = config.get("system", "block") if isinstance(config, DictConfig) else None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
            raise self._unreadable(error) from error
        if not config or found not in SYSTEMS:
            raise self._unreadable()
        return str(found)

    def _unreadable(self, error: Exception | None = None) -> ConfigError:
        reason = "" if error is None else f" ({str(error).partition(chr(10))[0]})"
        return ConfigError(
            f"{self.config} does not say what the run trains{reason}; put the file back as it was: "
            f"ambi train --cfg job, with the words of {self.command.name}, prints it"
        )

    def never_began(self) -> bool:
        """Whether a run ended before it had anything to keep, so that nothing is lost by a new start."""
        kept = (*self.checkpoints, self.best, self.metrics)
        return self.config.exists() and not any(path.exists() for path in kept)

    @property
    def checkpoints(self) -> list[Path]:
        """Checkpoints that the run can go on from, newest first."""
        older = sorted(self.path.glob("step-*.pt"), reverse=True)
        return [self.last, *older] if self.last.is_file() else older

    def make_room(self, steps: int, keep: int) -> None:
        """Put the newest checkpoint among the older ones, before another takes its place.

        Args:
            steps: What it was saved at.
            keep: Checkpoints that may remain, the one that is to come included.
        """
        if self.last.is_file() and keep > 1:
            self.last.replace(self.path / f"step-{steps:012d}.pt")
        for path in sorted(self.path.glob("step-*.pt"), reverse=True)[max(keep - 1, 0) :]:
            path.unlink()

    def prepare(self, config: RunConfig, overrides: Sequence[str], *, resume: bool) -> None:
        """Make the folder, or check that there is a run to go on with, and note how it was started.

        Raises:
            ConfigError: The folder holds a run already, or none to go on with.
            UsageError: Another process trains in it.
        """
        ensure_idle(self.path)
        for name in (SWEEP_FILE, STUDY_FILE):
            if (self.path / name).exists():
                raise ConfigError(
                    f"{self.path} is the folder of a sweep or study; give another name=…, or one of the "
                    f"runs in it: resume={self.path}/NUMBER"
                )
        if resume:
            if not self.config.is_file():
                raise ConfigError(f"{self.path} holds no run to go on with; check name")
            # What a killed process was writing; nothing reads it.
            for path in self.path.glob(".*.part"):
                path.unlink()
        elif self.config.exists() and not self.never_began():
            how = f"go on with it: resume={self.path}"
            raise ConfigError(f"{self.path} holds a run already; give another name=…, or {how}")
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(self.config, OmegaConf.to_yaml(OmegaConf.structured(config)).encode())
        write_json(self.overrides, list(overrides))
        write_json(self.environment, environment())
        before = self.command.read_text() if self.command.exists() else ""
        write_file(self.command, f"{before}{shlex.join(sys.argv)}\n".encode())
