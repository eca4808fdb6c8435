"""Judge recorded attempts again with today's judges: texts stay, verdicts and statuses follow the better rules.

A verdict that this very judge has given is not asked for again, so a run whose judges are the same starts at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safesignal.attacks.base import Reply, Status
from safesignal.attacks.runner import REFUSAL, status_of
from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.judges.base import Judge, Judgement
from safesignal.judges.shown import judge_attempts, known_verdict

__all__ = ["rejudge"]

Row = Mapping[str, Any]

_CHUNK = 256
"""Attempts judged before their rows are written."""


def rejudge(writer: Writer, judges: Mapping[str, Judge]) -> int:
    """Append a row for every attempt whose verdicts, or whose judges, have changed; the last row of an id counts.

    Args:
        writer: Of `attempts.jsonl`.
        judges: By name, `refusal` among them; verdicts of other judges stay.

    Returns:
        How many attempts changed.
    """
    last: dict[str, dict[str, Any]] = {str(row["id"]): row for _, row in read_jsonl(writer.path)}
    ran = [row for row in last.values() if row["status"] != Status.ERRORED]
    changed = 0
    for start in range(0, len(ran), _CHUNK):
        for row, again in _judged(ran[start : start + _CHUNK], judges):
            if again != row:
                writer.write(again)
                changed += 1
    return changed


def _judged(rows: Sequence[Row], judges: Mapping[str, Judge]) -> list[tuple[Row, Row]]:
    """Return rows as they are and as these judges see them."""
    verdicts = [dict(row["judgements"]) for row in rows]
    for name, judge in judges.items():
        pairs = zip(rows, verdicts, strict=True)
        asked = [i for i, (row, own) in enumerate(pairs) if not known_verdict(name, judge, row, own.get(name))]
        for i, said in zip(asked, judge_attempts(name, judge, [rows[i] for i in asked]), strict=True):
            verdicts[i][name] = said
    judged = zip(rows, verdicts, strict=True)
    return [(row, {**row, "judgements": own, "status": _status(row, own)}) for row, own in judged]


def _status(row: Row, verdicts: Mapping[str, Mapping[str, str]]) -> str:
    reply = Reply(row["text"], row["n_tokens"], row["finish"], row["seconds"])
    refusal: Any = verdicts[REFUSAL]
    return str(status_of(reply, Judgement(refusal["verdict"], refusal["rule"])))
