"""Filters equal transformers' warpers; draws follow the softmax and depend on (seed, row, step) alone."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from safesignal.errors import SignalError, UsageError
from safesignal.nn.sampling import Sampler, draw, filter_logits, pick_token, repetition_penalty

V = 97
NO_IDS = torch.zeros(1, 1, dtype=torch.long)


def warped(logits: Tensor, sampler: Sampler) -> Tensor:
    """Filter as transformers' `generate` does, in its order."""
    warpers = LogitsProcessorList()
    if sampler.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(sampler.temperature))
    if sampler.top_k:
        warpers.append(TopKLogitsWarper(sampler.top_k))
    if sampler.top_p < 1.0:
        warpers.append(TopPLogitsWarper(sampler.top_p))
    if sampler.min_p:
        warpers.append(MinPLogitsWarper(sampler.min_p))
    result: Tensor = warpers(NO_IDS, logits[None])[0]  # type: ignore[arg-type]
    return result


GRID = list(product([0.3, 1.0, 2.5], [0, 1, 12, 500], [1.0, 0.9, 0.2], [0.0, 0.05, 0.7]))


@pytest.mark.parametrize("spread", [0.5, 4.0])
def test_filters_equal_transformers(spread: float) -> None:
    for temperature, top_k, top_p, min_p in GRID:
        sampler = Sampler(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        logits = torch.randn(V) * spread
        before = logits.clone()
        found = filter_logits(logits, sampler)
        torch.testing.assert_close(found, warped(logits, sampler), atol=0, rtol=0, msg=str(sampler))
        assert torch.equal(logits, before)
        assert found.argmax() == logits.argmax()


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_repetition_penalty_equals_transformers(penalty: float) -> None:
    logits, seen = torch.randn(V), [3, 5, 5, 96, 0, 3]
    expected = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), logits[None].clone())[0]
    before = logits.clone()
    assert torch.equal(repetition_penalty(logits, seen, penalty), expected)
    assert torch.equal(logits, before)
    greedy = pick_token(logits, seen, Sampler(repetition_penalty=penalty), 0, 0)
    assert greedy == int(expected.argmax())


def test_penalty_comes_before_the_filters() -> None:
    logits = torch.tensor([4.0, 3.9, 0.0])
    sampler = Sampler(do_sample=True, top_k=1, repetition_penalty=2.0)
    assert pick_token(logits, [0], sampler, 0, 0) == 1


def test_draws_follow_the_softmax() -> None:
    logits, n = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5, float("-inf")]), 6000
    expected = logits.softmax(-1) * n
    for key in ("row", "step", "seed"):
        ids = [draw(logits, *({"row": (0, i, 0), "step": (0, 0, i), "seed": (i, 0, 0)}[key])) for i in range(n)]
        counts = torch.tensor([float(Counter(ids)[token]) for token in range(6)])
        assert counts[5] == 0
        chi_square = float(((counts - expected)[:5] ** 2 / expected[:5]).sum())
        assert chi_square < 18.5, f"{key}: chi-square {chi_square} with 4 degrees of freedom (99.9 % is 18.5)"


def test_draws_of_neighbouring_rows_and_steps_are_unrelated() -> None:
    logits = torch.zeros(2)
    bits = torch.tensor([[draw(logits, 0, row, step) for step in range(40)] for row in range(40)]).float()
    assert 0.45 < float(bits.mean()) < 0.55
    for other in (bits.roll(1, 0), bits.roll(1, 1), bits.T, bits.roll((1, -1), (0, 1))):
        agree = (bits == other).float()
        off = ~torch.eye(40, dtype=torch.bool)
        assert 0.43 < float(agree[off].mean()) < 0.57


def test_the_same_key_draws_the_same_token_whatever_happened_before() -> None:
    logits, sampler = torch.randn(V), Sampler(do_sample=True, temperature=2.0, seed=7)
    first = [pick_token(logits, [], sampler, row, step) for row in range(4) for step in range(6)]
    torch.rand(100)
    again = [pick_token(logits, [], sampler, row, step) for step in range(6) for row in range(4)]
    assert first == [again[step * 4 + row] for row in range(4) for step in range(6)]
    other = [
        pick_token(logits, [], Sampler(do_sample=True, temperature=2.0, seed=8), r, s)
        for r in range(4)
        for s in range(6)
    ]
    assert first != other
    assert len(set(first)) > 8


def test_drawing_leaves_the_global_generator_alone() -> None:
    logits, before = torch.randn(V), torch.get_rng_state()
    draw(logits, 1, 2, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_greedy_takes_the_largest_and_the_first_of_equals() -> None:
    logits = torch.randn(V)
    assert pick_token(logits, [], Sampler(), 0, 0) == int(logits.argmax())
    assert pick_token(torch.tensor([1.0, 3.0, 3.0]), [], Sampler(), 5, 9) == 1
    assert pick_token(torch.tensor([1.0, float("-inf")]), [], Sampler(), 0, 0) == 0


@pytest.mark.parametrize("do_sample", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_without_a_finite_number_raise(value: float, do_sample: bool) -> None:
    logits = torch.full((V,), value)
    with pytest.raises(SignalError, match="step 4"):
        pick_token(logits, [], Sampler(do_sample=do_sample), 0, 4)
    one = torch.randn(V)
    one[3] = abs(value)
    with pytest.raises(SignalError):
        pick_token(one, [], Sampler(do_sample=do_sample), 0, 4)


def test_options_out_of_range_come_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Sampler(temperature=0.0, top_k=-1, top_p=0.0, min_p=1.5, repetition_penalty=0.0)
    named = [line.split(" = ")[0].strip() for line in str(caught.value).splitlines()[1:]]
    assert named == ["temperature", "top_k", "top_p", "min_p", "repetition_penalty"]
