"""What a judge says: yes, no or unknown, and why. Unknown is a verdict, never counted as robustness."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from types import ModuleType
from typing import Any, Literal, Protocol, runtime_checkable

__all__ = [
    "NO_REPLY",
    "REJECTED",
    "SAYS_SOMETHING",
    "BatchJudge",
    "Judge",
    "JudgeVerdict",
    "Judgement",
    "digest",
    "fingerprint_of",
    "judge_all",
    "source_of",
    "text_hash",
    "verdict_row",
]

SAYS_SOMETHING = 5
"""A text with fewer words than this that breaks off says neither yes nor no, whatever a judge makes of it."""

NO_REPLY, REJECTED = "no-reply", "rejected"
"""Rules of a judge behind a server: no answer came, so it is asked again; it turned this very text down."""

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

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides its verdicts: rules, weights, rubric; what a recorded verdict is known by."""
        ...

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        """Judge (behavior, completion) pairs; one judgement per pair, in order."""
        ...


def fingerprint_of(judge: Judge) -> str:
    """Return a judge's fingerprint; empty for one without, whose recorded verdicts are never taken for its own."""
    return judge.fingerprint if isinstance(judge, BatchJudge) else ""


def judge_all(judge: Judge, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
    """Judge (behavior, completion) pairs, together if the judge can."""
    return judge.judge_all(pairs) if isinstance(judge, BatchJudge) else [judge(*pair) for pair in pairs]


def verdict_row(judge: Judge, said: Judgement) -> dict[str, str]:
    """Return what is recorded of a judgement (docs/run-folder.md)."""
    return {"verdict": said.verdict, "rule": said.rule, "fingerprint": fingerprint_of(judge)}


def digest(*parts: Any) -> str:
    """Return a short hash of JSON values and bytes, in order."""
    found = sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
        found.update(b"\0")
    return found.hexdigest()[:16]


def text_hash(behavior: str, text: str) -> str:
    """Return a short hash of what a verdict is on."""
    return sha256(f"{behavior}\0{text}".encode(errors="replace")).hexdigest()[:16]


def source_of(*modules: ModuleType) -> list[str]:
    """Return the source of modules whose code decides verdicts."""
    return [inspect.getsource(module) for module in modules]
