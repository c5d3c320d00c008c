"""A Python function of the user's, named by a dotted path, that measures two pictures as a black box."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ambi_rl.errors import ConfigError

Pixels = npt.NDArray[np.uint8]


def load_function(target: str, key: str) -> Callable[..., Any]:
    """The function that a dotted path names.

    Modules are found as Python finds them, and in the current folder.

    Args:
        target: "package.module.function".
        key: Of the configuration that it is given by, for messages.

    Raises:
        ConfigError: There is no such module or function.
    """
    module_name, _, name = target.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(
            f"{key} is {target!r}; give the path of a function, package.module.function"
        )
    # A console script does not have the folder it is started in on its path.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # Whatever a module of the user's does on import.
        raise ConfigError(
            f"{key} {target}: importing {module_name} failed: {_first_line(error)}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        what = "is not a function" if hasattr(module, name) else "is not in it"
        raise ConfigError(f"{key} {target}: {module_name} was imported, but {name} {what}")
    return found


class UserFunction:
    """A function of (original, image), both uint8 [H, W, 3] RGB, that returns a finite number.

    Args:
        target: Its dotted path.
        arguments: Further keyword arguments for it.
        key: Of the configuration that it is given by, for messages.

    Raises:
        ConfigError: There is no such function.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any], key: str) -> None:
        self.target = target
        self._key = key
        self._function = load_function(target, key)
        self._arguments = dict(arguments)

    def __call__(self, original: Pixels, image: Pixels) -> float:
        """What the function returns.

        Raises:
            ConfigError: It fails, or returns something that is not a finite number.
        """
        height, width = original.shape[:2]
        try:
            value = float(self._function(original, image, **self._arguments))
        except Exception as error:  # Whatever the user's function does.
            raise ConfigError(
                f"{self._key} {self.target} failed on a picture of {width}x{height} pixels: "
                f"{_first_line(error)}"
            ) from error
        if not math.isfinite(value):
            raise ConfigError(
                f"{self._key} {self.target} returned {value} for a picture of {width}x{height} pixels; "
                "it must return a finite number"
            )
        return value


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
