"""`score` on generated ids is what `generate` logged."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest

from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer
from safesignal.modeling.score import score_encoded
from safesignal.rules import ANNEALING, EVERY, Policy, Schedule, Trajectory, periodic
from safesignal.rules.trajectory import decisive_signal
from safesignal.types import Check, CheckKind, Role, Span, Verdict
from tests.invariants.harness import (
    NEVER,
    NEVER_AT_ALL,
    PROMPTS,
    Recorder,
    encoded,
    guarded,
    oracle_signal,
    run,
    windows,
)
from tests.support import Family


def as_response(one: Encoded, answer: Answer) -> Encoded:
    """Give generated ids the role of a response that somebody supplied."""
    return replace(one, ids=(*one.ids, *answer.ids), roles=(*one.roles, *[Role.PREFILL] * len(answer.ids)))


def assert_scored_as_logged(
    model: SafeSignalModel, conversations: list[Encoded], answers: list[Answer], policy: Policy, schedule: Schedule
) -> None:
    given = [as_response(one, answer) for one, answer in zip(conversations, answers, strict=True)]
    for answer, score in zip(answers, score_encoded(model.forward_signal, given, policy, schedule), strict=True):
        logged = [check for check in answer.checks if check.kind in {CheckKind.QUERY, CheckKind.WINDOW}]
        assert [check.span for check in score.checks] == [check.span for check in logged]
        for found, expected in zip(score.checks, logged, strict=True):
            assert (found.step, found.verdict, found.kind) == (expected.step, expected.verdict, expected.kind)
            assert abs(found.signal - expected.signal) < 1e-4
        assert score.prompt_signal == score.checks[0].signal
        assert score.response_signals == tuple(check.signal for check in score.checks[1:])
        assert score.response_signal == decisive_signal(score.response_signals, policy.tau)


def test_without_an_alarm(family: Family) -> None:
    model = guarded(family)
    conversations = encoded(model, PROMPTS[:3])
    answers, _ = run(model, conversations, schedule=ANNEALING, new=37)
    assert_scored_as_logged(model, conversations, answers, NEVER, ANNEALING)


def false_alarms(checks: list[Check]) -> int:
    return sum(
        before.verdict is Verdict.MALICIOUS and after.verdict is Verdict.BENIGN
        for before, after in itertools.pairwise(checks)
    )


@pytest.mark.parametrize("schedule", [EVERY, ANNEALING, periodic(7)], ids=str)
@pytest.mark.parametrize("new", [38, 41])
def test_with_false_alarms(schedule: Schedule, new: int) -> None:
    model = guarded("llama")
    conversations = encoded(model, PROMPTS)
    watched, _ = run(model, conversations, policy=NEVER_AT_ALL, schedule=schedule, new=new)
    levels = sorted(check.signal for answer in watched for check in windows(answer))
    alarms, late = 0, 0
    for share in (0.98, 0.9, 0.8, 0.7):
        at = int(share * (len(levels) - 1))
        policy = Policy(threshold=1.0, window_threshold=(levels[at] + levels[at + 1]) / 2, tau=3, after="stop")
        answers, _ = run(model, conversations, policy=policy, schedule=schedule, new=new)
        calm = [(one, a) for one, a in zip(conversations, answers, strict=True) if not a.refused]
        if not calm:
            continue
        assert_scored_as_logged(model, [one for one, _ in calm], [answer for _, answer in calm], policy, schedule)
        alarms += sum(false_alarms(windows(answer)) for _, answer in calm)
        # The closing check of the whole end, after one that saw only the range around the turn.
        late += sum(windows(a)[-1].step == windows(a)[-2].step for _, a in calm)
    assert alarms > 0, "no false alarm, so rule 3 was never scored"
    assert schedule == EVERY or late >= 0


def one_by_one(read: Callable[[Span], float], length: int, policy: Policy, schedule: Schedule) -> list[Check]:
    """Follow the windows of an answer of `length` tokens, each read by itself."""
    course, checks = Trajectory(policy), []
    for n in [n for n in range(1, length + 1) if schedule.due(n) or n == length]:
        while n > course.checked or (n == length and course.closing_due(n)):
            span = course.span(n)
            signal = read(span)
            verdict, action = course.observe(signal, span, n)
            checks.append(Check(n, signal, verdict, span, CheckKind.WINDOW))
            course = Trajectory(policy, frontier=n, checked=n) if action.refuse else course
    return checks


@pytest.mark.parametrize("schedule", [EVERY, ANNEALING, periodic(7)], ids=str)
def test_guesses_change_nothing_and_save_forwards(schedule: Schedule) -> None:
    model = guarded("llama")
    given = encoded(model, PROMPTS[:2], "The letters of this answer, and there are many, all end here.")
    readers = [cache(lambda span, one=one: oracle_signal(model, one.ids, one.ranges(span))) for one in given]
    (plain, *_) = score_encoded(model.forward_signal, given, NEVER_AT_ALL, schedule)
    levels = sorted(plain.response_signals)
    for share, tau in itertools.product((0.0, 0.3, 0.5, 0.7, 0.9), (1, 2, 3)):
        at = int(share * (len(levels) - 1))
        policy = Policy(threshold=1.0, window_threshold=(levels[at] + levels[at + 1]) / 2, tau=tau)
        recorder = Recorder(model)
        with recorder.on():
            scores = score_encoded(model.forward_signal, given, policy, schedule)
        for score, read, one in zip(scores, readers, given, strict=True):
            expected = one_by_one(read, one.prefill, policy, schedule)
            assert [replace(check, signal=0.0) for check in score.checks[1:]] == [
                replace(check, signal=0.0) for check in expected
            ]
            assert score.response_signals == pytest.approx([check.signal for check in expected], abs=1e-4)
        # One for the text, one for all spans as if benign, and few for what malicious ones lead to.
        assert len(recorder.passes) <= 5


def test_a_prompt_alone() -> None:
    model = guarded("llama")
    alone, both = model.score(PROMPTS[:2]), model.score(PROMPTS[:2], [None, "a response"])
    assert [score.prompt_signal for score in alone] == pytest.approx([s.prompt_signal for s in both], abs=1e-4)
    assert (alone[0].response_signals, alone[0].response_signal) == ((), None)
    assert (both[0].response_signals, both[0].response_signal) == ((), None)
    assert len(both[1].response_signals) == len("a response")


def test_batch_is_single() -> None:
    model = guarded("gemma3")
    responses = ["short", None, "a much longer response, of some forty letters", "x", "yes", "no"]
    together = model.score(PROMPTS, responses, schedule=ANNEALING)
    for prompt, response, expected in zip(PROMPTS, responses, together, strict=True):
        (found,) = model.score([prompt], [response], schedule=ANNEALING)
        assert [check.span for check in found.checks] == [check.span for check in expected.checks]
        assert found.response_signals == pytest.approx(expected.response_signals, abs=1e-4)


def test_after_the_policy_would_have_fired_rule_2_goes_on_to_the_end() -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=0.0, tau=2)
    (score,) = model.score(PROMPTS[:1], ["0123456789abcdefghij"], policy=policy, schedule=EVERY)
    assert [check.span.end for check in score.checks[1:]] == [1, 2, *range(3, 21)]
    assert all(check.verdict is Verdict.MALICIOUS for check in score.checks)
