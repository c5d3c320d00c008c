"""The one way this project compiles a function: Numba, cached on disk, GIL released, no fast-math."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numba

F = TypeVar("F", bound=Callable[..., object])


def kernel(function: F) -> F:
    """Compile `function` on first use.

    Without fast-math, so that a result does not depend on the compiler's choices; with `nogil`, so that
    threads run kernels side by side. Arguments are arrays, scalars and NamedTuples of arrays.
    """
    compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy", boundscheck=None)(function)
    return compiled
