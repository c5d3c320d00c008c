"""Checkpoints: one file with everything that going on, or exporting, needs; loaded without pickle."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ambi_rl.codec.bundle import Bundle
from ambi_rl.codec.files import write_file
from ambi_rl.errors import AmbiError
from ambi_rl.training.display import Display
from ambi_rl.training.run_folder import RunFolder


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        steps: Node decisions so far.
        seconds: Time spent so far.
        best: Lowest objective so far; None before the first evaluation.
        refits: How often the entropy model was fitted anew.
        evaluations: Results, oldest first: BD-rates, steps, seconds and the rate-distortion curve.
        imitation: What the warm start reached, by name.
        warm_started: Whether the policy is past its warm start.
        finished: Whether the last refit and evaluation are done.
        extra: What else goes on from where it was, small and JSON-able, by the name of who keeps it.
    """

    steps: int = 0
    seconds: float = 0.0
    best: float | None = None
    refits: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    imitation: dict[str, float] = field(default_factory=dict)
    warm_started: bool = False
    finished: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint.

    Attributes:
        policy: State of the Stable-Baselines3 policy.
        optimizer: State of its optimizer.
        bundle: Exported policy, entropy model and manifest at that time.
        progress: How far the run was.
        trajectory: See `ambi_rl.training.trajectory`; None in the checkpoint of the best policy, which is
            to be exported rather than trained further.
    """

    policy: dict[str, Any]
    optimizer: dict[str, Any]
    bundle: Bundle
    progress: Progress
    trajectory: dict[str, Any] | None = None


def _convert(tree: Any, kind: type, convert: Callable[[Any], Any]) -> Any:
    """A copy of nested dictionaries, lists and tuples with what is of a kind converted."""
    if isinstance(tree, kind):
        return convert(tree)
    if isinstance(tree, dict):
        return {key: _convert(value, kind, convert) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_convert(value, kind, convert) for value in tree)
    return tree


def save_checkpoint(
    path: Path,
    policy: Any,
    bundle: Bundle,
    progress: Progress,
    trajectory: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, all of it or nothing.

    Args:
        path: The file.
        policy: Stable-Baselines3 policy with its optimizer.
        bundle: What `ambi export` would write.
        progress: How far the run is.
        trajectory: What else is needed to go on exactly, as nested dictionaries and lists of arrays, numbers
            and strings.
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
        "trajectory": _convert(trajectory, np.ndarray, torch.from_numpy),
        **tensors,
    }
    torch.save(content, buffer)
    write_file(path, buffer.getvalue(), durable=True)


def _progress(stored: dict[str, Any]) -> Progress:
    """From a checkpoint that may be of an older or newer program."""
    known = {item.name for item in fields(Progress)}
    return Progress(**{key: value for key, value in stored.items() if key in known})


def _read(path: Path) -> dict[str, Any]:
    # Torch itself does not look at the checksums that it writes.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} in it is damaged")
    content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return content


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Make one line of whatever goes wrong while a checkpoint is read."""
    try:
        yield
    except FileNotFoundError:
        raise AmbiError(f"there is no checkpoint {path}; train first") from None
    except Exception as error:
        # Torch raises many kinds for a damaged file; all mean the same to the user.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise AmbiError(f"checkpoint {path} cannot be read: {reason}") from error


@dataclass(frozen=True)
class FeatureCheckpoint:
    """A loaded checkpoint of a feature codec.

    Attributes:
        policy: State of the policy, its prior included.
        optimizer: State of its optimizer.
        decoder: State of the decoder.
        loss: State of its loss.
        tables: Arrays of the entropy coder's tables, by name; empty before the run's end.
        config: The run's configuration.
        progress: How far the run was.
    """

    policy: dict[str, Any]
    optimizer: dict[str, Any]
    decoder: dict[str, Any]
    loss: dict[str, Any]
    tables: dict[str, Any]
    config: dict[str, Any]
    progress: Progress


@dataclass(frozen=True)
class SuperresCheckpoint:
    """A loaded checkpoint of super-resolution.

    Attributes:
        states: Of networks, optimizers and chance, by name; the exported generator is `average`.
        data: Position in the photographs.
        config: The run's configuration.
        progress: How far the run was.
    """

    states: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    progress: Progress


Loaded = TypeVar("Loaded", Checkpoint, FeatureCheckpoint, SuperresCheckpoint)


def newest_checkpoint(
    folder: RunFolder, load: Callable[[Path], Loaded], display: Display, unit: str
) -> Loaded | None:
    """The newest checkpoint of a run that is not damaged; None if none was saved yet.

    Args:
        folder: Of the run, which is going on.
        load: Reads a checkpoint.
        display: Is told which was taken.
        unit: What the run's steps are called there.

    Raises:
        AmbiError: All of them are damaged.
    """
    failure: AmbiError | None = None
    for path in folder.checkpoints:
        try:
            found = load(path)
        except AmbiError as error:
            display.line(f"{error}; trying the one before")
            failure = failure or error
        else:
            if failure is not None:
                display.line(f"going on from {path}, at {found.progress.steps:,} {unit}")
                # It must not be kept as an older one when the next is saved.
                folder.last.unlink(missing_ok=True)
            return found
    if failure is not None:
        raise failure
    display.line("there is no checkpoint yet: the run begins anew")
    return None


def save_superres_checkpoint(path: Path, checkpoint: SuperresCheckpoint) -> None:
    """Write a checkpoint, all of it or nothing."""
    content = {
        "states": checkpoint.states,
        "data": _convert(checkpoint.data, np.ndarray, torch.from_numpy),
        "config": json.dumps(checkpoint.config),
        "progress": json.dumps(asdict(checkpoint.progress)),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(path, buffer.getvalue(), durable=True)


def load_superres_checkpoint(path: Path) -> SuperresCheckpoint:
    """Read a checkpoint of super-resolution.

    Raises:
        AmbiError: It is missing or damaged.
    """
    with _explained(path):
        content = _read(path)
        return SuperresCheckpoint(
            content["states"],
            _convert(content["data"], torch.Tensor, torch.Tensor.numpy),
            json.loads(content["config"]),
            _progress(json.loads(content["progress"])),
        )


def save_feature_checkpoint(path: Path, checkpoint: FeatureCheckpoint) -> None:
    """Write a checkpoint, all of it or nothing."""
    content = {
        "policy": checkpoint.policy,
        "optimizer": checkpoint.optimizer,
        "decoder": checkpoint.decoder,
        "loss": checkpoint.loss,
        "tables": _convert(checkpoint.tables, np.ndarray, torch.from_numpy),
        "config": json.dumps(checkpoint.config),
        "progress": json.dumps(asdict(checkpoint.progress)),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_file(path, buffer.getvalue(), durable=True)


def load_feature_checkpoint(path: Path) -> FeatureCheckpoint:
    """Read a checkpoint of a feature codec.

    Raises:
        AmbiError: It is missing or damaged.
    """
    with _explained(path):
        content = _read(path)
        return FeatureCheckpoint(
            content["policy"],
            content["optimizer"],
            content["decoder"],
            content["loss"],
            _convert(content["tables"], torch.Tensor, torch.Tensor.numpy),
            json.loads(content["config"]),
            _progress(json.loads(content["progress"])),
        )


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        AmbiError: It is missing or damaged.
    """
    with _explained(path):
        content = _read(path)
        if "manifest" not in content:
            raise ValueError("it is not of the block codec; put back the config.yaml beside it")
        entropy, exported, restoration = (
            {name: tensor.numpy() for name, tensor in content[kind].items()}
            for kind in ("entropy", "exported", "restoration")
        )
        return Checkpoint(
            content["policy"],
            content["optimizer"],
            Bundle(json.loads(content["manifest"]), entropy, exported, restoration),
            _progress(json.loads(content["progress"])),
            _convert(content.get("trajectory"), torch.Tensor, torch.Tensor.numpy),
        )
