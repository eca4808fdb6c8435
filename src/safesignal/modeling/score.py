"""Reading the signal of text that exists already: a prompt, or a prompt and somebody's response."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safesignal.modeling.chat import Encoded
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.output import Score
from safesignal.modeling.rows import Course, Row, drive
from safesignal.rules import Policy, Schedule, Trajectory
from safesignal.rules.trajectory import GO_ON, decisive_signal, replay
from safesignal.types import Check, CheckKind, Span

__all__ = ["score_encoded"]


@torch.no_grad()
def score_encoded(
    forward: SignalForward, conversations: Sequence[Encoded], policy: Policy, schedule: Schedule
) -> list[Score]:
    """Score conversations in one batch; their prefill is the response.

    Until the policy would fire, the windows are those that `generate` would have read while writing the same ids
    (tests/invariants/test_score.py); after that, plain rule 2 goes on to the end.

    Args:
        forward: The model.
        conversations: Prompts, each with the response to score as its prefill (may be empty).
        policy: Thresholds, τ and r; only the verdicts and the spans after a malicious one depend on them.
        schedule: When the response is read; its end is always read.
    """
    rows = [Row(number, encoded, policy, schedule) for number, encoded in enumerate(conversations)]
    state = forward.new_state(len(rows))
    forward.feed(state, [row.pending for row in rows], [[] for _ in rows])
    state.advance([len(row.ids) for row in rows])

    def read(wanted: dict[tuple[int, int], list[Span]]) -> dict[tuple[int, int], list[float]]:
        own = [[span for key, spans in wanted.items() if key[0] == r for span in spans] for r in range(len(rows))]
        sights = [[forward.sight(row.ranges(span)) for span in spans] for row, spans in zip(rows, own, strict=True)]
        replies = [iter(signals) for signals in forward.feed(state, [[] for _ in rows], sights)[1]]
        return {key: [next(replies[key[0]]) for _ in spans] for key, spans in wanted.items()}

    courses = {(r, c): course for r, row in enumerate(rows) for c, course in enumerate((row.query(), _windows(row)))}
    drive(courses, read)
    return [_score(row) for row in rows]


def _windows(row: Row) -> Course:
    """Follow the response as if it were being generated, and on to its end even where the policy fires."""
    lengths = row.due_lengths(row.encoded.prefill)
    course = Trajectory(row.policy)
    while lengths:
        record = yield from replay(course, lengths)
        row.checks += [Check(n, signal, verdict, span, CheckKind.WINDOW) for n, signal, verdict, span, _ in record]
        lengths = lengths[len(record) :]
        course = Trajectory(row.policy, frontier=record[-1][0])
    return GO_ON


def _score(row: Row) -> Score:
    checks = sorted(row.checks, key=lambda check: check.kind is not CheckKind.QUERY)
    windows = tuple(check.signal for check in checks[1:])
    decisive = decisive_signal(windows, row.policy.tau) if windows else None
    return Score(checks[0].signal, windows, decisive, tuple(checks))
