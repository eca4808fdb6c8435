"""Reading the signal of text that exists already: a prompt, or a prompt and somebody's response.

Which spans are read depends on earlier verdicts. So a course is followed to its end on what is known and on guesses,
all that was guessed is read in one forward, and the course is followed anew until nothing in it is a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch

from safesignal.modeling.cache import TextState
from safesignal.modeling.chat import Encoded
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.output import Score
from safesignal.modeling.rows import Course, Record, Row, close_gaps
from safesignal.rules import Policy, Schedule, Trajectory, query_verdict
from safesignal.rules.trajectory import decisive_signal, replay
from safesignal.types import Check, CheckKind, Span

__all__ = ["WindowReader", "score_encoded"]

_KEPT_BYTES = 4 * 2**30

T = TypeVar("T")


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
    queries = [(r, partial(_query, row)) for r, row in enumerate(rows)]
    windows = [(r, partial(_windows, row)) for r, row in enumerate(rows)]
    checks = _Texts(forward, rows).follow([*queries, *windows])
    return [
        _score(forward.read_as(row.encoded), [*query, *own], policy)
        for row, query, own in zip(rows, checks[: len(rows)], checks[len(rows) :], strict=True)
    ]


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
        self.schedule = schedule
        self.n = len(answers)
        # Similar lengths share a batch; the order of `answers` is restored on the way out.
        order = sorted(range(self.n), key=lambda index: len(answers[index].ids))
        self._groups = [order[i : i + batch_size] for i in range(0, self.n, batch_size)]
        self._answers = answers
        self._texts = [_Texts(forward, [self._row(index, Policy()) for index in group]) for group in self._groups]

    def queries(self) -> list[float]:
        """Return the query signal of every conversation."""
        found = self._follow(lambda index: partial(_query, self._row(index, Policy())))
        return [check.signal for (check,) in found]

    def fired(self, policy: Policy) -> list[bool]:
        """Tell, per answer, whether its windows alone make the policy fire."""
        actions = self._follow(lambda index: partial(_until_fired, self._row(index, policy)))
        return [action.refuse for action in actions]

    def _row(self, index: int, policy: Policy) -> Row:
        return Row(index, self._answers[index], policy, self.schedule)

    def _follow(self, begin: Callable[[int], _Begin[T]]) -> list[T]:
        """Follow one course per answer; text stays in memory while all of it together takes little."""
        ends: dict[int, T] = {}
        kept = 0
        for group, texts in zip(self._groups, self._texts, strict=True):
            found = texts.follow([(place, begin(index)) for place, index in enumerate(group)])
            ends |= dict(zip(group, found, strict=True))
            kept += texts.nbytes
            if kept > _KEPT_BYTES:
                kept -= texts.nbytes
                texts.forget()
        return [ends[index] for index in range(self.n)]


_Begin = Callable[[], Generator[list[Span], list[float], T]]
"""Begins a course: it yields spans, is sent their signals, and comes to something. It must change nothing else."""


class _Texts:
    """A batch of texts, read once, and the signals of their spans, each read once."""

    def __init__(self, forward: SignalForward, rows: Sequence[Row]) -> None:
        self.forward, self.rows = forward, rows
        self._known: list[dict[Span, float]] = [{} for _ in rows]
        self._state: TextState | None = None

    @property
    def nbytes(self) -> int:
        """Memory that the text takes, bytes."""
        return self._state.nbytes if self._state is not None else 0

    def forget(self) -> None:
        """Give the memory back; the signals stay, and further ones cost another reading of the text."""
        self._state = None

    def follow(self, courses: Sequence[tuple[int, _Begin[T]]]) -> list[T]:
        """Follow courses over rows, given by their numbers, and return what each comes to."""
        ends: dict[int, T] = {}
        while len(ends) < len(courses):
            wanted: list[dict[Span, None]] = [{} for _ in self.rows]
            for place, (r, begin) in enumerate(courses):
                if place not in ends:
                    guessed, end = _foresee(begin(), self._known[r])
                    wanted[r] |= dict.fromkeys(guessed)
                    ends |= {} if guessed else {place: end}
            if any(wanted):
                self._read([list(spans) for spans in wanted])
        return [ends[place] for place in range(len(courses))]

    @torch.no_grad()
    def _read(self, wanted: Sequence[Sequence[Span]]) -> None:
        """Learn the signals of spans, per row."""
        if self._state is None:
            self._state = self._fed()
        sights = [
            [self.forward.sight(row.ranges(s), text=row.to_read(s)) for s in own]
            for row, own in zip(self.rows, wanted, strict=True)
        ]
        found = self.forward.feed(self._state, [[] for _ in self.rows], sights)[1]
        for known, spans, signals in zip(self._known, wanted, found, strict=True):
            known.update(zip(spans, signals, strict=True))

    def _fed(self) -> TextState:
        """Read the texts; where text sees the signal, an answer sees its query check, as a caller's prefill does."""
        state = self.forward.new_state(len(self.rows))
        if self.forward.joint:
            query = Span(query=True)
            sights = [[self.forward.sight(row.ranges(query), row.since(query))] for row in self.rows]
            self.forward.feed(state, [row.ids[: row.encoded.text] for row in self.rows], sights)
            state.advance([row.encoded.text for row in self.rows])
        rest = [row.ids[length:] for row, length in zip(self.rows, state.lengths, strict=True)]
        if any(rest):
            self.forward.feed(state, rest, [[] for _ in rest])
            state.advance([len(ids) for ids in rest])
        return state


def _foresee(course: Generator[list[Span], list[float], T], known: Mapping[Span, float]) -> tuple[list[Span], T]:
    """Follow a course to its end; return the spans it was given guesses for, and what it came to.

    The guess is that things stay as they are: a span is like the one before it, and since a course asks anew after a
    malicious check only, what it asks for then is malicious too.
    """
    guessed, guess = [], 0.0
    try:
        spans = next(course)
        while True:
            signals = []
            for span in spans:
                guessed += [] if span in known else [span]
                guess = known.get(span, guess)
                signals.append(guess)
            spans, guess = course.send(signals), 1.0
    except StopIteration as stop:
        return guessed, stop.value


def _query(row: Row) -> Generator[list[Span], list[float], list[Check]]:
    """Check the user's text."""
    span = Span(query=True)
    (signal,) = yield [span]
    return [Check(0, signal, query_verdict(signal, row.policy)[0], span, CheckKind.QUERY)]


def _until_fired(row: Row) -> Course:
    """Follow the response as decoding would, to the point where the policy fires."""
    course = Trajectory(row.policy)
    record = yield from replay(course, row.due_lengths(row.encoded.prefill))
    if row.policy.buffer and not (record and record[-1][-1].refuse):
        record += yield from close_gaps(course, row.encoded.prefill)
    return record[-1][-1] if record and record[-1][-1].refuse else course.close()


def _windows(row: Row) -> Generator[list[Span], list[float], list[Check]]:
    """Follow the response as if it were being generated, and on to its end even where the policy fires."""
    lengths = row.due_lengths(row.encoded.prefill)
    course, record = Trajectory(row.policy), Record()
    while lengths:
        part = yield from replay(course, lengths)
        record += part
        lengths = lengths[len(part) :]
        if part[-1][-1].refuse:
            course = Trajectory(row.policy, frontier=part[-1][0])
    if row.policy.buffer:
        record += yield from close_gaps(course, row.encoded.prefill)
    return [Check(n, signal, verdict, span, CheckKind.WINDOW) for n, signal, verdict, span, _ in record]


def _score(read_as: str | None, checks: Sequence[Check], policy: Policy) -> Score:
    query, *windows = (check.signal for check in checks)
    decisive = decisive_signal(windows, policy.tau) if windows else None
    return Score(query, tuple(windows), decisive, tuple(checks), read_as=read_as)
