"""The same request in another dress: jailbreak wrappers and noise, always for both labels alike.

Variants come in couples of a benign and a malicious row with the same wrapper or the same kind of noise, so that
neither tells the labels apart.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from safesignal.data.mixture import prompt_key
from safesignal.data.records import Message, Record

__all__ = ["KINDS", "SLOT", "Couple", "couples", "family_licence", "noisy", "wrap"]

SLOT = "[INSERT PROMPT HERE]"
"""Where a template takes the request."""

Couple = tuple[Record, Record]
"""A benign and a malicious row."""


def family_licence(family: str) -> str:
    """Return the licence of a family of templates by its repository (`pyrit/templates`: MIT); else ``unstated``."""
    return {"pyrit": "permissive"}.get(family.partition("/")[0], "unstated")


def couples(records: Iterable[Record], n: int, rng: random.Random) -> list[Couple]:
    """Draw up to `n` benign and as many malicious rows, each prompt once, and couple those of like length."""
    distinct = {(prompt_key(record), record.prompt_label): record for record in records}.values()
    classes = [[record for record in distinct if record.prompt_label == label] for label in ("benign", "malicious")]
    size = min(n, *map(len, classes))
    benign, malicious = (sorted(rng.sample(rows, size), key=_length) for rows in classes)
    drawn = list(zip(benign, malicious, strict=True))
    rng.shuffle(drawn)
    return drawn


def wrap(pairs: Sequence[Couple], templates: Sequence[Record], rng: random.Random) -> list[Couple]:
    """Put both rows of each couple into the same template; all templates take turns.

    Args:
        pairs: What to wrap.
        templates: Rows whose prompt has a `SLOT` and whose source is their family; at least one.
        rng: Orders the templates.
    """
    turns = rng.sample(list(templates), len(templates))
    return [
        (_wrapped(benign, turns[index % len(turns)]), _wrapped(malicious, turns[index % len(turns)]))
        for index, (benign, malicious) in enumerate(pairs)
    ]


def noisy(pairs: Sequence[Couple], kinds: Sequence[str], seed: int) -> list[Couple]:
    """Disturb both rows of each couple in the same manner; couples in which one would stay as it is are left out.

    Args:
        pairs: What to disturb.
        kinds: Out of `KINDS`; they take turns.
        seed: Of the places.
    """
    found: list[Couple] = []
    for index, (benign, malicious) in enumerate(pairs):
        kind = kinds[index % len(kinds)]
        # The same state for both, so that what is chosen first is chosen for both.
        texts = [KINDS[kind](row.prompt, random.Random(f"{seed}:{index}")) for row in (benign, malicious)]
        if texts[0] != benign.prompt and texts[1] != malicious.prompt:
            one, other = (_variant(row, kind, text) for row, text in zip((benign, malicious), texts, strict=True))
            found.append((one, other))
    return found


def _length(record: Record) -> tuple[int, str]:
    return len(record.prompt.split()), record.id


def _wrapped(record: Record, template: Record) -> Record:
    text = template.prompt.replace(SLOT, record.prompt)
    licence = family_licence(template.source)
    made = _variant(record, template.id, text, template=template.id, family=template.source)
    return made if licence == "permissive" else replace(made, licence=licence)


def _variant(record: Record, how: str, text: str, **more: Any) -> Record:
    """Return the row with another prompt and no response."""
    base = record.meta.get("base_prompt", record.prompt)
    meta = {**record.meta, "variant_of": record.id, "variant": how, "base_prompt": base, **more}
    return replace(
        record,
        id=f"{how}/{record.id}",
        messages=(*record.messages[:-1], Message("user", text)),
        response=None,
        response_label="none",
        prefill="",
        meta=meta,
    )


def _typos(text: str, rng: random.Random) -> str:
    """Swap, drop or double a letter in about one of eight longer words, in one at least."""
    pieces = text.split(" ")
    long = [index for index, word in enumerate(pieces) if len(word) > 3 and word.isalpha()]
    for index in rng.sample(long, min(len(long), 1 + len(long) // 8)):
        word, at = pieces[index], rng.randrange(1, len(pieces[index]) - 2)
        middle = rng.choice((word[at + 1] + word[at], word[at + 1], word[at] * 2 + word[at + 1]))
        pieces[index] = word[:at] + middle + word[at + 2 :]
    return " ".join(pieces)


def _case(text: str, rng: random.Random) -> str:
    how: Callable[[str], str] = rng.choice((str.lower, str.upper, string.capwords))
    return how(text)


def _punctuation(text: str, rng: random.Random) -> str:
    bare = text.rstrip().rstrip(string.punctuation)
    how = rng.randrange(4)
    if how == 0:
        return bare
    if how == 1:
        return text.translate(str.maketrans("", "", string.punctuation))
    return bare + ("..." if how == 2 else "!!")


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": _typos,
    "case": _case,
    "punctuation": _punctuation,
}
"""Kinds of noise."""
