"""The status file of a run: whether it runs, how it ended, for `ambi runs`, sweeps and studies."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ambi_rl.codec.files import write_file
from ambi_rl.errors import AmbiError, UsageError

STATUS_FILE = "status.json"
TRACEBACK_FILE = "traceback.txt"
HEARTBEAT_SECONDS = 10.0
LOST_SECONDS = 120.0
"""A run whose status was not renewed for so long is dead, whatever has its process number now."""


EvaluationHook = Callable[[int, dict[str, float]], None]
"""Called with the decisions so far and what an evaluation found, by name."""


class Pruned(Exception):  # noqa: N818 - an outcome, not an error
    """Raised by a hook on evaluations: the run is not worth going on with. A checkpoint is saved first."""


class State(enum.StrEnum):
    """How a run is; `KILLED` is never written, it is what a running one is whose process is gone."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    PRUNED = "pruned"
    KILLED = "killed"


@dataclass(frozen=True)
class Status:
    """What `status.json` says.

    Attributes:
        state: How the run is.
        steps: Node decisions so far.
        total_steps: Node decisions asked for.
        pid: Of the process that trains, or trained last.
        host: Where.
        started: When that process began, seconds since 1970.
        updated: When this was written, likewise.
        error: Why it failed, one line.
    """

    state: State
    steps: int = 0
    total_steps: int = 0
    pid: int = 0
    host: str = ""
    started: float = 0.0
    updated: float = 0.0
    error: str = ""

    @property
    def is_mine(self) -> bool:
        """Whether the process is this one."""
        return self.pid == os.getpid() and self.host == socket.gethostname()

    @property
    def where(self) -> str:
        """The process, for a message."""
        return f"process {self.pid} on {self.host}"


def _alive(status: Status) -> bool:
    if time.time() - status.updated > LOST_SECONDS:
        return False
    if status.host != socket.gethostname():
        # Another machine's process cannot be asked; its heartbeat is all there is.
        return True
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def read_status(folder: Path) -> Status | None:
    """How the run in a folder is.

    Args:
        folder: Of a run.

    Returns:
        None if there is no run. A run of before there were status files is judged by its other files.
    """
    try:
        stored = json.loads((folder / STATUS_FILE).read_text())
        known = {item.name for item in fields(Status)}
        values = {key: value for key, value in stored.items() if key in known}
        status = Status(**values | {"state": State(stored["state"])})
    except FileNotFoundError:
        return _guess(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Status(State.KILLED, error=f"{STATUS_FILE} cannot be read")
    if status.state is State.RUNNING and not _alive(status):
        return Status(**vars(status) | {"state": State.KILLED})
    return status


def has_checkpoint(folder: Path) -> bool:
    """Whether the run of a folder saved a checkpoint to go on from."""
    return (folder / "last.pt").is_file() or any(folder.glob("step-*.pt"))


def _guess(folder: Path) -> Status | None:
    if (folder / "metrics.json").is_file():
        return Status(State.FINISHED)
    if has_checkpoint(folder):
        return Status(State.INTERRUPTED)
    return Status(State.KILLED) if (folder / "config.yaml").is_file() else None


def write_status(folder: Path, status: Status) -> None:
    """Write the status file, all of it or nothing."""
    text = json.dumps(asdict(status), indent=2, sort_keys=True)
    write_file(folder / STATUS_FILE, f"{text}\n".encode())


def ensure_idle(folder: Path) -> None:
    """Refuse a folder that another process trains in.

    Raises:
        UsageError: One does.
    """
    status = read_status(folder)
    if status is not None and status.state is State.RUNNING and not status.is_mine:
        since = datetime.fromtimestamp(status.started, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise UsageError(
            f"{folder} is being trained by {status.where} since {since}; "
            "wait for it, stop it, or give another name=…"
        )


def one_line(error: BaseException) -> str:
    """An error as one line; its kind too unless it is one of ours, which explain themselves."""
    text = " ".join(str(error).split())
    if isinstance(error, AmbiError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def end_state(error: BaseException | None) -> State:
    """What an exception, or none, makes of a run."""
    if error is None:
        return State.FINISHED
    if isinstance(error, Pruned):
        return State.PRUNED
    # Ray, for one, makes of a request to stop an exit.
    is_stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    return State.INTERRUPTED if is_stopped else State.FAILED


class Tracker:
    """Keeps the status file while a run is inside: running with a heartbeat, then how it ended.

    Args:
        folder: The run folder, which exists.
        total_steps: Node decisions asked for.

    Attributes:
        steps: Called for the number of node decisions so far, by another thread too.
    """

    def __init__(self, folder: Path, total_steps: int) -> None:
        self.steps: Callable[[], int] = lambda: 0
        self._folder = folder
        self._facts: dict[str, Any] = {
            "total_steps": total_steps,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": time.time(),
        }
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="status")

    def _write(self, state: State, error: str = "") -> None:
        status = Status(state, steps=self.steps(), updated=time.time(), error=error, **self._facts)
        write_status(self._folder, status)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_SECONDS):
            # Training matters more than its status: a full disk is reported by what needs it.
            with contextlib.suppress(Exception):
                self._write(State.RUNNING)

    def __enter__(self) -> Self:
        self._write(State.RUNNING)
        (self._folder / TRACEBACK_FILE).unlink(missing_ok=True)
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
        state = end_state(error)
        if error is None:
            self._write(state)
            return
        # What went wrong is more important than that it could not be noted.
        with contextlib.suppress(Exception):
            self._write(state, one_line(error) if state is State.FAILED else "")
            if state is State.FAILED and not isinstance(error, AmbiError):
                text = "".join(traceback.format_exception(kind, error, trace))
                write_file(self._folder / TRACEBACK_FILE, text.encode())
