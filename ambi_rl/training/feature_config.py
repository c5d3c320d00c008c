"""What can be configured of the feature codec: the schema of conf/system/features.yaml, and its ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from ambi_rl.errors import ConfigError
from ambi_rl.neural.networks import LAYERS
from ambi_rl.neural.priors import KINDS
from ambi_rl.neural.quantization import QUANTIZATIONS
from ambi_rl.training.rules import Above, AtLeast, OneOf, Rule, Within, check_rules
from ambi_rl.training.run_config import RUN_RULES, RunConfig

PREPROCESSING = ("atari", "image")
SCHEDULES = ("fixed", "ratio", "target")
WARM_STARTS = ("none", "imitation", "run")
DECODER_TRAININGS = ("after", "joint")


@dataclass
class GameConfig:
    """Part `env`: the game; every key is explained in conf/system/features.yaml."""

    id: str = MISSING
    num_envs: int = MISSING
    frame_stack: int = MISSING
    preprocessing: str = MISSING
    frame_skip: int = MISSING
    noop_max: int = MISSING
    episodic_life: bool = MISSING
    clip_reward: bool = MISSING


@dataclass
class LatentConfig:
    """Part `latent`: where the code is taken, and how it is rounded."""

    layer: str = MISSING
    channels: int = MISSING
    quantization: str = MISSING


@dataclass
class PriorConfig:
    """Part `prior`: what latents are coded under."""

    kind: str = MISSING
    steps: int = MISSING
    final_steps: int = MISSING


@dataclass
class RateConfig:
    """Part `rate`: α of eq. 4, and how it changes."""

    schedule: str = MISSING
    alpha: float = MISSING
    target_bits: float = MISSING
    speed: float = MISSING
    ratio: float = MISSING


@dataclass
class PlayImitationConfig:
    """Part `agent.imitation`: the warm start by a scripted player."""

    steps: int = MISSING
    noise: float = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    alpha: float = MISSING
    joint_weight: float = MISSING


@dataclass
class FeatureAgentConfig:
    """Part `agent`: PPO and its network."""

    width: int = MISSING
    features: int = MISSING
    standardize: bool = MISSING
    warm_start: str = MISSING
    pretrained: str | None = MISSING
    imitation: PlayImitationConfig = field(default_factory=PlayImitationConfig)
    n_steps: int = MISSING
    batch_size: int = MISSING
    n_epochs: int = MISSING
    learning_rate: float = MISSING
    final_learning_rate: float = MISSING
    clip_range: float = MISSING
    target_kl: float | None = MISSING
    gamma: float = MISSING
    gae_lambda: float = MISSING
    entropy_coefficient: float = MISSING
    value_coefficient: float = MISSING
    max_grad_norm: float = MISSING
    threads: int = MISSING


@dataclass
class DecoderConfig:
    """Part `decoder`: from the code back to a frame."""

    training: str = MISSING
    joint_weight: float = MISSING
    width: int = MISSING
    pixel: float = MISSING
    motion: float = MISSING
    multiscale: float = MISSING
    latent: float = MISSING
    frames: int = MISSING
    scripted: float = MISSING
    steps: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING


@dataclass
class TestSetConfig:
    """Part `test_set`: frames that nothing is trained with."""

    frames: int = MISSING
    seed: int = MISSING
    folder: str = MISSING
    # dict[str, float] | None; with that type OmegaConf (2.3) refuses to replace what is null or empty.
    policies: Any = MISSING


@dataclass
class ScoreConfig:
    """Part `evaluation`: how games are scored."""

    every: int = MISSING
    episodes: int = MISSING
    max_steps: int = MISSING


@dataclass
class FeatureConfig(RunConfig):
    """The whole configuration of a run that trains a feature codec."""

    env: GameConfig = field(default_factory=GameConfig)
    latent: LatentConfig = field(default_factory=LatentConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    rate: RateConfig = field(default_factory=RateConfig)
    agent: FeatureAgentConfig = field(default_factory=FeatureAgentConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    test_set: TestSetConfig = field(default_factory=TestSetConfig)
    evaluation: ScoreConfig = field(default_factory=ScoreConfig)


@dataclass(frozen=True)
class Shares:
    """Who plays, each with a share; who there is and that they add up to 1, the test set knows."""

    text: str = "null, or 0…1 by name"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if not isinstance(value, Mapping) or not all(map(_is_share, value.values())):
            raise ConfigError(
                f"{key} is {value!r}; it must be null or shares by name, like {{random: 0.5, scripted: 0.5}}"
            )


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


FEATURE_RULES: dict[str, Rule] = {
    **RUN_RULES,
    "env.num_envs": AtLeast(1),
    "env.frame_stack": Within(1, 16),
    "env.preprocessing": OneOf(PREPROCESSING),
    "env.frame_skip": AtLeast(1),
    "env.noop_max": AtLeast(0),
    "latent.layer": OneOf(LAYERS),
    "latent.channels": Within(1, 1024),
    "latent.quantization": OneOf(QUANTIZATIONS),
    "prior.kind": OneOf(KINDS),
    "prior.steps": AtLeast(1),
    "prior.final_steps": AtLeast(1),
    "rate.schedule": OneOf(SCHEDULES),
    "rate.alpha": AtLeast(0),
    "rate.target_bits": Above(0),
    "rate.speed": Above(0),
    "rate.ratio": Above(0),
    "agent.width": Within(1, 256),
    "agent.features": Within(1, 4096),
    "agent.warm_start": OneOf(WARM_STARTS),
    "agent.imitation.steps": AtLeast(1),
    "agent.imitation.noise": Within(0, 1),
    "agent.imitation.epochs": AtLeast(1),
    "agent.imitation.batch_size": AtLeast(2),
    "agent.imitation.learning_rate": Above(0),
    "agent.imitation.alpha": AtLeast(0),
    "agent.imitation.joint_weight": Above(0),
    "agent.n_steps": AtLeast(2),
    "agent.batch_size": AtLeast(2),
    "agent.n_epochs": AtLeast(1),
    "agent.learning_rate": Above(0),
    "agent.final_learning_rate": Within(0, 1),
    "agent.clip_range": Above(0),
    "agent.target_kl": Above(0),
    "agent.gamma": Within(0, 1),
    "agent.gae_lambda": Within(0, 1),
    "agent.entropy_coefficient": AtLeast(0),
    "agent.value_coefficient": AtLeast(0),
    "agent.max_grad_norm": Above(0),
    "agent.threads": AtLeast(1),
    "decoder.training": OneOf(DECODER_TRAININGS),
    "decoder.joint_weight": Above(0),
    "decoder.width": Within(1, 256),
    "decoder.pixel": AtLeast(0),
    "decoder.motion": AtLeast(0),
    "decoder.multiscale": AtLeast(0),
    "decoder.latent": AtLeast(0),
    "decoder.frames": AtLeast(2),
    "decoder.scripted": Within(0, 1),
    "decoder.steps": AtLeast(1),
    "decoder.batch_size": AtLeast(2),
    "decoder.learning_rate": Above(0),
    "test_set.frames": AtLeast(1),
    "test_set.seed": AtLeast(0),
    "test_set.policies": Shares(),
    "evaluation.every": AtLeast(0),
    "evaluation.episodes": AtLeast(1),
    "evaluation.max_steps": AtLeast(1),
}
"""By dotted key, likewise."""


def validate_features(config: FeatureConfig) -> None:
    """Check what types alone do not say.

    Raises:
        ConfigError: One line that names the key, its value and what is possible.
    """
    check_rules(config, FEATURE_RULES)
    agent, decoder = config.agent, config.decoder
    if agent.warm_start == "run" and agent.pretrained is None:
        raise ConfigError(
            "agent.warm_start is run, but it is not said which; give agent.pretrained=runs/NAME"
        )
    if agent.warm_start != "run" and agent.pretrained is not None:
        raise ConfigError(
            f"agent.pretrained is given, but agent.warm_start is {agent.warm_start}; "
            "give agent.warm_start=run too"
        )
    if agent.warm_start == "imitation" and agent.gamma == 1:
        raise ConfigError(
            "agent.gamma is 1, with which returns of a player have no end; take less, or "
            "agent.warm_start=none"
        )
    if agent.warm_start == "none" and decoder.training == "joint" and decoder.multiscale:
        raise ConfigError(
            "decoder.multiscale needs variances of pixels, and an untrained agent has not seen the game: "
            "with decoder.training=joint take agent.warm_start=imitation or run"
        )
    if not any((decoder.pixel, decoder.motion, decoder.multiscale, decoder.latent)):
        raise ConfigError(
            "decoder.pixel, decoder.motion, decoder.multiscale and decoder.latent are all 0; give one of "
            "them a weight"
        )
