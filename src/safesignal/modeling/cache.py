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
        super().__init__()  # type: ignore[no-untyped-call]
        self.gate = gate
        self.length = 0

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values with room to spare, each (B, G, capacity, D)."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all columns this forward may see; keep the text columns and forget the safety columns."""
        if not self.is_initialized:
            self.replace(_room(key_states, 0), _room(value_states, 0), 0)
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        keys, values = self.buffers
        if torch.is_grad_enabled():
            # Training: the text is constant and the safety rows carry the gradient, so nothing is written in place.
            seen_keys = torch.cat([keys[:, :, : self.length], key_states], dim=2)
            return seen_keys, torch.cat([values[:, :, : self.length], value_states], dim=2)
        begin, end = self.length, self.length + key_states.shape[2]
        if end > keys.shape[2]:
            keys, values = self._grown(end, keys), self._grown(end, values)
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        self.replace(keys, values, end - self.gate.rows)
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self) -> int:
        """Return the number of text columns held."""
        return self.length

    def replace(self, keys_BGSD: Tensor, values_BGSD: Tensor, length: int) -> None:
        """Put other buffers in place, of which the first `length` columns are text."""
        self.keys, self.values, self.length = keys_BGSD, values_BGSD, length

    def _grown(self, needed: int, old_BGSD: Tensor) -> Tensor:
        new_BGSD = _room(old_BGSD, max(needed, _FIRST_CAPACITY, int(old_BGSD.shape[2] * _GROWTH)))
        new_BGSD[:, :, : self.length] = old_BGSD[:, :, : self.length]
        return new_BGSD


def _room(like_BGSD: Tensor, columns: int) -> Tensor:
    batch, groups, _, size = like_BGSD.shape
    return like_BGSD.new_empty(batch, groups, columns, size)


class TextCache(Cache):
    """A cache of text columns that every transformers decoder accepts; see the module docstring."""

    def __init__(self, layers: int, gate: SignalGate) -> None:
        super().__init__(layers=[_BufferLayer(gate) for _ in range(layers)])

    @property
    def width(self) -> int:
        """Text columns held, padding included."""
        return self.get_seq_length()

    @property
    def nbytes(self) -> int:
        """Memory of all buffers, in bytes."""
        return sum(buffer.nbytes for layer in self._filled() for buffer in layer.buffers)

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows of the batch, in this order."""
        for layer in self._filled():
            index = torch.tensor(rows, device=layer.buffers[0].device)
            keys, values = (buffer.index_select(0, index) for buffer in layer.buffers)
            layer.replace(keys, values, layer.length)

    def realign(self, kept: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Cut each row to the columns that stay and move those to the right edge.

        Args:
            kept: Per row, the (start, end) column ranges of its text, in order.
        """
        width = max(sum(end - start for start, end in ranges) for ranges in kept)
        for layer in self._filled():
            keys, values = (_moved(old, kept, width) for old in layer.buffers)
            layer.replace(keys, values, width)

    def _filled(self) -> list[_BufferLayer]:
        return [layer for layer in self.layers if isinstance(layer, _BufferLayer) and layer.is_initialized]


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
