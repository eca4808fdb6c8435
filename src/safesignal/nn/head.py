"""The [CLS] embedding and the benign/malicious head.

Shapes: B batch, K safety rows, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safesignal.errors import SignalError

__all__ = ["SignalHead"]


class SignalHead(nn.Module):
    """A linear head with two outputs, benign and malicious, over the last hidden state of a [CLS] row.

    Computed in float32 whatever the model's dtype: a threshold at 0.9 leaves little room for bfloat16 rounding.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(hidden_size, 2)

    def logits(self, hidden_BKD: Tensor) -> Tensor:
        """Return the two class scores, (B, K, 2) float32."""
        with torch.autocast(hidden_BKD.device.type, enabled=False):
            weight, bias = self.proj.weight.float(), self.proj.bias.float()
            return nn.functional.linear(hidden_BKD.float(), weight, bias)

    def forward(self, hidden_BKD: Tensor) -> Tensor:
        """Return the signal P(malicious), (B, K) float32 in [0, 1].

        Raises:
            SignalError: If a hidden state or the head is not finite; a NaN would compare as benign.
        """
        signal_BK = torch.softmax(self.logits(hidden_BKD), dim=-1)[..., 1]
        if not bool(torch.isfinite(signal_BK).all()):
            raise SignalError(
                "the signal of a check is not a number. Expected P(malicious) in [0, 1].",
                hint="the adapter or the base model has non-finite weights; load both again, or try `--dtype float32`",
            )
        return signal_BK
