"""What must never quietly weaken the signal: modes, neighbours on the same base, origins, roles that lie."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from safesignal.config import SignalConfig
from safesignal.errors import AdapterError, SignalError, UsageError
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import EVERY
from safesignal.types import Role
from tests.invariants.harness import NEVER, PROMPTS, guarded
from tests.support import Family, randomise_, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("name", ["gpt2", "phi3"])
def test_train_mode_does_not_make_the_signal_random(name: Family) -> None:
    dropout: dict[str, Any] = {"resid_pdrop": 0.5} | ({"attn_pdrop": 0.5, "embd_pdrop": 0.5} if name == "gpt2" else {})
    model = guarded(name, **dropout)
    before = model.score(PROMPTS)
    model.train()
    assert not model.base.training
    assert [score.prompt_signal for score in model.score(PROMPTS)] == [score.prompt_signal for score in before]


def test_two_models_on_one_base_in_two_threads_keep_their_signals() -> None:
    base, tokenizer = tiny_model("llama"), tiny_tokenizer()
    models = []
    for factor in (1.0, -0.5):
        model = SafeSignalModel.from_base(base, tokenizer=tokenizer, config=SignalConfig(rank=4))
        randomise_(model.forward_signal.adapter)
        model.forward_signal.adapter.head.proj.weight.data.mul_(factor)
        model.forward_signal.adapter.requires_grad_(False)
        model.trained_signal = True
        models.append(model)

    def signals(model: SafeSignalModel) -> list[float]:
        return [round(score.prompt_signal, 5) for _ in range(8) for score in model.score(PROMPTS)]

    alone = [signals(model) for model in models]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(signals, models)) == alone


def test_removed_hooks_leave_the_base_as_it_was() -> None:
    base = tiny_model("llama")
    hooks = sum(len(module._forward_hooks) for module in base.modules())
    model = SafeSignalModel.from_base(base, tokenizer=tiny_tokenizer())
    assert sum(len(module._forward_hooks) for module in base.modules()) > hooks
    model.forward_signal.remove()
    assert sum(len(module._forward_hooks) for module in base.modules()) == hooks


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_the_backend_found_is_the_backend_left(backend: str) -> None:
    model = guarded("llama", attn_implementation=backend)
    model.generate(**model.encode(PROMPTS[0]), policy=NEVER, max_new_tokens=4)
    assert model.base.config._attn_implementation == backend


def test_an_untrained_signal_cannot_be_saved(tmp_path: Path) -> None:
    model = SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(SignalError, match="never trained"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_saving_again_does_not_launder_a_drifted_base(tmp_path: Path) -> None:
    guarded("llama").save_pretrained(tmp_path / "first")
    drifted: dict[str, Any] = {"base": tiny_model("llama", seed=5), "tokenizer": tiny_tokenizer()}
    model = SafeSignalModel.from_pretrained(tmp_path / "first", allow_base_drift=True, **drifted)
    assert model.base_drift
    model.save_pretrained(tmp_path / "second")
    with pytest.raises(AdapterError, match="weights differ"):
        SafeSignalModel.from_pretrained(tmp_path / "second", **drifted)


def test_message_keys_that_a_template_may_print_are_refused() -> None:
    hidden = [{"role": "user", "content": "hello", "reasoning_content": "unchecked"}]
    with pytest.raises(UsageError, match="reasoning_content"):
        guarded("llama").encode_one(hidden)


def _prefill_in_the_middle(roles: torch.Tensor) -> torch.Tensor:
    roles = roles.clone()
    roles[:, 3] = int(Role.PREFILL)
    return roles


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda roles: torch.full_like(roles, int(Role.TEMPLATE)), "no conversation"),
        (_prefill_in_the_middle, "no conversation"),
        (lambda roles: torch.full_like(roles, 9), "Expected"),
        (torch.zeros_like, "disagree"),
        (lambda roles: roles[:, 1:], "same shape"),
    ],
)
def test_roles_that_describe_no_conversation_generate_nothing(spoil: Any, message: str) -> None:
    model = guarded("llama")
    inputs = model.encode(PROMPTS[0])
    with pytest.raises(UsageError, match=message):
        model.generate(inputs["input_ids"], inputs["attention_mask"], spoil(inputs["roles"]), max_new_tokens=2)


def test_a_prefill_that_would_merge_with_the_header_is_dropped_whole() -> None:
    tokenizer = tiny_tokenizer(merges=[("Ċ", "Ċ")])
    model = SafeSignalModel.from_base(tiny_model("llama", vocab_size=len(tokenizer)), tokenizer=tokenizer)
    alone = model.encode_one("hello")
    prefilled = model.encode_one("hello", "\n\nSure")
    assert prefilled.ids[: prefilled.text] == alone.ids


def test_score_takes_one_conversation_as_generate_does() -> None:
    model = guarded("llama")
    (one,) = model.score("hello")
    (same,) = model.score([{"role": "user", "content": "hello"}])
    assert one == same
    with pytest.raises(UsageError, match="Expected one each"):
        model.score(["a", "b"], ["c"])
    with pytest.raises(UsageError, match="tau = 0"):
        model.score("hello", policy=model.policy(tau=0))
    with pytest.raises(UsageError, match="at least one"):
        model.answer([])


def test_a_preset_and_a_schedule_may_be_named() -> None:
    model = guarded("llama")
    inputs = model.encode(PROMPTS[0])
    more: dict[str, Any] = {"max_new_tokens": 12, "return_dict_in_generate": True}
    named: Any = model.generate(**inputs, policy="permissive", schedule="every", **more)
    made: Any = model.generate(**inputs, policy=model.policy("permissive"), schedule=EVERY, **more)
    assert named.signal == made.signal
    assert model.score("Hi", "yes", schedule="every") == model.score("Hi", "yes", schedule=EVERY)
    with pytest.raises(UsageError, match="preset is `lax`"):
        model.generate(**inputs, policy="lax")
    with pytest.raises(UsageError, match="schedule"):
        model.generate(**inputs, schedule="sometimes")


@pytest.mark.parametrize("wrong", [{"role": "user", "content": "Hi"}, 5, [None], [5]])
def test_what_is_no_conversation_is_one_clear_error(wrong: Any) -> None:
    with pytest.raises(UsageError, match="Expected a prompt"):
        guarded("llama").encode(wrong)
