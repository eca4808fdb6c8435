"""What a training recipe is to the loop, which knows nothing else about it.

A loss is a weighted sum of terms (paper: L_lm + λ1 · L_cls, L_sft + λ2 · L_cls), and each term is a *mean over what the
whole step holds* of it: response tokens, safety rows. A recipe therefore gives sums, and counts that are known before
any forward pass; :func:`weigh` divides the sums of each forward pass by the counts of the step. That is why four passes
of four rows equal one of sixteen, and two processes equal one, up to float rounding (tests/align/test_parallel.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from safesignal.align.calibrate import Calibration
from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example
from safesignal.config import SignalConfig
from safesignal.data.records import Record

__all__ = ["Figures", "Finished", "Loading", "Recipe", "Rows", "weigh"]


class Loading(TypedDict, total=False):
    """How a base model is loaded; what is left out takes the defaults of :meth:`SafeSignalModel.from_base`."""

    dtype: torch.dtype | str
    device_map: str | dict[str, Any] | None
    chat_template: str | None


class Figures(Protocol):
    """What validation measured; its `str` is the line a user reads."""

    @property
    def loss(self) -> float:
        """What early stopping and the choice of the best weights go by; lower is better."""
        ...

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values, rounded for a file."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """The data of a run.

    Attributes:
        records: Every row of the files given, before licences, splits and lengths; calibration answers are among them.
        train: Examples that are trained on.
        val: Examples that validation reads.
    """

    records: Sequence[Record]
    train: Sequence[Example]
    val: Sequence[Example]


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of trained weights.

    Attributes:
        metrics: Validation figures of the weights as they are saved.
        calibration: Thresholds; None for a recipe without a signal.
        record: Further lines for the training record.
    """

    metrics: Figures
    calibration: Calibration | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


class Recipe(Protocol):
    """How one kind of model is trained and saved; `align/gated.py` is the shortest example.

    Everything random is keyed by (seed, epoch, row id), so that neither resuming nor splitting a batch changes a draw.

    Attributes:
        config: Settings of the run.
        weights: The weight λ of each term, by its name; the names are those of `counts` and of the module's sums.
        uneven: Whether a step's rows may leave some parameters without a gradient.
    """

    config: AlignConfig
    weights: Mapping[str, float]
    uneven: bool

    @classmethod
    def from_base(cls, model: str, config: AlignConfig, signal: SignalConfig, **how: Unpack[Loading]) -> Self:
        """Load the base model by alias, folder or hub id, and put in it what will be trained."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what, beside settings and rows, makes a run this run: base and signal, as JSON values."""
        ...

    def encode(self, records: Iterable[Record]) -> tuple[list[Example], int]:
        """Encode the rows that fit the recipe; return them and how many were left out.

        Raises:
            DataError: If none fits.
        """
        ...

    def prepare(self, examples: Sequence[Example], folder: Path) -> None:
        """Make ready, before the first step, what all training and validation rows need; most recipes need nothing."""
        ...

    def batches(self, examples: Sequence[Example], rows: int, epoch: int) -> Iterator[list[Example]]:
        """Yield the epoch's steps, `rows` examples each (the last may have fewer); the loop splits them."""
        ...

    def counts(self, batch: Sequence[Example], epoch: int) -> Mapping[str, int]:
        """Return how many items each term has in a batch, without a forward pass."""
        ...

    def module(self) -> nn.Module:
        """Return what is trained, as one module; data parallel wraps it and the loop moves it to the device.

        `forward(batch, epoch)` returns, by term, the scalar *sum* over the batch's items, with gradients. A batch
        without items for a term gives a zero that still hangs on the parameters (0 · something), because data parallel
        waits for every trained parameter.
        """
        ...

    def blocks(self) -> Sequence[nn.Module]:
        """Return the decoder layers, which sharding splits one by one; the rest of the module is one more unit."""
        ...

    def parameters(self) -> Sequence[nn.Parameter]:
        """Return the trained parameters, in fp32, which alone require gradients."""
        ...

    def validate(self, examples: Sequence[Example]) -> Figures:
        """Measure on validation examples, with draws that do not change from one evaluation to the next."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps: the trained tensors by name, sharing memory with the model."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        ...

    def finish(self, rows: Rows, log: Callable[[str], None]) -> Finished:
        """Bring the best weights to their saved precision, measure them, and calibrate what there is to calibrate."""
        ...

    def save(self, folder: Path, record: Mapping[str, Any], *, write: bool = True) -> None:
        """Write the trained model with its training record to a folder.

        Every process calls it, because sharded tensors are put together by all; those with `write` off write nothing.
        """
        ...


def weigh(sums: Mapping[str, Tensor], counts: Mapping[str, int], weights: Mapping[str, float]) -> Tensor:
    """Return the loss of one forward pass: the sum over terms of λ · sum / count of the whole step.

    A term that the step has no item for is left out: its mean is not defined.

    Args:
        sums: By term, scalar.
        counts: By term, items in the whole step, over all passes and processes.
        weights: By term, λ.

    Example:
        >>> weigh({"lm": torch.tensor(6.0), "cls": torch.tensor(1.0)}, {"lm": 3, "cls": 2}, {"lm": 1.0, "cls": 0.1})
        tensor(2.0500)
    """
    parts = [weights[term] / counts[term] * value for term, value in sums.items() if counts[term]]
    if parts:
        return torch.stack(parts).sum()
    return torch.stack([0 * value for value in sums.values()]).sum()
