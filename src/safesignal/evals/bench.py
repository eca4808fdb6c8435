"""What checks cost: time per token and peak memory of the decode loop, checks off against on, paired in one run.

Text and checks are the real ones; no verdict is ever malicious, so that every variant writes the same tokens and runs
every check of its schedule: after a malicious query, for one, fewer are due.
"""

from __future__ import annotations

import gc
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from safesignal.modeling.chat import Encoded
from safesignal.modeling.decode import decode
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import ANNEALING, EVERY, Schedule, periodic
from safesignal.types import Role

__all__ = ["BenchConfig", "BenchRow", "Variant", "bench_decode"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to check.

    Attributes:
        name: What the table calls it.
        schedule: When; None for no checks.
        fused: Whether checks share the next token's forward.
        read_all: Whether every check of the answer is read anew, as of the most suspicious text; else none is, but for
            a look of 1.
    """

    name: str
    schedule: Schedule | None
    fused: bool = True
    read_all: bool = False


VARIANTS = (
    Variant("off", None),
    Variant("every, fused", EVERY),
    Variant("every, separate", EVERY, fused=False),
    Variant("periodic, fused", periodic(10)),
    Variant("annealing, fused", ANNEALING),
    Variant("annealing, separate", ANNEALING, fused=False),
    Variant("annealing, all read anew", ANNEALING, read_all=True),
)


@dataclass(frozen=True, slots=True)
class BenchConfig:
    """Grid and repetitions; one docstring per field, which is also its `--help` line."""

    batch_sizes: tuple[int, ...] = (1, 8)
    """Rows written together."""
    contexts: tuple[int, ...] = (128, 1024)
    """Prompt tokens."""
    new_tokens: int = 64
    """Tokens written per row and repetition."""
    repeats: int = 5
    """Repetitions; every variant runs once in each, in turn."""


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One cell of the table.

    Attributes:
        variant: How checks ran.
        batch: Rows written together.
        context: Prompt tokens.
        milliseconds: Median time per token step.
        low: Fastest repetition, milliseconds.
        high: Slowest repetition, milliseconds.
        extra: Median over repetitions of the time against `off` in the same repetition, minus 1.
        first: Median time to the first token, milliseconds.
        peak: Peak memory of the process so far (CPU) or of the device, bytes.
        schedule: When checks ran, as :func:`safesignal.rules.parse_schedule` reads it; empty for none.
    """

    variant: str
    batch: int
    context: int
    milliseconds: float
    low: float
    high: float
    extra: float
    first: float
    peak: int
    schedule: str = ""


def bench_decode(
    model: SafeSignalModel, config: BenchConfig, progress: Callable[[str], None] = lambda _: None
) -> list[BenchRow]:
    """Time every variant on every cell of the grid.

    Returns:
        One row per variant and cell, `off` first in each cell.
    """
    variants = [v for v in VARIANTS if not v.read_all or model.forward_signal.adapter.answer_reader]
    rows = []
    for context, batch in itertools.product(config.contexts, config.batch_sizes):
        progress(f"context {context}, batch {batch}")
        prompts = [_prompt(model, context, seed) for seed in range(batch)]
        _time_once(model, prompts, VARIANTS[1], 8)
        times: dict[str, list[tuple[float, float]]] = {variant.name: [] for variant in variants}
        for _ in range(config.repeats):
            for variant in variants:
                times[variant.name].append(_time_once(model, prompts, variant, config.new_tokens))
        rows += [_row(variant, batch, context, times, _peak_memory(model)) for variant in variants]
    return rows


def _row(
    variant: Variant, batch: int, context: int, times: dict[str, list[tuple[float, float]]], peak: int
) -> BenchRow:
    own = [step for _, step in times[variant.name]]
    ratios = [step / off for step, (_, off) in zip(own, times["off"], strict=True)]
    return BenchRow(
        variant=variant.name,
        batch=batch,
        context=context,
        milliseconds=1000 * statistics.median(own),
        low=1000 * min(own),
        high=1000 * max(own),
        extra=statistics.median(ratios) - 1,
        first=1000 * statistics.median(first for first, _ in times[variant.name]),
        peak=peak,
        schedule="" if variant.schedule is None else str(variant.schedule),
    )


def _time_once(
    model: SafeSignalModel, prompts: Sequence[Encoded], variant: Variant, new_tokens: int
) -> tuple[float, float]:
    """Return the seconds to the first token and the mean seconds per further token."""
    options = model.options(max_new_tokens=new_tokens, temperature=0.0)
    settings = model.settings(options, "fused" if variant.fused else "separate", eos=frozenset())
    policy = model.policy(dependence="low", threshold=1.0, window_threshold=1.0)
    rows = model.rows(prompts, policy, variant.schedule or model.schedule(), variant.schedule is not None, None)
    gc.collect()
    own = model.config
    # The tokens of these prompts are random: what they cost is summed up, and none is left out.
    surprise = own.surprise and sys.float_info.max
    model.config = replace(own, suspicion=0.0 if variant.read_all else 1.0, surprise=surprise)
    begun = time.perf_counter()
    first = 0.0
    try:
        for step in decode(model.forward_signal, rows, settings):
            first = first or step.seconds
    finally:
        model.config = own
    total = time.perf_counter() - begun
    return first, (total - first) / max(1, new_tokens - 1)


def _prompt(model: SafeSignalModel, length: int, seed: int) -> Encoded:
    """Build a user prompt of exactly `length` tokens from random ordinary ids."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(100, model.base.config.get_text_config().vocab_size - 1, (length,), generator=generator)
    return Encoded(tuple(ids.tolist()), (Role.USER,) * (length - 1) + (Role.TEMPLATE,))


def _peak_memory(model: SafeSignalModel) -> int:
    if model.base.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(model.base.device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
