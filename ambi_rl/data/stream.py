"""Patches of a collection of any size: shards in turn, a shuffle buffer, and pictures decoded ahead."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.data.shards import Content, Entry, Fault, Shard, Wanted
from ambi_rl.data.skipped import Skipped
from ambi_rl.data.source import Patch, Pixels, decode_photograph
from ambi_rl.errors import AmbiError, ConfigError, UsageError

_OPEN = 4
"""Shards that are read in turn."""
_PICTURES = 32
"""Pictures whose patches are drawn from at a time."""
_CANDIDATES = 4
"""Places that are looked at for each patch that is taken, where texture counts."""
_GRID = 8

Planes = npt.NDArray[np.int16]


class Record(NamedTuple):
    """A photograph that was drawn.

    Attributes:
        shard: Number of its shard.
        offset: Where it begins in there.
        epoch: How many times the collection had been read through before.
        name: What to call it.
        content: See `Entry`.
    """

    shard: int
    offset: int
    epoch: int
    name: str
    content: Content


class Order:
    """All photographs of a collection in an endless random order that depends on the seed alone.

    Each time the shards are taken in another order, a few of them in turn; what is read goes through a buffer
    from which photographs are drawn at random. Every photograph comes once before any comes again.

    Args:
        shards: The collection.
        wanted: Says by base names which photographs are used.
        seed: Any number.
        pictures: Photographs in the buffer, at most.
        memory: Bytes of photographs in the buffer, at most, but for one. Those that are files of their own
            are read only when they are drawn.
    """

    def __init__(
        self, shards: Sequence[Shard], wanted: Wanted, seed: int, *, pictures: int, memory: int
    ) -> None:
        self._shards = shards
        self._wanted = wanted
        self._seed = seed
        self._most = pictures
        self._memory = memory
        self._chance = np.random.default_rng((seed, 1))
        self._held: list[Record] = []
        self._bytes = 0
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch = epoch
        self._found = 0
        self._order = np.random.default_rng((self._seed, 2, epoch)).permutation(len(self._shards))
        self._taken = 0
        self._turn = 0
        self._cursors: list[tuple[int, int, Iterator[Entry]]] = []
        """Shards that are read in turn: number, where to go on, and what comes from there."""

    def _open(self, shard: int, offset: int) -> tuple[int, int, Iterator[Entry]]:
        return shard, offset, self._shards[shard].entries(offset, self._wanted)

    def _read(self) -> Record | None:
        """The next photograph; None at the end of the collection."""
        while True:
            while len(self._cursors) < _OPEN and self._taken < len(self._order):
                self._cursors.append(self._open(int(self._order[self._taken]), 0))
                self._taken += 1
            if not self._cursors:
                return None
            self._turn %= len(self._cursors)
            shard, _, entries = self._cursors[self._turn]
            entry = next(entries, None)
            if entry is None:
                del self._cursors[self._turn]
                continue
            self._cursors[self._turn] = (shard, entry.next, entries)
            self._turn += 1
            return Record(shard, entry.offset, self._epoch, entry.name, entry.content)

    def _fill(self) -> None:
        while len(self._held) < self._most and self._bytes < self._memory:
            record = self._read()
            if record is None:
                return
            self._found += 1
            self._hold(record)

    def _hold(self, record: Record) -> None:
        self._held.append(record)
        self._bytes += _size(record)

    def draw(self) -> Record:
        """The next photograph.

        Raises:
            ConfigError: The collection has none.
        """
        self._fill()
        if not self._held:
            if not self._found:
                raise ConfigError(
                    "the data has no photograph to train with; look at data.folder, data.list_file or "
                    "data.shards, and at data.held_out_every"
                )
            self._begin(self._epoch + 1)
            self._fill()
        place = int(self._chance.integers(len(self._held)))
        self._held[place], self._held[-1] = self._held[-1], self._held[place]
        record = self._held.pop()
        self._bytes -= _size(record)
        return record

    def state(self) -> dict[str, Any]:
        """Where the order is: arrays, numbers and strings."""
        return {
            "chance": self._chance.bit_generator.state,
            "epoch": self._epoch,
            "found": self._found,
            "taken": self._taken,
            "turn": self._turn,
            "cursors": [[shard, offset] for shard, offset, _ in self._cursors],
            "held": np.array([record[:3] for record in self._held], np.int64).reshape(-1, 3),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; photographs in the buffer are read again."""
        self._begin(state["epoch"])
        self._chance.bit_generator.state = state["chance"]
        self._found, self._taken = state["found"], state["taken"]
        self._turn = state["turn"]
        self._cursors = [self._open(shard, offset) for shard, offset in state["cursors"]]
        self._held, self._bytes = [], 0
        # Read from front to back, put back in the old order.
        places = state["held"].tolist()
        order = sorted(range(len(places)), key=lambda k: places[k])
        records = {k: self.again(*places[k]) for k in order}
        for k in range(len(places)):
            self._hold(records[k])

    def again(self, shard: int, offset: int, epoch: int) -> Record:
        """Read a photograph again."""
        entry = next(self._shards[shard].entries(offset, self._wanted))
        return Record(shard, offset, epoch, entry.name, entry.content)


def _size(record: Record) -> int:
    return len(record.content) if isinstance(record.content, bytes) else 0


class Cut(NamedTuple):
    """A patch that was cut from a photograph.

    Attributes:
        planes: int16 [3, S, S].
        y: Top row.
        x: Left column.
    """

    planes: Planes
    y: int
    x: int


@dataclass
class _Picture:
    """What is left of a photograph: its patches, of which some are used up."""

    record: Record
    number: int
    used: int
    cuts: list[Cut]


def cut_patches(
    rgb: Pixels, size: int, count: int, texture: float, rng: np.random.Generator
) -> list[Cut]:
    """Patches of a photograph, at random places that prefer texture.

    A few times as many places as are needed are drawn, and the patches from among them with a probability
    that grows with their mean gradient: what `PhotographSource` does over all places, for the price of a few.

    Args:
        rgb: uint8 [H, W, 3], no side shorter than a patch.
        size: Side of a patch.
        count: How many; none comes twice as long as there are places.
        texture: 0 draws evenly, 1 in proportion to the mean gradient.
        rng: Where chance comes from.
    """
    rows, columns = ((side - size) // _GRID + 1 for side in rgb.shape[:2])
    drawn = min(rows * columns, _CANDIDATES * count if texture else count)
    places = rng.choice(rows * columns, drawn, replace=False) if drawn else np.zeros(0, np.int64)
    at = [(int(place) // columns * _GRID, int(place) % columns * _GRID) for place in places]
    if texture and drawn > count:
        activity = np.array([_activity(rgb[y : y + size, x : x + size]) for y, x in at])
        weights = (1 - texture) * max(activity.mean(), 1e-6) + texture * activity + 1e-9
        chosen = rng.choice(drawn, count, replace=False, p=weights / weights.sum())
        at = [at[k] for k in chosen]
    # A photograph hardly larger than a patch has fewer places than patches are wanted.
    at = [at[k % len(at)] for k in range(count)]
    return [Cut(rgb_to_planes(rgb[y : y + size, x : x + size]), y, x) for y, x in at]


def _activity(rgb: Pixels) -> float:
    luma = rgb.astype(np.float32).mean(axis=2)
    return float(np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean())


class StreamSource:
    """Draws patches and qualities from photographs that need not fit into memory, nor their names.

    The patches that come, and the order they come in, depend on the seed and on nothing else: not on how
    many workers decode, nor on whether the position was saved and put back between. Who asks gets the next
    one, so that an environment's episodes depend on what the others do, unlike with `PhotographSource`; only
    the quality is drawn from the generator of who asks. Several patches are cut from each decoded photograph,
    and come among those of a few others.

    Args:
        shards: The collection.
        wanted: Says by base names which photographs are used.
        patch_size: Side of a patch in pixels; smaller photographs are skipped.
        qualities: Lowest and highest quality, 1…100.
        texture: How much textured places are preferred.
        seed: Any number.
        shuffle: Photographs in the shuffle buffer.
        memory: Bytes in the shuffle buffer.
        patches_per_picture: Patches that are cut from a decoded photograph.
        workers: Threads that decode; one for each core if None.

    Attributes:
        skipped: What could not be used in the first pass through the collection.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        wanted: Wanted,
        patch_size: int,
        qualities: tuple[float, float],
        *,
        texture: float = 0.5,
        seed: int = 0,
        shuffle: int = 1000,
        memory: int = 256 << 20,
        patches_per_picture: int = 8,
        workers: int | None = None,
    ) -> None:
        self.patch_size = patch_size
        self.qualities = qualities
        self.skipped = Skipped()
        self._shards = shards
        self._texture = texture
        self._seed = seed
        self._each = patches_per_picture
        self._order = Order(shards, wanted, seed, pictures=shuffle, memory=memory)
        self._chance = np.random.default_rng((seed, 3))
        workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._ahead = 2 * workers
        self._pending: deque[tuple[Record, int, Future[list[Cut] | str]]] = deque()
        self._drawn = 0
        self._last_good = -1
        """The last pass in which a photograph could be used."""
        self._pictures: list[_Picture] = []

    def _cut(self, record: Record, number: int) -> list[Cut] | str:
        """Patches of a photograph, or why there are none."""
        content = record.content
        if isinstance(content, Fault):
            return str(content)
        try:
            data = content.read_bytes() if isinstance(content, Path) else content
            rgb = decode_photograph(data, "it")
        except AmbiError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        if min(rgb.shape[:2]) < self.patch_size:
            return (
                f"{rgb.shape[1]}x{rgb.shape[0]}, smaller than a patch of {self.patch_size} pixels"
            )
        rng = np.random.default_rng((self._seed, 4, number))
        return cut_patches(rgb, self.patch_size, self._each, self._texture, rng)

    def _submit(self, record: Record, number: int) -> None:
        self._pending.append((record, number, self._pool.submit(self._cut, record, number)))

    def _next_picture(self) -> _Picture:
        while True:
            while len(self._pending) <= self._ahead:
                self._submit(self._order.draw(), self._drawn)
                self._drawn += 1
            record, number, future = self._pending.popleft()
            result = future.result()
            if not isinstance(result, str):
                self._last_good = max(self._last_good, record.epoch)
                return _Picture(record, number, 0, result)
            if record.epoch == 0:
                self.skipped.add(record.name, result)
            if record.epoch > self._last_good + 1:
                raise ConfigError(
                    f"none of the photographs can be used; the last one, {record.name}: {result}"
                )

    def sample(
        self,
        rng: np.random.Generator,
        *,
        path: Path | None = None,
        quality: float | None = None,
        position: tuple[int, int] | None = None,
    ) -> Patch:
        """The next patch.

        Args:
            rng: Where the quality's chance comes from; as many numbers are drawn whatever is given.
            path: Not possible with a stream.
            quality: The quality instead of a drawn one.
            position: Not possible with a stream.

        Raises:
            ConfigError: A certain photograph or place is asked for, or no photograph can be used.
        """
        if path is not None or position is not None:
            raise ConfigError(
                "a stream gives photographs in its own order; for a certain photograph or position take a "
                "folder with access=random"
            )
        u = float(rng.random(3)[1])
        low, high = self.qualities
        drawn = round(low + (high - low) * u, 2) if quality is None else quality
        while len(self._pictures) < _PICTURES:
            self._pictures.append(self._next_picture())
        slot = int(self._chance.integers(_PICTURES))
        picture = self._pictures[slot]
        planes, y, x = picture.cuts[picture.used]
        picture.used += 1
        if picture.used == len(picture.cuts):
            self._pictures[slot] = self._next_picture()
        name = picture.record.name
        return Patch(planes, step_from_quality(drawn), drawn, name, y, x)

    def _identity(self) -> str:
        digest = hashlib.sha256(f"{self._seed} {self._each} {self.patch_size}".encode())
        for shard in self._shards:
            digest.update(shard.identity().encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def state(self) -> dict[str, Any]:
        """The position, to go on from exactly: arrays, numbers and strings, no pixels."""
        pictures = [[*p.record[:3], p.number, p.used] for p in self._pictures]
        pending = [[*record[:3], number] for record, number, _ in self._pending]
        return {
            "identity": self._identity(),
            "order": self._order.state(),
            "chance": self._chance.bit_generator.state,
            "drawn": self._drawn,
            "last_good": self._last_good,
            "pictures": pictures,
            "pending": pending,
            "skipped": self.skipped.facts(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned, with any number of workers; photographs in use are read again.

        Raises:
            UsageError: It is the state of other data; nothing is changed.
        """
        if state.get("identity") != self._identity():
            raise UsageError("the data, its seed or its settings are not those of the checkpoint")
        self._order.restore(state["order"])
        self._chance.bit_generator.state = state["chance"]
        self._drawn, self._last_good = state["drawn"], state["last_good"]
        self._pending.clear()
        self.skipped.restore(state["skipped"])
        again = [
            (self._order.again(*place), number, used) for *place, number, used in state["pictures"]
        ]
        cuts = self._pool.map(lambda item: self._cut(item[0], item[1]), again)
        self._pictures = []
        for (record, number, used), found in zip(again, cuts, strict=True):
            if isinstance(found, str):
                raise ConfigError(
                    f"photograph {record.name} has changed since the checkpoint: {found}"
                )
            self._pictures.append(_Picture(record, number, used, found))
        for *place, number in state["pending"]:
            self._submit(self._order.again(*place), number)

    def close(self) -> None:
        """Stop the workers."""
        self._pool.shutdown(cancel_futures=True)
