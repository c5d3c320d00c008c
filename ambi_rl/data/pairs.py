"""Photographs beside what the codec makes of them: the pairs that restoration is trained with."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.files import read_file, write_file
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.quality import STEP_SCALE
from ambi_rl.codec.strategists import for_search
from ambi_rl.data.source import PhotographSource
from ambi_rl.errors import ConfigError

Planes = npt.NDArray[np.int16]

SHARD = 32
"""Pairs in a file: what an interruption can lose."""
_FACTS = "pairs.json"


class Pair(NamedTuple):
    """A crop and its decoding.

    Attributes:
        source: int16 [3, S, S], 10-bit planes of the photograph.
        decoded: int16 [3, S, S], what the codec made of them.
        step: Quantizer step in 1/64 of an 8-bit code value.
    """

    source: Planes
    decoded: Planes
    step: int


@dataclass(frozen=True)
class PairSettings:
    """What pairs are made of.

    Attributes:
        crop: Side S of a pair in pixels, a multiple of 4.
        effort: The encoder's effort.
        lowest_step: Smallest quantizer step in 8-bit code values; steps are drawn log-uniformly.
        highest_step: Largest one.
        texture: How much the choice of crops prefers texture, 0…1.
        seed: What chance begins with.
    """

    crop: int = 256
    effort: int = 5
    lowest_step: float = 2.0
    highest_step: float = 100.0
    texture: float = 0.5
    seed: int = 1


class PairFolder:
    """Pairs in a folder, made in files of `SHARD` that survive an interruption.

    File k depends on the settings, the photographs, the bundle and k alone, so a folder that was begun can
    be continued.

    Args:
        folder: Where the files lie; made if it does not exist.
        paths: Photographs.
        bundle: What codes them; its restoration is not used.
        settings: How crops and steps are drawn.

    Raises:
        ConfigError: The folder holds pairs of other settings, photographs or bundles.
    """

    def __init__(
        self, folder: Path, paths: Sequence[Path], bundle: Bundle, settings: PairSettings
    ) -> None:
        self.folder = folder
        self.settings = settings
        self._bundle = bundle
        self._photographs = PhotographSource(
            paths, settings.crop, (1, 100), texture=settings.texture
        )
        facts = {
            "bundle": bundle.planes_id,
            "photographs": [path.name for path in paths],
            **settings.__dict__,
        }
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / _FACTS
        if not known.exists():
            write_file(known, json.dumps(facts, indent=1).encode())
        elif json.loads(read_file(known)) != facts:
            raise ConfigError(
                f"{folder} holds pairs of another bundle, other photographs or settings; "
                "remove the folder or name another one"
            )

    def _file(self, number: int, kind: str) -> Path:
        return self.folder / f"{kind}-{number:05d}.npy"

    @property
    def shards(self) -> int:
        """Number of files that are complete, counted from the first."""
        number = 0
        while self._file(number, "steps").exists():
            number += 1
        return number

    def make(self, shards: int, report: Callable[[float], None] | None = None) -> None:
        """Make what is missing of the first `shards` files, telling `report` the fraction done."""
        for number in range(self.shards, shards):
            self._make(number)
            if report is not None:
                report((number + 1) / shards)

    def _make(self, number: int) -> None:
        s = self.settings
        rng = np.random.default_rng((s.seed, number))
        pixels = np.empty((SHARD, 2, 3, s.crop, s.crop), np.int16)
        steps = np.empty(SHARD, np.int32)
        octaves = np.log2(s.highest_step / s.lowest_step)
        for k in range(SHARD):
            # Stratified within the file: any few files cover all rates evenly.
            fraction = (k + rng.random()) / SHARD
            steps[k] = round(STEP_SCALE * s.lowest_step * 2 ** (octaves * fraction))
            patch = self._photographs.sample(rng)
            pixels[k, 0] = patch.planes
            frame = encode_frame(patch.planes, int(steps[k]), self._bundle, for_search(s.effort))
            pixels[k, 1] = frame.planes
        # The steps are written last: a file of pixels without them is not counted, and made again.
        for kind, array in (("pixels", pixels), ("steps", steps)):
            temporary = self._file(number, kind).with_suffix(".part")
            with temporary.open("wb") as stream:
                np.save(stream, array)
            temporary.replace(self._file(number, kind))

    def open(self, shards: int) -> list[Pair]:
        """Pairs of the first `shards` files, mapped rather than read."""
        pairs = []
        for number in range(min(shards, self.shards)):
            pixels = np.load(self._file(number, "pixels"), mmap_mode="r")
            steps = np.load(self._file(number, "steps"))
            pairs += [Pair(pixels[k, 0], pixels[k, 1], int(steps[k])) for k in range(len(steps))]
        return pairs
