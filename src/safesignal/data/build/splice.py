"""Answers behind requests they were not given to: what is said must count, whatever was asked.

A benign request gets a malicious answer, or a benign answer to something else, as many of one as of the other, so that
an answer beside the point says nothing by itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import replace

from safesignal.data.mixture import LICENCES, prompt_key
from safesignal.data.records import Record, with_meta

__all__ = ["shows", "splice"]

_STEM, _FEWEST = 5, 2
"""An answer shows what it is about if it has so many of the request's words, by their first letters."""
_WORD = re.compile(r"[^\W\d_]{5,}")


def splice(records: Iterable[Record], n: int, rng: random.Random) -> list[Record]:
    """Put up to `n` malicious and as many benign answers behind benign requests, each request and answer once.

    Args:
        records: Benign requests; malicious and benign answers to any. A malicious answer is taken if it shows what it
            is about.
        n: Rows of each label.
        rng: Draws.

    Returns:
        Rows with the request's label and the answer's, in couples of like length.
    """
    rows = list(records)
    requests = list({prompt_key(row): row for row in rows if row.prompt_label == "benign"}.values())
    harmful = [row for row in rows if row.response_label == "malicious" and shows(row)]
    harmless = [row for row in rows if row.response_label == row.prompt_label == "benign" and row.response]
    size = min(n, len(harmful), len(harmless), len(requests) // 2)
    asked = rng.sample(requests, 2 * size)
    answers = [sorted(rng.sample(own, size), key=_length) for own in (harmful, harmless)]
    order = rng.sample(range(size), size)
    couples = [[(asked[2 * place + side], answers[side][place]) for side in (0, 1)] for place in order]
    strange = [
        pairs for pairs in couples if all(prompt_key(request) != prompt_key(answer) for request, answer in pairs)
    ]
    return [_spliced(request, answer) for pairs in strange for request, answer in pairs]


def shows(record: Record) -> bool:
    """Tell whether an answer has at least two of the longer words of its request."""
    asked, said = (_stems(text) for text in (record.query, record.prefill + (record.response or "")))
    return len(asked & said) >= _FEWEST


def _stems(text: str) -> set[str]:
    return {word[:_STEM] for word in _WORD.findall(text.lower())}


def _length(record: Record) -> tuple[int, str]:
    return len(record.prefill + (record.response or "")), record.id


def _spliced(request: Record, answer: Record) -> Record:
    made = replace(
        request,
        id=f"splice/{request.id}/{answer.id}",
        prefill=answer.prefill,
        response=answer.response,
        response_label=answer.response_label,
        licence=max(request.licence, answer.licence, key=LICENCES.index),
    )
    return with_meta(made, variant="splice", variant_of=request.id, answer_of=answer.id)
