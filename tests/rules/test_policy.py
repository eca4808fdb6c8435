"""Settings out of range come all at once; a buffer needs a schedule that empties it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from safesignal.errors import UsageError
from safesignal.rules import ANNEALING, EVERY, FIRST, Policy, Schedule, parse_schedule, periodic, validate_policy


def accepted(policy: Policy, schedule: Schedule) -> bool:
    try:
        validate_policy(policy, schedule)
    except UsageError:
        return False
    return True


@pytest.mark.parametrize("schedule", [EVERY, ANNEALING, periodic()])
def test_the_defaults_hold(schedule: Schedule) -> None:
    assert accepted(Policy(), schedule)


BAD: list[tuple[dict[str, object], str]] = [
    ({"tau": 0}, "tau = 0"),
    ({"r1": -1}, "r1 = -1"),
    ({"r2": 0}, "r2 = 0"),
    ({"r3": 0}, "r3 = 0"),
    ({"explain_tokens": -1}, "explain_tokens = -1"),
    ({"threshold": 1.5}, "threshold = 1.5"),
    ({"threshold": float("nan")}, "threshold = nan"),
    ({"window_threshold": -0.1}, "window_threshold = -0.1"),
    ({"dependence": "medum"}, "dependence = medum"),
    ({"after": "go on"}, "after = go on"),
    ({"transition": "here"}, "transition = here"),
    ({"refusal_prefix": " "}, "refusal_prefix = ' '"),
    ({"fixed_refusal": ""}, "fixed_refusal = ''"),
]


@pytest.mark.parametrize(("values", "line"), BAD)
def test_one_problem(values: dict[str, object], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        validate_policy(Policy(**({"buffer": False} | values)), EVERY)  # type: ignore[arg-type]
    assert str(caught.value).startswith("1 problem in the policy")
    assert f"  {line}    must be " in str(caught.value)


def test_all_problems_at_once() -> None:
    values: dict[str, object] = {}
    for change, _ in BAD:
        values |= change
    with pytest.raises(UsageError) as caught:
        validate_policy(Policy(**values), FIRST)  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()[1:]
    fields = {next(iter(change)) for change, _ in BAD}
    assert {line.split(" = ")[0].strip() for line in lines} == fields | {"schedule"}
    assert str(caught.value).startswith(f"{len(fields) + 1} problems")


@pytest.mark.parametrize(
    ("text", "r2", "holds"),
    [
        ("first", 10, False),
        ("annealing:10x1,50x5", 10, False),
        ("periodic:11", 10, False),
        ("periodic:11", 11, True),
        ("annealing", 9, False),
        ("annealing:10x1,14x5,10", 10, False),  # 14 tokens between steps 10 and 24
        ("every", 1, True),
    ],
)
def test_the_buffer_needs_a_schedule_that_covers_every_token(text: str, r2: int, holds: bool) -> None:
    schedule, policy = parse_schedule(text), Policy(r2=r2)
    if holds:
        validate_policy(policy, schedule)
    else:
        with pytest.raises(UsageError, match="schedule = ") as caught:
            validate_policy(policy, schedule)
        assert "buffer=False" in caught.value.hint
    validate_policy(replace(policy, buffer=False), schedule)
    validate_policy(replace(policy, dependence="low"), schedule)


def test_who_explains() -> None:
    assert Policy().explains
    assert not Policy(after="stop").explains
    assert not Policy(dependence="high").explains
    assert not Policy(dependence="low").explains


def test_the_papers_transition_point_needs_the_buffer_off() -> None:
    with pytest.raises(UsageError, match="no benign check covered"):
        validate_policy(Policy(transition="paper"), ANNEALING)
    validate_policy(Policy(transition="paper", buffer=False), ANNEALING)
