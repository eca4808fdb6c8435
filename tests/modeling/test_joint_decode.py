"""A joint model writes the same whether cached or not, alone or in a batch, in one pass or two, streamed or whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from safesignal.config import SignalConfig
from safesignal.errors import UsageError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer
from safesignal.rules import ANNEALING, EVERY, Policy, Schedule
from safesignal.types import CheckKind
from tests.modeling.joint import joint_model, scripted
from tests.support import Family, tiny_tokenizer

PROMPTS = ["ab", "What is the capital of France?", "zzz zz", "List(1, 2, 3) -> def f(x): return x ** 2"]
ALONE = Policy(dependence="low")
"""Nothing is refused; what [CLS] does to the text is all there is to see."""


def answers(
    model: SafeSignalModel,
    conversations: Sequence[Encoded],
    *,
    policy: Policy = ALONE,
    schedule: Schedule = EVERY,
    checks: Literal["fused", "separate"] = "fused",
    new: int = 24,
    **more: Any,
) -> list[Answer]:
    options = model.options(max_new_tokens=new)
    return model.answer(conversations, policy=policy, schedule=schedule, checks=checks, options=options, **more)


def encoded(model: SafeSignalModel, prefill: str = "") -> list[Encoded]:
    return [model.encode_one(prompt, prefill) for prompt in PROMPTS]


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.ids, one.text, one.refused, one.stopped_at) == (
            other.ids,
            other.text,
            other.refused,
            other.stopped_at,
        )
        assert [(c.step, c.span, c.kind) for c in one.checks] == [(c.step, c.span, c.kind) for c in other.checks]
        for check, same in zip(one.checks, other.checks, strict=True):
            assert check.signal == pytest.approx(same.signal, abs=1e-4)


@torch.no_grad()
def assert_one_pass_agrees(model: SafeSignalModel, one: Encoded, answer: Answer) -> None:
    """Read prompt, answer and all its checks again as training does: one forward, no cache."""
    forward, ids = model.forward_signal, [*one.ids, *answer.ids]
    checks = [check for check in answer.checks if check.kind is not CheckKind.PREFILL]
    since = [one.text if check.kind is CheckKind.QUERY else len(one.ids) + check.step for check in checks]
    sights = [forward.sight(one.ranges(c.span), at) for c, at in zip(checks, since, strict=True)]
    hidden_BQD = forward.train_pass([ids], [sights])
    signals = forward.adapter.head(hidden_BQD[:, len(ids) :])[0].tolist()
    assert signals == pytest.approx([check.signal for check in checks], abs=1e-4)
    scores: Any = model.base.lm_head(hidden_BQD[0, len(one.ids) - 1 : len(ids) - 1])
    assert scores.argmax(dim=-1).tolist() == list(answer.ids)


@pytest.mark.parametrize("position", ["first", "tracking"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2"])
def test_cached_is_uncached(family: Family, position: str) -> None:
    """Growing step by step under the stored check is the one pass that training makes of the same text and checks."""
    model = joint_model(family, position=position)
    one = model.encode_one("ab")
    (answer,) = answers(model, [one], policy=replace(ALONE, threshold=1.0))
    assert len(answer.checks) == 25
    assert_one_pass_agrees(model, one, answer)


@pytest.mark.parametrize("schedule", [EVERY, ANNEALING], ids=["every", "annealing"])
@pytest.mark.parametrize("checks", ["fused", "separate"])
def test_batch_is_single(checks: Literal["fused", "separate"], schedule: Schedule) -> None:
    model = joint_model()
    conversations = encoded(model)
    policy, alone = mixed(model, conversations, schedule, checks)
    assert_same(answers(model, conversations, policy=policy, schedule=schedule, checks=checks), alone)


def mixed(
    model: SafeSignalModel, conversations: Sequence[Encoded], schedule: Schedule, checks: Literal["fused", "separate"]
) -> tuple[Policy, list[Answer]]:
    """Find thresholds under which some rows are refused at the query, some later, some never; and those rows alone."""
    watched = [answers(model, [one], schedule=schedule)[0] for one in conversations]
    signals = sorted(check.signal for answer in watched for check in answer.checks)
    queries = sorted(answer.checks[0].signal for answer in watched)
    for share in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
        at = int(share * len(signals))
        window = (signals[at] + signals[at - 1]) / 2
        policy = Policy(threshold=(queries[-1] + queries[-2]) / 2, window_threshold=window, explain_tokens=8)
        alone = [
            answers(model, [one], policy=policy, schedule=schedule, checks=checks, numbers=[number])[0]
            for number, one in enumerate(conversations)
        ]
        courses = {(answer.refused, answer.checks[0].signal >= policy.threshold) for answer in alone}
        if courses == {(True, True), (True, False), (False, False)}:
            return policy, alone
    raise AssertionError("no thresholds give a mixed batch; change the prompts")


@pytest.mark.parametrize("prefill", ["", "Sure, here is"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_fused_is_separate(family: Family, prefill: str) -> None:
    model = joint_model(family)
    conversations = encoded(model, prefill)
    assert_same(answers(model, conversations), answers(model, conversations, checks="separate"))


def test_rows_with_and_without_a_prefill_share_a_batch() -> None:
    model = joint_model()
    conversations = [
        model.encode_one(PROMPTS[0]),
        model.encode_one(PROMPTS[1], "Sure, 1"),
        model.encode_one(PROMPTS[2]),
    ]
    assert_same(answers(model, conversations), [answers(model, [one])[0] for one in conversations])


def test_long_prompts_take_two_passes_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model = joint_model()
    conversations = encoded(model, "Sure, here is")
    short = answers(model, conversations)
    monkeypatch.setattr("safesignal.modeling.forward._LONGEST_FUSED", 3)
    assert_same(answers(model, conversations), short)


def test_stream_is_whole() -> None:
    model = joint_model(tokenizer=tiny_tokenizer())
    policy = replace(ALONE, buffer=False)
    more: dict[str, Any] = {"policy": policy, "schedule": EVERY}
    pieces = list(model.stream("hello", prefill="Sure", max_new_tokens=24, **more))
    (whole,) = answers(model, [model.encode_one("hello", "Sure")], policy=policy)
    assert "".join(piece.text for piece in pieces) == whole.text
    assert_same([pieces[-1].answer], [whole])  # type: ignore[list-item]


@torch.no_grad()
def test_a_refusal_is_written_under_the_verdict_that_caused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rollback the text is that of a row which never wrote what was dropped; the stored check is the last."""
    monkeypatch.setattr("safesignal.modeling.decode._explained", lambda *_: True)  # one token, and hardly a word
    model = joint_model()
    one, forward = model.encode_one("ab"), model.forward_signal
    with scripted(model, [0.1, 0.9, 0.9, 0.1]):
        (answer,) = answers(model, [one], policy=Policy(explain_tokens=1), new=64)
    assert (answer.refused, answer.stopped_at) == (True, 0)
    written = answers(model, [one], new=2)[0].ids
    state = forward.new_state(1)
    forward.feed(state, [one.ids], [[forward.sight(one.query_ranges(), one.text)]])
    state.advance([one.text])
    for n, token in enumerate(written, 1):
        forward.feed(state, [[token]], [[forward.sight([(one.text, one.text + n)], one.text + n)]])
        state.advance([1])
    assert state.since == [one.text + 2]
    state.cut([one.text])
    assert state.since == [one.text]
    refusal = model._to_ids(Policy().refusal_prefix)
    assert list(answer.ids[: len(refusal)]) == refusal
    scores, _ = forward.feed(state, [refusal], [[]])
    assert scores is not None
    assert int(scores.argmax()) == answer.ids[len(refusal)]
    never = forward.new_state(1)
    forward.feed(never, [one.ids], [[]])
    never.advance([one.text])
    blind, _ = forward.feed(never, [refusal], [[]])
    assert blind is not None
    assert not torch.allclose(scores, blind, atol=1e-3), "the stored check should matter here"


def test_scores_are_those_of_a_prefill() -> None:
    """An answer that exists already is read under the query check, as a caller's prefill is."""
    model = joint_model()
    policy = Policy(dependence="low", threshold=1.0, window_threshold=1.0)
    text = "Sure, 1 2"
    scores = model.score(PROMPTS, [text] * len(PROMPTS), policy=policy, schedule=EVERY)
    given = answers(model, encoded(model, text), policy=policy, new=1)
    for score, answer in zip(scores, given, strict=True):
        opening = [c.signal for c in answer.checks if c.kind in (CheckKind.QUERY, CheckKind.PREFILL)]
        assert [check.signal for check in score.checks] == pytest.approx(opening, abs=1e-4)
    blind = model.score(PROMPTS, [text] * len(PROMPTS), policy=replace(policy, implicit=False), schedule=EVERY)
    assert blind[0].checks[0].signal == pytest.approx(scores[0].checks[0].signal, abs=1e-4)
    assert blind[0].checks[-1].signal != pytest.approx(scores[0].checks[-1].signal, abs=1e-4)


def test_each_recipe_has_its_own_position() -> None:
    assert SignalConfig().position == "tracking"
    assert SignalConfig(recipe="joint").position == "first"
    assert SignalConfig(recipe="joint", position="tracking").position == "tracking"
    assert SignalConfig.from_dict(SignalConfig(recipe="joint").to_dict()).position == "first"
    with pytest.raises(UsageError, match="cls_spans"):
        SignalConfig(recipe="joint", cls_spans="paper")  # type: ignore[arg-type]


def test_a_gated_model_keeps_no_check() -> None:
    from tests.invariants.harness import guarded

    model = guarded("llama")
    state = model.forward_signal.new_state(1)
    sight = model.forward_signal.sight([(0, 2)], 2)
    assert sight.since == -1
    model.forward_signal.feed(state, [[5, 6, 7]], [[sight]])
    assert not state.cache.stores
