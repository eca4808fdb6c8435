"""Text of others: what can be shown of it, and what is no text."""

from __future__ import annotations

import unicodedata

__all__ = ["has_surrogate", "visible"]

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Bidirectional classes of the marks that turn the text around them."""


def has_surrogate(text: str) -> bool:
    """Tell whether a text holds half of a surrogate pair, as of an emoji cut in two; no tokenizer takes that."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def visible(text: str) -> str:
    r"""Return text with a mark for what could not be written, move a cursor, colour or reorder what stands around it.

    Example:
        >>> visible("a\x1b[2Jb") == "a\ufffd[2Jb"
        True
    """
    return "".join(c if c in "\n\t" or _is_harmless(c) else "\ufffd" for c in text)


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs") and unicodedata.bidirectional(character) not in _TURNS
