"""`template`: human and published jailbreaks with a slot for the request.

Families (where a template comes from) are kept apart, so that those a signal was trained on can be left out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from safesignal.attacks.base import Behavior, Plan, Sampling, make_plan
from safesignal.attacks.settings import require, require_known
from safesignal.data.mappers import SLOT
from safesignal.data.records import Record
from safesignal.data.sources import load_source
from safesignal.errors import UsageError

__all__ = ["Template"]


@dataclass(frozen=True)
class Template:
    """Put the request into the slot of a jailbreak template."""

    name: ClassVar[str] = "template"

    families: tuple[str, ...] = ()
    """Sources of templates to keep; empty keeps all."""
    exclude: tuple[str, ...] = ()
    """Sources of templates to leave out."""
    per_family: int = 0
    """Templates drawn from each family; 0 takes all."""
    per_behavior: int = 1
    """Templates each behavior is put into; 0 puts it into all."""
    seed: int = 0
    """Of the draw of templates."""
    file: str | None = None
    """JSONL file with `id`, `template` and `source` (the family), instead of the set jailbreak-templates."""
    data_dir: str | None = None
    """Folder of local copies of the public sets."""

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        require(
            self,
            ("per_family", "0 (all) or more", lambda value: value >= 0),
            ("per_behavior", "0 (all) or more", lambda value: value >= 0),
        )

    def plan(self, behaviors: Sequence[Behavior], cell: str, sampling: Sampling) -> list[Plan]:
        """Return the attempts, behavior by behavior; the templates go round, so all are used about equally often."""
        templates = self.templates()
        count = min(self.per_behavior or len(templates), len(templates))
        return [
            self._plan(templates[(index * count + turn) % len(templates)], behavior, cell, sampling)
            for index, behavior in enumerate(behaviors)
            for turn in range(count)
        ]

    def templates(self) -> list[Record]:
        """Return the chosen templates in the order of their families.

        Raises:
            UsageError: If a family is unknown or no template is left.
            DataError: If a template has no slot.
        """
        path = Path(self.file) if self.file is not None else None
        known = load_source("jailbreak-templates", data_dir=self.data_dir, path=path)
        families = sorted({record.source for record in known})
        require_known(self, families, "families", "exclude")
        wanted = [one for one in families if (not self.families or one in self.families) and one not in self.exclude]
        chosen = [record for family in wanted for record in self._draw([r for r in known if r.source == family])]
        if not chosen:
            raise UsageError(f"no template is left of the families {', '.join(families)}. Expected at least one.")
        return chosen

    def _draw(self, family: Sequence[Record]) -> list[Record]:
        if not self.per_family or self.per_family >= len(family):
            return list(family)
        drawn = random.Random(f"{self.seed}:{family[0].source}").sample(range(len(family)), self.per_family)
        return [family[index] for index in sorted(drawn)]

    def _plan(self, template: Record, behavior: Behavior, cell: str, sampling: Sampling) -> Plan:
        text = template.prompt.replace(SLOT, behavior.text)
        return make_plan(self.name, cell, behavior, sampling, [text], variant=template.id, family=template.source)
