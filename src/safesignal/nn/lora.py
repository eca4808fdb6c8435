"""The weights of a low-rank delta, whichever rows it acts on.

Shapes: I / O features in / out, R rank.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["LowRank"]


class LowRank(nn.Module):
    """Two matrices whose scaled product is the delta of a linear layer; zero until trained."""

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down_RI = nn.Parameter(torch.empty(rank, in_features))
        self.up_OR = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down_RI, a=5**0.5)
