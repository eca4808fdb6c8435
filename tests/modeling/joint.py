"""A joint model over a prompt of four tokens, `<ab>`, and a record of the masks that reach its attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from safesignal.config import SignalConfig
from safesignal.modeling.model import SafeSignalModel
from tests.support import Family, randomise_, tiny_model, tiny_tokenizer

__all__ = ["BARE", "Seen", "bare_tokenizer", "joint_model", "scripted", "watched"]

BARE = "<{% for message in messages %}{{ message['content'] }}{% endfor %}>"
"""One byte of markup on either side: `<ab>` is template, user, user, template."""

_NAMES = ("sdpa", "safesignal_grouped")


def bare_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = BARE
    return tokenizer


def joint_model(
    family: Family = "llama", *, tokenizer: PreTrainedTokenizerFast | None = None, seed: int = 0, **signal: Any
) -> SafeSignalModel:
    """Build a joint model with a random signal whose [CLS] outweighs a token, so that text shows whether it sees it."""
    model = SafeSignalModel.from_base(
        tiny_model(family, seed=seed),
        tokenizer=tokenizer or bare_tokenizer(),
        config=SignalConfig(recipe="joint", **signal),
    )
    adapter = model.forward_signal.adapter
    randomise_(adapter, std=1.0, seed=seed)
    adapter.requires_grad_(False)
    model.trained_signal = True
    return model


@dataclass
class Seen:
    """What the first layer's attention got, forward by forward.

    Attributes:
        masks: Per forward, per row of the batch, a table of `x` and `.`, one line per query row.
        keys: Per forward, (B, G, S, D).
    """

    masks: list[list[list[str]]] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)


@contextmanager
def watched(model: SafeSignalModel) -> Iterator[Seen]:
    """Record every forward's mask and keys on their way into attention; stock causal passes bring no mask."""
    seen, originals = Seen(), {name: ALL_ATTENTION_FUNCTIONS[name] for name in _NAMES}

    def watching(original: Callable[..., Any]) -> Callable[..., Any]:
        def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **more: Any) -> Any:
            if module.layer_idx == 0 and attention_mask is not None:
                assert attention_mask.dtype == torch.bool
                assert attention_mask.shape[2:] == (query.shape[2], key.shape[2])
                seen.masks.append([["".join(".x"[cell] for cell in row) for row in own[0]] for own in attention_mask])
                seen.keys.append(key.clone())
            return original(module, query, key, value, attention_mask, **more)

        return attention

    for name, original in originals.items():
        ALL_ATTENTION_FUNCTIONS.register(name, watching(original))
    try:
        yield seen
    finally:
        for name, original in originals.items():
            ALL_ATTENTION_FUNCTIONS.register(name, original)


@contextmanager
def scripted(model: SafeSignalModel, signals: Sequence[float]) -> Iterator[None]:
    """Let the head say these signals, one per check in the order of asking; a single row, none left at the end."""
    script, head = iter(signals), model.forward_signal.adapter.head

    def forward(hidden_BKD: Tensor) -> Tensor:
        assert hidden_BKD.shape[0] == 1
        return torch.tensor([[next(script) for _ in range(hidden_BKD.shape[1])]])

    head.forward = forward  # type: ignore[method-assign]
    try:
        yield
        assert next(script, None) is None, "not every check of the script was asked for"
    finally:
        del head.forward
