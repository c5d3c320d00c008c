"""How many threads one call of the codec may use, and sharing the parts of a picture among them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ambi_rl.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")

THREADS_VARIABLE = "AMBI_THREADS"
"""Environment variable: the most threads that one picture is coded or decoded with."""

_limit: int | None = None


def available_cores() -> int:
    """Cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count() -> int:
    """Threads that one encode or decode may use: all cores, unless told or the environment says otherwise.

    Raises:
        UsageError: `AMBI_THREADS` is not a positive integer.
    """
    count = available_cores() if _limit is None else _limit
    text = os.environ.get(THREADS_VARIABLE)
    if not text:
        return count
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(
            f"{THREADS_VARIABLE} is {text!r}; set it to a number of threads, 1 or more"
        )
    return min(count, int(text))


def limit_threads(count: int | None) -> None:
    """Set what `thread_count` returns at most, for whoever codes several pictures at a time.

    Args:
        count: At least 1; None for as many as there are cores.
    """
    global _limit
    _limit = None if count is None else max(1, count)


def in_threads(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """Call `work` with each part, on `thread_count()` threads, and return the results in order.

    Kernels release Python's lock. What one call raises is raised here; parts that have not begun by then are
    left out.

    Raises:
        UsageError: see `thread_count`.
    """
    threads = min(len(parts), thread_count())
    if threads <= 1:
        return [work(part) for part in parts]
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(work, parts))
    finally:
        pool.shutdown(cancel_futures=True)
