"""One job from file to file, so that nothing it meets stops the others, and what came of it."""

from __future__ import annotations

import hashlib
import os
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ambi_rl import __version__
from ambi_rl.codec.files import read_file, write_file
from ambi_rl.corpus.plan import Job
from ambi_rl.corpus.settings import Decoding, Encoding
from ambi_rl.errors import explain

Work = Callable[[Job], "Outcome"]


class Status(StrEnum):
    """What became of a job."""

    DONE = "done"
    EXISTS = "exists"
    """The target was there and was to stay."""
    UNCHANGED = "unchanged"
    """The manifest says that the target was made of the same source in the same way."""
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: The job.
        status: How it ended.
        facts: About source and target, for the manifest and --json; JSON types only.
        error: One line, if it failed.
        exit_code: What the error stands for.
        process: Id of the process that did it.
        tries: How often it was begun: more than once if a worker died over it.
    """

    job: Job
    status: Status
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    exit_code: int = 0
    process: int = 0
    tries: int = 1

    def record(self) -> dict[str, Any]:
        """A line of the manifest, without its line break."""
        record: dict[str, Any] = {
            "path": self.job.name,
            "output": self.job.output,
            "status": self.status.value,
        }
        if self.status is Status.FAILED:
            record |= {"error": self.error, "exit_code": self.exit_code}
        return record | self.facts


def failed(job: Job, error: BaseException) -> Outcome:
    """The outcome of a job that raised an exception; with AMBI_DEBUG set, its traceback is printed."""
    if os.environ.get("AMBI_DEBUG"):
        traceback.print_exception(error)
    message, code = explain(error)
    return Outcome(job, Status.FAILED, error=message, exit_code=code, process=os.getpid())


class StoppedError(Exception):
    """The command was interrupted; what is not written yet stays unwritten."""


class Writer:
    """Writes files, one at a time, until it is closed.

    A thread that codes cannot be stopped, but the process can be left while it codes. Once `close` has
    returned no file is being written, so that leaving loses no file and leaves no temporary one.

    Args:
        overwrite: Whether existing files are replaced.
    """

    def __init__(self, *, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._lock = threading.Lock()
        self._is_closed = False

    def __call__(self, path: str, data: bytes) -> None:
        """Write a file, with the folders above it.

        Raises:
            StoppedError: after `close`.
        """
        with self._lock:
            if self._is_closed:
                raise StoppedError
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_file(target, data, overwrite=self._overwrite)

    def close(self) -> None:
        """Wait for the file that is being written and refuse all others."""
        with self._lock:
            self._is_closed = True


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def encode_job(job: Job, settings: Encoding, write: Callable[[str, bytes], None]) -> Outcome:
    """Encode a file; whatever is wrong with it is in the outcome.

    Raises:
        StoppedError: `write` was closed.
    """
    try:
        # Before it is read: a change in between is noticed the next time.
        modified = Path(job.source).stat().st_mtime_ns if Path(job.source).exists() else 0
        data = read_file(Path(job.source))
        result = settings.encode(data, job.source)
        write(job.target, result.data)
    except StoppedError:
        raise
    except Exception as error:
        return failed(job, error)
    facts = {
        "sha256": sha256(data),
        "size": len(data),
        "modified_ns": modified,
        "output_sha256": sha256(result.data),
    }
    facts |= {name: value for name, value in result.facts.items() if name != "input_bytes"}
    facts |= {"settings": settings.facts(), "version": __version__}
    return Outcome(job, Status.DONE, facts, process=os.getpid())


def decode_job(job: Job, settings: Decoding, write: Callable[[str, bytes], None]) -> Outcome:
    """Decode a file; whatever is wrong with it is in the outcome.

    Raises:
        StoppedError: `write` was closed.
    """
    try:
        data = read_file(Path(job.source))
        result = settings.decode(data)
        write(job.target, result.data)
    except StoppedError:
        raise
    except Exception as error:
        return failed(job, error)
    facts = {"size": len(data), "bytes": len(result.data)} | result.facts
    return Outcome(job, Status.DONE, facts, process=os.getpid())
