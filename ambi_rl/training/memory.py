"""Keeps freed memory in the process: large tensors come and go in every step of training."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt."""
_LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Have the C library reuse large blocks instead of returning them to the system and asking for new ones.

    New pages are cleared when first touched, which took half of the time of a gradient step on stacks of
    frames (docs/extremely-lossy.md). Nothing happens where the library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, _LARGE)
    library.mallopt(_TRIM_THRESHOLD, _LARGE)
