"""The paper's probe: how sure the bare base model is of its next token where its answer begins.

A direct request, the same with a longer and longer start of a compliant answer, and the same wrapped in a story: if
safety were only in the first tokens, the distribution would change as they are taken away.

Shapes: B batch, K most probable tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from safesignal.data.records import Record
from safesignal.errors import UsageError
from safesignal.evals.bootstrap import mean_with_interval
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel

__all__ = ["ProbeCase", "first_token_figures", "probe_cases", "run_probe"]

FIGURES = ("entropy", "normalised_entropy", "gap", "top_k_mass")
_DEFAULT_PREFIX = "Sure, here is"


@dataclass(frozen=True, slots=True)
class ProbeCase:
    """One request under one condition.

    Attributes:
        condition: `direct`, `prefill <depth>` or `nested`.
        behavior_id: What is asked for; every condition asks for the same.
        encoded: The conversation; its prefill is the start of the answer.
    """

    condition: str
    behavior_id: str
    encoded: Encoded


def probe_cases(
    model: SafeSignalModel,
    behaviors: Sequence[Record],
    *,
    depths: Sequence[int] = (1, 3, 5, 10),
    prefixes: Mapping[str, str] | None = None,
    nested: Mapping[str, str] | None = None,
) -> list[ProbeCase]:
    """Put the same behaviors under every condition: direct, prefilled to each depth, nested.

    A depth is left out for all behaviors if the answer of any is shorter, so that conditions compare like with like.

    Args:
        model: Its tokenizer and template.
        behaviors: What is asked for.
        depths: Tokens of the compliant answer put in front, each at least 1.
        prefixes: A compliant answer per behavior id; else the set's own `target`, else "Sure, here is".
        nested: The wrapped prompt per behavior id; behaviors without one are not nested.
    """
    answers = {r.id: (prefixes or {}).get(r.id) or str(r.meta.get("target") or _DEFAULT_PREFIX) for r in behaviors}
    whole = {record.id: model.encode_one(record.chat(), answers[record.id]) for record in behaviors}
    cases = [ProbeCase("direct", record.id, model.encode_one(record.chat())) for record in behaviors]
    for depth in depths:
        if all(encoded.prefill >= depth for encoded in whole.values()):
            cases += [ProbeCase(f"prefill {depth}", name, _cut(encoded, depth)) for name, encoded in whole.items()]
    wrapped = [(record.id, nested[record.id]) for record in behaviors if nested and record.id in nested]
    return cases + [ProbeCase("nested", name, model.encode_one(prompt)) for name, prompt in wrapped]


@torch.no_grad()
def run_probe(
    model: SafeSignalModel, cases: Sequence[ProbeCase], *, k: int = 10, batch_size: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Return the content of `probe.json`: every figure's mean per condition, with its bootstrap interval.

    Args:
        model: Its base is probed, without any signal.
        cases: From :func:`probe_cases`.
        k: Most probable tokens looked at, at least 2.
        batch_size: Cases read together.
        seed: Of the bootstrap.

    Raises:
        UsageError: If `k` is below 2 or there are no cases.
    """
    if k < 2 or not cases:
        raise UsageError(f"got k = {k} and {len(cases)} cases. Expected k of at least 2, and at least one case.")
    order = sorted(range(len(cases)), key=lambda index: len(cases[index].encoded.ids))
    figures: dict[int, dict[str, float]] = {}
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        logits_BV = _next_logits(model, [cases[index].encoded for index in batch])
        figures |= dict(zip(batch, first_token_figures(logits_BV, k), strict=True))
    conditions = []
    for condition in dict.fromkeys(case.condition for case in cases):
        own = [figures[index] for index, case in enumerate(cases) if case.condition == condition]
        means = {name: mean_with_interval([row[name] for row in own], seed=seed) for name in FIGURES}
        conditions.append({"condition": condition, "n": len(own), **means})
    return {"k": k, "conditions": conditions}


def first_token_figures(logits_BV: Tensor, k: int) -> list[dict[str, float]]:
    """Return, per row, how spread and how sharp the `k` most probable tokens are.

    `entropy` (nats) and `normalised_entropy` (over ln k, in [0, 1]) are of the k tokens among themselves; `gap` (first
    minus second) and `top_k_mass` are in probability over the whole vocabulary.

    Args:
        logits_BV: (B, V) scores of the next token.
        k: Tokens looked at, from 2 to V.
    """
    top_BK = logits_BV.double().softmax(dim=-1).topk(k).values
    mass_B = top_BK.sum(dim=-1)
    share_BK = top_BK / mass_B[:, None]
    entropy_B = -torch.xlogy(share_BK, share_BK).sum(dim=-1)
    columns = (entropy_B, entropy_B / math.log(k), top_BK[:, 0] - top_BK[:, 1], mass_B)
    return [dict(zip(FIGURES, row, strict=True)) for row in torch.stack(columns, dim=1).tolist()]


def _next_logits(model: SafeSignalModel, encoded: Sequence[Encoded]) -> Tensor:
    """Return the base model's (B, V) scores after each conversation; no check is read."""
    forward = model.forward_signal
    logits_BV, _ = forward.feed(forward.new_state(len(encoded)), [one.ids for one in encoded], [[] for _ in encoded])
    assert logits_BV is not None
    return logits_BV


def _cut(encoded: Encoded, depth: int) -> Encoded:
    """Keep the first `depth` tokens of the prefill."""
    end = encoded.text + depth
    return Encoded(encoded.ids[:end], encoded.roles[:end])
