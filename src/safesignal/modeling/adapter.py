"""What is trained and saved of a signal: [CLS], the LoRA of the rows under a gate, and the head.

Shapes: D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from safesignal.config import SignalConfig
from safesignal.modeling.families import linear_shape
from safesignal.nn.gate import GatedLoRA, SignalGate
from safesignal.nn.head import SignalHead

__all__ = ["Adapter", "Signal"]


class Signal(nn.Module):
    """A [CLS] embedding, a head, and a LoRA on the rows that a gate names, hooked into the layers it is given.

    A reader's hooks are there while it reads and not else: with the gate closed a hook does nothing, but calling
    hundreds of them at every token takes time.
    """

    def __init__(self, linears: Mapping[str, nn.Module], hidden_size: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.gate = SignalGate()
        self.cls_D = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.head = SignalHead(hidden_size)
        self.lora = nn.ModuleDict()
        self.handles: list[RemovableHandle] = []
        self._places: list[tuple[nn.Module, GatedLoRA]] = []
        for name, layer in linears.items():
            lora = GatedLoRA(self.gate, *linear_shape(layer), rank=rank, alpha=alpha)
            self.lora[name.replace(".", "/")] = lora
            self._places.append((layer, lora))

    def attach(self) -> None:
        """Hook into the layers."""
        self.handles += [layer.register_forward_hook(lora.hook) for layer, lora in self._places]

    def remove(self) -> None:
        """Take the hooks off the layers again."""
        while self.handles:
            self.handles.pop().remove()

    @contextmanager
    def reading(self, rows: int) -> Iterator[None]:
        """Put the LoRA on all `rows` of one forward.

        Raises:
            SignalMaskError: If it reads already.
        """
        with self.gate.open(rows, rows):
            try:
                self.attach()
                yield
            finally:
                self.remove()


class Adapter(Signal):
    """The signal of the checks and, where the settings give them a rank, further ones that read texts anew.

    A reader's gate is open over every row of a text. Without any, all checks look at what the base has read.

    Attributes:
        reader: Reads queries; None: there is none.
        answer_reader: Reads answers that look suspicious, together with what they answer; None: there is none.
    """

    def __init__(self, config: SignalConfig, linears: Mapping[str, nn.Module], hidden_size: int) -> None:
        super().__init__(linears, hidden_size, config.rank, config.alpha)
        self.attach()
        self.reader: Signal | None = None
        self.answer_reader: Signal | None = None

    @property
    def readers(self) -> list[Signal]:
        """Those there are."""
        return [reader for reader in (self.reader, self.answer_reader) if reader is not None]

    def add_readers(self, config: SignalConfig, linears: Mapping[str, nn.Module]) -> None:
        """Give it the readers it lacks, untrained, at the scale of the checks' own LoRA."""

        def untrained(rank: int) -> Signal:
            alpha = config.alpha * rank / config.rank
            return Signal(linears, self.cls_D.shape[0], rank, alpha).to(self.cls_D.device)

        if config.reader_rank and self.reader is None:
            self.reader = untrained(config.reader_rank)
        if config.answer_reader_rank and self.answer_reader is None:
            self.answer_reader = untrained(config.answer_reader_rank)
