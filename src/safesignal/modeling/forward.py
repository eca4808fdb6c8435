"""One forward for everything: feed text, read signals, or both in the same pass.

Rows `[x_t, CLS, ...]` share a forward, a mask lets each [CLS] row see its span, and the cache keeps the text columns
only. Asked for separately, text goes through the base model exactly as transformers would send it, and the [CLS] rows
follow in a pass of their own.

Where the adapter has a reader, a check of the query alone reads the prompt anew instead, in a forward of its own whose
rows are all the signal's (what the prompts of a batch begin with comes first, once for all), and in another without
what nobody writes, where it says so; nothing of them stays. Where
it has a reader of answers, a check of the answer that looks suspicious is read anew under a third signal, the prompt
and all that was written up to there; of that the row keeps keys and values (`modeling/read_anew.py`).

In the joint recipe answer tokens see the signal: each sees one check, the latest that was complete before it. The
latest check of a forward is kept with the row (`modeling/cache.py`) and shown to the text of later ones.

Shapes: B batch, T text tokens of this forward, K safety rows, W cached columns, C = W + T, D hidden, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from safesignal.config import SignalConfig
from safesignal.errors import SignalError, SignalMaskError, UsageError
from safesignal.modeling.adapter import Adapter
from safesignal.modeling.cache import TextCache, TextState
from safesignal.modeling.chat import Encoded
from safesignal.modeling.families import describe, unsupported
from safesignal.modeling.read_anew import ReadAnew
from safesignal.modeling.sight import Sight
from safesignal.modeling.surface import Surface
from safesignal.nn.attention import grouped_attention
from safesignal.nn.masks import additive, last_columns, latest_check, right_aligned, safety_mask, text_mask, visible
from safesignal.nn.narrow import NarrowProducts

__all__ = ["SignalForward"]

_GROUPED = "safesignal_grouped"
_LONGEST_FUSED = 256
"""Beyond this many new tokens an explicit mask over the text costs more than a pass of its own for the checks."""
_SAME_TEXT = 0.05
"""How far scores of text may move beside a check, as a share of the largest: generous, for half precision."""
_LOCKS: WeakKeyDictionary[PreTrainedModel, threading.RLock] = WeakKeyDictionary()
"""One per base: hooks and the attention switch are the base's, so one forward at a time may use them."""


def _grouped_sdpa(
    layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    if attention_mask is None:
        raise SignalMaskError("attention over safety rows got no mask. Expected one bool mask per layer kind.")
    output = grouped_attention(query, key, value, attention_mask, scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(_GROUPED, _grouped_sdpa)


class SignalForward(nn.Module):
    """A base model and an adapter, joined by a gate."""

    def __init__(self, base: PreTrainedModel, config: SignalConfig, surface: Surface) -> None:
        super().__init__()
        self.stack = describe(base)
        self.config, self.surface = config, surface
        self.base = base.eval().requires_grad_(False)
        self.adapter = Adapter(config, self._targets(), self.stack.hidden_size).to(base.device)
        self.add_readers(config)
        self.gate, self._anew = self.adapter.gate, ReadAnew(self)
        self._configs: dict[int, Any] = {
            id(module.config): module.config for module in self.stack.decoder.modules() if hasattr(module, "config")
        }
        self._products = NarrowProducts([*self.stack.decoder.modules(), base.get_output_embeddings()])
        self._hidden: Tensor | None = None
        self.lock = _LOCKS.setdefault(base, threading.RLock())
        self.adapter.handles.append(self.stack.decoder.register_forward_hook(self._keep_hidden))
        try:
            self._try_out()
        except BaseException:
            self.remove()
            raise

    def train(self, mode: bool = True) -> Self:
        """Switch modes as torch does, but for the base, which stays in eval: dropout would make the signal random."""
        super().train(mode)
        self.base.eval()
        return self

    def remove(self) -> None:
        """Take every hook off the base model again; this object is of no use afterwards."""
        self.adapter.remove()

    def add_readers(self, config: SignalConfig) -> None:
        """Add the readers that `config` gives a rank and the adapter lacks; they are not trained yet."""
        self.config = config
        self.adapter.add_readers(config, self.stack.linears)

    def new_state(self, rows: int) -> TextState:
        """Start with `rows` empty sequences."""
        return TextState(TextCache(len(self.stack.layers), self.gate), rows)

    @property
    def joint(self) -> bool:
        """Whether text may see the signal (the paper's recipe); in the gated one it never does."""
        return self.config.recipe == "joint"

    def sight(
        self,
        ranges: Sequence[tuple[int, int]],
        since: int | None = None,
        text: tuple[Encoded, Sequence[int]] | None = None,
    ) -> Sight:
        """Place a safety row over the token positions it may see.

        Args:
            ranges: (start, end) positions.
            since: First text position that sees it in turn; None: nobody does, as always in the gated recipe.
            text: A conversation, and ids of the answer to it up to the end of the span (none: the check is of the query
                alone). A reader reads them anew, the prompt in plain letters; None: nobody does.
        """
        ranges = tuple((start, end) for start, end in ranges if end > start)
        if not ranges:
            raise SignalError("a check has no token to look at. Expected at least one position in its span.")
        seen = -1 if since is None or not self.joint else since
        position = ranges[-1][1] if self.config.position == "tracking" else 0
        conversation, answer = text or (None, ())
        reader = self.adapter.answer_reader if answer else self.adapter.reader
        if conversation is None or reader is None:
            return Sight(ranges, position, seen)
        if answer:
            return Sight(ranges, position, seen, if_suspicious=(conversation, answer))
        return Sight(ranges, position, seen, self.surface.prompt(conversation))

    def read_as(self, query: Encoded) -> str | None:
        """Return what the reader takes a disguised query for; None where it reads what was typed, or is none."""
        return self.surface.said(query) if self.adapter.readers else None

    @torch.no_grad()
    def feed(
        self,
        state: TextState,
        tokens: Sequence[Sequence[int]],
        sights: Sequence[Sequence[Sight]],
        *,
        fused: bool = True,
    ) -> tuple[Tensor | None, list[list[float]]]:
        """Feed text and run checks; the caller then says with `state.advance` what stays.

        Args:
            state: What the rows have read so far.
            tokens: Per row, the next ids; rows may bring different numbers, or none.
            sights: Per row, its checks, which may look at the new tokens too.
            fused: Read the signals in the same pass, but for long prompts, and write padded batches with our attention;
                otherwise the text passes through the base model alone, bit for bit as transformers would send it.

        Returns:
            The (B, V) scores after each row's last token (None without any token), and each row's signals.
        """
        looking = [[sight for sight in own if not sight.prompt] for own in sights]
        scores_BV, seen = self._feed(state, tokens, looking, fused=fused)
        read: Iterator[float] = iter(())
        if anew := [sight.prompt for own in sights for sight in own if sight.prompt]:
            reader = self.adapter.reader
            assert reader is not None
            read = iter(self._anew.queries(reader, anew, self.config.surprise))
        looked = map(iter, seen)
        signals = [[next(read if s.prompt else row) for s in own] for own, row in zip(sights, looked, strict=True)]
        for row, own in enumerate(sights):
            places = [k for k, s in enumerate(own) if s.if_suspicious and signals[row][k] >= self.config.suspicion]
            if places:
                reader = self.adapter.answer_reader
                assert reader is not None
                hidden_1KD = self._anew.further(reader, state, row, [self._text(own[k]) for k in places])
                for k, signal in zip(places, reader.head(hidden_1KD)[0].tolist(), strict=True):
                    signals[row][k] = signal
        return scores_BV, signals

    def _text(self, sight: Sight) -> tuple[int, ...]:
        """Return what a check reads anew; of an answer with the prompt before it, in plain letters."""
        if sight.prompt is not None:
            return sight.prompt.ids
        assert sight.if_suspicious is not None
        conversation, answer = sight.if_suspicious
        return (*self.surface.prompt(conversation).ids, *answer)

    def _feed(
        self, state: TextState, tokens: Sequence[Sequence[int]], sights: Sequence[Sequence[Sight]], *, fused: bool
    ) -> tuple[Tensor | None, list[list[float]]]:
        """Feed text and let all checks look at what the base has read."""
        fed, new, checks = [len(row) for row in tokens], max(map(len, tokens)), max(map(len, sights))
        fused = fused and new <= _LONGEST_FUSED
        self._check_lengths(state, fed)
        logits_BV, hidden_BKD = None, None
        keys_BC = state.key_positions(fed, new, stored=False)
        padded = bool((keys_BC < 0).any())
        # A step of a padded batch is masked too: stock attention would repeat the whole cache for every query head.
        repeats = padded and new == 1 and self.stack.backend == "sdpa"
        masked = state.ragged(fed, new) or state.cache.stores or (fused and (checks or repeats))
        if new and masked:
            logits_BV, hidden_BKD = self._masked_pass(state, keys_BC, tokens, sights if fused else [[]] * len(fed))
        elif new:
            logits_BV = self._plain_pass(state, keys_BC, tokens, padded=padded)
        if checks and not (new and fused):
            hidden_BKD = self._safety_pass(state, keys_BC, sights)
        if not checks or hidden_BKD is None:
            return logits_BV, [[] for _ in tokens]
        if self.joint:
            state.store([[sight.since for sight in own] for own in sights])
        signals = self.adapter.head(hidden_BKD).tolist()
        return logits_BV, [row[: len(own)] for row, own in zip(signals, sights, strict=True)]

    def read(self, state: TextState, sights: Sequence[Sequence[Sight]]) -> Tensor:
        """Return the (B, K, 2) class scores of checks over text already fed, with gradients where recorded.

        Rows with fewer than K checks are filled up; the caller ignores the surplus.
        """
        keys_BC = state.key_positions([0] * len(sights), 0, stored=True)
        scores: Tensor = self.adapter.head.logits(self._safety_pass(state, keys_BC, sights))
        return scores

    def reread(self, sights: Sequence[Sight]) -> Tensor:
        """Return the (N, 2) class scores of checks that read texts anew, all of queries or all of answers.

        None of them looks first. Gradients where recorded.
        """
        reader = self.adapter.answer_reader if sights[0].if_suspicious else self.adapter.reader
        assert reader is not None
        scores: Tensor = reader.head.logits(self._anew.whole(reader, [self._text(sight) for sight in sights]))[:, 0]
        return scores

    def train_pass(self, tokens: Sequence[Sequence[int]], sights: Sequence[Sequence[Sight]]) -> Tensor:
        """Run texts and their checks in one forward with gradients through both, as joint training does.

        Args:
            tokens: Per row, its ids; right-aligned here.
            sights: Per row, its checks; rows with fewer than K are filled up, and the surplus means nothing.

        Returns:
            (B, T + K, D) last hidden states: text in the last columns of the first T, then the checks.
        """
        with self.lock:
            return self.whole_pass(tokens, sights, self.adapter.cls_D)

    @torch.no_grad()
    def _try_out(self) -> None:
        """Run a check beside two tokens, so that a stack that cannot carry one is refused now and not later."""
        family, tokens = str(self.base.config.model_type), [[0, 1]]
        anew = [(0, last) for last in (0, 1)]
        try:
            plain_BV, _ = self.feed(self.new_state(1), tokens, [[]])
            fused_BV, _ = self.feed(self.new_state(1), tokens, [[self.sight([(0, 2)])]])
            for reader in self.adapter.readers:
                self._anew.after(reader, 1, anew, [[2], [2]])
                self._anew.further(reader, self.new_state(1), 0, anew[:1])
        except torch.OutOfMemoryError:
            raise  # says nothing about the stack
        except (SignalMaskError, RuntimeError, TypeError, ValueError, IndexError) as error:
            raise unsupported(family, f"a check beside two tokens fails ({error})") from error
        assert plain_BV is not None
        assert fused_BV is not None
        if not (fused_BV - plain_BV).abs().max() <= _SAME_TEXT * plain_BV.abs().max():
            raise unsupported(family, "a check changes the text beside it")

    def _targets(self) -> dict[str, nn.Module]:
        if self.joint:
            return {}  # [CLS] runs through the tuned model's own weights
        if not self.config.targets:
            return self.stack.gateable
        chosen = {n: m for n, m in self.stack.gateable.items() if n.split(".")[-1] in self.config.targets}
        if not chosen:
            known = sorted({name.split(".")[-1] for name in self.stack.gateable})
            raise UsageError(
                f"signal.targets = {self.config.targets} match no layer. Expected some of {', '.join(known)}."
            )
        return chosen

    def _plain_pass(
        self, state: TextState, keys_BC: Tensor, tokens: Sequence[Sequence[int]], *, padded: bool
    ) -> Tensor:
        """Send text through the base model as transformers' own generation would: same kernels, same bits.

        Of several rows the output layer alone may round differently (`nn/masks.py:last_columns`).
        """
        new, device = max(map(len, tokens)), self.base.device
        with self.lock:
            logits_B1V: Tensor = self.base(
                input_ids=right_aligned(tokens, new, 0).to(device),
                attention_mask=(keys_BC >= 0).long().to(device) if padded else None,
                position_ids=keys_BC[:, -new:].clamp(min=0).to(device),
                logits_to_keep=last_columns(new, 1).to(device),
                use_cache=True,
                **{self.stack.cache_argument: state.cache},
            ).logits
        return logits_B1V[:, -1]

    def _masked_pass(
        self, state: TextState, keys_BC: Tensor, tokens: Sequence[Sequence[int]], sights: Sequence[Sequence[Sight]]
    ) -> tuple[Tensor, Tensor]:
        """Run new text and safety rows in one forward under an explicit mask: scores, hidden states of the latter."""
        new, device = max(map(len, tokens)), self.base.device
        embeds_BTD = self.base.get_input_embeddings()(right_aligned(tokens, new, 0).to(device))
        arguments = self.arguments(state, keys_BC, embeds_BTD, sights)
        with self._opened(max(map(len, sights)), arguments["inputs_embeds"].shape[1]):
            logits = self.base(logits_to_keep=last_columns(new, 1).to(device), **arguments).logits
            return logits[:, -1], self._taken_hidden()[:, new:]

    def whole_pass(
        self,
        tokens: Sequence[Sequence[int]],
        sights: Sequence[Sequence[Sight]],
        cls_D: Tensor,
        state: TextState | None = None,
        *,
        keep: bool = False,
    ) -> Tensor:
        """Run texts and their checks in one forward: (B, T + K, D) last hidden states.

        What `state` holds is what the rows begin with, and left out of `tokens`; with `keep` it takes in what is read.
        """
        state, fed = state or self.new_state(len(tokens)), [len(row) for row in tokens]
        self._check_lengths(state, fed)
        embeds_BTD = self.base.get_input_embeddings()(right_aligned(tokens, max(fed), 0).to(self.base.device))
        keys_BC = state.key_positions(fed, max(fed), stored=False)
        arguments = self.arguments(state, keys_BC, embeds_BTD, sights, cls_D)
        if not (keep or state.cache.width):
            # The stack's own attention, not the switched one: activation checkpointing runs it again after this call.
            arguments |= {"use_cache": False, self.stack.cache_argument: None}
        hidden_BQD: Tensor = self.stack.decoder(**arguments).last_hidden_state
        return hidden_BQD

    def _safety_pass(self, state: TextState, keys_BC: Tensor, sights: Sequence[Sequence[Sight]]) -> Tensor:
        """Run safety rows alone over text the cache holds: their (B, K, D) hidden states."""
        nothing_B0D = self.adapter.cls_D.new_zeros(len(sights), 0, self.stack.hidden_size, dtype=self.base.dtype)
        arguments = self.arguments(state, keys_BC, nothing_B0D, sights)
        checks = arguments["inputs_embeds"].shape[1]
        with self._opened(checks, checks):
            self.stack.decoder(**arguments)
            return self._taken_hidden()

    def arguments(
        self,
        state: TextState,
        keys_BC: Tensor,
        embeds_BTD: Tensor,
        sights: Sequence[Sequence[Sight]],
        cls_D: Tensor | None = None,
    ) -> dict[str, Any]:
        """Assemble a forward of T text rows (the last T columns of `keys_BC`) and K safety rows."""
        self.stack.require_backend({c._attn_implementation for c in self._configs.values()} - {_GROUPED})
        rows, new, checks = len(sights), embeds_BTD.shape[1], max(map(len, sights))
        text_BT = keys_BC[:, keys_BC.shape[1] - new :]
        own_BK = torch.tensor([[s.position for s in row] + [0] * (checks - len(row)) for row in sights])
        cls_BKD = (self.adapter.cls_D if cls_D is None else cls_D).to(embeds_BTD.dtype).expand(rows, checks, -1)
        positions = torch.cat([text_BT.clamp(min=0), own_BK.view(rows, checks).long()], dim=1)
        return {
            "inputs_embeds": torch.cat([embeds_BTD, cls_BKD], dim=1),
            "attention_mask": self._masks(
                text_BT,
                keys_BC,
                visible(keys_BC, [[sight.ranges for sight in own] for own in sights], checks),
                self._seen(state, text_BT, sights, checks),
            ),
            "position_ids": positions.to(self.base.device),
            "use_cache": True,
            self.stack.cache_argument: state.cache,
        }

    def _taken_hidden(self) -> Tensor:
        hidden, self._hidden = self._hidden, None
        if hidden is None:
            raise SignalError("the decoder returned no hidden state. Expected one per row.")
        return hidden

    def _seen(self, state: TextState, text_BT: Tensor, sights: Sequence[Sequence[Sight]], checks: int) -> Tensor | None:
        """Return the (B, T, M) checks each text row sees; None in the gated recipe, where it sees none."""
        if not self.joint:
            return None
        since_BK = torch.tensor([[s.since for s in row] + [-1] * (checks - len(row)) for row in sights])
        stored_B = torch.tensor(state.since) if state.cache.stores else None
        return latest_check(text_BT, since_BK.view(len(sights), checks).long(), stored_B)

    def _masks(
        self, text_pos_BT: Tensor, keys_BC: Tensor, spans_BKC: Tensor, checks_BTM: Tensor | None
    ) -> Tensor | dict[str, Tensor]:
        """Build one mask per attention kind; the sliding window is for text alone."""
        masks = {}
        for kind, window in self.stack.windows.items():
            text_BTC = text_mask(text_pos_BT, keys_BC, window)
            mask = safety_mask(text_BTC, spans_BKC, checks_BTM).to(self.base.device)
            masks[kind] = mask if self.stack.backend == "sdpa" else additive(mask, self.base.dtype)
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @contextmanager
    def _opened(self, checks: int, width: int) -> Iterator[None]:
        """Open the gate for one forward, alone on this base, with our attention."""
        with self.lock, self.gate.open(checks, width), self.switched():
            self._hidden = None
            yield

    @contextmanager
    def switched(self) -> Iterator[None]:
        """Use our attention for one forward; an eager stack keeps its own."""
        with self._products.turned():
            before = {key: config._attn_implementation for key, config in self._configs.items()}
            try:
                if self.stack.backend == "sdpa":
                    for config in self._configs.values():
                        config._attn_implementation = _GROUPED
                yield
            finally:
                for key, backend in before.items():
                    self._configs[key]._attn_implementation = backend

    def _keep_hidden(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if self.gate.width:
            self._hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state

    def require_room(self, tokens: int) -> None:
        """Raise before anything is read if a prompt leaves no room for one token of an answer and its check."""
        self.stack.require_length(tokens, self.stack.max_length - 1)

    def _check_lengths(self, state: TextState, fed: Sequence[int]) -> None:
        longest = max(length + count for length, count in zip(state.lengths, fed, strict=True))
        self.stack.require_length(longest, self.stack.max_length)
