from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesignal.errors import UsageError
from safesignal.stats import (
    Rate,
    expected_calibration_error,
    recall_at_fpr,
    roc_auc,
    threshold_at_fpr,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 100, 0.0, 3.70), (0, 520, 0.0, 0.73), (6, 200, 1.38, 6.39), (5, 10, 23.66, 76.34), (100, 100, 96.30, 100.0)],
)
def test_wilson_by_hand(successes: int, n: int, low: float, high: float) -> None:
    assert [100 * bound for bound in wilson_interval(successes, n)] == pytest.approx([low, high], abs=0.005)


def test_rates_print_interval_and_counts() -> None:
    assert str(Rate(6, 200)) == "3.0 % [1.4, 6.4] (6/200)"
    assert str(Rate(0, 0)) == "n/a (0/0)"
    assert math.isnan(Rate(0, 0).value)
    assert Rate.of([True, False, False, True]) == Rate(2, 4)
    for successes, n in [(3, 2), (-1, 2)]:
        with pytest.raises(UsageError):
            Rate(successes, n)


def test_auc_by_hand() -> None:
    assert roc_auc([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.1]) == 0.75
    assert roc_auc([1, 0], [0.5, 0.5]) == 0.5
    with pytest.raises(UsageError, match="each class"):
        roc_auc([1, 1], [0.1, 0.2])
    with pytest.raises(UsageError, match="not finite"):
        roc_auc([1, 0], [0.1, float("nan")])


coarse = st.lists(st.integers(0, 5).map(lambda value: value / 5), min_size=1, max_size=12)


@given(coarse, coarse)
def test_auc_counts_pairs(positive: list[float], negative: list[float]) -> None:
    pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    labels = [True] * len(positive) + [False] * len(negative)
    assert roc_auc(labels, positive + negative) == pytest.approx(sum(pairs) / len(pairs))


@given(coarse, st.floats(0, 1))
def test_a_threshold_never_flags_too_many_and_is_the_lowest(scores: list[float], fpr: float) -> None:
    threshold = threshold_at_fpr(scores, fpr)
    values = np.asarray(scores)
    assert np.mean(values >= threshold) <= fpr + 1e-9
    below = values[values < threshold]
    if below.size:
        assert np.mean(values >= below.max()) > fpr


def test_recall_at_fpr_by_hand() -> None:
    labels = [0] * 100 + [1] * 4
    scores = [index / 100 for index in range(100)] + [0.999, 0.985, 0.975, 0.1]
    assert recall_at_fpr(labels, scores, 0.01) == 0.5
    assert recall_at_fpr(labels, scores, 0.0) == 0.25
    assert recall_at_fpr(labels, scores, 1.0) == 1.0
    assert threshold_at_fpr(scores[:100], 0.29) < 0.71


def test_ece_by_hand() -> None:
    assert expected_calibration_error([1, 0], [1.0, 0.0]) == 0.0
    assert expected_calibration_error([1, 0, 0, 0], [0.9] * 4) == pytest.approx(0.65)
    assert expected_calibration_error([1, 0], [0.2, 0.8], bins=2) == pytest.approx(0.8)
    with pytest.raises(UsageError):
        expected_calibration_error([1], [1.2])
