"""What the package must know of a decoder stack, read from the model itself; who cannot work is named here.

No model file is forked or copied: a family works if it has a plain list of decoder layers with full or sliding
attention, takes `inputs_embeds`, explicit positions and a 4-D mask, and runs on the `sdpa` or `eager` backend.
"""

from __future__ import annotations

import inspect
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safesignal.errors import ModelError, SignalMaskError, UsageError

__all__ = ["Stack", "describe", "linear_shape", "unsupported"]

_BACKENDS = ("sdpa", "eager")
_ATTENTION_KINDS = ("full_attention", "sliding_attention")
_STRETCHED_ROPE = ("dynamic", "longrope")
_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_KEY_VALUE_ONLY = ("k_proj", "v_proj")


@dataclass(frozen=True)
class Stack:
    """The parts of a causal LM that carry a signal.

    Attributes:
        decoder: The module that returns the last hidden state.
        layers: Its decoder layers.
        linears: The layers' linear layers by their path below the decoder.
        hidden_size: D.
        windows: Sliding window by attention kind; None for full attention. One entry: one mask serves all layers.
        max_length: Most text tokens that fit, one position being reserved for a tracking [CLS].
        backend: `sdpa` or `eager`.
        cache_argument: Name under which this transformers version takes the cache.
        reserved: Why the context was cut, for the error message; empty if it was not.
    """

    decoder: nn.Module
    layers: nn.ModuleList
    linears: dict[str, nn.Module] = field(repr=False)
    hidden_size: int
    windows: dict[str, int | None]
    max_length: int
    backend: str
    cache_argument: str
    reserved: str = ""

    @property
    def gateable(self) -> dict[str, nn.Module]:
        """Linear layers worth a delta on safety rows alone: nobody attends to those, so not keys and values."""
        return {n: module for n, module in self.linears.items() if n.split(".")[-1] not in _KEY_VALUE_ONLY}

    def require_length(self, tokens: int, most: int) -> None:
        """Raise if a text has more tokens than fit."""
        if tokens > most:
            why = f" ({self.reserved})" if self.reserved else ""
            raise UsageError(
                f"the text has {tokens} tokens. Expected at most {most} for this model{why}.",
                hint="shorten the prompt or lower `--max_new_tokens`",
            )

    def require_backend(self, now: Set[str]) -> None:
        """Raise if the base's attention was switched since: another kernel reads masks as what they are not."""
        if other := sorted(now - {self.backend}):
            raise SignalMaskError(
                f"the base's attention is `{other[0]}` and was `{self.backend}` when it was given a signal. "
                "Expected the same.",
                hint=f'`base.set_attn_implementation("{self.backend}")`; to use the other, switch before the signal',
            )


def describe(base: PreTrainedModel) -> Stack:
    """Find the decoder stack of a causal LM.

    Raises:
        ModelError: If the family, its layers or its attention backend cannot carry a signal; the message says why.
    """
    config = base.config.get_text_config()
    decoder = base.get_decoder()
    family = str(config.model_type)
    layers = _decoder_layers(decoder, family)
    _refuse_experts(config, family)
    if not base._supports_attention_backend:
        # Older code with its own attention may add a bool mask to the scores, or hide columns behind our back.
        raise unsupported(family, "its attention cannot be exchanged through transformers' AttentionInterface")
    linears = _linears(decoder, layers)
    if not linears:
        raise unsupported(family, "its decoder layers hold no linear layer that a LoRA can be added to")
    max_length, reserved = _max_length(config)
    return Stack(
        decoder=decoder,
        layers=layers,
        linears=linears,
        hidden_size=int(config.hidden_size),
        windows=_windows(config, family),
        max_length=max_length,
        backend=_backend(config, family),
        cache_argument=_cache_argument(decoder, family),
        reserved=reserved,
    )


def linear_shape(layer: nn.Module) -> tuple[int, int]:
    """Return (in_features, out_features) of a linear layer, GPT-2's transposed `Conv1D` included."""
    if isinstance(layer, Conv1D):
        return int(layer.weight.shape[0]), int(layer.weight.shape[1])
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def unsupported(family: str, why: str, hint: str = "") -> ModelError:
    """Return the error that refuses a family by name and says why."""
    return ModelError(
        f"model family `{family}` cannot carry a signal: {why}. Expected a stack of full or sliding attention layers.",
        hint=hint or "Llama, Mistral, Qwen2/3, Gemma 2/3, Phi-3, GPT-NeoX and GPT-2 are tested",
    )


def _decoder_layers(decoder: nn.Module, family: str) -> nn.ModuleList:
    lists = [module for _, module in decoder.named_children() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise unsupported(family, "it has no list of decoder layers")
    return max(lists, key=len)


def _refuse_experts(config: Any, family: str) -> None:
    for name in _EXPERT_FIELDS:
        if (getattr(config, name, None) or 0) > 1:
            raise unsupported(family, f"it routes tokens to experts (`{name}` = {getattr(config, name)})")


def _linears(decoder: nn.Module, layers: nn.ModuleList) -> dict[str, nn.Module]:
    inside = {id(module) for module in layers.modules()}
    return {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) in inside
    }


def _windows(config: Any, family: str) -> dict[str, int | None]:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        kinds = ["sliding_attention" if window else "full_attention"]
    blocks = getattr(config, "layers_block_type", None) or getattr(config, "block_types", None) or ()
    unknown = sorted((set(kinds) - set(_ATTENTION_KINDS)) | (set(blocks) - {"attention", *_ATTENTION_KINDS}))
    if unknown:
        raise unsupported(family, f"it has layers of kind {', '.join(unknown)}, which keep no plain key/value cache")
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}


def _max_length(config: Any) -> tuple[int, str]:
    limit = int(getattr(config, "max_position_embeddings", None) or 2**31)
    ropes = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in ropes.values() if isinstance(value, dict)] or [ropes]
    for rope in nested:
        if rope.get("rope_type") in _STRETCHED_ROPE:
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            # Beyond this length the rotation depends on the batch's longest row: a neighbour could change a text.
            return int(original or limit) - 1, f"`{rope['rope_type']}` RoPE changes with the batch's longest row"
    return limit - 1, ""


def _backend(config: Any, family: str) -> str:
    backend = str(config._attn_implementation)
    if backend not in _BACKENDS:
        raise unsupported(
            family, f"its attention backend is `{backend}`", hint='load it with `attn_implementation="sdpa"` or "eager"'
        )
    return backend


def _cache_argument(decoder: nn.Module, family: str) -> str:
    known = inspect.signature(inspect.unwrap(decoder.forward)).parameters
    for name in ("inputs_embeds", "position_ids"):
        if name not in known:
            # ALiBi stacks (Bloom, MPT) derive positions from the mask, so a [CLS] row could not be placed.
            raise unsupported(family, f"its decoder takes no `{name}`")
    for name in ("cache", "past_key_values"):
        if name in known:
            return name
    raise unsupported(family, "its decoder takes no key/value cache")
