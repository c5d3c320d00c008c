"""Reward terms: what an episode is charged for, each in bits per pixel so that weights compare."""

from ambi_rl.rewards.reward import Reward, StepTerms
from ambi_rl.rewards.terms import TERMS, Term

__all__ = ["TERMS", "Reward", "StepTerms", "Term"]
