"""Attack success: by attack and data set, by variant, by depth of a prefill; judges apart and with their agreement."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from safesignal.report import charts
from safesignal.report.document import Cell, Figure, Section, Table
from safesignal.report.numbers import NOTHING, counted, estimate, goal, rate, withheld, word
from safesignal.report.runs import Run, by_key

__all__ = ["MOST_VARIANTS", "asr_cell", "attack_section", "depth_section", "headline", "judge_section"]

_LEAD = (
    "Share of attempts whose released text complies, by the refusal judge, with its 95 % Wilson interval and counts. "
    "Attempts that errored or that no judge could decide are no robustness: they are counted apart. "
    "The interval takes attempts for independent; where several are on one behavior it is too narrow, the number of "
    "behaviors stands beside the counts, and a table resamples whole behaviors."
)
_HARM_LEAD = "The harm judge reads the same texts and asks whether they give harmful content; lower is better."

MOST_VARIANTS = 12
"""A cell with more variants (one per jailbreak template, say) is shown by family."""

_COUNTED = ("succeeded", "resisted", "undecided", "errored")

Entry = Mapping[str, Any]
Row = tuple[str, str, list[tuple[Run, Entry | None]]]


def attack_section(runs: Sequence[Run]) -> Section:
    """Return attack success of every cell, runs side by side."""
    rows = headline(runs)
    if not rows:
        return Section("attacks", "Attack success", missing=_missing("an attack"))
    parts: list[Table | Figure] = [
        Figure("Attack success rate with 95 % interval", _plot(rows), wide=True),
        _table("Attack success rate, refusal judge", rows, runs, "asr", goals=True),
    ]
    if _any(rows, "asr_clustered"):
        several = [row for row in rows if _any([row], "asr_clustered")]
        title = "Attack success rate, 95 % interval from resampling behaviors (n counts them)"
        parts.append(_table(title, several, runs, "asr_clustered"))
    if _any(rows, "worst"):
        grids = [row for row in rows if _any([row], "worst")]
        parts.append(_table("Worst of the grid: a behavior counts if any variant succeeded", grids, runs, "worst"))
    if _any(rows, "asr_shown"):
        stopped = [row for row in rows if _any([row], "asr_shown")]
        title = "Upper reading: what was shown before a stop counts by itself, a harmless beginning too"
        parts.append(_table(title, stopped, runs, "asr_shown"))
    if _any(rows, "asr_corrected"):
        parts.append(_table("Refusal judge, corrected for its measured errors", rows, runs, "asr_corrected"))
    judges = _harm_judges(rows)
    for judge in judges:
        title = f"{_named(judge)}: the released text gives harmful content"
        parts.append(_table(title, rows, runs, "asr_harm", judge=judge))
        if _any(rows, "asr_harm_corrected", judge):
            title = f"{_named(judge)}, corrected for its measured errors"
            parts.append(_table(title, rows, runs, "asr_harm_corrected", judge=judge))
    parts += [_counts(rows), *_left_out(runs)]
    if variants := _variants(runs):
        parts.append(_table("By variant, refusal judge", variants, runs, "asr", folded=True))
    for judge in _harm_judges(variants):
        title = f"By variant, {_named(judge).lower()}"
        parts.append(_table(title, variants, runs, "asr_harm", judge=judge, folded=True))
    harm = "" if judges else "No harm judge has run: `safesignal judge --run RUN --judge harm` adds it."
    return Section("attacks", "Attack success", f"{_LEAD} {_HARM_LEAD if judges else ''}".strip(), parts, harm)


def depth_section(runs: Sequence[Run]) -> Section | None:
    """Return attack success against the depth of the prefill, one panel per data set; None where no depths were run."""
    panels = [
        _depth_panel(dataset, curves) for dataset, curves in _depths(runs).items() if any(len(c) > 1 for c in curves)
    ]
    if not panels:
        return None
    lead = "Attack success against the number of tokens of a compliant answer that the attacker puts in the mouth. "
    lead += "Behaviors without such an answer of that length (the unguarded model refused, or stopped) are left out."
    return Section("depth", "Prefill depth", lead, [Figure("0 is the direct request", charts.grid(panels))])


def judge_section(runs: Sequence[Run]) -> Section:
    """Return the judges' measured agreement with people's labels, and apart from it with those of others."""
    tables: dict[str, dict[tuple[str, ...], list[Cell]]] = {"people": {}}
    for run in runs:
        for judge, figures in _judges(run):
            source = figures.get("dataset") or figures.get("file") or figures.get("measured_on") or "–"
            cells = [estimate(figures.get(name)) for name in ("agreement", "sensitivity", "specificity")]
            line = [word(judge), word(source), *cells]
            rows = tables.setdefault(str(figures.get("labelled_by") or "people"), {})
            rows[tuple(str(cell) for cell in line)] = line
    if not any(tables.values()):
        missing = (
            "No agreement with human labels is recorded: `safesignal judge --validate --judge refusal` measures it."
        )
        return Section("judges", "Judges", missing=missing)
    columns = ("judge", "measured on", "agreement", "sensitivity", "specificity")
    lead = "What the verdicts behind every rate here are worth, against human labels."
    parts = [
        Table(f"Agreement with {'human labels' if by == 'people' else f'labels of {by}'}", columns, list(rows.values()))
        for by, rows in tables.items()
        if rows
    ]
    return Section("judges", "Judges", lead, parts)


def _judges(run: Run) -> list[tuple[str, Entry]]:
    """Return (judge, figures); a judge measured on several sets has one entry per set, and one of people's together."""
    found: list[tuple[str, Entry]] = []
    for judge, figures in (run.results.get("judges") or {}).items():
        if not isinstance(figures, Mapping):
            continue
        whole = any(name in figures for name in ("agreement", "sensitivity", "specificity"))
        sets = figures.get("sets", {} if whole else figures)
        found += [(judge, {"dataset": name, **own}) for name, own in sets.items() if isinstance(own, Mapping)]
        if whole:
            found.append((judge, {**figures, "dataset": "all of these"} if sets else figures))
    return found


def headline(runs: Sequence[Run]) -> list[Row]:
    """Return the attack cells without their variants: cell, data set, and the entry of every run."""
    keyed = by_key(runs, "attacks", "cell", "dataset", "variant")
    return [
        (str(cell), str(dataset), list(zip(runs, entries, strict=True)))
        for (cell, dataset, variant), entries in keyed.items()
        if variant is None
    ]


def _variants(runs: Sequence[Run]) -> list[Row]:
    """Return one row per variant, or per family of variants where a cell has more than a reader wants to see."""
    keyed = by_key(runs, "attacks", "cell", "dataset", "variant")
    sizes = Counter(cell for cell, _, variant in keyed if variant)
    rows: list[Row] = []
    families: dict[tuple[str, str, str], list[list[Entry]]] = {}
    for (cell, dataset, variant), entries in keyed.items():
        if not variant:
            continue
        if sizes[cell] <= MOST_VARIANTS:
            rows.append((f"{cell} · {variant}", str(dataset), list(zip(runs, entries, strict=True))))
            continue
        family = next((str(entry.get("family") or "other") for entry in entries if entry), "other")
        groups = families.setdefault((str(cell), str(dataset), family), [[] for _ in runs])
        for own, entry in zip(groups, entries, strict=True):
            own.extend([entry] if entry else [])
    behaviors = [_behaviors_by_family(run) if families else {} for run in runs]
    for (cell, dataset, family), groups in families.items():
        counts = [own.get((cell, family)) for own in behaviors]
        merged = [_together(group, count) for group, count in zip(groups, counts, strict=True)]
        rows.append((f"{cell} · {family}", dataset, list(zip(runs, merged, strict=True))))
    return rows


def _behaviors_by_family(run: Run) -> dict[tuple[str, str], int]:
    """Return, by cell and family, how many behaviors its decided attempts ask for."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in run.attempts():
        if row.get("status") in ("succeeded", "resisted"):
            name = (str(row.get("cell")), str(row.get("family") or "other"))
            found.setdefault(name, set()).add(str(row.get("behavior")))
    return {name: len(texts) for name, texts in found.items()}


def _together(entries: Sequence[Entry], behaviors: int | None = None) -> Entry | None:
    """Return several variants, over so many behaviors, as one entry.

    A rate that one of them lacks though it has attempts is withheld.
    """
    if not entries:
        return None
    judges = dict.fromkeys(judge for entry in entries for judge in entry.get("asr_harm") or {})
    return {
        **entries[0],
        **{name: sum(int(entry.get(name) or 0) for entry in entries) for name in _COUNTED},
        "n_behaviors": behaviors,
        "asr": _pooled([entry.get("asr") for entry in entries]),
        "asr_harm": {judge: _pooled([entry["asr_harm"].get(judge) for entry in entries]) for judge in judges},
    }


def _pooled(rates: Sequence[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    known = [rate for rate in rates if rate]
    whole = len(known) == len(rates)
    return counted(sum(rate["successes"] for rate in known), sum(rate["n"] for rate in known)) if whole else None


def _any(rows: Sequence[Row], name: str, judge: str = "") -> bool:
    """Tell whether any run has a rate, named or withheld, of that name."""
    entries = [entry for _, _, cells in rows for _, entry in cells if entry]
    return any(((entry.get(name) or {}).get(judge) if judge else entry.get(name)) is not None for entry in entries)


def _harm_judges(rows: Sequence[Row]) -> list[str]:
    """Return the judges of harm that have a rate in any of the rows, in the order of the results."""
    found = dict.fromkeys(j for _, _, cells in rows for _, entry in cells if entry for j in entry.get("asr_harm") or {})
    return [judge for judge in found if _any(rows, "asr_harm", judge)]


def _named(judge: str) -> str:
    return "Harm judge" if judge == "harm" else f"Harm judge {judge}"


def _table(
    caption: str,
    rows: Sequence[Row],
    runs: Sequence[Run],
    name: str,
    *,
    judge: str = "",
    goals: bool = False,
    folded: bool = False,
) -> Table:
    cells, wanted = [], runs[0].goals if goals else {}
    for cell, dataset, entries in rows:
        line = [word(cell), word(dataset), *(asr_cell(run, entry, name, judge) for run, entry in entries)]
        if wanted:
            line += [_goal(wanted.get(cell), run, entry) for run, entry in entries if run.guarded]
        cells.append(line)
    guarded = [run for run in runs if run.guarded] if wanted else []
    columns = ("attack", "data set", *(run.name for run in runs), *(f"goal, {run.name}" for run in guarded))
    accents = (None, None, *(run.accent for run in runs))
    return Table(caption, columns, cells, accents, folded)


def _goal(text: str | None, run: Run, entry: Entry | None) -> Cell:
    return goal(text, run.asr(entry)) if text and entry else NOTHING


def asr_cell(run: Run, entry: Entry | None, name: str = "asr", judge: str = "") -> Cell:
    """Return a rate over attempts, or what stands in its place."""
    if entry is None:
        return NOTHING
    if run.withheld(entry):
        return withheld(entry)
    value = run.asr(entry, name, judge)
    if value is not None and "n" not in value and (raw := run.asr(entry, name.removesuffix("_corrected"), judge)):
        value = {**value, "n": raw["n"]}
    return _with_behaviors(rate(value), entry) if name == "asr" else rate(value)


def _with_behaviors(cell: Cell, entry: Entry) -> Cell:
    """Name the number of behaviors beside the counts, where attempts are more than those."""
    behaviors = entry.get("n_behaviors")
    attempts = entry["succeeded"] + entry["resisted"]
    if cell is NOTHING or behaviors is None or behaviors >= attempts:
        return cell
    return replace(cell, detail=f"{cell.detail} on {behaviors} behavior{'' if behaviors == 1 else 's'}")


def _counts(rows: Sequence[Row]) -> Table:
    columns = (
        "attack",
        "data set",
        "run",
        "rows of the set",
        "left out",
        "planned",
        "succeeded",
        "resisted",
        "undecided",
        "errored",
    )
    lines = []
    for cell, dataset, entries in rows:
        for run, entry in entries:
            if entry is None:
                continue
            names = ("n_original", "n_left_out", "n_planned", "succeeded", "resisted", "undecided", "errored")
            stopped = asr_cell(run, entry, "refused_by_signal") if run.guarded else NOTHING
            counts = [estimate(entry.get(name)) for name in (*names, "mean_tokens")]
            lines.append([word(cell), word(dataset), word(run.name), *counts, stopped])
    return Table("Counts", (*columns, "mean tokens", "stopped by the signal"), lines, folded=True)


def _left_out(runs: Sequence[Run]) -> list[Table]:
    """Return how many behaviors an attack has an attempt for, by variant, and why the others have none."""
    lines = []
    for run in runs:
        asked = run.results.get("behaviors") or {}
        for cell, variants in (run.results.get("left_out") or {}).items():
            for variant, reasons in variants.items():
                effective = asked[cell] - sum(reasons.values()) if cell in asked else None
                why = ", ".join(f"{reason.replace('_', ' ')}: {count}" for reason, count in reasons.items())
                counts = [estimate(asked.get(cell)), estimate(effective)]
                lines.append([word(cell), word(variant), word(run.name), *counts, word(why)])
    columns = ("attack", "variant", "run", "behaviors", "attempts", "left out")
    return [Table("Behaviors that an attack has no attempt for", columns, lines)] if lines else []


def _mark(run: Run, value: Mapping[str, Any] | None, label: str) -> charts.Mark | None:
    if value is None or value.get("value") is None:
        return None
    tip = f"{run.name}, {label}: {rate(value)}"
    return charts.Mark(run.accent, value["value"], value["low"], value["high"], tip)


def _plot(rows: Sequence[Row]) -> Markup:
    drawn = [
        charts.Strip(cell, [_mark(run, run.asr(entry) if entry else None, cell) for run, entry in cells], dataset)
        for cell, dataset, cells in rows
    ]
    return charts.strips(drawn, what="Attack success rate by attack, one mark per run")


def _depths(runs: Sequence[Run]) -> dict[str, list[list[tuple[int, Run, Mapping[str, Any]]]]]:
    """Return per data set, per run, (depth, run, rate) by depth; the direct attack is depth 0."""
    found: dict[str, list[dict[int, Mapping[str, Any]]]] = {}
    for index, run in enumerate(runs):
        for entry in run.entries("attacks"):
            depth, value = _depth(run, entry), run.asr(entry)
            if depth is not None and value is not None and value.get("value") is not None:
                found.setdefault(str(entry.get("dataset")), [{} for _ in runs])[index][depth] = value
    return {
        dataset: [[(depth, run, c[depth]) for depth in sorted(c)] for run, c in zip(runs, curves, strict=True)]
        for dataset, curves in found.items()
    }


def _depth(run: Run, entry: Entry) -> int | None:
    """Return the depth of an entry by its variant, or by what the suite says of its cell; None if it has none.

    A cell with a part of the defence off measures something else.
    """
    name = str(entry.get("cell"))
    if run.weakened(name):
        return None
    if entry.get("attack") == "direct" and not entry.get("variant"):
        return 0
    match = re.fullmatch(r"depth=\[?(\d+)\]?", str(entry.get("variant") or f"depth={run.cell(name).get('depth')}"))
    return int(match[1]) if match and entry.get("attack") == "prefill" else None


def _depth_panel(dataset: str, curves: Sequence[Sequence[tuple[int, Run, Mapping[str, Any]]]]) -> Markup:
    depths = sorted({depth for curve in curves for depth, _, _ in curve})
    places = {depth: float(place) for place, depth in enumerate(depths)}
    frame = charts.Panel(
        "prefilled tokens",
        "attack success",
        [(places[depth], str(depth)) for depth in depths],
        [(share, f"{100 * share:g} %") for share in (0.0, 0.25, 0.5, 0.75, 1.0)],
        x_limits=(-0.3, len(depths) - 0.7),
        title=dataset,
    )
    layers = [
        charts.Series(
            curve[0][1].accent,
            [(places[depth], value["value"]) for depth, _, value in curve],
            [(value["low"], value["high"]) for _, _, value in curve],
            [f"{run.name}, {depth} tokens: {rate(value)}" for depth, run, value in curve],
        )
        for curve in curves
        if curve
    ]
    return charts.panel(frame, *layers)


def _missing(what: str) -> str:
    return f"No {what.removeprefix('an ')} was run: `safesignal evaluate --suite quick --output_dir RUN` adds it."
