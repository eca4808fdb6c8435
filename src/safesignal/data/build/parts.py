"""Read the parts of a recipe, keep the rows that may be used, and draw as many as it asks for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safesignal.data.build.recipe import Part, Recipe
from safesignal.data.mixture import quotas
from safesignal.data.records import Record, read_records, with_meta
from safesignal.data.sources import load_training
from safesignal.errors import DataError

__all__ = ["Dropped", "draw", "permitted", "read_part", "require_distinct_ids"]

Dropped = list[tuple[Record, str]]
"""Rows that were left out, each with the reason."""


def read_part(part: Part, data_dir: str | Path | None) -> list[Record]:
    """Return all rows of a part; ``meta["part"]`` names it."""
    found = read_records(part.file) if part.file else load_training(part.source, data_dir=data_dir)
    rows = [with_meta(replace(row, source=row.source or part.name), part=part.name) for row in found]
    return rows if part.responses else [replace(row, response=None, response_label="none", prefill="") for row in rows]


def permitted(rows: Sequence[Record], part: Part, licences: Sequence[str]) -> tuple[list[Record], Dropped]:
    """Split into rows with an allowed licence and the part's label, and the others."""
    kept: list[Record] = []
    dropped: Dropped = []
    for row in rows:
        if row.licence not in licences:
            dropped.append((row, f"licence: {row.licence}"))
        elif part.label not in (None, row.prompt_label):
            dropped.append((row, f"label: {row.prompt_label}"))
        else:
            kept.append(row)
    return kept, dropped


def draw(recipe: Recipe, pools: Mapping[str, Sequence[Record]]) -> dict[str, list[Record]]:
    """Draw each part's rows from what stands of it, in their order; a part that holds fewer gives all it has.

    What is drawn from a part depends on its own rows, its count and the seed, not on other parts.
    """
    shares = quotas({part.name: part.weight for part in recipe.parts if part.weight is not None}, recipe.total)
    drawn: dict[str, list[Record]] = {}
    for part in recipe.parts:
        pool = pools.get(part.name, ())
        asked = shares.get(part.name, part.n)
        size = len(pool) if asked is None else min(asked, len(pool))
        chosen = random.Random(f"{recipe.seed}:{part.name}").sample(range(len(pool)), size)
        drawn[part.name] = [pool[index] for index in sorted(chosen)]
    return drawn


def require_distinct_ids(rows: Sequence[Record]) -> None:
    """Raise if two different rows have one id, which variants and training go by."""
    seen: dict[str, Record] = {}
    for row in rows:
        other = seen.setdefault(row.id, row)
        if other is not row:
            raise DataError(
                f"id {row.id!r} stands in part `{other.meta['part']}` and in part `{row.meta['part']}` with different "
                "rows. Expected an id for each row.",
                hint="name the source once, or give the rows of the file other ids",
            )
