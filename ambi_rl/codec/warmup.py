"""Compilation of the kernels ahead of their first use, with progress lines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import numba
import numpy as np

from ambi_rl.codec.jit import cache_folder
from ambi_rl.errors import CorruptFileError

Purpose = Literal["encode", "decode", "train"]

_STAGES: dict[str, tuple[str, ...]] = {
    "decode": ("decoder",),
    "encode": ("decoder", "policy", "encoder"),
    "train": ("decoder", "policy", "encoder", "environment"),
}
_BESIDE = "policy"
"""The stage that shares little with the decoder: on two cores both are compiled at the same time."""

_ready: set[str] = set()
"""Stages known to be compiled, so that later calls need not look at the disk."""


def announce(line: str) -> None:
    """Print a progress line on standard error."""
    sys.stderr.write(f"ambi: {line}\n")
    sys.stderr.flush()


def _compile(stage: str) -> None:
    """Call the kernels of a stage on the smallest picture."""
    from ambi_rl.codec.bundle import Bundle, make_manifest
    from ambi_rl.codec.context import (
        DEFAULT_LAMBDA_SCALE,
        DEFAULT_OFFSETS,
        DEFAULT_STRATEGIES,
        context_of,
    )
    from ambi_rl.codec.entropy.coder import Model
    from ambi_rl.codec.entropy.model import untrained
    from ambi_rl.codec.frame import decode_frame, encode_frame
    from ambi_rl.codec.kernel.block import begin
    from ambi_rl.codec.kernel.state import allocate_picture
    from ambi_rl.codec.restoration import blank_tensors, restore
    from ambi_rl.codec.strategists import STRATEGISTS
    from ambi_rl.codec.strategists.lookahead import look_ahead
    from ambi_rl.codec.strategists.observation import observe
    from ambi_rl.codec.strategists.policy_net import evaluate

    bundle = Bundle(
        make_manifest(DEFAULT_STRATEGIES, DEFAULT_OFFSETS, DEFAULT_LAMBDA_SCALE), untrained()
    )
    planes = np.full((3, 4, 4), 512, np.int16)
    if stage == "decoder":
        with suppress(CorruptFileError):  # Nothing is decoded; the kernels are only called.
            decode_frame(b"", 4, 4, 3, 64, bundle)
        restore(planes, 64, blank_tensors(2, 1, 1))
    elif stage == "policy":
        picture = allocate_picture(3, 4, 4, 1, outlook=True)
        begin(picture, 3, 4, 4, 64)
        context = context_of(bundle)
        work, constants = context.work(), context.constants
        look_ahead(picture, work, constants)
        observe(
            picture, work, constants, Model(picture.state, work, constants, picture.stream), 0, 0, 2
        )
        evaluate(context.network, work)
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
        process.advise(STRATEGISTS["search"])
        process.step(np.ones(1, np.int32), np.zeros(1, np.int32))
        process.close()


@contextmanager
def _compiled_beside(missing: list[str]) -> Iterator[None]:
    """Let another process fill the cache with one of several missing stages.

    It only saves time: whatever it does not deliver is compiled here.
    """
    if (
        _BESIDE not in missing
        or len(missing) < 2
        or (os.cpu_count() or 1) < 2
        or not sys.executable
    ):
        yield
        return
    code = f"from ambi_rl.codec import warmup; warmup._compile({_BESIDE!r})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as helper:
        try:
            yield
        finally:
            helper.kill()


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
    with _compiled_beside(missing):
        for number, stage in enumerate(missing, 1):
            if report is not None:
                report(
                    f"first use: compiling the {stage} ({number}/{len(missing)}), "
                    "about a minute in all, once"
                )
            _compile(stage)
            (cache_folder() / f"{stage}.done").touch()
    _ready.update(_STAGES[purpose])
    return bool(missing)
