"""The weights of a low-rank delta, whichever rows it acts on.

Shapes: I / O features in / out, R rank; any leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LowRank"]


class LowRank(nn.Module):
    """Two matrices whose scaled product is the delta of a linear layer; zero until trained."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down_RI = nn.Parameter(torch.empty(rank, in_features))
        self.up_OR = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down_RI, a=5**0.5)

    def low(self, x_I: Tensor) -> Tensor:
        """Return the input in the low rank, (..., R); autocast brings both to one dtype without a copy in fp32."""
        casts = torch.is_autocast_enabled(x_I.device.type)
        return F.linear(x_I if casts else x_I.to(self.down_RI.dtype), self.down_RI)
