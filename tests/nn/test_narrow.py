"""Narrow products equal the stock ones to rounding, touch nothing else, and leave no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from safesignal.nn import narrow
from safesignal.nn.narrow import NarrowProducts, narrow_linear, turned_dtype


@pytest.fixture(autouse=True)
def _an_epyc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every processor be one that turns float32."""
    monkeypatch.setattr(narrow, "turned_dtype", lambda: torch.float32)


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


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f", torch.float32),
        ("vendor_id : GenuineIntel\nflags : fpu avx512f amx_bf16 amx_tile", torch.bfloat16),
        ("vendor_id : GenuineIntel\nflags : fpu avx512f", None),
        ("CPU implementer : 0x41", None),
        (None, None),
    ],
)
def test_products_are_turned_where_that_was_measured_to_win(
    processor: str | None, expected: torch.dtype | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if processor is not None:
        (tmp_path / "cpuinfo").write_text(processor)
    monkeypatch.setattr(narrow, "_PROCESSOR", tmp_path / "cpuinfo")
    assert turned_dtype.__wrapped__() == expected


def test_a_product_is_turned_only_in_that_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, calls = _layer(), torch.randn(1, 2, 24), []

    def turned(weight_OI: torch.Tensor, x_IN: torch.Tensor) -> torch.Tensor:
        calls.append(x_IN.shape)
        return weight_OI @ x_IN

    monkeypatch.setattr(torch, "mm", turned)
    with torch.no_grad():
        narrow_linear(layer, x)
        monkeypatch.setattr(narrow, "turned_dtype", lambda: None)
        narrow_linear(layer, x)
    assert calls == [(24, 2)]


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
