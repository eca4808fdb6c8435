"""Who sees what: attention masks as tables. True always means "this row may see this column".

Layout of one forward. Columns: W cached text, then T new text tokens, then K safety rows. Rows: the T text tokens,
then the K safety rows. Every sequence of the batch is right-aligned: the last `length` cached columns are its own,
whatever lies before is padding.

Where answer tokens see the signal (the joint recipe), one more column may come last: the *stored* check, the latest of
an earlier forward.

Shapes: B batch, T text tokens, K safety rows, Q = T + K query rows, W cached columns, C = W + T text columns, M = K or
K + 1 columns of checks, S = C + M.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["additive", "latest_check", "right_aligned", "safety_mask", "text_mask", "visible"]


def text_mask(query_pos_BT: Tensor, key_pos_BC: Tensor, window: int | None = None) -> Tensor:
    """Return which cached and new text columns each text row sees: causal, padding hidden, optionally windowed.

    Args:
        query_pos_BT: (B, T) positions of the text rows; -1 marks padding, which sees nothing here.
        key_pos_BC: (B, C) positions of the text columns; -1 marks padding, which nobody sees.
        window: Sliding-window size in tokens, the row's own included; None for full attention.

    Returns:
        (B, T, C) bool.
    """
    query, key = query_pos_BT[:, :, None], key_pos_BC[:, None, :]
    attend_BTC = (key >= 0) & (key <= query)
    if window is not None:
        attend_BTC &= query - key < window
    return attend_BTC


def visible(key_pos_BC: Tensor, ranges: Sequence[Sequence[Sequence[tuple[int, int]]]], checks: int) -> Tensor:
    """Return which text columns each safety row sees.

    Args:
        key_pos_BC: (B, C) positions of the text columns; -1 marks padding, which nobody sees.
        ranges: Per row and check, the (start, end) positions it sees.
        checks: K; rows with fewer are filled up with checks that see nothing.

    Returns:
        (B, K, C) bool.
    """
    most = max((len(own) for row in ranges for own in row), default=1)
    table = torch.full((len(ranges), checks, most, 2), -2, dtype=torch.long)
    for b, row in enumerate(ranges):
        for k, own in enumerate(row):
            table[b, k, : len(own)] = torch.tensor(own)
    keys = key_pos_BC[:, None, None, :]
    return ((keys >= table[..., :1]) & (keys < table[..., 1:])).any(dim=2)


def latest_check(query_pos_BT: Tensor, since_BK: Tensor, stored_B: Tensor | None = None) -> Tensor:
    """Return which check each text row sees: exactly one, the latest that was complete before the row's token.

    A check is visible from position `since` on. Of several, the one with the largest `since` counts, of equal ones the
    last; the stored check counts where none of this forward does.

    Args:
        query_pos_BT: (B, T) positions of the text rows; -1 marks padding, which sees none.
        since_BK: (B, K) first position that may see the check; -1: nobody.
        stored_B: (B,) the same for the stored checks; None if there is no such column.

    Returns:
        (B, T, M) bool, M = K, or K + 1 with the stored check last.
    """
    since_B1K, query_BT1 = since_BK[:, None, :], query_pos_BT[:, :, None]
    checks = since_BK.shape[1]
    order_B1K = since_B1K * checks + torch.arange(checks, device=since_BK.device)
    seen_BTK = (since_B1K >= 0) & (since_B1K <= query_BT1)
    latest_BT1 = F.pad(torch.where(seen_BTK, order_B1K, -1), (0, 1), value=-1).amax(dim=2, keepdim=True)
    latest_BTK = seen_BTK & (order_B1K == latest_BT1)
    if stored_B is None:
        return latest_BTK
    stored_B11 = stored_B[:, None, None]
    stored_BT1 = (stored_B11 >= 0) & (stored_B11 <= query_BT1) & ~seen_BTK.any(dim=2, keepdim=True)
    return torch.cat([latest_BTK, stored_BT1], dim=2)


def safety_mask(text_BTC: Tensor, spans_BKC: Tensor, checks_BTM: Tensor | None = None) -> Tensor:
    """Join text rows and safety rows into one mask: each safety row sees its span, text rows the checks given.

    Args:
        text_BTC: (B, T, C) bool from :func:`text_mask`, C = W + T text columns; T may be 0.
        spans_BKC: (B, K, C) bool, True where the safety row may see the text column.
        checks_BTM: (B, T, M) bool from :func:`latest_check`, M = K or K + 1; None: no text row sees a check, M = K.

    Returns:
        (B, 1, T + K, C + M) bool. Safety rows see themselves and never one another; a row that would see nothing
        (padding) sees its own column, so that no softmax is empty.
    """
    batch, rows, columns = text_BTC.shape
    checks = spans_BKC.shape[1]
    shown = checks if checks_BTM is None else checks_BTM.shape[2]
    attend = torch.zeros(batch, 1, rows + checks, columns + shown, dtype=torch.bool, device=text_BTC.device)
    attend[:, 0, :rows, :columns] = text_BTC
    if checks_BTM is not None:
        attend[:, 0, :rows, columns:] = checks_BTM
    attend[:, 0, rows:, :columns] = spans_BKC
    own = torch.arange(rows + checks, device=attend.device)
    blind_BQ = ~attend[:, 0].any(dim=-1)
    blind_BQ[:, rows:] = True
    attend[:, 0, own, own + columns - rows] |= blind_BQ
    return attend


def additive(attend: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask for backends that add it to the scores: 0 where True, the dtype's minimum where False.

    A bool mask handed to an adding backend would read as +1 / +0 and hide nothing: fail open.
    """
    return torch.zeros(attend.shape, dtype=dtype, device=attend.device).masked_fill_(~attend, torch.finfo(dtype).min)


def right_aligned(values: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    """Return rows of unequal length as (B, width) long, each ending in the last column, `fill` before."""
    return torch.tensor([[fill] * (width - len(row)) + list(row) for row in values], dtype=torch.long)


def last_columns(width: int, count: int) -> Tensor:
    """Return the (count,) indices of the last columns, for `logits_to_keep`.

    Indices, not a number: transformers would slice, and torch's CPU products read a strided slice of several rows one
    number at a time (64 rows of SmolLM2's output layer: 0.98 s instead of 0.07, in bfloat16 22 s; docs/LOG.md).
    """
    return torch.arange(width - count, width)
