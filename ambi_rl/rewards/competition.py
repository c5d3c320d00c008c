"""Self-competition: an episode is judged against the policy's own past on the same patch and quality.

After MuZero's rate control for VP9 (Mandhane et al. 2022, arXiv 2202.06626): what counts is whether an
encoding beats the running mean of one's own, so that hard and easy patches count alike. What is compared is
the weighted return, a constraint's multiplier included, so a target is heeded too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ambi_rl.data import PatchSource
from ambi_rl.data.source import Patch
from ambi_rl.errors import ConfigError

KINDS = ("none", "sign", "margin")

_SEED = 20

STAKE = 0.02
"""What a win is worth, and the lead that counts in full, as a fraction of what `fixed` costs at a step."""


class PatchPool:
    """A fixed set of patches, of which episodes are drawn.

    Args:
        source: Where they come from; equal sources give equal pools.
        count: How many.
    """

    def __init__(self, source: PatchSource, count: int) -> None:
        rng = np.random.default_rng(_SEED)
        self._patches = [source.sample(rng) for _ in range(count)]

    def sample(self, rng: np.random.Generator) -> Patch:
        """Draw one of them."""
        return self._patches[int(rng.integers(len(self._patches)))]


class Competition:
    """Running means of the score by patch and quality.

    Args:
        kind: "sign": a win is +1, a loss −1, equality 0; "margin": the lead itself, within ±1 stake.
        patches: Number of patches that episodes are drawn from, so that they come again.
        memory: Weight of the past in a running mean, 0…1.

    Raises:
        ConfigError: A value is impossible.
    """

    def __init__(self, kind: str, *, patches: int, memory: float) -> None:
        if kind not in KINDS[1:]:
            raise ConfigError(f"reward.competition.kind is {kind!r}; it can be {', '.join(KINDS)}")
        if patches < 1:
            raise ConfigError(f"reward.competition.patches is {patches}; it must be 1 or more")
        if not 0 <= memory < 1:
            raise ConfigError(
                f"reward.competition.memory is {memory:g}; it must be 0 or more and under 1"
            )
        self.kind = kind
        self.patches = int(patches)
        self.memory = float(memory)
        self._means: dict[str, float] = {}

    @staticmethod
    def _key(patch: Patch) -> str:
        return f"{patch.name} {patch.y} {patch.x} {patch.step}"

    def judge(self, patch: Patch, score: float, unit: float) -> float:
        """The reward of an episode, and remember its score.

        Args:
            patch: What was coded.
            score: The weighted return, higher is better.
            unit: What `fixed` costs at the patch's step, in the unit of the score.

        Returns:
            From −`STAKE`·unit to `STAKE`·unit; 0 the first time.
        """
        key = self._key(patch)
        stake = STAKE * unit
        past = self._means.get(key)
        if past is None:
            self._means[key] = score
            return 0.0
        self._means[key] = self.memory * past + (1 - self.memory) * score
        lead = score - past
        if self.kind == "sign":
            return stake * ((lead > 0) - (lead < 0))
        return min(max(lead, -stake), stake)

    def state(self) -> dict[str, Any]:
        """What going on needs, for JSON."""
        return {"means": dict(self._means)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._means = {str(key): float(value) for key, value in state["means"].items()}
