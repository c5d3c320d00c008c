"""What can be configured of super-resolution: the schema of conf/system/superres.yaml, and its ranges."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from ambi_rl.codec.quality import MAX_QUALITY, MIN_QUALITY
from ambi_rl.errors import ConfigError
from ambi_rl.superres.actor_critic import NOISES
from ambi_rl.superres.base_layer import BASES, SCALES
from ambi_rl.superres.losses import PERCEPTUAL, VGG_LAYERS
from ambi_rl.superres.networks import SKIPS
from ambi_rl.superres.scores import SCORES
from ambi_rl.training.data_config import DATA_RULES, DataConfig, validate_data
from ambi_rl.training.rules import Above, AtLeast, OneOf, Rule, Within, check_rules
from ambi_rl.training.run_config import RUN_RULES, RunConfig

ACTORS = ("estimate", "image")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
METRICS = ("psnr", "ssim", "ms_ssim", "score")
_CELL = 16
"""Sides of crops are multiples of it: those of the discriminator's last feature maps."""


@dataclass
class GeneratorConfig:
    """Part `network`: the generator; every key is explained in conf/system/superres.yaml."""

    channels: int = MISSING
    blocks: int = MISSING
    batch_norm: bool = MISSING
    skip: str = MISSING


@dataclass
class LossConfig:
    """Group `loss`: what the generator learns from, each with its weight."""

    mse: float = MISSING
    perceptual: float = MISSING
    adversarial: float = MISSING
    rl: float = MISSING
    actor: str = MISSING
    features: str = MISSING
    vgg_weights: str | None = MISSING
    vgg_layer: str = MISSING


@dataclass
class ActorConfig:
    """Part `rl`: the actor, and the score that it is rewarded for."""

    score: str = MISSING
    quality: int = MISSING
    function: str | None = MISSING
    arguments: dict[str, Any] = MISSING
    threshold: float = MISSING
    gamma: float = MISSING
    steps: int = MISSING
    value: float = MISSING
    entropy: float = MISSING
    regression: float = MISSING
    learning_rate: float = MISSING
    deviation: float = MISSING
    tile: int = MISSING
    samples: int = MISSING
    noise: str = MISSING
    grain: int = MISSING
    color: bool = MISSING


@dataclass
class OptimizationConfig:
    """Part `training`: gradient steps."""

    crop: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    final_learning_rate: float = MISSING
    discriminator_learning_rate: float = MISSING
    max_grad_norm: float = MISSING
    precision: str = MISSING
    average: float = MISSING
    threads: int = MISSING


@dataclass
class SuperresEvaluationConfig:
    """Part `evaluation`: held-out photographs."""

    every: int = MISSING
    images: int = MISSING
    qualities: list[float] = MISSING
    max_side: int = MISSING
    metric: str = MISSING


@dataclass
class SuperresConfig(RunConfig):
    """The whole configuration of a run that trains a super-resolving decoder."""

    scale: int = MISSING
    base: str = MISSING
    start: str | None = MISSING
    discriminator_channels: int = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    network: GeneratorConfig = field(default_factory=GeneratorConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    rl: ActorConfig = field(default_factory=ActorConfig)
    training: OptimizationConfig = field(default_factory=OptimizationConfig)
    evaluation: SuperresEvaluationConfig = field(default_factory=SuperresEvaluationConfig)

    @property
    def adversarial(self) -> bool:
        """Whether there is a discriminator."""
        by_features = self.loss.perceptual > 0 and self.loss.features == "discriminator"
        return self.loss.adversarial > 0 or by_features


SUPERRES_RULES: dict[str, Rule] = {
    **RUN_RULES,
    **DATA_RULES,
    "scale": OneOf(SCALES),
    "base": OneOf(BASES),
    "discriminator_channels": Within(1, 256),
    "network.channels": Within(1, 256),
    "network.blocks": Within(0, 64),
    "network.skip": OneOf(SKIPS),
    "loss.mse": AtLeast(0),
    "loss.perceptual": AtLeast(0),
    "loss.adversarial": AtLeast(0),
    "loss.rl": AtLeast(0),
    "loss.features": OneOf(PERCEPTUAL),
    "loss.vgg_layer": OneOf(VGG_LAYERS),
    "loss.actor": OneOf(ACTORS),
    "rl.score": OneOf(SCORES),
    "rl.quality": Within(1, 100),
    "rl.threshold": AtLeast(0),
    "rl.gamma": Within(0, 1),
    "rl.steps": Within(1, 1000),
    "rl.value": AtLeast(0),
    "rl.entropy": AtLeast(0),
    "rl.regression": AtLeast(0),
    "rl.learning_rate": Above(0),
    "rl.deviation": Above(0, 1),
    "rl.tile": AtLeast(0),
    "rl.samples": AtLeast(1),
    "rl.noise": OneOf(NOISES),
    "rl.grain": AtLeast(1),
    "training.crop": Within(32, 1024),
    "training.batch_size": AtLeast(2),
    "training.learning_rate": Above(0),
    "training.final_learning_rate": Within(0, 1),
    "training.discriminator_learning_rate": Above(0),
    "training.max_grad_norm": Above(0),
    "training.precision": OneOf(PRECISIONS),
    "training.average": Within(0, 1, excluded=True),
    "training.threads": AtLeast(1),
    "evaluation.every": AtLeast(0),
    "evaluation.images": AtLeast(1),
    "evaluation.max_side": AtLeast(16),
    "evaluation.metric": OneOf(METRICS),
}
"""By dotted key, likewise."""


def validate_superres(config: SuperresConfig) -> None:
    """Check what types alone do not say.

    Raises:
        ConfigError: One line that names the key, its value and what is possible.
    """
    check_rules(config, SUPERRES_RULES)
    validate_data(config.data)
    loss, rl, crop = config.loss, config.rl, config.training.crop
    if crop % _CELL:
        raise ConfigError(f"training.crop is {crop}; it must be a multiple of {_CELL}")
    if rl.tile and crop % rl.tile:
        raise ConfigError(
            f"rl.tile is {rl.tile}, which does not divide training.crop={crop}; take a divisor, or 0 for "
            "the whole crop"
        )
    if not any((loss.mse, loss.perceptual, loss.adversarial, loss.rl)):
        raise ConfigError(
            "loss.mse, loss.perceptual, loss.adversarial and loss.rl are all 0; give one of them a weight"
        )
    if (
        loss.rl
        and loss.actor == "estimate"
        and not any((loss.mse, loss.perceptual, loss.adversarial))
    ):
        raise ConfigError(
            "loss.actor=estimate moves the encoder alone, which draws nothing; give loss.mse, "
            "loss.perceptual or loss.adversarial a weight too, or take loss.actor=image"
        )
    if (rl.score == "function") != (rl.function is not None):
        raise ConfigError(
            "rl.score=function and rl.function=package.module.function go together; give both or neither"
        )
    if rl.arguments and rl.function is None:
        raise ConfigError(
            "rl.arguments are for a function of yours, and there is none; give rl.score=function and "
            "rl.function=package.module.function, or leave them out"
        )
    if loss.vgg_weights is not None and loss.features != "vgg19":
        raise ConfigError(
            f"loss.vgg_weights is given, but loss.features is {loss.features}; give loss.features=vgg19 too"
        )
    if rl.grain > crop:
        raise ConfigError(f"rl.grain is {rl.grain}; it can be at most training.crop={crop}")
    if not config.evaluation.qualities:
        raise ConfigError("evaluation.qualities is empty; give at least one")
    for quality in config.evaluation.qualities:
        Within(MIN_QUALITY, MAX_QUALITY).check("evaluation.qualities", quality)
