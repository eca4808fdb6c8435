"""The key/value cache: one preallocated buffer per layer, safety rows seen but never kept, rows that move alone.

The invariant the decode loop rests on: every sequence is right-aligned, its own text in the last columns and padding
before it. A rollback, a row that was fed more than its neighbours, a row that left: :meth:`TextCache.realign` and
:meth:`TextCache.select` restore it, so masks follow from lengths alone.

Where answer tokens see the signal (the joint recipe), every row keeps one column more, the *stored* check: the latest
[CLS] it has had. It is no text: it has no place in the order, and every forward shows it behind all other columns.

A row also holds what a reader of answers has read of it, in a cache of its own (:class:`Reading`).

Shapes: B batch, G key/value heads, S columns, N new columns, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from safesignal.nn.gate import SignalGate

__all__ = ["Reading", "TextCache", "TextState", "common_prefix"]

_FIRST_CAPACITY = 128
_GROWTH = 1.5


class _BufferLayer(DynamicLayer):
    """One layer's keys and values in a buffer that grows by half, where transformers' own copies all at every token."""

    def __init__(self, gate: SignalGate) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gate = gate
        self.length = 0
        self.fixed = False
        self.stored: tuple[Tensor, Tensor] | None = None

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        """Keys and values with room to spare, each (B, G, capacity, D)."""
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all columns this forward may see; keep the text columns, leave safety columns for :meth:`store`.

        With gradients, or where what is held is `fixed`, nothing new is kept.
        """
        if not self.is_initialized:
            self.replace(_room(key_states, 0), _room(value_states, 0), 0)
            self.dtype, self.device = key_states.dtype, key_states.device
            self.is_initialized = True
        keys, values = self.buffers
        if self.fixed or torch.is_grad_enabled():
            # What is held may be constant text, or carry a gradient itself: nothing is written in place.
            seen_keys = torch.cat([keys[:, :, : self.length], key_states], dim=2)
            return seen_keys, torch.cat([values[:, :, : self.length], value_states], dim=2)
        begin, end = self.length, self.length + key_states.shape[2]
        seen = end if self.stored is None else end + 1
        if seen > keys.shape[2]:
            keys, values = self._grown(seen, keys), self._grown(seen, values)
        keys[:, :, begin:end] = key_states
        values[:, :, begin:end] = value_states
        if self.stored is not None:
            keys[:, :, end:seen], values[:, :, end:seen] = self.stored
        self.replace(keys, values, end - self.gate.rows)
        return keys[:, :, :seen], values[:, :, :seen]

    def fill(self, keys_BGSD: Tensor, values_BGSD: Tensor, *, fixed: bool) -> None:
        """Begin with text whose keys and values are known, right-aligned as all text is."""
        self.replace(keys_BGSD, values_BGSD, keys_BGSD.shape[2])
        self.fixed = fixed
        self.dtype, self.device, self.is_initialized = keys_BGSD.dtype, keys_BGSD.device, True

    def get_seq_length(self) -> int:
        """Return the number of text columns held."""
        return self.length

    def store(self, checks: Sequence[int | None]) -> None:
        """Keep a safety column of the forward just done for each row, by its number; None keeps what the row has."""
        index_B = torch.tensor([self.length + (number or 0) for number in checks], device=self.buffers[0].device)
        fresh_B111 = torch.tensor([number is not None for number in checks], device=index_B.device)[:, None, None, None]
        rows_B = torch.arange(len(checks), device=index_B.device)
        # Advanced indices apart from each other put their dimension first: (B, G, D).
        keys, values = (buffer[rows_B, :, index_B][:, :, None] for buffer in self.buffers)
        old = self.stored or (torch.zeros_like(keys), torch.zeros_like(values))
        self.stored = torch.where(fresh_B111, keys, old[0]), torch.where(fresh_B111, values, old[1])

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
        return sum(buffer.nbytes for layer in self.filled() for buffer in layer.buffers)

    @property
    def stores(self) -> bool:
        """Whether a column of stored checks lies behind all others."""
        return any(layer.stored is not None for layer in self.filled())

    def fill(self, text: Sequence[tuple[Tensor, ...]], *, fixed: bool = False) -> None:
        """Begin with text that is known: by layer, right-aligned keys and values (B, G, S, D).

        With `fixed` nothing is kept but that: forwards see it and leave no columns behind.
        """
        for layer, (keys, values) in zip(self.layers, text, strict=True):
            assert isinstance(layer, _BufferLayer)
            layer.fill(keys, values, fixed=fixed)

    def store(self, checks: Sequence[int | None]) -> None:
        """Keep one safety column per row, by its number in the forward just done; None keeps what the row has."""
        for layer in self.filled():
            layer.store(checks)

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows of the batch, in this order."""
        for layer in self.filled():
            index = torch.tensor(rows, device=layer.buffers[0].device)
            keys, values = (buffer.index_select(0, index) for buffer in layer.buffers)
            layer.replace(keys, values, layer.length)
            if layer.stored is not None:
                layer.stored = layer.stored[0].index_select(0, index), layer.stored[1].index_select(0, index)

    def realign(self, kept: Sequence[Sequence[tuple[int, int]]]) -> None:
        """Cut each row to the columns that stay and move those to the right edge.

        Args:
            kept: Per row, the (start, end) column ranges of its text, in order.
        """
        width = max(sum(end - start for start, end in ranges) for ranges in kept)
        for layer in self.filled():
            keys, values = (_moved(old, kept, width) for old in layer.buffers)
            layer.replace(keys, values, width)

    def filled(self) -> list[_BufferLayer]:
        """Return the layers that hold text."""
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


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader of answers has read of one row.

    Attributes:
        ids: The text, prompt and answer so far.
        state: Its keys and values under the reader's weights.
    """

    ids: tuple[int, ...]
    state: TextState

    def beginning_of(self, text: Sequence[int]) -> int:
        """Return how many first ids of a text have been read, leaving at least one to read."""
        most = min(len(self.ids), len(text) - 1)
        return next((i for i in range(most) if self.ids[i] != text[i]), most)


class TextState:
    """The text a batch has been fed: the cache and, per row, how many of its last columns are the row's own.

    Attributes:
        cache: Keys and values.
        lengths: Text tokens of each row.
        since: Per row, the first position that sees the stored check; -1 while there is none.
        readings: Per row, what a reader of answers has read; None before it has. Its text is its own affair: a row that
            is cut back is read anew from where it differs.
    """

    def __init__(self, cache: TextCache, rows: int) -> None:
        self.cache = cache
        self.lengths = [0] * rows
        self.since = [-1] * rows
        self.readings: list[Reading | None] = [None] * rows

    @property
    def nbytes(self) -> int:
        """Memory of all keys and values, in bytes."""
        return self.cache.nbytes + sum(reading.state.nbytes for reading in self.readings if reading is not None)

    def fill(self, text: Sequence[tuple[Tensor, ...]], lengths: Sequence[int], *, fixed: bool = False) -> None:
        """Begin with text that is known (:meth:`TextCache.fill`); one row of it begins all rows alike, not copied."""
        rows = len(lengths)
        self.cache.fill([tuple(part.expand(rows, -1, -1, -1) for part in layer) for layer in text], fixed=fixed)
        self.lengths = list(lengths)

    def columns(self, fed: Sequence[int], new: int, *, stored: bool) -> list[list[tuple[int, int]]]:
        """Return, per row, its text columns once `fed` tokens lie right-aligned in `new` fresh columns.

        `stored` says whether the cache holds the fresh columns already.
        """
        width = self.cache.width - (new if stored else 0)
        held = zip(self.lengths, fed, strict=True)
        return [[(width - length, width), (width + new - count, width + new)] for length, count in held]

    def key_positions(self, fed: Sequence[int], new: int, *, stored: bool) -> Tensor:
        """Return the (B, W + T) token position of every column, -1 for padding."""
        positions = torch.full((len(fed), self.cache.width + (0 if stored else new)), -1, dtype=torch.long)
        for row, ranges in enumerate(self.columns(fed, new, stored=stored)):
            position = 0
            for start, end in ranges:
                positions[row, start:end] = torch.arange(position, position + end - start)
                position += end - start
        return positions

    def ragged(self, fed: Sequence[int], new: int) -> bool:
        """Tell whether a row that holds text is fed fewer than `new` tokens, which leaves a hole before them."""
        return any(count < new and length for length, count in zip(self.lengths, fed, strict=True))

    def advance(self, fed: Sequence[int]) -> None:
        """Record a forward that brought `fed` tokens per row; restore the right alignment it may have broken."""
        new = max(fed)
        if self.ragged(fed, new):
            self.cache.realign(self.columns(fed, new, stored=True))
        self.lengths = [length + count for length, count in zip(self.lengths, fed, strict=True)]

    def cut(self, kept: Sequence[int]) -> None:
        """Take every row back to its first `kept` tokens, as if the rest had never been read.

        The stored check stays: what is written from here on, a refusal, is written under the verdict that caused it.
        """
        width = self.cache.width
        starts = [width - length for length in self.lengths]
        self.cache.realign([[(start, start + keep)] for start, keep in zip(starts, kept, strict=True)])
        self.lengths = list(kept)
        self.since = [min(since, keep) for since, keep in zip(self.since, kept, strict=True)]

    def store(self, since: Sequence[Sequence[int]]) -> None:
        """Make the latest check of the forward just done each row's stored one; a row without one keeps what it has.

        Args:
            since: Per row, for each of its safety rows, the first position that sees it; -1: nobody.
        """
        latest = [max(((at, k) for k, at in enumerate(own) if at >= 0), default=None) for own in since]
        if any(latest):
            self.cache.store([found and found[1] for found in latest])
            self.since = [old if found is None else found[0] for old, found in zip(self.since, latest, strict=True)]

    def select(self, rows: Sequence[int]) -> None:
        """Keep only these rows."""
        self.cache.select(rows)
        self.lengths = [self.lengths[row] for row in rows]
        self.since = [self.since[row] for row in rows]
        # A reading goes on with its row: of a row that is taken twice with the first of them.
        first = [rows.index(row) == place for place, row in enumerate(rows)]
        self.readings = [self.readings[row] if own else None for row, own in zip(rows, first, strict=True)]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Return how many first ids all rows share, leaving every row at least one of its own."""
    first, last = min(map(tuple, rows)), max(map(tuple, rows))
    most = min(map(len, rows)) - 1
    return next((i for i in range(most) if first[i] != last[i]), most)
