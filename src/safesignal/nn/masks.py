"""Who sees what: attention masks as tables. True always means "this row may see this column".

Layout of one forward. Columns: W cached text, then T new text tokens, then K safety rows. Rows: the T text tokens,
then the K safety rows. Every sequence of the batch is right-aligned: the last `length` cached columns are its own,
whatever lies before is padding.

Shapes: B batch, T text tokens, K safety rows, Q = T + K, W cached columns, S = W + T + K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["additive", "right_aligned", "safety_mask", "text_mask"]


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


def safety_mask(text_BTC: Tensor, spans_BKC: Tensor) -> Tensor:
    """Join text rows and safety rows into one mask: no text row sees a safety row, each safety row sees its span.

    Args:
        text_BTC: (B, T, C) bool from :func:`text_mask`, C = W + T text columns; T may be 0.
        spans_BKC: (B, K, C) bool, True where the safety row may see the text column.

    Returns:
        (B, 1, T + K, C + K) bool. Safety rows see themselves and never one another; a row that would see nothing
        (padding) sees its own column, so that no softmax is empty.
    """
    batch, rows, columns = text_BTC.shape
    checks = spans_BKC.shape[1]
    attend = torch.zeros(batch, 1, rows + checks, columns + checks, dtype=torch.bool, device=text_BTC.device)
    attend[:, 0, :rows, :columns] = text_BTC
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
