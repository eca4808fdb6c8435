"""What a reader should know before believing a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from safesignal.report.runs import Run

__all__ = ["concerns"]

_SMALL = 50
_UNDECIDED = 0.05
_NOT_COMPLIED = {"refused", "empty", "unknown"}
"""Reasons for which there is no compliant answer of any length."""
_COMPARED = (
    ("suite_sha256", "suites", "the cells may not be the same"),
    ("seed", "seeds", "rows and sampling differ"),
    ("datasets", "data sets or rows", "rates are over other prompts"),
)


def concerns(runs: Sequence[Run]) -> list[str]:
    """Return warnings, gravest first: errored attempts, runs that do not compare, drift, unfinished or small cells."""
    found = [text for run in runs for text in _errors(run)]
    found += _differences(runs)
    found += [text for run in runs for text in (*_drift(run), *_cells(run))]
    return found


def _errors(run: Run) -> Iterator[str]:
    for entry in _whole(run):
        if errored := entry.get("errored"):
            shown = "rates are shown on request all the same" if run.allow_errors else "its rates are withheld"
            again = "Start the run again to make them"
            yield f"{run.name}: {errored} attempts errored in {_place(entry)}; {shown}. {again}."


def _whole(run: Run) -> Iterator[Mapping[str, Any]]:
    """Yield cells over all their variants and categories: malicious requests as attacks, benign ones as they are."""
    yield from (entry for entry in run.entries("attacks") if not entry.get("variant"))
    benign = (entry for entry in run.entries("over_refusal") if entry.get("label") == "benign")
    yield from (entry for entry in benign if not entry.get("category"))


def _differences(runs: Sequence[Run]) -> Iterator[str]:
    shared = set.intersection(*(set(run.results.get("datasets") or {}) for run in runs))
    for name, what, consequence in _COMPARED:
        values = [_comparable(run.results.get(name), shared) for run in runs]
        if any(value != values[0] for value in values):
            yield f"Runs of different {what} are compared: {consequence}."
    commits = [(run.results.get("environment") or {}).get("git_commit") for run in runs]
    if len(set(commits)) > 1:
        yield f"Runs were made by different commits ({', '.join(str(commit) for commit in commits)})."


def _comparable(value: Any, shared: set[str]) -> Any:
    """Return what must be equal; of data sets, which rows they are, where all runs have them."""
    if not isinstance(value, Mapping):
        return value
    return {name: (value[name].get("sha256"), value[name].get("n_used")) for name in shared}


def _drift(run: Run) -> Iterator[str]:
    if run.target.get("base_drift"):
        yield f"{run.name}: the base weights are not those that the adapter was trained on (base drift)."
    if str((run.results.get("environment") or {}).get("git_commit", "")).endswith("+"):
        yield f"{run.name}: made from a checkout with uncommitted changes."


def _cells(run: Run) -> Iterator[str]:
    small = []
    for cell in (name for name, planned in (run.results.get("planned") or {}).items() if planned == 0):
        yield f"{run.name}: no attempt could be made in {cell}: {_why_none(run, cell)}."
    yield from _undecided(run)
    for entry in run.entries("attacks"):
        if entry.get("variant"):
            continue
        ran = _ran(entry)
        missing = int(entry.get("n_planned") or ran) - ran
        if missing > 0:
            planned = entry["n_planned"]
            yield f"{run.name}: {_place(entry)} is unfinished, {missing} of {planned} attempts were not made yet."
        if 0 < int(entry.get("succeeded") or 0) + int(entry.get("resisted") or 0) < _SMALL:
            small.append(_place(entry))
    if small:
        yield f"{run.name}: fewer than {_SMALL} decided attempts in {', '.join(small)}; mind the intervals."


def _undecided(run: Run) -> Iterator[str]:
    """Yield a warning for every cell of which many attempts are in no rate, or in none of a harm judge."""
    for entry in _whole(run):
        ran, undecided = _ran(entry), int(entry.get("undecided") or 0)
        if undecided > _UNDECIDED * ran:
            yield f"{run.name}: {undecided} of {ran} attempts in {_place(entry)} are undecided, and in no rate."
        for judge, rate in (entry.get("asr_harm") or {}).items():
            decided = int(entry.get("succeeded") or 0) + int(entry.get("resisted") or 0)
            unknown = decided - rate["n"] if rate else 0
            if unknown > _UNDECIDED * decided:
                lacking = f"{unknown} of {decided} in {_place(entry)}"
                yield f"{run.name}: {judge} could not decide {lacking}; its rate leaves them out."


def _ran(entry: Mapping[str, Any]) -> int:
    names = ("n",) if "n" in entry else ("succeeded", "resisted", "undecided", "errored")
    return sum(int(entry.get(name) or 0) for name in names)


def _why_none(run: Run, cell: str) -> str:
    """Say what a cell without an attempt was short of: compliant answers at all, or what else its attack needs."""
    counts: Counter[str] = Counter()
    for reasons in ((run.results.get("left_out") or {}).get(cell) or {}).values():
        counts.update(reasons)
    if set(counts) <= _NOT_COMPLIED:
        return "the unguarded model complied with none of its requests"
    return ", ".join(f"{reason.replace('_', ' ')}: {count}" for reason, count in counts.items())


def _place(entry: Mapping[str, Any]) -> str:
    cell, dataset = entry.get("cell"), entry.get("dataset")
    return f"{cell} ({dataset})" if dataset and dataset != cell else str(cell)
