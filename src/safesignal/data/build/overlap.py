"""Keep what evaluations measure on out of training rows. Evaluation texts are read here for nothing else."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safesignal.data.jsonl import read_jsonl
from safesignal.data.mixture import text_key
from safesignal.data.records import Record
from safesignal.errors import DataError

__all__ = ["NearIndex", "eval_files", "eval_texts", "touches"]


def eval_files(data_dir: str | Path) -> list[Path]:
    """Return the files of a data folder that evaluations measure on, sorted by name.

    Raises:
        DataError: If there is none, so that nothing could be kept out.
    """
    found = sorted(Path(data_dir).glob("eval_*.jsonl"))
    if not found:
        raise DataError(
            f"no evaluation set lies in {data_dir}. Expected files `eval_*.jsonl` to keep out of the training rows.",
            hint="name the folder with `--data_dir`, or set `eval_jaccard: null` in the recipe to compare nothing",
        )
    return found


def eval_texts(files: Iterable[Path]) -> Iterator[str]:
    """Yield every text in every row: prompts, goals, questions, turns, answers, whatever the field is called."""
    for file in files:
        for _, row in read_jsonl(file):
            yield from _strings(row)


class NearIndex:
    """Texts, searched for one whose words are nearly those of a query.

    Finds what comparing with every text would find: two sets this similar must share one of their rarest words.

    Example:
        >>> index = NearIndex(["Bake a loaf of bread"], 0.6)
        >>> index.near("bake a LOAF of rye bread!"), index.near("slice the bread")
        (True, False)
    """

    def __init__(self, texts: Iterable[str], threshold: float) -> None:
        """Index the texts.

        Args:
            texts: Compared in normalised form; equal ones count once.
            threshold: Word-set Jaccard similarity from which a query is near, in (0, 1].
        """
        self._threshold = threshold
        unique = {words: None for text in texts if (words := frozenset(text_key(text).split()))}
        self._sets = list(unique)
        self._frequency = Counter(word for words in self._sets for word in words)
        self._by_word: dict[str, list[int]] = defaultdict(list)
        for index, words in enumerate(self._sets):
            for word in self._rarest(words):
                self._by_word[word].append(index)

    def __len__(self) -> int:
        """Return the number of different texts."""
        return len(self._sets)

    def near(self, text: str) -> bool:
        """Return whether a text's words are nearly those of an indexed one."""
        words = frozenset(text_key(text).split())
        candidates = {index for word in self._rarest(words) for index in self._by_word.get(word, ())}
        return any(self._similar(words, self._sets[index]) for index in candidates)

    def _rarest(self, words: frozenset[str]) -> list[str]:
        """Return the rarest words, of which two sets this similar must share one (prefix filter)."""
        ordered = sorted(words, key=lambda word: (self._frequency.get(word, 0), word))
        # At least ceil(t |x|) words are shared, so one of the first |x| - ceil(t |x|) + 1 in a common order is.
        shared = math.ceil(len(words) * self._threshold - 1e-9)
        return ordered[: len(words) - shared + 1]

    def _similar(self, left: frozenset[str], right: frozenset[str]) -> bool:
        common = len(left & right)
        return common >= self._threshold * (len(left) + len(right) - common) - 1e-9


def touches(record: Record, index: NearIndex) -> bool:
    """Return whether any user turn of a row, or the prompt under its wrapper, is near an indexed text."""
    base = record.meta.get("base_prompt")
    return any(index.near(text) for text in (*record.user_turns, *([base] if isinstance(base, str) else [])))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
