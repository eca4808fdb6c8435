"""What the parts of a mixture share: licences that ship, what makes two texts one, the split by prompt.

All choices are deterministic in the seed and do not depend on the order in which other sources were read.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping

from safesignal.data.records import Record
from safesignal.errors import UsageError

__all__ = [
    "LICENCES",
    "SHIPPABLE",
    "SPLIT_SEED",
    "base_prompt",
    "filter_licence",
    "normalise",
    "prompt_key",
    "quotas",
    "split_by_prompt",
    "text_key",
]

SPLIT_SEED = 0
"""Of the split into training and validation prompts, which is one and the same for all runs."""
LICENCES = ("permissive", "sharealike", "noncommercial", "unstated")
"""What a row may say of its licence."""
_OTHER_LETTER = re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")
"""A letter that is not Latin."""
SHIPPABLE = frozenset({"permissive", "sharealike"})
"""Licences whose rows may train what ships in the package."""


def normalise(text: str) -> str:
    """Return the text as NFKC, lower case, every run of other than a-z and 0-9 as one space, stripped.

    Applying it twice changes nothing.

    Example:
        >>> normalise("  How do I “kill” a Python process?! ")
        'how do i kill a python process'
    """
    folded = unicodedata.normalize("NFKC", text).lower()
    return re.sub(r"[^a-z0-9]+", " ", folded).strip()


def text_key(text: str) -> str:
    """Return what makes two texts one: normalised, with letters of other scripts; of a text of signs alone, the signs.

    Example:
        >>> text_key("Write an APP!"), text_key("帮我写一个 APP!"), text_key("?!")
        ('write an app', '帮我写一个 app', '?!')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not _OTHER_LETTER.search(folded):
        return normalise(text) or " ".join(folded.split())
    return " ".join("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in folded).split())


def base_prompt(record: Record) -> str:
    """Return the text that a row's variants are known by: ``meta["base_prompt"]`` if there is one, else the query."""
    base = record.meta.get("base_prompt")
    return base if isinstance(base, str) and base.strip() else record.query


def prompt_key(record: Record) -> str:
    """Return what rows of one prompt share, however it is wrapped: the key of its `base_prompt`."""
    return text_key(base_prompt(record))


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


def quotas(weights: Mapping[str, float], n: int) -> dict[str, int]:
    """Share `n` out by largest remainder; the counts add up to `n` exactly.

    Args:
        weights: At least 0, and only their ratios matter.
        n: What is shared, at least 0.

    Example:
        >>> quotas({"a": 3.0, "b": 1.0}, 10)
        {'a': 8, 'b': 2}
    """
    total = sum(weights.values()) or 1.0
    shares = {name: n * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: (counts[name] - shares[name], name))
    for name in [name for name in by_remainder if weights[name] > 0.0][: n - sum(counts.values())]:
        counts[name] += 1
    return counts
