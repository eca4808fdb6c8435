"""`artifact`: published attack prompts (GCG, DSN, AutoDAN, JBC, PAIR, DeepInception), sent as they were published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safesignal.attacks.base import Attack, Behavior, Plan, Sampling, make_plan
from safesignal.attacks.behaviors import BehaviorSet, load_behavior_set
from safesignal.attacks.settings import require, require_known
from safesignal.errors import UsageError

__all__ = ["Artifact", "behaviors_for"]


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

    def wanted(self, behaviors: Sequence[Behavior]) -> tuple[str, ...]:
        """Return the wanted methods out of those of a whole set.

        Raises:
            UsageError: If a setting names a method that is not there, or none is left.
        """
        there = sorted({behavior.family for behavior in behaviors})
        require_known(self, there, "families", "exclude")
        left = tuple(family for family in there if self._wants(family))
        if not left:
            raise UsageError(f"no method is left of {', '.join(there)}. Expected at least one.")
        return left

    def _wants(self, family: str) -> bool:
        return (not self.families or family in self.families) and family not in self.exclude


def behaviors_for(
    attack: Attack, dataset: str, data_dir: str | Path | None = None, limit: int | None = None, seed: int = 0
) -> BehaviorSet:
    """Draw the behaviors that an attack is made on; those of published prompts are of the wanted methods alone.

    Args:
        attack: What is planned on them.
        dataset: As in :func:`load_behavior_set`, like the other arguments.
        data_dir: Folder with local copies of the public sets.
        limit: Draw this many of the wanted ones; None takes all.
        seed: Makes the draw repeatable.

    Raises:
        DataError: If the set cannot be read, or prompts have no label.
        UsageError: If `limit` is below 1, or a method is unknown or none is left.
    """
    if not isinstance(attack, Artifact) or not (attack.families or attack.exclude):
        return load_behavior_set(dataset, data_dir, limit, seed)
    families = attack.wanted(load_behavior_set(dataset, data_dir).behaviors)
    return load_behavior_set(dataset, data_dir, limit, seed, families=families)
