"""Schedules as tables of steps, and the largest gap against counting."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesignal.errors import UsageError
from safesignal.rules import ANNEALING, EVERY, FIRST, Schedule, Stage, parse_schedule, periodic

HORIZON = 200


def steps(schedule: Schedule, last: int) -> list[int]:
    return [step for step in range(1, last + 1) if schedule.due(step)]


TABLE: list[tuple[str, list[int]]] = [
    ("first", []),
    ("every", list(range(1, 101))),
    ("periodic", [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
    ("periodic:30", [30, 60, 90]),
    ("annealing", [*range(1, 11), 15, 20, 25, 30, 35, 40, 45, 50, 60, 70, 80, 90, 100]),
    ("annealing:4x2,10x3", [2, 4, 7, 10]),
    ("annealing:3x1,40", [1, 2, 3, 43, 83]),
]


@pytest.mark.parametrize(("text", "expected"), TABLE)
def test_steps(text: str, expected: list[int]) -> None:
    assert steps(parse_schedule(text), 100) == expected


def test_the_query_is_not_a_step() -> None:
    assert not any(schedule.due(0) for schedule in (FIRST, EVERY, ANNEALING, periodic()))


@pytest.mark.parametrize(
    ("text", "gap"),
    [
        ("first", None),
        ("every", 1),
        ("periodic", 10),
        ("periodic:7", 7),
        ("annealing", 10),
        ("annealing:10x1,50x5", None),
        ("annealing:10x1,14x5,10", 14),  # 10, then 24: the second stage ends before it ever checks
        ("annealing:12x5,10", 12),  # 5, 10, then 22
    ],
)
def test_max_gap(text: str, gap: int | None) -> None:
    assert parse_schedule(text).max_gap == gap


stages = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=4)


@settings(deadline=None)
@given(stages, st.integers(1, 12))
def test_max_gap_is_the_largest_gap_there_is(closed: list[tuple[int, int]], last: int) -> None:
    until, built = 0, []
    for every, length in closed:
        until += length
        built.append(Stage(every, until=until))
    schedule = Schedule("annealing", (*built, Stage(last)))
    assert schedule.max_gap == max(b - a for a, b in pairwise([0, *steps(schedule, HORIZON)]))


@settings(deadline=None)
@given(stages, st.none() | st.integers(1, 99))
def test_text_and_schedule_are_one(closed: list[tuple[int, int]], last: int | None) -> None:
    until, built = 0, []
    for every, length in closed:
        until += length
        built.append(Stage(every, until=until))
    if not built:
        built.append(Stage(1, until=5))
    schedule = Schedule("annealing", (*built, Stage(last)) if last else tuple(built))
    assert parse_schedule(str(schedule)) == schedule


@pytest.mark.parametrize("schedule", [FIRST, EVERY, ANNEALING, periodic(), periodic(3)])
def test_named_schedules_round_trip(schedule: Schedule) -> None:
    assert parse_schedule(str(schedule)) == schedule


def test_defaults_have_short_names() -> None:
    assert [str(schedule) for schedule in (FIRST, EVERY, periodic())] == ["first", "every", "periodic:10"]
    assert parse_schedule(" annealing ") == ANNEALING == parse_schedule("annealing:10x1,50x5,10")


@pytest.mark.parametrize(
    "text",
    [
        *("", "often", "first:1", "every:2", "periodic:0", "periodic:-3", "periodic:1.5", "periodic:x"),
        *("annealing:10", "annealing:10x0,5", "annealing:10x1,5x2", "annealing:10x1,10x5"),
        *("annealing:0x1,5", "annealing:10x1,0", "annealing:10x1,,5", "annealing:10x1,5,20x2", "Every"),
    ],
)
def test_bad_texts(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_schedule(text)
    assert "Expected" in str(caught.value)
    assert caught.value.hint


def test_an_empty_parameter_is_the_default() -> None:
    assert parse_schedule("periodic:") == periodic()
    assert parse_schedule("annealing:") == ANNEALING


def test_stages_in_the_wrong_order() -> None:
    with pytest.raises(UsageError, match="stage 1"):
        Schedule("annealing", (Stage(1), Stage(5, until=3)))
    with pytest.raises(UsageError, match="stage 2"):
        Schedule("annealing", (Stage(1, until=5), Stage(5, until=3)))
