"""What is shown and what is taken back: the buffer, the stream, the rollback, the prefill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer, StreamChunk
from safesignal.modeling.rows import Row
from safesignal.nn.sampling import pick_token
from safesignal.rules import ANNEALING, EVERY, FIRST, Policy, Schedule, periodic
from safesignal.types import Check, CheckKind, FinishReason, Verdict
from tests.invariants.harness import (
    NEVER_AT_ALL,
    PROMPTS,
    base_run,
    close,
    encoded,
    guarded,
    oracle_signal,
    ranges_of,
    run,
    windows,
)
from tests.support import Family

NEW = 48


def thresholds(model: SafeSignalModel, prompts: Sequence[str], schedule: Schedule) -> list[float]:
    """Return window thresholds between the signals that the prompts' answers show, highest first."""
    answers, _ = run(model, encoded(model, prompts), policy=NEVER_AT_ALL, schedule=schedule, new=NEW)
    levels = sorted((check.signal for answer in answers for check in windows(answer)), reverse=True)
    between = [(a + b) / 2 for a, b in pairwise(levels) if a - b > 1e-3]
    return between[2 :: max(1, len(between) // 20)]


def refused_mid_answer(
    model: SafeSignalModel, schedule: Schedule, base: Policy, prompts: Sequence[str] = PROMPTS, least: int = 3
) -> tuple[str, Policy, Answer]:
    """Find a prompt and a threshold at which the policy fires after some benign text, and the explanation lasts."""
    for level in thresholds(model, prompts, schedule):
        policy = replace(base, threshold=1.0, window_threshold=level, refusal_prefix="No, because")
        answers, _ = run(model, encoded(model, prompts), policy=policy, schedule=schedule, new=NEW)
        for prompt, answer in zip(prompts, answers, strict=True):
            explained = [check for check in answer.checks if check.kind is CheckKind.EXPLANATION]
            ended = bool(explained) and policy.fixed_refusal not in answer.text if policy.explains else True
            if answer.refused and (answer.stopped_at or 0) >= least and ended:
                return prompt, policy, answer
    raise AssertionError("no threshold refuses mid-answer; change the prompts")


# --------------------------------------------------------------------------------------------------------- the buffer


def covered(checks: Sequence[Check], prefill: int) -> set[int]:
    """Return the generated tokens that a benign check has covered, by the checks alone."""
    seen: set[int] = set()
    for check in checks:
        if check.kind is CheckKind.WINDOW and check.verdict is Verdict.BENIGN:
            seen |= {token - prefill for token in range(check.span.start, check.span.end)}
    return seen


def stream(
    model: SafeSignalModel, prompt: str, prefill: str = "", **more: Any
) -> Iterator[tuple[StreamChunk, Row, int]]:
    """Stream an answer; yield every chunk with its row and the frontier's position at that moment."""
    rows: list[Row] = []

    def make_rows(*args: Any) -> list[Row]:
        rows.extend(type(model).rows(model, *args))
        return rows

    model.rows = make_rows  # type: ignore[method-assign,assignment]
    try:
        for chunk in model.stream(prompt, prefill=prefill, max_new_tokens=NEW, **more):
            yield chunk, rows[0], rows[0].origin + rows[0].trajectory.frontier
    finally:
        del model.rows


@pytest.mark.parametrize("schedule", [EVERY, ANNEALING, periodic(7)], ids=str)
@pytest.mark.parametrize("prefill", ["", "Sure, here"])
def test_nothing_is_shown_beyond_the_frontier(schedule: Schedule, prefill: str) -> None:
    model = guarded("llama")
    outcomes = set()
    for level in [*thresholds(model, PROMPTS[:3], schedule)[::6], 1.0]:
        policy = Policy(threshold=1.0, window_threshold=level, tau=2)
        for prompt in PROMPTS[:3]:
            shown = 0
            checks: list[Check] = []
            for chunk, row, frontier in stream(model, prompt, prefill, policy=policy, schedule=schedule):
                checks += chunk.checks
                shown += len(chunk.ids)
                assert row.shown == row.start + shown
                if not row.refused:
                    assert row.shown <= frontier, "shown beyond the frontier"
                    assert set(range(shown)) <= covered(checks, row.encoded.prefill)
                if chunk.answer is not None:
                    assert tuple(row.checks) == tuple(checks)
                    assert chunk.answer.released_after_transition == 0
                    outcomes.add(chunk.answer.stopped_at is not None)
                    if chunk.answer.stopped_at:
                        assert set(range(chunk.answer.stopped_at)) <= covered(checks, row.encoded.prefill)
    assert outcomes == {True, False}


def test_text_is_shown_as_soon_as_it_is_covered() -> None:
    model = guarded("llama")
    policy = Policy(threshold=1.0, window_threshold=1.0)
    sizes = [len(chunk.ids) for chunk, _, _ in stream(model, PROMPTS[0], policy=policy, schedule=ANNEALING)]
    assert sizes == [1] * 10 + [5] * 7 + [3]
    sizes = [len(chunk.ids) for chunk, _, _ in stream(model, PROMPTS[0], signal=False)]
    assert sizes == [1] * NEW


def test_stream_joined_is_generate(family: Family) -> None:
    assert_stream_is_generate(guarded(family), "explain", buffer=True)


@pytest.mark.parametrize(("after", "buffer"), [("stop", True), ("stop", False), ("explain", False)])
def test_stream_joined_is_generate_under_other_policies(after: Literal["explain", "stop"], buffer: bool) -> None:
    assert_stream_is_generate(guarded("llama"), after, buffer=buffer)


def assert_stream_is_generate(model: SafeSignalModel, after: Literal["explain", "stop"], *, buffer: bool) -> None:
    levels = thresholds(model, PROMPTS[:2], ANNEALING)
    refused = set()
    for level in [levels[0], levels[len(levels) // 2], 1.0]:
        policy = Policy(threshold=1.0, window_threshold=level, buffer=buffer, after=after, explain_tokens=10)
        for prompt in PROMPTS[:2]:
            (whole,), _ = run(model, encoded(model, [prompt]), policy=policy, schedule=ANNEALING, new=NEW)
            chunks = [chunk for chunk, _, _ in stream(model, prompt, policy=policy, schedule=ANNEALING)]
            assert "".join(chunk.text for chunk in chunks) == whole.text
            assert tuple(token for chunk in chunks for token in chunk.ids) == whole.ids
            last = chunks[-1].answer
            assert last is not None
            assert [chunk.answer for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
            assert replace(last, seconds=0, seconds_to_first=0) == replace(whole, seconds=0, seconds_to_first=0)
            refused.add(whole.refused)
    assert refused == {True, False}


def test_without_the_buffer_the_leak_is_counted() -> None:
    model = guarded("llama")
    prompt, policy, held = refused_mid_answer(model, periodic(10), Policy(tau=1, after="stop"))
    assert held.released_after_transition == 0
    (shown,), _ = run(
        model, encoded(model, [prompt]), policy=replace(policy, buffer=False), schedule=periodic(10), new=NEW
    )
    assert shown.stopped_at == held.stopped_at
    assert shown.released_after_transition == 10, "the ten tokens between the last benign check and the malicious one"
    assert shown.ids[: shown.stopped_at] == held.ids[: held.stopped_at]
    assert shown.text.endswith(policy.fixed_refusal)
    assert held.text.endswith(policy.fixed_refusal)


def test_a_stream_left_early_shows_no_more() -> None:
    model = guarded("llama")
    running = model.stream(PROMPTS[0], policy=Policy(threshold=1.0, window_threshold=1.0), max_new_tokens=NEW)
    assert next(running).ids
    del running
    assert (model.forward_signal.gate.rows, model.forward_signal.gate.width) == (0, 0)
    assert model.answer(encoded(model, PROMPTS[:1]), signal=False, options=model.options(max_new_tokens=2))


# -------------------------------------------------------------------------------------------------------- the rollback


def test_rollback_is_never_having_written_it(family: Family) -> None:
    assert_rollback_leaves_no_trace(guarded(family), "fused")


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2"])
def test_rollback_with_separate_checks(name: Family) -> None:
    assert_rollback_leaves_no_trace(guarded(name), "separate")


def assert_rollback_leaves_no_trace(model: SafeSignalModel, checks: Literal["fused", "separate"]) -> None:
    base = Policy(tau=2, explain_tokens=16)
    prompt, policy, _ = refused_mid_answer(model, ANNEALING, base)
    (one,) = encoded(model, [prompt])
    (answer,), seen = run(model, [one], policy=policy, schedule=ANNEALING, new=NEW, checks=checks)
    assert answer.stopped_at
    refusal = model._to_ids("\n\n" + policy.refusal_prefix)
    kept = [*one.ids, *answer.ids[: answer.stopped_at], *refusal]
    assert list(answer.ids[answer.stopped_at : answer.stopped_at + len(refusal)]) == refusal
    # Cache and next-token scores of a run that never saw the cropped tokens.
    forward = model.forward_signal
    fresh = forward.new_state(1)
    with torch.no_grad():
        scores, _ = forward.feed(fresh, [kept], [[]])
    fresh.advance([len(kept)])
    layers: Any = fresh.cache.layers
    for layer, (keys, values) in zip(layers, seen.keys_and_values(), strict=True):
        close(keys[:, :, : len(kept)], layer.keys[:, :, : len(kept)], "keys")
        close(values[:, :, : len(kept)], layer.values[:, :, : len(kept)], "values")
    explanation = list(answer.ids[answer.stopped_at + len(refusal) :])
    assert explanation
    assert scores is not None
    assert explanation[0] == int(scores[0].argmax())
    again = replace(one, ids=tuple(kept), roles=(*one.roles, *[one.roles[0]] * (len(kept) - len(one.ids))))
    (expected,) = base_run(model, [again], len(explanation)).new_ids
    assert explanation == expected
    ids = [*kept, *explanation]
    for check in (check for check in answer.checks if check.kind is CheckKind.EXPLANATION):
        spans = [(len(kept) + check.span.start, len(kept) + check.span.end)]
        assert abs(check.signal - oracle_signal(model, ids, spans)) < 1e-4


def test_a_malicious_explanation_ends_with_the_fixed_refusal() -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=0.0, tau=2)
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, schedule=EVERY, new=NEW)
    assert (answer.text, answer.stopped_at) == (policy.fixed_refusal, 0)
    assert [check.kind for check in answer.checks] == [CheckKind.QUERY, *[CheckKind.EXPLANATION] * 2]
    assert answer.finish_reason is FinishReason.REFUSED


@pytest.mark.parametrize("dependence", ["medium", "high"])
def test_a_fixed_refusal_is_the_whole_text(dependence: Literal["medium", "high"]) -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, dependence=dependence, after="stop")
    (answer,), seen = run(model, encoded(model, PROMPTS[:1]), policy=policy, new=NEW)
    assert (answer.text, answer.stopped_at, answer.refused) == (policy.fixed_refusal, 0, True)
    assert len(answer.checks) == 1
    assert len(seen.passes) == 1


def test_a_refusal_is_never_cut_short() -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=1.0)
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, new=3)
    assert answer.text == policy.fixed_refusal, "no room for an explanation"
    long = len(model._to_ids(policy.refusal_prefix))
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, new=long + 4)
    assert answer.text.startswith(policy.refusal_prefix)
    assert long < answer.n_tokens <= long + 4


@pytest.mark.parametrize("begins", ["\n", ".", " !"])
def test_an_explanation_without_a_word_is_none(begins: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends a sentence ends no explanation without a word; one that never has any yields to the fixed refusal."""
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=1.0, explain_tokens=6)
    script = iter(model._to_ids(begins) + model._to_ids("it is"))
    monkeypatch.setattr("safesignal.modeling.decode.pick_token", lambda *_: next(script))
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, new=99)
    assert answer.text.startswith(policy.refusal_prefix + begins + "it i")
    blank = iter(model._to_ids(begins * 6))
    monkeypatch.setattr("safesignal.modeling.decode.pick_token", lambda *_: next(blank))
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, new=99)
    assert answer.text == policy.fixed_refusal


@pytest.mark.parametrize("buffer", [True, False])
def test_the_fixed_refusal_stands_apart_from_what_was_written(buffer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = guarded("llama")
    prompt, policy, _ = refused_mid_answer(model, EVERY, Policy(tau=1, explain_tokens=6))
    policy = replace(policy, buffer=buffer)
    prefix, (dot,) = model._to_ids(policy.refusal_prefix)[-4:], model._to_ids(".")

    def pick(scores_V: Tensor, ids: list[int], *rest: Any) -> int:
        refused = any(ids[i : i + len(prefix)] == prefix for i in range(len(ids)))
        return dot if refused else pick_token(scores_V, ids, *rest)

    monkeypatch.setattr("safesignal.modeling.decode.pick_token", pick)
    (answer,), _ = run(model, encoded(model, [prompt]), policy=policy, schedule=EVERY, new=NEW)
    assert answer.stopped_at
    assert answer.text.endswith(f"\n\n{policy.fixed_refusal}")
    assert not answer.text.startswith("\n\n")


def test_the_explanation_is_bounded() -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=1.0, explain_tokens=7)
    (answer,), _ = run(model, encoded(model, PROMPTS[1:2]), policy=policy, new=400)
    assert answer.n_tokens <= len(model._to_ids(policy.refusal_prefix)) + 7


# --------------------------------------------------------------------------------------------------------- the prefill

PREFILL = "Sure, here is what you asked for"


def prefill_signals(model: SafeSignalModel, prompt: str) -> list[float]:
    (answer,), _ = run(model, encoded(model, [prompt], PREFILL), policy=NEVER_AT_ALL, schedule=EVERY, new=4)
    return [check.signal for check in answer.checks if check.kind is CheckKind.PREFILL]


def test_a_prefill_is_checked_before_anything_is_written(family: Family) -> None:
    model = guarded(family)
    (one,) = encoded(model, PROMPTS[:1], PREFILL)
    (answer,), seen = run(model, [one], policy=NEVER_AT_ALL, schedule=ANNEALING, new=4)
    kinds = [check.kind for check in answer.checks]
    steps = [check.step for check in answer.checks]
    due = [n for n in range(1, one.prefill + 1) if ANNEALING.due(n) or n == one.prefill]
    assert kinds == [CheckKind.QUERY, *[CheckKind.PREFILL] * len(due), *[CheckKind.WINDOW] * 4]
    assert steps == [0] * (1 + len(due)) + [1, 2, 3, 4]
    assert [check.span.end for check in answer.checks[1 : 1 + len(due)]] == due
    assert [check.span.end for check in windows(answer)] == [one.prefill + n for n in range(1, 5)]
    assert seen.passes[0] == (len(one.ids), 1 + len(due)), "query and prefill checks share the prompt's forward"
    assert answer.n_tokens == 4


@pytest.mark.parametrize("tau", [1, 3])
def test_a_malicious_prefill_is_dropped(tau: int) -> None:
    model = guarded("llama")
    (one,) = encoded(model, PROMPTS[:1], PREFILL)
    policy = Policy(threshold=1.0, window_threshold=max(prefill_signals(model, PROMPTS[0])) - 1e-3, tau=tau)
    (answer,), seen = run(model, [one], policy=policy, schedule=EVERY, new=NEW)
    assert (answer.refused, answer.stopped_at, answer.released_after_transition) == (True, 0, 0)
    assert not windows(answer)
    assert seen.rows[0].start == one.text
    assert answer.text.startswith(policy.refusal_prefix) or answer.text == policy.fixed_refusal
    bare, _ = run(model, [replace(one, ids=one.ids[: one.text], roles=one.roles[: one.text])],
                  policy=replace(policy, threshold=0.0), schedule=EVERY, new=NEW)  # fmt: skip
    assert bare[0].ids == answer.ids, "the refusal reads as if the prefill had never been there"
    first = next(chunk for chunk, _, _ in stream(model, PROMPTS[0], PREFILL, policy=policy, schedule=EVERY))
    assert first.text.startswith("Sorry")


def test_a_benign_prefill_stays_when_the_first_words_after_it_turn() -> None:
    model = guarded("llama")
    for prompt, prefill in product(PROMPTS, ["S", "Su", "Ok", "No,", "1."]):
        (one,) = encoded(model, [prompt], prefill)
        (watched,), _ = run(model, [one], policy=NEVER_AT_ALL, schedule=EVERY, new=2)
        top = max(check.signal for check in watched.checks if check.kind is CheckKind.PREFILL)
        if windows(watched)[0].signal > top + 1e-3:
            break
    else:
        pytest.fail("no prompt turns right after its prefill; change the prompts")
    policy = Policy(threshold=1.0, window_threshold=windows(watched)[0].signal - 5e-4, tau=1, after="stop")
    inputs = model.encode(prompt, prefill=prefill)
    out: Any = model.generate(**inputs, policy=policy, schedule=EVERY, max_new_tokens=NEW, return_dict_in_generate=True)
    assert out.stopped_at == [0]
    assert out.sequences[0].tolist() == [*one.ids, *out.answers[0].ids], "the context kept the prefill"


def test_a_dropped_prefill_leaves_the_sequence() -> None:
    model = guarded("llama")
    policy = Policy(threshold=1.0, window_threshold=0.0)
    inputs = model.encode(PROMPTS[0], prefill=PREFILL)
    out: Any = model.generate(**inputs, policy=policy, max_new_tokens=NEW, return_dict_in_generate=True)
    (one,) = encoded(model, PROMPTS[:1])
    width, answer = inputs["input_ids"].shape[1], list(out.answers[0].ids)
    assert out.answers[0].prefill_dropped
    assert out.sequences[0, width:].tolist() == answer, "an answer begins where what was given ends"
    assert out.sequences[0, :width].tolist()[-len(one.ids) :] == list(one.ids)
    assert set(out.sequences[0, : width - len(one.ids)].tolist()) == {model.tokenizer.pad_token_id}


# --------------------------------------------------------------------------------------------------------- the history


def conversation(answer: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "first question, of some length"},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "and then?"},
    ]


def test_earlier_answers_are_checked_as_answers(family: Family) -> None:
    model = guarded(family)
    one = model.encode_one(conversation("an earlier answer with words in it"))
    (start, end), *_ = one.earlier_answers()
    (answer,), _ = run(model, [one], policy=NEVER_AT_ALL, schedule=ANNEALING, new=2)
    history = [check for check in answer.checks if check.kind is CheckKind.HISTORY]
    due = [n for n in range(1, end - start + 1) if ANNEALING.due(n) or n == end - start]
    assert [check.span.end for check in history] == due
    assert {check.span.turn for check in history} == {0}
    for check in history:
        assert abs(check.signal - oracle_signal(model, one.ids, ranges_of(one, check))) < 1e-4


@pytest.mark.parametrize("prefill", ["", PREFILL])
def test_a_turn_that_goes_bad_midway_refuses_before_anything_is_written(prefill: str) -> None:
    """Whatever the turn kept, nothing of the *current* answer stays, a prefill included."""
    model = guarded("llama")
    for words in PROMPTS:
        one = model.encode_one(conversation(words), prefill)
        (watched,), _ = run(model, [one], policy=NEVER_AT_ALL, schedule=EVERY, new=1)
        signals = [check.signal for check in watched.checks if check.kind is CheckKind.HISTORY]
        rest = [check.signal for check in watched.checks if check.kind is CheckKind.PREFILL]
        level = max(signals) - 5e-4
        if signals.index(max(signals)) > 2 and max(rest, default=0.0) < level:
            break
    else:
        pytest.fail("no turn goes bad midway; change the prompts")
    policy = Policy(threshold=1.0, window_threshold=level, tau=1, explain_tokens=8)
    (answer,), seen = run(model, [one], policy=policy, schedule=EVERY, new=NEW)
    assert (answer.refused, answer.stopped_at, answer.released_after_transition) == (True, 0, 0)
    assert seen.rows[0].start == seen.rows[0].refusal_at == one.text
    assert answer.text.startswith("Sorry")
    (fixed,), _ = run(model, [one], policy=replace(policy, dependence="high"), schedule=EVERY, new=NEW)
    assert (fixed.text, fixed.n_tokens) == (policy.fixed_refusal, len(model._to_ids(policy.fixed_refusal)))


def test_an_open_run_at_the_end_of_a_turn_refuses() -> None:
    model = guarded("llama")
    one = model.encode_one(conversation("x"))
    policy = Policy(threshold=1.0, window_threshold=0.0, tau=3)
    (answer,), _ = run(model, [one], policy=policy, schedule=EVERY, new=NEW)
    assert [check.kind for check in answer.checks[:2]] == [CheckKind.QUERY, CheckKind.HISTORY]
    assert answer.stopped_at == 0


# ------------------------------------------------------------------------------------------------------ other schedules


def test_first_reads_the_query_alone() -> None:
    model = guarded("llama")
    policy = Policy(threshold=1.0, window_threshold=0.0, buffer=False)
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, schedule=FIRST, new=20)
    assert [check.kind for check in answer.checks] == [CheckKind.QUERY]
    assert not answer.refused
    assert answer.n_tokens == 20


def test_without_the_query_check_windows_are_alone() -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=1.0, check_query=False)
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, schedule=ANNEALING, new=12)
    assert not answer.refused
    assert {check.kind for check in answer.checks} == {CheckKind.WINDOW}


def test_an_untrained_signal_guards_nothing() -> None:
    from safesignal.errors import SignalError

    model = guarded("llama")
    model.trained_signal = False
    with pytest.raises(SignalError, match="never trained"):
        model.answer(encoded(model, PROMPTS[:1]))
    with pytest.raises(SignalError):
        list(model.stream(PROMPTS[0]))
    with pytest.raises(SignalError):
        model.score(PROMPTS[:1])
    assert model.answer(encoded(model, PROMPTS[:1]), signal=False, options=model.options(max_new_tokens=2))


def test_a_nan_signal_shows_nothing_more() -> None:
    from safesignal.errors import SignalError

    model = guarded("llama")
    shown: list[StreamChunk] = []
    head = model.forward_signal.adapter.head
    with pytest.raises(SignalError):  # noqa: PT012 -- the error must come in the middle
        for chunk in model.stream(PROMPTS[0], policy=Policy(threshold=1.0, window_threshold=1.0), max_new_tokens=NEW):
            shown.append(chunk)
            if len(shown) == 3:
                with torch.no_grad():
                    head.proj.bias.fill_(float("nan"))
    assert len(shown) == 3
    with pytest.raises(SignalError):
        model.answer(encoded(model, PROMPTS[:1]))
