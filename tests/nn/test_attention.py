"""Grouped attention is plain attention over repeated keys and values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from safesignal.nn.attention import grouped_attention
from safesignal.nn.masks import additive


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 2), (6, 2), (9, 3), (4, 1)])
@pytest.mark.parametrize("scale", [None, 0.37])
def test_equals_attention_over_repeated_heads(rows: int, heads: int, groups: int, scale: float | None) -> None:
    batch, columns, size, value_size = 2, 13, 8, 6
    query = torch.randn(batch, heads, rows, size)
    key = torch.randn(batch, groups, columns, size)
    value = torch.randn(batch, groups, columns, value_size)
    attend = torch.rand(batch, 1, rows, columns) < 0.5
    attend[..., -1] = True
    keys, values = (x.repeat_interleave(heads // groups, dim=1) for x in (key, value))
    expected = F.scaled_dot_product_attention(query, keys, values, attn_mask=attend, scale=scale)
    torch.testing.assert_close(grouped_attention(query, key, value, attend, scale), expected, atol=1e-6, rtol=1e-5)
    added = grouped_attention(query, key, value, additive(attend, torch.float32), scale)
    torch.testing.assert_close(added, expected, atol=1e-6, rtol=1e-5)


def test_reads_a_slice_of_a_larger_buffer_as_it_lies() -> None:
    query, buffer = torch.randn(1, 4, 2, 8), torch.randn(2, 1, 2, 64, 8)
    attend = torch.ones(1, 1, 2, 10, dtype=torch.bool)
    key, value = buffer[0, :, :, :10], buffer[1, :, :, :10]
    expected = grouped_attention(query, key.contiguous(), value.contiguous(), attend, None)
    torch.testing.assert_close(grouped_attention(query, key, value, attend, None), expected)
