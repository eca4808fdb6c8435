"""Between ids and text: released pieces without half a character or stop string, and ids without control tokens."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

__all__ = ["TextStream", "cut_at_stop", "is_byte_token", "text_after", "without_control"]

_HALF_CHARACTER = "\ufffd"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def is_byte_token(token: str) -> bool:
    """Tell whether a token stands for one byte of a character that the vocabulary lacks (Llama 2, Mistral, Gemma)."""
    return _BYTE.fullmatch(token) is not None


def without_control(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], list[int]]:
    """Return a function that tokenises text and leaves out what spells a control token."""
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    control = added | set(tokenizer.all_special_ids)
    return lambda text: [
        index for index in tokenizer(text, add_special_tokens=False)["input_ids"] if index not in control
    ]


def text_after(before: Sequence[int], ids: Sequence[int], to_text: Callable[[Sequence[int]], str]) -> str:
    """Return the text of ids that go on from others; decoded alone, Llama 2 drops the space they may begin with."""
    return to_text([*before, *ids])[len(to_text(before)) :] if before else to_text(ids)


def cut_at_stop(text: str, stop_strings: Sequence[str]) -> str:
    """Return the text before the first stop string in it."""
    found = [text.index(stop) for stop in stop_strings if stop in text]
    return text[: min(found)] if found else text


class TextStream:
    """Decode one row's released ids piece by piece; the pieces joined are the whole text.

    A piece waits while it ends in a split character or in what may become a stop string
    (tests/invariants/test_release.py), or in byte tokens: their decoder spoils a whole run of them where its last
    character stays incomplete.

    Args:
        to_text: Decodes ids, special tokens left out.
        stop_strings: Texts that end the answer.
        is_byte: Tells byte tokens of a byte-fallback vocabulary.
    """

    def __init__(
        self,
        to_text: Callable[[Sequence[int]], str],
        stop_strings: Sequence[str] = (),
        is_byte: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._to_text = to_text
        self._is_byte = is_byte
        self._stop_strings = tuple(stop_strings)
        self._ids: list[int] = []
        self._after: Sequence[int] = ()
        self._sent = 0

    def push(self, ids: Sequence[int], *, after: Sequence[int] = (), final: bool = False, cut: bool = True) -> str:
        """Add released ids and return the text that is certain now; all of it when `final`.

        `cut` is off once the answer was refused: no stop string ends a refusal. `after` is what the ids go on from.
        """
        self._ids += ids
        self._after = after
        if not cut:
            self._stop_strings = ()
        whole = text_after(self._after, self._ids, self._to_text)
        text = cut_at_stop(whole, self._stop_strings)
        # A stop string may lie inside the beginning of a longer one that comes true later.
        certain = len(text) if final else min(len(text), len(whole) - self._uncertain(whole), self._before_bytes())
        piece = text[self._sent : max(certain, self._sent)]
        self._sent = max(certain, self._sent)
        return piece

    def _before_bytes(self) -> int:
        """Return how many characters come before the byte tokens at the end."""
        solid = len(self._ids)
        while solid and self._is_byte(self._ids[solid - 1]):
            solid -= 1
        return len(text_after(self._after, self._ids[:solid], self._to_text)) if solid < len(self._ids) else sys.maxsize

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
