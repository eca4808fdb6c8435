"""The words of the project as plain values. Standard library only.

Coordinates. *Answer tokens* are everything after the generation prompt: a caller's prefill, then what the model
writes. A :class:`Span` is given in answer tokens, a *step* counts generated tokens only (prefill excluded).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

__all__ = ["Check", "CheckKind", "FinishReason", "Role", "Span", "Verdict"]


class Verdict(StrEnum):
    """What a check says once its signal meets the threshold."""

    BENIGN = "benign"
    MALICIOUS = "malicious"


class Role(IntEnum):
    """Who wrote a token; the only source of truth for what a check may attend to (rule 4)."""

    PADDING = 0
    TEMPLATE = 1
    """Chat markup, BOS and role names: never inside a span."""
    SYSTEM = 2
    """System text: outside every span by default."""
    USER = 3
    """Any user turn, forged special tokens included: the query span."""
    ASSISTANT = 4
    """An earlier assistant turn supplied by the caller: checked as an answer."""
    PREFILL = 5
    """The start of the current answer, supplied by the caller: checked as if generated."""


class CheckKind(StrEnum):
    """Which part of the conversation a check covers."""

    QUERY = "query"
    HISTORY = "history"
    PREFILL = "prefill"
    WINDOW = "window"
    EXPLANATION = "explanation"


class FinishReason(StrEnum):
    """Why a row ended."""

    EOS = "eos"
    LENGTH = "length"
    STOP_STRING = "stop_string"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Span:
    """The positions one check may attend to.

    Attributes:
        start: First answer token seen (inclusive), 0 or more.
        end: One past the last answer token seen.
        query: Whether all user turns are seen too.
        turn: Index of an earlier assistant turn that `start` and `end` count in; None for the current answer.
    """

    start: int = 0
    end: int = 0
    query: bool = False
    turn: int | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One evaluation of the signal.

    Attributes:
        step: Generated tokens covered when the check ran; 0 for query, history and prefill checks.
        signal: P(malicious), in [0, 1].
        verdict: The signal against the threshold that applied.
        span: What it looked at; a reader of answers may have read more.
        kind: Which part of the conversation it covers.
    """

    step: int
    signal: float
    verdict: Verdict
    span: Span
    kind: CheckKind
