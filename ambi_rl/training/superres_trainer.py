"""Gradient steps of RL-SRGAN and what it contains: SRGAN, SRResNet, and a reward alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ambi_rl.errors import ConfigError
from ambi_rl.superres.actor_critic import EstimateActor, ImageActor, judge_of, to_pixels
from ambi_rl.superres.losses import (
    PerceptualLoss,
    adversarial_loss,
    discriminator_loss,
    frozen_logits,
    make_perceptual_loss,
    mean_squared_error,
)
from ambi_rl.superres.networks import Discriminator, Generator, ScoreHead
from ambi_rl.superres.scores import Score
from ambi_rl.training.superres_config import SuperresConfig
from ambi_rl.training.superres_data import Batch, to_tensor

_WARM_UP = 100
"""Steps in which the learning rate rises, so that Adam's moments are known when it is high."""
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_LEAST_SCALE = 1.0
"""Of losses in half precision: below it, gradients are not finite at any scale."""


def build_generator(config: SuperresConfig) -> Generator:
    """The generator of a configuration, untrained."""
    network = config.network
    return Generator(
        config.scale, network.channels, network.blocks, network.batch_norm, network.skip
    )


def find_device(precision: str) -> torch.device:
    """A GPU if there is one.

    Raises:
        ConfigError: There is none, and the precision needs one.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if precision == "float16":
        raise ConfigError(
            "training.precision=float16 needs a GPU, and there is none; take bfloat16 or float32"
        )
    return torch.device("cpu")


def find_precision(wanted: str, device: torch.device) -> str:
    """What `auto` is: bfloat16 where the processor has it, elsewhere it is many times slower than float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"


class SuperresTrainer:
    """Networks, optimizers, and a step on a batch.

    Args:
        config: Validated.
        score: What is rewarded.

    Attributes:
        device: Where the networks are.
        generator: As it is trained.
        average: A moving average of its weights, in evaluation mode.

    Raises:
        ConfigError: The precision or the perceptual loss needs what is not there.
    """

    _head: ScoreHead | None = None
    _discriminator: Discriminator | None = None
    _perceptual: PerceptualLoss | None = None
    _estimate_actor: EstimateActor | None = None
    _image_actor: ImageActor | None = None

    def __init__(self, config: SuperresConfig, score: Score) -> None:
        self.config = config
        self._score = score
        self.device = find_device(config.training.precision)
        self._precision = find_precision(config.training.precision, self.device)
        torch.manual_seed(config.seed)
        self.generator = build_generator(config).to(self.device)
        self.average = copy.deepcopy(self.generator).eval()
        training = config.training
        self._build_actor()
        if config.adversarial:
            self._discriminator = Discriminator(config.discriminator_channels).to(self.device)
        if config.loss.perceptual:
            weights = config.loss.vgg_weights
            self._perceptual = make_perceptual_loss(
                config.loss.features,
                self._discriminator,
                config.loss.vgg_layer,
                None if weights is None else Path(weights),
                self.device,
            )
        self._optimizer = torch.optim.Adam(self.generator.parameters(), training.learning_rate)
        if self._head is not None:
            self._optimizer.add_param_group(
                {"params": list(self._head.parameters()), "lr": config.rl.learning_rate}
            )
        self._discriminator_optimizer = (
            None
            if self._discriminator is None
            else torch.optim.Adam(
                self._discriminator.parameters(), training.discriminator_learning_rate
            )
        )
        # Scales losses up so that gradients in half precision do not vanish; elsewhere it does nothing.
        self._scaler = torch.amp.GradScaler(
            self.device.type, enabled=training.precision == "float16"
        )

    def _build_actor(self) -> None:
        config, rl = self.config, self.config.rl
        if not config.loss.rl:
            return
        if config.loss.actor == "image":
            self._image_actor = ImageActor(
                self._score,
                deviation=rl.deviation,
                tile=rl.tile,
                samples=rl.samples,
                noise=rl.noise,
                grain=rl.grain,
                color=rl.color,
            )
            return
        self._head = ScoreHead(config.network.channels).to(self.device)
        self._estimate_actor = EstimateActor(
            judge_of(self.generator.encoder, self._head),
            threshold=rl.threshold,
            gamma=rl.gamma,
            steps=rl.steps,
            value=rl.value,
            entropy=rl.entropy,
            regression=rl.regression,
        )

    def _parameters(self) -> list[nn.Parameter]:
        head = [] if self._head is None else list(self._head.parameters())
        return [*self.generator.parameters(), *head]

    def _autocast(self) -> Any:
        dtype = _DTYPES.get(self._precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def _set_rates(self, step: int) -> None:
        training = self.config.training
        progress = min(1.0, step / max(self.config.total_steps, 1))
        low = training.final_learning_rate
        share = low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))
        share *= min(1.0, (step + 1) / _WARM_UP)
        rates = [training.learning_rate, self.config.rl.learning_rate]
        for group, rate in zip(self._optimizer.param_groups, rates, strict=False):
            group["lr"] = share * rate
        if self._discriminator_optimizer is not None:
            for group in self._discriminator_optimizer.param_groups:
                group["lr"] = share * training.discriminator_learning_rate

    def step(self, batch: Batch, step: int) -> dict[str, float]:
        """Descend once.

        Args:
            batch: What with.
            step: Gradient steps taken before.

        Returns:
            Losses and other numbers to log. If `loss/total` or `gradient_norm` is not finite, no weight of
            the generator was changed.
        """
        self._set_rates(step)
        originals = to_tensor(batch.originals, self.device)
        base = to_tensor(batch.base, self.device)
        # The order that convolutions of a CPU are quickest with; all that follows keeps it.
        base = base.contiguous(memory_format=torch.channels_last)
        with self._autocast():
            images = self.generator(base)
        logs: dict[str, float] = {}
        if self._discriminator is not None:
            logs |= self._train_discriminator(originals, images.detach())
        with self._autocast():
            loss = self._loss(batch, base, images, originals, logs)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        norm = nn.utils.clip_grad_norm_(self._parameters(), self.config.training.max_grad_norm)
        logs["loss/total"] = float(loss.detach())
        if self._scaler.is_enabled():
            # Infinite gradients are how it finds its scale; it leaves such a step out, until none is left.
            scale = self._scaler.get_scale()
            logs["scale"] = scale if scale >= _LEAST_SCALE else math.nan
        else:
            logs["gradient_norm"] = float(norm)
        if all(map(math.isfinite, logs.values())):
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._average_weights(step)
        return logs

    def _train_discriminator(
        self, originals: torch.Tensor, images: torch.Tensor
    ) -> dict[str, float]:
        """Let the discriminator learn to tell the two apart (eq. 1)."""
        assert self._discriminator is not None
        assert self._discriminator_optimizer is not None
        with self._autocast():
            real = self._discriminator(originals)
            drawn = self._discriminator(images)
            loss = discriminator_loss(real, drawn)
        self._discriminator_optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._discriminator_optimizer)
        norm = nn.utils.clip_grad_norm_(
            self._discriminator.parameters(), self.config.training.max_grad_norm
        )
        if self._scaler.is_enabled() or bool(norm.isfinite()):
            self._scaler.step(self._discriminator_optimizer)
        known = {} if self._scaler.is_enabled() else {"discriminator/gradient_norm": float(norm)}
        return known | {
            "loss/discriminator": float(loss.detach()),
            "discriminator/real": float(real.detach().float().sigmoid().mean()),
            "discriminator/drawn": float(drawn.detach().float().sigmoid().mean()),
        }

    def _loss(
        self,
        batch: Batch,
        base: torch.Tensor,
        images: torch.Tensor,
        originals: torch.Tensor,
        logs: dict[str, float],
    ) -> torch.Tensor:
        """The sum of what counts (eq. 4 and section 2.2.3); each part is logged, without its weight."""
        weights = self.config.loss
        total = torch.zeros((), device=self.device)

        def add(name: str, weight: float, value: torch.Tensor) -> None:
            nonlocal total
            logs[f"loss/{name}"] = float(value.detach())
            total = total + weight * value

        if weights.mse:
            add("mse", weights.mse, mean_squared_error(images, originals))
        if self._perceptual is not None:
            add("perceptual", weights.perceptual, self._perceptual(images, originals))
        if weights.adversarial:
            assert self._discriminator is not None
            logits = frozen_logits(self._discriminator, images)
            add("adversarial", weights.adversarial, adversarial_loss(logits))
        if self._image_actor is not None:
            loss, found = self._image_actor.loss(images, batch.originals)
            logs |= found
            add("rl", weights.rl, loss)
        if self._estimate_actor is not None:
            gathered = self._estimate_actor.loss(base)
            if gathered is not None:
                add("rl", weights.rl, gathered)
            scores = self._score.tiles(batch.originals, to_pixels(images), 0)[:, 0, 0]
            logs |= self._estimate_actor.act(base, scores)
        return total

    @torch.no_grad()
    def _average_weights(self, step: int) -> None:
        """Move the average; in the beginning, when weights change fast, only the latest count."""
        keep = min(self.config.training.average, step / (step + 20))
        own = self.generator.state_dict()
        for name, tensor in self.average.state_dict().items():
            if tensor.is_floating_point():
                tensor.lerp_(own[name], 1 - keep)
            else:
                tensor.copy_(own[name])

    def begin_from(self, weights: dict[str, Any]) -> None:
        """Begin with another run's generator.

        Raises:
            RuntimeError: It has another architecture.
        """
        self.generator.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def _parts(self) -> dict[str, Any]:
        found = {
            "generator": self.generator,
            "average": self.average,
            "head": self._head,
            "discriminator": self._discriminator,
            "optimizer": self._optimizer,
            "discriminator_optimizer": self._discriminator_optimizer,
            "scaler": self._scaler,
        }
        return {name: part for name, part in found.items() if part is not None}

    def state(self) -> dict[str, Any]:
        """All that a run that goes on needs, chance included."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        if self._estimate_actor is not None:
            states["actor"] = self._estimate_actor.state()
        states["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            states["random_cuda"] = torch.cuda.get_rng_state()
        return states

    def restore(self, states: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            RuntimeError: It is of other networks.
            KeyError: It lacks a part that this configuration has.
            ValueError: An optimizer is of other parameters.
        """
        for name, part in self._parts().items():
            part.load_state_dict(states[name])
        if self._estimate_actor is not None:
            self._estimate_actor.restore(states["actor"], self.device)
        torch.set_rng_state(states["random"])
        if self.device.type == "cuda" and "random_cuda" in states:
            torch.cuda.set_rng_state(states["random_cuda"])
