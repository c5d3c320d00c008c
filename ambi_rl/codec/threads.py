"""Sharing the parts of one picture among threads; compiled kernels release Python's lock."""

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


def available_threads() -> int:
    """How many threads to use: the cores that this process may run on, or fewer if `AMBI_THREADS` says so.

    Raises:
        UsageError: `AMBI_THREADS` is not a positive integer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    text = os.environ.get(THREADS_VARIABLE)
    if not text:
        return cores or 1
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(
            f"{THREADS_VARIABLE} is {text!r}; set it to a number of threads, 1 or more"
        )
    return min(cores or 1, int(text))


def in_threads(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """Call `work` with each part, on as many threads as there are cores, and return the results in order.

    What one call raises is raised here; parts that have not begun by then are left out.
    """
    threads = min(len(parts), available_threads())
    if threads <= 1:
        return [work(part) for part in parts]
    pool = ThreadPoolExecutor(threads)
    try:
        return list(pool.map(work, parts))
    finally:
        pool.shutdown(cancel_futures=True)
