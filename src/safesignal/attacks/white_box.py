"""What gradient and search attacks read from a model beside its answers: likelihoods and gradients of the text.

The text of a gated model is the base model's own, so both go through the base; the signal is read by the targets.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from safesignal.errors import UsageError
from safesignal.modeling.likelihood import answer_likelihoods

__all__ = ["answer_losses", "embedding_gradient"]


def answer_losses(base: PreTrainedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
    """Return the (B,) mean negative log-likelihood of answers after their prompts, in nats per answer token.

    A row's loss does not depend on its neighbours.

    Args:
        base: The model.
        prompts: Per row, the ids before the answer, at least one.
        answers: Per row, the ids of the answer, at least one.

    Raises:
        UsageError: If a row has no prompt or no answer.
    """
    found = answer_likelihoods(base, prompts, answers)
    return torch.stack([-one.logprobs_A.mean() for one in found])


def embedding_gradient(base: PreTrainedModel, ids_T: Tensor, loss_from: int) -> tuple[Tensor, Tensor]:
    """Return the mean loss of ids from a position on, and its gradient at all input embeddings.

    Args:
        base: The model; its weights get no gradient.
        ids_T: (T,) long, prompt and wanted answer.
        loss_from: First position whose token is predicted, in [1, T).

    Returns:
        The () loss in nats per token and the (T, D) gradient, in the embeddings' dtype.

    Raises:
        UsageError: If `loss_from` leaves nothing to predict, or nothing to predict it from.
    """
    if not 1 <= loss_from < len(ids_T):
        raise UsageError(f"`loss_from` is {loss_from} of {len(ids_T)} tokens. Expected a position in [1, T).")
    ids_T = ids_T.to(base.device)
    with torch.enable_grad():
        embeds_1TD = base.get_input_embeddings()(ids_T[None]).detach().requires_grad_()
        logits_1TV = base(inputs_embeds=embeds_1TD, use_cache=False).logits
        predicted_NV = logits_1TV[0, loss_from - 1 : -1]
        loss = cross_entropy(predicted_NV.to(_accurate(predicted_NV)), ids_T[loss_from:])
        (gradient_1TD,) = torch.autograd.grad(loss, embeds_1TD)
    return loss.detach(), gradient_1TD[0]


def _accurate(values: Tensor) -> torch.dtype:
    """Return float32, or what is wider."""
    return torch.promote_types(values.dtype, torch.float32)
