"""Tells on the terminal how runs of other processes go on, from their status files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console

from ambi_rl.sweeps.records import RunRecord, read_run
from ambi_rl.training.status import State

_POLL_SECONDS = 1.0
_PROGRESS_SECONDS = 30.0


def outcome(run: RunRecord) -> str:
    """How a run is, for a line: its state and the number that counts, or why it failed."""
    text = str(run.status.state)
    if run.status.error:
        return f"{text}: {run.status.error}"
    if run.system != "block":
        return f"{text}, {run.reward}" if run.reward else text
    return text if run.best is None else f"{text}, best held-out BD-rate {run.best:+.2f} %"


class Watcher:
    """Prints a line whenever the state of a run changes, and now and then how far the running ones are.

    Args:
        console: Where to.
        folders: Called for the run folders that there are by now, by what a line calls them.
    """

    def __init__(self, console: Console, folders: Callable[[], Mapping[str, Path]]) -> None:
        self._console = console
        self._folders = folders
        self._seen: dict[str, State] = {}
        self._said = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watcher")

    def _watch(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            self.look()

    def look(self) -> None:
        """Print what has changed since the last look."""
        running = []
        for name, folder in self._folders().items():
            run = read_run(folder)
            if run is None:
                continue
            state = run.status.state
            if self._seen.get(name) != state:
                self._seen[name] = state
                self._line(f"{name}: {outcome(run)}")
            if state is State.RUNNING:
                share = run.steps / max(run.status.total_steps, 1)
                running.append(f"{name} {share:.0%}")
        if running and time.monotonic() - self._said > _PROGRESS_SECONDS:
            self._said = time.monotonic()
            self._line(f"running: {', '.join(running)}")

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def __enter__(self) -> Self:
        for name, folder in self._folders().items():
            run = read_run(folder)
            if run is not None and run.status.state is not State.RUNNING:
                # What was so before is not news.
                self._seen[name] = run.status.state
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.look()
