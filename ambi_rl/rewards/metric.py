"""A term that calls a Python function of the user's: any metric, as a black box."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ambi_rl.rewards.measured import MeasuredTerm
from ambi_rl.rewards.terms import Pixels
from ambi_rl.user_function import UserFunction

KEY = "reward.metric"


class MetricTerm(MeasuredTerm):
    """A function of (original, decoded), both uint8 [H, W, 3] RGB, that returns a cost.

    The cost is a number: 0 for equal pictures, higher the worse. Nothing else is known of it, so it teaches
    through the reward alone; a teacher takes it for squared error.

    Args:
        target: Dotted path of the function.
        arguments: Further keyword arguments for it.
        constant: See `MeasuredTerm`.

    Raises:
        ConfigError: There is no such function.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any], constant: float | None) -> None:
        super().__init__(KEY, constant)
        self.target = target
        self._function = UserFunction(target, arguments, f"{KEY}.target")

    def loss(self, original: Pixels, decoded: Pixels) -> float:
        """What the function returns.

        Raises:
            ConfigError: It fails, or returns something that is not a finite number.
        """
        return self._function(original, decoded)
