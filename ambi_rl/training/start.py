"""Starts a training run, whatever it trains: `train(config)` returns what it reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ambi_rl.training.config import TrainConfig
from ambi_rl.training.display import Display
from ambi_rl.training.feature_config import FeatureConfig
from ambi_rl.training.run_config import RunConfig
from ambi_rl.training.run_folder import RunFolder
from ambi_rl.training.status import EvaluationHook, Tracker


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
        on_evaluation: Called with the decisions so far and what was found after every held-out evaluation;
            may raise `Pruned` to end the run.

    Returns:
        What `metrics.json` holds. Its `objective` is lower where it is better: of the block codec the best
        BD-rate against `fixed` on held-out photographs in percent, of the feature codec minus the agent's
        score on reconstructions.

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


def _trained(
    config: RunConfig,
    place: RunFolder,
    display: Display,
    tracker: Tracker,
    on_evaluation: EvaluationHook | None,
) -> dict[str, Any]:
    # What a system needs is imported when it is trained: games are an extra.
    if isinstance(config, FeatureConfig):
        from ambi_rl.training.feature_run import train_features

        return train_features(config, place, display, tracker, on_evaluation)
    from ambi_rl.training.run import train_block

    assert isinstance(config, TrainConfig)
    return train_block(config, place, display, tracker, on_evaluation)
