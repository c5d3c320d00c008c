"""What run folders hold, read for listing, comparing, plotting and continuing; nothing here trains."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ambi_rl.errors import UsageError
from ambi_rl.training.run_folder import STUDY_FILE, SWEEP_FILE
from ambi_rl.training.status import State, Status, read_status

WHERE_KEYS = ("name", "runs", "resume", "env.threads", "data.workers")
"""Keys that say where and how a run is computed, not what; all others make it another run."""
OBJECTIVE = "bd_rate_vs_fixed"


def read_json(path: Path) -> Any:
    """A JSON file's content; None if it is missing or damaged, which a listing shall survive."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return {}
    return content if isinstance(content, dict) else {}


def flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict) and item:
            flat |= flatten(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


@dataclass(frozen=True)
class RunRecord:
    """A run folder as it is now.

    Attributes:
        path: The folder.
        status: Whether it runs, how it ended.
        config: Resolved configuration, nested.
        metrics: Of metrics.json; empty before the end.
        evaluations: Records of held-out evaluations, oldest first.
        changes: For a run of a sweep or study, what was varied.
        group: The folder of its sweep or study, if it is of one.
    """

    path: Path
    status: Status
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    group: Path | None = None

    @property
    def values(self) -> list[float]:
        """Objectives of the evaluations that have one, in percent; only runs of the block codec do."""
        found = [e.get(OBJECTIVE) for e in self.evaluations] or [self.metrics.get(OBJECTIVE)]
        return [float(value) for value in found if value is not None]

    @property
    def best(self) -> float | None:
        """Lowest held-out BD-rate in percent."""
        found = [*self.values, self.metrics.get("objective") if self.system == "block" else None]
        return min((float(value) for value in found if value is not None), default=None)

    @property
    def last(self) -> float | None:
        """Held-out BD-rate of the last evaluation in percent."""
        return self.values[-1] if self.values else None

    @property
    def steps(self) -> int:
        """Node decisions so far, as far as it is known."""
        evaluated = self.evaluations[-1].get("steps", 0) if self.evaluations else 0
        return max(self.status.steps, int(evaluated), int(self.metrics.get("steps") or 0))

    @property
    def seconds(self) -> float | None:
        """Training time so far: at the end, or at the last evaluation."""
        evaluated = self.evaluations[-1].get("seconds") if self.evaluations else None
        found = self.metrics.get("seconds") if self.status.state is State.FINISHED else None
        return evaluated if found is None else float(found)

    @property
    def system(self) -> str:
        """What is trained, by the names of conf/system; runs of older versions have the block codec."""
        return str(self.config.get("system") or "block")

    @property
    def played(self) -> dict[str, Any]:
        """Of a feature codec: `score` and `bits_per_frame` of games played on reconstructions, once known."""
        play = self.metrics.get("play")
        found = play.get("features") if isinstance(play, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def enlarged(self) -> dict[str, Any]:
        """Of super-resolution: `psnr`, `ms_ssim` and others of the last evaluation, if there was one."""
        found = self.evaluations[-1].get("network") if self.evaluations else None
        return found if isinstance(found, dict) and self.system == "superres" else {}

    @property
    def agent(self) -> str:
        """Name of the algorithm."""
        if self.system == "features":
            return "rate_ppo"
        if self.system == "superres":
            loss = self.config.get("loss") or {}
            return "+".join(
                name for name in ("mse", "perceptual", "adversarial", "rl") if loss.get(name)
            )
        return str(flatten(self.config).get("agent.algorithm", ""))

    @property
    def reward(self) -> str:
        """Terms of the reward that count, with their weights, and what they are put to.

        Of a feature codec, where the reward is the game's: what the code costs, and the score on it. Of
        super-resolution: what is rewarded, if anything, and what was reached.
        """
        if self.system == "superres":
            return self._superres_reward()
        if self.system == "features":
            bits, score = (self.played.get(key) for key in ("bits_per_frame", "score"))
            return "" if bits is None or score is None else f"{bits:.0f} bits, score {score:.1f}"
        parts = []
        for key, value in flatten({"": self.config.get("reward") or {}}).items():
            name = key.lstrip(".")
            section, _, last = name.rpartition(".")
            if section and not (last == "weight" or last.startswith("target_") or last == "kind"):
                continue
            if isinstance(value, int | float) and value:
                parts.append(f"{section if last == 'weight' else name}={value:g}")
            elif last == "kind" and value != "none":
                parts.append(f"{section}={value}")
        return " ".join(parts)

    def _superres_reward(self) -> str:
        loss, rl = (self.config.get(part) or {} for part in ("loss", "rl"))
        named = [str(rl.get("score"))] if loss.get("rl") else []
        psnr, similarity = (self.enlarged.get(key) for key in ("psnr", "ms_ssim"))
        found = [] if psnr is None else [f"PSNR {psnr:.2f}, MS-SSIM {similarity or 0:.4f}"]
        return ": ".join(named + found)

    @property
    def metric(self) -> str:
        """Metric of the objective."""
        return str(self.metrics.get("metric") or "")


def read_run(path: Path) -> RunRecord | None:
    """The run in a folder; None if there is none."""
    status = read_status(path)
    if status is None:
        return None
    stored = read_json(path / "evaluations.json") or {}
    evaluations = stored.get("evaluations", []) if isinstance(stored, dict) else []
    metrics = read_json(path / "metrics.json")
    metrics = metrics if isinstance(metrics, dict) else {}
    if "metric" in stored:
        metrics = {"metric": stored["metric"]} | metrics
    return RunRecord(
        path,
        status,
        _read_yaml(path / "config.yaml"),
        metrics,
        [e for e in evaluations if isinstance(e, dict)],
        _changes(path),
        path.parent if any((path.parent / n).is_file() for n in (SWEEP_FILE, STUDY_FILE)) else None,
    )


def _changes(path: Path) -> list[str]:
    sweep = read_json(path.parent / SWEEP_FILE)
    if isinstance(sweep, dict):
        return [str(o) for o in (sweep.get("runs") or {}).get(path.name, [])]
    if (path.parent / STUDY_FILE).is_file():
        space = _read_yaml(path.parent / STUDY_FILE).get("space") or {}
        before = read_json(path / "overrides.json") or []
        return [o for o in before if o.partition("=")[0] in space]
    return []


def planned_runs(group: Path) -> int:
    """How many runs a sweep or study is to have; 0 if that cannot be read."""
    sweep = read_json(group / SWEEP_FILE)
    if isinstance(sweep, dict):
        return len(sweep.get("runs") or {})
    trials = _read_yaml(group / STUDY_FILE).get("trials")
    return trials if isinstance(trials, int) else 0


def _natural(path: Path) -> tuple[int, str]:
    return (int(path.name), "") if path.name.isdecimal() else (-1, path.name)


def find_runs(folder: Path) -> Iterator[RunRecord]:
    """Every run in a folder and below, in order of their names, numbers as numbers.

    Raises:
        UsageError: There is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; name one that runs were written to")
    run = read_run(folder)
    if run is not None:
        yield run
        return
    # Run folders hold no runs, and are not searched: their TensorBoard folders may be large.
    for child in sorted(folder.iterdir(), key=_natural):
        if child.is_dir() and not child.is_symlink():
            yield from find_runs(child)


def differences(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two configurations are different runs, with both values."""
    flat_a, flat_b = flatten(a), flatten(b)
    return {
        key: (flat_a.get(key), flat_b.get(key))
        for key in [*flat_a, *(k for k in flat_b if k not in flat_a)]
        if key not in WHERE_KEYS and flat_a.get(key) != flat_b.get(key)
    }
