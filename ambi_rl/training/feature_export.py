"""From a run of the feature codec to its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import nn

from ambi_rl import __version__
from ambi_rl.errors import UsageError
from ambi_rl.neural.bundle import FeatureBundle, feature_bundle
from ambi_rl.neural.networks import FeatureEncoder, FrameDecoder
from ambi_rl.neural.tables import LatentTables
from ambi_rl.training.checkpoint import FeatureCheckpoint, load_feature_checkpoint
from ambi_rl.training.run_folder import RunFolder, finite_json

_ENCODER = "features_extractor.encoder."


def export_features(run: Path) -> tuple[FeatureBundle, FeatureCheckpoint]:
    """The bundle of a finished run, and the checkpoint it is made of.

    Raises:
        UsageError: The run is not finished.
        AmbiError: Its checkpoint is damaged.
    """
    folder = RunFolder(run)
    if not folder.checkpoints:
        raise UsageError(f"{run} has no checkpoint yet; let `ambi train` run for longer")
    checkpoint = load_feature_checkpoint(folder.checkpoints[0])
    if not checkpoint.progress.finished:
        raise UsageError(
            f"{run} is not finished, so it has no decoder yet; go on with it: ambi train resume={run}"
        )
    config, policy = checkpoint.config, checkpoint.policy
    latent, agent = config["latent"], config["agent"]
    encoder = FeatureEncoder(
        config["env"]["frame_stack"],
        agent["width"],
        latent["layer"],
        latent["channels"],
        agent["features"],
    )
    encoder.load_state_dict(
        {k.removeprefix(_ENCODER): v for k, v in policy.items() if k.startswith(_ENCODER)}
    )
    weight = policy["action_net.weight"]
    action = nn.Linear(weight.shape[1], weight.shape[0])
    action.load_state_dict({"weight": weight, "bias": policy["action_net.bias"]})
    decoder = FrameDecoder(encoder.latent_shape, config["decoder"]["width"])
    decoder.load_state_dict(checkpoint.decoder)
    found = checkpoint.progress.extra["metrics"]
    metrics = {
        "test": found["test"],
        "play": {
            name: {key: facts[key] for key in ("score", "standard_error", "bits_per_frame")}
            for name, facts in found["play"].items()
        },
    }
    training = {
        "ambi_rl": __version__,
        "steps": checkpoint.progress.steps,
        "config": {**config, "resume": None},
    }
    bundle = feature_bundle(
        encoder,
        cast(nn.Module, action),
        decoder,
        LatentTables.from_tensors(checkpoint.tables),
        # There is no error of a ball where none is found.
        facts={
            "training": training,
            "metrics": finite_json(metrics),
            "data": [config["env"]["id"]],
        },
    )
    return bundle, checkpoint
