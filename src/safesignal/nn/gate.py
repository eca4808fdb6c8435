"""The gate: which rows of a forward are safety rows, and the LoRA that acts on those rows alone.

Layout. In every forward the safety rows come last: T text tokens, then K [CLS] rows. The gate therefore needs one
number, K, and the width T + K to hold every layer to; nothing is ever guessed from token ids.

Shapes: B batch, T text tokens, K safety rows, Q = T + K query rows, I / O features in / out, R LoRA rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safesignal.errors import SignalMaskError
from safesignal.nn.lora import LowRank

__all__ = ["GatedLoRA", "SignalGate"]


class SignalGate:
    """Says how many trailing rows of the forward in progress are safety rows; closed (0) outside :meth:`open`."""

    def __init__(self) -> None:
        self.rows = 0
        self.width = 0

    @contextmanager
    def open(self, rows: int, width: int) -> Iterator[None]:
        """Declare the last `rows` of `width` query rows to be safety rows, for one forward.

        Raises:
            SignalMaskError: If the counts do not fit, or the gate is open already.
        """
        if self.width or not 0 <= rows <= width or width < 1:
            state = f"the gate is open for {self.rows} of {self.width} rows" if self.width else "the gate is closed"
            raise SignalMaskError(
                f"a forward of {width} rows announced {rows} safety rows while {state}. "
                "Expected a closed gate and 0 <= safety rows <= rows.",
                hint="a forward of this model began inside another; let one end before the next",
            )
        try:
            self.rows, self.width = rows, width
            yield
        finally:
            self.rows, self.width = 0, 0


class GatedLoRA(LowRank):
    """A LoRA delta for one frozen linear layer, added on safety rows only.

    Registered as a forward hook, so the base module is neither copied nor renamed. With the gate closed the hook
    returns nothing and the layer's output is the frozen layer's own, bit for bit (tests/nn/test_gate.py).
    """

    def __init__(self, gate: SignalGate, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__(in_features, out_features, rank, alpha)
        self.gate = gate

    def delta(self, x_BKI: Tensor) -> Tensor:
        """Return the low-rank update ``scale * up(down(x))``, (B, K, O) in the dtype of `x_BKI`."""
        return F.linear(self.low(x_BKI).mul_(self.scale), self.up_OR).to(x_BKI.dtype)

    def hook(self, layer: nn.Module, args: tuple[Tensor, ...], output_BQO: Tensor) -> Tensor | None:
        """Add the delta to the safety rows of the layer's output; a forward hook in torch's sense.

        Args:
            layer: The frozen layer (unused; torch passes it).
            args: Its positional inputs; the first is (B, Q, I).
            output_BQO: (B, Q, O), changed in place where no gradient is recorded.

        Raises:
            SignalMaskError: If the layer sees another number of rows than the gate was opened for.
        """
        rows = self.gate.rows
        if rows == 0:
            return None
        x_BQI = args[0]
        if x_BQI.dim() != 3 or x_BQI.shape[1] != self.gate.width:
            raise SignalMaskError(
                f"a gated layer got input of shape {tuple(x_BQI.shape)}, so its safety rows cannot be told. "
                f"Expected (batch, {self.gate.width}, features)."
            )
        if rows == x_BQI.shape[0] == 1 and not torch.is_grad_enabled() and x_BQI.dtype == self.down_RI.dtype:
            # One check of one sequence, the case of every decode step: two matrix-vector products, no temporaries.
            low_R = torch.mv(self.down_RI, x_BQI[0, -1])
            output_BQO[0, -1].addmv_(self.up_OR, low_R, alpha=self.scale)
            return None
        if torch.is_grad_enabled() and rows == self.gate.width:
            return output_BQO + self.delta(x_BQI)
        delta_BKO = self.delta(x_BQI.narrow(1, self.gate.width - rows, rows))
        if torch.is_grad_enabled():
            text_BTO = output_BQO[:, :-rows]
            return torch.cat([text_BTO, output_BQO[:, -rows:] + delta_BKO], dim=1)
        output_BQO.narrow(1, self.gate.width - rows, rows).add_(delta_BKO)
        return None
