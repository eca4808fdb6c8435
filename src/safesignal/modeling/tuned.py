"""The language model of a joint adapter, in the folder's `lm/`: a LoRA in peft's format, or the whole model.

`lm/` is also a model by itself (`--model DIR/lm`): the tuned language model without its signal.

Shapes: I / O features in / out, R rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safesignal.errors import AdapterError, UsageError
from safesignal.modeling.peft_format import lora_pairs, merge_pairs, peft_config, save_lora
from safesignal.modeling.zoo import load_base

__all__ = ["LM_FOLDER", "Tuned", "load_tuned", "save_tuned"]

LM_FOLDER = "lm"

_Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Tuned:
    """How a tuned language model differs from its base.

    Attributes:
        pairs: By layer, down (R, I) and up (O, R), whose product is the delta; None where all weights were tuned.
    """

    pairs: Mapping[str, _Pair] | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the LoRA's tensors by name; none for a whole model."""
        pairs = self.pairs or {}
        return {f"lm.{layer}.{i}": tensor for layer, pair in pairs.items() for i, tensor in enumerate(pair)}

    def after(self, first: Tuned | None) -> Tuned:
        """Return both tunings as one, of which this was the second: the sum of two LoRAs is a wider one."""
        if first is None or self.pairs is None or first.pairs is None:
            return self if first is None else Tuned(None)
        return Tuned(
            {
                layer: _joined([own[layer] for own in (first.pairs, self.pairs) if layer in own])
                for layer in dict.fromkeys([*first.pairs, *self.pairs])
            }
        )


def load_tuned(folder: Path, base: PreTrainedModel) -> Tuned:
    """Turn a base into the tuned model, in place, and return the difference.

    Raises:
        AdapterError: If the folder is missing or holds another model.
        ModelError: If it cannot be read.
    """
    if not folder.is_dir():
        raise AdapterError(
            f"the joint adapter lacks its language model: `{folder}` is missing. Expected a LoRA or a model there.",
            hint="copy the whole folder that `safesignal align` wrote",
        )
    settings = peft_config(folder)
    if settings is not None:
        pairs = lora_pairs(folder, settings)
        merge_pairs(base, pairs, str(folder))
        return Tuned(pairs)
    whole, _ = load_base(str(folder), dtype=base.dtype)
    try:
        with torch.no_grad():
            base.load_state_dict(whole.state_dict())
    except RuntimeError as error:
        raise AdapterError(f"`{folder}` holds another model than the base: {str(error).splitlines()[0]}") from error
    return Tuned(None)


def save_tuned(
    folder: Path,
    tuned: Tuned,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    state: dict[str, Any] | None = None,
) -> None:
    """Write a tuned language model, with its tokenizer, so that it loads as a model.

    Args:
        folder: Where to.
        tuned: The difference; of a model tuned wholly, all of `base` is written.
        base: The tuned model.
        tokenizer: Its tokenizer.
        name: What the untuned base is loaded by.
        state: Whole tensors of a base that is sharded.

    Raises:
        UsageError: If the folder cannot be written.
    """
    try:
        if tuned.pairs is not None:
            pairs = _same_rank(tuned.pairs)
            save_lora(folder, base, name, pairs, alpha=float(next(iter(pairs.values()))[0].shape[0]))
        else:
            base.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise UsageError(f"`{folder}` cannot be written: {error}.", hint="choose another `--output`") from error


def _joined(pairs: list[_Pair]) -> _Pair:
    downs, ups = zip(*pairs, strict=True)
    return torch.cat(downs, dim=0), torch.cat(ups, dim=1)


def _same_rank(pairs: Mapping[str, _Pair]) -> dict[str, _Pair]:
    """Fill layers of lower rank up with zeros: a LoRA folder has one rank."""
    rank = max(down.shape[0] for down, _ in pairs.values())
    missing = {layer: rank - down.shape[0] for layer, (down, _) in pairs.items()}
    return {
        layer: (F.pad(down, (0, 0, 0, missing[layer])), F.pad(up, (0, missing[layer])))
        for layer, (down, up) in pairs.items()
    }
