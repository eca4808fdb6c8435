"""The key/value cache: one preallocated buffer per layer, safety rows seen but never kept, rows that move alone.

The invariant the decode loop rests on: every sequence is right-aligned, its own text in the last columns and padding
before it. A rollback, a row that was fed more than its neighbours, a row that left: :meth:`TextCache.realign` and
:meth:`TextCache.select` restore it, so masks follow from lengths alone.

Shapes: B batch, G key/value heads, S columns, N new columns, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from safesignal.nn.gate import SignalGate

__all__ = ["TextCache"]

_FIRST_CAPACITY = 128
_GROWTH = 1.5


class _BufferLayer(DynamicLayer):
    """One layer's keys and values in a buffer that grows by half, where transformers' own copies all at every token."""

    def __init__(self, gate: SignalGate) -> None:
        super().__init__()
        self.gate = gate
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all columns this forward may see; keep the text columns and forget the safety columns."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        new = key_states.shape[-2]
        if torch.is_grad_enabled():
            # Training: the text is constant and the safety rows carry the gradient, so nothing is written in place.
            return torch.cat([self._text(self.keys), key_states], 2), torch.cat([self._text(self.values), value_states], 2)
        end = self.length + new
        self._reserve(end, key_states, value_states)
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length += new - self.gate.rows
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        """Return the number of text columns held."""
        return self.length

    def replace(self, keys_BGSD: Tensor, values_BGSD: Tensor, length: int) -> None:
        """Put other buffers in place, of which the first `length` columns are text."""
        self.keys, self.values, self.length = keys_BGSD, values_BGSD, length

    def _text(self, buffer: Tensor) -> Tensor:
        return buffer[:, :, : self.length] if self.length else buffer

    def _reserve(self, needed: int, keys: Tensor, values: Tensor) -> None:
        held = self.keys.shape[2] if self.keys.dim() == 4 else 0
        if needed <= held:
            return
        capacity = max(needed, _FIRST_CAPACITY, int(held * _GROWTH))
        for name, new in (("keys", keys), ("values", values)):
            buffer = new.new_empty(new.shape[0], new.shape[1], capacity, new.shape[3])
            if self.length:
                buffer[:, :, : self.length] = getattr(self, name)[:, :, : self.length]
            setattr(self, name, buffer)


class TextCache(Cache):
    """A cache of text columns that every transformers decoder accepts; see the module docstring."""

    def __init__(self, layers: int, gate: SignalGate) -> None:
        super().__init__(layers=[_BufferLayer(gate) for _ in range(layers)])

    @property
    def width(self) -> int:
        """Text columns held, padding included."""
        return self.get_seq_length()

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows of the batch, in this order."""
        for layer in self._filled():
            index = torch.tensor(rows, device=layer.keys.device)
            layer.replace(layer.keys.index_select(0, index), layer.values.index_select(0, index), layer.length)

    def realign(self, kept: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Cut each row to the columns that stay and move those to the right edge.

        Args:
            kept: Per row, the (start, end) column ranges of its text, in order.
        """
        width = max(sum(end - start for start, end in ranges) for ranges in kept)
        for layer in self._filled():
            keys, values = (self._moved(old, kept, width) for old in (layer.keys, layer.values))
            layer.replace(keys, values, width)

    @staticmethod
    def _moved(old: Tensor, kept: Sequence[Sequence[tuple[int, int]]], width: int) -> Tensor:
        batch, groups, _, size = old.shape
        # Padding columns are masked, but 0 times a stale NaN would still be NaN: they are cleared.
        new = old.new_zeros(batch, groups, max(width, _FIRST_CAPACITY), size)
        for row, ranges in enumerate(kept):
            column = width - sum(end - start for start, end in ranges)
            for start, end in ranges:
                new[row, :, column : column + end - start] = old[row, :, start:end]
                column += end - start
        return new

    def _filled(self) -> list[_BufferLayer]:
        return [layer for layer in self.layers if isinstance(layer, _BufferLayer) and layer.is_initialized]
