"""The language-model loss on chosen tokens, and a base model made ready to be tuned.

Shapes: B batch, T tokens, D features, N supervised tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from safesignal.align.config import AlignConfig
from safesignal.errors import ModelError, UsageError
from safesignal.modeling.likelihood import logits_of

__all__ = [
    "LmFigures",
    "Supervised",
    "answer_losses",
    "checkpointing",
    "decoder_layers",
    "prepare_base",
    "summed_losses",
]

_SCALES = ("logit_scale", "logits_scaling")
"""Config fields by which a family changes its scores after the output layer, in ways not done here."""


@dataclass(frozen=True, slots=True)
class LmFigures:
    """Validation of a language-model loss.

    Attributes:
        loss: Mean over the supervised tokens, nats.
        n: Supervised tokens.
    """

    loss: float
    n: int

    @property
    def perplexity(self) -> float:
        """exp(loss), kept finite."""
        return math.exp(min(self.loss, 50.0))

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values, rounded for a file."""
        return {"loss": round(self.loss, 5), "perplexity": round(self.perplexity, 3), "n": self.n}

    def __str__(self) -> str:
        """Return the line that a user reads while a run goes on."""
        return f"validation loss {self.loss:.3f}  perplexity {self.perplexity:.2f}"


@dataclass(frozen=True, slots=True)
class Supervised:
    """Ids of which the model learns the tail.

    Attributes:
        ids: Token ids, at least one before `start`.
        start: Index of the first token that is learnt.
    """

    ids: Sequence[int]
    start: int

    @property
    def count(self) -> int:
        """Number of tokens that are learnt."""
        return len(self.ids) - self.start


def decoder_layers(base: PreTrainedModel) -> list[nn.Module]:
    """Return the layers of a causal language model's decoder, first to last."""
    lists = [list(module) for module in base.get_decoder().children() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


def prepare_base(base: PreTrainedModel, config: AlignConfig) -> None:
    """Make a base ready to be tuned, in place: frozen for LoRA, else in fp32 with gradients; never with dropout.

    Dropout would make a step depend on how it is split over passes and processes.

    Raises:
        ModelError: If the family changes its scores in a way that is not known here.
    """
    scaled = [name for name in _SCALES if getattr(base.config.get_text_config(), name, None) not in (None, 1, 1.0)]
    if scaled:
        raise ModelError(f"{base.config.model_type} models use `{scaled[0]}`, which this loss leaves out.")
    base.eval()
    if config.tuning == "full":
        base.float()
    base.requires_grad_(config.tuning == "full")
    if config.activation_checkpointing:
        if not base.supports_gradient_checkpointing:
            raise UsageError(
                f"align.activation_checkpointing is on, and {base.config.model_type} models have none. Expected off."
            )
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


@contextmanager
def checkpointing(base: PreTrainedModel, *, on: bool) -> Iterator[None]:
    """Let decoder layers drop their activations for one forward: transformers does so in training mode alone.

    Everything in the layers that would draw noise in that mode is kept out of it.
    """
    if not on:
        yield
        return
    noisy = [module for module in base.modules() if isinstance(getattr(module, "attention_dropout", None), float)]
    rates = [module.attention_dropout for module in noisy]
    base.train()
    for module in base.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for module in noisy:
        setattr(module, "attention_dropout", 0.0)  # noqa: B010 - torch types it as a tensor
    try:
        yield
    finally:
        base.eval()
        for module, rate in zip(noisy, rates, strict=True):
            setattr(module, "attention_dropout", rate)  # noqa: B010


def answer_losses(base: PreTrainedModel, batch: Sequence[Supervised]) -> Tensor:
    """Return the (B,) cross-entropy of each row, summed over its supervised tokens; scores are computed for those only.

    Their sum equals transformers' own loss with labels of -100 elsewhere, times the number of supervised tokens
    (tests/align/test_sft.py).

    Args:
        base: A causal language model.
        batch: Rows; padded on the right here.
    """
    width, device = max(len(one.ids) for one in batch), base.device
    ids_BT = torch.tensor([[*one.ids, *[0] * (width - len(one.ids))] for one in batch], device=device)
    mask_BT = torch.tensor([[1] * len(one.ids) + [0] * (width - len(one.ids)) for one in batch], device=device)
    hidden_BTD = base.get_decoder()(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
    return summed_losses(base, hidden_BTD, batch, [0] * len(batch))


def summed_losses(
    base: PreTrainedModel, hidden_BTD: Tensor, batch: Sequence[Supervised], begins: Sequence[int]
) -> Tensor:
    """Return the (B,) cross-entropy of each row, summed over its supervised tokens, from last hidden states.

    Args:
        base: Gives the output layer.
        hidden_BTD: (B, T, D) last hidden states.
        batch: Rows.
        begins: Per row, the column of its first token.
    """
    device = hidden_BTD.device
    places = [
        (row, begin + at, one.ids[at])
        for row, (one, begin) in enumerate(zip(batch, begins, strict=True))
        for at in range(one.start, len(one.ids))
    ]
    rows_N, columns_N, targets_N = torch.tensor(places, dtype=torch.long, device=device).reshape(-1, 3).unbind(dim=1)
    losses_N = F.cross_entropy(logits_of(base, hidden_BTD[rows_N, columns_N - 1]), targets_N, reduction="none")
    return losses_N.new_zeros(len(batch)).index_add(0, rows_N, losses_N)
