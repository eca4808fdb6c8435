"""What is trained and saved of a signal: [CLS], the LoRA of the rows under a gate, and the head.

Shapes: D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from safesignal.config import SignalConfig
from safesignal.modeling.families import linear_shape
from safesignal.nn.gate import GatedLoRA, SignalGate
from safesignal.nn.head import SignalHead

__all__ = ["Adapter", "Signal"]


class Signal(nn.Module):
    """A [CLS] embedding, a head, and a LoRA on the rows that a gate names; hooks into the layers it is given."""

    def __init__(self, linears: Mapping[str, nn.Module], hidden_size: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.gate = SignalGate()
        self.cls_D = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.head = SignalHead(hidden_size)
        self.lora = nn.ModuleDict()
        self.handles: list[RemovableHandle] = []
        for name, layer in linears.items():
            lora = GatedLoRA(self.gate, *linear_shape(layer), rank=rank, alpha=alpha)
            self.lora[name.replace(".", "/")] = lora
            self.handles.append(layer.register_forward_hook(lora.hook))

    def remove(self) -> None:
        """Take the hooks off the layers again."""
        for handle in self.handles:
            handle.remove()


class Adapter(Signal):
    """The signal of the checks and, where `reader_rank` asks for one, a second signal that reads queries anew.

    Attributes:
        reader: What reads them, with its gate open over every row of a prompt; None: all checks look at what the base
            has read.
    """

    def __init__(self, config: SignalConfig, linears: Mapping[str, nn.Module], hidden_size: int) -> None:
        super().__init__(linears, hidden_size, config.rank, config.alpha)
        self.reader: Signal | None = None

    def add_reader(self, config: SignalConfig, linears: Mapping[str, nn.Module]) -> None:
        """Give it an untrained reader, at the scale of the checks' own LoRA."""
        alpha = config.alpha * config.reader_rank / config.rank
        self.reader = Signal(linears, self.cls_D.shape[0], config.reader_rank, alpha).to(self.cls_D.device)

    def remove(self) -> None:
        """Take all hooks off again."""
        super().remove()
        if self.reader is not None:
            self.reader.remove()
