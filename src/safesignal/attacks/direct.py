"""`direct`: the bare request. Every other attack is measured against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safesignal.attacks.base import Behavior, Plan, Sampling, make_plan

__all__ = ["Direct"]


@dataclass(frozen=True)
class Direct:
    """Ask as the data set asks."""

    name: ClassVar[str] = "direct"

    def plan(self, behaviors: Sequence[Behavior], cell: str, sampling: Sampling) -> list[Plan]:
        """Return one attempt per behavior."""
        return [make_plan(self.name, cell, behavior, sampling, [behavior.text]) for behavior in behaviors]
