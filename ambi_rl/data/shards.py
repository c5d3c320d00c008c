"""Shards: pieces of a collection that are read from front to back, of which few are open at a time."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from ambi_rl.errors import ConfigError

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm")
HELD_OUT_PREFIX = "held-out-"

_TAR_BLOCK = 512
_END = -1
"""In the place of an offset: nothing follows."""
_BLOCK = 1024
"""Names in a shard of an index."""
_RUN = 100_000
"""Names that are sorted in memory at a time."""

Wanted = Callable[[str], bool]


class Fault(str):
    """Why something cannot be read, in the place of what should have been."""

    __slots__ = ()


Content = bytes | Path | Fault


class Entry(NamedTuple):
    """A photograph in a shard.

    Attributes:
        offset: Where it begins, in bytes from the shard's beginning.
        next: Where what follows it begins.
        name: Of the photograph, with that of its shard if it has one.
        content: The file's bytes, or where the file is, or why there is none.
    """

    offset: int
    next: int
    name: str
    content: Content


class Shard(Protocol):
    """A piece of a collection."""

    name: str

    def entries(self, offset: int, wanted: Wanted) -> Iterator[Entry]:
        """Photographs from a place on, in order.

        Args:
            offset: 0, or the `next` of an entry, or the `offset` of one to read it again.
            wanted: Says by their base names which ones; the others are passed over without being read.
        """

    def identity(self) -> str:
        """Something that changes when the shard does, as far as that can be known without reading it."""


def is_picture(name: str) -> bool:
    """Whether a file is a photograph, by its name."""
    return name.lower().endswith(SUFFIXES)


def is_held_out(name: str, every: int) -> bool:
    """Whether a photograph of a stream is held out, by its name alone.

    A photograph stays on its side whatever is added, and however it is packed: the names that begin with
    `held-out-` and, of the others, about one of `every`, by a hash of the base name.

    Args:
        name: Base name of the file.
        every: 2 or more.
    """
    if name.startswith(HELD_OUT_PREFIX):
        return True
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") % every == 0


class TarShard:
    """A tar archive of photographs, not compressed; other files in it (labels, captions) are passed over.

    Args:
        path: The archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._size = path.stat().st_size

    def identity(self) -> str:
        """Name and size."""
        return f"{self.name} {self._size}"

    def entries(self, offset: int, wanted: Wanted) -> Iterator[Entry]:
        """Photographs from a place on; a damaged archive ends with one that says so."""
        if offset < 0:
            return
        try:
            with tarfile.open(self.path, "r:") as archive:
                yield from self._members(archive, offset, wanted)
        except (OSError, tarfile.TarError) as error:
            fault = Fault(f"cannot be read as a tar archive: {error}")
            yield Entry(offset, _END, self.name, fault)

    def _members(self, archive: tarfile.TarFile, offset: int, wanted: Wanted) -> Iterator[Entry]:
        stream = archive.fileobj
        while 0 <= offset < self._size:
            stream.seek(offset)
            if not stream.read(_TAR_BLOCK).strip(b"\0"):
                # The end, as it is marked; blocks that follow mean nothing.
                return
            stream.seek(offset)
            try:
                # Headers one by one: a TarFile that is iterated keeps all of them in memory.
                member = tarfile.TarInfo.fromtarfile(archive)
            except tarfile.HeaderError as error:
                fault = Fault(f"the archive is damaged after byte {offset}: {error}")
                yield Entry(offset, _END, self.name, fault)
                return
            data = member.offset_data
            length = member.size if member.isreg() else 0
            following = data + -(-length // _TAR_BLOCK) * _TAR_BLOCK
            base = member.name.rsplit("/", 1)[-1]
            if member.isreg() and is_picture(base) and wanted(base):
                stream.seek(data)
                content = stream.read(length)
                name = f"{self.name}/{member.name}"
                if len(content) < length:
                    yield Entry(offset, _END, name, Fault("the archive ends within it"))
                    return
                yield Entry(offset, following, name, content)
            offset = following


class Index:
    """Names of files, in a file: of millions of them only every thousandth place is kept in memory.

    Args:
        stream: One name on each line; it belongs to the index from here on.
        root: What names are relative to.
        title: What to call it in messages.
    """

    def __init__(self, stream: BinaryIO, root: Path, title: str) -> None:
        self._stream = stream
        self.root = root
        self.title = title
        self.count = 0
        digest = hashlib.sha256()
        places = []
        stream.seek(0)
        offset = 0
        for line in stream:
            if _named(line):
                if self.count % _BLOCK == 0:
                    places.append(offset)
                self.count += 1
                digest.update(line)
            offset += len(line)
        self.places = np.array([*places, offset], np.int64)
        self.digest = digest.hexdigest()

    def shards(self) -> list[IndexShard]:
        """The index in pieces of a thousand names."""
        return [IndexShard(self, number) for number in range(len(self.places) - 1)]

    def names(self) -> Iterator[str]:
        """All names, in order."""
        for shard in self.shards():
            for entry in shard.entries(0, lambda name: True):
                yield entry.name

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the index."""
        return os.pread(self._stream.fileno(), length, offset)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _named(line: bytes) -> bytes:
    """The name on a line; nothing for blank lines and comments."""
    name = line.strip(b"\r\n")
    return b"" if not name.strip() or name.startswith(b"#") else name


class IndexShard:
    """A thousand consecutive names of an index.

    Args:
        index: The index.
        number: Which thousand.
    """

    def __init__(self, index: Index, number: int) -> None:
        self._index = index
        self._first = int(index.places[number])
        self._last = int(index.places[number + 1])
        self.name = f"{index.title}, block {number}"

    def identity(self) -> str:
        """Of the whole index."""
        return self._index.digest

    def entries(self, offset: int, wanted: Wanted) -> Iterator[Entry]:
        """Photographs from a place on; their files are not looked at."""
        block = self._index.read(self._first + offset, self._last - self._first - offset)
        for line in block.splitlines(keepends=True):
            start, offset = offset, offset + len(line)
            name = os.fsdecode(_named(line))
            if name and wanted(name.rsplit("/", 1)[-1]):
                yield Entry(start, offset, name, self._index.root / name)


def walk(folder: Path) -> Iterator[str]:
    """Photographs of a folder and of all folders within it, but hidden ones, relative to it, in no order."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        prefix = os.path.relpath(place, folder)
        for name in files:
            # A name on two lines cannot be listed.
            if is_picture(name) and not name.startswith(".") and "\n" not in name:
                yield name if prefix == "." else f"{prefix}/{name}"


def index_folder(folder: Path) -> Index:
    """List a folder and all folders within it, sorted, in a temporary file.

    Raises:
        ConfigError: It does not exist.
    """
    if not folder.is_dir():
        raise ConfigError(f"data.folder: {folder} does not exist; name a folder of photographs")
    stream = tempfile.TemporaryFile()  # noqa: SIM115 - the index keeps it
    with ExitStack() as stack:
        # The order of a folder is its file system's, so names are sorted, in parts that fit into memory.
        runs = []
        names = walk(folder)
        while part := sorted(os.fsencode(f"{name}\n") for name in itertools.islice(names, _RUN)):
            run = stack.enter_context(tempfile.TemporaryFile())
            run.write(b"".join(part))
            run.seek(0)
            runs.append(run)
        stream.writelines(heapq.merge(*runs))
    stream.flush()
    return Index(stream, folder, str(folder))


def index_list(path: Path) -> Index:
    """The index that a text file is: one path on each line, relative to the file's folder.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise ConfigError(
            f"data.list_file: {path} cannot be read: {error.strerror}; name a text file with the path of a "
            "photograph on each line"
        ) from error
    return Index(stream, path.parent, str(path))


def find_shards(pattern: str) -> list[TarShard]:
    """Tar archives of a folder, or those that match a pattern, by name.

    Args:
        pattern: A folder, a file, or a path with * and ?.

    Raises:
        ConfigError: There are none.
    """
    place = Path(pattern)
    if place.is_dir():
        found: Sequence[Path] = sorted(place.rglob("*.tar"))
    elif place.is_file():
        found = [place]
    else:
        parts = place.parts
        fixed = list(itertools.takewhile(lambda part: not set(part) & set("*?["), parts))
        rest = parts[len(fixed) :]
        found = sorted(Path(*fixed).glob(str(Path(*rest)))) if rest else []
    shards = [TarShard(path) for path in found if path.suffix == ".tar"]
    if not shards:
        raise ConfigError(
            f"data.shards: {pattern} names no tar archive; give a folder of .tar files or a pattern such as "
            "shards/train-*.tar (compressed archives cannot be read at any place)"
        )
    return shards
