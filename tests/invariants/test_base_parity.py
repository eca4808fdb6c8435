"""The base model's own bits with checks off or separate; rounding apart with checks fused; and the checks' meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import safesignal.modeling.forward as forward_module
from safesignal.modeling.cache import TextState
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import ANNEALING, EVERY, Policy, Schedule, periodic
from tests.invariants.harness import (
    NEVER,
    PROMPTS,
    base_run,
    close,
    encoded,
    guarded,
    margins,
    oracle_signal,
    ranges_of,
    run,
    spread_,
)
from tests.support import Family, tiny_tokenizer

NEW = 64
Checks = Literal["fused", "separate"]
BATCHES = {"single": PROMPTS[1:2], "padded": PROMPTS[:3]}


@pytest.fixture(params=BATCHES)
def prompts(request: pytest.FixtureRequest) -> list[str]:
    return BATCHES[request.param]


# ----------------------------------------------------- the checks, as functions that a plant must fail


def assert_base_bits(
    model: SafeSignalModel, conversations: list[Encoded], *, signal: bool, checks: Checks = "separate", new: int = NEW
) -> None:
    """Greedy ids, hidden states and cached text are those of transformers' `generate`, bit for bit."""
    reference = base_run(model, conversations, new)
    answers, seen = run(model, conversations, checks=checks, signal=signal, schedule=EVERY, new=new)
    assert all(bool(answer.checks) is signal for answer in answers)
    assert [list(answer.ids) for answer in answers] == reference.new_ids
    # The last token is only read where a closing check wants it; transformers never reads it.
    for step, (found, expected) in enumerate(zip(seen.hidden[:new], reference.hidden, strict=True)):
        own = reference.mask if step == 0 else torch.ones(len(conversations), 1, dtype=torch.bool)
        assert torch.equal(found[own], expected[own]), f"hidden states of step {step}"
    width = reference.mask.shape[1] + new - 1
    own = torch.cat([reference.mask, torch.ones(len(conversations), new - 1, dtype=torch.bool)], dim=1)
    for index, pair in enumerate(seen.keys_and_values()):
        layer = reference.cache.layers[index]
        for found, expected in zip(pair, (layer.keys, layer.values), strict=True):
            found_BWGD, expected_BWGD = found[:, :, :width].transpose(1, 2), expected.transpose(1, 2)
            assert torch.equal(found_BWGD[own], expected_BWGD[own]), f"cache of layer {index}"


def assert_fused_is_separate(
    model: SafeSignalModel, conversations: list[Encoded], *, schedule: Schedule = EVERY, new: int = NEW
) -> None:
    """Signals and text hidden states agree to 1e-4, greedy ids wherever the choice is clear."""
    separate, apart = run(model, conversations, checks="separate", schedule=schedule, new=new)
    fused, joined = run(model, conversations, checks="fused", schedule=schedule, new=new)
    assert any(text and safety for text, safety in joined.passes), "no pass was fused"
    assert not any(text and safety for text, safety in apart.passes)
    same = new
    for one, left, right in zip(conversations, separate, fused, strict=True):
        first = next((i for i, (a, b) in enumerate(zip(left.ids, right.ids, strict=True)) if a != b), new)
        if first < new:
            assert margins(model, [*one.ids, *left.ids], len(one.ids))[first] < 1e-3, f"ids differ at {first}"
        same = min(same, first)
        for a, b in zip(left.checks, right.checks, strict=True):
            assert (a.step, a.span, a.kind) == (b.step, b.span, b.kind)
            assert a.step > first or abs(a.signal - b.signal) < 1e-4, f"signal at {a.step}: {a.signal}, {b.signal}"
    assert same > new // 2, "too little in common to compare"
    width = max(len(one.ids) for one in conversations)
    for row, one in enumerate(conversations):
        gap = width - len(one.ids)
        close(joined.hidden[0][row, gap:], apart.hidden[0][row, gap:], "hidden states of the prompt")
    for step in range(1, same):
        close(joined.hidden[step], apart.hidden[step], f"hidden states of step {step}")


def assert_signals_mean_their_span(model: SafeSignalModel, conversations: list[Encoded], checks: Checks) -> None:
    """Every logged signal is what an uncached forward over exactly that span gives."""
    answers, _ = run(model, conversations, checks=checks, schedule=ANNEALING, new=40)
    for one, answer in zip(conversations, answers, strict=True):
        ids = [*one.ids, *answer.ids]
        assert len(answer.checks) > 15
        spread = [check.signal for check in answer.checks]
        assert max(spread) - min(spread) > 0.2, "signals that do not vary pass anything"
        for check in answer.checks:
            expected = oracle_signal(model, ids, ranges_of(one, check))
            assert abs(check.signal - expected) < 1e-4, f"{check}: expected {expected}"


# -------------------------------------------------------------------------------------------- families


@pytest.mark.parametrize(("signal", "checks"), [(False, "fused"), (True, "separate")], ids=["off", "separate"])
def test_off_or_separate_is_the_base_model_bit_for_bit(
    family: Family, prompts: list[str], signal: bool, checks: Checks
) -> None:
    model = guarded(family)
    assert_base_bits(model, encoded(model, prompts), signal=signal, checks=checks)


def test_off_and_separate_is_the_base_model_bit_for_bit(prompts: list[str]) -> None:
    model = guarded("llama")
    assert_base_bits(model, encoded(model, prompts), signal=False, checks="separate")


def test_fused_is_separate(family: Family, prompts: list[str]) -> None:
    model = guarded(family)
    assert_fused_is_separate(model, encoded(model, prompts))


@pytest.mark.parametrize("checks", ["fused", "separate"])
def test_signals_mean_their_span(family: Family, prompts: list[str], checks: Checks) -> None:
    model = guarded(family)
    assert_signals_mean_their_span(model, encoded(model, prompts), checks)


def test_steps_between_checks_of_a_padded_batch(family: Family) -> None:
    model = guarded(family)
    assert_fused_is_separate(model, encoded(model, PROMPTS[:3]), schedule=periodic(7))


@pytest.mark.parametrize("first_family", ["llama", "gemma3", "gpt2"])
def test_the_papers_position(first_family: Family, prompts: list[str]) -> None:
    model = guarded(first_family, position="first")
    conversations = encoded(model, prompts)
    assert_base_bits(model, conversations, signal=True)
    assert_fused_is_separate(model, conversations)
    assert_signals_mean_their_span(model, conversations, "fused")


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_both_backends(backend: str) -> None:
    model = guarded("llama", attn_implementation=backend)
    assert model.forward_signal.stack.backend == backend
    conversations = encoded(model, PROMPTS[:2])
    assert_base_bits(model, conversations, signal=True)
    assert_fused_is_separate(model, conversations)
    assert_signals_mean_their_span(model, conversations, "fused")


def test_low_dependence_watches_and_changes_nothing(family: Family) -> None:
    model = guarded(family)
    conversations = encoded(model, PROMPTS[:3])
    policy = Policy(dependence="low", threshold=0.0, window_threshold=0.0)
    answers, _ = run(model, conversations, checks="separate", policy=policy, schedule=ANNEALING, new=32)
    assert [list(answer.ids) for answer in answers] == base_run(model, conversations, 32).new_ids
    assert all(check.verdict == "malicious" for answer in answers for check in answer.checks)
    assert not any(answer.refused for answer in answers)


def test_the_base_model_is_left_as_it_was(family: Family) -> None:
    model = guarded(family)
    before = {name: parameter.clone() for name, parameter in model.base.named_parameters()}
    backend = model.base.config._attn_implementation
    run(model, encoded(model, PROMPTS[:2]), new=8)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.base.named_parameters())
    assert model.base.config._attn_implementation == backend
    assert not any(parameter.requires_grad for parameter in model.base.parameters())
    ids = torch.tensor([list(encoded(model, PROMPTS[:1])[0].ids)])
    bare: Any = guarded(family).base
    wrapped: Any = model.base
    assert torch.equal(wrapped(ids).logits, bare(ids).logits), "the hooks act outside the gate"


# ---------------------------------------------------------------------------------------------- plants


def shifted(function: Callable[..., Tensor], by: int, *, rows: slice | None = None) -> Callable[..., Tensor]:
    """Return the mask builder with every row moved by one column: the error the checks above must see."""

    def planted(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs).roll(by, dims=-1)

    return planted


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("name", ["text_mask", "safety_mask"])
def test_a_text_mask_off_by_one_column_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, by: int) -> None:
    model = guarded("llama")
    conversations = encoded(model, PROMPTS[:2])
    assert_fused_is_separate(model, conversations)
    monkeypatch.setattr(forward_module, name, shifted(getattr(forward_module, name), by))
    with pytest.raises(AssertionError):
        assert_fused_is_separate(model, conversations)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("checks", ["fused", "separate"])
@pytest.mark.parametrize("name", ["visible", "safety_mask"])
def test_a_span_off_by_one_column_is_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, by: int, checks: Checks
) -> None:
    model = guarded("llama")
    conversations = encoded(model, PROMPTS[:2])
    monkeypatch.setattr(forward_module, name, shifted(getattr(forward_module, name), by))
    with pytest.raises(AssertionError):
        assert_signals_mean_their_span(model, conversations, checks)


@pytest.mark.parametrize("signal", [False, True])
def test_one_hidden_column_in_the_plain_pass_is_caught(monkeypatch: pytest.MonkeyPatch, signal: bool) -> None:
    model = guarded("llama")
    conversations = encoded(model, PROMPTS[:2])
    original = TextState.key_positions

    def planted(self: TextState, *args: Any, **kwargs: Any) -> Tensor:
        positions = original(self, *args, **kwargs)
        hidden: Tensor = positions.masked_fill(positions == 20, -1)
        return hidden

    monkeypatch.setattr(TextState, "key_positions", planted)
    with pytest.raises(AssertionError):
        assert_base_bits(model, conversations, signal=signal)


def test_an_open_gate_on_text_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """One text row too many under the LoRA: signals may still agree, the text may not."""
    model = guarded("llama")
    conversations = encoded(model, PROMPTS[:1])
    gate = model.forward_signal.gate
    original = type(gate).open
    monkeypatch.setattr(type(gate), "open", lambda self, rows, width: original(self, min(rows + 1, width), width))
    with pytest.raises((AssertionError, RuntimeError)):
        assert_fused_is_separate(model, conversations)


# ------------------------------------------------------------------------------------------ real model


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_smollm2(smollm2: Any, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tokenizer = smollm2
    monkeypatch.setattr(base.generation_config, "eos_token_id", None)  # 64 tokens each, whatever the model says
    model = SafeSignalModel.from_base(base, tokenizer=tokenizer)
    spread_(model, std=0.02)
    conversations = encoded(model, PROMPTS[1 : 1 + count])
    for signal in (False, True):
        assert_base_bits(model, conversations, signal=signal)
    assert_fused_is_separate(model, conversations)


def test_prompts_are_long_enough_to_mean_something() -> None:
    model = guarded("llama")
    assert all(len(one.ids) >= 64 for one in encoded(model, PROMPTS))
    assert len(tiny_tokenizer()) == model.base.config.vocab_size
    assert NEVER.window_threshold == 1.0
