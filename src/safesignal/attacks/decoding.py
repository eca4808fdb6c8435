"""`decoding`: generation exploitation (Huang et al., 2024), the bare request under many sampling settings.

The paper varies one setting at a time, each sampled at the defaults of the others; the attack succeeds on a request
if any point does, so reports give the worst over the grid beside the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from safesignal.attacks.base import Behavior, Plan, Sampling, make_plan
from safesignal.attacks.settings import require

__all__ = ["Decoding"]

_STEPS = tuple(round(0.05 * step, 2) for step in range(1, 21))


@dataclass(frozen=True)
class Decoding:
    """Ask plainly, under a grid of sampling settings."""

    name: ClassVar[str] = "decoding"

    short: bool = False
    """Take six points of the grid: temperature 0.7 and 1, top_p 0.5 and 0.9, top_k 5 and 50."""
    temperatures: tuple[float, ...] = _STEPS
    """Temperatures, each above 0."""
    top_ps: tuple[float, ...] = _STEPS
    """Nucleus shares, in (0, 1], at temperature 1."""
    top_ks: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    """Numbers of candidates, at least 1, at temperature 1."""
    samples: int = 1
    """Answers drawn at each point."""

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        require(
            self,
            ("temperatures", "above 0", lambda values: all(value > 0 for value in values)),
            ("top_ps", "in (0, 1]", lambda values: all(0 < value <= 1 for value in values)),
            ("top_ks", "at least 1", lambda values: all(value >= 1 for value in values)),
            ("samples", "at least 1", lambda value: value >= 1),
        )

    def plan(self, behaviors: Sequence[Behavior], cell: str, sampling: Sampling) -> list[Plan]:
        """Return one attempt per point, sample and behavior; every sample has noise of its own."""
        return [
            make_plan(self.name, cell, behavior, drawn, [behavior.text], variant=variant, family=family)
            for family, point, drawn in self._points(sampling)
            for variant in self._variants(point)
            for behavior in behaviors
        ]

    def _variants(self, point: str) -> list[str]:
        return [point] if self.samples == 1 else [f"{point},sample={sample}" for sample in range(self.samples)]

    def _points(self, sampling: Sampling) -> Iterator[tuple[str, str, Sampling]]:
        """Yield family, name and sampling of each point."""
        grid: dict[str, Sequence[Any]] = {
            "temperature": (0.7, 1.0) if self.short else self.temperatures,
            "top_p": (0.5, 0.9) if self.short else self.top_ps,
            "top_k": (5, 50) if self.short else self.top_ks,
        }
        plain = replace(sampling, temperature=1.0, top_p=1.0, top_k=0)
        for setting, values in grid.items():
            for value in values:
                yield setting, f"{setting}={value:g}", replace(plain, **{setting: value})
