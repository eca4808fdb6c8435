"""What a disguised request says in plain letters: digits for letters, spread words, borrowed scripts, odd case.

A disguise is dear: what the tokenizer knows as words falls into scraps. So a word is rewritten only if that makes one
out of scraps which the tokenizer knows, and letters are put together, or capitals made small, only where a sentence
then takes far fewer tokens. There is no list of words but the tokenizer's own, whose ids go by frequency in a
vocabulary made by merges. Names and formulas (`C4`, `AR15`, `H5N1`), other languages and ordinary text stay as they
are: the plain form is read instead of what was typed (docs/adr/0010-disguises-are-read-in-plain-letters.md).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product

from safesignal.modeling.chat import Encoded
from safesignal.types import Role

__all__ = ["Surface"]

_SAVING = 0.75
"""Spread words and odd case are undone in a sentence that then takes at most this share of its tokens."""
_SHORTEST, _SCRAPS = 4, 3
"""A word is disguised if its plain form is one token of at least so many letters, and it is so many tokens or more."""
_OFTEN = 8
"""A sentence is disguised all through if two words of it are, and one of so many; less is asked of its others."""
_SPREAD = 3.0
"""Letters per word below which words may have been spread; English has 4 to 5."""
_LONE = 0.15
"""Share of lone letters, and at least three of them, that spread words have; `a` and `I` are words."""
_LONGEST = 20
"""Letters of the longest word that scraps are put together to; twice as many of one that is looked at."""
_SCRAP = 14.0
"""Nats that a lone letter and every further token of a word cost: more than any word that is a token."""
_JOIN = 4.0
"""Nats that it costs to join what may be words, without a lone letter among them: `do I` is no `doi`."""
_WORST = 5 * _SCRAP
"""Nats of an end of a word, beyond which nothing put before it is tried."""
_MOST_READINGS = 16
"""Readings of one word's signs that are weighed; beyond, each is taken for its likeliest letter."""

_LETTERS = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "g", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "i", "|": "il", "+": "t", "€": "e",
}  # fmt: skip
"""What a sign may stand for."""
_LOOKALIKES = str.maketrans(
    "асԁеһіјӏорԛѕυԝхуΑΒЕΗΙЈКΜΝОΡЅΤΧΥΖАВЕНІКМОРСТХУανορικτχ",
    "acdehijlopqsuwxyABEHIJKMNOPSTXYZABEHIKMOPCTXYavopiktx",
)
_HIDDEN = dict.fromkeys([0x34F, *range(0xFE00, 0xFE10)]) | {0xE0000 + code: chr(code) for code in range(32, 127)}
"""Marks that cannot be seen beside those of category Cf, and letters that cannot be seen, with what they say."""
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
        to_ids: Tokenises into no control token, whatever the text: what hidden signs kept apart must not become the
            markup of another turn, in a prompt that the base itself reads without it.
        to_text: Decodes, special tokens left out.
    """

    def __init__(self, to_ids: Callable[[str], list[int]], to_text: Callable[[Sequence[int]], str]) -> None:
        self._to_ids, self._to_text = to_ids, to_text
        self._known = lru_cache(maxsize=65536)(lambda word: tuple(to_ids(f" {word}")))
        # A query is asked for more than once: to be read, with each window too, to be said, and in training to be
        # counted; batches up to 64.
        self._turns = lru_cache(maxsize=64)(self._read_turns)
        self._prompts = lru_cache(maxsize=64)(self._read_prompt)

    def prompt(self, encoded: Encoded) -> Encoded:
        """Return a prompt, template and all, with what users' turns have in disguise in plain letters."""
        return self._prompts(encoded)

    def _read_prompt(self, encoded: Encoded) -> Encoded:
        ids, roles = list(encoded.ids[: encoded.text]), list(encoded.roles[: encoded.text])
        for (start, end), typed, plain in reversed(self._turns(encoded)):
            if plain != typed:
                ids[start:end] = own = self._to_ids(plain)
                roles[start:end] = [Role.USER] * len(own)
        return Encoded(tuple(ids), tuple(roles))

    def said(self, encoded: Encoded) -> str | None:
        """Return the users' turns, one a line, as they are read where one is disguised; None where none is."""
        turns = self._turns(encoded)
        return "\n".join(plain for _, _, plain in turns) if any(typed != plain for _, typed, plain in turns) else None

    def plain(self, text: str) -> str:
        """Return a text with its disguised words and sentences in plain letters, and all else as it is."""
        return "".join(map(self._sentence, _SENTENCE.findall(_WORD.sub(lambda found: _unhidden(found[0]), text))))

    def _read_turns(self, encoded: Encoded) -> list[tuple[tuple[int, int], str | None, str]]:
        """Return (start, end) of each user's turn, what was typed (None: with markup in it), and what it says."""
        found: list[tuple[tuple[int, int], str | None, str]] = []
        for start, end in encoded.query_ranges():
            typed = self._to_text(encoded.ids[start:end])
            plain = self.plain(typed)
            marked = bool(plain) and len(self._to_ids(plain)) <= _SAVING * (end - start)
            found.append(((start, end), None if marked else typed, plain or typed))
        return found

    def _sentence(self, text: str) -> str:
        """Undo spread words, then signs and letters word by word, then odd case."""
        text = self._if_cheaper(self._put_together(text), text)
        text = _LONE_LETTERS.sub(lambda found: self._joined(found[0]), text)
        words = _WORD.findall(text)
        plain = {word: self._undone(word) for word in words}
        disguised = sum(plain[word] != word for word in words)
        if disguised >= 2 and disguised * _OFTEN >= len(words):
            plain = {word: self._undone(word, often=True) for word in words}
        text = _WORD.sub(lambda found: plain[found[0]], text)
        return self._if_cheaper(_WORD.sub(lambda found: _even_case(found[0]), text), text)

    def _if_cheaper(self, plain: str, text: str) -> str:
        return plain if plain != text and len(self._to_ids(plain)) <= _SAVING * len(self._to_ids(text)) else text

    def _undone(self, word: str, *, often: bool = False) -> str:
        """Return a word in plain letters if it is disguised, else as it is; in a disguised sentence less is asked."""
        if len(word) > 2 * _LONGEST or (word.isascii() and (word.islower() or word.istitle()) and word.isalpha()):
            return word
        start = len(word) - len(word.lstrip(_OPENING))
        core = word[start:].rstrip(_CLOSING)
        plain = _even_case(self._letters_of(_unmarked(_base_letters(core))))
        inner = _inner_signs(core)
        if plain in ("", core) or (inner is not None and core.isupper()):
            return word  # all capitals and digits: a name or a formula
        scraps, now = self._count(core), self._count(plain)
        half = 2 * now <= scraps
        if often:
            disguised = now == 1 or (half and len(plain) >= _SHORTEST)
        else:
            known = now == 1 and len(plain) >= _SHORTEST and inner != 0
            disguised = scraps >= _SCRAPS and (known or (half and len(plain) > _SHORTEST and (inner or 0) >= 2))
        return word[:start] + plain + word[start + len(core) :] if disguised else word

    def _letters_of(self, word: str) -> str:
        """Read the signs of a word that has letters too as the letters that make the likeliest word."""
        signs = [_LETTERS.get(sign, sign) for sign in word.lower()]
        if not any(map(str.isalpha, word)) or all(sign not in _LETTERS for sign in word):
            return word
        if math.prod(map(len, signs)) > _MOST_READINGS:
            signs = [letters[0] for letters in signs]
        return min(map("".join, product(*signs)), key=self._cost)

    def _joined(self, text: str) -> str:
        """Put scraps together if a word that the tokenizer knows comes of it."""
        scraps = text.split()
        joined = self._cheapest(scraps)
        new = [word.rstrip(_CLOSING) for word in joined.split() if word not in scraps]
        return joined if any(len(word) >= _SHORTEST and self._count(word) == 1 for word in new) else text

    def _put_together(self, text: str) -> str:
        """Join the scraps of words where words were spread: gaps were put in, and none was taken out."""
        scraps = text.split()
        lone = sum(map(_is_lone_letter, scraps))
        if lone < 3 or lone < _LONE * len(scraps) or not _are_scraps(scraps):
            return text
        return self._joined(text.rstrip()) + text[len(text.rstrip()) :]

    def _cheapest(self, scraps: Sequence[str]) -> str:
        """Return the likeliest words that the scraps, joined or not, can be."""
        # The least cost of the first n scraps, and where their last word begins.
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(scraps) + 1):
            ways, word, words = [], "", True
            for start in range(end - 1, -1, -1):
                word = scraps[start] + word
                words = words and (len(scraps[start]) > 1 or scraps[start] in "aAiI")
                if start < end - 1 and not (scraps[start].isalpha() and len(word) <= _LONGEST):
                    break
                cost = self._cost(_even_case(word.rstrip(_CLOSING)))
                ways.append((best[start][0] + cost + _JOIN * (words and start < end - 1), start))
                if cost > _WORST:
                    break  # scraps before these make no word of them
            best.append(min(ways))
        found, end = [], len(scraps)
        while end:
            start = best[end][1]
            found.append("".join(scraps[start:end]))
            end = start
        return " ".join(reversed(found))

    def _tokens(self, word: str) -> Sequence[int]:
        """Tokenise a word in a sentence; short ones are kept, so that what callers send does not pile up."""
        return self._known(word) if len(word) <= 2 * _LONGEST else self._to_ids(f" {word}")

    def _count(self, word: str) -> int:
        return len(self._tokens(word))

    def _cost(self, word: str) -> float:
        """Return how unlikely a word is by its first token's place in the vocabulary, and by how many follow, nats."""
        if not word or _is_lone_letter(word):
            return _SCRAP  # a letter is a frequent token, and no word
        first, *more = self._tokens(word)
        return math.log(2 + first) + _SCRAP * len(more)


def _is_lone_letter(word: str) -> bool:
    """Tell whether a word is one letter that is no word."""
    return len(word) == 1 and word.isalpha() and word not in "aAiI"


def _are_scraps(words: Sequence[str]) -> bool:
    """Tell whether words are so short that they were spread."""
    lengths = [len(word) for word in words if word.isalpha()]
    return 0 < sum(lengths) < _SPREAD * len(lengths)


def _visible(word: str) -> str:
    """Drop what cannot be seen of a word, and write letters that cannot be seen."""
    return "".join(c for c in word.translate(_HIDDEN) if unicodedata.category(c) != "Cf")


def _unhidden(word: str) -> str:
    """Drop what cannot be seen where it is of no use; other scripts and signs need it."""
    visible = _visible(word)
    return visible if visible.isascii() else word


def _unmarked(word: str) -> str:
    """Drop the marks between letters of a word that they cut to scraps; `e-mail` and `trade-offs` are none."""
    pieces = _MARK.split(word)
    return "".join(pieces) if (len(pieces) > 2 or len(word) == 3) and _are_scraps(pieces) else word


def _inner_signs(word: str) -> int | None:
    """Count the signs between letters, as in `b0mb` (in names and numbers they stand first or last); None: no sign."""
    if not any(character in _LETTERS for character in word):
        return None
    letters = [index for index, character in enumerate(word) if character.isalpha()]
    return sum(character in _LETTERS for character in word[letters[0] : letters[-1]]) if letters else 0


def _base_letters(word: str) -> str:
    """Write letters that are wide, accented or of other scripts as the Latin letters they look like."""
    plain = "".join(map(_without_accent, unicodedata.normalize("NFKC", _visible(word))))
    return plain.translate(_LOOKALIKES)


def _without_accent(character: str) -> str:
    plain = unicodedata.normalize("NFD", character)[0]
    return plain if plain.isascii() and plain.isalpha() else character


def _even_case(word: str) -> str:
    """Write a word in small letters unless it has a capital where one belongs."""
    return word if word.islower() or word.istitle() else word.lower()
