"""A bare model watched from outside: refuses requests, and cuts answers at the first alarm.

What a watcher says never changes what the model writes before it, so an answer is written whole and cut afterwards:
the text is that of a watcher who reads along, the seconds are those of the whole answer. There is no release buffer:
every token up to the alarm has been shown and counts as leak. A fixed refusal follows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safesignal.attacks.base import Reply, Request
from safesignal.attacks.targets import PlainTarget
from safesignal.rules import FIXED_REFUSAL

__all__ = ["Alarm", "WatchedTarget", "check_row"]


@dataclass(frozen=True, slots=True)
class Alarm:
    """What a watcher says of one text.

    Attributes:
        checks: One dictionary per check, as attempts record them.
        at: Generated tokens shown when it fired; None if it never did.
        covered: Generated tokens covered by the last benign check before that.
    """

    checks: tuple[dict[str, Any], ...] = ()
    at: int | None = None
    covered: int = 0


class WatchedTarget(ABC):
    """A plain target and a watcher.

    Args:
        plain: Who writes.
        name: What reports call the pair.
    """

    def __init__(self, plain: PlainTarget, name: str) -> None:
        self.plain = plain
        self.name = name

    @abstractmethod
    def watcher(self) -> Mapping[str, Any]:
        """Return all that decides the watcher's alarms, as JSON values; `kind` names it."""

    @abstractmethod
    def given(self, requests: Sequence[Request]) -> list[Alarm]:
        """Check requests and what the caller makes answers begin with; an alarm is at 0."""

    @abstractmethod
    def written(self, requests: Sequence[Request], replies: Sequence[Reply]) -> list[Alarm]:
        """Check answers as they came to be."""

    def identity(self) -> dict[str, Any]:
        """Return the watcher and the model it watches."""
        return {**self.plain.identity(), **self.watcher()}

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        """Refuse what sets off an alarm; let the model answer the rest, and cut its answers at theirs."""
        before = self.given(requests)
        passed = [index for index, alarm in enumerate(before) if alarm.at is None]
        written = self.plain.answer([requests[index] for index in passed]) if passed else []
        after = self.written([requests[index] for index in passed], written) if passed else []
        replies = {
            index: self._cut(reply, before[index], alarm)
            for index, reply, alarm in zip(passed, written, after, strict=True)
        }
        return [replies.get(index, _refused(alarm)) for index, alarm in enumerate(before)]

    def _cut(self, reply: Reply, before: Alarm, alarm: Alarm) -> Reply:
        checks = (*before.checks, *alarm.checks)
        if alarm.at is None:
            return replace(reply, checks=checks, pieces=self.plain.pieces_of(reply.ids))
        ids = reply.ids[: alarm.at]
        shown = self.plain.pieces_of(ids)
        pieces = (*shown, f"\n\n{FIXED_REFUSAL}" if shown else FIXED_REFUSAL)
        return replace(
            reply,
            text="".join(pieces),
            n_tokens=alarm.at,
            finish="refused",
            refused=True,
            stopped_at=alarm.covered,
            released_after_transition=alarm.at - alarm.covered,
            checks=checks,
            ids=ids,
            pieces=pieces,
        )


def check_row(kind: str, step: int, signal: float, threshold: float, end: int) -> dict[str, Any]:
    """Return one check as attempts record it: everything up to `end` answer tokens was at hand."""
    verdict = "malicious" if signal >= threshold else "benign"
    return {"kind": kind, "step": step, "signal": round(signal, 6), "verdict": verdict, "start": 0, "end": end}


def _refused(alarm: Alarm) -> Reply:
    """Return the refusal of a request that the model was never asked."""
    said = (FIXED_REFUSAL,)
    return Reply(FIXED_REFUSAL, 0, "refused", 0.0, refused=True, stopped_at=0, checks=alarm.checks, pieces=said)
