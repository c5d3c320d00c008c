"""manifest.jsonl: what was made of which source and how, one JSON object a line, the last word counts."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ambi_rl.corpus.plan import Job
from ambi_rl.corpus.work import Outcome, Status
from ambi_rl.errors import AmbiError, UsageError

NAME = "manifest.jsonl"
_CHUNK = 1 << 20


def _hash_of(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Made(NamedTuple):
    """What is kept in memory of a record of a file that was made; see docs/cli.md."""

    path: str
    settings: str
    size: int
    modified_ns: int
    sha256: str
    bytes: int
    output_sha256: str


def _key(settings: Any) -> str:
    """Settings as a text that equal ones share, also in memory."""
    return sys.intern(json.dumps(settings, sort_keys=True))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """All records in the order of their lines.

    A last line without its end was cut short when its writer was killed, and does not count.

    Raises:
        UsageError: The file is something else.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    record = json.loads(line)
                    record["output"], record["status"]
                except (ValueError, KeyError, TypeError):
                    raise UsageError(
                        f"line {number} of {path} is not a manifest's; move the file away"
                    ) from None
                yield record
    except FileNotFoundError:
        return


def read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The last record of each output, by the output's name; none if there is no such file.

    Raises:
        UsageError: The file is something else.
    """
    return {record["output"]: record for record in _records(path)}


def read_made(path: Path) -> dict[str, Made]:
    """What was made, by the output's name, as far as it is needed to know it again.

    Raises:
        UsageError: The file is something else.
    """
    made: dict[str, Made] = {}
    for record in _records(path):
        made.pop(record["output"], None)
        if record["status"] != Status.DONE:
            continue
        # A record of another version, which lacks something, counts as none.
        with suppress(KeyError):
            facts = {name: record[name] for name in Made._fields}
            made[record["output"]] = Made(**facts | {"settings": _key(record["settings"])})
    return made


class Known:
    """What records say that is still true.

    Args:
        made: See `read_made`.
        verify: Compare hashes of sources and outputs, where otherwise size and time of modification do.
    """

    def __init__(self, made: dict[str, Made], *, verify: bool = False) -> None:
        self._made = made
        self._verify = verify

    def holds(self, job: Job, settings: dict[str, Any]) -> bool:
        """Whether a job's target was made of its source, as it is now, with these settings, and is there.

        Args:
            job: The job.
            settings: `EncodeSettings.facts()`.
        """
        made = self._made.get(job.output)
        if made is None or (made.path, made.settings) != (job.name, _key(settings)):
            return False
        try:
            return self._is_target(job, made) and self._is_source(job, made)
        except OSError:
            return False

    def _is_target(self, job: Job, made: Made) -> bool:
        if Path(job.target).stat().st_size != made.bytes:
            return False
        return not self._verify or _hash_of(job.target) == made.output_sha256

    def _is_source(self, job: Job, made: Made) -> bool:
        status = Path(job.source).stat()
        if status.st_size != made.size:
            return False
        if status.st_mtime_ns == made.modified_ns and not self._verify:
            return True
        return _hash_of(job.source) == made.sha256


class Manifest:
    """The manifest of an output folder, to which one process at a time adds.

    Args:
        folder: The output folder; created if need be.

    Attributes:
        path: Of the file.
        made: What it held when it was opened; see `read_made`.

    Raises:
        UsageError: Another process is adding to it, or the file is something else.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        # Appended to in one piece, a line is there as a whole or, after a crash, cut short at the end.
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise UsageError(
                f"another command is writing {self.path}; wait for it or choose another folder"
            ) from None
        except OSError:
            pass  # Some file systems of clusters have no locks.
        try:
            self.made = read_made(self.path)
            self._end_line()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if os.fstat(self._handle).st_size == 0:
            # Nothing came of it, as where no cluster answers.
            self.path.unlink(missing_ok=True)
            with suppress(OSError):
                self.path.parent.rmdir()
        os.close(self._handle)

    def _end_line(self) -> None:
        """Take away a line that was cut short, so that the next one is not added to it."""
        size = end = os.fstat(self._handle).st_size
        while end:
            start = max(0, end - _CHUNK)
            found = os.pread(self._handle, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            os.ftruncate(self._handle, end)

    def add(self, outcome: Outcome) -> None:
        """Add a record.

        Raises:
            AmbiError: The disk is full or fails.
        """
        line = json.dumps(outcome.record(), ensure_ascii=True) + "\n"
        try:
            written = os.write(self._handle, line.encode())
        except OSError as error:
            raise AmbiError(f"{self.path} cannot be written: {error.strerror}") from error
        if written != len(line):
            self._end_line()
            raise AmbiError(f"{self.path} cannot be written: No space left on device")
