"""How many threads a single call of the codec may use: one number for the process, all cores unless told."""

from __future__ import annotations

import os

_limit: int | None = None


def available_cores() -> int:
    """Cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count() -> int:
    """Threads that one encode or decode may use, at least 1."""
    return available_cores() if _limit is None else _limit


def limit_threads(count: int | None) -> None:
    """Set what `thread_count` returns, for whoever codes several pictures at a time.

    Args:
        count: At least 1; None for as many as there are cores.
    """
    global _limit
    _limit = None if count is None else max(1, count)
