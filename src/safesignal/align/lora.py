"""LoRA on every row of a base model's decoder layers, for the recipes that tune the base itself.

Added by forward hooks, so that no module is renamed and `base` stays a plain transformers model; saved in peft's
format (`modeling/peft_format.py`), which transformers with peft, vLLM and our own loading read.

Shapes: B batch, T tokens, I / O features in / out, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safesignal.align.config import AlignConfig
from safesignal.align.lm import decoder_layers
from safesignal.errors import UsageError
from safesignal.modeling.families import linear_shape
from safesignal.nn.lora import LowRank

__all__ = ["LoRA", "LoRASet"]


class LoRA(LowRank):
    """A low-rank delta for one linear layer, on every row."""

    def hook(self, layer: nn.Module, args: tuple[Tensor, ...], output_BTO: Tensor) -> Tensor:
        """Add `scale * up(down(x))` to the layer's output; a forward hook in torch's sense."""
        return output_BTO + self.scale * F.linear(self.low(args[0]), self.up_OR).to(output_BTO.dtype)


class LoRASet(nn.ModuleDict):
    """The LoRA of a base model, by layer; names have `/` where the model's have dots.

    Args:
        base: The model; gets hooks, no other change.
        config: Rank, scale, layers and the seed of the first weights.

    Raises:
        UsageError: If `lora_targets` match no layer.
    """

    def __init__(self, base: PreTrainedModel, config: AlignConfig) -> None:
        super().__init__()
        found = _linears(base)
        chosen = {
            name: layer
            for name, layer in found.items()
            if not config.lora_targets or name.split(".")[-1] in config.lora_targets
        }
        if not chosen:
            known = ", ".join(sorted({name.split(".")[-1] for name in found}))
            raise UsageError(f"align.lora_targets = {config.lora_targets} match no layer. Expected some of {known}.")
        self.handles: list[RemovableHandle] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            for name, layer in chosen.items():
                lora = LoRA(*linear_shape(layer), rank=config.lora_rank, alpha=config.lora_alpha)
                self[name.replace(".", "/")] = lora
                self.handles.append(layer.register_forward_hook(lora.hook))

    def remove(self) -> None:
        """Take the hooks off the base again."""
        for handle in self.handles:
            handle.remove()

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (down, up) by the layer's name in the model: (R, I) and (O, R)."""
        return {
            name.replace("/", "."): (lora.down_RI, lora.up_OR) for name, lora in self.items() if isinstance(lora, LoRA)
        }


def _linears(base: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the linear layers below the decoder's layers, by their name in the model."""
    inside = {id(module) for layer in decoder_layers(base) for module in layer.modules()}
    return {n: m for n, m in base.named_modules() if isinstance(m, nn.Linear | Conv1D) and id(m) in inside}
