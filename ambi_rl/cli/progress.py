"""What a command over several files tells while it works: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ambi_rl.corpus.work import Outcome, Status

_MOST_ERRORS = 50
"""Errors listed at the end; the others are counted."""


class Reporter:
    """Shows outcomes as they come, and what they amount to.

    Args:
        total: Files in all.
        verb: "encoded" or "decoded".
        describe: A line, or more, on a file that is done.
        as_json: Print a JSON object for each file instead.
        quiet: Print errors only, and JSON if it is asked for.
        verbose: Print lines also beside the bar, and of files that are left as they are.
    """

    def __init__(
        self,
        total: int,
        verb: str,
        describe: Callable[[Outcome], str],
        *,
        as_json: bool,
        quiet: bool,
        verbose: bool,
    ) -> None:
        self.counts: Counter[Status] = Counter()
        self.failures: list[Outcome] = []
        self._total = total
        self._verb = verb
        self._describe = describe
        self._as_json = as_json
        self._quiet = quiet
        self._verbose = verbose
        console = Console(stderr=True)
        on_terminal = sys.stdout.isatty()
        # JSON on the terminal itself shall neither be wrapped nor be cut by the bar.
        self._has_bar = console.is_terminal and not quiet and not (as_json and on_terminal)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._has_bar,
            transient=True,
            # Lines go above the bar by way of its console, stderr; those for a file must stay out of it.
            redirect_stdout=on_terminal,
        )
        self._task = self._bar.add_task(verb, total=total, speed="")
        self._start = time.monotonic()
        self._out: IO[str] = sys.stdout
        self._sums = {"size": 0, "bytes": 0, "pixels": 0}
        self._psnr: list[float] = []
        self._repeated = 0

    def __enter__(self) -> Reporter:
        self._bar.start()
        # Kept, for others may take its place for a while; and after the bar has put itself before it.
        self._out = sys.stdout
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._out = sys.stdout

    def add(self, outcome: Outcome) -> None:
        """Show an outcome."""
        self.counts[outcome.status] += 1
        self._repeated += outcome.tries > 1
        if outcome.status is Status.FAILED:
            self.failures.append(outcome)
        elif outcome.status is Status.DONE:
            self._add_up(outcome)
        self._print(outcome)
        done = self.counts[Status.DONE]
        speed = done / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(self._task, advance=1, speed=f"{speed:.2f} files/s" if done else "")

    def _add_up(self, outcome: Outcome) -> None:
        facts = outcome.facts
        self._sums["size"] += facts["size"]
        self._sums["bytes"] += facts["bytes"]
        self._sums["pixels"] += facts["width"] * facts["height"]
        if facts.get("psnr") is not None:
            self._psnr.append(facts["psnr"])

    def _print(self, outcome: Outcome) -> None:
        if self._as_json:
            job = outcome.job
            values: dict[str, Any] = {
                "input": job.source,
                "output": job.target,
                "status": outcome.status.value,
            }
            if outcome.status is Status.FAILED:
                values |= {"error": outcome.error, "exit_code": outcome.exit_code}
            if outcome.process:
                values["process"] = outcome.process
            self._say(json.dumps(values | outcome.facts))
        elif self._quiet or (self._has_bar and not self._verbose):
            return
        elif outcome.status is Status.DONE:
            self._say(f"{outcome.job.source} {self._describe(outcome)}")
        elif outcome.status is Status.EXISTS:
            self._say(f"{outcome.job.target} exists, left as it is")
        elif outcome.status is Status.UNCHANGED and self._verbose:
            self._say(f"{outcome.job.target} is up to date")

    def _say(self, line: str) -> None:
        typer.echo(line, file=self._out)
        self._out.flush()

    def finish(self, skipped: int, *, interrupted: bool = False) -> None:
        """Print what all amounted to, and the errors.

        Args:
            skipped: Files of folders that were not meant.
            interrupted: Whether there would have been more.
        """
        if not self._quiet:
            # Where JSON is asked for, nothing else shall be among it.
            typer.echo(self._summary(skipped, interrupted), err=self._as_json)
        for outcome in self.failures[:_MOST_ERRORS]:
            message = outcome.error
            if outcome.job.source not in message:
                message = f"{outcome.job.source}: {message}"
            typer.echo(f"ambi: {message}", err=True)
        if len(self.failures) > _MOST_ERRORS:
            typer.echo(
                f"ambi: {len(self.failures) - _MOST_ERRORS} more errors; --json lists all", err=True
            )

    def _summary(self, skipped: int, interrupted: bool) -> str:
        seconds = time.monotonic() - self._start
        done = self.counts[Status.DONE]
        text = f"{done} of {self._total} {self._verb}" if interrupted else f"{done} {self._verb}"
        if done:
            text += f", {_size(self._sums['size'])} -> {_size(self._sums['bytes'])}"
        if self._psnr:
            bpp = 8 * self._sums["bytes"] / self._sums["pixels"]
            text += f", {bpp:.3f} bpp, mean PSNR {sum(self._psnr) / len(self._psnr):.2f} dB"
        parts = [
            (self.counts[Status.UNCHANGED], "up to date"),
            (self.counts[Status.EXISTS], "existed"),
            (skipped, "skipped"),
            (self._repeated, "tried again after a worker died"),
            (len(self.failures), "failed"),
        ]
        text += "".join(f", {count} {name}" for count, name in parts if count)
        text += f", {seconds:.1f} s"
        return f"interrupted: {text}" if interrupted else text


def _size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"
