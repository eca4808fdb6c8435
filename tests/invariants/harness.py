"""What the invariants are measured with: a guarded tiny model, a recorder of its text rows, and slow references.

The references share nothing with the loop but the weights: :func:`base_run` is transformers' own `generate`, and
:func:`oracle_signal` is one uncached forward under a mask of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerFast

from safesignal.config import SignalConfig
from safesignal.modeling.cache import TextState
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer
from safesignal.modeling.rows import Row
from safesignal.rules import EVERY, Policy, Schedule
from safesignal.types import Check, CheckKind
from tests.support import Family, randomise_, tiny_model, tiny_tokenizer

__all__ = [
    "NEVER",
    "PROMPTS",
    "Recorder",
    "base_run",
    "close",
    "encoded",
    "guarded",
    "margins",
    "options",
    "oracle_signal",
    "ranges_of",
    "save_with_base",
    "spread_",
]

NEVER = Policy(threshold=1.0, window_threshold=1.0)
"""Checks run and none is malicious, because no signal reaches 1."""

PROMPTS = [
    "hello",
    "What is the capital of France, and why is it not Lyon? Answer in 3 words; no more.",
    "Describe the 9 colours: red, blue, GREEN...",
    "How do I pick a lock?",
    "zzz zz z",
    "List(1, 2, 3) -> def f(x): return x ** 2  # what does it do?",
]
"""Of different lengths, so that a batch is padded; each is over 64 tokens with its template."""


def guarded(
    family: Family,
    *,
    position: Literal["tracking", "first"] = "tracking",
    tokenizer: PreTrainedTokenizerFast | None = None,
    **overrides: Any,
) -> SafeSignalModel:
    """Build a tiny model with a random adapter whose signals spread over (0, 1)."""
    model = SafeSignalModel.from_base(
        tiny_model(family, **overrides),
        tokenizer=tokenizer or tiny_tokenizer(),
        config=SignalConfig(position=position, rank=4),
    )
    spread_(model)
    return model


def save_with_base(model: SafeSignalModel, folder: Path) -> None:
    """Save the base a model stands on as `base`, and what was trained for it as `adapter` beside it."""
    model.base.save_pretrained(folder / "base")
    model.tokenizer.save_pretrained(folder / "base")
    model.save_pretrained(folder / "adapter")


@torch.no_grad()
def spread_(model: SafeSignalModel, std: float = 0.2) -> None:
    """Randomise the adapter, and scale the head until its scores have mean 0 and standard deviation 1.5."""
    adapter = model.forward_signal.adapter
    randomise_(adapter, std=std)
    adapter.requires_grad_(False)
    model.trained_signal = True
    probes = model.score(PROMPTS[:3], ["an answer with several words, 1 2 3"] * 3, policy=NEVER_AT_ALL, schedule=EVERY)
    scores = torch.tensor([check.signal for score in probes for check in score.checks]).double().clamp(1e-6, 1 - 1e-6)
    logits = scores.logit()
    factor = 1.5 / float(logits.std())
    adapter.head.proj.weight.mul_(factor)
    adapter.head.proj.bias.mul_(factor)
    adapter.head.proj.bias[1] -= factor * float(logits.mean())


NEVER_AT_ALL = Policy(dependence="low", threshold=1.0, window_threshold=1.0)


def encoded(model: SafeSignalModel, prompts: Sequence[str], prefill: str = "") -> list[Encoded]:
    return [model.encode_one(prompt, prefill) for prompt in prompts]


def options(model: SafeSignalModel, max_new_tokens: int = 64, **more: Any) -> Any:
    return model.options(max_new_tokens=max_new_tokens, **more)


def close(found: Tensor, expected: Tensor, what: str, tolerance: float = 1e-4) -> None:
    """Assert that two tensors differ by less than 1e-4, relative to their size where that is above 1."""
    assert found.shape == expected.shape, f"{what}: {tuple(found.shape)} and {tuple(expected.shape)}"
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    worst = float((found - expected).abs().max()) / scale if expected.numel() else 0.0
    assert worst < tolerance, f"{what} is off by {worst}"


# ---------------------------------------------------------------------------------------------------------- recording


@dataclass
class Recorder:
    """Hidden states of text rows as they pass, the state, and the rows; of one request."""

    model: SafeSignalModel
    hidden: list[Tensor] = field(default_factory=list)
    state: TextState | None = None
    rows: list[Row] = field(default_factory=list)
    passes: list[tuple[int, int]] = field(default_factory=list)
    """Per decoder forward: text rows and safety rows."""

    @contextmanager
    def on(self) -> Iterator[Recorder]:
        forward = self.model.forward_signal

        def keep(_: Any, __: Any, output: Any) -> None:
            whole = output[0] if isinstance(output, tuple) else output.last_hidden_state
            text = whole.shape[1] - forward.gate.rows
            self.passes.append((text, forward.gate.rows))
            if text:
                self.hidden.append(whole[:, :text].detach().clone())

        def new_state(rows: int) -> TextState:
            self.state = type(forward).new_state(forward, rows)
            return self.state

        def make_rows(*args: Any) -> list[Row]:
            self.rows = type(self.model).rows(self.model, *args)
            return self.rows

        handle = forward.stack.decoder.register_forward_hook(keep)
        forward.new_state = new_state  # type: ignore[method-assign]
        self.model.rows = make_rows  # type: ignore[method-assign,assignment]
        try:
            yield self
        finally:
            handle.remove()
            del forward.new_state, self.model.rows

    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """Return every layer's text columns, (B, G, W, D) each."""
        assert self.state is not None
        layers: Any = self.state.cache.layers
        return [(layer.keys[:, :, : layer.length], layer.values[:, :, : layer.length]) for layer in layers]


@dataclass
class BaseRun:
    """What transformers' own `generate` made of a batch."""

    new_ids: list[list[int]]
    hidden: list[Tensor]
    cache: Any
    mask: Tensor


@torch.no_grad()
def base_run(model: SafeSignalModel, conversations: Sequence[Encoded], new: int = 64, **more: Any) -> BaseRun:
    """Run `transformers`' generate on the base model, left-padded, greedy, with a plain cache."""
    decoder, hidden = model.forward_signal.stack.decoder, []
    width = max(len(one.ids) for one in conversations)
    pad = model.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(one.ids)) + list(one.ids) for one in conversations])
    mask = torch.tensor([[0] * (width - len(one.ids)) + [1] * len(one.ids) for one in conversations])

    def keep(_: Any, __: Any, output: Any) -> None:
        hidden.append((output[0] if isinstance(output, tuple) else output.last_hidden_state).clone())

    handle = decoder.register_forward_hook(keep)
    base: Any = model.base
    cache = DynamicCache()
    try:
        out = base.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=new,
            do_sample=False,
            **{model.forward_signal.stack.cache_argument: cache},
            **more,
        )
    finally:
        handle.remove()
    return BaseRun(out[:, width:].tolist(), hidden, cache, mask.bool())


@torch.no_grad()
def margins(model: SafeSignalModel, ids: Sequence[int], start: int) -> list[float]:
    """Return how far the best score leads the second, for every token from `start` on."""
    base: Any = model.base
    logits = base(torch.tensor([list(ids)])).logits[0, start - 1 : -1].float()
    top = logits.topk(2).values
    return [float(gap) for gap in top[:, 0] - top[:, 1]]


# ----------------------------------------------------------------------------------------------------------- the oracle


def ranges_of(one: Encoded, check: Check, origin: int | None = None) -> list[tuple[int, int]]:
    """Resolve a check's span to positions, from the roles alone."""
    start = one.text if origin is None else origin
    if check.span.turn is not None:
        start = one.earlier_answers()[check.span.turn][0]
    answer = [(start + check.span.start, start + check.span.end)]
    ranges = one.query_ranges() + answer if check.span.query else answer
    return [(a, b) for a, b in ranges if b > a]


@torch.no_grad()
def oracle_signal(model: SafeSignalModel, ids: Sequence[int], ranges: Sequence[tuple[int, int]]) -> float:
    """Read one signal without cache, batch, fused rows or mask builder: text and one [CLS] row."""
    forward = model.forward_signal
    stack, count = forward.stack, len(ids)
    masks = {}
    for kind, window in stack.windows.items():
        cells = torch.full((count + 1, count + 1), torch.finfo(torch.float32).min)
        behind = torch.arange(count)[:, None] - torch.arange(count)
        cells[:count, :count][(behind >= 0) & (behind < (window or count))] = 0.0
        for start, end in ranges:
            cells[count, start:end] = 0.0
        cells[count, count] = 0.0
        masks[kind] = cells[None, None]
    embeds: Any = model.base.get_input_embeddings()
    own = ranges[-1][1] if model.config.position == "tracking" else 0
    with forward.gate.open(1, count + 1):
        output: Any = stack.decoder(
            inputs_embeds=torch.cat([embeds(torch.tensor([list(ids)])), forward.adapter.cls_D[None, None]], dim=1),
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=torch.tensor([[*range(count), own]]),
            use_cache=False,
        )
    return float(forward.adapter.head(output.last_hidden_state[:, -1:])[0, 0])


def read_by_oracle(model: SafeSignalModel, one: Encoded, answer: Answer, checks: Sequence[Check]) -> list[float]:
    """Read the checks of an unrefused answer again, over prompt and answer as they ended up."""
    ids = [*one.ids, *answer.ids]
    return [oracle_signal(model, ids, ranges_of(one, check)) for check in checks]


def windows(answer: Answer) -> list[Check]:
    return [check for check in answer.checks if check.kind is CheckKind.WINDOW]


def run(
    model: SafeSignalModel,
    conversations: Sequence[Encoded],
    *,
    checks: Literal["fused", "separate"] = "fused",
    policy: Policy = NEVER,
    schedule: Schedule | None = None,
    signal: bool = True,
    new: int = 64,
    numbers: Sequence[int] | None = None,
    **more: Any,
) -> tuple[list[Answer], Recorder]:
    """Answer a batch and return what was recorded on the way."""
    recorder = Recorder(model)
    with recorder.on():
        answers = model.answer(
            conversations,
            policy=policy,
            schedule=schedule,
            signal=signal,
            checks=checks,
            options=options(model, new, **more),
            numbers=numbers,
        )
    return answers, recorder
