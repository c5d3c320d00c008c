"""From a run of super-resolution to its bundle."""

from __future__ import annotations

from pathlib import Path

from ambi_rl import __version__
from ambi_rl.errors import UsageError
from ambi_rl.superres.bundle import SuperresBundle, make_bundle
from ambi_rl.superres.networks import Generator
from ambi_rl.superres.onnx_export import export_onnx
from ambi_rl.training.checkpoint import SuperresCheckpoint, load_superres_checkpoint
from ambi_rl.training.run_folder import RunFolder, finite_json


def export_superres(run: Path) -> tuple[SuperresBundle, SuperresCheckpoint]:
    """The bundle of a run's last checkpoint, and that checkpoint.

    Raises:
        UsageError: There is none.
        AmbiError: It is damaged.
    """
    folder = RunFolder(run)
    if not folder.checkpoints:
        raise UsageError(f"{run} has no checkpoint yet; let `ambi train` run for longer")
    checkpoint = load_superres_checkpoint(folder.checkpoints[0])
    config, progress = checkpoint.config, checkpoint.progress
    network = config["network"]
    generator = Generator(
        config["scale"],
        network["channels"],
        network["blocks"],
        network["batch_norm"],
        network["skip"],
    )
    generator.load_state_dict(checkpoint.states["average"])
    training = {
        "ambi_rl": __version__,
        "steps": progress.steps,
        "config": {**config, "resume": None},
        "metrics": finite_json(progress.evaluations[-1]) if progress.evaluations else {},
        "data": progress.extra.get("trained_with", []),
    }
    bundle = make_bundle(export_onnx(generator.eval()), config["scale"], generator.radius, training)
    return bundle, checkpoint
