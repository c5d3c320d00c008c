"""Starts a training run, whatever it trains: `train(config)` returns what it reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from ambi_rl.training.config import TrainConfig
from ambi_rl.training.display import Display
from ambi_rl.training.feature_config import FeatureConfig
from ambi_rl.training.run_config import RunConfig
from ambi_rl.training.run_folder import RunFolder
from ambi_rl.training.status import EvaluationHook, Pruned, Tracker
from ambi_rl.training.superres_config import SuperresConfig


def train(
    config: RunConfig,
    *,
    folder: Path | None = None,
    overrides: Sequence[str] = (),
    display: Display | None = None,
    on_evaluation: EvaluationHook | None = None,
) -> dict[str, Any]:
    """Train as configured.

    Args:
        config: Validated, see `ambi_rl.training.config.to_config`.
        folder: The run folder; `config.runs`/`config.name` if None.
        overrides: What the configuration was composed from, kept for `resume`.
        display: For progress; standard error if None.
        on_evaluation: Called with the steps so far and what was found after every held-out evaluation;
            may raise `Pruned` to end the run.

    Returns:
        What `metrics.json` holds. Its `objective` is lower where it is better: of the block codec the best
        BD-rate against `fixed` on held-out photographs in percent, of the feature codec minus the agent's
        score on reconstructions, of super-resolution minus `evaluation.metric`.

    Raises:
        ConfigError: The run exists already, or there is nothing to resume, or data is not usable.
        UsageError: Another process trains in the folder.
        NotFiniteError: A reward, observation, loss or weight is nan or infinite.
        Pruned: As the hook raised it, between two updates.
        KeyboardInterrupt: When the update in progress was done and a checkpoint saved; a second one at once.
    """
    display = display or Display()
    resume = config.resume is not None
    place = RunFolder(folder or Path(config.runs) / config.name)
    place.prepare(config, overrides, resume=resume)
    with Tracker(place.path, config.total_steps) as tracker:
        metrics = _trained(config, place, display, tracker, on_evaluation)
    display.line(f"the run is in {place.path}; export it: ambi export {place.path} -o my.ambic")
    return metrics


class TrainingRun(Protocol):
    """A training run in progress, whatever it trains.

    Attributes:
        steps: How far it is, in what `total_steps` counts.
    """

    @property
    def steps(self) -> int:
        """See above."""

    def learn(self) -> None:
        """Train until `total_steps`."""

    def finish(self) -> dict[str, Any]:
        """What the run reached."""

    def checkpoint(self, steps: int) -> None:
        """Save what is needed to go on."""

    def close(self) -> None:
        """Let go of what the run holds."""


def _trained(
    config: RunConfig,
    place: RunFolder,
    display: Display,
    tracker: Tracker,
    on_evaluation: EvaluationHook | None,
) -> dict[str, Any]:
    """Train in a prepared folder."""
    run = _begun(config, place, display, on_evaluation)
    tracker.steps = lambda: run.steps
    try:
        with display.running():
            run.learn()
            return run.finish()
    except Pruned:
        # Evaluations stand between two updates, where a checkpoint is exact.
        run.checkpoint(run.steps)
        raise
    except KeyboardInterrupt:
        display.line(f"interrupted; go on with: ambi train resume={place.path}")
        raise
    finally:
        run.close()


def _begun(
    config: RunConfig,
    place: RunFolder,
    display: Display,
    on_evaluation: EvaluationHook | None,
) -> TrainingRun:
    # What a system needs is imported when it is trained: games are an extra.
    if isinstance(config, FeatureConfig):
        from ambi_rl.training.feature_run import begin_features

        return begin_features(config, place, display, on_evaluation)
    if isinstance(config, SuperresConfig):
        from ambi_rl.training.superres_run import begin_superres

        return begin_superres(config, place, display, on_evaluation)
    from ambi_rl.training.run import begin_block

    assert isinstance(config, TrainConfig)
    return begin_block(config, place, display, on_evaluation)
