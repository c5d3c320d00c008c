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
    """Nodes the policy visits; µs for each: features with the look ahead, network, coding."""
    with Image.open(photograph) as image:
        planes = rgb_to_planes(np.asarray(image.convert("RGB")))
    height, width = (size // 4 * 4 for size in planes.shape[1:])
    planes = np.ascontiguousarray(planes[:, :height, :width])
    bundle, step = default_bundle(), step_from_quality(QUALITY)
    frame = encode_frame(planes, step, bundle, by_name("policy"))
    actions = decision_sequence(frame.decisions, height, width, bundle.offsets.index(0))
    process = BlockCodingBatch(1, height, width, bundle, threads=1)
    choices = process.num_decisions + process.num_offsets
    seen = np.zeros((len(actions), process.observation_size), np.float32)
    masks = np.zeros((1, choices), np.bool_)
    spent = {"observe": 0.0, "step": 0.0}
    for _ in range(2):  # The first time is for warming up.
        process.load(0, planes, step)
        spent = dict.fromkeys(spent, 0.0)
        for t, (decision, offset) in enumerate(actions):
            start = time.perf_counter()
            process.observe(seen[t : t + 1], masks)
            middle = time.perf_counter()
            process.step(np.array([decision]), np.array([offset]))
            spent["observe"] += middle - start
            spent["step"] += time.perf_counter() - middle
    context = context_of(bundle)
    logits = np.zeros((len(actions), choices), np.float32)
    work = context.work()
    logits_batch(context.network, work, seen, logits)
    start = time.perf_counter()
    logits_batch(context.network, work, seen, logits)
    network = time.perf_counter() - start
    scale = 1e6 / len(actions)
    return len(actions), scale * spent["observe"], scale * network, scale * spent["step"]


def main(photograph: Path) -> None:
    """Print the three."""
    nodes, observe, network, step = node_times(photograph)
    print(
        f"node: {observe + network:.1f} µs to decide ({observe:.1f} features and look ahead, "
        f"{network:.1f} network), {step:.1f} to code; mean of {nodes:,} nodes, calls from Python included"
    )
    print(f"cold process: ambi decode {cold_decode(photograph):.2f} s, median of {COLD_RUNS}")
    for purpose, seconds in first_use().items():
        print(f"first use: to {purpose} {seconds:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
