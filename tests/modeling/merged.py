"""What a reader says of a text, by a base whose weights have the reader's LoRA added: a reference that has no gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from safesignal.modeling.adapter import Signal
from safesignal.modeling.model import SafeSignalModel
from safesignal.nn.gate import GatedLoRA
from tests.invariants.harness import oracle_signal

__all__ = ["by_merging", "merged"]


@contextmanager
def merged(model: SafeSignalModel, reader: Signal | None) -> Iterator[None]:
    """Let the base have the reader's LoRA, and the adapter its [CLS] and head; all is as it was afterwards."""
    adapter, stack = model.forward_signal.adapter, model.forward_signal.stack
    assert reader is not None
    changed: list[tuple[Tensor, Tensor]] = []

    def put(old: Tensor, new: Tensor) -> None:
        changed.append((old, old.clone()))
        old.copy_(new)

    with torch.no_grad():
        try:
            for name, layer in stack.linears.items():
                lora = reader.lora[name.replace(".", "/")]
                assert isinstance(lora, GatedLoRA)
                delta_OI, weight = lora.scale * lora.up_OR @ lora.down_RI, layer.weight
                assert isinstance(weight, Tensor)
                put(weight, weight + (delta_OI if isinstance(layer, nn.Linear) else delta_OI.t()))
            for own in adapter.lora.values():
                assert isinstance(own, GatedLoRA)
                put(own.up_OR, torch.zeros_like(own.up_OR))
            for name in ("cls_D", "head.proj.weight", "head.proj.bias"):
                put(adapter.get_parameter(name), reader.get_parameter(name))
            yield
        finally:
            for tensor, value in changed:
                tensor.copy_(value)


def by_merging(model: SafeSignalModel, reader: Signal | None, ids: Sequence[int]) -> float:
    """Read all of a text with the reader's [CLS] and head."""
    with merged(model, reader):
        return oracle_signal(model, tuple(ids), [(0, len(ids))])
