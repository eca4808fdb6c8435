"""Narrow products equal the stock ones to rounding, touch nothing else, and leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from safesignal.nn.narrow import NarrowProducts, narrow_linear


def _layer(*, bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias, dtype=dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 4), (1, 33), (1, 1), (2,), (1, 32)])
def test_equals_the_stock_product(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = _layer(bias=bias), torch.randn(*shape, 24)
    with torch.no_grad():
        found, expected = narrow_linear(layer, x), F.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.shape == expected.shape
    assert found.is_contiguous()


def test_other_dtypes_and_gradients_take_the_stock_product() -> None:
    half, x = _layer(dtype=torch.bfloat16), torch.randn(1, 2, 24)
    with torch.no_grad():
        assert torch.equal(narrow_linear(half, x.bfloat16()), half(x.bfloat16()))
    layer = _layer()
    x.requires_grad_()
    narrow_linear(layer, x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0, 0], layer.weight.sum(dim=0))


def test_layers_are_turned_inside_the_block_only() -> None:
    layer, subclass = _layer(), type("Other", (nn.Linear,), {})(24, 40)
    products = NarrowProducts([layer, subclass, nn.LayerNorm(24)])
    with products.turned():
        assert "forward" in layer.__dict__
        assert "forward" not in subclass.__dict__
    assert "forward" not in layer.__dict__


def test_another_owner_of_forward_keeps_it_inside_the_block_too() -> None:
    """accelerate's `forward` brings weights and inputs to one device; going around it fails or reads no weights."""
    layer = _layer()
    layer.__dict__["forward"] = before = lambda x: x
    with NarrowProducts([layer]).turned():
        assert layer.__dict__["forward"] is before
    assert layer.__dict__["forward"] is before


def test_no_trace_is_left_after_an_error() -> None:
    layer = _layer()
    with pytest.raises(RuntimeError, match="inside"), NarrowProducts([layer]).turned():
        raise RuntimeError("inside")
    assert "forward" not in layer.__dict__
