"""The head gives a probability in float32, or raises."""

from __future__ import annotations

import pytest
import torch

from safesignal.errors import SignalError
from safesignal.nn.head import SignalHead
from tests.support import randomise_

D = 16


def head() -> SignalHead:
    made = SignalHead(D)
    randomise_(made, std=0.5)
    return made


def test_the_second_class_is_malicious() -> None:
    made, hidden = head(), torch.randn(2, 3, D)
    scores = made.logits(hidden)
    expected = torch.sigmoid(scores[..., 1] - scores[..., 0])
    torch.testing.assert_close(made(hidden), expected)
    assert made(hidden).shape == (2, 3)


def test_half_precision_is_read_in_float32() -> None:
    made, hidden = head(), torch.randn(1, 4, D)
    half = SignalHead(D)
    half.load_state_dict(made.state_dict())
    half.to(torch.bfloat16)
    signal = half(hidden.to(torch.bfloat16))
    assert signal.dtype == torch.float32
    weight, bias = made.proj.weight.bfloat16().float(), made.proj.bias.bfloat16().float()
    expected = torch.softmax(hidden.bfloat16().float() @ weight.T + bias, -1)[..., 1]
    torch.testing.assert_close(signal, expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_raises(value: float) -> None:
    made, hidden = head(), torch.randn(2, 3, D)
    hidden[1, 2, 0] = value
    with pytest.raises(SignalError, match="not a number"):
        made(hidden)
    made = head()
    with torch.no_grad():
        made.proj.weight[0, 0] = float("nan")
    with pytest.raises(SignalError):
        made(torch.randn(1, 1, D))


def test_autocast_does_not_lower_its_precision() -> None:
    head, hidden = SignalHead(16), torch.randn(2, 3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = head.logits(hidden)
    assert within.dtype == torch.float32
    assert torch.equal(within, head.logits(hidden))
