"""Prints what using the codec costs in time: the first use, a cold process, and a node's decision.

Usage: scripts/bench_codec.py PHOTOGRAPH

"first use" compiles into an empty cache; "cold process" is `ambi decode` from start to exit with a warm
cache; "node" is what the exported policy needs for one quadtree node in compiled code, on one core, over the
nodes that it visits in the photograph: features, network, and its share of the look ahead over the picture.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import ambi_rl
from ambi_rl.agents.imitation import decision_sequence
from ambi_rl.codec.bundle import default_bundle
from ambi_rl.codec.color import rgb_to_planes
from ambi_rl.codec.context import context_of
from ambi_rl.codec.frame import encode_frame
from ambi_rl.codec.process import BlockCodingBatch
from ambi_rl.codec.quality import step_from_quality
from ambi_rl.codec.strategists import by_name
from ambi_rl.codec.strategists.policy_net import logits_batch

QUALITY = 75
COLD_RUNS = 5
PATCH, PATCHES = 64, 64


def seconds_of(command: list[str], **variables: str) -> float:
    """Wall-clock time of a command."""
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True)
    return time.perf_counter() - start


def first_use() -> dict[str, float]:
    """Seconds to compile for each purpose, each into an empty cache, Python's start included."""
    found = {}
    for purpose in ("decode", "encode", "train"):
        code = f"from ambi_rl.codec.warmup import ensure_compiled; ensure_compiled({purpose!r})"
        with tempfile.TemporaryDirectory() as cache:
            found[purpose] = seconds_of([sys.executable, "-c", code], AMBI_CACHE_DIR=cache)
    return found


def cold_decode(photograph: Path) -> float:
    """Median seconds of `ambi decode` in a fresh process."""
    with tempfile.TemporaryDirectory() as temporary, Image.open(photograph) as image:
        source, target = Path(temporary) / "a.ambi", Path(temporary) / "a.png"
        source.write_bytes(ambi_rl.encode(image.convert("RGB"), quality=QUALITY))
        command = [sys.executable, "-m", "ambi_rl.cli", "decode", str(source), str(target)]
        return float(np.median([seconds_of(command) for _ in range(COLD_RUNS)]))


def node_times(photograph: Path) -> tuple[int, float, float, float]:
    """Nodes the policy visits in 64 patches; µs for each: features with the look ahead, network, coding."""
    with Image.open(photograph) as image:
        planes = rgb_to_planes(np.asarray(image.convert("RGB")))
    rng = np.random.default_rng(1)
    corners = rng.integers(0, np.array(planes.shape[1:]) - PATCH, (PATCHES, 2))
    patches = [planes[:, y : y + PATCH, x : x + PATCH].copy() for y, x in corners]
    bundle, step = default_bundle(), step_from_quality(QUALITY)
    neutral = bundle.offsets.index(0)
    frames = [encode_frame(patch, step, bundle, by_name("policy")) for patch in patches]
    actions = [decision_sequence(f.decisions, PATCH, PATCH, neutral) for f in frames]
    process = BlockCodingBatch(PATCHES, PATCH, PATCH, bundle, threads=1)
    observations = np.zeros((PATCHES, process.observation_size), np.float32)
    masks = np.zeros((PATCHES, process.num_decisions + process.num_offsets), np.bool_)
    seen: list[np.ndarray] = []
    for _ in range(2):  # The first time is for warming up.
        for index, patch in enumerate(patches):
            process.load(index, patch, step)
        observe = code = 0.0
        seen = []
        for t in range(max(map(len, actions))):
            seen.append(observations[~process.done])
            start = time.perf_counter()
            process.observe(observations, masks)
            middle = time.perf_counter()
            chosen = np.array([a[t] if t < len(a) else (1, neutral) for a in actions])
            before = time.perf_counter()
            process.step(chosen[:, 0], chosen[:, 1])
            code += time.perf_counter() - before
            observe += middle - start
    context = context_of(bundle)
    inputs = np.concatenate(seen)
    logits = np.zeros((len(inputs), masks.shape[1]), np.float32)
    work = context.work()
    logits_batch(context.network, work, inputs, logits)
    start = time.perf_counter()
    logits_batch(context.network, work, inputs, logits)
    network = time.perf_counter() - start
    scale = 1e6 / len(inputs)
    return len(inputs), scale * observe, scale * network, scale * code


def main(photograph: Path) -> None:
    """Print the three."""
    nodes, observe, network, step = node_times(photograph)
    print(
        f"node: {observe + network:.1f} µs to decide ({observe:.1f} features and look ahead, "
        f"{network:.1f} network), {step:.1f} to code; mean of {nodes:,} nodes"
    )
    print(f"cold process: ambi decode {cold_decode(photograph):.2f} s, median of {COLD_RUNS}")
    for purpose, seconds in first_use().items():
        print(f"first use: to {purpose} {seconds:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
