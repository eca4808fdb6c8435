"""What the defence does to answers: over-refusal, split by when it came, and what leaked before a stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safesignal.report import charts
from safesignal.report.bins import histogram_panel
from safesignal.report.document import Cell, Figure, Section, Table
from safesignal.report.numbers import NOTHING, estimate, goal, rate, withheld, word
from safesignal.report.robustness import MOST_VARIANTS
from safesignal.report.runs import Run, by_key

__all__ = ["leak_section", "over_refusal_section", "refused_cell"]

_SPLIT = (
    ("refused_at_start", "refused at the start", "full"),
    ("stopped_midway", "stopped midway", "half"),
    ("refused_by_model", "by the model itself", "light"),
)
_LEAD = (
    "Share of requests that were refused: by the signal before or while the answer was written, or by the model "
    "itself. Benign requests should be answered; sets labelled malicious are shown for comparison."
)

Entry = Mapping[str, Any]


def over_refusal_section(runs: Sequence[Run]) -> Section:
    """Return refusals by set, split by when they came, and by category."""
    keyed = by_key(runs, "over_refusal", "cell", "dataset", "category", "label")
    whole = {key: entries for key, entries in keyed.items() if not key[2]}
    parts_of = {key: entries for key, entries in keyed.items() if key[2]}
    if not keyed:
        missing = "No ordinary prompts were run: `safesignal evaluate --suite quick --output_dir RUN` adds them."
        return Section("over-refusal", "Over-refusal", missing=missing)
    parts: list[Table | Figure] = []
    if whole:
        parts.append(
            Figure(
                "Refused, by set: dark at the start, medium midway, pale by the model; line: interval of the sum",
                _stacks(runs, whole),
            )
        )
        parts += [_totals("Refused, by set", runs, whole), _split(runs, whole)]
    if parts_of:
        parts.append(Figure("Refused, by type, with 95 % interval", _by_type(runs, parts_of), wide=True))
        parts.append(_totals("Refused, by type", runs, parts_of, folded=bool(whole)))
    return Section("over-refusal", "Over-refusal", _LEAD, parts)


def leak_section(runs: Sequence[Run]) -> Section:
    """Return what was shown before a stop, and how long tokens were held back."""
    lines: list[list[Cell]] = []
    panels: list[Markup] = []
    judges = dict.fromkeys(j for run in runs for entry in run.entries("leak") for j in entry["harmful_released"])
    for run in runs:
        entries = run.entries("leak")
        sizes = Counter((entry["cell"], entry["label"]) for entry in entries)
        for entry in entries:
            size = sizes[entry["cell"], entry["label"]]
            if entry["variant"] and size > MOST_VARIANTS:
                continue  # one per jailbreak template: the cell's own row says enough
            lines.append(_leak_line(run, entry, judges))
            panels += [] if entry["variant"] and size > 1 else _leak_panels(run, entry)
    if not lines:
        missing = "No leak was measured: it needs a guarded run of `safesignal evaluate` with attacks."
        return Section("leak", "Leak and delay", missing=missing)
    lead = (
        "Tokens that were shown before the signal stopped an answer, and tokens held back until a check had seen them. "
        "Spreads are median / 90 % / maximum, in tokens."
    )
    figures = [Figure("Histograms over stopped answers", charts.grid(panels), wide=True)] if panels else []
    harmful = (f"harmful among them, by {judge}" for judge in judges)
    columns = ("cell", "label", "run", "stopped", "released before the stop", *harmful, "after the transition", "held")
    return Section("leak", "Leak and delay", lead, [*figures, Table("Leak by cell", columns, lines)])


def _leak_name(entry: Entry) -> str:
    return " · ".join(str(part) for part in (entry["cell"], entry["variant"]) if part)


def _leak_line(run: Run, entry: Entry, judges: Iterable[str]) -> list[Cell]:
    harmful = [estimate(entry["harmful_released"].get(judge)) for judge in judges]
    shown = [estimate(entry["stopped"]), _spread(entry["released_before_stop"]), *harmful]
    held = [_spread(entry["released_after_transition"]), _spread(entry["hold_tokens"] or {})]
    return [word(_leak_name(entry)), word(entry["label"]), word(run.name), *shown, *held]


def _leak_panels(run: Run, entry: Entry) -> list[Markup]:
    spreads = {"released before the stop": entry["released_before_stop"], "held before release": entry["hold_tokens"]}
    name = f"{_leak_name(entry)}{', benign' if entry['label'] == 'benign' else ''}"
    panels = [
        histogram_panel(run, (spread or {}).get("histogram"), "tokens", f"{name}: {title}")
        for title, spread in spreads.items()
    ]
    return [drawn for drawn in panels if drawn]


def _name(key: tuple[Any, ...]) -> tuple[str, str]:
    """Return what an entry is called, and what stands small beside it."""
    cell, dataset, category, label = key
    if category:
        return str(category), f"{dataset}, {label}"
    return str(dataset), " · ".join(str(part) for part in (label, cell) if part and part != dataset)


def refused_cell(run: Run, entry: Entry | None) -> Cell:
    """Return the rate of refused prompts, or what stands in its place."""
    if entry is None:
        return NOTHING
    if run.withheld(entry):
        return withheld(entry)
    return rate(run.refused(entry))


def _goals(runs: Sequence[Run], key: tuple[Any, ...], entries: Sequence[Entry | None]) -> list[Cell]:
    """Return whether guarded runs meet the goals for ordinary prompts."""
    cells = []
    for run, entry in zip(runs, entries, strict=True):
        if run.guarded and run.goals:
            text = run.goals.get(str(key[0])) if key[3] == "benign" and not key[2] else None
            cells.append(goal(text, run.refused(entry)) if text and entry else NOTHING)
    return cells


def _totals(
    caption: str, runs: Sequence[Run], keyed: Mapping[tuple[Any, ...], Sequence[Entry | None]], *, folded: bool = False
) -> Table:
    lines = []
    for key, entries in keyed.items():
        name, sub = _name(key)
        rates = [refused_cell(run, entry) for run, entry in zip(runs, entries, strict=True)]
        lines.append([word(name), word(sub), *rates, *_goals(runs, key, entries)])
    wanted = [run for run in runs if run.guarded and run.goals]
    columns = ("prompts", "set and label", *(run.name for run in runs), *(f"goal, {run.name}" for run in wanted))
    return Table(caption, columns, lines, (None, None, *(run.accent for run in runs)), folded)


def _split(runs: Sequence[Run], keyed: Mapping[tuple[Any, ...], Sequence[Entry | None]]) -> Table:
    lines = []
    for key, entries in keyed.items():
        for run, entry in zip(runs, entries, strict=True):
            if entry is None:
                continue
            rates = [NOTHING if run.withheld(entry) else rate(entry.get(name)) for name, _, _ in _SPLIT]
            counts = [estimate(entry.get(name)) for name in ("undecided", "errored")]
            lines.append([word(_name(key)[0]), word(key[3]), word(run.name), *rates, *counts])
    columns = ("prompts", "label", "run", *(title for _, title, _ in _SPLIT), "undecided", "errored")
    return Table("When refusals came", columns, lines)


def _stacks(runs: Sequence[Run], keyed: Mapping[tuple[Any, ...], Sequence[Entry | None]]) -> Markup:
    bars = []
    for key, entries in keyed.items():
        name, sub = _name(key)
        for run, entry in zip(runs, entries, strict=True):
            if entry is not None and not run.withheld(entry):
                bars.append(
                    charts.Stack(name, run.accent, _shares(run, entry), f"{sub} · {run.name}", _bounds(run, entry))
                )
    return charts.stacks(bars, what="Share of refused requests by set, split by when the refusal came")


def _shares(run: Run, entry: Entry) -> list[tuple[str, float, str]]:
    shares = []
    for name, title, kind in _SPLIT:
        value = entry.get(name)
        if value and value.get("value"):
            shares.append((kind, float(value["value"]), f"{run.name}, {title}: {rate(value)}"))
    return shares


def _bounds(run: Run, entry: Entry) -> tuple[float, float] | None:
    value = run.refused(entry)
    return (value["low"], value["high"]) if value and value.get("value") is not None else None


def _by_type(runs: Sequence[Run], keyed: Mapping[tuple[Any, ...], Sequence[Entry | None]]) -> Markup:
    drawn = []
    for key, entries in keyed.items():
        name, sub = _name(key)
        marks = [_mark(run, entry, name) for run, entry in zip(runs, entries, strict=True)]
        drawn.append(charts.Strip(name.replace("_", " "), marks, sub))
    return charts.strips(drawn, what="Share of refused requests by type, one mark per run")


def _mark(run: Run, entry: Entry | None, label: str) -> charts.Mark | None:
    value = run.refused(entry) if entry else None
    if value is None or value.get("value") is None:
        return None
    tip = f"{run.name}, {label}: {rate(value)}"
    return charts.Mark(run.accent, value["value"], value["low"], value["high"], tip)


def _spread(spread: Mapping[str, Any]) -> Cell:
    figures = [spread.get(name) for name in ("median", "p90", "max")]
    if all(figure is None for figure in figures):
        return NOTHING
    return Cell(" / ".join(str(estimate(figure)) for figure in figures))
