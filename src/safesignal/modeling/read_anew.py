"""Reading texts anew under a reader's weights, which its gate puts on every row of a forward.

Prompts are read whole, and again without what nobody writes; nothing of them stays. Answers are read on: a row keeps
what its reader has read (`modeling/cache.py:Reading`), so that a further check costs what was written since.

Shapes: N checks, T texts, K checks of one text, D hidden, G key/value heads, S columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from safesignal.modeling.adapter import Signal
from safesignal.modeling.cache import Reading, TextCache, TextState, common_prefix
from safesignal.modeling.chat import Encoded
from safesignal.modeling.likelihood import surprises
from safesignal.modeling.sight import shared_texts
from safesignal.modeling.unlikely import without
from safesignal.nn.attention import plain_where_quicker
from safesignal.nn.gate import SignalGate

if TYPE_CHECKING:
    from safesignal.modeling.forward import SignalForward

__all__ = ["ReadAnew"]

_WORTH_SHARING = 64
"""Rows that reading a common beginning once must save: it is a pass of its own, which reads all weights."""
_MOST_READINGS = 4
"""Of one query: more copies of a suffix than this are not followed."""


class ReadAnew:
    """The forwards of readers of one model."""

    def __init__(self, forward: SignalForward) -> None:
        self._forward = forward
        # Says which rows of an answer's reading are checks and not kept; no LoRA listens to it.
        self._checks = SignalGate()

    def whole(self, reader: Signal, read: Sequence[tuple[int, ...]]) -> Tensor:
        """Read texts from their beginnings: the (N, 1, D) hidden state of the [CLS] behind each.

        That [CLS] sees the whole text, template and all: what the base would say next is decided at its end. Gradients
        where recorded.
        """
        texts, ends = shared_texts(read)
        return self.after(reader, _worth_sharing(texts), texts, ends)

    def queries(self, reader: Signal, prompts: Sequence[Encoded], surprise: float) -> list[float]:
        """Read prompts whole, and again without what nobody writes while there is some; the highest signal counts.

        Args:
            reader: Of queries.
            prompts: In plain letters; equal ones are read once.
            surprise: `SignalConfig.surprise`; 0: none is read again.

        Raises:
            SignalError: If a signal is no probability, or a token's surprise no number.
        """
        signals = dict.fromkeys(prompts, 0.0)
        reading = {prompt: prompt for prompt in prompts}
        # A second copy of scraps costs little while the first stands before it: hence more than twice.
        for _ in range(_MOST_READINGS):
            texts = list(dict.fromkeys(reading.values()))
            found, left = self._read_queries(reader, texts, surprise)
            signals |= {prompt: max(signals[prompt], found[text]) for prompt, text in reading.items()}
            reading = {prompt: left[text] for prompt, text in reading.items() if text in left}
            if not reading:
                break
        return [signals[prompt] for prompt in prompts]

    def _read_queries(
        self, reader: Signal, texts: Sequence[Encoded], surprise: float
    ) -> tuple[dict[Encoded, float], dict[Encoded, Encoded]]:
        """Return the signal of each text, and of those that have unlikely runs what is left without them."""
        ids, first = [text.ids for text in texts], min((r[0][0] for t in texts if (r := t.query_ranges())), default=0)
        # The token before a user's text is read with each: it says how likely that text begins so.
        shared = _worth_sharing(ids, max(0, first - 1) if surprise else None)
        hidden_TQD = self._read(reader, shared, ids, [[len(own)] for own in ids])
        signals = dict(zip(texts, reader.head(hidden_TQD[:, -1:])[:, 0].tolist(), strict=True))
        if not surprise:
            return signals, {}
        left = {
            text: without(text, self._surprises(text, own), surprise)
            for text, own in zip(texts, hidden_TQD, strict=True)
        }
        return signals, {text: shorter for text, shorter in left.items() if shorter}

    def _surprises(self, prompt: Encoded, hidden_QD: Tensor) -> dict[int, list[float]]:
        """Return, by where a user's turn begins, what each of its tokens cost the reader, nats."""
        n, found = len(prompt.ids), {}
        with self._forward.lock:
            for start, end in prompt.query_ranges():
                begin = max(start, 1)  # before the very first token nothing is read that could foretell it
                before_ND = hidden_QD[:-1][begin - 1 - n : end - 1 - n]
                found[begin] = surprises(self._forward.base, before_ND, prompt.ids[begin:end])
        return found

    def after(
        self, reader: Signal, shared: int, texts: Sequence[tuple[int, ...]], ends: Sequence[Sequence[int]]
    ) -> Tensor:
        """Read the first `shared` ids of all texts, most often the template's system text, once, then the rest.

        Texts, and where in each its checks end, are those of :func:`shared_texts`.
        """
        hidden_TKD = self._read(reader, shared, texts, ends)[:, -max(map(len, ends)) :]
        return torch.cat([row_KD[: len(own), None] for row_KD, own in zip(hidden_TKD, ends, strict=True)])

    def _read(
        self, reader: Signal, shared: int, texts: Sequence[tuple[int, ...]], ends: Sequence[Sequence[int]]
    ) -> Tensor:
        """Return the hidden states of all rows that were read: what texts do not share, right-aligned, then checks."""
        forward = self._forward
        state, tokens = forward.new_state(len(texts)), [ids[shared:] for ids in texts]
        whole, checks = [[forward.sight([(0, end)]) for end in own] for own in ends], max(map(len, ends))
        rows = max(map(len, tokens)) + checks
        with forward.lock:
            if shared:
                state.fill(self._keys_and_values(reader, texts[0][:shared]), [shared] * len(texts), fixed=True)
            with reader.reading(rows), plain_where_quicker(rows, shared + rows, forward.base.device):
                return forward.whole_pass(tokens, whole, reader.cls_D, state)

    def further(self, reader: Signal, state: TextState, row: int, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Read on in a row's text: the (1, K, D) hidden states of the [CLS] behind each of its K beginnings.

        What was read of this row before is not read again, so far as it is still what was written.

        Args:
            reader: Of answers.
            state: Of the batch; keeps what is read.
            row: The row's place in it.
            texts: Prompt and answer up to the end of each check; the longest begins with all others.
        """
        forward, text = self._forward, max(texts, key=len)
        known = state.readings[row] or Reading((), TextState(TextCache(len(forward.stack.layers), self._checks), 1))
        state.readings[row] = None  # until the forward is through
        kept = known.beginning_of(text)
        if kept < len(known.ids):
            known.state.cut([kept])
        new, checks = text[kept:], [[forward.sight([(0, len(ids))]) for ids in texts]]
        rows = len(new) + len(texts)
        with forward.lock, reader.reading(rows), self._checks.open(len(texts), rows), forward.switched():
            hidden_1QD = forward.whole_pass([new], checks, reader.cls_D, known.state, keep=True)
        known.state.advance([len(new)])
        state.readings[row] = Reading(text, known.state)
        return hidden_1QD[:, len(new) :]

    def _keys_and_values(self, reader: Signal, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Read a text under the reader's weights: by layer, keys and values (1, G, S, D), gradients where recorded."""
        forward, count = self._forward, len(ids)
        alone, device = forward.new_state(1), forward.base.device
        kept: Any = DynamicCache()
        embeds_1TD = forward.base.get_input_embeddings()(torch.tensor([ids], device=device))
        keys_1C = alone.key_positions([count], count, stored=False)
        arguments = forward.arguments(alone, keys_1C, embeds_1TD, [[]], reader.cls_D)
        with reader.reading(count), plain_where_quicker(count, count, device):
            forward.stack.decoder(**arguments | {forward.stack.cache_argument: kept})
        return [(layer.keys, layer.values) for layer in kept.layers]


def _worth_sharing(texts: Sequence[tuple[int, ...]], most: int | None = None) -> int:
    """Return how many ids all texts begin with, `most` at most, 0 where reading them once saves less than it costs."""
    shared = common_prefix(texts)
    shared = shared if most is None else min(shared, most)
    return shared if (len(texts) - 1) * shared >= _WORTH_SHARING else 0
