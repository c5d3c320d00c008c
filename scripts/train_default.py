"""Rebuild the default bundle from folders of photographs, from scratch.

    python scripts/train_default.py PHOTOS [MORE ...]

Every stage writes a bundle to the folder --work; a stage whose bundle is there is not run again, so that an
interrupted run goes on. The photographs' link folder, made first, is divided alike by all stages: every tenth
photograph, by name, is held out.

    plain        counters and mixers, fitted to a quick search's decisions; no network yet
    network      the level network, trained on the levels that `plain` leads to
    entropy      counters and mixers anew, beside the network, fitted to a thorough search's decisions
    policy       `ambi train` over that entropy model
    restoration  the filter after decoding, trained on what `plain` decodes to (in parallel if --only is used)
    bundle       all of them in one
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ambi_rl.codec.bundle import Bundle, load_bundle, make_manifest, save_bundle
from ambi_rl.codec.context import DEFAULT_LAMBDA_SCALE, DEFAULT_OFFSETS, DEFAULT_STRATEGIES
from ambi_rl.codec.entropy import layout
from ambi_rl.codec.entropy.fit import fit_entropy
from ambi_rl.codec.entropy.model import Tensors, untrained
from ambi_rl.codec.frame import Planes
from ambi_rl.codec.strategists import for_search
from ambi_rl.codec.warmup import ensure_compiled
from ambi_rl.data.source import PhotographSource, list_photographs, split_held_out
from ambi_rl.training.level_network import fit_level_network

ROOT = Path(__file__).parent.parent
HELD_OUT_EVERY = 10
ENTROPY_PATCH = 192
ENTROPY_QUALITIES = (10, 97)
QUICK_EFFORT = 5
STAGES = ("plain", "network", "entropy", "policy", "restoration", "bundle")


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


def draw(photographs: Path, patches: int, seed: int) -> list[tuple[Planes, int]]:
    """Patches of all qualities in random order, of photographs that are not held out."""
    paths, _ = split_held_out(list_photographs(photographs), HELD_OUT_EVERY)
    source = PhotographSource(paths, ENTROPY_PATCH, ENTROPY_QUALITIES, texture=0.3)
    rng = np.random.default_rng(seed)
    return [(patch.planes, patch.step) for patch in (source.sample(rng) for _ in range(patches))]


def progress(name: str) -> Callable[[float], None]:
    """Something to call with the fraction done, which prints every tenth."""
    start = time.monotonic()
    tenths = 0

    def report(fraction: float) -> None:
        nonlocal tenths
        if int(10 * fraction) > tenths:
            tenths = int(10 * fraction)
            print(f"{name}: {fraction:.0%}, {time.monotonic() - start:.0f} s", flush=True)

    return report


def network_of(bundle: Bundle) -> Tensors:
    """The level network's tensors."""
    return {name: bundle.entropy[name] for name in layout.NET_TENSORS}


def without_paths(bundle: Bundle) -> Bundle:
    """Forget where the files lay on the machine that trained: that is nobody else's business."""
    manifest = copy.deepcopy(bundle.manifest)
    config = manifest["training"]["config"]
    config["bundle"] = None
    config["data"]["folder"] = "photographs"
    config["runs"] = "runs"
    return replace(bundle, manifest=manifest)


class Stages:
    """The stages, each a method that returns its bundle."""

    def __init__(self, arguments: argparse.Namespace, overrides: list[str]) -> None:
        """Remember the command line."""
        self.arguments = arguments
        self.overrides = overrides
        self.photographs: Path = arguments.work / "photographs"

    def path(self, name: str) -> Path:
        """Where a stage's bundle lies."""
        path: Path = self.arguments.work / f"{name}.ambic"
        return path

    def result(self, name: str) -> Bundle:
        """A stage's bundle, made now if it is not there."""
        if not self.path(name).exists():
            print(f"stage {name}", flush=True)
            start = time.monotonic()
            save_bundle(getattr(self, name)(), self.path(name))
            print(f"stage {name}: {time.monotonic() - start:.0f} s", flush=True)
        return load_bundle(self.path(name))

    def plain(self) -> Bundle:
        """Counters and mixers without a network."""
        manifest = make_manifest(DEFAULT_STRATEGIES, DEFAULT_OFFSETS, DEFAULT_LAMBDA_SCALE)
        bundle = Bundle(manifest, untrained())
        images = draw(self.photographs, self.arguments.quick_patches, self.arguments.seed)
        report = progress("plain")
        strategist = for_search(QUICK_EFFORT)
        return replace(bundle, entropy=fit_entropy(images, bundle, strategist, report=report))

    def network(self) -> Bundle:
        """The level network."""
        bundle = self.result("plain")
        images = draw(self.photographs, self.arguments.patches, self.arguments.seed + 1)
        entropy = fit_level_network(
            images,
            bundle,
            for_search(QUICK_EFFORT),
            epochs=self.arguments.epochs,
            seed=self.arguments.seed,
            report=lambda line: print(line, flush=True),
        )
        return replace(bundle, entropy=entropy)

    def entropy(self) -> Bundle:
        """Counters and mixers beside the network."""
        network = self.result("network")
        start = replace(network, entropy=untrained() | network_of(network))
        images = draw(self.photographs, self.arguments.patches, self.arguments.seed + 2)
        strategist = for_search(self.arguments.effort)
        report = progress("entropy")
        return replace(start, entropy=fit_entropy(images, start, strategist, report=report))

    def policy(self) -> Bundle:
        """The policy; the bundle serves all efforts, so its entropy model stays (docs/decisions.md)."""
        self.result("entropy")
        name = self.arguments.name
        ambi = [sys.executable, "-m", "ambi_rl.cli"]
        data = ["data=folder", f"data.folder={self.photographs}", "entropy.refit_every=0"]
        run = [f"name={name}", f"bundle={self.path('entropy')}", f"seed={self.arguments.seed}"]
        subprocess.run([*ambi, "train", *data, *run, *self.overrides], check=True)
        exported = self.arguments.work / "exported.ambic"
        subprocess.run([*ambi, "export", f"runs/{name}", "-o", str(exported)], check=True)
        return without_paths(load_bundle(exported))

    def restoration(self) -> Bundle:
        """The filter after decoding."""
        self.result("plain")
        script = [sys.executable, str(ROOT / "scripts" / "train_restoration.py")]
        made = self.arguments.work / "restored.ambic"
        options = ["--bundle", str(self.path("plain")), "--output", str(made)]
        options += ["--work", str(self.arguments.work / "restoration")]
        options += ["--minutes", str(self.arguments.minutes), "--pairs", str(self.arguments.pairs)]
        subprocess.run([*script, str(self.photographs), *options], check=True)
        return load_bundle(made)

    def bundle(self) -> Bundle:
        """All in one."""
        policy, filtered = self.result("policy"), self.result("restoration")
        manifest = policy.manifest | {"restoration": filtered.manifest["restoration"]}
        return replace(policy, manifest=manifest, restoration=filtered.restoration)


def main() -> None:
    """Run the stages."""
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
    parser.add_argument("--quick-patches", type=int, default=300, help="patches of stage plain")
    parser.add_argument("--patches", type=int, default=800, help="of stages network and entropy")
    parser.add_argument("--epochs", type=int, default=4, help="of the level network")
    parser.add_argument("--effort", type=int, default=7, help="of the search of stage entropy")
    parser.add_argument("--pairs", type=int, default=2048, help="crops of stage restoration")
    parser.add_argument("--minutes", type=float, default=60, help="training of restoration")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--name", default="default", help="name of the run of stage policy")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "default-bundle")
    parser.add_argument("--only", choices=STAGES, help="run this stage and what it needs, no more")
    parser.add_argument("--output", type=Path, default=ROOT / "ambi_rl" / "codec" / "default.ambic")
    arguments, overrides = parser.parse_known_args()
    ensure_compiled("train", lambda line: print(line, flush=True))
    stages = Stages(arguments, overrides)
    if not stages.photographs.exists():
        stages.photographs.mkdir(parents=True)
        gather(arguments.folders, arguments.exclude, stages.photographs)
    made = stages.result(arguments.only or "bundle")
    if arguments.only in (None, "bundle"):
        save_bundle(made, arguments.output)
        print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes, id {made.id}")


if __name__ == "__main__":
    main()
