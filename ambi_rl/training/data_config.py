"""What can be configured of photographs to train with: group `data` of the systems that have it."""

from __future__ import annotations

from dataclasses import dataclass, fields

from omegaconf import MISSING

from ambi_rl.codec.quality import MAX_QUALITY, MIN_QUALITY
from ambi_rl.data import ACCESSES, DataSettings
from ambi_rl.errors import ConfigError
from ambi_rl.training.rules import AtLeast, OneOf, Rule, Within


@dataclass
class DataConfig:
    """Group `data`; every key is explained in conf/data/*.yaml."""

    folder: str | None = MISSING
    list_file: str | None = MISSING
    shards: str | None = MISSING
    access: str = MISSING
    shuffle: int = MISSING
    shuffle_mb: int = MISSING
    patches_per_picture: int = MISSING
    workers: int | None = MISSING
    held_out_every: int = MISSING
    min_quality: float = MISSING
    max_quality: float = MISSING
    texture: float = MISSING


_QUALITY = Within(MIN_QUALITY, MAX_QUALITY)
DATA_RULES: dict[str, Rule] = {
    "data.access": OneOf(ACCESSES),
    "data.shuffle": AtLeast(1),
    "data.shuffle_mb": AtLeast(1),
    "data.patches_per_picture": AtLeast(1),
    "data.workers": AtLeast(1),
    "data.held_out_every": AtLeast(2),
    "data.min_quality": _QUALITY,
    "data.max_quality": _QUALITY,
    "data.texture": Within(0, 1),
}
"""By dotted key."""


def validate_data(data: DataConfig) -> None:
    """Check what types and ranges alone do not say.

    Raises:
        ConfigError: One line that names the key, its value and what is possible.
    """
    given = [key for key in ("folder", "list_file", "shards") if getattr(data, key) is not None]
    if len(given) > 1:
        raise ConfigError(
            f"data.{given[0]} and data.{given[1]} are both given; photographs come from one place"
        )
    if data.access == "random" and data.shards is not None:
        raise ConfigError(
            "data.access is 'random', but shards are read from front to back; take auto or stream"
        )
    Within(data.min_quality, MAX_QUALITY).check("data.max_quality", data.max_quality)


def data_settings(data: DataConfig) -> DataSettings:
    """The same for `ambi_rl.data.open_collection`."""
    same = {
        item.name: getattr(data, item.name)
        for item in fields(DataSettings)
        if item.name != "qualities"
    }
    return DataSettings(**same, qualities=(data.min_quality, data.max_quality))
