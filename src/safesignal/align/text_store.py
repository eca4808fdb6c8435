"""What the base model makes of the training texts, kept on disk: a gated run reads every text once, not once a pass.

In the gated recipe no text token sees a [CLS], and the base is frozen: keys and values of a text are constants, and
computing them is five sixths of a step. The store keeps them in half precision: 23 KB a token of SmolLM2-135M.

Shapes: N tokens of all examples, F keys and values of one token over all layers, B batch, G key/value heads, S columns,
D head size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from safesignal.align.examples import Example
from safesignal.errors import SignalError, UsageError
from safesignal.modeling.cache import TextState, common_prefix
from safesignal.modeling.forward import SignalForward

__all__ = ["TextStore", "read_texts"]

_TEXTS, _DONE = "texts.f16", "texts.done"


def read_texts(forward: SignalForward, batch: Sequence[Example]) -> TextState:
    """Let the base model read the texts of a batch, without gradients; what all of them begin with is read once."""
    ids = [list(example.encoded.ids) for example in batch]
    same = common_prefix(ids) if len(ids) > 1 else 0
    state = forward.new_state(1 if same else len(batch))
    with torch.no_grad():
        if same:
            forward.feed(state, [ids[0][:same]], [[]])
            state.advance([same])
            state.select([0] * len(batch))
        rest = [row[same:] for row in ids]
        forward.feed(state, rest, [[] for _ in batch])
        state.advance([len(row) for row in rest])
    return state


class TextStore:
    """The keys and values of a run's texts, filled as batches ask for them; several processes may share one.

    Attributes:
        nbytes: Size of the file once it is full.

    Args:
        forward: The model whose base reads them.
        base: What tells this base from others, as JSON values; a file of another base or of other texts is begun anew.
        examples: All that will be asked for.
        folder: Where the files go.

    Raises:
        UsageError: If there is no room for them.
    """

    def __init__(
        self, forward: SignalForward, base: Mapping[str, Any], examples: Sequence[Example], folder: Path
    ) -> None:
        self.forward = forward
        self.first: dict[tuple[int, ...], int] = {}
        tokens = 0
        for example in examples:
            if example.encoded.ids not in self.first:
                self.first[example.encoded.ids] = tokens
                tokens += len(example.encoded.ids)
        self.shapes = _layer_shapes(forward)
        features = sum(2 * heads * size for heads, size in self.shapes)
        self.nbytes = 2 * tokens * features
        key = hashlib.sha256(json.dumps([base, self.shapes], sort_keys=True).encode())
        key.update(repr(list(self.first)).encode())
        folder = folder / f"texts-{key.hexdigest()[:12]}"
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < self.nbytes - _held(folder / _TEXTS):
            raise UsageError(
                f"the texts take {self.nbytes / 2**30:.1f} GiB and `{folder}` has less left. Expected room for them.",
                hint="leave out `--text_store`; every pass then reads the texts anew",
            )
        self.texts = _array(folder / _TEXTS, (tokens, features), np.float16)
        self.done = _array(folder / _DONE, (tokens,), np.uint8)

    def read(self, batch: Sequence[Example]) -> TextState:
        """Return the state of a batch whose texts have been read, as :func:`read_texts` does."""
        places = [self.first[example.encoded.ids] for example in batch]
        missing = [row for row, place in enumerate(places) if not self.done[place]]
        if missing:
            state = read_texts(self.forward, [batch[row] for row in missing])
            for index, row in enumerate(missing):
                self._keep(state, index, places[row])
        return self._put_together(places, [len(example.encoded.ids) for example in batch])

    def _keep(self, state: TextState, row: int, place: int) -> None:
        """Write one row's text columns; the mark that it is there comes last."""
        length, width = state.lengths[row], state.cache.width
        parts = [
            buffer[row, :, width - length : width].transpose(0, 1).reshape(length, -1)
            for layer in state.cache.filled()
            for buffer in layer.buffers
        ]
        text_NF = torch.cat(parts, dim=1).to(torch.float16)
        if not text_NF.isfinite().all():
            raise SignalError(
                "keys or values of the base model are beyond half precision. Expected finite numbers below 65,504.",
                hint="leave out `--text_store`",
            )
        self.texts[place : place + length] = text_NF.cpu().numpy()
        self.done[place] = 1

    def _put_together(self, places: Sequence[int], lengths: Sequence[int]) -> TextState:
        width = max(lengths)
        text_BSF = torch.zeros(len(places), width, self.texts.shape[1], dtype=torch.float16)
        for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
            text_BSF[row, width - length :] = torch.from_numpy(self.texts[place : place + length])
        text_BSF = text_BSF.to(self.forward.base.device)
        wide = [heads * size for heads, size in self.shapes for _ in range(2)]
        parts = [part.to(self.forward.base.dtype) for part in text_BSF.split(wide, dim=2)]
        state = self.forward.new_state(len(places))
        text = [
            tuple(part.unflatten(2, shape).transpose(1, 2).contiguous() for part in parts[2 * i : 2 * i + 2])
            for i, shape in enumerate(self.shapes)
        ]
        state.fill(text, lengths)
        return state


def _layer_shapes(forward: SignalForward) -> list[tuple[int, int]]:
    """Return key/value heads and head size of every layer, as a forward shows them."""
    state = forward.new_state(1)
    forward.feed(state, [[0]], [[]])
    keys = [layer.buffers[0] for layer in state.cache.filled()]
    return [(key.shape[1], key.shape[3]) for key in keys]


def _held(path: Path) -> int:
    """Return the bytes of a sparse file that the disk has given it already."""
    return 512 * getattr(path.stat(), "st_blocks", 0) if path.exists() else 0


def _array(path: Path, shape: tuple[int, ...], dtype: type) -> np.memmap[Any, Any]:
    """Map a file of this shape, sparse and zero where nothing was written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with path.open("ab") as file:
        file.truncate(size)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
