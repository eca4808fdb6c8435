"""The tiny models and tokenizers must be worth testing on: varied text, the families' own traps, no network."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import transformers

from tests.support import (
    EOS,
    FAMILIES,
    SLIDING_FAMILIES,
    VOCAB_SIZE,
    Family,
    NetworkBlockedError,
    left_padded,
    randomise_,
    tiny_model,
    tiny_tokenizer,
)

PROMPTS = ["hello", "a rather longer prompt", "What is the capital of France, and why?"]
NEW = 64


def test_greedy_text_is_varied(family: Family, tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    sequences_BT = tiny_model(family).generate(**left_padded(tokenizer, PROMPTS), max_new_tokens=NEW)
    answers_BT = sequences_BT[:, -NEW:]
    assert answers_BT.shape == (len(PROMPTS), NEW)
    for row in answers_BT.tolist():
        assert len(set(row)) >= 16, f"{family} repeats itself: {row}"
    assert len({tuple(row) for row in answers_BT.tolist()}) == len(PROMPTS)


def test_left_padding_changes_nothing(family: Family, tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    model = tiny_model(family)
    batch = model.generate(**left_padded(tokenizer, PROMPTS), max_new_tokens=24)[:, -24:]
    for i, prompt in enumerate(PROMPTS):
        alone = model.generate(**left_padded(tokenizer, [prompt]), max_new_tokens=24)[:, -24:]
        assert alone.tolist() == batch[i : i + 1].tolist()


def test_same_seed_same_weights_and_the_global_generator_is_left_alone(family: Family) -> None:
    before = torch.random.get_rng_state()
    first, again, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name


def test_a_model_is_small_eager_to_start_and_in_fp32(family: Family) -> None:
    model = tiny_model(family)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert sum(p.numel() for p in model.parameters()) < 200_000
    assert model.config.vocab_size == VOCAB_SIZE


@pytest.mark.parametrize("sliding", SLIDING_FAMILIES)
def test_the_window_of_sliding_families_is_felt(sliding: Family) -> None:
    ids_BT = torch.randint(3, VOCAB_SIZE, (1, 40))
    windowed, wide = tiny_model(sliding), tiny_model(sliding, sliding_window=400)
    windowed_BTV, wide_BTV = windowed(ids_BT).logits, wide(ids_BT).logits
    torch.testing.assert_close(windowed_BTV[:, :16], wide_BTV[:, :16])
    assert not torch.allclose(windowed_BTV[:, -1], wide_BTV[:, -1], atol=1e-2)


def test_the_families_keep_their_traps() -> None:
    configs = {family: tiny_model(family).config for family in FAMILIES}
    grouped: tuple[Family, ...] = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3")
    mixed: tuple[Family, ...] = ("gemma2", "gemma3")
    for family in grouped:
        assert configs[family].num_attention_heads == 2 * configs[family].num_key_value_heads, "grouped-query attention"
    for family in mixed:
        assert set(configs[family].layer_types) == {"sliding_attention", "full_attention"}
        assert configs[family].tie_word_embeddings
    fused: dict[Family, str] = {"phi3": "qkv_proj", "gpt_neox": "query_key_value", "gpt2": "c_attn"}
    for family, projection in fused.items():
        assert any(name.endswith(projection) for name, _ in tiny_model(family).named_modules())


def test_eos_ends_a_row_only_when_asked(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    batch = left_padded(tokenizer, PROMPTS[:1])
    prompt_length = batch["input_ids"].shape[1]
    fourth = int(tiny_model("llama").generate(**batch, max_new_tokens=NEW)[0, prompt_length + 3])
    ended = tiny_model("llama", eos=[fourth, EOS]).generate(**batch, max_new_tokens=NEW)[0, prompt_length:]
    assert len(ended) <= 4
    assert int(ended[-1]) == fourth
    assert tiny_model("llama", eos=True).generation_config.eos_token_id == EOS
    assert tiny_model("llama").generation_config.eos_token_id is None


def test_overrides_reach_the_config_and_backends_can_be_chosen() -> None:
    model = tiny_model("mistral", sliding_window=8, num_hidden_layers=2, attn_implementation="eager")
    assert (model.config.sliding_window, len(model.model.layers)) == (8, 2)
    assert model.config._attn_implementation == "eager"


def test_randomise_fills_what_is_trainable_and_nothing_else() -> None:
    frozen, trained = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    frozen.weight.requires_grad_(False)
    before = frozen.weight.clone()
    torch.nn.init.zeros_(trained.weight)
    randomise_(torch.nn.Sequential(frozen, trained))
    assert torch.equal(frozen.weight, before)
    assert trained.weight.abs().min() > 0


@pytest.mark.parametrize(
    "text", ["plain", " spaces  and\n\nlines\t", "naïve 🙂 日本語", "<|im_start|>user\nforged<|im_end|>"]
)
def test_the_tokenizer_gives_back_every_text(tokenizer: transformers.PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_ids_are_those_of_smollm2_where_it_matters(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == VOCAB_SIZE
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [0, 1, 2]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == EOS
    assert tokenizer.is_fast


def test_chatml_adds_a_system_message_only_when_none_is_given(tokenizer: transformers.PreTrainedTokenizerFast) -> None:
    user = {"role": "user", "content": " hi "}
    bare = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    assert bare == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n"
    )
    own = tokenizer.apply_chat_template([{"role": "system", "content": "Be brief."}, user], tokenize=False)
    assert own == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n hi <|im_end|>\n"


def test_llama2_strips_contents_and_wants_turns_in_turn() -> None:
    tokenizer = tiny_tokenizer("llama2")
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "  hi\n"}
    assert tokenizer.apply_chat_template([user], tokenize=False) == "<s>[INST] hi [/INST]"
    with_system = tokenizer.apply_chat_template([system, user], tokenize=False)
    assert with_system == "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n  hi [/INST]"
    with pytest.raises(Exception, match="must alternate"):
        tokenizer.apply_chat_template([user, user], tokenize=False)


def test_the_other_templates_fail_in_their_own_way() -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert "hello" not in str(tiny_tokenizer("rewriting").apply_chat_template(messages, tokenize=False))
    assert tiny_tokenizer("none").chat_template is None
    with pytest.raises(Exception, match="System role not supported"):
        tiny_tokenizer("gemma").apply_chat_template([{"role": "system", "content": "x"}, *messages], tokenize=False)


def test_merges_make_a_token_straddle_a_border() -> None:
    tokenizer = tiny_tokenizer(merges=[("Ċ", "Ċ"), ("Ġ", "a")])
    assert tokenizer.tokenize("user\n\n a") == ["u", "s", "e", "r", "ĊĊ", "Ġa"]
    assert len(tokenizer) == VOCAB_SIZE + 2


def test_the_tokenizer_survives_a_round_trip_through_files(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("llama2")
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "<s>[INST] naïve 🙂 [/INST]"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.chat_template == tokenizer.chat_template
    assert again.pad_token_id == EOS


def test_the_network_is_blocked_and_loopback_is_not() -> None:
    for kind, address in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(kind) as far, pytest.raises(NetworkBlockedError):
            far.connect((address, 80))
    with pytest.raises(NetworkBlockedError):
        socket.create_connection(("example.invalid", 443))
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        assert near.getpeername() == server.getsockname()
