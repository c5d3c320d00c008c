"""Rebuild the default bundle from folders of photographs, from scratch.

    python scripts/train_default.py PHOTOS [MORE ...]

Stage 1 fits the entropy model to the decisions of the search strategist, coding patches one after the
other: counters first, then the level network on the levels that these lead to, then counters and mixers
beside the network. Stage 2 trains the policy (`ambi train`) over that model. Stage 3 exports both to
ambi_rl/codec/default.ambic. Every tenth photograph, by name, is held out of both stages, and so are those
named by --exclude: the originals of the pictures that the package ships as held-out.
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from ambi_rl.codec.bundle import Bundle, load_bundle, make_manifest, save_bundle
from ambi_rl.codec.context import DEFAULT_LAMBDA_SCALE, DEFAULT_OFFSETS, DEFAULT_STRATEGIES
from ambi_rl.codec.entropy.fit import fit_entropy
from ambi_rl.codec.entropy.layout import NET_TENSORS
from ambi_rl.codec.entropy.model import untrained
from ambi_rl.codec.strategists import for_effort
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data.source import PhotographSource, list_photographs, split_held_out
from ambi_rl.training.level_network import fit_level_network

ROOT = Path(__file__).parent.parent
HELD_OUT_EVERY = 10
ENTROPY_PATCH = 192
ENTROPY_QUALITIES = (10, 97)
NETWORK_EFFORT = 5
"""Effort of the search whose levels the network learns: they hardly depend on it."""


def gather(folders: list[Path], exclude: list[str], target: Path) -> None:
    """Link all photographs into one folder, so that both stages divide them alike.

    Args:
        folders: Where they are.
        exclude: Photographs whose names contain one of these are left out.
        target: An empty folder.
    """
    for number, folder in enumerate(folders):
        for path in list_photographs(folder):
            if not any(text in path.name for text in exclude):
                (target / f"{number}-{folder.name}-{path.name}").symlink_to(path.resolve())


def fit(photographs: Path, patches: int, effort: int, seed: int) -> Bundle:
    """Stage 1: the entropy model, over patches of all qualities in random order."""
    paths, _ = split_held_out(list_photographs(photographs), HELD_OUT_EVERY)
    source = PhotographSource(paths, ENTROPY_PATCH, ENTROPY_QUALITIES, texture=0.3)
    rng = np.random.default_rng(seed)
    images = [(patch.planes, patch.step) for patch in (source.sample(rng) for _ in range(patches))]
    manifest = make_manifest(DEFAULT_STRATEGIES, DEFAULT_OFFSETS, DEFAULT_LAMBDA_SCALE)
    start = 0.0
    tenths = 0

    def report(fraction: float) -> None:
        nonlocal tenths
        if int(10 * fraction) > tenths:
            tenths = int(10 * fraction)
            elapsed = time.monotonic() - start
            print(f"entropy model: {fraction:.0%}, {elapsed:.0f} s", flush=True)

    # The network needs levels, which any trained counters lead to: a quarter of the patches is enough.
    quarter = images[: max(len(images) // 4, 1)]
    first = fit_entropy(quarter, Bundle(manifest, untrained()), for_effort(NETWORK_EFFORT))
    network = fit_level_network(
        images,
        Bundle(manifest, first),
        for_effort(NETWORK_EFFORT),
        seed=seed,
        report=lambda line: print(line, flush=True),
    )
    start = time.monotonic()
    bundle = Bundle(manifest, untrained() | {name: network[name] for name in NET_TENSORS})
    entropy = fit_entropy(images, bundle, for_effort(effort), report=report)
    return Bundle(manifest, entropy)


def without_paths(bundle: Bundle) -> Bundle:
    """Forget where the files lay on the machine that trained: that is nobody else's business."""
    manifest = copy.deepcopy(bundle.manifest)
    config = manifest["training"]["config"]
    config["bundle"] = None
    config["data"]["folder"] = "photographs"
    config["runs"] = "runs"
    return replace(bundle, manifest=manifest)


def main() -> None:
    """Run the three stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders of photographs")
    parser.add_argument(
        "--exclude",
        nargs="*",
        default=["budgie-backgrounds-0012", "budgie-backgrounds-0023"],
        help="leave out photographs whose names contain one of these",
    )
    parser.add_argument("--patches", type=int, default=800, help="patches of stage 1")
    parser.add_argument("--effort", type=int, default=7, help="effort of the search of stage 1")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="default", help="name of the run of stage 2")
    parser.add_argument("--output", type=Path, default=ROOT / "ambi_rl" / "codec" / "default.ambic")
    parser.add_argument("overrides", nargs="*", default=[], help=argparse.SUPPRESS)
    arguments, overrides = parser.parse_known_args()
    ensure_compiled("train", lambda line: print(line, flush=True))
    ambi = [sys.executable, "-m", "ambi_rl.cli"]
    with tempfile.TemporaryDirectory() as temporary:
        photographs = Path(temporary) / "photographs"
        photographs.mkdir()
        gather(arguments.folders, arguments.exclude, photographs)
        bundle = fit(photographs, arguments.patches, arguments.effort, arguments.seed)
        start = Path(temporary) / "start.ambic"
        save_bundle(bundle, start)
        data = ["data=folder", f"data.folder={photographs}"]
        # The bundle serves all efforts: its entropy model stays the one fitted to search (docs/decisions.md).
        run = [f"name={arguments.name}", f"bundle={start}", f"seed={arguments.seed}"]
        run.append("entropy.refit_every=0")
        subprocess.run([*ambi, "train", *data, *run, *overrides], check=True)
        exported = Path(temporary) / "exported.ambic"
        subprocess.run([*ambi, "export", f"runs/{arguments.name}", "-o", str(exported)], check=True)
        save_bundle(without_paths(load_bundle(exported)), arguments.output)
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
