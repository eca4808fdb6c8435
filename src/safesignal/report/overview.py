"""Many runs on one page: a line per run and a column per measure, as a paper compares its methods."""

from __future__ import annotations

from collections.abc import Sequence

from safesignal.report.document import Cell, Section, Table
from safesignal.report.numbers import NOTHING, estimate, word
from safesignal.report.refusals import refused_cell
from safesignal.report.robustness import asr_cell, headline
from safesignal.report.runs import Run, by_key

__all__ = ["overview_section"]

_SIDE_BY_SIDE = 3
"""Most runs that a reader compares in columns."""
_LEAD = (
    "One line per run. Attacks: share of attempts whose released text complies, by the refusal judge; lower is better. "
    "Ordinary requests: share refused, by the signal or the model itself; lower is better."
)

Column = tuple[str, Sequence[Cell]]


def overview_section(runs: Sequence[Run]) -> Section | None:
    """Return what every run came to, a line each; None for few runs, which the other tables show side by side."""
    if len(runs) <= _SIDE_BY_SIDE:
        return None
    tables = [
        _table("Attacks", runs, _attacks(runs)),
        _table("Ordinary requests refused", runs, _refusals(runs)),
        _table("Ability and cost", runs, [*_perplexity(runs), *_tasks(runs), *_cost(runs)]),
    ]
    parts = [table for table in tables if table is not None]
    return Section("overview", "All runs", _LEAD, parts) if parts else None


def _table(caption: str, runs: Sequence[Run], columns: Sequence[Column]) -> Table | None:
    if not columns:
        return None
    lines = [[word(run.name), *(cells[index] for _, cells in columns)] for index, run in enumerate(runs)]
    return Table(caption, ("run", *(name for name, _ in columns)), lines)


def _attacks(runs: Sequence[Run]) -> list[Column]:
    rows = headline(runs)
    names = _names([(cell, dataset) for cell, dataset, _ in rows])
    return [(name, [asr_cell(run, entry) for run, entry in own]) for name, (_, _, own) in zip(names, rows, strict=True)]


def _refusals(runs: Sequence[Run]) -> list[Column]:
    keyed = by_key(runs, "over_refusal", "cell", "dataset", "category", "label")
    rows = {key: own for key, own in keyed.items() if not key[2] and key[3] == "benign"}
    names = _names([(cell, dataset) for cell, dataset, *_ in rows])
    return [
        (name, [refused_cell(run, entry) for run, entry in zip(runs, own, strict=True)])
        for name, own in zip(names, rows.values(), strict=True)
    ]


def _names(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Name columns by their cell; one that was run on several sets names them."""
    cells = [cell for cell, _ in rows]
    return [cell if cells.count(cell) == 1 else f"{cell}, {dataset}" for cell, dataset in rows]


def _perplexity(runs: Sequence[Run]) -> list[Column]:
    found = [(run.results.get("utility") or {}).get("perplexity") or {} for run in runs]
    return [("perplexity", [estimate(own.get("guarded", own.get("base"))) for own in found])] if any(found) else []


def _tasks(runs: Sequence[Run]) -> list[Column]:
    """Return accuracies, and beside them the questions refused: those answers were scored as if they had been given."""
    found = [{str(t["task"]): t for t in (run.results.get("utility") or {}).get("tasks") or []} for run in runs]
    columns: list[Column] = []
    for name in dict.fromkeys(name for own in found for name in own):
        for field, title in (("accuracy", "accuracy"), ("prompts_refused", "refused")):
            rates = [own.get(name, {}).get(field) for own in found]
            columns += [(f"{name}, {title}", [estimate(rate) for rate in rates])] if any(rates) else []
    return columns


def _cost(runs: Sequence[Run]) -> list[Column]:
    """Return the extra time per token of each run's own schedule, in the first setting that was timed."""
    found = []
    for run in runs:
        rows = (run.results.get("overhead") or {}).get("rows") or []
        own = [row for row in rows if row.get("schedule") == run.target.get("schedule") and "fused" in row["variant"]]
        extra = own[0]["extra"] if own else None
        found.append(NOTHING if extra is None else Cell(f"{100 * extra:+.1f} %"))
    return [("extra time per token", found)] if any(cell is not NOTHING for cell in found) else []
