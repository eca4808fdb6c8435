"""Rules 1 to 4 as hand-written tables, then the two facts of trajectory.py for any signals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesignal.errors import SignalError
from safesignal.rules import ANNEALING, EVERY, GO_ON, Action, Policy, Trajectory, query_verdict, verdict_of
from safesignal.rules.trajectory import decisive_signal, replay
from safesignal.types import Span, Verdict

LOW, HIGH = 0.1, 0.9
B, M = Verdict.BENIGN, Verdict.MALICIOUS


def follow(course: Trajectory, script: list[tuple[int, float]]) -> list[tuple[tuple[int, int], Action, int]]:
    """Check at each length with the scripted signal; return span, action and frontier after it."""
    table = []
    for length, signal in script:
        span = course.span(length)
        assert not span.query
        _, action = course.observe(signal, span, length)
        table.append(((span.start, span.end), action, course.frontier))
    return table


def fire(keep: int) -> Action:
    return Action(refuse=True, keep=keep)


def test_rule_2_while_benign() -> None:
    script = [(1, LOW), (2, LOW), (10, LOW), (15, LOW), (25, LOW)]
    assert follow(Trajectory(Policy()), script) == [
        ((0, 1), GO_ON, 1),
        ((0, 2), GO_ON, 2),
        ((0, 10), GO_ON, 10),
        ((5, 15), GO_ON, 15),
        ((15, 25), GO_ON, 25),
    ]


def test_rule_2_counts_r2() -> None:
    assert follow(Trajectory(Policy(r2=4)), [(4, LOW), (7, LOW)]) == [((0, 4), GO_ON, 4), ((3, 7), GO_ON, 7)]


@pytest.mark.parametrize("r1", [10, 4, 0])
def test_rule_1_the_input_and_the_first_r1_then_no_further(r1: int) -> None:
    course = Trajectory(Policy(dependence="low", r1=r1), first=M)
    seen = []
    for length in range(1, 21):
        if course.worth_checking(length):
            span = course.span(length)
            assert span.query
            seen.append((span.start, span.end))
            assert course.observe(HIGH, span, length)[1] == GO_ON
    assert seen == ([(0, n) for n in range(1, r1 + 1)] if r1 else [(0, 0)])
    assert not course.closing_due(40)


def test_rule_3_around_the_turn() -> None:
    """The turn is where the last benign check ended; the range never grows beyond S_t + r3."""
    script = [(40, LOW), (45, HIGH), (46, HIGH), (55, HIGH), (70, HIGH)]
    assert follow(Trajectory(Policy(tau=9), frontier=20), [(30, LOW), *script]) == [
        ((20, 30), GO_ON, 30),
        ((30, 40), GO_ON, 40),
        ((35, 45), GO_ON, 40),
        ((30, 46), GO_ON, 40),
        ((30, 50), GO_ON, 40),
        ((30, 50), GO_ON, 40),
    ]


def test_rule_3_counts_r2_before_and_r3_after_and_stops_at_zero() -> None:
    assert [row[0] for row in follow(Trajectory(Policy(tau=9, r3=3)), [(4, LOW), (5, HIGH), (6, HIGH), (9, HIGH)])] == [
        (0, 4),
        (0, 5),
        (0, 6),
        (0, 7),
    ]


def test_a_false_alarm_falls_back_to_rule_2_stretched_to_the_frontier() -> None:
    script = [(40, LOW), (50, HIGH), (60, LOW), (70, LOW), (80, LOW)]
    assert follow(Trajectory(Policy(), frontier=30), script) == [
        ((30, 40), GO_ON, 40),
        ((40, 50), GO_ON, 40),
        ((30, 50), GO_ON, 50),  # rule 3 said benign, of tokens up to 50 only
        ((50, 70), GO_ON, 70),  # 20 tokens, because 50 to 60 were never covered
        ((70, 80), GO_ON, 80),
    ]


@pytest.mark.parametrize("tau", [1, 2, 3])
def test_tau_consecutive_checks(tau: int) -> None:
    course = Trajectory(Policy(tau=tau))
    assert course.observe(LOW, course.span(5), 5)[1] == GO_ON
    for n in range(1, tau):
        assert course.observe(HIGH, course.span(5 + n), 5 + n)[1] == GO_ON
    assert course.observe(HIGH, course.span(9), 9)[1] == fire(5)


def test_a_benign_check_breaks_the_run() -> None:
    actions = [
        row[1] for row in follow(Trajectory(Policy(tau=2)), [(1, HIGH), (2, LOW), (3, HIGH), (4, LOW), (5, HIGH)])
    ]
    assert actions == [GO_ON] * 5


def test_high_fires_at_the_first() -> None:
    assert follow(Trajectory(Policy(dependence="high", tau=3)), [(3, LOW), (4, HIGH)])[-1][1] == fire(3)


def test_low_never_fires() -> None:
    course = Trajectory(Policy(dependence="low", tau=1))
    assert all(row[1] == GO_ON for row in follow(course, [(n, HIGH) for n in range(1, 9)]))
    assert course.close() == GO_ON
    assert course.releasable(9) == 9


def test_the_papers_transition_is_the_first_malicious_check() -> None:
    course = Trajectory(Policy(transition="paper", tau=2))
    assert [row[1] for row in follow(course, [(10, LOW), (15, HIGH), (20, HIGH)])] == [GO_ON, GO_ON, fire(15)]


@pytest.mark.parametrize("transition", ["covered", "paper"])
@pytest.mark.parametrize("malicious_at", [1, 7, 12])
def test_a_malicious_prefill_fires_regardless_of_tau_and_nothing_of_it_stays(
    transition: Any, malicious_at: int
) -> None:
    course = Trajectory(Policy(tau=3, transition=transition), prefill=12)
    script = [(n, LOW) for n in range(1, malicious_at)] + [(malicious_at, HIGH)]
    assert follow(course, script)[-1][1] == fire(0)


def test_a_turn_right_after_a_benign_prefill_keeps_it() -> None:
    course = Trajectory(Policy(tau=2), prefill=12)
    script = [(12, LOW), (13, HIGH), (14, HIGH)]
    assert [row[1] for row in follow(course, script)] == [GO_ON, GO_ON, fire(12)]


def test_low_dependence_lets_a_malicious_prefill_pass() -> None:
    assert follow(Trajectory(Policy(dependence="low"), prefill=5), [(5, HIGH)])[-1][1] == GO_ON


def test_closing() -> None:
    course = Trajectory(Policy())
    assert not course.closing_due(0)
    assert course.closing_due(1)
    follow(course, [(10, LOW)])
    assert not course.closing_due(10)
    assert course.closing_due(13)
    assert course.close() == GO_ON
    follow(course, [(13, HIGH)])  # an open run, which the end confirms
    assert not course.closing_due(13)
    assert course.closing_due(14)
    assert course.close() == fire(10)


def test_closing_after_a_false_alarm_covers_what_rule_3_did_not_see() -> None:
    course = Trajectory(Policy(), frontier=50)
    follow(course, [(60, HIGH), (70, LOW)])
    assert course.frontier == 60
    assert course.closing_due(70)
    assert course.span(70) == Span(60, 70)


def test_closing_under_rule_1() -> None:
    course = Trajectory(Policy(dependence="low"), first=M)
    assert course.closing_due(4)
    course.observe(HIGH, course.span(4), 4)
    assert not course.closing_due(4)
    assert course.closing_due(6)
    course.observe(LOW, course.span(20), 20)
    assert not course.closing_due(50)


@pytest.mark.parametrize("signal", [float("nan"), float("inf"), -0.01, 1.01])
def test_what_is_no_probability_raises(signal: float) -> None:
    course = Trajectory(Policy())
    with pytest.raises(SignalError):
        course.observe(signal, course.span(3), 3)
    with pytest.raises(SignalError):
        query_verdict(signal, Policy())
    assert (course.frontier, course.run) == (0, 0)


def test_at_the_threshold_is_malicious() -> None:
    assert verdict_of(0.5, 0.5) is M
    assert verdict_of(0.4999, 0.5) is B


def test_prompts_and_windows_have_their_own_thresholds() -> None:
    policy = Policy(threshold=0.3, window_threshold=0.7)
    assert query_verdict(0.5, policy) == (M, fire(0))
    course = Trajectory(policy)
    assert course.observe(0.5, course.span(1), 1)[0] is B


@pytest.mark.parametrize(("dependence", "refuses"), [("low", False), ("medium", True), ("high", True)])
def test_a_malicious_query(dependence: Any, refuses: bool) -> None:
    assert query_verdict(HIGH, Policy(dependence=dependence, tau=3)) == (M, fire(0) if refuses else GO_ON)
    assert query_verdict(LOW, Policy(dependence=dependence)) == (B, GO_ON)


def test_what_may_be_shown() -> None:
    course = Trajectory(Policy())
    follow(course, [(5, LOW), (6, HIGH)])
    assert course.releasable(6) == 5
    assert replace(course, policy=Policy(buffer=False)).releasable(6) == 6
    assert replace(course, policy=Policy(dependence="low")).releasable(6) == 6


# ---------------------------------------------------------- for any signals

signals = st.lists(st.floats(0, 1), min_size=1, max_size=60)
policies = st.builds(
    Policy,
    tau=st.integers(1, 4),
    window_threshold=st.sampled_from([0.3, 0.5, 0.9]),
    r2=st.sampled_from([10, 13]),
    r3=st.sampled_from([1, 5, 10]),
    dependence=st.sampled_from(["low", "medium", "high"]),
)
schedules = st.sampled_from([EVERY, ANNEALING])


@settings(deadline=None)
@given(signals, policies, schedules, st.integers(0, 12))
def test_frontier_transition_and_release(values: list[float], policy: Policy, schedule: Any, prefill: int) -> None:
    course = Trajectory(policy, prefill=prefill)
    benign: list[Span] = []
    frontier = 0
    source = iter(values)
    for length in range(1, 200):
        step = length - prefill
        if not (schedule.due(length) if step < 0 else step == 0 or schedule.due(step)):
            continue
        signal = next(source, None)
        if signal is None:
            break
        span, before, run = course.span(length), course.frontier, course.run
        assert 0 <= span.start < span.end <= length
        verdict, action = course.observe(signal, span, length)
        if verdict is B:
            benign.append(span)
        assert course.frontier >= frontier, "the frontier went back"
        frontier = course.frontier
        for token in range(frontier):
            assert any(span.start <= token < span.end for span in benign), f"token {token} was never called benign"
        if policy.dependence != "low":
            assert course.releasable(length) == frontier
        if verdict is M and run == 0:
            assert course.transition == before
        if action.refuse:
            assert action.keep == (0 if course.transition is None or course.transition < prefill else course.transition)
            assert action.keep <= frontier
            assert course.run == (1 if policy.dependence == "high" or length <= prefill else policy.tau)
            return
        assert policy.dependence == "low" or course.run < policy.tau


@settings(deadline=None)
@given(st.integers(0, 2**32), policies, schedules, st.integers(1, 90), st.integers(0, 9))
def test_replay_is_checking_token_by_token(seed: int, policy: Policy, schedule: Any, length: int, prefill: int) -> None:
    def read(span: Span) -> float:
        # A signal that depends on what is seen and on nothing else, as the model's does.
        return hash((seed, span.start, span.end)) % 1000 / 1000

    lengths = [n for n in range(1, length + 1) if schedule.due(n) or n == length]
    alone, expected = Trajectory(policy, prefill=prefill), []
    for n in lengths:
        span = alone.span(n)
        verdict, action = alone.observe(read(span), span, n)
        expected.append((n, read(span), verdict, span, action))
        if action.refuse:
            break

    course = Trajectory(policy, prefill=prefill)
    running = replay(course, lengths)
    try:
        wanted = next(running)
        while True:
            wanted = running.send([read(span) for span in wanted])
    except StopIteration as stop:
        record = stop.value
    assert record == expected
    assert course == alone


def test_replay_of_nothing() -> None:
    with pytest.raises(StopIteration) as stop:
        next(replay(Trajectory(Policy()), []))
    assert stop.value.value == []


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), max_size=12), st.integers(1, 4))
def test_decisive_signal_is_the_largest_threshold_that_fires(levels: list[int], tau: int) -> None:
    values = [level / 20 for level in levels]

    def fires(threshold: float) -> bool:
        run = 0
        for value in values:
            run = run + 1 if value >= threshold else 0
            if run == tau:
                return True
        return run > 0

    firing = [value for value in {*values} if fires(value)]
    assert decisive_signal(values, tau) == max(firing, default=0.0)


def test_without_strategic_attention_a_check_sees_query_and_whole_answer() -> None:
    policy = Policy(r1=2, r2=2, r3=2, strategic_attention=False)
    course = Trajectory(policy)
    for length, signal in ((1, 0.1), (4, 0.1), (7, 0.9), (8, 0.1), (12, 0.9)):
        span = course.span(length)
        assert span == Span(0, length, query=True)
        course.observe(signal, span, length)
    assert (course.frontier, course.transition) == (8, 8)
    first = Trajectory(policy, first=Verdict.MALICIOUS)
    assert first.span(9) == Span(0, 9, query=True)
