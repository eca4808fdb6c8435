"""How numbers are written: a rate never without its interval and counts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from safesignal.errors import UsageError
from safesignal.report.document import Cell
from safesignal.stats import Rate

__all__ = ["NOTHING", "counted", "estimate", "goal", "number", "parse_goals", "rate", "withheld", "word"]

NOTHING = Cell("–", tone="muted")
"""Where a run has no such figure."""

_GOAL = re.compile(r"(<=|>=|<|>) (\d+(?:\.\d+)?) %")
_CELL_GOAL = re.compile(r"([^<>=]+?)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*%?")


def word(text: object, *, tone: str = "") -> Cell:
    """Return a cell that is text, not a number."""
    return Cell(str(text), tone=tone, number=False)


def number(value: float) -> str:
    """Return a number with about three digits; whole ones as they are.

    Example:
        >>> [number(value) for value in (1024, 34.31, 0.0, 0.04567, 0.00002)]
        ['1024', '34.3', '0', '0.046', '2.0e-05']
    """
    if value == int(value):
        return str(int(value))
    size = abs(value)
    if size < 0.001:
        return f"{value:.1e}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def rate(value: Mapping[str, Any] | None) -> Cell:
    """Return a rate as `3.0 %`, `[1.4, 6.4] (6/200)`; a rate of nothing is not a number.

    Args:
        value: `value`, `low`, `high`, each in [0, 1], and `successes`, `n` where they are counted.
    """
    if value is None or value.get("value") is None:
        return NOTHING
    low, high = (f"{100 * value[bound]:.1f}" for bound in ("low", "high"))
    counts = f" ({value['successes']}/{value['n']})" if "successes" in value else ""
    if not counts and "n" in value:
        counts = f" (n={value['n']})"
    return Cell(f"{100 * value['value']:.1f} %", f"[{low}, {high}]{counts}")


def withheld(entry: Mapping[str, Any]) -> Cell:
    """Return what stands in the place of a rate that errors forbid to name."""
    errored = entry.get("errored")
    return Cell("withheld", f"({errored} errored)" if errored else "(errors in the cell)", tone="missed")


def estimate(value: object) -> Cell:
    """Return whatever stands in a results file: a rate, a figure with an interval, a bare number or a word."""
    if isinstance(value, Mapping) and "successes" in value:
        return rate(value)
    if isinstance(value, Mapping) and value.get("value") is not None:
        if value.get("low") is None or value.get("high") is None:
            return Cell(number(value["value"]))
        counts = f" (n={value['n']})" if "n" in value else ""
        return Cell(number(value["value"]), f"[{number(value['low'])}, {number(value['high'])}]{counts}")
    if isinstance(value, bool) or value is None or isinstance(value, Mapping | list):
        return NOTHING if value is None else word(str(value).lower() if isinstance(value, bool) else "…")
    return Cell(number(value)) if isinstance(value, int | float) else word(value)


def counted(successes: int, n: int) -> dict[str, Any] | None:
    """Return a rate as results files hold it; None if nothing was counted."""
    if n < 1:
        return None
    low, high = Rate(successes, n).interval
    return {"value": successes / n, "low": low, "high": high, "successes": successes, "n": n}


def goal(text: str, value: Mapping[str, Any] | None) -> Cell:
    """Return whether the point of a rate meets a goal such as `< 5 %`; the interval does not help it."""
    match = _GOAL.fullmatch(text)
    if match is None or value is None or value.get("value") is None:
        return word(text, tone="muted")
    bound, point = float(match[2]) / 100, float(value["value"])
    met = {"<": point < bound, "<=": point <= bound, ">": point > bound, ">=": point >= bound}[match[1]]
    return Cell(text, "met" if met else "not met", tone="met" if met else "missed", number=False)


def parse_goals(texts: Sequence[str]) -> dict[str, str]:
    """Return goals such as `prefill-text<5`, in percent, by the cell they are for.

    Raises:
        UsageError: If one is not a cell, a comparison and a number.

    Example:
        >>> parse_goals(["prefill-text<5", "alpaca <= 3.5 %"])
        {'prefill-text': '< 5 %', 'alpaca': '<= 3.5 %'}
    """
    goals = {}
    for text in texts:
        match = _CELL_GOAL.fullmatch(text.strip())
        if match is None:
            raise UsageError(
                f"goal is `{text}`. Expected a cell, a comparison and a percentage.", hint="`--goal 'prefill-text<5'`"
            )
        goals[match[1]] = f"{match[2]} {match[3]} %"
    return goals
