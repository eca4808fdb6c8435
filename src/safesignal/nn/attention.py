"""Attention for a few query rows over grouped key/value heads, without repeating the cache.

With two query rows and a mask, the stock SDPA path repeats K and V for every group (`repeat_kv`), which turns a
3 ms attention into a 127 ms one at context 1024. Folding the group into the query rows gives the same numbers from
the cache as it lies.

Shapes: B batch, H query heads, G key/value heads, N = H / G heads per group, Q query rows, S columns, D head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["grouped_attention", "plain_where_quicker"]

_MOST_PLAIN = 160 * 160
"""Rows x columns up to which plain attention was the quicker one to differentiate, and its weights are still small."""
_SWITCH = RLock()
"""The choice of a backend is the process's: one forward at a time may make it."""


@contextmanager
def plain_where_quicker(rows: int, columns: int, device: torch.device) -> Iterator[None]:
    """Take torch's plain attention for a small forward with gradients under bfloat16 autocast on a CPU.

    The fused kernel's backward pass is slow there: a quarter of a training step on short prompts (docs/LOG.md). The two
    differ by rounding alone. Not for a forward that activation checkpointing runs again, outside of this.
    """
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if half and device.type == "cpu" and torch.is_grad_enabled() and rows * columns <= _MOST_PLAIN:
        with _SWITCH, sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


def grouped_attention(
    query_BHQD: Tensor, key_BGSD: Tensor, value_BGSD: Tensor, attend_B1QS: Tensor, scale: float | None
) -> Tensor:
    """Compute masked attention with the query heads of a group folded into its query rows.

    Equals ``scaled_dot_product_attention`` over repeated keys and values (tests/nn/test_attention.py).

    Args:
        query_BHQD: (B, H, Q, D) queries.
        key_BGSD: (B, G, S, D) keys, H a multiple of G.
        value_BGSD: (B, G, S, D) values.
        attend_B1QS: (B, 1, Q, S) bool, True where the row may see the column; or additive floats.
        scale: Factor on the scores; None for 1 / sqrt(D).

    Returns:
        (B, H, Q, D) attention output.
    """
    batch, heads, rows, size = query_BHQD.shape
    groups = key_BGSD.shape[1]
    folded = (batch, groups, heads // groups * rows, size)
    attend_B1NS = attend_B1QS.repeat(1, 1, heads // groups, 1)
    output = F.scaled_dot_product_attention(
        query_BHQD.reshape(folded), key_BGSD, value_BGSD, attn_mask=attend_B1NS, scale=scale
    )
    return output.reshape(batch, heads, rows, value_BGSD.shape[-1])
