"""What `run.json` says of the parts of a run, each from when it is begun (docs/run-folder.md).

A cell is known by what it sends, whatever file that came from, and a section by its settings; so a run that goes on
never adds to a part that was begun as another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from safesignal.attacks.base import Attack, Behavior, Plan
from safesignal.attacks.prefill import OPENING, Prefill
from safesignal.errors import UsageError
from safesignal.files import write_json
from safesignal.problems import problems_in

__all__ = ["RunRecord", "digest_of", "in_outline"]

_DIGITS = 16


class RunRecord:
    """The `run.json` of a folder.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "run.json"

    def read(self) -> dict[str, Any]:
        """Return its content; nothing if it is not there."""
        found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        return found

    def note(self, name: str, **figures: Any) -> None:
        """Keep figures of one part, each under its own heading."""
        run = self.read()
        noted = {heading: {**run.get(heading, {}), name: value} for heading, value in figures.items()}
        if any(run.get(heading) != value for heading, value in noted.items()):
            write_json(self.path, {**run, **noted})

    def check(self, cells: Mapping[str, str], sections: Mapping[str, Mapping[str, Any]]) -> None:
        """Hold a run to the parts that were begun before.

        Args:
            cells: Per cell, the digest of what it sends.
            sections: Per section with figures in the folder, its settings.

        Raises:
            UsageError: With every part that was begun as another one.
        """
        run = self.read()
        sent, measured = run.get("plans", {}), {**run.get("settings", {}), **run.get("sections", {})}
        problems = [f"cell `{name}`: sends other prompts" for name, own in cells.items() if sent.get(name, own) != own]
        problems += [
            f"section `{name}`: has other settings"
            for name, own in sections.items()
            if measured.get(name, own) != json.loads(json.dumps(own))
        ]
        if problems:
            raise UsageError(
                problems_in(f"with going on in `{self.folder}`: parts that were begun as something else", problems),
                hint="choose another `--output_dir`; a section whose file is removed is measured again",
            )


def in_outline(attack: Attack, behaviors: Sequence[Behavior]) -> Attack:
    """Return an attack that plans without compliant answers: a stand-in begins attempts with a prefill of k tokens."""
    if not isinstance(attack, Prefill) or not attack.depth:
        return attack
    return replace(attack, pieces={one.id: (OPENING,) * max(attack.depth) for one in behaviors})


def digest_of(plans: Sequence[Plan]) -> str:
    """Return a short hash of all that attempts send, which no path is part of."""
    return sha256(json.dumps([asdict(plan) for plan in plans], sort_keys=True).encode()).hexdigest()[:_DIGITS]
