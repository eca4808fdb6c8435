"""Reading the signal of text that exists already: a prompt, or a prompt and somebody's response."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from safesignal.modeling.chat import Encoded
from safesignal.modeling.forward import SignalForward, TextState
from safesignal.modeling.output import Score
from safesignal.modeling.rows import Course, Row, close_gaps, drive
from safesignal.rules import Policy, Schedule, Trajectory
from safesignal.rules.trajectory import GO_ON, decisive_signal, replay
from safesignal.types import Check, CheckKind, Span

__all__ = ["WindowReader", "score_encoded"]

_KEPT_BYTES = 4 * 2**30


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
    state = _fed(forward, rows)
    courses = {(r, c): course for r, row in enumerate(rows) for c, course in enumerate((row.query(), _windows(row)))}
    drive(courses, lambda wanted: _read(forward, state, rows, wanted))
    return [_score(row) for row in rows]


class WindowReader:
    """Replays answers under many policies, reading each span of each answer once.

    Args:
        forward: The model.
        answers: Conversations whose prefill is the answer.
        schedule: When answers are checked.
        batch_size: Rows read together.
    """

    def __init__(
        self, forward: SignalForward, answers: Sequence[Encoded], schedule: Schedule, batch_size: int = 16
    ) -> None:
        self.forward = forward
        self.schedule = schedule
        self.n = len(answers)
        # Similar lengths share a batch; the order of `answers` is restored on the way out.
        order = sorted(range(self.n), key=lambda index: len(answers[index].ids))
        self._groups = [order[i : i + batch_size] for i in range(0, self.n, batch_size)]
        self._answers = answers
        self._known: dict[tuple[int, Span], float] = {}
        self._kept: dict[int, TextState] = {}
        self._kept_bytes = 0

    def queries(self) -> list[float]:
        """Return the query signal of every conversation."""
        wanted = {index: [Span(query=True)] for index in range(self.n)}
        self._learn(wanted)
        return [self._known[index, Span(query=True)] for index in range(self.n)]

    def fired(self, policy: Policy) -> list[bool]:
        """Tell, per answer, whether its windows alone make the policy fire."""
        rows = [Row(index, encoded, policy, self.schedule) for index, encoded in enumerate(self._answers)]
        courses = {index: _until_fired(row) for index, row in enumerate(rows)}
        actions = drive(courses, self._learn)
        return [actions[index].refuse for index in range(self.n)]

    @torch.no_grad()
    def _learn(self, wanted: dict[int, list[Span]]) -> dict[int, list[float]]:
        for number, group in enumerate(self._groups):
            missing = {i: [s for s in wanted.get(i, []) if (i, s) not in self._known] for i in group}
            if not any(missing.values()):
                continue
            rows = [Row(index, self._answers[index], Policy(), self.schedule) for index in group]
            asked = {(r, 0): missing[index] for r, index in enumerate(group)}
            replies = _read(self.forward, self._state(number, rows), rows, asked)
            for r, index in enumerate(group):
                self._known |= {(index, span): s for span, s in zip(missing[index], replies[r, 0], strict=True)}
        return {index: [self._known[index, span] for span in spans] for index, spans in wanted.items()}

    def _state(self, number: int, rows: Sequence[Row]) -> TextState:
        """Return a group's text as read before, or read it; kept while all of them together take little memory."""
        if number in self._kept:
            return self._kept[number]
        state = _fed(self.forward, rows)
        if self._kept_bytes + state.cache.nbytes <= _KEPT_BYTES:
            self._kept[number] = state
            self._kept_bytes += state.cache.nbytes
        return state


def _fed(forward: SignalForward, rows: Sequence[Row]) -> TextState:
    """Read the text of all rows once."""
    state = forward.new_state(len(rows))
    forward.feed(state, [row.pending for row in rows], [[] for _ in rows])
    state.advance([len(row.ids) for row in rows])
    return state


def _read(
    forward: SignalForward, state: TextState, rows: Sequence[Row], wanted: dict[tuple[int, int], list[Span]]
) -> dict[tuple[int, int], list[float]]:
    """Read signals over text that was fed already."""
    own = [[span for key, spans in wanted.items() if key[0] == r for span in spans] for r in range(len(rows))]
    sights = [[forward.sight(row.ranges(span)) for span in spans] for row, spans in zip(rows, own, strict=True)]
    replies = [iter(signals) for signals in forward.feed(state, [[] for _ in rows], sights)[1]]
    return {key: [next(replies[key[0]]) for _ in spans] for key, spans in wanted.items()}


def _until_fired(row: Row) -> Course:
    """Follow the response as decoding would, to the point where the policy fires."""
    course = Trajectory(row.policy)
    record = yield from replay(course, row.due_lengths(row.encoded.prefill))
    if row.policy.buffer and not (record and record[-1][-1].refuse):
        record += yield from close_gaps(course, row.encoded.prefill)
    return record[-1][-1] if record and record[-1][-1].refuse else course.close()


def _windows(row: Row) -> Course:
    """Follow the response as if it were being generated, and on to its end even where the policy fires."""
    lengths = row.due_lengths(row.encoded.prefill)
    course = Trajectory(row.policy)
    while lengths:
        record = yield from replay(course, lengths)
        row.checks += [Check(n, signal, verdict, span, CheckKind.WINDOW) for n, signal, verdict, span, _ in record]
        lengths = lengths[len(record) :]
        if record[-1][-1].refuse:
            course = Trajectory(row.policy, frontier=record[-1][0])
    if row.policy.buffer:
        record = yield from close_gaps(course, row.encoded.prefill)
        row.checks += [Check(n, signal, verdict, span, CheckKind.WINDOW) for n, signal, verdict, span, _ in record]
    return GO_ON


def _score(row: Row) -> Score:
    checks = sorted(row.checks, key=lambda check: check.kind is not CheckKind.QUERY)
    windows = tuple(check.signal for check in checks[1:])
    decisive = decisive_signal(windows, row.policy.tau) if windows else None
    return Score(checks[0].signal, windows, decisive, tuple(checks))
