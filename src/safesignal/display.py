"""Text of others as a terminal or a page may show it."""

from __future__ import annotations

import unicodedata

__all__ = ["visible"]

_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Bidirectional classes of the marks that turn the text around them."""


def visible(text: str) -> str:
    r"""Return text with a mark for what could not be written, move a cursor, colour or reorder what stands around it.

    Example:
        >>> visible("a\x1b[2Jb") == "a\ufffd[2Jb"
        True
    """
    return "".join(c if c in "\n\t" or _is_harmless(c) else "\ufffd" for c in text)


def _is_harmless(character: str) -> bool:
    return unicodedata.category(character) not in ("Cc", "Cs") and unicodedata.bidirectional(character) not in _TURNS
