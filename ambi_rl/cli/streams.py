"""Files of the command line, where `-` stands for stdin and stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakKeyDictionary

import typer

from ambi_rl.codec.files import check_target, read_file, write_file
from ambi_rl.errors import UsageError

STANDARD = "-"
_looked_at: WeakKeyDictionary[BinaryIO, bytes] = WeakKeyDictionary()
"""What was read of a stdin to look at it, until it is read for good."""


def look_at_stdin(count: int) -> bytes:
    """The first bytes of stdin, which `read_input` gives out again.

    A slow pipe is waited for: `peek` would be content with the one byte that has come.

    Args:
        count: How many bytes; fewer only if there are no more.
    """
    stdin = sys.stdin.buffer
    data = _looked_at.get(stdin, b"")
    data += stdin.read(max(count - len(data), 0))
    _looked_at[stdin] = data
    return data[:count]


def read_input(source: str) -> bytes:
    """Read a file, or stdin for `-`."""
    if source == STANDARD:
        return _looked_at.pop(sys.stdin.buffer, b"") + sys.stdin.buffer.read()
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
