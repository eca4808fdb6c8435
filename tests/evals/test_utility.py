"""Perplexity and distance from the base model: exact where checks run apart, small where they are fused."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from safesignal.errors import UsageError
from safesignal.evals.bench import BenchConfig
from safesignal.evals.overhead import run_overhead
from safesignal.evals.scorer import GuardedScorer
from safesignal.evals.utility import _per_token, fed_logprobs, run_perplexity, run_utility
from safesignal.rules import Policy
from tests.invariants.harness import guarded
from tests.support import Family

TEXTS = [("say one", "one, and then two"), ("say nothing at all", "there is nothing"), ("count", "1 2 3 4 5 6")]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_base_stream_is_the_base_model(family: Family) -> None:
    model = guarded(family)
    one = model.encode_one(*TEXTS[0])
    found, query = fed_logprobs(model, one, "off")
    base: Any = model.base
    whole = base(torch.tensor([one.ids])).logits[0, one.text - 1 : -1].double().log_softmax(-1)
    assert torch.allclose(found, whole, atol=1e-4)
    assert math.isnan(query)


def test_checks_apart_leave_the_base_model_s_own_bits() -> None:
    model = guarded("llama")
    one = model.encode_one(*TEXTS[0])
    assert torch.equal(fed_logprobs(model, one, "off")[0], fed_logprobs(model, one, "separate")[0])
    assert torch.allclose(fed_logprobs(model, one, "off")[0], fed_logprobs(model, one, "fused")[0], atol=1e-4)


def test_the_query_signal_is_that_of_scoring() -> None:
    model = guarded("llama")
    checks: Literal["separate", "fused"]
    for checks in ("separate", "fused"):
        _, query = fed_logprobs(model, model.encode_one(*TEXTS[1]), checks)
        assert query == pytest.approx(model.score([TEXTS[1][0]])[0].prompt_signal, abs=1e-4)


def test_figures_of_a_set() -> None:
    model = guarded("llama")
    found = run_perplexity(model, TEXTS)
    losses = []
    for prompt, answer in TEXTS:
        one = model.encode_one(prompt, answer)
        logprobs, _ = fed_logprobs(model, one, "off")
        losses += [-float(row[token]) for row, token in zip(logprobs, one.ids[one.text :], strict=True)]
    expected = math.exp(sum(losses) / len(losses))
    assert found["perplexity"]["base"]["value"] == pytest.approx(expected)
    assert found["perplexity"]["guarded"]["value"] == pytest.approx(expected, rel=1e-3)
    assert found["perplexity"]["base"]["low"] < expected < found["perplexity"]["base"]["high"]
    assert (found["n_texts"], found["n_tokens"]) == (3, len(losses))
    assert found["kl_per_token"]["separate"] == {"mean": {"value": 0, "low": 0, "high": 0, "n": len(losses)}, "max": 0}
    assert 0 <= abs(found["kl_per_token"]["fused"]["max"]) < 1e-5
    assert found["prompts_refused"]["n"] == 3


def test_the_tokens_of_a_text_are_drawn_together() -> None:
    """Two texts of a hundred equal tokens each are two draws, not two hundred."""
    found = _per_token([torch.zeros(100), torch.ones(100)], seed=0)
    assert found == {"mean": {"value": 0.5, "low": 0.0, "high": 1.0, "n": 200}, "max": 1.0}


def test_refused_prompts_are_those_of_the_policy_in_use() -> None:
    model = guarded("llama")
    for threshold, refused in ((0.0, 3), (1.0, 0)):
        scorer = GuardedScorer(model, policy=Policy(threshold=threshold))
        assert run_utility(scorer, TEXTS, [], runner="local")["prompts_refused"]["successes"] == refused


def test_a_signal_that_leaks_into_the_text_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward that disturbs the text wherever it reads a check must show up as divergence."""
    model = guarded("llama")
    feed = model.forward_signal.feed

    def leaking(*args: Any, **kwargs: Any) -> Any:
        logits, signals = feed(*args, **kwargs)
        return (logits * 1.1 if logits is not None and any(args[2]) else logits), signals

    monkeypatch.setattr(model.forward_signal, "feed", leaking)
    found = run_perplexity(model, TEXTS[:1])
    assert found["kl_per_token"]["separate"]["mean"]["value"] > 1e-3
    assert found["perplexity"]["guarded"]["value"] != found["perplexity"]["base"]["value"]


def test_long_answers_are_cut() -> None:
    assert run_perplexity(guarded("llama"), TEXTS[:1], max_tokens=3)["n_tokens"] == 3


def test_texts_without_answers_are_refused() -> None:
    with pytest.raises(UsageError, match="none of 1 texts"):
        run_perplexity(guarded("llama"), [("say one", "")])


def test_overhead_states_its_conditions() -> None:
    config = BenchConfig(batch_sizes=(1,), contexts=(8,), new_tokens=4, repeats=1)
    found = run_overhead(guarded("llama"), config)
    assert (found["threads"], found["new_tokens"], found["dtype"]) == (1, 4, "float32")
    assert found["rows"][0]["variant"] == "off"
    assert {"milliseconds", "extra", "first", "peak"} <= set(found["rows"][0])
