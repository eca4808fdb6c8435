"""Filter, split and mix records, and look for what a classifier could learn instead of harm.

All choices are deterministic in the seed and do not depend on the order in which other sources were read.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import statistics
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from safesignal.data.records import Record
from safesignal.errors import DataError, UsageError

__all__ = [
    "NEAR_DUPLICATE",
    "SHIPPABLE",
    "Overlap",
    "OverlapReport",
    "TextStatistics",
    "filter_licence",
    "mix",
    "normalise",
    "prompt_key",
    "split_by_prompt",
    "text_statistics",
    "train_eval_overlap",
]

SHIPPABLE = frozenset({"permissive", "sharealike"})
"""Licences whose rows may train what ships in the package."""

NEAR_DUPLICATE = 0.8
"""Word-set Jaccard similarity from which two texts count as the same, in [0, 1]."""

_QUESTION_WORDS = frozenset(
    {"what", "why", "how", "when", "where", "who", "whom", "whose", "which", "is", "are", "am", "was", "were", "do"}
    | {"does", "did", "can", "could", "should", "would", "will", "shall", "may", "might", "has", "have", "had"}
)


def normalise(text: str) -> str:
    """Return the text as NFKC, lower case, every run of other than a-z and 0-9 as one space, stripped.

    Applying it twice changes nothing.

    Example:
        >>> normalise("  How do I “kill” a Python process?! ")
        'how do i kill a python process'
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"[^a-z0-9]+", " ", folded).strip()


def prompt_key(record: Record) -> str:
    """Return the text that rows of one prompt share, however it is wrapped.

    It is the normalised ``meta["base_prompt"]`` if there is one, else the normalised prompt; where normalising leaves
    nothing (other scripts), the folded text itself, so that such prompts do not all count as one.
    """
    base = record.meta.get("base_prompt")
    text = base if isinstance(base, str) and base.strip() else record.prompt
    return _key(text)


def filter_licence(records: Iterable[Record], allowed: Iterable[str] = SHIPPABLE) -> list[Record]:
    """Return the records whose licence is one of `allowed`; an unknown or unstated licence never passes by accident."""
    permitted = frozenset(allowed)
    return [record for record in records if record.licence in permitted]


def split_by_prompt(records: Iterable[Record], val_fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split into training and validation rows so that no prompt stands on both sides.

    The side of a row depends on its prompt and the seed alone: adding, removing or reordering rows moves no other.
    The share of validation rows is therefore `val_fraction` on average only.

    Args:
        records: Rows; order is kept on both sides.
        val_fraction: Share of prompts for validation, in [0, 1).
        seed: Another seed gives another split.

    Raises:
        UsageError: If `val_fraction` is outside [0, 1).
    """
    if not 0.0 <= val_fraction < 1.0:
        raise UsageError(f"`val_fraction` is {val_fraction}. Expected a number in [0, 1).")
    sides: tuple[list[Record], list[Record]] = ([], [])
    for record in records:
        key = f"{seed}:{prompt_key(record)}".encode("utf-8", "surrogatepass")
        place = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2.0**64
        sides[place < val_fraction].append(record)
    return sides


def mix(
    records_by_source: Mapping[str, Sequence[Record]], weights: Mapping[str, float], n: int, seed: int
) -> list[Record]:
    """Draw `n` records, each source in proportion to its weight, and shuffle them.

    Within a source nothing is drawn twice before everything is drawn once. What is drawn from one source depends on
    its own rows, its count and the seed, not on the other sources.

    Args:
        records_by_source: The rows to draw from.
        weights: A weight of at least 0 for every source; only their ratios matter.
        n: Rows in the result.
        seed: Makes the draw repeatable.

    Raises:
        UsageError: If `n` is negative or weights and sources do not match (all problems at once).
        DataError: If a source with a positive weight is empty.
    """
    _check_weights(records_by_source, weights, n)
    drawn: list[Record] = []
    for name, count in _quotas(weights, n).items():
        pool = records_by_source[name]
        if count and not pool:
            raise DataError(f"source `{name}` has weight {weights[name]} and no rows. Expected at least one row.")
        rng = random.Random(f"{seed}:{name}")
        for start in range(0, count, max(len(pool), 1)):
            drawn += rng.sample(pool, min(count - start, len(pool)))
    random.Random(seed).shuffle(drawn)
    return drawn


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training row that says what an evaluation row says.

    Attributes:
        train_id: Id of the training row.
        eval_id: Id of the evaluation row.
        jaccard: Word-set similarity of the two texts, in [0.8, 1].
    """

    train_id: str
    eval_id: str
    jaccard: float


@dataclass(frozen=True, slots=True)
class OverlapReport:
    """What training and evaluation share; both empty is what a measurement needs.

    Attributes:
        exact: Pairs with equal normalised text.
        near: Other pairs with a word-set Jaccard similarity of at least 0.8.
    """

    exact: tuple[Overlap, ...]
    near: tuple[Overlap, ...]

    def __bool__(self) -> bool:
        """Return whether there is any overlap."""
        return bool(self.exact or self.near)

    @property
    def train_ids(self) -> frozenset[str]:
        """Ids of the training rows to drop."""
        return frozenset(overlap.train_id for overlap in (*self.exact, *self.near))


def train_eval_overlap(train: Iterable[Record], evaluation: Iterable[Record]) -> OverlapReport:
    """Find training rows whose texts equal, or nearly equal, those of evaluation rows.

    Compared are all user turns and, where the row has them, its goal, objective, base prompt and further turns.
    One pair of rows is reported once, with its highest similarity.
    """
    eval_texts = [(record.id, text) for record in evaluation for text in _texts(record)]
    eval_words = [frozenset(text.split()) for _, text in eval_texts]
    frequency = Counter(word for words in eval_words for word in words)
    by_text: dict[str, list[str]] = defaultdict(list)
    by_word: dict[str, list[int]] = defaultdict(list)
    for index, (eval_id, text) in enumerate(eval_texts):
        by_text[text].append(eval_id)
        for word in _prefix(eval_words[index], frequency):
            by_word[word].append(index)
    exact: dict[tuple[str, str], Overlap] = {}
    near: dict[tuple[str, str], Overlap] = {}
    for record in train:
        for text in _texts(record):
            for eval_id in by_text.get(text, ()):
                exact[record.id, eval_id] = Overlap(record.id, eval_id, 1.0)
            words = frozenset(text.split())
            for index in {index for word in _prefix(words, frequency) for index in by_word.get(word, ())}:
                eval_id, similarity = eval_texts[index][0], _jaccard(words, eval_words[index])
                pair = record.id, eval_id
                if similarity >= NEAR_DUPLICATE and (pair not in near or near[pair].jaccard < similarity):
                    near[pair] = Overlap(record.id, eval_id, similarity)
    return OverlapReport(tuple(exact.values()), tuple(pair for key, pair in near.items() if key not in exact))


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """The form of one class of prompts; classes that differ here can be told apart without reading them.

    Attributes:
        count: Prompts.
        words_mean: Mean length in words.
        words_median: Median length in words.
        punctuation_share: Punctuation characters over all characters, in [0, 1].
        question_mark_share: Prompts that end with a question mark, in [0, 1].
        question_form_share: Prompts that end so or begin with a question word, in [0, 1].
    """

    count: int
    words_mean: float
    words_median: float
    punctuation_share: float
    question_mark_share: float
    question_form_share: float


def text_statistics(records: Iterable[Record]) -> dict[str, TextStatistics]:
    """Describe the form of the prompts per prompt label (``unlabelled`` where there is none)."""
    by_label: dict[str, list[str]] = defaultdict(list)
    for record in records:
        by_label[record.prompt_label or "unlabelled"].append(record.prompt.strip())
    return {label: _statistics(texts) for label, texts in sorted(by_label.items())}


def _key(text: str) -> str:
    """Normalise, or fold only, if normalising would leave nothing."""
    return normalise(text) or " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _check_weights(records: Mapping[str, Sequence[Record]], weights: Mapping[str, float], n: int) -> None:
    """Raise one error with everything that is wrong with the arguments of `mix`."""
    problems = [f"`n` is {n}; expected 0 or more"] if n < 0 else []
    problems += [f"source `{name}` has no weight" for name in sorted(set(records) - set(weights))]
    problems += [f"weight `{name}` has no source" for name in sorted(set(weights) - set(records))]
    problems += [
        f"weight `{name}` is {weight}; expected 0 or more and finite"
        for name, weight in weights.items()
        if not 0.0 <= weight < float("inf")
    ]
    if not problems and n > 0 and sum(weights.values()) <= 0.0:
        problems.append("all weights are 0; expected at least one above 0")
    if problems:
        raise UsageError("; ".join(problems) + ".", hint="give every source one weight; 0 leaves it out")


def _quotas(weights: Mapping[str, float], n: int) -> dict[str, int]:
    """Share `n` out by largest remainder; the counts add up to `n` exactly."""
    total = sum(weights.values()) or 1.0
    shares = {name: n * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in [name for name in by_remainder if weights[name] > 0.0][: n - sum(counts.values())]:
        counts[name] += 1
    return counts


def _texts(record: Record) -> list[str]:
    """Return all distinct texts of a row that ask for something, as keys."""
    meta = [record.meta.get(name) for name in ("base_prompt", "goal", "objective")]
    turns = record.meta.get("turns")
    meta += turns if isinstance(turns, list) else []
    asked = [message.content for message in record.messages if message.role == "user"]
    texts = [_key(text) for text in (*asked, *meta) if isinstance(text, str)]
    return list(dict.fromkeys(text for text in texts if text))


def _prefix(words: frozenset[str], frequency: Mapping[str, int]) -> list[str]:
    """Return the rarest words, of which two sets this similar must share one (prefix filter)."""
    ordered = sorted(words, key=lambda word: (frequency.get(word, 0), word))
    # At least ceil(t |x|) words are shared, so one of the first |x| - ceil(t |x|) + 1 in a common order is.
    shared = math.ceil(len(words) * NEAR_DUPLICATE - 1e-9)
    return ordered[: len(words) - shared + 1]


def _jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / (len(left | right) or 1)


def _statistics(texts: Sequence[str]) -> TextStatistics:
    lengths = [len(text.split()) for text in texts]
    characters = sum(map(len, texts))
    punctuation = sum(unicodedata.category(character).startswith("P") for text in texts for character in text)
    marked = [text.rstrip("\"'”’ )").endswith("?") for text in texts]
    first_words = [normalise(text).split(" ", 1)[0] for text in texts]
    asked = [mark or word in _QUESTION_WORDS for mark, word in zip(marked, first_words, strict=True)]
    return TextStatistics(
        count=len(texts),
        words_mean=statistics.fmean(lengths),
        words_median=float(statistics.median(lengths)),
        punctuation_share=punctuation / (characters or 1),
        question_mark_share=sum(marked) / len(texts),
        question_form_share=sum(asked) / len(texts),
    )
