"""A term that calls a Python function of the user's: any metric, as a black box."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ambi_rl.errors import ConfigError
from ambi_rl.rewards.measured import MeasuredTerm
from ambi_rl.rewards.terms import Pixels

KEY = "reward.metric"


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def load_function(target: str) -> Callable[..., Any]:
    """The function that a dotted path names.

    Modules are found as Python finds them, and in the current folder.

    Args:
        target: "package.module.function".

    Raises:
        ConfigError: There is no such module or function.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(
            f"{KEY}.target is {target!r}; give the path of a function, package.module.function"
        )
    # A console script does not have the folder it is started in on its path.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # Whatever a module of the user's does on import.
        raise ConfigError(
            f"{KEY}.target {target}: importing {module_name} failed: {_first_line(error)}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        what = "is not a function" if hasattr(module, name) else "is not in it"
        raise ConfigError(f"{KEY}.target {target}: {module_name} was imported, but {name} {what}")
    return found


class MetricTerm(MeasuredTerm):
    """A function of (original, decoded), both uint8 [H, W, 3] RGB, that returns a cost.

    The cost is a number: 0 for equal pictures, higher the worse. Nothing else is known of it, so it teaches
    through the reward alone; a teacher takes it for squared error.

    Args:
        target: Dotted path of the function.
        arguments: Further keyword arguments for it.
        constant: See `MeasuredTerm`.

    Raises:
        ConfigError: There is no such function.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any], constant: float | None) -> None:
        super().__init__(KEY, constant)
        self.target = target
        self._function = load_function(target)
        self._arguments = dict(arguments)

    def loss(self, original: Pixels, decoded: Pixels) -> float:
        """What the function returns.

        Raises:
            ConfigError: It fails, or returns something that is not a finite number.
        """
        height, width = original.shape[:2]
        try:
            value = float(self._function(original, decoded, **self._arguments))
        except Exception as error:  # Whatever the user's function does.
            raise ConfigError(
                f"{KEY}.target {self.target} failed on a picture of {width}x{height} pixels: "
                f"{_first_line(error)}"
            ) from error
        if not math.isfinite(value):
            raise ConfigError(
                f"{KEY}.target {self.target} returned {value} for a picture of {width}x{height} pixels; "
                "it must return a finite number"
            )
        return value
