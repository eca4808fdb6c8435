"""Options: the model's own `generation_config` first, the call's on top, nothing dropped in silence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from safesignal.errors import UsageError
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.options import GenerationOptions, resolve_options
from tests.support import tiny_model, tiny_tokenizer


def resolve(config: dict[str, Any] | None = None, **given: Any) -> GenerationOptions:
    return resolve_options(GenerationConfig(**(config or {})), given, 2)


def test_defaults() -> None:
    options = resolve()
    assert (options.max_new_tokens, options.eos, options.pad, options.stop_strings) == (256, frozenset(), 2, ())
    assert not options.sampler.do_sample
    assert options.sampler.repetition_penalty == 1.0


def test_the_models_own_config_is_honoured() -> None:
    own = {"eos_token_id": [5, 9], "repetition_penalty": 1.3, "do_sample": True, "temperature": 0.6, "top_p": 0.9}
    options = resolve(own | {"top_k": 7, "min_p": 0.1, "max_new_tokens": 12, "pad_token_id": 4})
    sampler = options.sampler
    assert (options.eos, options.pad, options.max_new_tokens) == (frozenset({5, 9}), 4, 12)
    found = (sampler.do_sample, sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p)
    assert found == (True, 0.6, 7, 0.9, 0.1)
    assert sampler.repetition_penalty == 1.3
    greedy = resolve(own | {"do_sample": False}).sampler
    assert (greedy.do_sample, greedy.repetition_penalty) == (False, 1.3)


def test_the_call_goes_before_the_config() -> None:
    options = resolve({"eos_token_id": [5, 9], "max_new_tokens": 12}, eos_token_id=3, max_new_tokens=7, pad_token_id=8)
    assert (options.eos, options.pad, options.max_new_tokens) == (frozenset({3}), 8, 7)
    assert resolve({"max_new_tokens": 12}, max_new_tokens=None).max_new_tokens == 12


def test_padding_falls_back_to_tokenizer_then_end_token() -> None:
    assert resolve_options(GenerationConfig(), {}, None).pad == 0
    assert resolve_options(GenerationConfig(eos_token_id=[9, 5]), {}, None).pad == 5
    assert resolve_options(GenerationConfig(eos_token_id=[9, 5]), {}, 0).pad == 0


@pytest.mark.parametrize(
    ("config", "given", "samples"),
    [
        ({}, {}, False),
        ({}, {"temperature": 0.7}, True),
        ({}, {"temperature": 0.7, "do_sample": False}, False),
        ({}, {"temperature": 0, "do_sample": True}, False),
        ({}, {"temperature": 0.0}, False),
        ({}, {"do_sample": True}, True),
        ({}, {"top_p": 0.9}, True),
        ({}, {"top_k": 5, "do_sample": False}, False),
        ({"do_sample": True, "temperature": 0.6}, {}, True),
        ({"do_sample": True, "temperature": 0.6}, {"temperature": 0}, False),
        ({"do_sample": True}, {"do_sample": False}, False),
    ],
)
def test_when_tokens_are_drawn(config: dict[str, Any], given: dict[str, Any], samples: bool) -> None:
    assert resolve(config, **given).sampler.do_sample is samples


def test_sampling_defaults_are_transformers() -> None:
    sampler = resolve(do_sample=True, seed=5).sampler
    assert (sampler.temperature, sampler.top_k, sampler.top_p, sampler.min_p, sampler.seed) == (1.0, 50, 1.0, 0.0, 5)
    assert resolve(do_sample=True, top_k=0).sampler.top_k == 0


def test_stop_strings() -> None:
    assert resolve(stop_strings="END").stop_strings == ("END",)
    assert resolve(stop_strings=["a", "b"]).stop_strings == ("a", "b")
    with pytest.raises(UsageError, match=r"a stop string is .* at least one character"):
        resolve(stop_strings=["a", ""])


def test_unknown_options_are_listed() -> None:
    with pytest.raises(UsageError, match="got max_lenght, streamer") as caught:
        resolve(streamer=1, max_lenght=2, top_k=3)
    assert "max_new_tokens" in str(caught.value)


def test_unsupported_options_are_listed_wherever_they_stand() -> None:
    with pytest.raises(UsageError) as caught:
        resolve({"num_beams": 4}, no_repeat_ngram_size=3, typical_p=0.5)
    for said in ("num_beams=4", "no_repeat_ngram_size=3", "typical_p=0.5"):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[3]]},
        {"min_new_tokens": 4},
        {"suppress_tokens": [1]},
        {"guidance_scale": 2.0},
        {"forced_eos_token_id": 2},
        {"encoder_repetition_penalty": 1.2},
        {"epsilon_cutoff": 0.1},
    ],
)
def test_each_unsupported_option_raises(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(option))):
        resolve(None, **option)


def test_neutral_values_pass() -> None:
    neutral: dict[str, Any] = {"min_new_tokens": 0, "no_repeat_ngram_size": 0, "num_return_sequences": 1}
    assert resolve({"num_beams": 1, "guidance_scale": 1.0}, **neutral) == resolve(None)


@pytest.mark.parametrize("given", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0, "do_sample": True}])
def test_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(given))):
        resolve(None, **given)


def test_a_loaded_models_config_works() -> None:
    config = tiny_model("llama", eos=[7, 8]).generation_config
    assert resolve_options(config, {}, 2).eos == {7, 8}


def test_under_a_template_without_an_end_token_an_answer_ends_at_the_next_turn() -> None:
    def model(template: str | None) -> SafeSignalModel:
        return SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer(), chat_template=template)

    plain, own = model("plain"), model(None)
    assert plain.options().stop_strings == ("\nUser:",)
    assert own.options().stop_strings == ()
    assert plain.options(stop_strings=["END"]).stop_strings == ("END",)
    assert plain.options(stop_strings=()).stop_strings == ()
    plain.base.generation_config.stop_strings = "###"
    assert plain.options().stop_strings == ("###",)


def test_a_value_out_of_range_is_an_error_even_where_nothing_is_sampled() -> None:
    with pytest.raises(UsageError, match=r"top_p = 7\.0"):
        resolve(top_p=7.0, do_sample=False)


def test_a_control_token_as_a_stop_string_is_an_end_token() -> None:
    special = {"<end>": 7, "<s>": 1}
    options = resolve_options(GenerationConfig(eos_token_id=2), {"stop_strings": ["<end>", "stop"]}, 0, special)
    assert (options.eos, options.stop_strings) == (frozenset({2, 7}), ("stop",))
    with pytest.raises(UsageError, match="<end>, which never shows in text"):
        resolve_options(GenerationConfig(), {"stop_strings": ["<end>\n"]}, 0, special)
    model = SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert model.options(stop_strings="<|im_end|>").eos >= {model.tokenizer.convert_tokens_to_ids("<|im_end|>")}


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": "hot"},
        {"max_new_tokens": "many"},
        {"top_k": [1]},
        {"seed": "x"},
        {"pad_token_id": "x"},
        {"eos_token_id": ["x"]},
        {"stop_strings": [5]},
    ],
)
def test_what_is_no_number_or_text_is_said_in_a_line(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Expected"):
        resolve(**given)


def test_end_tokens_come_as_tensors_too() -> None:
    assert resolve(eos_token_id=torch.tensor(2)).eos == {2}
    assert resolve(eos_token_id=torch.tensor([2, 3])).eos == {2, 3}


def test_draws_without_a_seed_follow_torchs_and_greedy_decoding_leaves_those_alone() -> None:
    def seeds(torchs: int, **given: Any) -> list[int]:
        torch.manual_seed(torchs)
        return [resolve(do_sample=True, **given).sampler.seed for _ in range(2)]

    assert seeds(1) == seeds(1) != seeds(2)
    assert len({*seeds(1), *seeds(2)}) == 4
    assert seeds(1, seed=5) == [5, 5]
    before = torch.get_rng_state()
    resolve()
    resolve(do_sample=True, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
