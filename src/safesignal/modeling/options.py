"""Generation options: transformers' names and defaults, taken from the call and the model's `generation_config`.

What the loop does not implement raises; an option is never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import GenerationConfig

from safesignal.errors import UsageError
from safesignal.nn.sampling import Sampler

__all__ = ["GenerationOptions", "resolve_options"]

_DEFAULT_NEW_TOKENS = 256
_TOP_K_WHEN_SAMPLING = 50
_SAMPLING = {"temperature", "top_k", "top_p", "min_p"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "num_return_sequences": (None, 1),
    "penalty_alpha": (None, 0.0),
    "dola_layers": (None,),
    "diversity_penalty": (None, 0.0),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "top_h": (None,),
    "encoder_repetition_penalty": (None, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "bad_words_ids": (None,),
    "min_length": (None, 0),
    "min_new_tokens": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "sequence_bias": (None,),
    "guidance_scale": (None, 1.0),
    "watermarking_config": (None,),
    "exponential_decay_length_penalty": (None,),
    "prompt_lookup_num_tokens": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
}


@dataclass(frozen=True)
class GenerationOptions:
    """Options after defaults: how long, how drawn, how ended."""

    max_new_tokens: int
    sampler: Sampler
    eos: frozenset[int]
    pad: int
    stop_strings: tuple[str, ...]


def resolve_options(
    config: GenerationConfig,
    overrides: dict[str, Any],
    pad_default: int | None,
    special: Mapping[str, int] = MappingProxyType({}),
) -> GenerationOptions:
    """Merge a model's `generation_config` with what the caller gave; `None` means not given.

    Args:
        config: The base model's own defaults.
        overrides: transformers' argument names; `temperature=0` is greedy decoding.
        pad_default: The tokenizer's padding id.
        special: Special tokens by their text. One as a stop string ends the answer as an end token does: in text, where
            stop strings are looked for, it never shows.

    Raises:
        UsageError: If an option is unknown, unsupported or out of range; all problems at once.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    known = {"max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
    known |= {"eos_token_id", "pad_token_id", "stop_strings", "seed", "bos_token_id"}
    unknown = sorted(set(given) - known - set(_NEUTRAL))
    if unknown:
        raise UsageError(f"`generate` got {', '.join(unknown)}. Expected some of {', '.join(sorted(known))}.")

    def value(name: str, default: Any = None) -> Any:
        found = given.get(name, getattr(config, name, None))
        return default if found is None else found

    loud = [name for name, neutral in _NEUTRAL.items() if value(name) not in neutral]
    if loud:
        raise UsageError(
            f"generation options not supported: {', '.join(f'{name}={value(name)!r}' for name in loud)}. "
            "Expected greedy decoding or sampling with temperature, top_k, top_p, min_p and repetition_penalty.",
            hint="leave them out, or change `model.base.generation_config`",
        )
    max_new_tokens = _number("max_new_tokens", value("max_new_tokens", _DEFAULT_NEW_TOKENS), int)
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}. Expected at least 1.")
    eos, stop_strings = _ends(value("eos_token_id"), value("stop_strings", ()), special)
    pad = value("pad_token_id", pad_default)
    pad = _number("pad_token_id", pad if pad is not None else min(eos, default=0), int)
    return GenerationOptions(max_new_tokens, _sampler(value, given), eos, pad, stop_strings)


def _sampler(value: Any, given: dict[str, Any]) -> Sampler:
    temperature = _number("temperature", value("temperature", 1.0), float)
    # `temperature=0.7` or `top_p=0.9` alone means sampling; a temperature of 0 means none, whatever `do_sample` says.
    do_sample = bool(value("do_sample", False)) or ("do_sample" not in given and bool(_SAMPLING & set(given)))
    do_sample = do_sample and temperature != 0
    penalty = _number("repetition_penalty", value("repetition_penalty", 1.0), float)
    # Without a seed the draws depend on torch's, as transformers' do; greedy decoding leaves that untouched.
    drawn = int(torch.randint(2**31, ())) if do_sample and "seed" not in given else 0
    seed = _number("seed", given.get("seed", drawn), int)
    sampler = Sampler(
        do_sample=True,
        temperature=temperature or 1.0,
        top_k=_number("top_k", value("top_k", _TOP_K_WHEN_SAMPLING), int),
        top_p=_number("top_p", value("top_p", 1.0), float),
        min_p=_number("min_p", value("min_p", 0.0), float),
        repetition_penalty=penalty,
        seed=seed,
    )
    # Made either way, so that a value out of range is an error even where greedy decoding would not look at it.
    return sampler if do_sample else Sampler(repetition_penalty=penalty, seed=seed)


def _ends(
    ids: int | Iterable[int] | Tensor | None, stops: str | Iterable[Any], special: Mapping[str, int]
) -> tuple[frozenset[int], tuple[str, ...]]:
    """Return the tokens and the texts that end an answer."""
    listed = ids.flatten().tolist() if isinstance(ids, Tensor) else [ids] if isinstance(ids, int) else list(ids or ())
    strings = [stops] if isinstance(stops, str) else list(stops)
    for stop in strings:
        if not isinstance(stop, str) or not stop:
            raise UsageError(f"a stop string is {stop!r}. Expected a text of at least one character.")
        if stop not in special and (inside := [token for token in special if token in stop]):
            raise UsageError(
                f"the stop string {stop!r} holds {inside[0]}, which never shows in text. Expected text, or it alone."
            )
    eos = {_number("eos_token_id", one, int) for one in listed} | {special[stop] for stop in strings if stop in special}
    return frozenset(eos), tuple(stop for stop in strings if stop not in special)


_N = TypeVar("_N", int, float)


def _number(name: str, value: Any, kind: type[_N]) -> _N:
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name} is {value!r:.40}. Expected a number.") from error
