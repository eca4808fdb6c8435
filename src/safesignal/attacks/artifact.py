"""`artifact`: published attack prompts (GCG, DSN, AutoDAN, JBC, PAIR, DeepInception), sent as they were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from safesignal.attacks.base import Behavior, Plan, Sampling, make_plan
from safesignal.attacks.settings import require
from safesignal.errors import UsageError

__all__ = ["Artifact"]


@dataclass(frozen=True)
class Artifact:
    """Send the attack prompts that the data set brings."""

    name: ClassVar[str] = "artifact"

    families: tuple[str, ...] = ()
    """Methods to keep; empty keeps all."""
    exclude: tuple[str, ...] = ()
    """Methods to leave out."""

    def __post_init__(self) -> None:
        """Refuse settings of another kind."""
        require(self)

    def plan(self, behaviors: Sequence[Behavior], cell: str, sampling: Sampling) -> list[Plan]:
        """Return one attempt per published prompt; its method is variant and family.

        Raises:
            UsageError: If no behavior brings a prompt of a wanted method.
        """
        published = [behavior for behavior in behaviors if behavior.prompt != behavior.text and behavior.prompt]
        chosen = [behavior for behavior in published if self._wants(behavior.family)]
        if not chosen:
            there = ", ".join(sorted({behavior.family for behavior in published})) or "none"
            raise UsageError(
                f"none of {len(behaviors)} behaviors brings a published prompt of the wanted methods; there: {there}.",
                hint="the sets gcg, autodan, deepinception and jbb-artifacts bring attack prompts",
            )
        return [
            make_plan(self.name, cell, one, sampling, [one.prompt], variant=one.family, family=one.family)
            for one in chosen
        ]

    def _wants(self, family: str) -> bool:
        return (not self.families or family in self.families) and family not in self.exclude
