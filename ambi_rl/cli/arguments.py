"""What the files on a command line stand for: one file and its target, or several and a folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from ambi_rl.cli.streams import STANDARD
from ambi_rl.corpus.plan import is_pattern
from ambi_rl.errors import UsageError

WRITTEN_SUFFIXES = (".png", ".tif", ".tiff", ".webp", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
"""Endings of the pictures that `decode` writes, in lower case."""


class OneFile(NamedTuple):
    """`IN OUT`, or `IN -o FILE`; either may be `-`."""

    source: str
    target: str


class ManyFiles(NamedTuple):
    """`IN... -o DIR`."""

    inputs: list[str]
    folder: Path


def _is_many(name: str) -> bool:
    return name != STANDARD and (Path(name).is_dir() or is_pattern(name))


def sort_out(
    inputs: Sequence[str], output: str | None, suffixes: Collection[str]
) -> OneFile | ManyFiles:
    """Tell the two forms of `encode` and `decode` apart.

    Without -o there are exactly two names, IN and OUT. With -o all names are inputs; what -o names is a file
    if there is one input file and -o has one of `suffixes` and is no folder, and a folder otherwise.

    Args:
        inputs: Names on the command line.
        output: What -o names.
        suffixes: Endings, in lower case, of files that the command writes.

    Raises:
        BadParameter: Something is missing; Typer shows the usage.
        UsageError: The names cannot be meant so.
    """
    if output is None:
        return _two(inputs)
    if output == STANDARD or Path(output).suffix.lower() in suffixes:
        is_file = not output.endswith("/") and not Path(output).is_dir()
        if is_file and (len(inputs) > 1 or _is_many(inputs[0])):
            raise UsageError(
                f"-o {output} is a file, which several inputs cannot all become; name a folder"
            )
        if is_file:
            return OneFile(inputs[0], output)
    if STANDARD in inputs:
        raise UsageError("- (stdin) has no name to be written under; give it a file: - OUT")
    return ManyFiles(list(inputs), Path(output))


def _two(inputs: Sequence[str]) -> OneFile:
    if len(inputs) == 1:
        raise typer.BadParameter(
            f"{inputs[0]} has no target; name a file (IN OUT) or a folder (-o DIR)"
        )
    if len(inputs) > 2:
        raise typer.BadParameter(
            f"{len(inputs)} names without -o; to code several files, name a folder with -o DIR"
        )
    if _is_many(inputs[0]):
        what = "a folder" if Path(inputs[0]).is_dir() else "a pattern"
        raise UsageError(f"{inputs[0]} is {what}; name the folder to write to: -o {inputs[1]}")
    return OneFile(inputs[0], inputs[1])


def check_options(
    files: OneFile | ManyFiles,
    of_folders: Mapping[str, Any],
    *,
    needs_ray: Mapping[str, Any] | None = None,
    needs_manifest: Mapping[str, Any] | None = None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Refuse options that would do nothing.

    Args:
        files: What the command works on.
        of_folders: Options that belong to several files, by name, and their values; false if not given.
        needs_ray: Options that belong to --ray.
        needs_manifest: Options that belong to a manifest.
        quiet: --quiet.
        verbose: --verbose.

    Raises:
        UsageError: There is one.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose exclude each other; give only one of them")
    given = [name for name, value in of_folders.items() if value]
    if isinstance(files, OneFile) and given:
        raise UsageError(f"{given[0]} belongs to several files; name a folder with -o DIR")
    for name, value in (needs_ray or {}).items():
        if value and not of_folders["--ray"]:
            raise UsageError(f"{name} belongs to --ray; without it -j says how many threads work")
    for name, value in (needs_manifest or {}).items():
        if value and not (of_folders["--ray"] or of_folders["--manifest"]):
            raise UsageError(f"{name} belongs to --manifest or --ray; give one of them")
