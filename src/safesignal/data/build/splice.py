"""Answers behind requests they were not given to: what is said must count, whatever was asked.

A benign request gets a malicious answer, or a benign answer to something else, as many of one as of the other, so that
an answer beside the point says nothing by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from safesignal.data.mixture import LICENCES, SPLIT_SEED, prompt_key, split_by_prompt
from safesignal.data.records import Record, with_meta

__all__ = ["SPLICE", "shows", "splice"]

SPLICE = "splice"
"""What such a row says of itself as its `variant`: the answer is nobody's own."""

_STEM = re.compile(r"(?<![^\W\d_])[^\W\d_]{5}")
_FEWEST = 2
"""An answer shows what it is about if it has so many of the longer words of its request, by their first letters."""
_ANSWERED = ("job", "on_policy", "temperature", "model", "family", "template")
"""What a row says of how it was made, which does not hold of it with another answer."""


def splice(records: Iterable[Record], n: int, rng: random.Random, val_fraction: float) -> list[Record]:
    """Put up to `n` malicious and as many benign answers behind benign requests, each request and answer once.

    Args:
        records: Benign requests; malicious and benign answers to any. A malicious answer is taken if it shows what it
            is about.
        n: Rows of each label.
        rng: Draws.
        val_fraction: Share of prompts, by hash, that training keeps for validation, in [0, 1): an answer goes behind a
            request of the same side, so that none stands on both.

    Returns:
        Rows with the request's label and the answer's, in couples.
    """
    train, val = split_by_prompt(records, val_fraction, SPLIT_SEED)
    kept = round(n * val_fraction)
    return _behind_others(train, n - kept, rng) + _behind_others(val, kept, rng)


def _behind_others(rows: Sequence[Record], n: int, rng: random.Random) -> list[Record]:
    requests = list({prompt_key(row): row for row in rows if row.prompt_label == "benign"}.values())
    harmful = [row for row in rows if row.response_label == "malicious" and shows(row)]
    harmless = [row for row in rows if row.response_label == row.prompt_label == "benign" and row.response]
    size = min(n, len(harmful), len(harmless), len(requests) // 2)
    asked = rng.sample(requests, 2 * size)
    behind = [
        list(zip(asked[side::2], sorted(rng.sample(own, size), key=_length), strict=True))
        for side, own in enumerate((harmful, harmless))
    ]
    couples = rng.sample(list(zip(*behind, strict=True)), size)
    strange = [
        pairs for pairs in couples if all(prompt_key(request) != prompt_key(answer) for request, answer in pairs)
    ]
    return [_spliced(request, answer) for pairs in strange for request, answer in pairs]


def shows(record: Record) -> bool:
    """Tell whether an answer has at least two of the longer words of its request."""
    asked, said = (_stems(text) for text in (record.query, record.prefill + (record.response or "")))
    return len(asked & said) >= _FEWEST


def _stems(text: str) -> set[str]:
    return set(_STEM.findall(text.lower()))


def _length(record: Record) -> tuple[int, str]:
    return len(record.prefill + (record.response or "")), record.id


def _spliced(request: Record, answer: Record) -> Record:
    own = {name: value for name, value in request.meta.items() if name not in _ANSWERED}
    made = replace(
        request,
        meta=own,
        id=f"{SPLICE}/{request.id}/{answer.id}",
        prefill=answer.prefill,
        response=answer.response,
        response_label=answer.response_label,
        licence=max(request.licence, answer.licence, key=LICENCES.index),
    )
    return with_meta(made, variant=SPLICE, variant_of=request.id, answer_of=answer.id)
