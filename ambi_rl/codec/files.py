"""Reading and writing whole files so that nothing is ever half-written and every failure is one line."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ambi_rl.errors import AmbiError, UsageError


def read_file(path: Path, *, limit: int | None = None) -> bytes:
    """Read a file.

    Args:
        path: The file.
        limit: Refuse files over this many bytes.

    Raises:
        UsageError: there is no such file, it is a folder, may not be read, or is over `limit`.
    """
    try:
        if limit is None:
            return path.read_bytes()
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            # A device or a pipe does not say how much it holds, so that reading has to stop by itself.
            data = b"" if size > limit else stream.read(limit + 1)
        size = max(size, len(data))
        if size > limit:
            raise UsageError(f"{path} has {size} bytes or more, over the limit of {limit}")
        return data
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist; check the name") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; name a file in it") from None
    except PermissionError:
        raise UsageError(f"{path} may not be read; check its permissions") from None
    except OSError as error:
        raise AmbiError(f"{path} cannot be read: {error.strerror or error}") from error


def check_target(path: Path, *, overwrite: bool = True) -> None:
    """Find out before the work begins whether its result could be written.

    Raises:
        UsageError: the path is a folder, its folder is missing or may not be looked into, or it exists and
            `overwrite` is false.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file in it")
        if not path.parent.is_dir():
            raise UsageError(f"the folder {path.parent} does not exist; create it first")
        if path.exists() and not overwrite:
            raise UsageError(f"{path} exists; remove it or leave out --no-overwrite")
    except PermissionError:
        raise _may_not_be_written(path) from None


def _may_not_be_written(path: Path) -> UsageError:
    return UsageError(f"{path} may not be written; check the folder's permissions")


def write_file(path: Path, data: bytes, *, overwrite: bool = True, durable: bool = False) -> None:
    """Write a file: all of it under its name, or nothing.

    The data goes to a temporary file beside the target, which then takes the target's name. Links are
    followed; a device or a pipe is written to directly.

    Args:
        path: The target.
        data: Its content.
        overwrite: Whether an existing file is replaced.
        durable: Whether to wait until it is on the disk, so that not even a power failure takes it back.

    Raises:
        UsageError: see `check_target`, or the folder may not be written to.
        AmbiError: the disk is full or fails.
    """
    check_target(path, overwrite=overwrite)
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data, durable)
    except PermissionError:
        raise _may_not_be_written(path) from None
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AmbiError(f"{path} cannot be written: {error.strerror or error}") from error


def _replace(target: Path, data: bytes, durable: bool) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)
        if durable:
            # The name is part of the folder, which has to reach the disk as well.
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """Permissions of the file that is replaced, or what a newly created file would get."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
