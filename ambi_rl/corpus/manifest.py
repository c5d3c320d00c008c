"""manifest.jsonl: what was made of which source and how, one JSON object a line, the last word counts."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from ambi_rl.corpus.plan import Job
from ambi_rl.corpus.work import Outcome, Status
from ambi_rl.errors import AmbiError, UsageError

NAME = "manifest.jsonl"
_CHUNK = 1 << 20
_OPENINGS = 10
"""How often a manifest is opened while other commands remove it."""


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

    Attributes:
        touched: Times of modification, in ns, of sources that proved unchanged but for it, by output.
    """

    def __init__(self, made: dict[str, Made], *, verify: bool = False) -> None:
        self._made = made
        self._verify = verify
        self.touched: dict[str, int] = {}

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
        if _hash_of(job.source) != made.sha256:
            return False
        if status.st_mtime_ns != made.modified_ns:
            self.touched[job.output] = status.st_mtime_ns
        return True


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
        self._handle, self._is_locked = self._open()
        try:
            self.made = read_made(self.path)
            self._end_line()
        except BaseException:
            os.close(self._handle)
            raise

    def _open(self) -> tuple[int, bool]:
        """Open the file and claim it; returns the handle, and whether the file system has locks."""
        for left in reversed(range(_OPENINGS)):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Appended in one piece, a line is there as a whole or, after a crash, cut short.
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            except FileNotFoundError:
                if left:
                    continue  # Another command has just removed the folder, see `__exit__`.
                raise
            is_locked = self._lock(handle)
            if not is_locked or self._is_named(handle):
                return handle, is_locked
            # Another command has removed the file between the two: what is locked has no name any more.
            os.close(handle)
        raise UsageError(f"{self.path} is removed again and again; choose another folder")

    def _lock(self, handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise UsageError(
                f"another command is writing {self.path}; wait for it or choose another folder"
            ) from None
        except OSError:
            return False  # Some file systems of clusters have no locks.
        return True

    def _is_named(self, handle: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(handle), self.path.stat())
        return False

    def __enter__(self) -> Manifest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_locked and os.fstat(self._handle).st_size == 0:
            # Nothing came of it, as where no cluster answers. Whoever waits for it looks for the name again.
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
        self._append(outcome.record())

    def touch(self, times: Mapping[str, int]) -> None:
        """Repeat the records of outputs whose sources have got other times of modification.

        Args:
            times: In ns, by output.

        Raises:
            AmbiError: The disk is full or fails.
        """
        # All records of a large corpus are too much to be held: first where the last ones are, then each.
        places: dict[str, int] = {}
        with self.path.open("rb") as file:
            place = 0
            for line in file:
                output = json.loads(line)["output"]
                if output in times:
                    places[output] = place
                place += len(line)
            for output, place in places.items():
                file.seek(place)
                self._append(json.loads(file.readline()) | {"modified_ns": times[output]})

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=True) + "\n"
        try:
            written = os.write(self._handle, line.encode())
        except OSError as error:
            raise AmbiError(f"{self.path} cannot be written: {error.strerror}") from error
        if written != len(line):
            self._end_line()
            raise AmbiError(f"{self.path} cannot be written: No space left on device")
