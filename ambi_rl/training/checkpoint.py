"""Checkpoints: one file with everything that going on, or exporting, needs; loaded without pickle."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.files import write_file
from ambi_rl.errors import AmbiError


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        steps: Node decisions so far.
        seconds: Time spent so far.
        best: Lowest objective so far; None before the first evaluation.
        refits: How often the entropy model was fitted anew.
        evaluations: Results, oldest first.
        imitation: What the warm start reached, by name.
        reward: State of a target or a competition, see `Reward.state`.
    """

    steps: int = 0
    seconds: float = 0.0
    best: float | None = None
    refits: int = 0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    imitation: dict[str, float] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        policy: State of the Stable-Baselines3 policy.
        optimizer: State of its optimizer.
        bundle: Exported policy, entropy model and manifest at that time.
        progress: How far the run was.
    """

    policy: dict[str, Any]
    optimizer: dict[str, Any]
    bundle: Bundle
    progress: Progress


def save_checkpoint(path: Path, policy: Any, bundle: Bundle, progress: Progress) -> None:
    """Write a checkpoint, all of it or nothing.

    Args:
        path: The file.
        policy: Stable-Baselines3 policy with its optimizer.
        bundle: What `ambi export` would write.
        progress: How far the run is.
    """
    buffer = io.BytesIO()
    tensors = {
        kind: {name: torch.from_numpy(np.array(array)) for name, array in group.items()}
        for kind, group in (
            ("entropy", bundle.entropy),
            ("exported", bundle.policy),
            ("restoration", bundle.restoration),
        )
    }
    content = {
        "policy": policy.state_dict(),
        "optimizer": policy.optimizer.state_dict(),
        "manifest": json.dumps(bundle.manifest),
        "progress": json.dumps(asdict(progress)),
        **tensors,
    }
    torch.save(content, buffer)
    write_file(path, buffer.getvalue())


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        AmbiError: It is missing or damaged.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        entropy, exported, restoration = (
            {name: tensor.numpy() for name, tensor in content[kind].items()}
            for kind in ("entropy", "exported", "restoration")
        )
        return Checkpoint(
            content["policy"],
            content["optimizer"],
            Bundle(json.loads(content["manifest"]), entropy, exported, restoration),
            Progress(**json.loads(content["progress"])),
        )
    except FileNotFoundError:
        raise AmbiError(f"there is no checkpoint {path}; train first") from None
    except Exception as error:
        # Torch raises many kinds for a damaged file; all mean the same to the user.
        raise AmbiError(
            f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}"
        ) from error
