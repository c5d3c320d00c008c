"""A training run of super-resolution: batches, gradient steps, evaluations and checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import OmegaConf
from torch.utils.tensorboard import SummaryWriter

from ambi_rl.data import Skipped, open_collection
from ambi_rl.errors import ConfigError
from ambi_rl.superres.scores import Score, make_score
from ambi_rl.training.callback import Every
from ambi_rl.training.checkpoint import (
    Progress,
    SuperresCheckpoint,
    load_superres_checkpoint,
    newest_checkpoint,
    save_superres_checkpoint,
)
from ambi_rl.training.data_config import data_settings
from ambi_rl.training.display import Display
from ambi_rl.training.finite import stop_not_finite
from ambi_rl.training.memory import keep_freed_memory
from ambi_rl.training.run_folder import RunFolder, write_json
from ambi_rl.training.status import EvaluationHook
from ambi_rl.training.stopping import Stopping
from ambi_rl.training.superres_config import SuperresConfig
from ambi_rl.training.superres_data import Batch, CropSource
from ambi_rl.training.superres_evaluation import SuperresEvaluation, network_upscale
from ambi_rl.training.superres_trainer import SuperresTrainer

_LOG_EVERY = 20
"""Gradient steps whose means are points of the curves."""
_STREAM_SEED = 11


def score_of(config: SuperresConfig) -> Score:
    """What is rewarded, and evaluated as `score`."""
    rl = config.rl
    return make_score(
        rl.score, quality=rl.quality, function=rl.function, arguments=rl.arguments, key="rl"
    )


class SuperresRun:
    """A training run in progress.

    Args:
        config: Validated.
        folder: The run folder, prepared.
        display: For progress.
        resume: Whether to go on from the folder's last checkpoint, exactly.
        on_evaluation: Called with the gradient steps and the result after every evaluation.

    Attributes:
        steps: Gradient steps so far.
    """

    def __init__(
        self,
        config: SuperresConfig,
        folder: RunFolder,
        display: Display,
        *,
        resume: bool,
        on_evaluation: EvaluationHook | None = None,
    ) -> None:
        self.config, self.folder, self.display = config, folder, display
        self._on_evaluation = on_evaluation
        self._started = time.monotonic()
        self.progress = Progress()
        restored = (
            newest_checkpoint(folder, load_superres_checkpoint, display, "steps")
            if resume
            else None
        )
        if restored is not None:
            self.progress = restored.progress
        self._saved = self.progress.steps
        self._seconds_before = self.progress.seconds
        self.stopping = Stopping(display)
        self._before: list[str] = list(self.progress.extra.get("trained_with", []))
        self.score = score_of(config)
        self.trainer = SuperresTrainer(config, self.score)
        generator = self.trainer.average
        self._upscale = network_upscale(generator, scale=config.scale, radius=generator.radius)
        if restored is None and config.start is not None:
            self._begin_from(Path(config.start))
        self._open_data()
        if restored is not None:
            self._restore(restored)
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=self.progress.steps + 1)

    @property
    def steps(self) -> int:
        """See the class."""
        return self.progress.steps

    def _open_data(self) -> None:
        config = self.config
        self.collection = open_collection(data_settings(config.data))
        source = self.collection.source(
            config.training.crop,
            texture=config.data.texture,
            seed=config.seed * 1_000_003 + _STREAM_SEED,
        )
        self.source = source
        self.crops = CropSource(
            source,
            scale=config.scale,
            base=config.base,
            batch_size=config.training.batch_size,
            seed=config.seed,
        )
        if source.skipped.named:
            self.display.line(str(source.skipped))
        self._skipped_held_out = Skipped()
        self.evaluation = SuperresEvaluation(
            self.collection.held_out(config.evaluation.images, self._skipped_held_out),
            scale=config.scale,
            base=config.base,
            qualities=config.evaluation.qualities,
            score=self.score,
            max_side=config.evaluation.max_side,
        )

    def _begin_from(self, run: Path) -> None:
        folder = RunFolder(run)
        if not folder.last.is_file() or folder.system() != "superres":
            raise ConfigError(
                f"start={run} is no folder of a run of system=superres with a checkpoint; give one: runs/NAME"
            )
        source = load_superres_checkpoint(folder.last)
        own = self._plain_config()
        if any(source.config[key] != own[key] for key in ("scale", "network")):
            raise ConfigError(
                f"the generator of {run} is another than this configuration asks for; take over its scale "
                "and network"
            )
        self.trainer.begin_from(source.states["average"])
        self._before = list(source.progress.extra.get("trained_with", []))

    def _restore(self, checkpoint: SuperresCheckpoint) -> None:
        own = self._plain_config()
        for key in ("scale", "network"):
            # Weights of one may fit another, and be worth nothing there.
            if checkpoint.config[key] != own[key]:
                raise ConfigError(
                    f"the run in {self.folder.path} was started with {key}={checkpoint.config[key]}, and "
                    f"this is {own[key]}; go on with what it was started with"
                )
        try:
            self.trainer.restore(checkpoint.states)
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(
                f"the checkpoint {self.folder.last} is of other networks or losses than the configuration "
                "asks for; go on with the configuration it was started with"
            ) from error
        self.crops.restore(checkpoint.data)
        if self.config.total_steps > self.progress.steps:
            self.progress.finished = False

    def learn(self) -> None:
        """Train until the configured number of gradient steps."""
        config, start = self.config, self.progress.steps
        bar = self.display.training(config.total_steps, start, "steps")
        evaluate = Every(config.evaluation.every, start)
        save = Every(config.checkpoint_every, start)
        gathered: list[dict[str, float]] = []
        if start < config.total_steps:
            # A score that cannot be had of whole pictures is found out before hours are spent.
            self.evaluation.baselines()
        began = time.monotonic()
        with self.stopping.between_updates():
            while self.progress.steps < config.total_steps:
                gathered.append(self._step())
                steps = self.progress.steps
                if steps % _LOG_EVERY == 0:
                    means = self._log(gathered)
                    gathered = []
                    speed = (steps - start) / (time.monotonic() - began)
                    bar.update(steps, f"{speed:.1f}/s  loss {means['loss/total']:.5f}")
                if save.due(steps):
                    self.checkpoint(steps)
                if evaluate.due(steps) and steps < config.total_steps:
                    self.evaluate()
                self.stopping.stop_if_asked(lambda: self.checkpoint(self.progress.steps))

    def _step(self) -> dict[str, float]:
        batch = self.crops.draw()
        logs = self.trainer.step(batch, self.progress.steps)
        for name, value in logs.items():
            if not math.isfinite(value):
                self._stop(batch, f"{name} is {value}")
        self.progress.steps += 1
        return logs

    def _stop(self, batch: Batch, what: str) -> None:
        """End the run at a number that is not finite; no weight has taken it in."""
        stop_not_finite(
            self.folder,
            steps=self.progress.steps,
            unit="steps",
            what=what,
            advice="lower training.learning_rate or the weights of the losses",
            batch={"originals": batch.originals, "base": batch.base},
        )

    def _log(self, gathered: list[dict[str, float]]) -> dict[str, float]:
        """Means of the last steps, each over those that have the number."""
        names = dict.fromkeys(name for logs in gathered for name in logs)
        means = {
            name: float(np.mean([logs[name] for logs in gathered if name in logs]))
            for name in names
        }
        for name, value in means.items():
            self._writer.add_scalar(f"train/{name}", value, self.progress.steps)
        return means

    def evaluate(self) -> dict[str, Any]:
        """Measure the averaged generator on held-out photographs."""
        steps = self.progress.steps
        measured = self.evaluation.measure(self._upscale)
        baselines = self.evaluation.baselines()
        network = measured["mean"]
        means = {name: found["mean"] for name, found in baselines.items()} | {"network": network}
        result = {
            "steps": steps,
            "seconds": round(self._seconds(), 1),
            "objective": -network[self.config.evaluation.metric],
            **means,
            "qualities": measured["qualities"],
        }
        self.progress.evaluations.append(result)
        write_json(self.folder.evaluations, {"evaluations": self.progress.evaluations})
        for name, value in network.items():
            self._writer.add_scalar(f"held_out/{name}", value, steps)
        picture = self.evaluation.picture(self._upscale)
        self._writer.add_image(
            "held_out/original_lanczos_network", picture, steps, dataformats="HWC"
        )
        psnr = {name: found["psnr"] for name, found in means.items()}
        self.display.line(
            f"{steps:,} steps: PSNR {psnr['network']:.2f} dB (bicubic {psnr['bicubic']:.2f}, Lanczos "
            f"{psnr['lanczos']:.2f}), MS-SSIM {network['ms_ssim']:.4f}, score {network['score']:.4f}"
        )
        if self._on_evaluation is not None:
            self._on_evaluation(steps, result)
        return result

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    def _plain_config(self) -> dict[str, Any]:
        plain = OmegaConf.to_container(OmegaConf.structured(self.config), resolve=True)
        return cast(dict[str, Any], plain)

    def checkpoint(self, steps: int) -> None:
        """Save what is needed to go on, or to export."""
        if steps != self._saved:
            self.folder.make_room(self._saved, self.config.checkpoint_keep)
        self.progress.seconds = self._seconds()
        names = dict.fromkeys([*self._before, *self.collection.names()])
        self.progress.extra["trained_with"] = list(names)
        checkpoint = SuperresCheckpoint(
            self.trainer.state(), self.crops.state(), self._plain_config(), self.progress
        )
        save_superres_checkpoint(self.folder.last, checkpoint)
        self._writer.flush()
        self._saved = steps

    def finish(self) -> dict[str, Any]:
        """The last evaluation and checkpoint; what the run reached."""
        if not self.progress.finished:
            # What was trained shall not depend on whether it can be measured.
            self.checkpoint(self.progress.steps)
            self.evaluate()
            self.progress.finished = True
            self.checkpoint(self.progress.steps)
        metrics = self.progress.evaluations[-1] | {
            "score_name": self.config.rl.score,
            "parameters": sum(p.numel() for p in self.trainer.generator.parameters()),
            "seconds": round(self.progress.seconds, 1),
            "skipped": {
                "training": self.source.skipped.facts(),
                "held_out": self._skipped_held_out.facts(),
            },
        }
        write_json(self.folder.metrics, metrics)
        return metrics

    def close(self) -> None:
        """Let go of files and threads."""
        self._writer.close()
        close = getattr(self.source, "close", None)
        if close is not None:
            close()


def begin_superres(
    config: SuperresConfig,
    place: RunFolder,
    display: Display,
    on_evaluation: EvaluationHook | None,
) -> SuperresRun:
    """A run in a prepared folder; see `ambi_rl.training.start.train`."""
    keep_freed_memory()
    torch.set_num_threads(config.training.threads)
    resume = config.resume is not None
    return SuperresRun(config, place, display, resume=resume, on_evaluation=on_evaluation)
