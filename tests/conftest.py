"""Fixtures that several test modules share: a small real photograph and bundles."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ambi_rl
from ambi_rl.codec import bundle as bundle_module
from ambi_rl.codec import tables
from ambi_rl.codec.bundle import Bundle, make_manifest
from ambi_rl.codec.context import context_of
from ambi_rl.codec.entropy.model import untrained

# A shell that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

PHOTOGRAPHS = Path(ambi_rl.__file__).parent / "data" / "photographs"


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A piece of a photograph that the package ships, RGB, 112x88: no side is a multiple of 32."""
    with Image.open(PHOTOGRAPHS / "train-otters.webp") as image:
        half = image.convert("RGB").reduce(2)
    left, top = (half.width - 112) // 2, (half.height - 88) // 2
    return half.crop((left, top, left + 112, top + 88))


@pytest.fixture(scope="session")
def default_bundle() -> Bundle:
    """The bundle that comes with the package."""
    return bundle_module.default_bundle()


def make_policy(outputs: int, features: int = 7, hidden: int = 5) -> dict[str, np.ndarray]:
    """Random policy tensors of consistent shapes."""
    rng = np.random.default_rng(1)
    shapes = {
        "mean": (features,),
        "scale": (features,),
        "w0": (hidden, features),
        "b0": (hidden,),
        "w1": (hidden, hidden),
        "b1": (hidden,),
        "w2": (outputs, hidden + features),
        "b2": (outputs,),
    }
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def random_policy() -> Callable[[Bundle], Bundle]:
    """Gives a bundle a random policy that splits, predicts and offsets in all ways."""

    def give(bundle: Bundle) -> Bundle:
        features = context_of(replace(bundle, policy={})).observation_size
        outputs = 1 + len(bundle.strategies) + len(bundle.offsets)
        return replace(bundle, policy=make_policy(outputs, features, hidden=12))

    return give


@pytest.fixture
def plain_bundle() -> Bundle:
    """A bundle of an untrained entropy model and a random policy; nothing else depends on it."""
    strategies, offsets = list(tables.PREDICTOR_NAMES), [-2, 0, 2]
    manifest = make_manifest(strategies, offsets, 0.115, metrics={"note": "untrained"})
    policy = make_policy(1 + len(strategies) + len(offsets))
    return Bundle(manifest, untrained(), policy)


TINY_RUN = [
    "env.num_envs=8",
    "env.patch_size=32",
    "agent.n_steps=16",
    "agent.hidden=16",
    "agent.imitation.patches=12",
    "agent.imitation.rounds=1",
    "agent.imitation.visited=4",
    "agent.imitation.effort=5",
    "agent.imitation.epochs=2",
    "total_steps=0",
    "checkpoint_every=128",
    "entropy.refit_every=0",
    "entropy.patches=2",
    "evaluation.every=128",
    "evaluation.images=1",
    "evaluation.qualities=[40,70]",
    "evaluation.search_effort=5",
]
"""Overrides of a training run of about a second."""


@pytest.fixture(scope="session")
def tiny_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pieces of shipped photographs, so that encoding them takes no time."""
    folder = tmp_path_factory.mktemp("tiny_photographs")
    for path in sorted(PHOTOGRAPHS.glob("*.webp"))[:4]:
        with Image.open(path) as image:
            image.convert("RGB").crop((100, 100, 196, 164)).save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture
def tiny(tiny_photographs: Path, tmp_path: Path) -> list[str]:
    """Overrides of a tiny training run whose folder is in the test's own."""
    return [*TINY_RUN, f"data.folder={tiny_photographs}", f"runs={tmp_path}"]
