"""Which files are to be coded and what each will be called, settled before any work begins."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ambi_rl.errors import UsageError

AMBI_SUFFIX = ".ambi"
PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".tga"),
)
"""Endings, in lower case, of what is taken for a picture in a folder."""

_MAGIC = "*?["


class Job(NamedTuple):
    """One file to code.

    Attributes:
        source: Path of the file.
        target: Path of what becomes of it.
        name: Of the source within the corpus: relative to the output folder, with its own ending.
        output: Of the target, relative to the output folder; both with / between folders.
    """

    source: str
    target: str
    name: str
    output: str


@dataclass
class Plan:
    """What a command will do.

    Attributes:
        folder: Where all targets are.
        jobs: In the order in which files were found.
        skipped: Files of folders that are not coded, and why.
        faults: Files and folders that should be coded but cannot be read, with the system's error.
    """

    folder: Path
    jobs: list[Job] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, OSError]] = field(default_factory=list)


@dataclass(frozen=True)
class Naming:
    """How a target's name is made of its source's.

    Attributes:
        suffix: Ending of targets, with its dot.
        keep: Whether the source's ending stays before it: a.png becomes a.png.ambi.
    """

    suffix: str
    keep: bool = False

    def target(self, name: str) -> str:
        """The target's name for a source's."""
        path = PurePosixPath(name)
        stem = path.name if self.keep else path.stem
        # What was coded as a.png.ambi comes back as a.png.
        ending = "" if stem.lower().endswith(self.suffix) and not self.keep else self.suffix
        return str(path.with_name(stem + ending))


def is_pattern(name: str) -> bool:
    """Whether an argument is a pattern that the shell has left to us: nothing has that very name."""
    return any(c in name for c in _MAGIC) and not os.path.lexists(name)


class _Finder:
    """Collects the sources of a plan.

    Args:
        suffixes: Endings of files in folders that are meant, in lower case.
        folder: The output folder, which is no input.
        plan: Where skipped files and faults are noted.
    """

    def __init__(self, suffixes: Collection[str], folder: Path, plan: Plan) -> None:
        self._suffixes = suffixes
        self._output = folder.resolve()
        self._plan = plan

    def named(self, path: str, base: str) -> Iterator[tuple[str, str]]:
        """Path and name of an argument or of the files below it.

        Args:
            path: A file or a folder.
            base: What stands before the names of files below a folder; "" or it ends in /.
        """
        if os.path.isdir(path):  # noqa: PTH112 - a Path would normalise what the user typed
            yield from self._walk(path, base, (_identity(path),))
        else:
            yield path, f"{base}{Path(path).name}"

    def found(self, path: str, name: str) -> Iterator[tuple[str, str]]:
        """The same for a file that was not named but found: it may be of another kind."""
        if Path(path).suffix.lower() in self._suffixes:
            yield path, name
        else:
            self._plan.skipped.append((path, "another kind of file"))

    def _walk(
        self, folder: str, base: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[tuple[str, str]]:
        """Files below a folder in the order of their names; links are followed unless they lead back up."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self._plan.faults.append((folder, error))
            return
        for entry in found:
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - many files: no Path for each
            if entry.name.startswith("."):
                self._plan.skipped.append((path, "hidden"))
            elif not entry.is_dir():
                yield from self.found(path, base + entry.name)
            elif (identity := _identity(path)) in above:
                self._plan.skipped.append((path, "a link to a folder above it"))
            elif Path(path).resolve() == self._output:
                self._plan.skipped.append((path, "the output folder"))
            else:
                yield from self._walk(path, f"{base}{entry.name}/", (*above, identity))


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - many folders
    return status.st_dev, status.st_ino


def _of_pattern(pattern: str, finder: _Finder) -> Iterator[tuple[str, str]]:
    """Files that match; their names begin after the part of the pattern that is fixed."""
    parts = Path(pattern).parts
    fixed = 0
    while not any(c in parts[fixed] for c in _MAGIC):
        fixed += 1
    root = Path(*parts[:fixed])
    matches = sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207 - as a shell, without hidden files
    if not matches:
        raise UsageError(f"nothing matches {pattern}; check the pattern")
    for match in matches:
        name = Path(match).relative_to(root).as_posix()
        if Path(match).is_dir():
            yield from finder.named(match, "" if name == "." else f"{name}/")
        else:
            yield from finder.found(match, name)


def _sources(inputs: Sequence[str], finder: _Finder) -> Iterator[tuple[str, str]]:
    for name in inputs:
        if is_pattern(name):
            yield from _of_pattern(name, finder)
        elif not os.path.lexists(name):
            raise UsageError(f"{name} does not exist; check the name")
        elif len(inputs) == 1 or not Path(name).is_dir():
            yield from finder.named(name, "")
        else:
            # As cp -r does it: among several, a folder keeps its name.
            yield from finder.named(name, f"{Path(name).resolve().name}/")


def make_plan(
    inputs: Sequence[str], folder: Path, *, suffixes: Collection[str], naming: Naming
) -> Plan:
    """Find all files that arguments stand for and give each its target.

    A single folder's content goes to the output folder, with its tree; among several arguments folders keep
    their names, and files lie beside them. Hidden files, and files of other endings, are skipped unless they
    are named. Nothing is read or written.

    Args:
        inputs: Files, folders and patterns as of the shell, ** too.
        folder: The output folder; it need not exist.
        suffixes: Endings, in lower case, of files that are meant in folders and by patterns.
        naming: What becomes of names.

    Raises:
        UsageError: An argument stands for nothing, two files would become one, a target is one of the
            sources, or the output folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; with several inputs -o names a folder")
    plan = Plan(folder)
    made: dict[str, str] = {}
    clashes: list[tuple[str, str, str]] = []
    for source, name in _sources(inputs, _Finder(suffixes, folder, plan)):
        output = naming.target(name)
        other = made.setdefault(output, source)
        if other is not source:
            # Patterns and folders may stand for the same file twice.
            if os.path.abspath(other) != os.path.abspath(source):  # noqa: PTH100 - links stay
                clashes.append((other, source, output))
            continue
        plan.jobs.append(Job(source, str(folder / output), name, output))
    _check(plan, clashes, naming)
    return plan


def _check(plan: Plan, clashes: list[tuple[str, str, str]], naming: Naming) -> None:
    if clashes:
        first, second, output = clashes[0]
        more = f" (and {len(clashes) - 1} more such pairs)" if len(clashes) > 1 else ""
        mend = "code them into different folders"
        same_stem = Path(first).name != Path(second).name
        if same_stem and naming.suffix == AMBI_SUFFIX and not naming.keep:
            mend = f"--full-names makes it {Path(first).name}{AMBI_SUFFIX}"
        raise UsageError(
            f"{first} and {second} would both become {plan.folder / output}{more}; {mend}"
        )
    sources = {os.path.realpath(job.source) for job in plan.jobs}
    for job in plan.jobs:
        if os.path.realpath(job.target) in sources:
            raise UsageError(f"{job.target} is itself an input; choose another output folder")
