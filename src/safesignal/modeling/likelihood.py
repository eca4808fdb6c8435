"""How likely a model finds answers that are given: read once, scores computed for the answers' tokens alone.

Shapes: B batch, T tokens, K safety rows, N chosen tokens, A tokens of one answer, D hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safesignal.errors import SignalError, UsageError
from safesignal.nn.masks import last_columns, right_aligned

if TYPE_CHECKING:
    from safesignal.modeling.forward import SignalForward

__all__ = ["Likelihood", "answer_likelihoods", "logits_of", "surprises", "watched_likelihoods"]

Ids = Sequence[int]

_AT_ONCE = 256
"""Tokens whose scores over the whole vocabulary are in memory at once."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a model makes of one answer.

    Attributes:
        logprobs_A: (A,) log-probability of each token after those before it, nats; float32 or what is wider.
        greedy: Whether greedy decoding would write every one of them.
    """

    logprobs_A: Tensor
    greedy: bool


@torch.no_grad()
def answer_likelihoods(base: PreTrainedModel, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[Likelihood]:
    """Read each answer after its prompt, all in one batch; a row does not depend on its neighbours.

    Args:
        base: A causal language model.
        prompts: Per row, the ids before the answer, at least one.
        answers: Per row, the ids of the answer, at least one.

    Raises:
        UsageError: If a row has no prompt or no answer.
    """
    rows = _rows(prompts, answers)
    width, device = max(map(len, rows)), base.device
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    logits_BAV = base(
        input_ids=right_aligned(rows, width, 0).to(device),
        attention_mask=mask_BT.to(device),
        position_ids=(mask_BT.cumsum(dim=1) - 1).clamp(min=0).to(device),
        logits_to_keep=last_columns(width, max(map(len, answers))).to(device),
        use_cache=False,
    ).logits
    return [_told(logits_AV[-len(answer) :], answer) for logits_AV, answer in zip(logits_BAV, answers, strict=True)]


@torch.no_grad()
def watched_likelihoods(
    forward: SignalForward,
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    queries: Sequence[Sequence[tuple[int, int]]],
) -> list[Likelihood]:
    """Return the same where answers see the signal, as the joint recipe trains them: with the check of the query.

    Args:
        forward: A joint model.
        prompts: Per row, the ids before the answer.
        answers: Per row, the ids of the answer.
        queries: Per row, the (start, end) positions of the prompt that [CLS] sees.

    Raises:
        UsageError: If a row has no prompt or no answer.
    """
    rows = _rows(prompts, answers)
    sights = [[forward.sight(own, since=len(prompt))] for own, prompt in zip(queries, prompts, strict=True)]
    text_BTD = forward.train_pass(rows, sights)[:, : max(map(len, rows))]
    return [
        _told(logits_of(forward.base, hidden_TD[-len(answer) :]), answer)
        for hidden_TD, answer in zip(text_BTD, answers, strict=True)
    ]


@torch.no_grad()
def surprises(base: PreTrainedModel, hidden_ND: Tensor, ids: Ids) -> list[float]:
    """Return what tokens cost whoever left the last hidden states before them, nats each, a few at a time.

    Raises:
        SignalError: If one is no finite number.
    """
    parts = []
    for at in range(0, len(ids), _AT_ONCE):
        logprobs_NV = logits_of(base, hidden_ND[at : at + _AT_ONCE]).log_softmax(dim=-1)
        parts += _chosen(logprobs_NV, ids[at : at + _AT_ONCE]).neg().tolist()
    if not all(map(math.isfinite, parts)):
        raise SignalError("a token of the prompt costs no finite number of nats. Expected one for each.")
    return parts


def logits_of(base: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """Return the (N, V) scores of hidden states in fp32, Gemma's soft cap included."""
    logits_NV: Tensor = base.get_output_embeddings()(hidden_ND).float()
    cap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
    return logits_NV if not cap else cap * torch.tanh(logits_NV / cap)


def _rows(prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[list[int]]:
    """Join prompts and answers; the last token predicts nothing that is asked for."""
    if len(prompts) != len(answers) or not prompts or not all(prompts) or not all(answers):
        raise UsageError(f"{len(prompts)} prompts and {len(answers)} answers, some empty. Expected tokens in each.")
    return [[*prompt, *answer][:-1] for prompt, answer in zip(prompts, answers, strict=True)]


def _told(logits_AV: Tensor, answer: Ids) -> Likelihood:
    logprobs_AV = logits_AV.to(torch.promote_types(logits_AV.dtype, torch.float32)).log_softmax(dim=-1)
    logprobs_A = _chosen(logprobs_AV, answer)
    greedy = logprobs_AV.argmax(dim=-1).tolist() == list(answer)
    return Likelihood(logprobs_A, greedy)


def _chosen(logprobs_NV: Tensor, ids: Ids) -> Tensor:
    """Return the (N,) log-probabilities of the tokens that stand there."""
    return logprobs_NV.gather(1, torch.tensor(ids, device=logprobs_NV.device)[:, None])[:, 0]
