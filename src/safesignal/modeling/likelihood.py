"""How likely a model finds answers that are given: read once, scores computed for the answers' tokens alone.

Shapes: B batch, T tokens, A tokens of one answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safesignal.errors import UsageError
from safesignal.nn.masks import right_aligned

__all__ = ["Likelihood", "answer_likelihoods"]


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
def answer_likelihoods(
    base: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[Likelihood]:
    """Read each answer after its prompt, all in one batch; a row does not depend on its neighbours.

    Args:
        base: A causal language model.
        prompts: Per row, the ids before the answer, at least one.
        answers: Per row, the ids of the answer, at least one.

    Raises:
        UsageError: If a row has no prompt or no answer.
    """
    if len(prompts) != len(answers) or not prompts or not all(prompts) or not all(answers):
        raise UsageError(f"{len(prompts)} prompts and {len(answers)} answers, some empty. Expected tokens in each.")
    # The last token predicts nothing that is asked for.
    rows = [[*prompt, *answer][:-1] for prompt, answer in zip(prompts, answers, strict=True)]
    width, device = max(map(len, rows)), base.device
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    logits_BAV = base(
        input_ids=right_aligned(rows, width, 0).to(device),
        attention_mask=mask_BT.to(device),
        position_ids=(mask_BT.cumsum(dim=1) - 1).clamp(min=0).to(device),
        logits_to_keep=max(map(len, answers)),
        use_cache=False,
    ).logits
    found = []
    for logits_AV, answer in zip(logits_BAV, answers, strict=True):
        wanted_A = torch.tensor(answer, device=device)
        own_AV = logits_AV[-len(answer) :]
        logprobs_AV = own_AV.to(torch.promote_types(own_AV.dtype, torch.float32)).log_softmax(dim=-1)
        greedy = bool((logprobs_AV.argmax(dim=-1) == wanted_A).all())
        found.append(Likelihood(logprobs_AV.gather(1, wanted_A[:, None])[:, 0], greedy))
    return found
