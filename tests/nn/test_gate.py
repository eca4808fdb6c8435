"""The gate: closed it changes nothing, open it touches the trailing rows alone, in doubt it raises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from safesignal.errors import SignalMaskError
from safesignal.nn.gate import GatedLoRA, SignalGate
from tests.support import randomise_

B, T, D_IN, D_OUT, RANK = 2, 5, 12, 8, 3


def gated() -> tuple[SignalGate, nn.Linear, GatedLoRA]:
    gate, layer = SignalGate(), nn.Linear(D_IN, D_OUT)
    layer.requires_grad_(False)
    lora = GatedLoRA(gate, D_IN, D_OUT, rank=RANK, alpha=6.0)
    randomise_(lora, std=0.5)
    layer.register_forward_hook(lora.hook)
    return gate, layer, lora


def plain(layer: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, layer.weight, layer.bias)


def test_closed_is_the_frozen_layer_bit_for_bit() -> None:
    gate, layer, _ = gated()
    x = torch.randn(B, T, D_IN)
    assert torch.equal(layer(x), plain(layer, x))
    with gate.open(0, T):
        assert torch.equal(layer(x), plain(layer, x))
    assert torch.equal(layer(x[0]), plain(layer, x[0])), "a closed gate asks nothing of the shape"


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("rows", [1, 2, T])
def test_open_touches_the_trailing_rows_alone(rows: int, grad: bool) -> None:
    gate, layer, lora = gated()
    x = torch.randn(B, T, D_IN)
    with torch.set_grad_enabled(grad), gate.open(rows, T):
        output = layer(x)
    frozen = plain(layer, x)
    assert torch.equal(output[:, :-rows], frozen[:, :-rows])
    delta = 2.0 * x[:, -rows:] @ lora.down_RI.T @ lora.up_OR.T  # alpha / rank = 2
    torch.testing.assert_close(output[:, -rows:], frozen[:, -rows:] + delta)
    assert float(delta.detach().abs().min(-1).values.max()) > 0.01, "a zero delta passes anything"
    assert output.requires_grad is grad


def test_gradients_reach_the_lora_and_not_the_base() -> None:
    gate, layer, lora = gated()
    with gate.open(1, T):
        layer(torch.randn(B, T, D_IN)).sum().backward()
    assert lora.down_RI.grad is not None
    assert lora.up_OR.grad is not None
    assert layer.weight.grad is None


def test_a_new_lora_changes_nothing_yet() -> None:
    lora = GatedLoRA(SignalGate(), D_IN, D_OUT, rank=RANK, alpha=6.0)
    assert not lora.delta(torch.randn(1, 2, D_IN)).any()


def test_half_precision_weights_serve_wider_activations() -> None:
    gate, layer, lora = gated()
    lora.half()
    x = torch.randn(B, T, D_IN)
    with torch.no_grad(), gate.open(1, T):
        output = layer(x)
    assert output.dtype == torch.float32
    assert not torch.equal(output[:, -1], plain(layer, x)[:, -1])


@pytest.mark.parametrize("shape", [(B, T + 1, D_IN), (B, T - 1, D_IN), (B, 1, D_IN), (B * T, D_IN)])
def test_another_width_raises(shape: tuple[int, ...]) -> None:
    gate, layer, _ = gated()
    with gate.open(1, T), pytest.raises(SignalMaskError, match=r"Expected \(batch, 5, features\)"):
        layer(torch.randn(shape))


@pytest.mark.parametrize(("rows", "width"), [(-1, 3), (4, 3), (0, 0), (1, 0)])
def test_counts_that_do_not_fit_raise(rows: int, width: int) -> None:
    gate = SignalGate()
    with pytest.raises(SignalMaskError), gate.open(rows, width):
        pytest.fail("opened")
    assert (gate.rows, gate.width) == (0, 0)


def test_opening_twice_raises_and_the_first_stays_as_it_was() -> None:
    gate = SignalGate()
    with gate.open(1, 4):
        with pytest.raises(SignalMaskError, match="open for 1 of 4 rows"), gate.open(1, 4):
            pytest.fail("opened")
        assert (gate.rows, gate.width) == (1, 4)
    assert (gate.rows, gate.width) == (0, 0)


def test_an_error_inside_closes_the_gate() -> None:
    gate = SignalGate()
    with pytest.raises(KeyError), gate.open(1, 4):
        raise KeyError
    assert (gate.rows, gate.width) == (0, 0)
