"""Progress on the terminal: a bar with key numbers, or now and then a line where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_QUIET_SECONDS = 20.0
"""Between lines without a terminal."""


class Display:
    """What a run tells while it runs.

    Args:
        console: Where to; standard error if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show bars while inside."""
        with self._bars:
            yield

    def line(self, text: str) -> None:
        """Say something that stays."""
        self._bars.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def phase(self, title: str) -> Iterator[Callable[[float], None]]:
        """A part of the run; yields what to call with the fraction done."""
        start = said = time.monotonic()
        if not self.console.is_terminal:
            self.line(f"{title}…")
        task = self._bars.add_task(title, total=1.0, note="")

        def report(fraction: float) -> None:
            nonlocal said
            self._bars.update(task, completed=fraction)
            now = time.monotonic()
            if not self.console.is_terminal and now - said >= _QUIET_SECONDS:
                said = now
                self.line(f"{title} {fraction:.0%}")

        yield report
        self._bars.remove_task(task)
        self.line(f"{title}: {time.monotonic() - start:.1f} s")

    def training(self, total: int, done: int, unit: str = "decisions") -> TrainingBar:
        """The bar of the training itself, over decisions or what else it counts."""
        return TrainingBar(self, self._bars, total, done, unit)


class TrainingBar:
    """Progress over decisions, or what else a training counts."""

    def __init__(self, display: Display, bars: Progress, total: int, done: int, unit: str) -> None:
        self._display = display
        self._bars = bars
        self._total, self._unit = total, unit
        self._first = done
        self._start = time.monotonic()
        self._said = self._start
        self._task: TaskID = bars.add_task("training", total=total, completed=done, note="")

    def update(self, done: int, note: str) -> None:
        """Show that `done` are taken, and a few numbers."""
        self._bars.update(self._task, completed=done, note=note)
        now = time.monotonic()
        if not self._display.console.is_terminal and now - self._said >= _QUIET_SECONDS:
            self._said = now
            speed = (done - self._first) / max(now - self._start, 1e-9)
            left = (self._total - done) / max(speed, 1e-9)
            self._display.line(
                f"training {done:,} of {self._total:,} {self._unit}, eta {left:.0f} s, {note}"
            )
