"""Files are written as a whole or not at all, and every failure is one line."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ambi_rl.codec.files import read_file, write_file
from ambi_rl.errors import AmbiError, UsageError


def test_write_and_replace(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_file(path, b"one")
    write_file(path, b"two")
    assert read_file(path) == b"two"
    with pytest.raises(UsageError, match="exists"):
        write_file(path, b"three", overwrite=False)
    assert path.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_permissions_are_the_usual_ones_or_those_of_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mask = os.umask(0o027)
    try:
        write_file(path, b"")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        write_file(path, b"")
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(mask)


def test_links_are_followed_and_devices_are_not_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    write_file(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()


def test_folders_and_missing_things(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_file(tmp_path, b"")
    with pytest.raises(UsageError, match=r"missing does not exist; create"):
        write_file(tmp_path / "missing" / "x", b"")
    with pytest.raises(UsageError, match="is a folder"):
        read_file(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        read_file(tmp_path / "missing")
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(UsageError, match="limit of 4"):
        read_file(tmp_path / "x", limit=4)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(AmbiError, match="No space left"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_full_device_is_one_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(AmbiError, match="/dev/full cannot be written: No space left"):
        write_file(full, bytes(100_000))
