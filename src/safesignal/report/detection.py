"""The signal as a detector: ROC, calibration, recall at low false-positive rates, delay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safesignal.report import charts
from safesignal.report.bins import histogram_panel, layer, read_bins, share_axis
from safesignal.report.document import Cell, Figure, Section, Table
from safesignal.report.numbers import NOTHING, counted, estimate, rate, word
from safesignal.report.runs import Run, by_key

__all__ = ["signal_section"]

_FPRS = ("0.005", "0.01", "0.05")
_SHARES = [(share, f"{100 * share:g} %") for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
_UNIT = [(value, f"{value:g}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)]
_DRAWN = 6
"""Pairs that are drawn; all of them are in the table."""

Entry = Mapping[str, Any]


def signal_section(runs: Sequence[Run]) -> Section:
    """Return how well the signal tells malicious from benign, per pair of sources."""
    keyed = by_key(runs, "signal", "kind", "name")
    if not keyed:
        missing = "No signal was scored: `safesignal evaluate` on a guarded target with a `signal` section adds it."
        return Section("signal", "Signal quality", missing=missing)
    lead = (
        "The bare signal against labels, before any policy. Recall is the share of malicious rows flagged where at "
        "most 0.5, 1 or 5 % of the benign ones are. The reliability curve compares the signal with the observed rate; "
        "a calibrated signal lies on the diagonal, and ECE is the mean distance from it. "
        "A response counts by its highest window, which grows with the number of windows: what length alone would tell "
        "stands beside the AUC."
    )
    parts: list[Table | Figure] = [_table(runs, keyed), _flagged(runs, keyed)]
    for (kind, name), entries in list(keyed.items())[:_DRAWN]:
        panels = _panels(list(zip(runs, entries, strict=True)))
        if panels:
            parts.append(Figure(f"{name} ({kind}s)", charts.grid(panels), wide=True))
    return Section("signal", "Signal quality", lead, parts)


def _table(runs: Sequence[Run], keyed: Mapping[tuple[Any, ...], Sequence[Entry | None]]) -> Table:
    lines = []
    for (kind, name), entries in keyed.items():
        for run, entry in zip(runs, entries, strict=True):
            if entry is not None:
                recalls = [rate(_recall(entry, fpr)) for fpr in _FPRS]
                ece, delay = estimate(entry.get("ece")), _delay(entry.get("delay_tokens"))
                counts = Cell(str(entry.get("n_malicious", "–")), f"of {entry.get('n', '–')}")
                figures = [_auc(entry), estimate(entry.get("auc_by_length")), *recalls, ece, delay]
                lines.append([Cell(name, f"{kind}s", number=False), word(run.name), counts, *figures])
    recall = tuple(f"recall at {100 * float(fpr):g} % FPR" for fpr in _FPRS)
    columns = ("rows", "run", "malicious", "AUC", "AUC of length alone", *recall, "ECE", "delay, tokens")
    return Table("The signal as a detector", columns, lines)


def _flagged(runs: Sequence[Run], keyed: Mapping[tuple[Any, ...], Sequence[Entry | None]]) -> Table:
    """Return what the threshold in use flags of either class."""
    lines = []
    for (kind, name), entries in keyed.items():
        for run, entry in zip(runs, entries, strict=True):
            if entry is not None:
                rates = [rate(entry.get(f"flagged_{label}")) for label in ("malicious", "benign")]
                lines.append([word(name), word(f"{kind}s"), word(run.name), *rates])
    columns = ("rows", "kind", "run", "malicious rows flagged", "benign rows flagged")
    return Table("At the threshold in use", columns, lines)


def _auc(entry: Entry) -> Cell:
    return estimate({"value": entry.get("auc"), "low": entry.get("auc_low"), "high": entry.get("auc_high")})


def _recall(entry: Entry, fpr: str) -> Mapping[str, Any] | None:
    recall: Mapping[str, Any] | None = (entry.get("recall_at_fpr") or {}).get(fpr)
    return recall if recall and recall.get("value") is not None else None


def _delay(delay: object) -> Cell:
    if not isinstance(delay, Mapping):
        return estimate(delay)
    figures = [delay.get(name) for name in ("median", "p90", "max")]
    if all(figure is None for figure in figures):
        return NOTHING
    found = f"found in {rate(delay['detected'])}" if delay.get("detected") else ""
    return Cell(" / ".join(str(estimate(figure)) for figure in figures), found)


def _panels(entries: Sequence[tuple[Run, Entry | None]]) -> list[Markup]:
    there = [(run, entry) for run, entry in entries if entry is not None]
    panels = []
    if any(entry.get("roc") for _, entry in there):
        panels.append(_roc(there))
    if any(entry.get("reliability") for _, entry in there):
        panels.append(_reliability(there))
    for run, entry in there:
        name = f", {run.name}" if len(there) > 1 else ""
        panels += [drawn for drawn in (_scores(run, entry, name), _delays(run, entry, name)) if drawn]
    return panels


def _roc(entries: Sequence[tuple[Run, Entry]]) -> Markup:
    layers: list[charts.Series] = []
    for run, entry in entries:
        layers.append(charts.Series(run.accent, [(float(x), float(y)) for x, y in entry.get("roc") or []]))
        marks = [(float(fpr), recall) for fpr in _FPRS if (recall := _recall(entry, fpr)) is not None]
        tips = [f"{run.name}, recall at {100 * fpr:g} % false positives: {rate(recall)}" for fpr, recall in marks]
        points = [(fpr, float(recall["value"])) for fpr, recall in marks]
        layers.append(charts.Series(run.accent, points, (), tips, line=False))
    frame = charts.Panel(
        "false positives", "recall", _SHARES, _SHARES, diagonal=True, title="ROC, marks at 0.5, 1 and 5 %"
    )
    return charts.panel(frame, *layers)


def _reliability(entries: Sequence[tuple[Run, Entry]]) -> Markup:
    layers = []
    for run, entry in entries:
        bins = [(b, counted(round(b["rate"] * b["n"]), b["n"])) for b in entry.get("reliability") or [] if b["n"]]
        filled = [(float(b["mean_signal"]), observed) for b, observed in bins if observed]
        layers.append(
            charts.Series(
                run.accent,
                [(x, observed["value"]) for x, observed in filled],
                [(observed["low"], observed["high"]) for _, observed in filled],
                [f"{run.name}, mean signal {x:.2f}: {rate(observed)} malicious" for x, observed in filled],
            )
        )
    frame = charts.Panel("mean signal", "malicious", _UNIT, _SHARES, diagonal=True, title="Reliability")
    return charts.panel(frame, *layers)


def _scores(run: Run, entry: Entry, name: str) -> Markup | None:
    """Draw the signals of both classes, where the histogram counts them apart."""
    histogram = entry.get("histogram")
    classes = [(read_bins(histogram, label), label) for label in ("malicious", "benign")]
    if not any(n for bins, _ in classes for _, _, n in bins):
        return histogram_panel(run, histogram, "signal", f"Signals{name}")
    layers = [layer(run.accent if label == "malicious" else 6, bins, label) for bins, label in classes]
    highest = max(share for drawn in layers for _, _, share, _ in drawn.bins)
    limit, ticks = share_axis(highest)
    title = f"Signals, benign in grey{name}"
    frame = charts.Panel("signal", "share of its class", _UNIT, ticks, y_limits=(0.0, limit), title=title)
    return charts.panel(frame, *reversed(layers))


def _delays(run: Run, entry: Entry, name: str) -> Markup | None:
    delay = entry.get("delay_tokens")
    histogram = delay.get("histogram") if isinstance(delay, Mapping) else None
    what = "the policy" if str(entry["name"]).endswith("(policy)") else "the first malicious window"
    return histogram_panel(run, histogram, "tokens", f"Delay of {what}{name}")
