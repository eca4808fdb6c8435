"""What the defence costs in ability: tasks, perplexity of ordinary answers, the distance from the base model.

The gated recipe promises that text is computed by the base model alone. That is measured here, not assumed: the same
answer is fed token by token as decoding would, once without checks, once with checks in passes of their own, once with
checks fused into the text's pass, and the next-token distributions are compared.

Shapes: T answer tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from safesignal.errors import UsageError
from safesignal.evals.bootstrap import ratio_with_interval
from safesignal.evals.lm_harness import run_harness
from safesignal.evals.schema import rate_row
from safesignal.evals.scorer import GuardedScorer, run_local_task
from safesignal.evals.tasks import Task
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.rows import Row
from safesignal.rules import Policy, Schedule
from safesignal.stats import Rate
from safesignal.types import Span

__all__ = ["fed_logprobs", "run_perplexity", "run_utility"]

Checks = Literal["off", "separate", "fused"]


def run_utility(
    scorer: GuardedScorer,
    texts: Sequence[tuple[str, str]],
    tasks: Sequence[Task | str],
    *,
    runner: Literal["auto", "lm-eval", "local"] = "auto",
    limit: int | None = None,
    max_new_tokens: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the content of `utility.json`: perplexity and distance from the base model, and a row per task.

    Args:
        scorer: The model, with its signal or without.
        texts: (prompt, answer) pairs of ordinary text; empty leaves perplexity out.
        tasks: Local tasks, or names of lm-eval's own.
        runner: `auto` takes lm-eval where it is installed. Both give the same figures for local tasks.
        limit: Most questions of lm-eval's own tasks.
        max_new_tokens: Length of a generated answer in local tasks.
        seed: Of the bootstrap.

    Raises:
        UsageError: If a task needs lm-eval and it is not installed, or was not chosen.
    """
    how: dict[str, Any] = {"signal": scorer.signal, "policy": scorer.policy, "schedule": scorer.schedule, "seed": seed}
    found = run_perplexity(scorer.model, texts, **how) if texts else {}
    harness = runner == "lm-eval" or (runner == "auto" and find_spec("lm_eval") is not None)
    if harness:
        return found | {
            "tasks": run_harness(scorer, tasks, limit=limit, max_new_tokens=max_new_tokens) if tasks else []
        }
    rows = []
    for task in tasks:
        if isinstance(task, str):
            raise UsageError(f"task `{task}` is lm-eval's. Expected local tasks only.", hint="install `lm-eval`")
        rows.append(run_local_task(scorer, task, max_new_tokens=max_new_tokens))
    return found | {"tasks": rows}


def run_perplexity(
    model: SafeSignalModel,
    texts: Sequence[tuple[str, str]],
    *,
    signal: bool = True,
    policy: Policy | None = None,
    schedule: Schedule | None = None,
    max_tokens: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Return perplexity and KL figures on ordinary prompts and answers.

    Args:
        model: The guarded model.
        texts: (prompt, answer) pairs.
        signal: Measure with checks beside the base model; False gives the base's perplexity alone.
        policy: Under which text is read, and whose threshold tells a refused prompt; None takes the balanced preset.
        schedule: When answers are checked; None takes the adapter's.
        max_tokens: Most tokens of an answer that are read.
        seed: Of the bootstrap, which resamples texts.

    Raises:
        UsageError: If no text has an answer.
    """
    encoded = [_cut(one, max_tokens) for one in (model.encode_one(*text) for text in texts) if one.prefill]
    if not encoded:
        raise UsageError(f"none of {len(texts)} texts has an answer. Expected pairs of a prompt and an answer.")
    threshold = (policy or model.policy()).threshold
    losses: dict[str, list[Tensor]] = {"base": [], "guarded": []}
    divergences: dict[str, list[Tensor]] = {"separate": [], "fused": []}
    refused = []
    for one in encoded:
        base_TV, _ = fed_logprobs(model, one, "off")
        losses["base"].append(_loss(base_TV, one))
        if not signal:
            continue
        separate_TV, _ = fed_logprobs(model, one, "separate", policy, schedule)
        fused_TV, query = fed_logprobs(model, one, "fused", policy, schedule)
        refused.append(query >= threshold)
        losses["guarded"].append(_loss(fused_TV, one))
        divergences["separate"].append(_divergence(base_TV, separate_TV))
        divergences["fused"].append(_divergence(base_TV, fused_TV))
    found = {
        "n_texts": len(encoded),
        "n_tokens": sum(one.prefill for one in encoded),
        "perplexity": {name: _perplexity(own, seed) for name, own in losses.items() if own},
    }
    if not signal:
        return found
    return found | {
        "kl_per_token": {name: _per_token(own, seed) for name, own in divergences.items()},
        "prompts_refused": rate_row(Rate.of(refused)),
    }


@torch.no_grad()
def fed_logprobs(
    model: SafeSignalModel,
    one: Encoded,
    checks: Checks,
    policy: Policy | None = None,
    schedule: Schedule | None = None,
) -> tuple[Tensor, float]:
    """Return the (T, V) next-token log-probabilities before each answer token, and the query signal (NaN if off).

    The answer is forced through the loop's own steps: the prompt with the query check, then one token at a time with
    whatever check is due. Verdicts are ignored.

    Args:
        model: The guarded model.
        one: A prompt with its answer as the prefill, at least one token.
        checks: `off` is the bare base model.
        policy: Windows, and whether text sees the signal; None takes the adapter's balanced preset.
        schedule: When the answer is checked; None takes the adapter's.
    """
    forward, fused = model.forward_signal, checks == "fused"
    prompt = Encoded(one.ids[: one.text], one.roles[: one.text])
    policy = replace(policy or model.policy(), dependence="low")
    row = Row(0, prompt, policy, schedule or model.schedule(), watch=checks != "off")
    state, found, query = forward.new_state(1), [], float("nan")
    for token in one.ids[one.text :]:
        span = row.due() if row.fed else Span(query=True) if row.watch else None
        sights = [forward.sight(row.ranges(span), row.since(span), row.to_read(span))] if span is not None else []
        logits_1V, (signals,) = forward.feed(state, [row.pending], [sights], fused=fused)
        state.advance([len(row.pending)])
        assert logits_1V is not None
        found.append(logits_1V[0].double().log_softmax(dim=-1))
        if span is not None and row.fed:
            row.observe(signals[0], span)
        elif span is not None:
            query = signals[0]
        row.fed = len(row.ids)
        row.ids.append(token)
    return torch.stack(found), query


def _loss(logprobs_TV: Tensor, one: Encoded) -> Tensor:
    """Return the (T,) negative log-likelihood of the answer's tokens, nats."""
    target_T = torch.tensor(one.ids[one.text :], device=logprobs_TV.device)
    return -logprobs_TV.gather(1, target_T[:, None])[:, 0]


def _divergence(base_TV: Tensor, other_TV: Tensor) -> Tensor:
    """Return the (T,) KL(base || other), nats."""
    return (base_TV.exp() * (base_TV - other_TV)).sum(dim=-1)


def _perplexity(losses: Sequence[Tensor], seed: int) -> dict[str, float | int]:
    """Return exp of the mean loss per token; the interval resamples whole texts."""
    mean = _mean_per_token(losses, seed)
    return {**{name: float(np.exp(mean[name])) for name in ("value", "low", "high")}, "n": mean["n"]}


def _per_token(divergences: Sequence[Tensor], seed: int) -> dict[str, Any]:
    return {"mean": _mean_per_token(divergences, seed), "max": max(float(one.max()) for one in divergences)}


def _mean_per_token(texts: Sequence[Tensor], seed: int) -> dict[str, float | int]:
    """Return the mean over all tokens of (T,) figures per text; tokens of a text go together when texts are drawn."""
    counts = [float(text.numel()) for text in texts]
    return {**ratio_with_interval([float(text.sum()) for text in texts], counts, seed=seed), "n": int(sum(counts))}


def _cut(one: Encoded, tokens: int) -> Encoded:
    """Keep the first `tokens` of the answer."""
    end = one.text + min(tokens, one.prefill)
    return Encoded(one.ids[:end], one.roles[:end])
