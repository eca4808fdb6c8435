"""What gradient and search attacks read from a model beside its answers: likelihoods and gradients of text and signal.

The text of a gated model is the base model's own, so its likelihoods and gradients go through the base; a query's
signal has a gradient where a reader reads it anew.

Shapes: B batch, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from safesignal.errors import UsageError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.likelihood import answer_likelihoods
from safesignal.modeling.sight import Sight

__all__ = ["answer_losses", "embedding_gradient", "require_reader", "signal_gradient"]


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


def signal_gradient(forward: SignalForward, prompt: Encoded) -> tuple[Tensor, Tensor]:
    """Return how far a query leans to malicious, and the gradient of that at all input embeddings.

    Args:
        forward: Whose adapter has a reader of queries.
        prompt: Read whole and as it is typed, without a prefill.

    Returns:
        The () log-odds and the (T, D) gradient, in the embeddings' dtype.

    Raises:
        UsageError: If the adapter has no reader.
    """
    require_reader(forward)
    kept: list[Tensor] = []

    def keep(_: object, __: object, embeds: Tensor) -> Tensor:
        kept.append(embeds.detach().requires_grad_())
        return kept[-1]

    with forward.lock, torch.enable_grad():
        handle = forward.base.get_input_embeddings().register_forward_hook(keep)
        try:
            scores_12 = forward.reread([Sight(((0, len(prompt.ids)),), 0, prompt=prompt)])
        finally:
            handle.remove()
        odds = scores_12[0, 1] - scores_12[0, 0]
        (gradient_1TD,) = torch.autograd.grad(odds, kept)
    return odds.detach(), gradient_1TD[0]


def require_reader(forward: SignalForward) -> None:
    """Raise if queries have no gradient.

    Raises:
        UsageError: If the adapter has no reader.
    """
    if forward.adapter.reader is None:
        raise UsageError("the adapter has no reader of queries. Expected one: its reading is what has a gradient.")


def _accurate(values: Tensor) -> torch.dtype:
    """Return float32, or what is wider."""
    return torch.promote_types(values.dtype, torch.float32)
