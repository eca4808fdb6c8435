"""One row of a request: its text, its trajectory, what has been shown, and how it ends.

Positions count from the first token of the prompt; :class:`Trajectory` counts from the row's `origin`, where the
current answer (or, after a refusal, the explanation) begins.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from safesignal.modeling.chat import Encoded
from safesignal.modeling.output import Answer
from safesignal.modeling.text import cut_at_stop, text_after
from safesignal.rules import Policy, Schedule, Trajectory, query_verdict
from safesignal.rules.trajectory import GO_ON, Action, replay
from safesignal.types import Check, CheckKind, FinishReason, Span, Verdict

__all__ = ["Course", "Record", "Row", "answer_of", "close_gaps", "drive"]

Course = Generator[list[Span], list[float], Action]
"""A request for signals: yields spans, is sent their signals, returns what the policy makes of them."""

Record = list[tuple[int, float, Verdict, Span, Action]]
"""Checks of an answer that exists already: its length then, signal, verdict, span and what followed."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(slots=True)
class Row:
    """The state of one answer.

    Attributes:
        number: The row's number in its request; keys the sampling noise.
        encoded: The conversation and the caller's prefill.
        policy: What verdicts do.
        schedule: When answers are checked.
        watch: Whether the signal is read at all; off is the bare base model.
        ids: Prompt, prefill and everything written and not rolled back; the last tokens may not be fed yet.
        fed: How many of `ids` the model has read and the cache keeps.
        origin: Position where the trajectory's tokens begin.
        start: Position where the written text begins, after the caller's prefill unless that was dropped.
        shown: Position up to which text has been released.
        trajectory: The verdict's course through the answer or, after a refusal, the explanation.
        ending: Why the row is about to end; its closing check may still be due.
        finish: Why it ended.
        stopped_at: S_t in generated tokens, where the policy fired.
        refusal_at: Position where the refusal begins; None while there is none.
        released_after_transition: Tokens that had been shown beyond S_t when the policy fired.
        checks: Every check so far.
    """

    number: int
    encoded: Encoded
    policy: Policy
    schedule: Schedule
    watch: bool = True
    ids: list[int] = field(init=False)
    fed: int = 0
    origin: int = field(init=False)
    start: int = field(init=False)
    shown: int = field(init=False)
    trajectory: Trajectory = field(init=False)
    ending: FinishReason | None = None
    finish: FinishReason | None = None
    stopped_at: int | None = None
    refusal_at: int | None = None
    released_after_transition: int = 0
    checks: list[Check] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ids = list(self.encoded.ids)
        self.origin = self.encoded.text
        self.start = self.shown = len(self.ids)
        self.trajectory = Trajectory(self.policy, prefill=self.encoded.prefill)

    @property
    def pending(self) -> list[int]:
        """Ids the model has not read yet."""
        return self.ids[self.fed :]

    @property
    def end(self) -> int:
        """Position after the last text token; the end-of-sequence token is no text."""
        return len(self.ids) - (self.ending is FinishReason.EOS)

    @property
    def length(self) -> int:
        """Tokens the trajectory counts."""
        return self.end - self.origin

    @property
    def written(self) -> int:
        """Tokens after the prompt and the caller's prefill, the end-of-sequence token included."""
        return len(self.ids) - self.start

    @property
    def prefill(self) -> list[int]:
        """Ids of the caller's prefill, which the written text goes on from; none once it was dropped."""
        return self.ids[self.encoded.text : self.start]

    @property
    def refused(self) -> bool:
        """Whether the policy fired."""
        return self.refusal_at is not None

    @property
    def checks_query(self) -> bool:
        """Whether the query is checked before anything is written."""
        return self.watch and self.policy.check_query

    def opening(self) -> list[Course]:
        """Return the checks of everything that is there at step 0 but the query: earlier answers, caller's prefill."""
        if not self.watch:
            return []
        turns = [self._check_turn(i, end - start) for i, (start, end) in enumerate(self.encoded.earlier_answers())]
        return [*turns, self._check_prefill()]

    def due(self) -> Span | None:
        """Return what to check once the pending tokens are read; None if nothing is due."""
        length, course = self.length, self.trajectory
        if not self.watch:
            return None
        if self.ending is not None:
            return course.span(length) if self.policy.buffer and course.closing_due(length) else None
        step = length - course.prefill
        wanted = step >= 1 and self.schedule.due(step) and course.worth_checking(length)
        return course.span(length) if wanted else None

    def observe(self, signal: float, span: Span) -> Action:
        """Record a check of the answer or the explanation and return what follows."""
        verdict, action = self.trajectory.observe(signal, span, self.length)
        kind = CheckKind.WINDOW if self.refusal_at is None else CheckKind.EXPLANATION
        self.checks.append(Check(self.end - self.start, signal, verdict, span, kind))
        return action

    def refuse(self, keep: int, refusal: Sequence[int]) -> None:
        """Roll back to the transition point and put a refusal there, for the model to read and go on from.

        A refusal of the explanation replaces the first one, or what of it was not shown yet.

        Args:
            keep: S_t in the trajectory's tokens.
            refusal: Ids of the refusal; it begins after the last token shown if the buffer was off.
        """
        transition = self.origin + keep
        if self.refusal_at is None:
            self.stopped_at = max(0, transition - self.start)
            self.released_after_transition = max(0, self.shown - max(transition, self.start))
            if transition < self.start and self.released_after_transition == 0:
                self.start = self.shown = self.encoded.text
            self.refusal_at = max(transition, self.shown)
        transition = max(self.refusal_at, self.shown)
        self.ids = self.ids[:transition] + list(refusal)
        self.fed = min(self.fed, transition)
        self.origin = len(self.ids)
        # Of an explanation rule 2 alone holds, whatever the answer's checks may see.
        self.trajectory = Trajectory(replace(self.policy, strategic_attention=True))
        self.ending = None

    def release(self) -> list[int]:
        """Return the ids that may be shown now and were not before.

        While benign these are what benign checks cover; a refusal waits for the first check of its explanation.
        """
        covered = self.trajectory.releasable(self.length) if self.watch else self.length
        until = self.shown
        if self.finish is not None:
            until = self.end
        elif self.refusal_at is None or covered:
            until = max(until, self.origin + covered)
        released = self.ids[self.shown : until]
        self.shown = until
        return released

    def ranges(self, span: Span) -> list[tuple[int, int]]:
        """Resolve a span to (start, end) positions; those of an explanation count from where it begins."""
        if self.refusal_at is not None and span.turn is None and not span.query:
            return [(self.origin + span.start, self.origin + span.end)]
        return self.encoded.ranges(span)

    def to_read(self, span: Span) -> tuple[Encoded, Sequence[int]]:
        """Return what a reader reads for a span: the conversation, and all that was written to it up to its end."""
        if span.turn is not None or span == Span(query=True):
            return self.encoded.to_read(span)
        return self.encoded, self.ids[self.encoded.text : self.origin + span.end]

    def since(self, span: Span) -> int | None:
        """Return the first position that sees the check of this span, where text sees checks; None: no text does.

        The query check is seen by the whole answer, a window by what is written after it, an earlier turn's by none.
        """
        if not self.policy.implicit or span.turn is not None:
            return None
        return self.encoded.text if span == Span(query=True) else len(self.ids)

    def query(self) -> Course:
        """Check the user's text: the first verdict."""
        span = Span(query=True)
        (signal,) = yield [span]
        verdict, action = query_verdict(signal, self.policy)
        self.trajectory.first = verdict
        self.checks.append(Check(0, signal, verdict, span, CheckKind.QUERY))
        return action

    def causes(self, *, query: bool) -> list[Span]:
        """Return the span of the check that refused at step 0, the query's or the prefill's last; none without any."""
        kind = CheckKind.QUERY if query else CheckKind.PREFILL
        return [check.span for check in self.checks if check.kind is kind][-1:]

    def _check_turn(self, turn: int, length: int) -> Course:
        course = Trajectory(self.policy, turn=turn)
        record = yield from replay(course, self.due_lengths(length))
        record += [] if record and record[-1][-1].refuse else (yield from close_gaps(course, length))
        self.checks += [Check(0, signal, verdict, span, CheckKind.HISTORY) for _, signal, verdict, span, _ in record]
        fired = bool(record and record[-1][-1].refuse) or course.close().refuse
        # Where the turn went bad is no place in the current answer: nothing of that stays.
        return Action(refuse=True, keep=0) if fired else GO_ON

    def _check_prefill(self) -> Course:
        course = Trajectory(self.policy, prefill=self.encoded.prefill)
        record = yield from replay(course, self.due_lengths(self.encoded.prefill))
        self.checks += [Check(0, signal, verdict, span, CheckKind.PREFILL) for _, signal, verdict, span, _ in record]
        course.first, self.trajectory = self.trajectory.first, course
        return record[-1][-1] if record else GO_ON

    def due_lengths(self, length: int) -> list[int]:
        """Return the lengths at which an answer of `length` tokens is checked: on the schedule and at its end."""
        return [n for n in range(1, length + 1) if self.schedule.due(n) or n == length]


def answer_of(
    row: Row, stop_strings: Sequence[str], to_text: Callable[[Sequence[int]], str], times: Sequence[float]
) -> Answer:
    """Return what became of a row that has ended.

    Args:
        row: The row.
        stop_strings: Texts that ended it are cut off.
        to_text: Decodes tokens.
        times: Seconds from the beginning to each of its steps.
    """
    ids = tuple(row.ids[row.start : row.shown])
    text = text_after(row.prefill, ids, to_text)
    return Answer(
        text=text if row.refused else cut_at_stop(text, stop_strings),
        ids=ids,
        refused=row.refused,
        stopped_at=row.stopped_at,
        checks=tuple(row.checks),
        finish_reason=row.finish or FinishReason.LENGTH,
        n_tokens=len(ids),
        released_after_transition=row.released_after_transition,
        seconds_to_first=times[0],
        seconds=times[-1],
        end_id=row.ids[-1] if row.finish is FinishReason.EOS else None,
        prefill_dropped=row.start < len(row.encoded.ids),
    )


def close_gaps(course: Trajectory, length: int) -> Generator[list[Span], list[float], Record]:
    """Check what no check covered at the end of an answer of `length` tokens, as the decode loop does there."""
    record: Record = []
    while course.closing_due(length):
        span = course.span(length)
        (signal,) = yield [span]
        verdict, action = course.observe(signal, span, length)
        record.append((length, signal, verdict, span, action))
        if action.refuse:
            break
    return record


def drive(
    courses: Mapping[Key, Course], read: Callable[[dict[Key, list[Span]]], dict[Key, list[float]]]
) -> dict[Key, Action]:
    """Run many courses side by side, so that the signals all of them want now are read in one forward.

    Args:
        courses: Generators that yield spans and are sent one signal for each.
        read: Reads signals; called only with courses that want some.

    Returns:
        What each course came to.
    """
    results: dict[Key, Action] = {}
    replies: dict[Key, list[float] | None] = dict.fromkeys(courses)
    while replies:
        wanted: dict[Key, list[Span]] = {}
        for key, reply in replies.items():
            try:
                # A generator that has just begun takes None, which the type of `send` cannot say.
                wanted[key] = courses[key].send(reply)  # type: ignore[arg-type]
            except StopIteration as stop:
                results[key] = stop.value
        replies = dict(read(wanted)) if wanted else {}
    return results
