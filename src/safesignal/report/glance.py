"""The first lines of a report: the worst that happened to each run, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from safesignal.report.document import Cell, Section, Table
from safesignal.report.numbers import NOTHING, rate, word
from safesignal.report.runs import Run

__all__ = ["glance_section"]

Entry = Mapping[str, Any]
Named = tuple[str, Mapping[str, Any]]


def glance_section(runs: Sequence[Run]) -> Section | None:
    """Return the most successful attack and the most refused ordinary set of each run; None if neither was run."""
    measures: tuple[tuple[str, Callable[[Run], Cell]], ...] = (
        ("most successful attack", lambda run: _highest(run, _attacks(run), "attacks")),
        ("most refused benign set", lambda run: _highest(run, _benign(run), "over_refusal")),
    )
    lines = [[word(what), *(figure(run) for run in runs)] for what, figure in measures]
    lines = [line for line in lines if any(cell is not NOTHING for cell in line[1:])]
    if not lines:
        return None
    columns, accents = ("", *(run.name for run in runs)), (None, *(run.accent for run in runs))
    lead = "The worst case of each run, not a mean: an attacker chooses the attack, and a user the question."
    return Section("glance", "At a glance", lead, [Table("Highest rates", columns, lines, accents)])


def _highest(run: Run, named: Sequence[Named], section: str) -> Cell:
    """Return the highest rate and its name; withheld if an errored cell might hold a higher one."""
    if any(run.withheld(entry) for entry in run.entries(section)):
        return Cell("withheld", "(attempts errored)", tone="missed")
    there = [(name, value) for name, value in named if value["value"] is not None]
    if not there:
        return NOTHING
    name, value = max(there, key=lambda pair: pair[1]["value"])
    shown = rate(value)
    return replace(shown, about=name)


def _attacks(run: Run) -> list[Named]:
    """Return the rates of all cells, but of those with a part of the defence off."""
    found = []
    for entry in run.entries("attacks"):
        value = entry.get("worst") or run.asr(entry)
        whole = not entry.get("variant") and not run.weakened(str(entry["cell"]))
        if whole and value is not None:
            found.append(
                (f"{entry['cell']}{', worst of grid' if entry.get('worst') else ''}, {entry['dataset']}", value)
            )
    return found


def _benign(run: Run) -> list[Named]:
    entries = [entry for entry in run.entries("over_refusal") if entry.get("label") == "benign"]
    whole = [(str(entry["dataset"]), run.refused(entry)) for entry in entries if not entry.get("category")]
    return [(name, value) for name, value in whole if value is not None]
