"""Batch = single, left-padded = unpadded, whatever the neighbours do: stop, refuse, roll back or end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest

from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer
from safesignal.rules import ANNEALING, EVERY, Policy, Schedule
from safesignal.rules.trajectory import decisive_signal
from safesignal.types import CheckKind, FinishReason
from tests.invariants.harness import NEVER_AT_ALL, PROMPTS, encoded, guarded, run, windows
from tests.support import Family

NEW = 40


def course_of(answer: Answer) -> str:
    """Say how an answer went: refused at the query, refused later, or never."""
    if not answer.refused:
        return "never"
    return "later" if windows(answer) else "query"


def clear(answers: list[Answer], policy: Policy) -> bool:
    """Tell whether no signal lies so close to its threshold that rounding could turn the verdict."""
    return all(
        abs(check.signal - (policy.threshold if check.kind is CheckKind.QUERY else policy.window_threshold)) > 2e-4
        for answer in answers
        for check in answer.checks
    )


def mixed_policy(
    model: SafeSignalModel, conversations: list[Encoded], base: Policy, schedule: Schedule, **more: Any
) -> tuple[Policy, list[Answer]]:
    """Find thresholds at which some rows fire at the query, some mid-answer and some never; and those answers alone."""
    watched, _ = run(model, conversations, policy=NEVER_AT_ALL, schedule=schedule, new=NEW, **more)
    queries = sorted(answer.checks[0].signal for answer in watched)
    threshold = (queries[-2] + queries[-3]) / 2
    tau = 1 if base.dependence == "high" else base.tau
    levels = sorted(decisive_signal([check.signal for check in windows(answer)], tau) for answer in watched)
    for low, high in [(a, b) for a in levels for b in levels if b > a + 1e-3] + [(1.0, 1.0)]:
        policy = replace(base, threshold=threshold, window_threshold=(low + high) / 2)
        alone = [
            run(model, [one], policy=policy, schedule=schedule, new=NEW, numbers=[number], **more)[0][0]
            for number, one in enumerate(conversations)
        ]
        courses = {course_of(answer) for answer in alone}
        kept = any(answer.stopped_at for answer in alone)
        if courses == {"query", "later", "never"} and kept and clear(alone, policy):
            return policy, alone
    raise AssertionError("no thresholds give a mixed batch; change the prompts")


def assert_same(batch: list[Answer], alone: list[Answer]) -> None:
    for number, (found, expected) in enumerate(zip(batch, alone, strict=True)):
        for name in ("ids", "text", "refused", "stopped_at", "finish_reason", "n_tokens", "released_after_transition"):
            assert getattr(found, name) == getattr(expected, name), f"{name} of row {number}"
        assert len(found.checks) == len(expected.checks)
        for a, b in zip(found.checks, expected.checks, strict=True):
            assert (a.step, a.span, a.kind, a.verdict) == (b.step, b.span, b.kind, b.verdict)
            assert abs(a.signal - b.signal) < 1e-4


def test_batch_is_single(family: Family) -> None:
    assert_batch_is_single(guarded(family, eos=[45, 46, 47]))


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_a_sampled_batch_is_single(name: Family) -> None:
    assert_batch_is_single(guarded(name, eos=[45, 46, 47]), do_sample=True, temperature=1.3, seed=5)


def assert_batch_is_single(model: SafeSignalModel, **more: Any) -> None:
    conversations = encoded(model, PROMPTS)
    policy, alone = mixed_policy(model, conversations, Policy(explain_tokens=12), ANNEALING, **more)
    batch, _ = run(model, conversations, policy=policy, schedule=ANNEALING, new=NEW, **more)
    assert_same(batch, alone)


@pytest.mark.parametrize("checks", ["fused", "separate"])
@pytest.mark.parametrize(
    "base",
    [Policy(tau=1, after="stop"), Policy(tau=3), Policy(dependence="high"), Policy(tau=2, buffer=False)],
    ids=["stop", "tau-3", "high", "no-buffer"],
)
def test_batch_is_single_under_other_policies(base: Policy, checks: Literal["fused", "separate"]) -> None:
    model = guarded("llama")
    conversations = encoded(model, PROMPTS)
    policy, alone = mixed_policy(model, conversations, base, EVERY, checks=checks)
    batch, _ = run(model, conversations, policy=policy, schedule=EVERY, new=NEW, checks=checks)
    assert_same(batch, alone)


def test_batch_is_single_in_the_papers_position() -> None:
    model = guarded("mistral", position="first")
    conversations = encoded(model, PROMPTS)
    policy, alone = mixed_policy(model, conversations, Policy(), ANNEALING)
    batch, _ = run(model, conversations, policy=policy, schedule=ANNEALING, new=NEW)
    assert_same(batch, alone)


def test_the_order_of_rows_does_not_matter() -> None:
    model = guarded("qwen2")
    conversations = encoded(model, PROMPTS)
    policy, alone = mixed_policy(model, conversations, Policy(), ANNEALING)
    batch, _ = run(model, conversations[::-1], policy=policy, schedule=ANNEALING, new=NEW)
    assert_same(batch[::-1], alone)


def test_numbers_key_the_noise() -> None:
    model = guarded("llama")
    one = encoded(model, PROMPTS[:1])
    noise: dict[str, Any] = {"do_sample": True, "temperature": 1.5, "top_k": 0, "seed": 0}
    twins, _ = run(model, one * 2, new=24, **noise)
    assert twins[0].ids != twins[1].ids, "two rows of a batch draw apart"
    second, _ = run(model, one, new=24, numbers=[1], **noise)
    assert second[0].ids == twins[1].ids
    other, _ = run(model, one, new=24, **noise | {"seed": 1})
    assert other[0].ids != twins[0].ids


def test_generate_lays_rows_out_as_transformers_does() -> None:
    model = guarded("llama", eos=list(range(40, 46)))
    inputs = model.encode(PROMPTS)
    base: Any = model.base
    expected = base.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=24)
    found: Any = model.generate(**inputs, signal=False, max_new_tokens=24)
    ends = {FinishReason.EOS, FinishReason.LENGTH}
    whole: Any = model.generate(**inputs, signal=False, max_new_tokens=24, return_dict_in_generate=True)
    assert {answer.finish_reason for answer in whole.answers} == ends, "the batch should mix endings"
    assert found.tolist() == expected.tolist()
    assert whole.sequences.tolist() == expected.tolist()
