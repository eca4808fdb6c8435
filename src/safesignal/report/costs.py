"""What the signal costs: time and memory, utility, and the probe of the answer distribution.

These sections are written by evaluations of their own; whatever figures they hold are shown, under the names they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safesignal.report import charts
from safesignal.report.document import Cell, Figure, Section, Table
from safesignal.report.numbers import NOTHING, estimate, number, word
from safesignal.report.runs import Run

__all__ = ["overhead_section", "probe_section", "utility_section"]

_MOST_COLUMNS = 10
_BYTES = 2**20
_PROBED = ("normalised_entropy", "gap", "top_k_mass")

Entry = Mapping[str, Any]


def overhead_section(runs: Sequence[Run]) -> Section:
    """Return what checks cost, as bars of extra time per token and as a table."""
    rows = [(run, row) for run in runs for row in _bench_rows(run.results.get("overhead"))]
    if not rows:
        return _missing("overhead", "Overhead", "No cost was measured")
    lead = (
        "Time per token against the same loop with checks off, paired within each repetition. "
        "Milliseconds are medians with the fastest and slowest repetition; memory is the peak of the process."
    )
    return Section("overhead", "Overhead", lead, [*_bars(rows), _bench_table(rows), *_other(runs, "overhead")])


def utility_section(runs: Sequence[Run]) -> Section:
    """Return the utility figures of each run."""
    tables = _tables(runs, "utility")
    if not tables:
        return _missing("utility", "Utility", "No utility was measured")
    lead = (
        "Ordinary abilities with the defence in place. Same tasks, same rows, runs side by side. "
        "Multiple-choice questions are graded as if none had been refused; `prompts_refused` is the share that the "
        "query check refuses, whose answers nobody would see. A written answer is graded as it was released."
    )
    return Section("utility", "Utility", lead, tables)


def probe_section(runs: Sequence[Run]) -> Section:
    """Return the probe of the answer distribution."""
    tables = _tables(runs, "probe")
    if not tables:
        return _missing("probe", "Probe", "The answer distribution was not probed")
    lead = (
        "How spread the most probable first tokens of the base model's answer are, from direct requests over prefilled "
        "ones to nested ones: entropy in nats and over its maximum, the gap between first and second, and their mass."
    )
    panels = [drawn for name in _PROBED if (drawn := _probe_panel(runs, name)) is not None]
    figures = [Figure("Means with 95 % bootstrap interval", charts.grid(panels), wide=True)] if panels else []
    return Section("probe", "Probe", lead, [*figures, *tables])


def _missing(anchor: str, title: str, what: str) -> Section:
    command = f"`safesignal evaluate` with a suite that has a `{anchor}` section adds it."
    return Section(anchor, title, missing=f"{what}: {command}")


# ------------------------------------------------------------------------------------------------------------ overhead


def _bench_rows(overhead: object) -> list[Entry]:
    rows = overhead.get("rows") if isinstance(overhead, Mapping) else overhead
    return [row for row in rows if isinstance(row, Mapping) and "variant" in row] if isinstance(rows, list) else []


def _setting(row: Entry) -> str:
    return f"context {row.get('context')}, batch {row.get('batch')}"


def _bars(rows: Sequence[tuple[Run, Entry]]) -> list[Figure]:
    bars = [(run, row, float(row["extra"])) for run, row in rows if row.get("extra") and row["variant"] != "off"]
    if not bars:
        return []
    highest = max(extra for _, _, extra in bars)
    limit = next((limit for limit in (0.1, 0.25, 0.5, 1.0, 2.0, 4.0) if highest <= limit), highest)
    drawn = [
        charts.Stack(
            str(row["variant"]),
            run.accent,
            [("full", max(extra, 0.0), f"{run.name}, {row['variant']}, {_setting(row)}: {100 * extra:+.1f} %")],
            _setting(row),
        )
        for run, row, extra in bars
    ]
    return [Figure("Extra time per token", charts.stacks(drawn, limit=limit, what="Extra time per token"), wide=True)]


def _bench_table(rows: Sequence[tuple[Run, Entry]]) -> Table:
    lines = []
    for run, row in rows:
        spread = f"[{row['low']:.1f}, {row['high']:.1f}]" if "low" in row and "high" in row else ""
        step = Cell(f"{row['milliseconds']:.1f}", spread) if "milliseconds" in row else NOTHING
        extra = Cell(f"{100 * row['extra']:+.1f} %") if row.get("extra") is not None else NOTHING
        peak = Cell(number(row["peak"] / _BYTES)) if row.get("peak") else NOTHING
        first = estimate(row.get("first"))
        lines.append([word(row["variant"]), word(_setting(row)), word(run.name), step, extra, first, peak])
    columns = ("checks", "setting", "run", "ms per token", "extra", "ms to the first token", "peak memory, MiB")
    return Table("Cost of checks", columns, lines)


def _other(runs: Sequence[Run], name: str) -> list[Table]:
    """Return what the section holds beside its bench rows."""
    rest = []
    for run in runs:
        found = run.results.get(name)
        if isinstance(found, Mapping):
            rest.append((run, {key: value for key, value in found.items() if key != "rows"}))
    return _tabulate(rest) if any(figures for _, figures in rest) else []


# --------------------------------------------------------------------------------------------------------------- probe


def _probe_panel(runs: Sequence[Run], name: str) -> Markup | None:
    """Draw one figure of the probe, in [0, 1], against the conditions in their order."""
    curves = [(run, _conditions(run, name)) for run in runs]
    places = {label: float(place) for place, label in enumerate(dict.fromkeys(c for _, own in curves for c in own))}
    if len(places) < 2:
        return None
    ticks = [(place, label.removeprefix("prefill ")) for label, place in places.items()]
    shares = [(share, f"{share:g}") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    title = name.replace("_", " ")
    frame = charts.Panel("prefilled tokens", "mean", ticks, shares, (-0.3, len(places) - 0.7), title=title)
    layers = [
        charts.Series(
            run.accent,
            [(places[label], value["value"]) for label, value in own.items()],
            [(value["low"], value["high"]) for value in own.values()],
            [f"{run.name}, {label}, {title}: {estimate(value)}" for label, value in own.items()],
        )
        for run, own in curves
    ]
    return charts.panel(frame, *layers)


def _conditions(run: Run, name: str) -> dict[str, Entry]:
    rows = (run.results.get("probe") or {}).get("conditions") or []
    return {str(row["condition"]): row[name] for row in rows if isinstance(row.get(name), Mapping)}


# ------------------------------------------------------------------------------------------------------- other figures


def _tables(runs: Sequence[Run], name: str) -> list[Table]:
    return _tabulate([(run, run.results[name]) for run in runs if run.results.get(name)])


def _tabulate(found: Sequence[tuple[Run, object]]) -> list[Table]:
    """Return one table of all single figures, runs side by side, and one per list of records."""
    runs = [run for run, _ in found]
    flat: dict[str, list[Cell]] = {}
    tables: dict[str, list[tuple[Run, Entry]]] = {}
    for index, (run, figures) in enumerate(found):
        for path, value in _walk(figures, ""):
            if isinstance(value, list):
                tables.setdefault(path, []).extend((run, record) for record in value)
            else:
                flat.setdefault(path, [NOTHING] * len(runs))[index] = estimate(value)
    columns, accents = ("figure", *(run.name for run in runs)), (None, *(run.accent for run in runs))
    lines = [[word(path), *cells] for path, cells in flat.items()]
    single = [Table("Figures", columns, lines, accents)] if lines else []
    return single + [_records(path or "Rows", rows) for path, rows in tables.items()]


def _walk(value: object, path: str) -> list[tuple[str, Any]]:
    """Return (path, figure) for every figure, and (path, list) for every list of records."""
    if isinstance(value, Mapping) and "value" not in value:
        return [leaf for key, inner in value.items() for leaf in _walk(inner, f"{path} · {key}".removeprefix(" · "))]
    if isinstance(value, list):
        return [(path, value)] if value and all(isinstance(item, Mapping) for item in value) else []
    return [(path, value)]


def _records(caption: str, rows: Sequence[tuple[Run, Entry]]) -> Table:
    names = list(dict.fromkeys(name for _, row in rows for name, value in row.items() if _plain(value)))[:_MOST_COLUMNS]
    lines = [[word(run.name), *(estimate(row.get(name)) for name in names)] for run, row in rows]
    return Table(caption.replace("_", " "), ("run", *(name.replace("_", " ") for name in names)), lines)


def _plain(value: object) -> bool:
    """Tell whether a value fits into a cell."""
    return not isinstance(value, list) and (not isinstance(value, Mapping) or "value" in value)
