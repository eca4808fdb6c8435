"""Picking the next token: pure functions over one row of logits.

Noise is keyed by (seed, row, step), never by the order of calls, so that a row draws the same tokens alone, in a
batch, and after a neighbour was rolled back.

Shapes: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from safesignal.errors import SignalError, UsageError

__all__ = ["Sampler", "draw", "filter_logits", "pick_token", "repetition_penalty"]


@dataclass(frozen=True, slots=True)
class Sampler:
    """How a token is drawn from the logits; `do_sample=False` takes the largest."""

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = [
            ("temperature", self.temperature, "above 0 (use greedy decoding for 0)", self.temperature > 0),
            ("top_k", self.top_k, "0 (off) or more", self.top_k >= 0),
            ("top_p", self.top_p, "in (0, 1]", 0 < self.top_p <= 1),
            ("min_p", self.min_p, "in [0, 1]", 0 <= self.min_p <= 1),
            ("repetition_penalty", self.repetition_penalty, "above 0", self.repetition_penalty > 0),
        ]
        problems = [f"{name} = {value}    must be {bound}" for name, value, bound, holds in bounds if not holds]
        if problems:
            raise UsageError("sampling options are out of range\n  " + "\n  ".join(problems))


def pick_token(logits_V: Tensor, seen: Sequence[int], sampler: Sampler, row: int, step: int) -> int:
    """Return the id of the next token.

    Args:
        logits_V: (V,) next-token scores; left unchanged.
        seen: Ids of the row so far, prompt included, for the repetition penalty.
        sampler: How to draw.
        row: The row's number in its request, which keys the noise.
        step: Tokens the row has drawn so far, which keys the noise.

    Raises:
        SignalError: If no finite score is left to choose from.
    """
    scores_V = logits_V.float()
    if sampler.repetition_penalty != 1.0:
        scores_V = repetition_penalty(scores_V, seen, sampler.repetition_penalty)
    best = scores_V.max(dim=-1)
    if not bool(torch.isfinite(best.values)):
        raise SignalError(
            f"the model's scores for step {step} hold no finite number. Expected logits.",
            hint="the base model's weights overflow in this dtype; try `--dtype float32`",
        )
    return draw(filter_logits(scores_V, sampler), sampler.seed, row, step) if sampler.do_sample else int(best.indices)


def repetition_penalty(scores_V: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Return scores with seen tokens divided (positive) or multiplied (negative) by `penalty` (Keskar et al., 2019)."""
    index = torch.tensor(sorted(set(seen)), device=scores_V.device, dtype=torch.long)
    old = scores_V[index]
    return scores_V.index_put((index,), torch.where(old < 0, old * penalty, old / penalty))


def filter_logits(scores_V: Tensor, sampler: Sampler) -> Tensor:
    """Return ``scores / temperature`` with -inf outside top-k, top-p and min-p, in transformers' order.

    The most probable token always stays.
    """
    scores_V = scores_V / sampler.temperature
    if 0 < sampler.top_k < scores_V.shape[0]:
        kth = scores_V.topk(sampler.top_k).values[-1]
        scores_V = scores_V.masked_fill(scores_V < kth, float("-inf"))
    if sampler.top_p < 1.0:
        ascending, order = scores_V.sort()
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - sampler.top_p
        drop[-1] = False
        scores_V = scores_V.index_fill(0, order[drop], float("-inf"))
    if sampler.min_p > 0.0:
        probability_V = scores_V.softmax(dim=-1)
        keep = probability_V >= sampler.min_p * probability_V.max()
        scores_V = scores_V.masked_fill(~keep, float("-inf"))
    return scores_V


def draw(scores_V: Tensor, seed: int, row: int, step: int) -> int:
    """Draw an index with probability softmax(scores), from one number that depends on (seed, row, step) only."""
    key = (seed * 1_000_003 + row) * 1_000_003 + step
    uniform = torch.rand((), generator=torch.Generator().manual_seed(key % (2**63)), dtype=torch.float64)
    cumulative_V = scores_V.double().softmax(dim=-1).cumsum(dim=-1)
    index = torch.searchsorted(cumulative_V, (uniform * cumulative_V[-1].cpu()).to(cumulative_V.device), right=True)
    return min(int(index), scores_V.shape[0] - 1)
