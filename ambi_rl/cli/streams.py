"""Files of the command line, where `-` stands for stdin and stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ambi_rl.codec.files import check_target, read_file, write_file
from ambi_rl.errors import UsageError

STANDARD = "-"


def read_input(source: str) -> bytes:
    """Read a file, or stdin for `-`."""
    if source == STANDARD:
        return sys.stdin.buffer.read()
    return read_file(Path(source))


def check_output(source: str, target: str, *, overwrite: bool) -> None:
    """Refuse a target that cannot be written, or that is the source, before any work is done.

    Raises:
        UsageError: see `check_target`; or both are the same file.
    """
    if target == STANDARD:
        return
    path = Path(target)
    check_target(path, overwrite=overwrite)
    if source != STANDARD and path.is_file() and Path(source).exists() and path.samefile(source):
        raise UsageError(f"{target} is the input itself; choose another name")


def write_output(target: str, data: bytes, *, overwrite: bool) -> None:
    """Write a file as a whole, or to stdout for `-`."""
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_file(Path(target), data, overwrite=overwrite)


def print_result(target: str, text: str, values: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a command's result, on stderr where stdout carries the file."""
    line = json.dumps(dict(values)) if as_json else text
    typer.echo(line, err=target == STANDARD)
