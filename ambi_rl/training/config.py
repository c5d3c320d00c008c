"""What can be configured: the schema of `conf/`, its ranges, and messages that name what was meant."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ambi_rl.agents.algorithms import ALGORITHMS
from ambi_rl.codec.kernel.state import MAX_HIDDEN
from ambi_rl.codec.process import RATES
from ambi_rl.codec.quality import MAX_QUALITY, MIN_QUALITY
from ambi_rl.codec.strategists import SEARCHES
from ambi_rl.errors import ConfigError
from ambi_rl.rewards import Reward
from ambi_rl.rewards.competition import KINDS
from ambi_rl.rewards.constraint import QUANTITIES
from ambi_rl.rewards.task import DISTANCES
from ambi_rl.training.data_config import DATA_RULES, DataConfig, validate_data
from ambi_rl.training.feature_config import FeatureConfig, validate_features
from ambi_rl.training.rules import (
    Above,
    AtLeast,
    OneOf,
    Rule,
    Within,
    check_rules,
    meant,
)
from ambi_rl.training.run_config import RUN_RULES, RunConfig
from ambi_rl.training.superres_config import SuperresConfig, validate_superres

METRICS = ("auto", "psnr", "ssim", "ms_ssim")
CREDITS = ("auto", "tree", "steps")
WARM_STARTS = ("none", "imitation")

SYSTEM_GROUPS = {
    "block": ("env", "data", "reward", "agent"),
    "features": (),
    "superres": ("data", "loss"),
}
"""Groups of files that belong to a system; others may have keys of such names, but one file for all."""


@dataclass
class EnvConfig:
    """Group `env`; every key is explained in conf/env/*.yaml."""

    num_envs: int = MISSING
    patch_size: int = MISSING
    rate: str = MISSING
    threads: int | None = MISSING


@dataclass
class MetricConfig:
    """Part `reward.metric`, see conf/reward/metric.yaml; without effect unless it has a weight."""

    target: str | None = None
    weight: float = 0.0
    scale: float | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class TaskConfig:
    """Part `reward.task`, see conf/reward/task.yaml; likewise."""

    model: str | None = None
    weight: float = 0.0
    distance: str = "features"
    mean: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    deviation: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0])
    scale: float | None = None


@dataclass
class ConstraintConfig:
    """Part `reward.constraint`, see conf/reward/target_rate.yaml; none unless one has a target."""

    target_bpp: float | None = None
    target_psnr: float | None = None
    target_ssim: float | None = None
    target_ms_ssim: float | None = None
    target_metric: float | None = None
    speed: float = 0.1
    window: int = 256


@dataclass
class CompetitionConfig:
    """Part `reward.competition`, see conf/reward/self_competition.yaml; none unless it has a kind."""

    kind: str = "none"
    patches: int = 256
    memory: float = 0.9


@dataclass
class RewardConfig:
    """Group `reward`: weights of the reward terms, and what they are put to."""

    rate: float = MISSING
    sse: float = MISSING
    chroma: float = 0.0
    ssim: float = 0.0
    ms_ssim: float = 0.0
    metric: MetricConfig = field(default_factory=MetricConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    constraint: ConstraintConfig = field(default_factory=ConstraintConfig)
    competition: CompetitionConfig = field(default_factory=CompetitionConfig)


@dataclass
class ImitationConfig:
    """Part of every agent: the warm start."""

    patches: int = MISSING
    effort: int = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    rounds: int = MISSING
    visited: int = MISSING


@dataclass
class AgentConfig:
    """What the agents share."""

    algorithm: str = MISSING
    warm_start: str = MISSING
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    credit: str = MISSING
    hidden: int = MISSING
    n_steps: int = MISSING
    learning_rate: float = MISSING
    final_learning_rate: float = MISSING
    gamma: float = MISSING
    gae_lambda: float = MISSING
    entropy_coefficient: float = MISSING
    value_coefficient: float = MISSING
    max_grad_norm: float = MISSING


@dataclass
class PPOConfig(AgentConfig):
    """Groups `agent: ppo` and `agent: maskable_ppo`."""

    batch_size: int = MISSING
    n_epochs: int = MISSING
    clip_range: float = MISSING
    target_kl: float | None = MISSING


@dataclass
class A2CConfig(AgentConfig):
    """Group `agent: a2c`."""


@dataclass
class EntropyConfig:
    """Part `entropy`: the learned entropy model."""

    refit_every: int = MISSING
    patches: int = MISSING


@dataclass
class EvaluationConfig:
    """Part `evaluation`: what is measured on held-out photographs."""

    every: int = MISSING
    qualities: list[float] = MISSING
    images: int = MISSING
    metric: str = MISSING
    search_effort: int = MISSING


@dataclass
class TrainConfig(RunConfig):
    """The whole configuration of a run that trains the block codec."""

    bundle: str | None = MISSING
    env: EnvConfig = field(default_factory=EnvConfig)
    data: DataConfig = field(default_factory=DataConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    agent: AgentConfig = MISSING
    entropy: EntropyConfig = field(default_factory=EntropyConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @property
    def weights(self) -> dict[str, Any]:
        """Settings of the reward, as `Reward` takes them."""
        return asdict(self.reward)

    @property
    def tree_credit(self) -> bool:
        """Whether decisions are judged by their subtree; see `agent.credit` in conf/agent."""
        if self.agent.credit == "auto":
            return not Reward(self.weights).needs_episode
        return self.agent.credit == "tree"

    @property
    def metric(self) -> str:
        """The metric of the objective: what `evaluation.metric` says, or what is rewarded most."""
        if self.evaluation.metric != "auto":
            return self.evaluation.metric
        fidelity = {
            "psnr": self.reward.sse,
            "ssim": self.reward.ssim,
            "ms_ssim": self.reward.ms_ssim,
        }
        return max(fidelity, key=lambda name: fidelity[name])


def register() -> None:
    """Tell Hydra the schema."""
    store = ConfigStore.instance()
    store.store(name="block_schema", node=TrainConfig)
    store.store(name="features_schema", node=FeatureConfig)
    store.store(name="superres_schema", node=SuperresConfig)
    store.store(group="agent", name="ppo_schema", node=PPOConfig)
    store.store(group="agent", name="a2c_schema", node=A2CConfig)


@dataclass(frozen=True)
class Qualities:
    """Two or more different qualities."""

    text: str = "two or more different ones, each 1…100"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if len(set(value)) < 2 or len(set(value)) != len(value):
            raise ConfigError(f"{key} is {list(value)}; a curve needs two or more different ones")
        for quality in value:
            _QUALITY.check(key, quality)


@dataclass(frozen=True)
class PatchSize:
    """The side of a patch."""

    text: str = "a multiple of 4, ≥ 16"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if value < 16 or value % 4:
            raise ConfigError(f"{key} is {value}; it must be a multiple of 4, 16 or more")


_QUALITY = Within(MIN_QUALITY, MAX_QUALITY)
_SEARCH = (float(min(SEARCHES)), float(max(SEARCHES)))

RULES: dict[str, Rule] = {
    **RUN_RULES,
    **DATA_RULES,
    "env.num_envs": AtLeast(1),
    "env.patch_size": PatchSize(),
    "env.rate": OneOf(RATES),
    "env.threads": AtLeast(1),
    "reward.rate": AtLeast(0),
    "reward.sse": AtLeast(0),
    "reward.chroma": AtLeast(0),
    "reward.ssim": AtLeast(0),
    "reward.ms_ssim": AtLeast(0),
    "reward.metric.weight": AtLeast(0),
    "reward.metric.scale": Above(0),
    "reward.task.weight": AtLeast(0),
    "reward.task.distance": OneOf(DISTANCES),
    "reward.task.scale": Above(0),
    **{
        f"reward.constraint.target_{key}": Above(quantity.low, quantity.high)
        for key, quantity in QUANTITIES.items()
    },
    "reward.constraint.speed": Above(0),
    "reward.constraint.window": AtLeast(1),
    "reward.competition.kind": OneOf(KINDS),
    "reward.competition.patches": AtLeast(1),
    "reward.competition.memory": Within(0, 1, excluded=True),
    "agent.algorithm": OneOf(ALGORITHMS),
    "agent.warm_start": OneOf(WARM_STARTS),
    "agent.credit": OneOf(CREDITS),
    "agent.hidden": Within(1, MAX_HIDDEN),
    "agent.n_steps": AtLeast(1),
    "agent.learning_rate": Above(0),
    "agent.final_learning_rate": Within(0, 1),
    "agent.gamma": Within(0, 1),
    "agent.gae_lambda": Within(0, 1),
    "agent.entropy_coefficient": AtLeast(0),
    "agent.value_coefficient": AtLeast(0),
    "agent.max_grad_norm": Above(0),
    "agent.imitation.patches": AtLeast(2),
    "agent.imitation.effort": Within(*_SEARCH, why=": the teacher is a search"),
    "agent.imitation.rounds": AtLeast(0),
    "agent.imitation.visited": AtLeast(1),
    "agent.imitation.epochs": AtLeast(1),
    "agent.imitation.batch_size": AtLeast(1),
    "agent.imitation.learning_rate": Above(0),
    "agent.batch_size": AtLeast(2),
    "agent.n_epochs": AtLeast(1),
    "agent.clip_range": Above(0),
    "agent.target_kl": Above(0),
    "entropy.refit_every": AtLeast(0),
    "entropy.patches": AtLeast(1),
    "evaluation.every": AtLeast(0),
    "evaluation.qualities": Qualities(),
    "evaluation.images": AtLeast(1),
    "evaluation.metric": OneOf(METRICS),
    "evaluation.search_effort": Within(*_SEARCH, why=": it is a search"),
}
"""By dotted key; null is possible where the type says so. docs/configuration.md is made from it."""


def validate(config: TrainConfig) -> None:
    """Check what types alone do not say.

    Raises:
        ConfigError: One line that names the key, its value and what is possible.
    """
    check_rules(config, RULES)
    validate_data(config.data)
    reward = Reward(config.weights)
    if config.agent.credit == "tree" and reward.needs_episode:
        raise ConfigError(
            "agent.credit=tree needs rewards of single steps, but part of this reward is known only at an "
            "episode's end; take agent.credit=steps"
        )


def to_config(composed: DictConfig) -> RunConfig:
    """A validated configuration from what Hydra composed: of the class of its system.

    Raises:
        ConfigError: A value is missing or out of range.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]} has no value; give one: {missing[0]}=…")
    unknown = _unknown_keys(composed)
    if unknown:
        # Hydra lets +KEY=VALUE add what nothing reads.
        known = [key for key in keys_of(composed) if key not in unknown]
        raise explain_key(unknown[0], known, str(composed.get("system")))
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    if isinstance(config, TrainConfig):
        validate(config)
    elif isinstance(config, FeatureConfig):
        validate_features(config)
    elif isinstance(config, SuperresConfig):
        validate_superres(config)
    else:
        raise ConfigError(
            "the configuration does not follow the schema; compose it from ambi_rl.conf"
        )
    return config


def _unknown_keys(node: DictConfig, prefix: str = "") -> list[str]:
    """Dotted keys that the schema of their part does not have."""
    kind = OmegaConf.get_type(node)
    if kind is dict:  # Whatever the user's function takes.
        return []
    own = {item.name for item in fields(kind)} if kind is not None and is_dataclass(kind) else set()
    unknown = []
    for key in node:
        name = f"{prefix}{key!s}"
        if str(key) not in own:
            unknown.append(name)
            continue
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            unknown += _unknown_keys(child, f"{name}.")
    return unknown


def keys_of(node: DictConfig, prefix: str = "") -> list[str]:
    """Every dotted key of a composed configuration, groups included."""
    found: list[str] = []
    for key in node:
        name = f"{prefix}{key!s}"
        found.append(name)
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_missing() and not child._is_none():
            found += keys_of(child, f"{name}.")
    return found


_ARGUMENTS = {"block": "reward.metric.arguments", "superres": "rl.arguments"}
"""By system, the mapping whose keys are the user's."""


def _schema_keys(kind: type, prefix: str = "") -> set[str]:
    """Every dotted key of a structured configuration, parts included."""
    found: set[str] = set()
    for name, hint in get_type_hints(kind).items():
        found.add(f"{prefix}{name}")
        if is_dataclass(hint):
            found |= _schema_keys(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
    return found


def _system_with(key: str) -> str | None:
    """A system that has a key, or one below it."""
    systems = {
        "block": _schema_keys(TrainConfig) | _schema_keys(PPOConfig, "agent."),
        "features": _schema_keys(FeatureConfig),
        "superres": _schema_keys(SuperresConfig),
    }
    return next((name for name, keys in systems.items() if key in keys), None)


def explain_group(group: str, known: list[str], system: str) -> ConfigError:
    """The error for a group of files that is not to be chosen.

    Args:
        group: As it was given.
        known: Every dotted key.
        system: What is trained.
    """
    owners = [name for name, groups in SYSTEM_GROUPS.items() if group in groups]
    if not owners or system in owners:
        return explain_key(group, known, system)
    own = [key for key in known if key.startswith(f"{group}.") and key.count(".") == 1]
    hint = f"; its own keys are {', '.join(own)}" if own else ""
    return ConfigError(
        f"{group}=… chooses a file of system={' or '.join(owners)}, and this is system={system}{hint}"
    )


def explain_key(key: str, known: list[str], system: str) -> ConfigError:
    """The error for a key that does not exist: what was meant, or what there is.

    Args:
        key: Dotted, as it was given.
        known: Every dotted key.
        system: What is trained.
    """
    arguments = _ARGUMENTS.get(system)
    if arguments is not None and f"{key}.".startswith(f"{arguments}."):
        return ConfigError(
            f"{key} is not set: what your function takes is added, with a plus: +{arguments}.NAME=VALUE"
        )
    other = _system_with(key)
    if other not in (None, system):
        return ConfigError(f"{key} is a key of system={other}, and this is system={system}")
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if not close:
        # Perhaps the right name in the wrong place.
        last = key.rsplit(".", 1)[-1]
        tails = {name.rsplit(".", 1)[-1]: name for name in known}
        close = [
            tails[tail] for tail in difflib.get_close_matches(last, list(tails), n=1, cutoff=0.6)
        ]
    group = key.rsplit(".", 1)[0] if "." in key else ""
    depth = (
        f"{group}." if f"{group}." != "." and any(k.startswith(f"{group}.") for k in known) else ""
    )
    names = [k[len(depth) :] for k in known if k.startswith(depth) and "." not in k[len(depth) :]]
    hint = f"did you mean {close[0]}? " if close else ""
    where = depth[:-1] if depth else "the configuration"
    return ConfigError(f"there is no key {key!r}; {hint}{where} has {', '.join(names)}")


def explain(error: Exception, composed: DictConfig | None = None) -> ConfigError:
    """One line for an error of Hydra or OmegaConf.

    Args:
        error: What was raised.
        composed: The same configuration without the mistake, to suggest keys of it.
    """
    known = [] if composed is None else keys_of(composed)
    system = "" if composed is None else str(composed.get("system"))
    messages: list[str] = []
    current: BaseException | None = error
    while current is not None and len(messages) < 4:
        messages.append(str(current))
        current = current.__cause__
    text = "\n".join(messages)
    missing = re.search(r"Key '([^']+)' is not in struct|Key '([^']+)' not in '", text)
    override = re.search(r"Could not override '([^']+)'", text)
    full = re.search(r"full_key: (\S+)", text)
    if missing and known:
        return explain_key((override or full or missing).group(1), known, system)
    group = re.search(
        r"Could not find '([^'/]+)/([^']*)'.*?Available options in '[^']+':(.*)", text, re.S
    )
    if group:
        names = [n for n in re.findall(r"^\s+(\S+)$", group[3], re.M) if not n.endswith("_schema")]
        return ConfigError(
            f"{group[1]} is {group[2]!r}; it can be {', '.join(names)}{meant(group[2], names)}"
        )
    wrong_group = re.search(
        r"Could not override '([^']+)'\.\s*\n?\s*No match in the defaults list", text
    )
    if wrong_group and known:
        return explain_group(wrong_group[1], known, system)
    added = re.search(r"In '([^'/]+)/[^']*': ValidationError", text)
    if added and known:
        return explain_group(added[1], known, system)
    value = re.search(r"Value '([^']*)' of type '\w+' could not be converted to (\w+)", text)
    if value and full:
        kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        wanted = kinds.get(value[2], value[2])
        return ConfigError(f"{full[1]} is {value[1]!r}; it must be {wanted}")
    optional = re.search(r"field '([^']+)' is not Optional", text)
    if optional:
        return ConfigError(f"{optional[1]} is null; it must have a value")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return ConfigError("; ".join(dict.fromkeys(lines[:2])) or type(error).__name__)
