"""What is left out of the data and why: counted, and named as far as a few names go."""

from __future__ import annotations

from typing import Any

NAMED = 50
"""Names that are kept; the rest is only counted."""


class Skipped:
    """Photographs that cannot be used.

    Attributes:
        count: How many.
        named: The first of them: name and reason.
    """

    def __init__(self) -> None:
        self.count = 0
        self.named: list[tuple[str, str]] = []

    def add(self, name: str, reason: str) -> None:
        """Count a photograph.

        Args:
            name: Its path, or the shard's and its own name.
            reason: Why it cannot be used.
        """
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append((name, reason))

    def facts(self) -> dict[str, Any]:
        """For metrics.json: `count` and `named`, at most `NAMED` pairs of name and reason."""
        return {"count": self.count, "named": [list(pair) for pair in self.named]}

    def restore(self, facts: dict[str, Any]) -> None:
        """Go on counting from what `facts` returned."""
        self.count = facts["count"]
        self.named = [(name, reason) for name, reason in facts["named"]]

    def __str__(self) -> str:
        shown = "; ".join(f"{name}: {reason}" for name, reason in self.named[:3])
        more = "; …" if self.count > 3 else ""
        return f"{self.count} photograph{'s' if self.count != 1 else ''} skipped ({shown}{more})"
