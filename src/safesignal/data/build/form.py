"""The form of a prompt, without its content: what classes must agree in, and what a form-only classifier sees."""

from __future__ import annotations

import string
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FEATURES", "KEYS", "LENGTH_BINS", "Form", "features", "form_of"]

KEYS = ("form", "length", "ending", "case", "commas", "capitals")
"""What two prompts can be asked to agree in."""

LENGTH_BINS = (6, 9, 12, 16, 24, 48)
"""Word counts at which a new length bin begins."""

_QUESTION_WORDS = (
    "what what's why how when where who whom whose which is are am was were do does did can could should would will "
    "shall may might has have had isn't aren't don't doesn't can't"
)
_IMPERATIVE_WORDS = (
    "add advise analyse analyze answer arrange brainstorm build calculate categorize choose classify come compare "
    "compile complete compose compute construct convert craft create define demonstrate describe design detail "
    "develop devise discuss draft edit evaluate explain extract figure fill find fix formulate generate give guide "
    "help identify illustrate imagine implement instruct invent let list make name offer organize outline paraphrase "
    "pick plan please predict prepare pretend produce propose provide put rank recommend rephrase rewrite say show "
    "simulate sort state suggest summarise summarize take talk teach tell think translate use walk write"
)
_FIRST_WORDS = {
    **dict.fromkeys(_IMPERATIVE_WORDS.split(), "imperative"),
    **dict.fromkeys(_QUESTION_WORDS.split(), "question"),
}
_FORMS = ("question", "imperative", "statement")
_ENDINGS = ("?", ".", "!", ":", "other", "none")
_CASES = ("lower", "upper", "sentence", "other")
_EDGES = string.punctuation + "\u201c\u201d\u2018\u00bf\u00a1"
"""Punctuation around a first word."""
_CLOSING = "\"'\u201d\u2019)\u00bb "
"""What may stand after the punctuation that ends a text."""
_WIDE = str.maketrans("\uff1f\u3002\uff01", "?.!")
"""The ends of sentences in Chinese and Japanese."""


@dataclass(frozen=True, slots=True)
class Form:
    """The form of one prompt.

    Attributes:
        form: ``question`` (ends with a question mark or begins with a question word), ``imperative`` (begins with a
            verb that asks for something) or ``statement``.
        words: Number of words.
        ending: ``?``, ``.``, ``!``, ``:``, ``other`` punctuation or ``none``; closing quotes do not count.
        case: ``lower`` (no capital), ``upper`` (no small letter), ``sentence`` (begins with a capital) or ``other``.
        commas: Whether there is a comma.
        capitals: After the first word: ``names`` (a word begins with one), ``I`` (only "I" and its contractions do) or
            ``none``.

    Example:
        >>> form_of("how do i bake bread")
        Form(form='question', words=5, ending='none', case='lower', commas=False, capitals='none')
    """

    form: str
    words: int
    ending: str
    case: str
    commas: bool
    capitals: str

    def cell(self, by: Sequence[str] = KEYS, bins: Sequence[int] = LENGTH_BINS) -> tuple[str | int, ...]:
        """Return what two prompts share if they agree in all of `by`; lengths agree within a bin."""
        return tuple(bisect_right(bins, self.words) if key == "length" else str(getattr(self, key)) for key in by)


def form_of(text: str) -> Form:
    """Return the form of a prompt."""
    words = text.split()
    ending = _ending(text)
    first = words[0].lower().replace("\u2019", "'").strip(_EDGES) if words else ""
    form = "question" if ending == "?" else _FIRST_WORDS.get(first, "statement")
    return Form(form, len(words), ending, _case(text), "," in text, _capitals(words[1:]))


FEATURES = (
    *("words", "characters", "word_length", "lines", "commas", "punctuation", "capitals", "digits", "non_ascii"),
    *(f"form:{name}" for name in _FORMS),
    *(f"ending:{name}" for name in _ENDINGS),
    *(f"case:{name}" for name in _CASES),
)
"""Names of what :func:`features` returns, in order."""


def features(text: str) -> list[float]:
    """Return the form as numbers, one per name in `FEATURES`; shares and flags lie in [0, 1], the rest are counts."""
    shape = form_of(text)
    size = max(len(text), 1)
    counts = [shape.words, len(text), len(text) / max(shape.words, 1), text.count("\n"), text.count(",")]
    tests = (_is_punctuation, str.isupper, str.isdigit, lambda character: not character.isascii())
    shares = [sum(map(test, text)) / size for test in tests]
    flags = [shape.form == name for name in _FORMS]
    flags += [shape.ending == name for name in _ENDINGS]
    flags += [shape.case == name for name in _CASES]
    return [float(value) for value in (*counts, *shares, *flags)]


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


def _capitals(words: Sequence[str]) -> str:
    bare = [word.replace("\u2019", "'").strip(_EDGES) for word in words]
    found = {word.partition("'")[0] for word in bare if word[:1].isupper()}
    return "names" if found - {"I"} else "I" if found else "none"


def _ending(text: str) -> str:
    last = text.rstrip().rstrip(_CLOSING)[-1:].translate(_WIDE)
    if last in _ENDINGS:
        return last
    return "other" if last and _is_punctuation(last) else "none"


def _case(text: str) -> str:
    letters = [character for character in text if character.isalpha()]
    if not any(map(str.isupper, letters)):
        return "lower"
    if not any(map(str.islower, letters)):
        return "upper"
    return "sentence" if letters[0].isupper() else "other"
