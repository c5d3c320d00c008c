"""The photographs of a run: where they are, how they are reached, and which are held out."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from ambi_rl.data.shards import (
    Fault,
    Shard,
    find_shards,
    index_folder,
    index_list,
    is_held_out,
    walk,
)
from ambi_rl.data.skipped import Skipped
from ambi_rl.data.source import (
    PatchSource,
    PhotographSource,
    Pixels,
    decode_photograph,
    list_photographs,
    shipped_folder,
    split_held_out,
)
from ambi_rl.data.stream import StreamSource
from ambi_rl.errors import AmbiError, ConfigError

ACCESSES = ("auto", "random", "stream")
RANDOM_LIMIT = 5000
"""Photographs up to which access is random unless it is said: their headers are read within seconds."""

_SMALLEST = 16
_NAMED = 1000
"""Photographs up to which a bundle names each that it was trained with."""


class Photograph(NamedTuple):
    """A decoded photograph.

    Attributes:
        name: File name.
        rgb: uint8 [H, W, 3].
    """

    name: str
    rgb: Pixels


@dataclass(frozen=True)
class DataSettings:
    """Where photographs come from and how patches are drawn; see conf/data/shipped.yaml.

    Attributes:
        folder: This, `list_file`, `shards`: at most one of them; without, the shipped photographs.
        list_file: Text file of paths.
        shards: Folder or pattern of tar archives.
        access: One of `ACCESSES`.
        held_out_every: Of how many photographs one is held out.
        qualities: Lowest and highest quality.
        shuffle: Photographs in a stream's buffer.
        shuffle_mb: Megabytes in it.
        patches_per_picture: Patches a stream cuts from each photograph.
        workers: Threads that decode a stream.
    """

    folder: str | None = None
    list_file: str | None = None
    shards: str | None = None
    access: str = "auto"
    held_out_every: int = 10
    qualities: tuple[float, float] = (30.0, 92.0)
    shuffle: int = 1000
    shuffle_mb: int = 256
    patches_per_picture: int = 8
    workers: int | None = None


class Collection(Protocol):
    """Photographs, divided into those to train with and those to evaluate with.

    Attributes:
        title: What it is, for the terminal.
    """

    title: str

    def source(
        self, patch_size: int, *, texture: float, seed: int, patches_per_picture: int | None = None
    ) -> PatchSource:
        """Patches of the photographs to train with.

        Args:
            patch_size: Side in pixels.
            texture: How much textured places are preferred.
            seed: Of a stream's order; random access draws from the generators that it is handed alone.
            patches_per_picture: Instead of the setting.

        Raises:
            ConfigError: There is nothing to draw from.
        """

    def held_out(self, count: int, skipped: Skipped) -> list[Photograph]:
        """The first photographs to evaluate with.

        Args:
            count: At most this many.
            skipped: Takes those that cannot be used.

        Raises:
            ConfigError: There is none.
        """

    def names(self) -> list[str]:
        """What is trained with, for the bundle: each photograph by name, or how many and a hash."""


class RandomCollection:
    """Photographs that are listed in memory and reached at random.

    Args:
        paths: All of them.
        settings: How they are divided and drawn from.

    Raises:
        ConfigError: There are too few to divide.
    """

    def __init__(self, paths: Sequence[Path], settings: DataSettings) -> None:
        self._settings = settings
        self.train, self._held = split_held_out(paths, settings.held_out_every)
        self.title = f"{len(paths):,} photographs, random access"

    def source(
        self, patch_size: int, *, texture: float, seed: int, patches_per_picture: int | None = None
    ) -> PhotographSource:
        """See `Collection`."""
        return PhotographSource(self.train, patch_size, self._settings.qualities, texture=texture)

    def held_out(self, count: int, skipped: Skipped) -> list[Photograph]:
        """See `Collection`."""
        usable = (found for path in self._held if (found := _usable(path.name, path, skipped)))
        chosen = list(itertools.islice(usable, count))
        if not chosen:
            raise ConfigError(f"no held-out photograph can be used: {skipped}")
        return chosen

    def names(self) -> list[str]:
        """See `Collection`."""
        names = [path.name for path in self.train]
        if len(names) <= _NAMED:
            return names
        digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()
        return [f"{len(names)} photographs, sha256 of their names {digest}"]


class StreamedCollection:
    """Photographs that are read on and on, of which only a few are known at a time.

    Args:
        shards: All of them.
        title: What to call it.
        settings: How they are divided and drawn from.
    """

    def __init__(self, shards: Sequence[Shard], title: str, settings: DataSettings) -> None:
        self._shards = shards
        self._settings = settings
        self.title = f"{title}, streamed"

    def _is_held_out(self, name: str) -> bool:
        return is_held_out(name, self._settings.held_out_every)

    def source(
        self, patch_size: int, *, texture: float, seed: int, patches_per_picture: int | None = None
    ) -> StreamSource:
        """See `Collection`."""
        settings = self._settings
        return StreamSource(
            self._shards,
            lambda name: not self._is_held_out(name),
            patch_size,
            settings.qualities,
            texture=texture,
            seed=seed,
            shuffle=settings.shuffle,
            memory=settings.shuffle_mb << 20,
            patches_per_picture=patches_per_picture or settings.patches_per_picture,
            workers=settings.workers,
        )

    def held_out(self, count: int, skipped: Skipped) -> list[Photograph]:
        """See `Collection`."""
        chosen: list[Photograph] = []
        for shard in self._shards:
            for entry in shard.entries(0, self._is_held_out):
                if isinstance(entry.content, Fault):
                    # The training stream meets it as well, and counts it.
                    continue
                found = _usable(entry.name, entry.content, skipped)
                if found is not None:
                    chosen.append(found)
                if len(chosen) == count:
                    return chosen
        if not chosen:
            raise ConfigError(
                f"{self.title}: no usable photograph is held out, by a hash of its name; lower "
                "data.held_out_every or name some held-out-…"
            )
        return chosen

    def names(self) -> list[str]:
        """See `Collection`."""
        digest = hashlib.sha256()
        for identity in dict.fromkeys(shard.identity() for shard in self._shards):
            digest.update(f"{identity}\n".encode("utf-8", "surrogateescape"))
        return [f"{self.title}, sha256 {digest.hexdigest()}"]


def _usable(name: str, content: Path | bytes, skipped: Skipped) -> Photograph | None:
    """A photograph, unless it is damaged or too small to be coded and measured."""
    try:
        data = content.read_bytes() if isinstance(content, Path) else content
        rgb = decode_photograph(data, "it")
    except (AmbiError, OSError) as error:
        skipped.add(name, str(error))
        return None
    if min(rgb.shape[:2]) < _SMALLEST:
        skipped.add(name, f"less than {_SMALLEST} pixels a side")
        return None
    return Photograph(name.rsplit("/", 1)[-1], rgb)


def _listed(settings: DataSettings, limit: int | None) -> list[Path] | None:
    """Photographs of a folder or a list by name; None if there are more than a limit."""
    if settings.list_file is None:
        if settings.folder is not None and limit is not None:
            seen = itertools.islice(walk(Path(settings.folder)), limit + 1)
            if sum(1 for _ in seen) > limit:
                return None
        return list_photographs(settings.folder)
    index = index_list(Path(settings.list_file))
    try:
        if limit is not None and index.count > limit:
            return None
        paths = [index.root / name for name in index.names()]
    finally:
        index.close()
    if not paths:
        raise ConfigError(f"data.list_file: {settings.list_file} names no photographs")
    return sorted(paths, key=lambda path: (path.name, str(path)))


def open_collection(settings: DataSettings) -> Collection:
    """Find the photographs of a run.

    Raises:
        ConfigError: There are none.
    """
    if settings.shards is not None:
        tars = find_shards(settings.shards)
        return StreamedCollection(tars, f"{len(tars):,} shards", settings)
    if settings.access != "stream":
        paths = _listed(settings, None if settings.access == "random" else RANDOM_LIMIT)
        if paths is not None:
            return RandomCollection(paths, settings)
    if settings.list_file is not None:
        index = index_list(Path(settings.list_file))
    else:
        index = index_folder(Path(settings.folder or shipped_folder()))
    if not index.count:
        raise ConfigError(f"{index.title} holds or names no photographs")
    return StreamedCollection(index.shards(), f"{index.count:,} photographs", settings)
