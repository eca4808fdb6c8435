"""Find rows that say the same: equal once normalised, or nearly so by MinHash and a verified similarity."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safesignal.data.mixture import text_key
from safesignal.data.records import Record

__all__ = ["jaccard", "shingles", "signatures", "unique"]

# Shapes: N rows, H hashes.

_HASHES, _BAND = 64, 4
"""Of 16 bands of 4 hashes one agrees with probability 0.9998 at a similarity of 0.8, and 0.64 at 0.5."""

_SIZE = 3
"""Words per shingle."""


def shingles(text: str) -> frozenset[str]:
    """Return the word 3-grams of the normalised text; a shorter text is one shingle.

    Example:
        >>> sorted(shingles("How do I bake?"))
        ['do i bake', 'how do i']
    """
    words = text_key(text).split()
    return frozenset(" ".join(words[i : i + _SIZE]) for i in range(max(len(words) - _SIZE + 1, 1)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the shared part of two sets, in [0, 1]; 1 for two empty ones."""
    return len(left & right) / len(left | right) if left or right else 1.0


def signatures(sets: Sequence[frozenset[str]], seed: int) -> NDArray[np.uint64]:
    """Return MinHash signatures: (N, H), two rows agree in a column with the probability of their similarity."""
    rng = np.random.default_rng(seed)
    limit = np.iinfo(np.uint64).max
    factor_H1, shift_H1 = (rng.integers(limit, size=(_HASHES, 1), dtype=np.uint64) for _ in range(2))
    found = np.empty((len(sets), _HASHES), dtype=np.uint64)
    for index, parts in enumerate(sets):
        # Odd factors permute the 64-bit numbers; products wrap around.
        found[index] = ((factor_H1 | np.uint64(1)) * _hashes(parts) + shift_H1).min(axis=1)
    return found


def unique(records: Sequence[Record], threshold: float, seed: int) -> tuple[list[Record], list[tuple[Record, str]]]:
    """Keep the first of rows that say the same, and name the reason each other one was dropped for.

    Rows of the same prompt with different responses are different rows; a prompt without a response is dropped if a
    row has the same prompt with one. Near duplicates of different labels are both kept, because contrastive pairs are
    near on purpose; equal ones of different labels are all dropped. A prompt is all of a conversation's user turns.

    Args:
        records: Rows, in the order of precedence.
        threshold: Similarity in word 3-grams, of prompts and of responses, from which two rows are one; at least 0.5.
        seed: Of the hashes.

    Returns:
        The kept rows, and the dropped ones with `conflicting label`, `duplicate` or `near duplicate`.
    """
    left, dropped = _without_conflicts(records)
    left, more = _without_equals(left)
    kept, most = _without_near(left, threshold, seed)
    return kept, [*dropped, *more, *most]


def _hashes(parts: Iterable[str]) -> NDArray[np.uint64]:
    digests = [hashlib.blake2b(part.encode("utf-8", "surrogatepass"), digest_size=8).digest() for part in sorted(parts)]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _without_conflicts(records: Sequence[Record]) -> tuple[list[Record], list[tuple[Record, str]]]:
    keyed = [(text_key(record.query), record) for record in records]
    labels: dict[str, set[str]] = defaultdict(set)
    for key, record in keyed:
        if record.prompt_label is not None:
            labels[key].add(record.prompt_label)
    torn = {key for key, found in labels.items() if len(found) > 1}
    kept = [record for key, record in keyed if key not in torn]
    return kept, [(record, "conflicting label") for key, record in keyed if key in torn]


def _without_equals(records: Sequence[Record]) -> tuple[list[Record], list[tuple[Record, str]]]:
    keyed = [(text_key(record.query), record) for record in records]
    answered = {prompt for prompt, record in keyed if record.response}
    seen: set[tuple[str, str]] = set()
    kept: list[Record] = []
    dropped: list[tuple[Record, str]] = []
    for prompt, record in keyed:
        key = prompt, text_key(record.response or "")
        if key in seen or (not record.response and prompt in answered):
            dropped.append((record, "duplicate"))
        else:
            seen.add(key)
            kept.append(record)
    return kept, dropped


@dataclass(frozen=True, slots=True)
class _Row:
    label: str | None
    prompt: frozenset[str]
    response: frozenset[str] | None


def _without_near(
    records: Sequence[Record], threshold: float, seed: int
) -> tuple[list[Record], list[tuple[Record, str]]]:
    rows = [_Row(r.prompt_label, shingles(r.query), shingles(r.response) if r.response else None) for r in records]
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    kept: list[Record] = []
    dropped: list[tuple[Record, str]] = []
    for index, signature_H in enumerate(signatures([row.prompt for row in rows], seed)):
        bands = [(start, signature_H[start : start + _BAND].tobytes()) for start in range(0, _HASHES, _BAND)]
        near = {other for band in bands for other in buckets.get(band, ())}
        if any(_same(rows[index], rows[other], threshold) for other in near):
            dropped.append((records[index], "near duplicate"))
            continue
        kept.append(records[index])
        for band in bands:
            buckets[band].append(index)
    return kept, dropped


def _same(one: _Row, other: _Row, threshold: float) -> bool:
    if one.label != other.label or (one.response is None) != (other.response is None):
        return False
    if jaccard(one.prompt, other.prompt) < threshold:
        return False
    return one.response is None or other.response is None or jaccard(one.response, other.response) >= threshold
