"""From released ids to released text: never half a character, never half a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextStream", "cut_at_stop"]

_HALF_CHARACTER = "\ufffd"


def cut_at_stop(text: str, stop_strings: Sequence[str]) -> str:
    """Return the text before the first stop string in it."""
    found = [text.index(stop) for stop in stop_strings if stop in text]
    return text[: min(found)] if found else text


class TextStream:
    """Decode one row's released ids piece by piece; the pieces joined are the whole text.

    A piece waits while it ends in a split character or in what may become a stop string
    (tests/invariants/test_release.py).
    """

    def __init__(self, to_text: Callable[[Sequence[int]], str], stop_strings: Sequence[str] = ()) -> None:
        self._to_text = to_text
        self._stop_strings = tuple(stop_strings)
        self._ids: list[int] = []
        self._sent = 0

    def push(self, ids: Sequence[int], *, final: bool = False, cut: bool = True) -> str:
        """Add released ids and return the text that is certain now; all of it when `final`.

        `cut` is off once the answer was refused: no stop string ends a refusal.
        """
        self._ids += ids
        if not cut:
            self._stop_strings = ()
        whole = self._to_text(self._ids)
        text = cut_at_stop(whole, self._stop_strings)
        # A stop string may lie inside the beginning of a longer one that comes true later.
        certain = len(text) if final else min(len(text), len(whole) - self._uncertain(whole))
        piece = text[self._sent : max(certain, self._sent)]
        self._sent = max(certain, self._sent)
        return piece

    def _uncertain(self, text: str) -> int:
        """Return how many characters at the end may still change or turn out to be a stop string."""
        solid = text.rstrip(_HALF_CHARACTER)
        half = len(text) - len(solid)
        # The split character may be the next one of a stop string that began before it.
        return max(half, self._begun(text), half + self._begun(solid))

    def _begun(self, text: str) -> int:
        """Return how many characters at the end are the beginning of a stop string."""
        longest = max(map(len, self._stop_strings), default=0)
        for length in range(min(longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop_strings):
                return length
        return 0
