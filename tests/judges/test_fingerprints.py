"""Fingerprints: the same for the same judge, another as soon as anything that decides a verdict is another."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from safesignal.judges import refusal_patterns
from safesignal.judges.base import BatchJudge, digest, fingerprint_of, source_of
from safesignal.judges.embedded import EmbeddedJudge
from safesignal.judges.guards import FORMATS, GuardJudge
from safesignal.judges.refusal import RefusalJudge, judge_refusal
from tests.support import tiny_model, tiny_tokenizer


def test_rules_are_known_by_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    first = digest(source_of(refusal_patterns))
    assert first == digest(source_of(refusal_patterns))
    whole = inspect.getsource(refusal_patterns)

    def edited(_: ModuleType) -> str:
        return whole + "# a rule more\n"

    monkeypatch.setattr("safesignal.judges.base.inspect.getsource", edited)
    assert digest(source_of(refusal_patterns)) != first


def test_every_judge_of_ours_has_one_and_a_function_has_none() -> None:
    assert isinstance(RefusalJudge(), BatchJudge)
    assert len(fingerprint_of(RefusalJudge())) == 16
    assert fingerprint_of(RefusalJudge()) == RefusalJudge().fingerprint
    assert fingerprint_of(judge_refusal) == ""


def test_a_retrained_judge_is_another() -> None:
    judge = EmbeddedJudge(np.zeros(4), np.ones(4), 0.1, 0.5)
    others: list[EmbeddedJudge] = [
        replace(judge, weights=np.array([0.0, 0.0, 0.0, 1e-9])),
        replace(judge, idf=np.array([1.0, 1.0, 1.0, 2.0])),
        replace(judge, bias=0.2),
        replace(judge, threshold=0.6),
    ]
    assert len({judge.fingerprint, *(one.fingerprint for one in others)}) == 5
    assert replace(judge, record={"rows": {}}).fingerprint == judge.fingerprint


def test_a_guard_is_known_by_its_weights_and_how_it_is_asked() -> None:
    def guard(**more: Any) -> GuardJudge:
        return GuardJudge(model, tiny_tokenizer(), replace(FORMATS[1], **more), name="g")

    model = tiny_model("llama")
    first = guard().fingerprint
    assert guard().fingerprint == first
    assert guard(prompt="Is it bad? {behavior} {completion}").fingerprint != first
    assert guard(words={"yes": "no", "no": "yes"}).fingerprint != first
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    assert guard().fingerprint != first
