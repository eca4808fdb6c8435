"""Where the numbers come from: targets, versions, seeds, hashes, counts, commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safesignal.report.document import Section, Table
from safesignal.report.numbers import NOTHING, estimate, word
from safesignal.report.runs import Run

__all__ = ["provenance_section"]

_HASH = 12
"""Characters of a hash that are shown."""


def provenance_section(runs: Sequence[Run], command: str) -> Section:
    """Return what was run, on what, with which versions, and the command that made this report."""
    parts = [_facts("Runs", runs, _run_facts), _facts("Targets", runs, lambda run: _flat(run.target))]
    parts += [_facts("Versions", runs, lambda run: _flat(run.results.get("environment") or {})), _datasets(runs)]
    return Section("provenance", "Provenance", f"This report: `{command}`" if command else "", parts)


def _facts(caption: str, runs: Sequence[Run], facts_of: Any) -> Table:
    """Return facts by name, runs side by side."""
    all_facts = [facts_of(run) for run in runs]
    names = list(dict.fromkeys(name for facts in all_facts for name in facts))
    lines = [[word(name), *(word(facts[name]) if name in facts else NOTHING for facts in all_facts)] for name in names]
    columns = ("", *(run.name for run in runs))
    return Table(caption, columns, lines, (None, *(run.accent for run in runs)), folded=True)


def _run_facts(run: Run) -> dict[str, str]:
    results = run.results
    facts = {"folder": str(run.folder), "command": results.get("command"), "suite": results.get("suite")}
    facts |= {"suite sha256": _short(results.get("suite_sha256")), "seed": results.get("seed")}
    facts |= {"started": results.get("started"), "schema": results.get("schema_version")}
    return {name: str(value) for name, value in facts.items() if value is not None}


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested facts under dotted names."""
    flat: dict[str, str] = {}
    for name, value in facts.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = _short(value)
    return flat


def _short(value: object) -> str:
    """Return a hash by its first characters, anything else as it is."""
    text = str(value)
    hexadecimal = len(text) >= 40 and all(c in "0123456789abcdef" for c in text)
    return f"{text[:_HASH]}…" if hexadecimal else text


def _datasets(runs: Sequence[Run]) -> Table:
    lines = []
    for run in runs:
        for name, facts in (run.results.get("datasets") or {}).items():
            counts = [estimate(facts.get(field)) for field in ("n_original", "n_used")]
            lines.append([word(name), word(run.name), *counts, word(_short(facts.get("sha256")))])
    return Table(
        "Data", ("data set", "run", "rows of the set", "rows used", "sha256 of the rows used"), lines, folded=True
    )
