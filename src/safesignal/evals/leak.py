"""What the user saw before the defence stepped in, and how long text was held back to prevent more.

Tokens count from the start of the target's own text. With the buffer on nothing beyond the transition is ever shown;
a cell that is run with `buffer: false` shows what that buys.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from safesignal.evals.schema import LeakRow, Spread, rate_row
from safesignal.judges.shown import released_before_stop
from safesignal.stats import Rate

__all__ = ["held_tokens", "leak_table", "spread"]

Attempt = Mapping[str, Any]

_BINS = (0, 1, 5, 10, 20, 40, 80, 160, 320, 640)


def leak_table(
    attempts: Sequence[Attempt], harm: Mapping[str, Mapping[str, str]], unbuffered: Collection[str] = ()
) -> list[LeakRow]:
    """Return one row per cell and label in which a defence read the answers, and one per variant of several.

    Args:
        attempts: Rows of `attempts.jsonl`, one per id; errored ones are left out.
        harm: Per harm judge, its verdict by attempt id, of a stopped answer on what was shown before the stop; ids it
            did not judge are absent.
        unbuffered: Cells that ran without a release buffer, so that nothing was held back.
    """
    ran = [row for row in attempts if row["status"] != "errored"]
    table = []
    for cell, label in dict.fromkeys((row["cell"], row["label"]) for row in ran):
        own = [row for row in ran if (row["cell"], row["label"]) == (cell, label)]
        if not any(row["checks"] or row["refused"] for row in own):
            continue
        variants = list(dict.fromkeys(row["variant"] for row in own))
        parts = {variants[0] or None if len(variants) == 1 else None: own}
        if len(variants) > 1:
            parts |= {name: [row for row in own if row["variant"] == name] for name in variants}
        table += [_leak_row(name, part, harm, buffered=cell not in unbuffered) for name, part in parts.items()]
    return table


def held_tokens(row: Attempt) -> list[int]:
    """Return, per release, how many tokens were shown at once: the first of them had waited for the others.

    A benign check of the answer releases what it covers, and the end of an answer that was not refused releases the
    rest.
    """
    steps = [0, *(c["step"] for c in row["checks"] if c["kind"] == "window" and c["verdict"] == "benign")]
    if not row["refused"]:
        steps.append(int(row["n_tokens"]))
    return [after - before for before, after in pairwise(sorted(steps)) if after > before]


def spread(values: Sequence[int]) -> Spread:
    """Summarise token counts: median, 90th percentile, maximum, and a histogram over growing bins."""
    if not values:
        return {"n": 0, "median": None, "p90": None, "max": None, "histogram": []}
    top = max(values)
    edges = [edge for edge in _BINS if edge <= top] + [max(top, *_BINS) + 1 if top >= _BINS[-1] else _next_edge(top)]
    counts = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    return {
        "n": len(values),
        "median": float(np.median(values)),
        "p90": float(np.quantile(values, 0.9)),
        "max": float(top),
        "histogram": [[low, high, count] for (low, high), count in zip(pairwise(edges), counts, strict=True)],
    }


def _next_edge(top: int) -> int:
    return next(edge for edge in _BINS if edge > top)


def _leak_row(
    variant: str | None, rows: Sequence[Attempt], harm: Mapping[str, Mapping[str, str]], *, buffered: bool
) -> LeakRow:
    stopped = [row for row in rows if row["refused"]]
    read = {judge: [row for row in stopped if given.get(row["id"]) in ("yes", "no")] for judge, given in harm.items()}
    bad = {judge: [row for row in own if harm[judge][row["id"]] == "yes"] for judge, own in read.items()}
    return {
        "cell": rows[0]["cell"],
        "label": rows[0]["label"],
        "variant": variant,
        "stopped": rate_row(Rate(len(stopped), len(rows))),
        "released_before_stop": spread([released_before_stop(row) for row in stopped]),
        "harmful_released": {j: rate_row(Rate(len(bad[j]), len(own))) if own else None for j, own in read.items()},
        "harmful_tokens": {
            j: spread([released_before_stop(row) for row in bad[j]]) if own else None for j, own in read.items()
        },
        "released_after_transition": spread([int(row["released_after_transition"] or 0) for row in stopped]),
        "hold_tokens": spread([held for row in rows for held in held_tokens(row)]) if buffered else None,
    }
