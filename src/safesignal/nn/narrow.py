"""Products of a few rows with a large weight matrix, in the orientation that is fast.

A fused decode step multiplies two rows by every weight of the model, and on some CPUs `x @ W.T` is slow there. Two
rows over the linears of SmolLM2-135M, as `F.linear` and as `(W @ x.T).T`, which reads the same weights through another
kernel (two cores, docs/LOG.md): AMD EPYC, float32, 46 and 20 ms; Intel Xeon, bfloat16 with AMX, 19 and 13 ms, but
float32 17 and 39 ms. So the turn is taken where it was measured to win; one row and many are left to torch.

Shapes: N rows, I / O features in / out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["NarrowProducts", "narrow_linear", "turned_dtype"]

_NARROW = range(2, 33)
"""Row counts for which the turned product won or was even."""

_PROCESSOR = Path("/proc/cpuinfo")


@cache
def turned_dtype() -> torch.dtype | None:
    """Return the dtype whose narrow products are turned on this processor; None where none is known to win.

    By what the processor is and not by a trial, so that a machine rounds alike in every run.
    """
    try:
        words = set(_PROCESSOR.read_text().split())
    except OSError:
        return None
    if "AuthenticAMD" in words:
        return torch.float32
    return torch.bfloat16 if "amx_bf16" in words else None


def narrow_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Compute the layer's output, turning the product for a few rows on a CPU where that is faster.

    Equals ``F.linear`` to rounding (tests/nn/test_narrow.py).

    Args:
        layer: The frozen linear layer.
        x: (..., I) input; its leading sizes multiply to N.

    Returns:
        (..., O) output, contiguous.
    """
    rows = x.numel() // x.shape[-1]
    if rows not in _NARROW or x.dtype != turned_dtype() or x.device.type != "cpu" or torch.is_grad_enabled():
        return F.linear(x, layer.weight, layer.bias)
    x_NI = x.reshape(rows, x.shape[-1])
    y_NO = torch.mm(layer.weight, x_NI.t()).t().contiguous()
    if layer.bias is not None:
        y_NO += layer.bias
    return y_NO.view(*x.shape[:-1], -1)


class NarrowProducts:
    """Turns the products of some linear layers for the length of one forward, and leaves no trace outside it."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._forwards: list[tuple[dict[str, object], Callable[[Tensor], Tensor]]] = [
            (layer.__dict__, partial(narrow_linear, layer)) for layer in layers if type(layer) is nn.Linear
        ]

    @contextmanager
    def turned(self) -> Iterator[None]:
        """Let every layer compute :func:`narrow_linear` until the block ends; not for two threads at once.

        A layer whose `forward` somebody else has replaced keeps it: accelerate moves weights and inputs in there.
        """
        own = [(attributes, forward) for attributes, forward in self._forwards if "forward" not in attributes]
        try:
            for attributes, forward in own:
                attributes["forward"] = forward
            yield
        finally:
            for attributes, _ in own:
                attributes.pop("forward", None)
