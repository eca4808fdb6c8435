"""What a disguised request says in plain letters: digits for letters, spread words, borrowed scripts, odd case.

A disguise is dear: what the tokenizer knows as words falls into scraps. So a word counts as disguised if its plain form
is one token and it is several, and a sentence if its plain form takes far fewer tokens, whichever trick was used.
Nothing else is asked, and there is no list of words but the tokenizer's own, whose ids go by frequency in a vocabulary
made by merges.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

from safesignal.modeling.chat import Encoded

__all__ = ["Surface"]

_SAVING = 0.75
"""A sentence is disguised if its plain form takes at most this share of its tokens (docs/LOG.md)."""
_SHORTEST, _SCRAPS = 4, 3
"""A single word is disguised if its plain form is one token of so many letters at least, and it is so many tokens."""
_SPREAD = 3.0
"""Letters per word below which words may have been spread; English has 4 to 5."""
_LONGEST = 20
"""Letters of the longest word that scraps are put together to."""
_SCRAP = 14.0
"""Nats that a lone letter and every further token of a word cost: more than any word that is a token."""
_MOST_READINGS = 64
"""Readings of one word's digits that are weighed; beyond, each sign is taken for its likeliest letter."""

_LETTERS = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "|": "il", "+": "t", "€": "e",
}  # fmt: skip
"""What a sign may stand for."""
_LOOKALIKES = str.maketrans(
    "асԁеһіјӏорԛѕυԝхуΑΒЕΗΙЈКΜΝОΡЅΤΧΥΖАВЕНІКМОРСТХУανορικτχ",
    "acdehijlopqsuwxyABEHIJKMNOPSTXYZABEHIKMOPCTXYavopiktx",
)
_MARK = re.compile(r"(?<=[^\W\d_])[.\-_*·~](?=[^\W\d_])")
"""A mark between two letters."""
_OPENING, _CLOSING = "\"'([{", "\"')]}.,;:?!"
_WORD = re.compile(r"\S+")
_LONE_LETTERS = re.compile(r"(?<!\S)(?:[^\W\d_] ){2,}[^\W\d_](?!\w)")
"""At least three lone letters in a row, as in `b r e a d`."""
_SENTENCE = re.compile(r".+?(?:[.!?:](?=\s)\s*|\n\s*|\Z)", re.DOTALL)


class Surface:
    """Reads users' text in plain letters, by the vocabulary of one tokenizer.

    Args:
        to_ids: Tokenises, without special tokens.
        to_text: Decodes, special tokens left out.
    """

    def __init__(self, to_ids: Callable[[str], list[int]], to_text: Callable[[Sequence[int]], str]) -> None:
        self._to_ids, self._to_text = to_ids, to_text
        self._cost = lru_cache(maxsize=65536)(self._cost_of)
        self._count = lru_cache(maxsize=65536)(lambda word: len(to_ids(f" {word}")))

    def prompt(self, encoded: Encoded) -> tuple[int, ...]:
        """Return the ids of a prompt, template and all, with what users' turns have in disguise in plain letters."""
        prompt = list(encoded.ids[: encoded.text])
        for start, end, plain in reversed(self._rewritten(encoded)):
            prompt[start:end] = self._to_ids(plain)
        return tuple(prompt)

    def said(self, encoded: Encoded) -> str | None:
        """Return the last user's turn that is disguised in plain letters; None where none is."""
        return next((plain for _, _, plain in reversed(self._rewritten(encoded))), None)

    def plain(self, text: str) -> str:
        """Return a text with its disguised words and sentences in plain letters, and all else as it is."""
        return "".join(map(self._sentence, _SENTENCE.findall(text)))

    def _word(self, word: str) -> str:
        """Return a word in plain letters if that makes a word the tokenizer knows out of scraps, else as it is."""
        plain = _even_case(self._letters_of(_unmarked(_base_letters(word))))
        core = plain.strip(_OPENING + _CLOSING)
        known = plain != word and len(core) >= _SHORTEST and self._count(core) == 1
        return plain if known and self._count(word) >= _SCRAPS else word

    def _rewritten(self, encoded: Encoded) -> list[tuple[int, int, str]]:
        """Return the (start, end) positions of users' turns that are disguised, and what they say."""
        found = []
        for start, end in encoded.query_ranges():
            text = self._to_text(encoded.ids[start:end])
            plain = self.plain(text)
            # Special tokens between letters are a disguise too, and left out of the text.
            if plain and (plain != text or len(self._to_ids(plain)) <= _SAVING * (end - start)):
                found.append((start, end, plain))
        return found

    def _sentence(self, text: str) -> str:
        """Return a sentence in plain letters if that saves enough tokens, else with single words in them."""
        plain = _WORD.sub(lambda found: self._letters_of(_unmarked(found[0])), _base_letters(text))
        plain = _WORD.sub(lambda found: _even_case(found[0]), self._put_together(plain))
        if len(self._to_ids(plain)) <= _SAVING * len(self._to_ids(text)):
            return plain
        joined = _LONE_LETTERS.sub(lambda found: self._put_together(found[0]), text)
        return _WORD.sub(lambda found: self._word(found[0]), joined)

    def _letters_of(self, word: str) -> str:
        """Read the signs of a word that has letters too as the letters that make the likeliest word."""
        start = len(word) - len(word.lstrip(_OPENING))
        core = word[start:].rstrip(_CLOSING)
        signs = [_LETTERS.get(sign, sign) for sign in core.lower()]
        if not any(map(str.isalpha, core)) or all(sign not in _LETTERS for sign in core):
            return word
        if math.prod(map(len, signs)) > _MOST_READINGS:
            signs = [letters[0] for letters in signs]
        return word[:start] + min(map("".join, product(*signs)), key=self._cost) + word[start + len(core) :]

    def _put_together(self, text: str) -> str:
        """Join the scraps of words where words were spread: gaps were put in, and none was taken out."""
        scraps = text.split()
        if not _are_scraps(scraps):
            return text
        # The least cost of the first n scraps, and where their last word begins.
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(scraps) + 1):
            ways, word = [], ""
            for start in range(end - 1, -1, -1):
                word = scraps[start] + word
                if start < end - 1 and not (scraps[start].isalpha() and len(word) <= _LONGEST):
                    break
                ways.append((best[start][0] + self._cost(_even_case(word.rstrip(_CLOSING))), start))
            best.append(min(ways))
        words, end = [], len(scraps)
        while end:
            start = best[end][1]
            words.append("".join(scraps[start:end]))
            end = start
        return " ".join(reversed(words)) + text[len(text.rstrip()) :]

    def _cost_of(self, word: str) -> float:
        """Return how unlikely a word is by its first token's place in the vocabulary, and by how many follow, nats."""
        if len(word) == 1 and word.isalpha() and word not in "aAiI":
            return _SCRAP  # a letter is a frequent token, and no word
        first, *more = self._to_ids(f" {word}")
        return math.log(2 + first) + _SCRAP * len(more)


def _are_scraps(words: Sequence[str]) -> bool:
    """Tell whether words are so short that they were spread."""
    lengths = [len(word) for word in words if word.isalpha()]
    return 0 < sum(lengths) < _SPREAD * len(lengths)


def _unmarked(word: str) -> str:
    """Drop the marks between letters of a word that they cut to scraps; `trade-offs` is none."""
    return _MARK.sub("", word) if _are_scraps(_MARK.split(word)) else word


def _base_letters(text: str) -> str:
    """Drop what cannot be seen and accents of Latin letters; write look-alikes of other scripts as Latin letters.

    The last only if every letter that is not Latin has a look-alike: else the text may be in another language.
    """
    text = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    text = "".join(map(_without_accent, text))
    foreign = {c for c in text if c.isalpha() and not unicodedata.name(c, "").startswith("LATIN")}
    return text.translate(_LOOKALIKES) if all(ord(c) in _LOOKALIKES for c in foreign) else text


def _without_accent(character: str) -> str:
    plain = unicodedata.normalize("NFD", character)[0]
    return plain if plain.isascii() and plain.isalpha() else character


def _even_case(word: str) -> str:
    """Write a word in small letters unless it has a capital where one belongs."""
    return word if word.islower() or word.istitle() else word.lower()
