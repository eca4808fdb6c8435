"""Thresholds: hand-computed quantiles, and the promise that a preset keeps its budget under real decoding rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safesignal.align.calibrate import calibrate, lowest_threshold, share_left
from safesignal.errors import DataError
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.score import WindowReader
from safesignal.rules import ANNEALING
from tests.support import randomise_


def draw(model: SafeSignalModel) -> None:
    """Give the signal weights that are not trained and not zero, and let it pass for trained."""
    torch.manual_seed(1)
    randomise_(model.forward_signal.adapter)
    model.forward_signal.adapter.requires_grad_(False)
    model.trained_signal = True


def test_the_lowest_threshold_against_hand_computed_values() -> None:
    signals = [0.1, 0.6, 0.7, 0.8, 0.9, 0.2, 0.3, 0.4, 0.5, 0.55]
    assert lowest_threshold(signals, 0.1) == 0.8001
    assert lowest_threshold(signals, 0.2) == 0.7001
    assert lowest_threshold(signals, 0.0) == 0.9001
    assert lowest_threshold(signals, 0.7) == 0.5
    assert lowest_threshold([0.1, 0.2], 0.5) == 0.5
    assert lowest_threshold([0.1, 1.0], 0.0) == 1.0


@given(st.lists(st.floats(0.0, 0.99), min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_at_most_the_share_reaches_the_threshold(signals: list[float], share: float) -> None:
    threshold = lowest_threshold(signals, share)
    assert sum(signal >= threshold for signal in signals) <= share * len(signals) + 1e-6
    assert threshold == 0.5 or sum(signal >= threshold - 2e-4 for signal in signals) > share * len(signals) - 1e-6


def test_windows_get_what_the_query_leaves_of_the_budget() -> None:
    signals = [0.1] * 16 + [0.6, 0.7, 0.8, 0.9]
    assert share_left(signals, 0.95, 0.2) == pytest.approx(0.2)
    assert share_left(signals, 0.8, 0.2) == pytest.approx(0.1)
    assert share_left(signals, 0.6, 0.2) == pytest.approx(0.0)


def test_a_query_that_refuses_nothing_leaves_the_windows_the_whole_budget(model: SafeSignalModel) -> None:
    draw(model)
    answers = [model.encode_one("one and the same question", f"answer {i * 7919} " * (1 + i % 4)) for i in range(20)]
    point = calibrate(model, answers, {"strict": 0.5, "balanced": 0.2, "permissive": 0.1}).presets["balanced"]
    fired = WindowReader(model.forward_signal, answers, ANNEALING, batch_size=3).fired(
        replace(model.policy(), threshold=1.0, window_threshold=point.window)
    )
    assert point.window == 0.5 or 0.1 * len(answers) < sum(fired) <= 0.2 * len(answers)


def test_a_preset_keeps_its_budget_under_decoding_rules(model: SafeSignalModel) -> None:
    draw(model)
    answers = [model.encode_one(f"question {i}", f"answer {i * 7919} " * (1 + i % 4)) for i in range(20)]
    result = calibrate(model, answers, {"strict": 0.5, "balanced": 0.2, "permissive": 0.1}, batch_size=6)
    for name, target in (("strict", 0.5), ("balanced", 0.2), ("permissive", 0.1)):
        point = result.presets[name]
        policy = replace(model.policy(), threshold=point.prompt, window_threshold=point.window)
        reader = WindowReader(model.forward_signal, answers, ANNEALING, batch_size=3)
        fired = reader.fired(policy)
        stopped = [s >= point.prompt or f for s, f in zip(reader.queries(), fired, strict=True)]
        assert sum(stopped) <= target * len(answers)
        assert point.measured_fpr == pytest.approx(sum(stopped) / len(answers), abs=0.051)
    assert result.presets["strict"].window <= result.presets["permissive"].window


def test_lookalikes_raise_the_thresholds_of_the_presets_they_limit(model: SafeSignalModel) -> None:
    draw(model)
    answers = [model.encode_one(f"question {i}", f"answer {i * 7919} " * (1 + i % 4)) for i in range(20)]
    alike = [model.encode_one(f"kill process {i}", f"stop {i * 104729} now " * (1 + i % 3)) for i in range(20)]
    budget = {"strict": 0.5, "balanced": 0.5, "permissive": 0.5}
    free = calibrate(model, answers, budget, lookalikes=alike)
    bound = calibrate(model, answers, budget, lookalikes=alike, lookalike_fpr={"balanced": 0.1})
    assert free.lookalikes["balanced"] > 0.1 >= bound.lookalikes["balanced"]
    assert bound.presets["strict"] == free.presets["strict"]
    assert bound.presets["balanced"].prompt >= free.presets["balanced"].prompt
    assert bound.presets["balanced"].window >= free.presets["balanced"].window
    assert (bound.presets["balanced"].measured_fpr or 0) <= (free.presets["balanced"].measured_fpr or 0)
    assert (bound.n, bound.n_lookalikes) == (20, 20)
    assert calibrate(model, answers, budget).presets == free.presets


def test_windows_keep_the_threshold_they_have_at_least(model: SafeSignalModel) -> None:
    draw(model)
    answers = [model.encode_one(f"question {i}", f"answer {i * 7919} " * (1 + i % 4)) for i in range(20)]
    budget = {"strict": 0.5, "balanced": 0.2, "permissive": 0.1}
    free = calibrate(model, answers, budget).presets
    kept = calibrate(model, answers, budget, least_windows={"permissive": 0.99, "balanced": 0.0}).presets
    assert kept["permissive"].window == 0.99 > free["permissive"].window
    assert kept["permissive"].prompt == free["permissive"].prompt
    assert (kept["permissive"].measured_fpr or 0) <= (free["permissive"].measured_fpr or 0)
    assert [kept[name] for name in ("strict", "balanced")] == [free[name] for name in ("strict", "balanced")]


def test_no_preset_stops_windows_at_less_than_a_stricter_one(model: SafeSignalModel) -> None:
    draw(model)
    answers = [model.encode_one(f"question {i}", f"answer {i * 7919} " * (1 + i % 4)) for i in range(20)]
    budget = {"balanced": 0.4, "strict": 0.5}
    prompts = sorted(calibrate(model, answers, budget).prompts, reverse=True)
    # The query of the stricter one leaves one answer of twenty to windows, that of the other eight.
    queries = {"strict": prompts[8], "balanced": 1.0}
    alone = calibrate(model, answers, {"balanced": 0.4}, kept_queries=queries).presets["balanced"]
    both = calibrate(model, answers, budget, kept_queries=queries).presets
    assert list(both) == ["strict", "balanced"]
    assert 1.0 > both["balanced"].window == both["strict"].window > alone.window
    spent = calibrate(model, answers, budget, kept_queries={"strict": 0.0, "balanced": 1.0}).presets
    assert (spent["strict"].window, spent["balanced"].window) == (1.0, alone.window), "no other preset's windows go"


def test_nothing_to_calibrate_on_is_an_error(model: SafeSignalModel) -> None:
    with pytest.raises(DataError, match="no benign validation answer"):
        calibrate(model, [], {"strict": 0.05, "balanced": 0.02, "permissive": 0.005})
