"""Generation options: transformers' names and defaults, taken from the call and the model's `generation_config`.

What the loop does not implement raises; an option is never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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


def resolve_options(config: GenerationConfig, overrides: dict[str, Any], pad_default: int | None) -> GenerationOptions:
    """Merge a model's `generation_config` with what the caller gave; `None` means not given.

    Args:
        config: The base model's own defaults.
        overrides: transformers' argument names; `temperature=0` is greedy decoding.
        pad_default: The tokenizer's padding id.

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
    max_new_tokens = int(value("max_new_tokens", _DEFAULT_NEW_TOKENS))
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens is {max_new_tokens}. Expected at least 1.")
    eos = _ids(value("eos_token_id"))
    pad = value("pad_token_id", pad_default)
    stops = value("stop_strings", ())
    stop_strings = (stops,) if isinstance(stops, str) else tuple(stops)
    if any(not stop for stop in stop_strings):
        raise UsageError("a stop string is empty. Expected at least one character.")
    return GenerationOptions(
        max_new_tokens, _sampler(value, given), eos, int(pad if pad is not None else min(eos, default=0)), stop_strings
    )


def _sampler(value: Any, given: dict[str, Any]) -> Sampler:
    temperature = float(value("temperature", 1.0))
    # `temperature=0.7` or `top_p=0.9` alone means sampling; a temperature of 0 means none, whatever `do_sample` says.
    do_sample = bool(value("do_sample", False)) or ("do_sample" not in given and bool(_SAMPLING & set(given)))
    do_sample = do_sample and temperature != 0
    penalty, seed = float(value("repetition_penalty", 1.0)), int(given.get("seed", 0))
    sampler = Sampler(
        do_sample=True,
        temperature=temperature or 1.0,
        top_k=int(value("top_k", _TOP_K_WHEN_SAMPLING)),
        top_p=float(value("top_p", 1.0)),
        min_p=float(value("min_p", 0.0)),
        repetition_penalty=penalty,
        seed=seed,
    )
    # Made either way, so that a value out of range is an error even where greedy decoding would not look at it.
    return sampler if do_sample else Sampler(repetition_penalty=penalty, seed=seed)


def _ids(value: int | Iterable[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value]) if isinstance(value, int) else frozenset(int(v) for v in value)
