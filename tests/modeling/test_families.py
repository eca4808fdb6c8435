"""Who cannot work is told by name, and why; nobody is wrapped and then wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from safesignal.config import SignalConfig
from safesignal.errors import ModelError, UsageError
from safesignal.modeling.families import describe
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.surface import Surface
from safesignal.nn.masks import text_mask
from tests.invariants.harness import PROMPTS, encoded, guarded, run
from tests.support import SLIDING_FAMILIES, Family, randomise_, tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def build(config: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_config(config)


def test_what_is_read_from_each_family(family: Family) -> None:
    model = tiny_model(family)
    stack = describe(model)
    assert stack.hidden_size == 48
    assert len(stack.layers) == 3
    assert stack.max_length == 511
    # Gemma 2 caps its scores, which newer transformers give to the eager backend alone.
    assert stack.backend == model.config._attn_implementation
    assert stack.backend == "sdpa" or family == "gemma2"
    assert (16 in stack.windows.values()) is (family in SLIDING_FAMILIES)
    inside = {name.split(".")[-1] for name in stack.gateable}
    assert not inside & {"k_proj", "v_proj", "lm_head", "embed_out"}
    assert len(stack.gateable) % 3 == 0


REFUSED: dict[str, tuple[Any, str]] = {
    "opt": (
        lambda: transformers.OPTConfig(
            vocab_size=259,
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=96,
            max_position_embeddings=128,
            word_embed_proj_dim=48,
        ),
        "a check beside two tokens fails",
    ),
    "mixtral": (lambda: transformers.MixtralConfig(**SMALL, num_local_experts=4), "experts"),
    "qwen3_moe": (lambda: transformers.Qwen3MoeConfig(**SMALL, num_experts=4, moe_intermediate_size=32), "experts"),
    "mamba": (
        lambda: transformers.MambaConfig(vocab_size=259, hidden_size=32, num_hidden_layers=2, state_size=4),
        "mamba",
    ),
    "bloom": (lambda: transformers.BloomConfig(vocab_size=259, hidden_size=48, n_layer=2, n_head=4), "bloom"),
    "mpt": (lambda: transformers.MptConfig(vocab_size=259, d_model=48, n_layers=2, n_heads=4), "mpt"),
    "recurrent_gemma": (
        lambda: transformers.RecurrentGemmaConfig(**SMALL, lru_width=48, attention_window_size=16),
        "recurrent_gemma",
    ),
    "falcon_h1": (
        lambda: transformers.FalconH1Config(**SMALL, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_state=8, mamba_d_head=16),
        "falcon_h1",
    ),
    "falcon": (
        lambda: transformers.FalconConfig(vocab_size=259, hidden_size=48, num_hidden_layers=2, num_attention_heads=4),
        "AttentionInterface",
    ),
    "gpt_neo": (
        lambda: transformers.GPTNeoConfig(
            vocab_size=259, hidden_size=48, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
        ),
        "AttentionInterface",
    ),
    "rwkv": (lambda: transformers.RwkvConfig(vocab_size=259, hidden_size=48, num_hidden_layers=2), "rwkv"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_families_that_cannot_work(name: str) -> None:
    make, said = REFUSED[name]
    with pytest.raises(ModelError, match=f"`{name}`") as caught:
        SafeSignalModel.from_base(build(make()), tokenizer=tiny_tokenizer())
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("backend", ["flash_attention_2", "flex_attention"])
def test_backends_that_are_not_supported(backend: str) -> None:
    model = tiny_model("llama")
    model.config._attn_implementation = backend
    with pytest.raises(ModelError, match=backend) as caught:
        describe(model)
    assert "sdpa" in caught.value.hint
    model.config._attn_implementation = "sdpa"


def test_layers_without_a_plain_cache() -> None:
    model = tiny_model("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention", "chunked_attention"]
    with pytest.raises(ModelError, match="chunked_attention, linear_attention"):
        describe(model)


def test_dynamic_rope_is_capped_where_it_begins_to_stretch() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 260}
    model = guarded("llama", rope_parameters=rope)
    assert model.forward_signal.stack.max_length == 259
    with pytest.raises(UsageError, match="`dynamic` RoPE changes with the batch's longest row"):
        run(model, encoded(model, [PROMPTS[1] * 3]), new=8)
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), new=8)
    assert answer.n_tokens == 8


def test_targets() -> None:
    base = tiny_model("llama")
    model = SafeSignalModel.from_base(
        base, tokenizer=tiny_tokenizer(), config=SignalConfig(targets=("q_proj", "down_proj"))
    )
    assert {name.split("/")[-1] for name in model.forward_signal.adapter.lora} == {"q_proj", "down_proj"}
    with pytest.raises(UsageError, match="match no layer") as caught:
        SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer(), config=SignalConfig(targets=("x",)))
    assert "q_proj" in str(caught.value)


def test_a_model_without_layers() -> None:
    model = tiny_model("llama")
    model.model.layers = nn.Sequential()
    with pytest.raises(ModelError, match="no list of decoder layers"):
        describe(model)


def test_a_lack_of_memory_says_nothing_about_the_family(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("planted")

    base = tiny_model("llama")
    monkeypatch.setattr(SignalForward, "_safety_pass", full)
    monkeypatch.setattr(SignalForward, "_masked_pass", full)
    with pytest.raises(torch.OutOfMemoryError, match="planted"):
        SignalForward(base, SignalConfig(rank=4), Surface(lambda _: [], str))
    assert not any(module._forward_hooks for module in base.modules())


def test_a_stack_whose_text_a_check_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(*args: Any) -> Any:
        """Hide the first token from the text, as an attention that ignores or misreads the mask would."""
        mask = text_mask(*args).clone()
        mask[..., 1:, 0] = False
        return mask

    monkeypatch.setattr("safesignal.modeling.forward.text_mask", hidden)
    model = tiny_model("llama")
    randomise_(model, std=0.5)
    with pytest.raises(ModelError, match="a check changes the text beside it"):
        SafeSignalModel.from_base(model, tokenizer=tiny_tokenizer())
    assert not any(module._forward_hooks for module in model.modules())
