"""Histograms as results files hold them, in any of their forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from safesignal.report import charts
from safesignal.report.numbers import number
from safesignal.report.runs import Run

__all__ = ["Bin", "histogram_panel", "layer", "read_bins", "share_axis"]

Bin = tuple[float, float, int]
"""Lower edge, upper edge, count."""


def read_bins(histogram: object, count: str = "n") -> list[Bin]:
    """Return the bins of a histogram; empty if there is none.

    Args:
        histogram: `{"edges", "counts"}`, or a list of `{"low", "high", n}` or `[low, high, n]`.
        count: Field of a bin that holds its count.
    """
    if isinstance(histogram, Mapping):
        edges, counts = histogram.get("edges") or [], histogram.get(count) or histogram.get("counts") or []
        return [(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]
    if not isinstance(histogram, Sequence) or isinstance(histogram, str):
        return []
    return [bin_ for item in histogram if (bin_ := _bin(item, count)) is not None]


def _bin(item: Any, count: str) -> Bin | None:
    if isinstance(item, Mapping) and "low" in item and "high" in item:
        return float(item["low"]), float(item["high"]), int(item.get(count, item.get("count", 0)))
    if isinstance(item, Sequence) and len(item) == 3:
        return float(item[0]), float(item[1]), int(item[2])
    return None


def layer(accent: int, bins: Sequence[Bin], what: str) -> charts.Bins:
    """Return bins as shares of their sum, with tooltips."""
    total = sum(n for _, _, n in bins) or 1
    shown = [
        (low, high, n / total, f"{what}, {number(low)} to {number(high)}: {n} of {total}") for low, high, n in bins
    ]
    return charts.Bins(accent, shown)


def share_axis(highest: float) -> tuple[float, list[tuple[float, str]]]:
    """Return the end of an axis of shares that holds the highest one, and its ticks."""
    limit = next(limit for limit in (0.1, 0.25, 0.5, 1.0) if highest <= limit or limit == 1.0)
    return limit, [(limit * part / 5, f"{100 * limit * part / 5:g} %") for part in range(6)]


def histogram_panel(run: Run, histogram: object, unit: str, title: str) -> Markup | None:
    """Draw a histogram as a panel of its own, its bins equally wide whatever they hold; None if nothing was counted."""
    bins = read_bins(histogram)
    total = sum(n for _, _, n in bins)
    if not total:
        return None
    limit, ticks = share_axis(max(n for _, _, n in bins) / total)
    edges = [*(low for low, _, _ in bins), bins[-1][1]]
    every = -(-len(edges) // 8)
    marks = [(float(place), number(edge)) for place, edge in enumerate(edges) if place % every == 0]
    drawn = layer(run.accent, bins, f"{run.name}, {unit}")
    even = [(float(place), place + 1.0, share, tip) for place, (_, _, share, tip) in enumerate(drawn.bins)]
    frame = charts.Panel(unit, f"share of {total}", marks, ticks, (0.0, float(len(bins))), (0.0, limit), title=title)
    return charts.panel(frame, charts.Bins(run.accent, even))
