"""The same request in another dress: jailbreak wrappers and noise, always for both labels alike.

Variants come in couples of a benign and a malicious row with the same wrapper or the same kind of noise, so that
neither tells the labels apart.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from safesignal.data.mappers import SLOT
from safesignal.data.mixture import base_prompt, prompt_key
from safesignal.data.records import Message, Record

__all__ = ["KINDS", "Couple", "couples", "family_licence", "noisy", "reworded", "wrap"]

Couple = tuple[Record, Record]
"""A benign and a malicious row."""


def family_licence(family: str) -> str:
    """Return the licence of a family of templates by its repository (`pyrit/templates`: MIT); else ``unstated``."""
    return {"pyrit": "permissive", "safesignal": "permissive"}.get(family.partition("/")[0], "unstated")


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


def reworded(record: Record, how: str, text: str, **more: Any) -> Record:
    """Return the row with another last message and no response; `how` begins its id, `more` is added to its meta."""
    return replace(
        record,
        id=f"{how}/{record.id}",
        messages=(*record.messages[:-1], Message("user", text)),
        response=None,
        response_label="none",
        meta={**record.meta, **more},
    )


def _length(record: Record) -> tuple[int, str]:
    return len(record.prompt.split()), record.id


def _wrapped(record: Record, template: Record) -> Record:
    text = template.prompt.replace(SLOT, record.prompt)
    licence = family_licence(template.source)
    made = _variant(record, template.id, text, template=template.id, family=template.source)
    return made if licence == "permissive" else replace(made, licence=licence)


def _variant(record: Record, how: str, text: str, **more: Any) -> Record:
    """Return the row with another prompt and no response, on the original's side of the split."""
    origin = {"variant_of": record.id, "variant": how, "base_prompt": base_prompt(record)}
    return replace(reworded(record, how, text, **origin, **more), prefill="")


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
    """Change the case of everything, or of letters here and there."""
    share = rng.uniform(0.2, 0.8)
    how: Callable[[str], str] = rng.choice((str.lower, str.upper, string.capwords, lambda t: _flipped(t, share, rng)))
    return how(text)


def _flipped(text: str, share: float, rng: random.Random) -> str:
    return "".join(letter.swapcase() if rng.random() < share else letter for letter in text)


def _letters(text: str, rng: random.Random) -> str:
    """Write some or all of the letters that have look-alikes as one of these."""
    script, share = rng.choice(_LOOKALIKES), rng.uniform(0.3, 1)
    return "".join(script.get(c.lower(), c) if rng.random() < share else c for c in text)


def _spacing(text: str, rng: random.Random) -> str:
    """Put the same separator between letters, in some or all of the places."""
    separator, share = rng.choice((" ", " ", ".", "-", "_", "*", "\u200b")), rng.uniform(0.3, 1)
    return re.sub(r"(?<=\w)(?=\w)", lambda _: separator if rng.random() < share else "", text)


def _gibberish(text: str, rng: random.Random) -> str:
    """Put a run of unrelated scraps behind the text, sometimes before it, as an optimised suffix looks."""
    scraps = " ".join(_scrap(rng) for _ in range(rng.randint(6, 24)))
    return f"{scraps} {text}" if rng.random() < 0.2 else f"{text} {scraps}"


def _scrap(rng: random.Random) -> str:
    letters = "".join(rng.choices(string.ascii_letters, weights=[2] * 26 + [1] * 26, k=rng.randint(1, 7)))
    marks = "".join(rng.choices(string.punctuation, k=rng.randint(1, 3)))
    return rng.choice((letters, letters, rng.choice(_SYLLABLES) + rng.choice(_SYLLABLES), marks, marks + letters))


def _punctuation(text: str, rng: random.Random) -> str:
    bare = text.rstrip().rstrip(string.punctuation)
    how = rng.randrange(4)
    if how == 0:
        return bare
    if how == 1:
        return text.translate(str.maketrans("", "", string.punctuation))
    return bare + ("..." if how == 2 else "!!")


_LOOKALIKES = (
    dict(zip("abegiostz", "483910572", strict=True)),
    dict(zip("aeiosl", "@3!0$1", strict=True)),
    dict(zip("aeiouycn", "áéíóúýçñ", strict=True)),
    dict(zip("aceopxyi", "асеорхуі", strict=True)),  # noqa: RUF001 (Cyrillic)
)
_SYLLABLES = (
    "tri", "ver", "lam", "out", "Head", "ing", "ism", "call", "net", "Grey", "ously", "map", "Per", "col", "tab",
    "river", "Int", "sum", "get", "ward", "ora", "xml", "fn", "quo", "mente", "ung", "Box", "less", "un", "ple",
)  # fmt: skip


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "typos": _typos,
    "case": _case,
    "punctuation": _punctuation,
    "letters": _letters,
    "spacing": _spacing,
    "gibberish": _gibberish,
}
"""Kinds of noise."""
