"""What is asked for: behaviors from a public set or a file, sampled the same way for every cell that names the set."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from safesignal.attacks.base import Behavior
from safesignal.data.records import Record, read_records
from safesignal.data.sources import load_source
from safesignal.errors import DataError, UsageError

__all__ = ["BehaviorSet", "fingerprint", "load_behavior_set", "load_behaviors"]


@dataclass(frozen=True, slots=True)
class BehaviorSet:
    """A sample of a data set and what it was drawn from.

    Attributes:
        dataset: Name in the catalog, or path of a file.
        behaviors: The sample, in the set's order.
        n_original: Rows of the whole set.
    """

    dataset: str
    behaviors: tuple[Behavior, ...]
    n_original: int

    def provenance(self) -> dict[str, Any]:
        """Return `sha256`, `n_original` and `n_used`, as `run.json` keeps them."""
        used = len(self.behaviors)
        return {"sha256": fingerprint(self.behaviors), "n_original": self.n_original, "n_used": used}


def load_behaviors(
    dataset: str,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    **only: Any,
) -> list[Behavior]:
    """Return behaviors of a data set; arguments are those of :func:`load_behavior_set`."""
    return list(load_behavior_set(dataset, data_dir, limit, seed, **only).behaviors)


def load_behavior_set(
    dataset: str,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    *,
    label: Literal["malicious", "benign"] | None = None,
    families: Sequence[str] = (),
) -> BehaviorSet:
    """Return behaviors of a data set with their provenance.

    The sample depends on these arguments alone, so cells that share them share their behaviors.

    Args:
        dataset: Name in the catalog, or path of a JSONL file with `prompt` and `prompt_label`.
        data_dir: Folder with local copies of the public sets.
        limit: Draw this many of what is left after `label` and `families`; None takes all.
        seed: Makes the draw repeatable.
        label: Keep only rows of this label.
        families: Keep only published prompts of these methods.

    Raises:
        DataError: If the set cannot be read, or prompts have no label.
        UsageError: If `limit` is below 1 or nothing is left.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"`limit` is {limit}. Expected at least 1, or None for all rows.")
    own_file = Path(dataset).suffix == ".jsonl"
    records = read_records(dataset) if own_file else load_source(dataset, data_dir=data_dir)
    everything = _distinct([_behavior(record, Path(dataset).stem if own_file else dataset) for record in records])
    left = [one for one in everything if label in (None, one.label) and (not families or one.family in families)]
    if not left:
        raise UsageError(f"no row of `{dataset}` is {label or 'of any label'}, of {list(families) or 'any family'}.")
    if limit is not None and limit < len(left):
        chosen = random.Random(f"{seed}:{dataset}").sample(range(len(left)), limit)
        left = [left[index] for index in sorted(chosen)]
    return BehaviorSet(dataset, tuple(left), len(everything))


def fingerprint(behaviors: Sequence[Behavior]) -> str:
    """Return the sha256 of behaviors, which any change of a text, a label or the order changes."""
    digest = sha256()
    for behavior in behaviors:
        digest.update(json.dumps(asdict(behavior), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _behavior(record: Record, dataset: str) -> Behavior:
    if record.prompt_label is None:
        raise DataError(
            f"row {record.id} of `{dataset}` has no label. Expected every prompt to be malicious or benign.",
            hint="attacks need a set of requests, such as advbench or alpaca-benign",
        )
    meta = record.meta
    published = "base_prompt" in meta
    return Behavior(
        id=record.id,
        text=str(meta.get("base_prompt") or record.prompt),
        dataset=dataset,
        label=record.prompt_label,
        category=str(meta.get("category") or meta.get("type") or meta.get("topic") or ""),
        prompt=record.prompt,
        turns=tuple(str(turn) for turn in meta.get("turns") or ())[1:],
        target=str(meta.get("target") or ""),
        family=str(meta.get("method") or (dataset if published else "")),
    )


def _distinct(behaviors: Sequence[Behavior]) -> list[Behavior]:
    """Refuse ids that stand twice: resuming goes by them."""
    twice = [name for name, count in Counter(one.id for one in behaviors).items() if count > 1]
    if twice:
        raise DataError(
            f"`{behaviors[0].dataset}` has {len(twice)} ids twice, first {twice[0]!r}. Expected unique ids."
        )
    return list(behaviors)
