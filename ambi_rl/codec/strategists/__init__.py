"""Who takes the encoder's decisions: the strategists, and the effort ladder that maps to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ambi_rl.codec.strategists.search import FIXED, GUIDED, POLICY, SEARCH, Plan
from ambi_rl.errors import UsageError

Name = Literal["fixed", "search", "policy", "guided"]

WHOLE_SUPERBLOCK = 64
"""A horizon that no superblock has more leaves than."""

_KINDS: dict[str, int] = {"fixed": FIXED, "search": SEARCH, "policy": POLICY, "guided": GUIDED}


@dataclass(frozen=True)
class Strategist:
    """How the encoder decides.

    Attributes:
        name: "fixed" (one block size, one strategy), "search" (recursive exhaustive rate-distortion
            optimization over partition, strategies and offsets), "policy" (the bundle's policy decides the
            partition and proposes strategies), "guided" (the policy proposes, exact costs decide).
        candidates: Strategies whose exact cost is computed in each node (search, guided) or leaf (policy).
        offset_span: Quantization offsets tried on each side of the neutral one (search, guided).
        exact_chroma: Try every chroma strategy exactly (search, guided).
        transformed: For how many of the best candidates every transform is tried exactly (all but fixed).
        leaf_below: Probability of a split below which the policy's leaf is final (guided).
        split_above: Probability of a split above which no leaf is tried (guided).
        stop_empty: Do not split a block that needs no levels (search, guided).
        fine: Rank strategies on every sample rather than on a lattice (search).
        refines: After the search of a superblock, change the decisions of its leaves one at a time and
            keep what lowers J as really coded, of the leaf and of those after it (search, guided).
        horizon: How many leaves of the superblock after a changed one are coded to weigh the change; 0
            weighs the leaf alone.
        slack: Only changes that make the leaf itself no worse than by this many bits are weighed so.
        lambda_factor: Multiplies the bundle's λ.
        fixed_size: Block size of "fixed".
        weighs_restoration: Choose the strength of restoration that suits the picture; otherwise it is full.
    """

    name: Name
    candidates: int = 1
    offset_span: int = 0
    exact_chroma: bool = False
    transformed: int = 0
    leaf_below: float = 0.0
    split_above: float = 1.0
    stop_empty: bool = True
    fine: bool = False
    refines: bool = False
    horizon: int = 0
    slack: float = 0.0
    lambda_factor: float = 1.0
    fixed_size: int = 8
    weighs_restoration: bool = False

    @property
    def needs_policy(self) -> bool:
        """Whether the bundle must hold a policy."""
        return self.name in ("policy", "guided")

    def plan(self, fixed_strategy: int) -> Plan:
        """The compiled code's form of this; `fixed_strategy` is the index of DC in the bundle."""
        return Plan(
            kind=_KINDS[self.name],
            candidates=self.candidates,
            offset_span=self.offset_span,
            exact_chroma=self.exact_chroma,
            transformed=self.transformed,
            leaf_below=self.leaf_below,
            split_above=self.split_above,
            stop_empty=self.stop_empty,
            fine=self.fine,
            fixed_log2=self.fixed_size.bit_length() - 1,
            fixed_strategy=fixed_strategy,
            refines=self.refines,
            horizon=self.horizon,
            slack=self.slack,
        )


SEARCHES: dict[int, Strategist] = {
    5: Strategist("search", candidates=1),
    6: Strategist("search", candidates=1, transformed=1),
    7: Strategist("search", candidates=5, fine=True, transformed=1, weighs_restoration=True),
    8: Strategist(
        "search",
        candidates=8,
        fine=True,
        exact_chroma=True,
        transformed=2,
        weighs_restoration=True,
    ),
    9: Strategist(
        "search",
        candidates=16,
        fine=True,
        exact_chroma=True,
        transformed=4,
        stop_empty=False,
        weighs_restoration=True,
    ),
}
"""Searches without a policy, by effort: they teach policies, and encode for bundles that hold none."""

EFFORTS: tuple[Strategist, ...] = (
    Strategist("policy", candidates=2, transformed=1),
    Strategist("guided", candidates=1, transformed=1, leaf_below=0.35, split_above=0.65),
    Strategist("guided", candidates=2, transformed=1, leaf_below=0.2, split_above=0.8),
    Strategist("guided", candidates=2, transformed=1, leaf_below=0.12, split_above=0.88),
    Strategist("guided", candidates=3, transformed=1, leaf_below=0.08, split_above=0.92),
    Strategist("guided", candidates=3, transformed=1, leaf_below=0.05, split_above=0.95),
    Strategist("guided", candidates=5, transformed=1, leaf_below=0.06, split_above=0.94),
    Strategist(
        "guided",
        candidates=8,
        transformed=2,
        exact_chroma=True,
        leaf_below=0.1,
        split_above=0.9,
        weighs_restoration=True,
    ),
    Strategist(
        "guided",
        candidates=10,
        transformed=3,
        exact_chroma=True,
        leaf_below=0.03,
        split_above=0.97,
        weighs_restoration=True,
    ),
    Strategist(
        "guided",
        candidates=8,
        transformed=2,
        exact_chroma=True,
        leaf_below=0.1,
        split_above=0.9,
        refines=True,
        horizon=8,
        slack=4.0,
        weighs_restoration=True,
    ),
)
"""The effort ladder, 0…9: what does best for its time (docs/learning.md)."""

STRATEGISTS: dict[str, Strategist] = {
    "fixed": Strategist("fixed"),
    "policy": Strategist("policy"),
    "guided": EFFORTS[5],
    "search": SEARCHES[9],
    "lookahead": replace(SEARCHES[9], refines=True, horizon=WHOLE_SUPERBLOCK, slack=8.0),
}
"""What a strategist's bare name stands for."""


def for_effort(effort: int, *, policy: bool = True) -> Strategist:
    """The strategist of an effort.

    Args:
        effort: 0…9.
        policy: Whether the bundle holds a policy; without one, efforts of 5 and more search.

    Raises:
        UsageError: The effort is not 0…9.
    """
    if not 0 <= effort < len(EFFORTS):
        raise UsageError(f"effort {effort} is not in 0…{len(EFFORTS) - 1}")
    if not policy and effort in SEARCHES:
        return SEARCHES[effort]
    return EFFORTS[effort]


def for_search(effort: int) -> Strategist:
    """The search of an effort.

    Raises:
        UsageError: The effort is not 5…9.
    """
    if effort not in SEARCHES:
        raise UsageError(f"there is no search of effort {effort}; there are 5…9")
    return SEARCHES[effort]


def by_name(name: str) -> Strategist:
    """The strategist of a name.

    Raises:
        UsageError: There is no such strategist.
    """
    if name not in STRATEGISTS:
        raise UsageError(f"there is no strategist {name!r}; choose one of {', '.join(STRATEGISTS)}")
    return STRATEGISTS[name]
