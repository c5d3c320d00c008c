"""What a study is: its YAML file, checked, and its search space as Optuna's distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import ambi_rl.conf
from ambi_rl.errors import ConfigError
from ambi_rl.training.config import AtLeast, OneOf, Rule

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "hyperband", "none")
CHANGEABLE = ("trials", "pruner")
"""Parts of a study that may be others when it goes on."""


@dataclass
class ParameterConfig:
    """A parameter that is varied; explained in conf/study/default.yaml."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    int: bool = False
    choices: list[Any] | None = None


@dataclass
class PrunerConfig:
    """Part `pruner`."""

    kind: str = MISSING
    startup_trials: int = MISSING
    warmup: int = MISSING


@dataclass
class StudyConfig:
    """A study; explained in conf/study/default.yaml."""

    trials: int = MISSING
    sampler: str = MISSING
    seed: int = MISSING
    pruner: PrunerConfig = field(default_factory=PrunerConfig)
    overrides: list[str] = field(default_factory=list)
    space: dict[str, ParameterConfig] = field(default_factory=dict)


def study_file(word: str) -> Path:
    """The YAML file that a word on the command line means: a name in conf/study or a path.

    Raises:
        ConfigError: There is none.
    """
    path = Path(word)
    if path.is_file():
        return path
    folder = Path(ambi_rl.conf.__file__).parent / "study"
    named = folder / f"{word}.yaml"
    if named.is_file():
        return named
    known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise ConfigError(
        f"there is no study {word!r}; give the path of a YAML file, or one of: {known}"
    )


def load_study(
    path: Path, changes: Sequence[str] = (), overrides: Sequence[str] = ()
) -> StudyConfig:
    """Read and check a study.

    Args:
        path: YAML file.
        changes: KEY=VALUE for the study itself.
        overrides: Added to those of every trial.

    Raises:
        ConfigError: A key or value is wrong.
    """
    try:
        loaded = OmegaConf.load(path)
        if not isinstance(loaded, DictConfig):
            raise ConfigError(f"{path} is not a mapping; see conf/study/default.yaml")
        merged = OmegaConf.merge(
            OmegaConf.structured(StudyConfig), loaded, OmegaConf.from_dotlist(list(changes))
        )
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"{path}: {missing[0]} has no value")
        study = OmegaConf.to_object(merged)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except (OmegaConfBaseException, YAMLError) as error:
        line = " ".join(str(error).split())
        raise ConfigError(f"{path}: {line}") from error
    if not isinstance(study, StudyConfig):
        raise ConfigError(f"{path} is not a study; see conf/study/default.yaml")
    study.overrides += list(overrides)
    _validate(study, path)
    return study


STUDY_RULES: dict[str, Rule] = {
    "trials": AtLeast(1),
    "sampler": OneOf(SAMPLERS),
    "seed": AtLeast(0),
    "pruner.kind": OneOf(PRUNERS),
    "pruner.startup_trials": AtLeast(0),
    "pruner.warmup": AtLeast(0),
}
"""By dotted key, what values it may have; docs/configuration.md is made from it."""


def _validate(study: StudyConfig, path: Path) -> None:
    for key, rule in STUDY_RULES.items():
        rule.check(f"{path}: {key}", attrgetter(key)(study))
    if not study.space:
        raise ConfigError(f"{path}: space is empty; name what is to be varied")
    for key, parameter in study.space.items():
        try:
            _validate_parameter(parameter)
        except ValueError as error:
            raise ConfigError(f"{path}: space {key}: {error}") from None


def _validate_parameter(parameter: ParameterConfig) -> None:
    if parameter.choices is not None:
        if parameter.low is not None or parameter.high is not None:
            raise ValueError("give choices, or low and high, not both")
        if len(parameter.choices) < 2 or any(
            not isinstance(choice, str | bool | int | float | None) for choice in parameter.choices
        ):
            raise ValueError("choices must be two or more numbers, words, true, false or null")
        return
    if parameter.low is None or parameter.high is None:
        raise ValueError("give low and high, or choices")
    if not parameter.low < parameter.high:
        raise ValueError(f"low is {parameter.low:g} and high {parameter.high:g}; low must be less")
    if parameter.log and parameter.low <= 0:
        raise ValueError(f"low is {parameter.low:g}; with log it must be over 0")
    if parameter.int and (parameter.low % 1 or parameter.high % 1):
        raise ValueError("low and high must be whole numbers with int")


def distributions(study: StudyConfig) -> dict[str, BaseDistribution]:
    """The search space in Optuna's terms."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for key, parameter in study.space.items():
        low, high = parameter.low or 0.0, parameter.high or 0.0
        if parameter.choices is not None:
            found[key] = CategoricalDistribution(parameter.choices)
        elif parameter.int:
            found[key] = IntDistribution(int(low), int(high), log=parameter.log)
        else:
            found[key] = FloatDistribution(low, high, log=parameter.log)
    return found


def as_override(key: str, value: Any) -> str:
    """KEY=VALUE as Hydra reads it back."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, str):
        quoted = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"{key}={value}" if value.replace("_", "").isalnum() else f"{key}='{quoted}'"
    return f"{key}={value!r}"


def extremes(study: StudyConfig) -> list[str]:
    """An override for each parameter with all of its choices or both of its ends, as for a sweep."""
    found = []
    for key, parameter in study.space.items():
        values: list[Any] = list(parameter.choices or [])
        if parameter.choices is None:
            ends = (parameter.low or 0.0, parameter.high or 0.0)
            values = [int(end) if parameter.int else end for end in ends]
        texts = [as_override(key, value).partition("=")[2] for value in values]
        found.append(f"{key}={','.join(texts)}")
    return found


def contained(parameter: ParameterConfig, value: Any) -> bool:
    """Whether a parameter may have a value."""
    if parameter.choices is not None:
        return value in parameter.choices
    if not isinstance(value, int | float) or parameter.low is None or parameter.high is None:
        return False
    return parameter.low <= value <= parameter.high
