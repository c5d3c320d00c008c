"""Photographs in memory's reach: from folders to random patches, weighted towards texture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.files import read_file
from ambi_rl.codec.image_io import open_image
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.data.shards import HELD_OUT_PREFIX, SUFFIXES, walk
from ambi_rl.data.skipped import Skipped
from ambi_rl.errors import AmbiError, ConfigError, UsageError

_GRID = 8
"""Patches start at multiples of this many pixels."""
_CACHE_BYTES = 512 << 20

Pixels = npt.NDArray[np.uint8]


class Patch(NamedTuple):
    """What an episode codes.

    Attributes:
        planes: int16 [3, H, W], the codec's 10-bit planes.
        step: Quantizer step in 1/64 of an 8-bit code value.
        quality: The quality that step belongs to.
        name: The photograph's file name.
        y: Top row of the patch in the photograph.
        x: Left column.
    """

    planes: npt.NDArray[np.int16]
    step: int
    quality: float
    name: str
    y: int
    x: int


class PatchSource(Protocol):
    """Where episodes' patches come from: `PhotographSource` or `ambi_rl.data.stream.StreamSource`.

    Attributes:
        patch_size: Side of a patch in pixels.
        skipped: What cannot be used.
    """

    patch_size: int
    skipped: Skipped

    def sample(
        self,
        rng: np.random.Generator,
        *,
        path: Path | None = None,
        quality: float | None = None,
        position: tuple[int, int] | None = None,
    ) -> Patch:
        """Draw a patch, with what is given instead of what is drawn."""

    def state(self) -> dict[str, Any]:
        """What later patches depend on besides the generators that are handed in."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            UsageError: It is the state of other data.
        """

    def close(self) -> None:
        """Stop workers, if there are any."""


def shipped_folder() -> Path:
    """The folder of photographs that come with the package."""
    return Path(__file__).parent / "photographs"


def list_photographs(folders: str | Path | Iterable[str | Path] | None) -> list[Path]:
    """Picture files of folders and of the folders within them, or files named directly, by name.

    Args:
        folders: Folders and files; None for the shipped photographs. Hidden files and folders are left out.

    Raises:
        ConfigError: A folder does not exist or holds no picture.
    """
    if folders is None:
        folders = shipped_folder()
    sources = [folders] if isinstance(folders, str | Path) else list(folders)
    found: list[Path] = []
    for source in map(Path, sources):
        if source.is_file():
            found.append(source)
            continue
        if not source.is_dir():
            raise ConfigError(f"data.folder: {source} does not exist; name a folder of photographs")
        pictures = [source / name for name in walk(source)]
        if not pictures:
            raise ConfigError(
                f"data.folder: {source} holds no photographs ({', '.join(s[1:] for s in SUFFIXES)})"
            )
        found += pictures
    if not found:
        raise ConfigError("data.folder names no folder; leave it out for the shipped photographs")
    return sorted(found, key=lambda path: (path.name, str(path)))


def split_held_out(paths: Sequence[Path], every: int) -> tuple[list[Path], list[Path]]:
    """Divide photographs into those to train with and those to evaluate with, by name.

    Files whose name begins with `held-out-` are held out. If there are none, every `every`-th is, counted
    in the order of names; with fewer than that, the last one is.

    Args:
        paths: At least two photographs.
        every: 2 or more.

    Raises:
        ConfigError: Nothing would remain on one of the sides.
    """
    held = [path for path in paths if path.name.startswith(HELD_OUT_PREFIX)]
    if not held:
        held = list(paths[every - 1 :: every]) or list(paths[-1:])
    train = [path for path in paths if path not in set(held)]
    if not train:
        raise ConfigError(
            f"data.folder has {len(paths)} photograph(s), all held out for evaluation; add more"
        )
    return train, held


def decode_photograph(data: bytes, name: str) -> Pixels:
    """A photograph as RGB from its file's bytes.

    Args:
        data: Of the file.
        name: What to call it in messages.

    Returns:
        uint8 [H, W, 3].

    Raises:
        AmbiError: It is not a picture, damaged or too large.
    """
    # Transparency is not trained on, so it is simply left out.
    return np.asarray(open_image(data, name).convert("RGB"), np.uint8)


def read_photograph(path: Path) -> Pixels:
    """Read a photograph as RGB.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ConfigError: It cannot be read as a picture.
    """
    try:
        return decode_photograph(read_file(path), path.name)
    except AmbiError as error:
        raise ConfigError(f"photograph {path} cannot be used: {error}") from error
    except OSError as error:
        raise ConfigError(f"photograph {path} cannot be read: {error}") from error


def _texture(rgb: Pixels, patch_size: int) -> npt.NDArray[np.float64]:
    """Mean gradient of each possible patch, [rows, cols] of positions at multiples of `_GRID`."""
    luma = rgb.astype(np.float32).mean(axis=2)
    activity = np.zeros(luma.shape, np.float64)
    activity[:, 1:] += np.abs(np.diff(luma, axis=1))
    activity[1:] += np.abs(np.diff(luma, axis=0))
    total = np.zeros((luma.shape[0] + 1, luma.shape[1] + 1))
    total[1:, 1:] = activity.cumsum(axis=0).cumsum(axis=1)
    rows = np.arange(0, luma.shape[0] - patch_size + 1, _GRID)
    cols = np.arange(0, luma.shape[1] - patch_size + 1, _GRID)
    bottom, right = rows + patch_size, cols + patch_size
    sums = (
        total[np.ix_(bottom, right)]
        - total[np.ix_(rows, right)]
        - total[np.ix_(bottom, cols)]
        + total[np.ix_(rows, cols)]
    )
    return np.maximum(sums, 0) / patch_size**2


@dataclass
class _Loaded:
    """A photograph in memory and the distribution of its patches."""

    rgb: Pixels
    cumulative: npt.NDArray[np.float64]
    columns: int


class PhotographSource:
    """Draws patches and qualities from photographs.

    A patch's photograph and quality are drawn uniformly, its position with a probability that grows with
    texture. What is drawn depends on the generator that is handed in and on nothing else, so equal seeds
    give equal episodes. Decoded photographs are kept in memory up to `cache_bytes`. Photographs that are
    smaller than a patch or turn out to be damaged are skipped: the next one by name takes their place.

    Args:
        paths: Photographs.
        patch_size: Side of a patch in pixels.
        qualities: Lowest and highest quality, 1…100.
        texture: 0 draws positions uniformly, 1 in proportion to the mean gradient.
        cache_bytes: Memory for decoded photographs.

    Attributes:
        paths: Photographs that are drawn from.
        skipped: What is left out.

    Raises:
        ConfigError: No photograph can be read and is as large as a patch.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        patch_size: int,
        qualities: tuple[float, float],
        *,
        texture: float = 0.5,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.patch_size = patch_size
        self.qualities = qualities
        self.texture = texture
        self._cache_bytes = cache_bytes
        self._used = 0
        self._cache: OrderedDict[Path, _Loaded] = OrderedDict()
        self.skipped = Skipped()
        self._damaged: set[Path] = set()
        self.paths = [path for path in paths if self._fits(path)]
        if not self.paths:
            raise self._nothing(len(paths))

    def _nothing(self, count: int) -> ConfigError:
        if any("smaller" in reason for _, reason in self.skipped.named):
            return ConfigError(
                f"none of the {count} photographs has {self.patch_size} pixels a side and can be read; "
                "lower env.patch_size or name another data.folder"
            )
        return ConfigError(f"none of the {count} photographs can be used: {self.skipped}")

    def _fits(self, path: Path) -> bool:
        # Only the header is read, so that a folder is looked through quickly.
        try:
            with Image.open(path) as image:
                size = image.size
        except Image.UnidentifiedImageError:
            self.skipped.add(path.name, "not a picture that Pillow can read")
            return False
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            self.skipped.add(path.name, f"cannot be read: {error}")
            return False
        if min(size) < self.patch_size:
            self.skipped.add(path.name, f"{size[0]}x{size[1]}, smaller than a patch")
            return False
        return True

    def _usable(self, first: int) -> tuple[Path, _Loaded]:
        """A photograph, or the first after it that can be decoded, whatever has been drawn before."""
        for step in range(len(self.paths)):
            path = self.paths[(first + step) % len(self.paths)]
            if path in self._damaged:
                continue
            try:
                return path, self._load(path)
            except ConfigError as error:
                self._damaged.add(path)
                self.skipped.add(path.name, str(error))
        raise self._nothing(len(self.paths))

    def _load(self, path: Path) -> _Loaded:
        found = self._cache.get(path)
        if found is not None:
            self._cache.move_to_end(path)
            return found
        rgb = read_photograph(path)
        if min(rgb.shape[:2]) < self.patch_size:
            raise ConfigError(f"photograph {path} has no {self.patch_size} pixels a side")
        activity = _texture(rgb, self.patch_size)
        # The floor keeps smooth places in: the policy must learn to spend little there.
        weights = (1 - self.texture) * max(activity.mean(), 1e-6) + self.texture * activity + 1e-9
        loaded = _Loaded(rgb, np.cumsum(weights.ravel()) / weights.sum(), activity.shape[1])
        self._cache[path] = loaded
        self._used += rgb.nbytes
        while self._used > self._cache_bytes and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._used -= old.rgb.nbytes
        return loaded

    def sample(
        self,
        rng: np.random.Generator,
        *,
        path: Path | None = None,
        quality: float | None = None,
        position: tuple[int, int] | None = None,
    ) -> Patch:
        """Draw a patch.

        Args:
            rng: Where chance comes from; as many numbers are drawn whatever is given.
            path: The photograph instead of a drawn one.
            quality: The quality instead of a drawn one.
            position: Top row and left column instead of drawn ones.

        Raises:
            ConfigError: The patch does not lie within the photograph, or none can be read.
        """
        u = rng.random(3)
        if path is None:
            name, loaded = self._usable(min(int(u[0] * len(self.paths)), len(self.paths) - 1))
        else:
            name, loaded = path, self._load(path)
        low, high = self.qualities
        drawn = round(low + (high - low) * float(u[1]), 2) if quality is None else quality
        size = self.patch_size
        if position is None:
            at = min(int(np.searchsorted(loaded.cumulative, u[2])), loaded.cumulative.size - 1)
            y, x = at // loaded.columns * _GRID, at % loaded.columns * _GRID
        else:
            y, x = position
        height, width = loaded.rgb.shape[:2]
        if not (0 <= y <= height - size and 0 <= x <= width - size):
            raise ConfigError(
                f"a patch of {size} pixels at row {y}, column {x} does not lie within {name.name} "
                f"({width}x{height})"
            )
        planes = rgb_to_planes(loaded.rgb[y : y + size, x : x + size])
        return Patch(planes, step_from_quality(drawn), drawn, name.name, y, x)

    def state(self) -> dict[str, Any]:
        """Nothing: what is drawn depends on the generators alone."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            UsageError: It is the state of a stream.
        """
        if state:
            raise UsageError("the checkpoint's data was streamed, and this is not")

    def close(self) -> None:
        """There are no workers to stop."""
