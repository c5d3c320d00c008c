"""Which files are to be coded and what each will be called, settled before any work begins."""

from __future__ import annotations

import fnmatch
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
    return _has_magic(name) and not os.path.lexists(name)


class _Place(NamedTuple):
    """A folder on the way down.

    Attributes:
        path: Of the folder; "" is the working folder.
        base: What stands before the names of files in it; "" or it ends in /.
        above: Identities of the folder and of those above it that were passed.
    """

    path: str
    base: str
    above: tuple[tuple[int, int], ...]

    def join(self, name: str) -> str:
        """Path of what is called so in it."""
        return os.path.join(self.path, name)  # noqa: PTH118 - many files: no Path for each


class _Finder:
    """Collects the sources of a plan.

    Args:
        suffixes: Endings of files in folders that are meant, in lower case.
        folder: The output folder, which is no input.
        plan: Where skipped files and faults are noted.

    Attributes:
        matches: How often a pattern matched something, be it none of the files that are meant.
    """

    def __init__(self, suffixes: Collection[str], folder: Path, plan: Plan) -> None:
        self._suffixes = suffixes
        self._output = folder.resolve()
        self._plan = plan
        self.matches = 0
        # Several arguments, and ** of one, come by the same places more than once.
        self._noted: set[str] = set()

    def named(self, path: str, base: str) -> Iterator[tuple[str, str]]:
        """Path and name of an argument or of the files below it.

        Args:
            path: A file or a folder.
            base: What stands before the names of files below a folder; "" or it ends in /.
        """
        if _is_folder(path):
            yield from self._walk(_Place(path, base, (_identity(path),)))
        else:
            yield path, f"{base}{Path(path).name}"

    def matching(self, root: str, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Path and name of files that match a pattern, or are below folders that do.

        As a shell's, wildcards do not stand for the dot that a hidden name begins with.

        Args:
            root: A folder, where names begin; "" is the working folder.
            parts: Of the pattern below it; ** is any number of folders.
        """
        if _is_folder(root or "."):
            yield from self._match(_Place(root, "", (_identity(root or "."),)), parts)

    def _match(self, place: _Place, parts: Sequence[str]) -> Iterator[tuple[str, str]]:
        part, *rest = parts
        if part == "**" and not rest:
            self.matches += 1
            yield from self._walk(place)
        elif part == "**":
            yield from self._match(place, rest)
            for entry in self._entries(place):
                if not entry.name.startswith(".") and (below := self._enter(place, entry.name)):
                    yield from self._match(below, parts)
        else:
            for name in self._matches(place, part):
                if not rest:
                    self.matches += 1
                    yield from self._below(place, name)
                elif below := self._enter(place, name):
                    yield from self._match(below, rest)

    def _matches(self, place: _Place, part: str) -> list[str]:
        """Names in a folder for which a part of a pattern stands, ** excepted."""
        if not _has_magic(part):
            return [part] if os.path.lexists(place.join(part)) else []
        names = [entry.name for entry in self._entries(place)]
        return [
            name
            for name in fnmatch.filter(names, part)
            if part.startswith(".") or not name.startswith(".")
        ]

    def _walk(self, place: _Place) -> Iterator[tuple[str, str]]:
        """Files below a folder in the order of their names; links are followed unless they lead back up."""
        for entry in self._entries(place):
            if entry.name.startswith("."):
                self._skip(place.join(entry.name), "hidden")
            else:
                yield from self._below(place, entry.name)

    def _below(self, place: _Place, name: str) -> Iterator[tuple[str, str]]:
        """What is called so in a folder, if it is a file that is meant, or the files below it."""
        path = place.join(name)
        if _is_folder(path):
            if below := self._enter(place, name):
                yield from self._walk(below)
        elif Path(path).suffix.lower() in self._suffixes:
            yield path, place.base + name
        else:
            self._skip(path, "another kind of file")

    def _enter(self, place: _Place, name: str) -> _Place | None:
        """A folder in a folder; None if it is no folder or none to look into."""
        path = place.join(name)
        if not _is_folder(path):
            return None
        identity = _identity(path)
        if identity in place.above:
            self._skip(path, "a link to a folder above it")
        elif Path(path).resolve() == self._output:
            self._skip(path, "the output folder")
        else:
            return _Place(path, f"{place.base}{name}/", (*place.above, identity))
        return None

    def _entries(self, place: _Place) -> list[os.DirEntry[str]]:
        """What is in a folder, by name; nothing if it cannot be read."""
        try:
            with os.scandir(place.path or ".") as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if self._is_new(place.path):
                self._plan.faults.append((place.path, error))
            return []

    def _skip(self, path: str, why: str) -> None:
        if self._is_new(path):
            self._plan.skipped.append((path, why))

    def _is_new(self, path: str) -> bool:
        absolute = os.path.abspath(path)  # noqa: PTH100 - links stay
        is_new = absolute not in self._noted
        self._noted.add(absolute)
        return is_new


def _is_folder(path: str) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - many files, and what the user typed shall stay


def _identity(folder: str) -> tuple[int, int]:
    status = os.stat(folder)  # noqa: PTH116 - many folders
    return status.st_dev, status.st_ino


def _has_magic(name: str) -> bool:
    return any(c in name for c in _MAGIC)


def _of_pattern(pattern: str, finder: _Finder) -> Iterator[tuple[str, str]]:
    """Files that match; their names begin after the part of the pattern that is fixed."""
    parts = Path(pattern).parts
    fixed = 0
    while not _has_magic(parts[fixed]):
        fixed += 1
    if ".." in parts[fixed:]:
        # Names of targets would lead out of the output folder, or several to one file.
        raise UsageError(f"{pattern} has .. behind a wildcard; write it without")
    variable: list[str] = []
    # What a pattern for folders only, one that ends in /, asks for is the files below them.
    for part in (*parts[fixed:], *(["**"] if pattern.endswith("/") else [])):
        if part != "**" or variable[-1:] != ["**"]:
            variable.append(part)
    before = finder.matches
    yield from finder.matching(str(Path(*parts[:fixed])) if fixed else "", variable)
    if finder.matches == before:
        raise UsageError(f"nothing matches {pattern}; check the pattern")


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
            base = Path(name).resolve().name
            yield from finder.named(name, f"{base}/" if base else "")


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
