"""Subsample two classes until they agree in form, cell by cell."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from safesignal.data.build.form import KEYS, LENGTH_BINS, form_of
from safesignal.data.mixture import prompt_key
from safesignal.data.records import Record

__all__ = ["group_of", "match"]


def group_of(record: Record) -> str:
    """Return what rows share that must not be told apart by chance: their pair if they have one, else their prompt."""
    pair = record.meta.get("pair")
    return f"pair:{pair}" if pair else f"prompt:{prompt_key(record)}"


def match(
    records: Sequence[Record], *, by: Sequence[str] = KEYS, bins: Sequence[int] = LENGTH_BINS, seed: int = 0
) -> tuple[list[Record], dict[str, Any]]:
    """Keep equally many rows of both labels in every cell of form, and say how many that were.

    In a cell the rows whose twin of the other label is there too are kept first, the others by seed. Unlabelled rows
    are dropped.

    Args:
        records: Labelled rows.
        by: What makes a cell, out of form, length, ending and case.
        bins: Word counts at which a new length bin begins.
        seed: Of the choice; it does not depend on the order of the rows.

    Returns:
        The kept rows in their order; and `before` and `kept` per label, `share` of the rows kept in [0, 1], and
        `cells`, those with a row and `mixed`, those with rows of both labels.
    """
    cells: dict[tuple[str | int, ...], dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.prompt_label is not None:
            cells[form_of(record.prompt).cell(by, bins)][record.prompt_label].append(record)
    kept: set[str] = set()
    for classes in cells.values():
        if len(classes) == 2:
            kept.update(_balanced(classes, seed))
    rows = [record for record in records if record.id in kept]
    return rows, {
        "before": _by_label(records),
        "kept": _by_label(rows),
        "share": len(rows) / max(len(records), 1),
        "cells": len(cells),
        "mixed": sum(len(classes) == 2 for classes in cells.values()),
    }


def _balanced(classes: dict[str, list[Record]], seed: int) -> list[str]:
    """Return the ids to keep in one cell."""
    groups = [{group_of(record) for record in rows} for rows in classes.values()]
    twins = groups[0] & groups[1]
    size = min(map(len, classes.values()))

    def order(record: Record) -> tuple[bool, str, float, str]:
        group = group_of(record)
        alone = group not in twins
        return alone, "" if alone else group, random.Random(f"{seed}:{record.id}").random(), record.id

    return [record.id for rows in classes.values() for record in sorted(rows, key=order)[:size]]


def _by_label(records: Sequence[Record]) -> dict[str, int]:
    return dict(sorted(Counter(record.prompt_label or "unlabelled" for record in records).items()))
