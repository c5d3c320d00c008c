"""Rules for values of configuration keys: what is possible, and one line that says so when it is not."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ambi_rl.errors import ConfigError


def meant(word: str, candidates: Iterable[str]) -> str:
    """What a word that does not exist was perhaps meant to be, for the end of a message; or nothing."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(number: float) -> str:
    """A number for people; whole ones in full, however large."""
    return str(number) if isinstance(number, int) else f"{number:g}"


class Rule(Protocol):
    """What values a key may have, beyond its type.

    Attributes:
        text: The same for people.
    """

    @property
    def text(self) -> str:
        """See above."""

    def check(self, key: str, value: Any) -> None:
        """Refuse what the key may not be.

        Raises:
            ConfigError: One line that names the key, its value and what is possible.
        """


@dataclass(frozen=True)
class OneOf:
    """A word of a list, or a number of one."""

    allowed: tuple[str, ...] | tuple[int, ...]

    @property
    def text(self) -> str:
        """For the reference."""
        return ", ".join(f"`{word}`" for word in self.allowed)

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if value not in self.allowed:
            words = [str(word) for word in self.allowed]
            close = meant(value, words) if isinstance(value, str) else ""
            raise ConfigError(f"{key} is {value!r}; it can be {', '.join(words)}{close}")


@dataclass(frozen=True)
class Within:
    """A number from `low` to `high`, without `high` if it is excluded; `why` is added to the message."""

    low: float
    high: float
    why: str = ""
    excluded: bool = False

    @property
    def text(self) -> str:
        """For the reference."""
        if self.excluded:
            return f"≥ {_shown(self.low)}, < {_shown(self.high)}"
        return f"{_shown(self.low)}…{_shown(self.high)}"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if not self.low <= value <= self.high or (self.excluded and value == self.high):
            raise ConfigError(f"{key} is {_shown(value)}; it can be {self.text}{self.why}")


@dataclass(frozen=True)
class AtLeast:
    """A number of `low` or more."""

    low: float

    @property
    def text(self) -> str:
        """For the reference."""
        return f"≥ {_shown(self.low)}"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if not value >= self.low:
            raise ConfigError(f"{key} is {_shown(value)}; it must be {_shown(self.low)} or more")


@dataclass(frozen=True)
class Above:
    """A number over `low`, and if `high` is finite under it."""

    low: float
    high: float = math.inf

    @property
    def text(self) -> str:
        """For the reference."""
        upper = "" if math.isinf(self.high) else f", < {_shown(self.high)}"
        return f"> {_shown(self.low)}{upper}"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if not self.low < value < self.high:
            upper = "" if math.isinf(self.high) else f" and under {_shown(self.high)}"
            raise ConfigError(
                f"{key} is {_shown(value)}; it must be over {_shown(self.low)}{upper}"
            )


@dataclass(frozen=True)
class FolderName:
    """The name of a run."""

    text: str = "letters, digits and . _ - + = ,"

    def check(self, key: str, value: Any) -> None:
        """See `Rule`."""
        if not re.fullmatch(r"[\w.+=,-]+", value) or set(value) == {"."}:
            raise ConfigError(f"{key} is {value!r}; it names a folder: {self.text} are possible")


def value_at(config: Any, key: str) -> Any:
    """The value of a dotted key; None if the part does not have it."""
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def check_rules(config: Any, rules: Mapping[str, Rule]) -> None:
    """Check every key that has a rule and a value.

    Raises:
        ConfigError: One line that names the key, its value and what is possible.
    """
    for key, rule in rules.items():
        value = value_at(config, key)
        if value is not None:
            rule.check(key, value)
