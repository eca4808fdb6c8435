"""Agreement and correction against values worked out by hand."""

from __future__ import annotations

import pytest

from safesignal.errors import UsageError
from safesignal.judges.agreement import Agreement, correct_rate, measure_agreement
from safesignal.judges.base import JudgeVerdict
from safesignal.stats import Rate


def judge(sensitivity: Rate, specificity: Rate) -> Agreement:
    total = sensitivity.n + specificity.n
    return Agreement(Rate(sensitivity.successes + specificity.successes, total), sensitivity, specificity, 0)


def test_counts_by_hand() -> None:
    verdicts: list[JudgeVerdict] = ["yes", "yes", "no", "no", "unknown", "yes", "no", "unknown"]
    found = measure_agreement(verdicts, [True, True, True, False, True, False, False, False])
    assert found.agreement == Rate(4, 8)
    assert found.decided == Rate(4, 6)
    assert found.sensitivity == Rate(2, 3)
    assert found.specificity == Rate(2, 3)
    assert found.unknown == 2


def test_unknown_is_never_agreement() -> None:
    found = measure_agreement(["unknown", "unknown"], [True, False])
    assert found.agreement == Rate(0, 2)
    assert found.sensitivity.n == found.specificity.n == 0
    assert found.to_row()["sensitivity"]["value"] is None


def test_the_opposite_question_swaps_the_two() -> None:
    found = judge(Rate(9, 10), Rate(15, 20))
    assert found.opposite().sensitivity == Rate(15, 20)
    assert found.opposite().specificity == Rate(9, 10)


def test_lengths_must_agree() -> None:
    with pytest.raises(UsageError, match="2 verdicts stand against 1"):
        measure_agreement(["yes", "no"], [True])


def test_correction_by_hand() -> None:
    # (0.30 + 0.80 - 1) / (0.90 + 0.80 - 1) = 0.10 / 0.70
    found = correct_rate(Rate(30, 100), judge(Rate(90, 100), Rate(80, 100)))
    assert found is not None
    assert found.value == pytest.approx(1 / 7)
    # Wilson half-widths: 0.30 of 100 0.08845, 0.90 of 100 0.05957, 0.80 of 100 0.07773;
    # half = sqrt(0.08845^2 + (0.05957 / 7)^2 + (0.07773 * 6 / 7)^2) / 0.7 = 0.15867, so low is clipped.
    assert found.low == 0.0
    assert found.high == pytest.approx(1 / 7 + 0.15867, abs=2e-4)


def test_a_perfect_judge_changes_nothing_but_the_interval() -> None:
    raw = Rate(20, 100)
    found = correct_rate(raw, judge(Rate(1000, 1000), Rate(1000, 1000)))
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert found.high - found.low == pytest.approx(raw.interval[1] - raw.interval[0], rel=0.01)


def test_correction_is_clipped() -> None:
    weak = judge(Rate(80, 100), Rate(80, 100))
    low, high = correct_rate(Rate(0, 50), weak), correct_rate(Rate(50, 50), weak)
    assert low is not None
    assert high is not None
    assert (low.value, low.low) == (0.0, 0.0)
    assert low.high > 0.0
    assert (high.value, high.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("raw", "sensitivity", "specificity"),
    [
        (Rate(5, 10), Rate(50, 100), Rate(50, 100)),
        (Rate(5, 10), Rate(10, 100), Rate(20, 100)),
        (Rate(0, 0), Rate(9, 10), Rate(9, 10)),
        (Rate(5, 10), Rate(0, 0), Rate(9, 10)),
    ],
)
def test_there_is_no_correction_without_information(raw: Rate, sensitivity: Rate, specificity: Rate) -> None:
    assert correct_rate(raw, judge(sensitivity, specificity)) is None
