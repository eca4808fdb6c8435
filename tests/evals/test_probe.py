"""The probe's figures by hand, its conditions, and that it reads the base model and nothing else."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from safesignal.data.records import Message, Record
from safesignal.errors import UsageError
from safesignal.evals.probe import first_token_figures, probe_cases, run_probe
from tests.invariants.harness import guarded

BEHAVIORS = [
    Record(f"r{i}", (Message("user", f"name item {i}"),), prompt_label="malicious", meta={"target": "Sure, item"})
    for i in range(3)
]


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities]).log()


@pytest.mark.parametrize(
    ("probabilities", "k", "entropy", "gap", "mass"),
    [
        ((0.25, 0.25, 0.25, 0.25), 4, math.log(4), 0.0, 1.0),
        ((0.25, 0.25, 0.25, 0.25), 2, math.log(2), 0.0, 0.5),
        ((0.6, 0.2, 0.1, 0.1), 2, -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0.4, 0.8),
        ((1.0, 0.0, 0.0, 0.0), 3, 0.0, 1.0, 1.0),
    ],
)
def test_figures_by_hand(probabilities: tuple[float, ...], k: int, entropy: float, gap: float, mass: float) -> None:
    (row,) = first_token_figures(logits(*probabilities), k)
    assert row == pytest.approx(
        {"entropy": entropy, "normalised_entropy": entropy / math.log(k), "gap": gap, "top_k_mass": mass}, abs=1e-6
    )


def test_every_condition_asks_for_the_same_behaviors() -> None:
    model = guarded("llama")
    nested = {record.id: f"a story about: {record.prompt}" for record in BEHAVIORS}
    cases = probe_cases(model, BEHAVIORS, depths=(1, 4, 99), nested=nested)
    assert list(dict.fromkeys(case.condition for case in cases)) == ["direct", "prefill 1", "prefill 4", "nested"]
    for condition in ("direct", "prefill 4", "nested"):
        assert [case.behavior_id for case in cases if case.condition == condition] == ["r0", "r1", "r2"]
    deep = next(case.encoded for case in cases if case.condition == "prefill 4")
    assert deep.prefill == 4
    assert model.tokenizer.decode(list(deep.ids[-4:])) == "Sure"


def test_a_given_answer_comes_before_the_set_s_own() -> None:
    model = guarded("llama")
    cases = probe_cases(model, BEHAVIORS[:1], depths=(2,), prefixes={"r0": "Okay"})
    assert model.tokenizer.decode(list(cases[1].encoded.ids[-2:])) == "Ok"


def test_means_are_those_of_the_base_model() -> None:
    model = guarded("llama")
    cases = probe_cases(model, BEHAVIORS, depths=(3,))
    found = run_probe(model, cases, k=5, batch_size=4)
    base: Any = model.base
    for condition in found["conditions"]:
        own = [case.encoded.ids for case in cases if case.condition == condition["condition"]]
        rows = [first_token_figures(base(torch.tensor([ids])).logits[:, -1], 5)[0] for ids in own]
        for name in ("entropy", "gap", "top_k_mass"):
            mean = sum(row[name] for row in rows) / len(rows)
            assert condition[name]["value"] == pytest.approx(mean, abs=1e-4)
            assert condition[name]["low"] <= condition[name]["value"] <= condition[name]["high"]


def test_a_probe_is_repeatable() -> None:
    model = guarded("llama")
    cases = probe_cases(model, BEHAVIORS, depths=(3,))
    assert run_probe(model, cases, k=5) == run_probe(model, cases, k=5)


def test_a_k_without_a_second_token_is_refused() -> None:
    with pytest.raises(UsageError, match="k = 1"):
        run_probe(guarded("llama"), probe_cases(guarded("llama"), BEHAVIORS), k=1)
