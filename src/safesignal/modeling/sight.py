"""One safety row, resolved to token positions, and which of those that read a text anew can share a reading of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safesignal.modeling.chat import Encoded

__all__ = ["Sight", "shared_texts"]


@dataclass(frozen=True, slots=True)
class Sight:
    """One safety row, resolved to token positions.

    Attributes:
        ranges: The (start, end) positions it sees.
        position: Its own position id.
        since: The first text position that sees it; -1: nobody does.
        prompt: What it reads anew (a check of the query), in plain letters; None: it looks at what the base has read.
        if_suspicious: What is read anew if that looks suspicious (checks of an answer): a conversation, and the ids of
            the answer to it; None: nothing is.
    """

    ranges: tuple[tuple[int, int], ...]
    position: int
    since: int = -1
    prompt: Encoded | None = None
    if_suspicious: tuple[Encoded, Sequence[int]] | None = None

    @property
    def reads(self) -> bool:
        """Whether it reads anew, or would."""
        return bool(self.prompt or self.if_suspicious)


def shared_texts(read: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[list[int]]]:
    """Put texts that checks read anew together: the distinct ones, and per text where in it each of its checks ends.

    Checks that follow one another share a text where one's is what another's begins with, as windows of one answer do:
    nobody reads ahead, so the longest text holds what each would read alone.
    """
    texts: list[tuple[int, ...]] = []
    ends: list[list[int]] = []
    for ids in read:
        if texts and _begins(texts[-1], ids):
            texts[-1] = max(texts[-1], ids, key=len)
            ends[-1].append(len(ids))
        else:
            texts.append(ids)
            ends.append([len(ids)])
    return texts, ends


def _begins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]
