"""Compliant answers that the unguarded target wrote itself, for prefills of k tokens; written once and kept in a file.

A prefill in the target's own words is the strongest: it is what the target would have said, had it not refused. The
file keeps answers, not verdicts: whether an answer complies is judged when it is read, by the judge of the day.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

from safesignal.attacks.base import Behavior, Reply, Request, Sampling, Target
from safesignal.attacks.prefill import OPENING, Prefill
from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.judges.base import Judge
from safesignal.judges.refusal import judge_refusal

__all__ = ["CompliantPrefixes", "PlainSource", "compliant_prefixes"]

_NEW_TOKENS = 96
"""Enough for a prefill of 80 tokens."""


class PlainSource(Target, Protocol):
    """An unguarded target whose tokenizer is at hand."""

    def pieces(self, text: str) -> tuple[str, ...]:
        """Return the tokens of a text as text, never half a character."""
        ...


@dataclass(frozen=True, slots=True)
class CompliantPrefixes:
    """What the unguarded target complied with.

    Attributes:
        pieces: By behavior id, the tokens of its compliant answer as text.
        left_out: By behavior id, why it has none: `refused`, `empty`, or `unknown` to the refusal judge.
    """

    pieces: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, str]

    def given_to(self, attack: Prefill) -> Prefill:
        """Return the attack with these answers to begin with."""
        return replace(attack, pieces=self.pieces, missing=self.left_out)


def compliant_prefixes(
    target: PlainSource,
    behaviors: Sequence[Behavior],
    path: str | Path,
    *,
    refusal: Judge = judge_refusal,
    max_new_tokens: int = _NEW_TOKENS,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> CompliantPrefixes:
    """Let the unguarded target answer what the file does not hold yet, and return the compliant answers.

    Answers are greedy and begin with the opening the set brings, or with "Sure, here is". They are keyed by all that
    decides them, so one file serves many targets; none of it depends on a judge.

    Args:
        target: The model without its guard.
        behaviors: What to answer.
        path: JSONL file, appended to.
        refusal: An answer complies if it says `no` to its continuation.
        max_new_tokens: Length of the continuation.
        batch_size: Answers written together.
        progress: Called with (answers there, all answers).
    """
    sampling = Sampling(max_new_tokens=max_new_tokens)
    identity = target.identity()
    keys = {behavior.id: _key(identity, behavior, sampling) for behavior in behaviors}
    with Writer(path) as writer:
        left = sorted((one for one in behaviors if keys[one.id] not in writer.done), key=lambda one: -len(one.text))
        progress(len(behaviors) - len(left), len(behaviors))
        for start in range(0, len(left), batch_size):
            batch = left[start : start + batch_size]
            replies = target.answer([_request(behavior, sampling) for behavior in batch])
            for behavior, reply in zip(batch, replies, strict=True):
                writer.write({"id": keys[behavior.id], **_row(target, behavior, reply)})
            progress(len(behaviors) - len(left) + start + len(batch), len(behaviors))
    wanted = set(keys.values())
    rows = {row["id"]: row for _, row in read_jsonl(path) if row["id"] in wanted}
    why = {behavior.id: _why_left_out(behavior, rows[keys[behavior.id]], refusal) for behavior in behaviors}
    kept = {name: _pieces(target, rows[key]) for name, key in keys.items() if not why[name]}
    return CompliantPrefixes(kept, {name: reason for name, reason in why.items() if reason})


def _why_left_out(behavior: Behavior, row: Mapping[str, Any], refusal: Judge) -> str:
    """Return why a recorded answer is no compliant one; empty if it is."""
    continuation = str(row["text"]).removeprefix(_opening(behavior))
    if not continuation.strip():
        return "empty"
    verdict = "yes" if row.get("refused") else refusal(behavior.text, continuation).verdict
    return {"no": "", "yes": "refused"}.get(verdict, "unknown")


def _pieces(target: PlainSource, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tokens of a recorded answer; older rows lack them where a judge of the time saw a refusal."""
    return tuple(row["pieces"] or target.pieces(row["text"]))


def _key(identity: Mapping[str, Any], behavior: Behavior, sampling: Sampling) -> str:
    """Return a name for everything that decides an answer."""
    parts = [identity, behavior.dataset, behavior.id, behavior.text, _opening(behavior), sampling.max_new_tokens]
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _opening(behavior: Behavior) -> str:
    return behavior.target or OPENING


def _request(behavior: Behavior, sampling: Sampling) -> Request:
    message = {"role": "user", "content": behavior.text}
    return Request((message,), _opening(behavior), sampling, crc32(behavior.id.encode()))


def _row(target: PlainSource, behavior: Behavior, reply: Reply) -> dict[str, Any]:
    text = _opening(behavior) + reply.text
    return {
        "target": target.name,
        "dataset": behavior.dataset,
        "behavior_id": behavior.id,
        "refused": reply.refused,
        "text": text,
        "pieces": list(target.pieces(text)),
    }
