"""Interruptions of a run that no later update is there to notice."""

from __future__ import annotations

import signal
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from ambi_rl.training.checkpoint import Progress
from ambi_rl.training.display import Display
from ambi_rl.training.run import Run
from ambi_rl.training.stopping import Stopping


class LastUpdate:
    """An agent that is interrupted in the last update of its training."""

    num_timesteps = 0

    def learn(self, steps: int, **keywords: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        self.num_timesteps = steps


def test_an_interruption_of_the_last_update_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = cast(Any, object.__new__(Run))
    run.config = OmegaConf.create(
        {
            "total_steps": 64,
            "checkpoint_every": 1000,
            "entropy": {"refit_every": 0},
            "evaluation": {"every": 0},
        }
    )
    run.progress = Progress(evaluations=[{}], warm_started=True)
    run.display = Display()
    run.stopping = Stopping(run.display)
    run.agent, run.guard, run.recent = LastUpdate(), None, []
    saved: list[int] = []
    monkeypatch.setattr(Run, "checkpoint", lambda self, steps: saved.append(steps))
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.learn()
    assert saved == [64]
    assert signal.getsignal(signal.SIGINT) is before
