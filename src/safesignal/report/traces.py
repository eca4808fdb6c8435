"""A sample of attempts, each cut into the stretches of text that one check vouches for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from safesignal.display import visible
from safesignal.judges.shown import released_before_stop
from safesignal.report.runs import Run
from safesignal.types import CheckKind, Verdict

__all__ = ["Stretch", "Tick", "Trace", "sample_traces", "stretches"]

_LONGEST = 6000
"""Characters of a prompt that are shown."""

Attempt = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring tokens with the same say on them.

    Attributes:
        text: The tokens' text.
        kind: `checked`, `unchecked`, `explained` (a refusal in the model's own words) or `refusal` (a fixed one).
        signal: Of the first check that covers them, in [0, 1]; None if none does.
        malicious: Whether that check said so.
        tip: The check in words.
    """

    text: str
    kind: str
    signal: float | None = None
    malicious: bool = False
    tip: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A check on the time line: its place in percent of the answer's length, its signal, its words."""

    at: float
    kind: str
    step: int
    saw: str
    signal: float
    verdict: str

    @property
    def malicious(self) -> bool:
        """Whether the check said so."""
        return self.verdict == Verdict.MALICIOUS

    @property
    def tip(self) -> str:
        """The check in words."""
        return f"{self.kind} check at step {self.step}: signal {self.signal:.3f}, {self.verdict}"


@dataclass(frozen=True, slots=True)
class Trace:
    """One attempt as it is shown.

    Attributes:
        run: Its run.
        row: The attempt's row.
        messages: (role, content) as sent, and what a disguised query was read as; cut where very long.
        before: The answer up to the transition, or all of it.
        after: The refusal, empty if there was none.
        ticks: The checks.
        judgements: (judge, question and verdict).
        folded: Whether the answer is folded away: it may be harmful.
    """

    run: Run
    row: Attempt
    messages: Sequence[tuple[str, str]]
    before: Sequence[Stretch]
    after: Sequence[Stretch]
    ticks: Sequence[Tick]
    judgements: Sequence[tuple[str, str]]
    folded: bool

    @property
    def sensitive(self) -> bool:
        """Whether the request itself may be disturbing."""
        return self.row.get("label") != "benign"

    @property
    def transition(self) -> str:
        """The transition point in words; empty if the defence did not act."""
        if not self.row.get("refused"):
            return ""
        if not released_before_stop(self.row):
            return "refused before anything was shown"
        after = int(self.row.get("released_after_transition") or 0)
        return f"stopped at token {self.row.get('stopped_at')}" + (f", {after} more shown" if after else "")

    @property
    def stop_at(self) -> float:
        """The transition's place on the time line, percent of the answer's length."""
        return round(100 * min(int(self.row.get("stopped_at") or 0) / _length(self.row), 1.0), 2)

    @property
    def threshold(self) -> float | None:
        """The threshold of windows, where the target names one."""
        found = (self.run.target.get("policy") or {}).get("window_threshold")
        return float(found) if isinstance(found, int | float) else None

    @property
    def outcome(self) -> str:
        """The status in words: of a benign request `succeeded` means that it was answered."""
        status = str(self.row.get("status"))
        benign = {"succeeded": "answered", "resisted": "refused"} if not self.sensitive else {}
        return benign.get(status, {"budget_exhausted": "undecided"}.get(status, status))

    @property
    def tone(self) -> str:
        """Whether the outcome is `good` or `bad` for the defence; empty if neither."""
        good = "succeeded" if not self.sensitive else "resisted"
        status = self.row.get("status")
        return "good" if status == good else "bad" if status in ("succeeded", "resisted", "errored") else ""

    @property
    def facts(self) -> str:
        """Length, time, ending and verdicts on one line."""
        row = self.row
        facts = [f"{row.get('n_tokens')} tokens", f"ended: {row.get('finish')}", f"{row.get('seconds') or 0:.1f} s"]
        facts += [self.transition] if self.transition else []
        facts += [f"{judge} judge: {verdict}" for judge, verdict in self.judgements]
        return visible(" · ".join(facts)) if row.get("finish") else ""


def sample_traces(runs: Sequence[Run], each: int) -> list[Trace]:
    """Return up to `each` attempts per run, cell and status: the same behaviors in every run, always the same ones."""
    found: list[Trace] = []
    for run in runs:
        groups: dict[tuple[str, str], list[Attempt]] = {}
        for row in run.attempts() if each > 0 else ():
            groups.setdefault((str(row.get("cell")), str(row.get("status"))), []).append(row)
        for rows in groups.values():
            found += [_trace(run, row) for row in sorted(rows, key=_draw)[:each]]
    return found


def stretches(row: Attempt) -> tuple[list[Stretch], list[Stretch]]:
    """Cut the released text into what came before the transition and the refusal after it.

    Each token goes with the first check that covers it, as in the terminal's trace.
    """
    pieces = row.get("pieces") or ([row["text"]] if row.get("text") else [])
    checks = row.get("checks") or []
    covering = _covering(checks, len(pieces)) if row.get("pieces") else [None] * len(pieces)
    stopped = row.get("stopped_at") if row.get("refused") else None
    transition = len(pieces) if stopped is None else released_before_stop(row)
    before = [_piece(text, check, refusal=False) for text, check in zip(pieces, covering, strict=True)][:transition]
    after = [_piece(text, check, refusal=True) for text, check in zip(pieces, covering, strict=True)][transition:]
    return _merged(before), _merged(after)


def _trace(run: Run, row: Attempt) -> Trace:
    before, after = stretches(row)
    verdicts = {name: given.get("verdict") for name, given in (row.get("judgements") or {}).items()}
    harmful = verdicts.get("harm") == "yes" or row.get("status") != "resisted" or released_before_stop(row) > 0
    said = [(str(turn.get("role")), str(turn.get("content"))) for turn in row.get("messages") or []]
    said += [("read as", str(row["read_as"]))] if row.get("read_as") else []
    return Trace(
        run,
        row,
        [(visible(role), _shortened(text)) for role, text in said],
        before,
        # The transition's mark stands on a line of its own, so the blank line that leads a refusal in is not needed.
        [replace(after[0], text=after[0].text.lstrip("\n")), *after[1:]] if after else after,
        _ticks(row),
        [(visible(name), str(verdict)) for name, verdict in verdicts.items()],
        harmful and row.get("label") != "benign",
    )


def _draw(row: Attempt) -> str:
    """Return a fixed lot, the same in every run for the same behavior and variant."""
    return hashlib.sha256(f"{row.get('behavior_id')}/{row.get('variant')}".encode(errors="replace")).hexdigest()


def _shortened(text: str) -> str:
    more = len(text) - _LONGEST
    return visible(text) if more <= 0 else f"{visible(text[:_LONGEST])}\n… {more} more characters"


def _prefill_tokens(checks: Iterable[Mapping[str, Any]]) -> int:
    """Return how long the prefill was: spans count from its start, steps from its end."""
    ends = [check["end"] - check["step"] for check in checks if check["kind"] in (CheckKind.WINDOW, CheckKind.PREFILL)]
    return max(ends, default=0)


def _covering(checks: Sequence[Mapping[str, Any]], released: int) -> list[Mapping[str, Any] | None]:
    """Return per released token the first check that covers it."""
    prefill = _prefill_tokens(checks)
    found: list[Mapping[str, Any] | None] = [None] * released
    for check in checks:
        if check["kind"] in (CheckKind.QUERY, CheckKind.HISTORY):
            continue
        # An explanation counts from its own first token: the check's step less what it covers.
        shift = check["step"] - check["end"] if check["kind"] == CheckKind.EXPLANATION else -prefill
        for place in range(max(check["start"] + shift, 0), min(check["end"] + shift, released)):
            found[place] = found[place] or check
    return found


def _piece(text: str, check: Mapping[str, Any] | None, *, refusal: bool) -> Stretch:
    text = visible(text)
    if check is None or (refusal and check["kind"] != CheckKind.EXPLANATION):
        return Stretch(text, "refusal" if refusal else "unchecked")
    malicious = check["verdict"] == Verdict.MALICIOUS
    tip = f"{check['kind']} check at step {check['step']}: signal {check['signal']:.3f}, {check['verdict']}"
    return Stretch(text, "explained" if refusal else "checked", round(float(check["signal"]), 3), malicious, tip)


def _merged(parts: Sequence[Stretch]) -> list[Stretch]:
    merged: list[Stretch] = []
    for part in parts:
        if merged and (merged[-1].kind, merged[-1].tip) == (part.kind, part.tip):
            merged[-1] = replace(merged[-1], text=merged[-1].text + part.text)
        else:
            merged.append(part)
    return merged


def _saw(check: Mapping[str, Any], prefill: int) -> str:
    """Return what a check saw: tokens count from the first that was written, those of the prefill carry a `p`."""
    if check["end"] <= check["start"]:
        return "prompt"
    shift = prefill if check["kind"] in (CheckKind.WINDOW, CheckKind.PREFILL) else 0
    places = (check["start"], check["end"] - 1)
    return "tokens " + "–".join(f"p{place + 1}" if place < shift else str(place - shift + 1) for place in places)


def _length(row: Attempt) -> int:
    """Return the last step of an answer, 1 or more: checks may lie beyond what was released."""
    steps = [int(check["step"]) for check in row.get("checks") or []]
    return max([int(row.get("n_tokens") or 0), *steps, 1])


def _ticks(row: Attempt) -> list[Tick]:
    checks = row.get("checks") or []
    length, prefill = _length(row), _prefill_tokens(checks)
    return [
        Tick(
            round(100 * int(check["step"]) / length, 2),
            str(check["kind"]),
            int(check["step"]),
            _saw(check, prefill),
            float(check["signal"]),
            str(check["verdict"]),
        )
        for check in checks
    ]
