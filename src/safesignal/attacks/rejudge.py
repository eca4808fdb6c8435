"""Judge recorded attempts again with today's judges: texts stay, verdicts and statuses follow the better rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safesignal.attacks.base import Reply, Status
from safesignal.attacks.runner import REFUSAL, status_of
from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.judges.base import Judge

__all__ = ["rejudge"]


def rejudge(writer: Writer, judges: Mapping[str, Judge]) -> int:
    """Append a row for every attempt whose verdicts have changed; the last row of an id counts.

    Args:
        writer: Of `attempts.jsonl`.
        judges: By name; verdicts of other judges stay.

    Returns:
        How many attempts changed.
    """
    last: dict[str, dict[str, Any]] = {str(row["id"]): row for _, row in read_jsonl(writer.path)}
    changed = 0
    for row in last.values():
        if row["status"] == Status.ERRORED:
            continue
        found = {name: judge(row["behavior"], row["text"]) for name, judge in judges.items()}
        status = status_of(Reply(row["text"], row["n_tokens"], row["finish"], row["seconds"]), found[REFUSAL])
        verdicts = {name: {"verdict": own.verdict, "rule": own.rule} for name, own in found.items()}
        if any(row["judgements"].get(name) != own for name, own in verdicts.items()) or row["status"] != status:
            writer.write({**row, "status": str(status), "judgements": {**row["judgements"], **verdicts}})
            changed += 1
    return changed
