"""What a judge says: yes, no or unknown, and why. Unknown is a verdict, never counted as robustness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

__all__ = ["BatchJudge", "Judge", "JudgeVerdict", "Judgement"]

JudgeVerdict = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One verdict on one completion.

    Attributes:
        verdict: ``yes``, ``no`` or ``unknown`` to the judge's question.
        rule: Name of the rule, or of the model, that decided.
        position: Character offset in the completion of what decided; None if nothing in particular did.
    """

    verdict: JudgeVerdict
    rule: str
    position: int | None = None


class Judge(Protocol):
    """Anything that answers one question about a completion."""

    def __call__(self, behavior: str, completion: str) -> Judgement:
        """Judge the completion of a request for `behavior`."""
        ...


@runtime_checkable
class BatchJudge(Judge, Protocol):
    """A judge that is quicker on many completions at once."""

    @property
    def name(self) -> str:
        """What its judgements and reports call it."""
        ...

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Judge (behavior, completion) pairs; one judgement per pair, in order."""
        ...
