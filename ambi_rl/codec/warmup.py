"""Compilation of the kernels ahead of their first use, with progress lines."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import numba
import numpy as np

from ambi_rl.codec.jit import cache_folder
from ambi_rl.errors import CorruptFileError

Purpose = Literal["encode", "decode", "train"]

_STAGES: dict[str, tuple[str, ...]] = {
    "decode": ("decoder",),
    "encode": ("decoder", "encoder"),
    "train": ("decoder", "encoder", "environment"),
}


_ready: set[str] = set()
"""Stages known to be compiled, so that later calls need not look at the disk."""


def announce(line: str) -> None:
    """Print a progress line on standard error."""
    sys.stderr.write(f"ambi: {line}\n")
    sys.stderr.flush()


def _compile(stage: str) -> None:
    from ambi_rl.codec.bundle import Bundle, make_manifest
    from ambi_rl.codec.context import DEFAULT_LAMBDA_SCALE, DEFAULT_OFFSETS, DEFAULT_STRATEGIES
    from ambi_rl.codec.entropy.model import untrained
    from ambi_rl.codec.frame import decode_frame, encode_frame
    from ambi_rl.codec.strategists import STRATEGISTS

    bundle = Bundle(
        make_manifest(DEFAULT_STRATEGIES, DEFAULT_OFFSETS, DEFAULT_LAMBDA_SCALE), untrained()
    )
    planes = np.full((3, 4, 4), 512, np.int16)
    if stage == "decoder":
        with suppress(CorruptFileError):  # Nothing is decoded; the kernels are only called.
            decode_frame(b"", 4, 4, 3, 64, bundle)
    elif stage == "encoder":
        encode_frame(planes, 64, bundle, STRATEGISTS["fixed"])
    else:
        from ambi_rl.codec.process import BlockCodingBatch

        process = BlockCodingBatch(1, 4, 4, bundle, threads=1)
        process.load(0, planes, 64)
        process.lagrangian(0)
        process.observe(
            np.zeros((1, process.observation_size), np.float32),
            np.zeros((1, process.num_decisions + process.num_offsets), np.bool_),
        )
        process.step(np.ones(1, np.int32), np.zeros(1, np.int32))
        process.close()


def ensure_compiled(purpose: Purpose, report: Callable[[str], None] | None = None) -> bool:
    """Compile what `purpose` needs unless the cache on disk has it.

    Args:
        purpose: "decode", "encode" or "train".
        report: Called with one line before each part that has to be compiled.

    Returns:
        Whether anything had to be compiled.
    """
    settings: Any = numba.config
    if settings.DISABLE_JIT or _ready.issuperset(_STAGES[purpose]):
        return False
    missing = [
        stage for stage in _STAGES[purpose] if not (cache_folder() / f"{stage}.done").exists()
    ]
    for number, stage in enumerate(missing, 1):
        if report is not None:
            report(
                f"first use: compiling the {stage} ({number}/{len(missing)}), up to a minute, once"
            )
        _compile(stage)
        (cache_folder() / f"{stage}.done").touch()
    _ready.update(_STAGES[purpose])
    return bool(missing)
