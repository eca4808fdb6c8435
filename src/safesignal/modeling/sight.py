"""One safety row, resolved to token positions, and which of those that read a text anew can share a reading of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Sight", "texts_of"]


@dataclass(frozen=True, slots=True)
class Sight:
    """One safety row, resolved to token positions.

    Attributes:
        ranges: The (start, end) positions it sees.
        position: Its own position id.
        since: The first text position that sees it; -1: nobody does.
        ids: The text it reads anew, a prompt or a prompt and what was written to it; empty: it looks at what the base
            has read and no more.
        doubted: Whether it looks first, and reads anew only what looks suspicious (checks of an answer).
    """

    ranges: tuple[tuple[int, int], ...]
    position: int
    since: int = -1
    ids: tuple[int, ...] = ()
    doubted: bool = False

    @property
    def looks(self) -> bool:
        """Whether it looks at what the base has read, if only at first."""
        return self.doubted or not self.ids


def texts_of(sights: Sequence[Sight]) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Return the texts that checks read anew, and per text where in it each of its checks ends.

    Checks that follow one another share a text where one's is what another's begins with, as windows of one answer do:
    nobody reads ahead, so the longest text holds what each would read alone.
    """
    texts: list[tuple[int, ...]] = []
    ends: list[list[int]] = []
    for sight in sights:
        if texts and _begins(texts[-1], sight.ids):
            texts[-1] = max(texts[-1], sight.ids, key=len)
            ends[-1].append(len(sight.ids))
        else:
            texts.append(sight.ids)
            ends.append([len(sight.ids)])
    return texts, ends


def _begins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
