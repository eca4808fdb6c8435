"""Conversations as a batch, and encoded conversations as the tensors that `generate` takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import BatchEncoding

from safesignal.errors import UsageError
from safesignal.modeling.chat import Encoded, Message
from safesignal.modeling.output import Answer
from safesignal.types import Role

__all__ = ["Conversation", "as_batch", "from_tensors", "lay_out", "to_tensors"]

Conversation = str | Sequence[Message]
"""A prompt, or messages with roles."""


def as_batch(conversations: Conversation | Sequence[Conversation]) -> list[Conversation]:
    """Return a list of conversations, whether one or several were given."""
    if isinstance(conversations, str):
        return [conversations]
    if isinstance(conversations, Mapping) or not isinstance(conversations, Sequence):
        raise UsageError(
            f"a conversation is a {type(conversations).__name__}. Expected a prompt, messages, or a list of either.",
            hint='one message is a list too: `[{"role": "user", "content": "…"}]`',
        )
    if not conversations:
        raise UsageError("there is no conversation. Expected a prompt, messages, or a list of either.")
    if isinstance(conversations[0], Mapping):
        return [conversations]  # type: ignore[list-item]
    return list(conversations)  # type: ignore[arg-type]


def to_tensors(encoded: Sequence[Encoded], pad: int) -> BatchEncoding:
    """Return `input_ids`, `attention_mask` and `roles`, each (B, T) long, left-padded."""
    width = max(len(one.ids) for one in encoded)
    rows = [(width - len(one.ids), one) for one in encoded]
    data = {
        "input_ids": torch.tensor([[pad] * gap + list(one.ids) for gap, one in rows]),
        "attention_mask": torch.tensor([[0] * gap + [1] * len(one.ids) for gap, one in rows]),
        "roles": torch.tensor([[int(Role.PADDING)] * gap + [int(role) for role in one.roles] for gap, one in rows]),
    }
    return BatchEncoding(data)


def from_tensors(input_ids: Tensor, attention_mask: Tensor | None, roles: Tensor | None) -> list[Encoded]:
    """Read back what :func:`to_tensors` made; nothing is guessed from ids.

    Raises:
        UsageError: If roles are missing, do not fit the ids or the mask, or describe no conversation.
    """
    if roles is None:
        raise UsageError(
            "`generate` got ids without roles, so it cannot tell the query from the template. Expected `roles` (B, T).",
            hint="`inputs = model.encode(messages, prefill=...)`, then `model.generate(**inputs)`",
        )
    if input_ids.dim() != 2:
        raise UsageError(
            f"`input_ids` is {tuple(input_ids.shape)}. Expected (B, T), one row per conversation.",
            hint="`input_ids[None]`, and the same for mask and roles, makes one row",
        )
    shapes = [tuple(roles.shape)] + ([tuple(attention_mask.shape)] if attention_mask is not None else [])
    if any(shape != tuple(input_ids.shape) for shape in shapes):
        raise UsageError(
            f"`roles` is {tuple(roles.shape)} for ids of {tuple(input_ids.shape)}. "
            "Expected ids, mask and roles of the same shape."
        )
    if attention_mask is not None and not torch.equal(attention_mask.bool(), roles != int(Role.PADDING)):
        raise UsageError("`attention_mask` and `roles` disagree about padding. Expected both from `model.encode`.")
    return [_row(ids, own) for ids, own in zip(input_ids.tolist(), roles.tolist(), strict=True)]


def lay_out(encoded: Sequence[Encoded], answers: Sequence[Answer], pad: int, width: int) -> Tensor:
    """Return (B, T + new) ids as transformers lays them out: prompt padded left, answer and end token padded right.

    A prefill that was dropped leaves padding, so that every answer begins at column T = `width`, that of the
    ids which were given, their padding included.
    """
    pairs = list(zip(encoded, answers, strict=True))
    lefts = [list(one.ids[: one.text] if answer.prefill_dropped else one.ids) for one, answer in pairs]
    rights = [[*answer.ids, *([] if answer.end_id is None else [answer.end_id])] for _, answer in pairs]
    right = max(map(len, rights))
    rows = zip(lefts, rights, strict=True)
    return torch.tensor([[pad] * (width - len(a)) + a + b + [pad] * (right - len(b)) for a, b in rows])


def _row(ids: Sequence[int], roles: Sequence[int]) -> Encoded:
    if not set(roles) <= {int(role) for role in Role}:
        raise UsageError(f"`roles` holds {sorted(set(roles) - {int(role) for role in Role})}. Expected {list(Role)}.")
    kept = [(token, Role(role)) for token, role in zip(ids, roles, strict=True) if role != Role.PADDING]
    encoded = Encoded(tuple(token for token, _ in kept), tuple(role for _, role in kept))
    if Role.USER not in encoded.roles or Role.PREFILL in encoded.roles[: encoded.text]:
        raise UsageError(
            "`roles` describes no conversation. Expected user tokens, and a prefill, if any, at the end.",
            hint="take `roles` from `model.encode` as they are",
        )
    return encoded
