"""The weighted sum of reward terms, computed for a whole batch of environments at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ambi_rl.codec.bundle import Bundle
from ambi_rl.data import PatchSource
from ambi_rl.data.source import Patch
from ambi_rl.errors import ConfigError
from ambi_rl.rewards.calibration import FIXED_COST
from ambi_rl.rewards.competition import Competition
from ambi_rl.rewards.constraint import QUANTITIES, Constraint
from ambi_rl.rewards.importance import chroma_share, limited, marginal_cost
from ambi_rl.rewards.measured import MeasuredTerm
from ambi_rl.rewards.metric import MetricTerm
from ambi_rl.rewards.pictures import MsSsimTerm, PictureTerm, SsimTerm
from ambi_rl.rewards.task import TaskTerm
from ambi_rl.rewards.terms import TERMS, Pixels, interpolate

Array = npt.NDArray[np.float64]
Setting = float | Mapping[str, Any]
"""A weight, or for `metric` and `task` a weight among further settings."""

_METRIC: dict[str, Any] = {"target": None, "weight": 0.0, "scale": None, "arguments": {}}
_TASK = {
    "model": None,
    "weight": 0.0,
    "distance": "features",
    "mean": (0.0, 0.0, 0.0),
    "deviation": (1.0, 1.0, 1.0),
    "scale": None,
}
_CONSTRAINT = {f"target_{key}": None for key in QUANTITIES} | {"speed": 0.1, "window": 256}
_COMPETITION = {"kind": "none", "patches": 256, "memory": 0.9}
_SECTIONS: dict[str, dict[str, Any]] = {
    "metric": _METRIC,
    "task": _TASK,
    "constraint": _CONSTRAINT,
    "competition": _COMPETITION,
}
"""What the settings that are mappings may hold, and what holds without them."""


class StepTerms(NamedTuple):
    """Terms of one decision in each environment, float64 [B], bits per pixel, unweighted."""

    rate: Array
    sse: Array
    chroma: Array


def _section(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping among the settings, completed."""
    given = settings.get(name) or {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"reward.{name} is {given!r}; it has {', '.join(_SECTIONS[name])}, each with a value"
        )
    unknown = [key for key in given if key not in _SECTIONS[name]]
    if unknown:
        raise ConfigError(
            f"reward.{name} has no {unknown[0]!r}; it has {', '.join(_SECTIONS[name])}"
        )
    return _SECTIONS[name] | dict(given)


def _weight(name: str, settings: Mapping[str, Any]) -> float:
    key = f"{name}.weight" if name in _SECTIONS else name
    value = _section(name, settings)["weight"] if name in _SECTIONS else settings.get(name, 0.0)
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"reward.{key} is {value}; a weight is a number of 0 or more")
    return float(value)


def _picture_terms(
    settings: Mapping[str, Any], weights: Mapping[str, float]
) -> dict[str, PictureTerm]:
    """The terms of finished pictures that have a weight."""
    metric, task = _section("metric", settings), _section("task", settings)
    terms: dict[str, PictureTerm] = {}
    if weights["ssim"] > 0:
        terms["ssim"] = SsimTerm()
    if weights["ms_ssim"] > 0:
        terms["ms_ssim"] = MsSsimTerm()
    if weights["metric"] > 0:
        if metric["target"] is None:
            raise ConfigError(
                "reward.metric.weight is set, but not reward.metric.target; name a function"
            )
        terms["metric"] = MetricTerm(metric["target"], metric["arguments"], metric["scale"])
    if weights["task"] > 0:
        if task["model"] is None:
            raise ConfigError("reward.task.weight is set, but not reward.task.model; name a file")
        terms["task"] = TaskTerm(
            task["model"], task["distance"], task["mean"], task["deviation"], task["scale"]
        )
    return terms


def _constraint(settings: Mapping[str, Any], weights: Mapping[str, float]) -> Constraint | None:
    section = _section("constraint", settings)
    targets = {key: section[f"target_{key}"] for key in QUANTITIES}
    given = [key for key, target in targets.items() if target is not None]
    if not given:
        return None
    if len(given) > 1:
        raise ConfigError(
            f"reward.constraint has target_{given[0]} and target_{given[1]}; one can be reached"
        )
    if weights["rate"] == 0 or not any(weights[name] for name in TERMS if name != "rate"):
        raise ConfigError(
            "reward.constraint weighs the rate against the rest; give reward.rate and one other a weight"
        )
    if given[0] == "metric" and weights["metric"] == 0:
        raise ConfigError("reward.constraint.target_metric needs reward.metric.weight")
    return Constraint(given[0], targets[given[0]], speed=section["speed"], window=section["window"])


def _competition(settings: Mapping[str, Any]) -> Competition | None:
    section = _section("competition", settings)
    if section["kind"] == "none":
        return None
    return Competition(section["kind"], patches=section["patches"], memory=section["memory"])


class Reward:
    """Minus the weighted sum of terms; see `ambi_rl.rewards.terms` for their scale.

    Args:
        settings: Weights by the name of a term; a term left out has weight 0. `metric` and `task` are
            mappings with a `weight` and what `MetricTerm` and `TaskTerm` take; `constraint` and
            `competition` are mappings with what `Constraint` and `Competition` take.

    Attributes:
        weights: By name, every term.
        constraint: A target that adapts what the rate counts for; None without.
        competition: Who judges finished episodes instead; None without.

    Raises:
        ConfigError: A setting is unknown or impossible, a weight is negative or not finite, or all are 0.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        for name in settings:
            if name not in TERMS and name not in _SECTIONS:
                raise ConfigError(f"reward has no term {name!r}; it has {', '.join(TERMS)}")
        self.weights = {name: _weight(name, settings) for name in TERMS}
        if not any(self.weights.values()):
            raise ConfigError("every reward weight is 0: nothing would be learned; set one of them")
        self._pictures = _picture_terms(settings, self.weights)
        self.constraint = _constraint(settings, self.weights)
        self.competition = _competition(settings)

    @property
    def needs_picture(self) -> bool:
        """Whether a term with a weight is only known when the picture is complete."""
        return bool(self._pictures)

    @property
    def needs_episode(self) -> bool:
        """Whether part of the reward comes only with the end of an episode."""
        return self.needs_picture or self.competition is not None

    def prepare(self, source: PatchSource, bundle: Bundle) -> None:
        """Make sure that all terms can be computed: patches are large enough, scales are measured.

        Args:
            source: Of the patches.
            bundle: The codec.

        Raises:
            ConfigError: A term cannot be computed.
        """
        for term in self._pictures.values():
            term.check_size(source.patch_size)
            if isinstance(term, MeasuredTerm):
                term.calibrate(source, bundle)

    def facts(self) -> dict[str, Any]:
        """What was found in training: measured scales by term, at each of `STEPS`, and a target's state."""
        scales = {
            name: list(term.table)
            for name, term in self._pictures.items()
            if isinstance(term, MeasuredTerm) and term.table is not None
        }
        if self.constraint is None:
            return {"scales": scales}
        constraint = {
            "quantity": self.constraint.quantity.key,
            "target": self.constraint.target,
            "measured": self.constraint.measured,
            "multiplier": self.constraint.multiplier,
        }
        return {"scales": scales, "constraint": constraint}

    @property
    def _balance(self) -> tuple[float, float]:
        """What rate and distortion are multiplied by: the constraint's multiplier, shared out evenly."""
        if self.constraint is None:
            return 1.0, 1.0
        root = math.sqrt(self.constraint.multiplier)
        return root, 1 / root

    def step_terms(
        self, bits: Array, sse: Array, chroma: Array, lagrangian: Array, pixels: int
    ) -> StepTerms:
        """Terms of one decision in each environment.

        Args:
            bits: float64 [B], bits of the decision and its levels.
            sse: float64 [B], squared error of the block (8-bit code values), 0 for a split.
            chroma: float64 [B], the part of it that is Cb's and Cr's.
            lagrangian: float64 [B], λ of each episode.
            pixels: Pixels of a patch.
        """
        unit = lagrangian * pixels
        return StepTerms(bits / pixels, sse / unit, chroma / unit)

    def of_step(self, terms: StepTerms) -> Array:
        """The weighted terms of one decision in each environment as a reward, float64 [B]."""
        for_rate, for_distortion = self._balance
        distortion = self.weights["sse"] * terms.sse + self.weights["chroma"] * terms.chroma
        return -(for_rate * self.weights["rate"] * terms.rate + for_distortion * distortion)

    def paid_at_once(self, terms: StepTerms) -> Array:
        """What of `of_step` is paid at once: all of it, or in a competition nothing; float64 [B]."""
        rewards = self.of_step(terms)
        return rewards if self.competition is None else np.zeros_like(rewards)

    def episode_terms(self, original: Pixels, decoded: Pixels, step: int) -> dict[str, float]:
        """Terms of a finished picture that have a weight, by name.

        Args:
            original: uint8 [H, W, 3].
            decoded: Likewise.
            step: Quantizer step in 1/64 of an 8-bit code value.

        Raises:
            ConfigError: A function or model of the user's fails.
        """
        return {name: term.cost(original, decoded, step) for name, term in self._pictures.items()}

    def of_episode(self, terms: Mapping[str, Any]) -> float:
        """Reward for what `episode_terms` returned."""
        _, for_distortion = self._balance
        return -for_distortion * sum(
            self.weights[name] * float(value) for name, value in terms.items()
        )

    def close(
        self, patch: Patch, score: float, bpp: float, original: Pixels, decoded: Pixels
    ) -> dict[str, float]:
        """Tell constraint and competition of a finished episode.

        Args:
            patch: What was coded.
            score: The weighted return.
            bpp: Bits per pixel.
            original: uint8 [H, W, 3].
            decoded: Likewise.

        Returns:
            `return`, the reward of the whole episode, and where there is a constraint what it measured and
            its multiplier.
        """
        found = {"return": score}
        if self.competition is not None:
            unit = interpolate(patch.step, FIXED_COST)
            found |= {"return": self.competition.judge(patch, score, unit), "score": score}
        if self.constraint is not None:
            quantity = self.constraint.quantity
            if quantity.key == "metric":
                value = self._pictures["metric"].loss(original, decoded)
            else:
                value = bpp if quantity.measure is None else quantity.measure(original, decoded)
            found |= {
                f"constrained_{quantity.key}": value,
                "multiplier": self.constraint.multiplier,
            }
            self.constraint.note(value)
        return found

    @property
    def weighs_places(self) -> bool:
        """Whether a teacher can know that errors matter more in some places than in others."""
        return self.needs_picture or self.weights["chroma"] > 0

    @property
    def steers_teacher(self) -> bool:
        """Whether a teacher has to heed more than the codec's own cost J."""
        return self.weighs_places or self.weights["rate"] != self.weights["sse"]

    def uniform_importance(self, height: int, width: int) -> npt.NDArray[np.float32]:
        """What squared error counts for beside the rate: `importance` where no term weighs places.

        Args:
            height: Of the picture, a multiple of 4.
            width: Likewise.
        """
        ratio = self.weights["sse"] / max(self.weights["rate"], 1e-9)
        return limited(np.full((height // 4, width // 4), ratio))

    def importance(
        self, original: Pixels, decoded: Pixels, step: int, lagrangian: float
    ) -> npt.NDArray[np.float32]:
        """How much squared error matters by place, for a teacher that minimises weighted error plus λ·bits.

        It is the rise of the weighted terms for a little more of the error that is there, over that of the
        codec's own cost J, which is 1 everywhere; so the teacher follows all weights, the rate's included.
        A term without a known derivative counts as its scale says, as squared error.

        Args:
            original: uint8 [H, W, 3], sides multiples of 4.
            decoded: Likewise, a first encoding: what matters depends on what goes wrong.
            step: Quantizer step in 1/64 of an 8-bit code value.
            lagrangian: λ of J = squared error + λ·bits.

        Returns:
            float32 [H/4, W/4], positive.
        """
        height, width = original.shape[:2]
        importance = np.full((height // 4, width // 4), self.weights["sse"])
        if self.weights["chroma"] > 0:
            importance += self.weights["chroma"] * chroma_share(original, decoded)
        for name, term in self._pictures.items():
            slope = term.slope(original, decoded, step)
            if slope is None:
                importance += self.weights[name]
                continue
            marginal = marginal_cost(original, decoded, slope)
            importance += self.weights[name] * marginal * lagrangian * height * width
        return limited(importance / max(self.weights["rate"], 1e-9))

    def state(self) -> dict[str, Any]:
        """What going on needs besides the settings, for JSON."""
        parts = {"constraint": self.constraint, "competition": self.competition}
        return {name: part.state() for name, part in parts.items() if part is not None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        if self.constraint is not None and "constraint" in state:
            self.constraint.restore(state["constraint"])
        if self.competition is not None and "competition" in state:
            self.competition.restore(state["competition"])
