"""How well a signal tells validation rows apart: loss, accuracy and AUC, for queries and for windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example, Labelled, draw_checks
from safesignal.modeling.cache import TextState
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.sight import Sight
from safesignal.stats import roc_auc

__all__ = [
    "VALIDATION_EPOCH",
    "Metrics",
    "ReadTexts",
    "cls_loss",
    "metrics_of",
    "place_checks",
    "read_scores",
    "validate",
]

ReadTexts = Callable[[Sequence[Example]], TextState]
"""Lets the base model read the texts of a batch, or finds what it made of them (`align/text_store.py`)."""
Placed = tuple[int, Labelled, Sight]
"""A check to train: its row in the batch, its label, and where it looks."""
VALIDATION_EPOCH = -1
"""Validation spans are drawn once and for all, with a key no training epoch has."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """Validation figures; rates in [0, 1], NaN where a class is missing.

    Attributes:
        loss: Mean cross-entropy of all checks.
        prompt_accuracy: Query checks on the right side of 0.5.
        prompt_auc: Area under the ROC curve of query checks.
        window_accuracy: Windows on the right side of 0.5.
        window_auc: Area under the ROC curve of windows.
        n: Checks read.
    """

    loss: float
    prompt_accuracy: float
    prompt_auc: float
    window_accuracy: float
    window_auc: float
    n: int

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values, rounded for a file; None where a class is missing."""
        return {name: None if math.isnan(value) else round(value, 5) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """Return the line that a user reads while a run goes on."""
        parts = (("prompts", self.prompt_accuracy, self.prompt_auc), ("windows", self.window_accuracy, self.window_auc))
        told = [f"  {name}: accuracy {right:.3f}, AUC {auc:.3f}" for name, right, auc in parts if not math.isnan(right)]
        return f"validation loss {self.loss:.3f}{''.join(told)}"


def read_scores(
    model: SafeSignalModel, batch: Sequence[Example], config: AlignConfig, epoch: int, read_texts: ReadTexts
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one batch: the text once without gradients, then its safety rows, and what a reader reads anew, with them.

    Returns:
        Scores (N, 2), targets (N,) in {0, 1}, and whether each check is a query check (N,) bool; N checks in all.
    """
    forward = model.forward_signal
    looking, anew = place_checks(model, batch, config, epoch)
    parts = []
    if looking:
        sights = {b: [sight for _, _, sight in own] for b, own in groupby(looking, key=itemgetter(0))}
        scores_BK2 = forward.read(read_texts([batch[b] for b in sights]), list(sights.values()))
        parts += [scores_K2[: len(own)] for scores_K2, own in zip(scores_BK2, sights.values(), strict=True)]
    if anew:
        parts.append(forward.reread([sight for _, _, sight in anew]))
    scores, checks = torch.cat(parts), [check for _, check, _ in (*looking, *anew)]
    targets = torch.tensor([int(check.malicious) for check in checks], device=scores.device)
    return scores, targets, torch.tensor([check.span.query for check in checks])


def place_checks(
    model: SafeSignalModel, batch: Sequence[Example], config: AlignConfig, epoch: int
) -> tuple[list[Placed], list[Placed]]:
    """Draw a batch's checks: those that look at what the base has read, and those that a reader reads anew.

    A query that is read anew is not looked at besides. Nor is a window where the reader of answers is trained; where it
    is not, nobody reads windows anew.
    """
    placed = []
    for b, example in enumerate(batch):
        for check in draw_checks(example, model.config, config, epoch):
            text = example.encoded.to_read(check.span) if check.span.query or config.read_answers else None
            placed.append((b, check, model.forward_signal.sight(example.encoded.ranges(check.span), text=text)))
    return [one for one in placed if not one[2].reads], [one for one in placed if one[2].reads]


def cls_loss(scores: Tensor, targets: Tensor, config: AlignConfig) -> Tensor:
    """Return L_cls of N checks as a scalar sum: cross-entropy with the settings' label smoothing."""
    smoothing = 2 * config.smoothing
    return torch.nn.functional.cross_entropy(scores, targets, label_smoothing=smoothing, reduction="sum")


@torch.no_grad()
def validate(
    model: SafeSignalModel, examples: Sequence[Example], config: AlignConfig, read_texts: ReadTexts
) -> Metrics:
    """Measure the signal on validation examples."""
    ordered = sorted(examples, key=lambda example: len(example.encoded.ids))
    parts = [
        read_scores(model, ordered[i : i + config.batch_size], config, VALIDATION_EPOCH, read_texts)
        for i in range(0, len(ordered), config.batch_size)
    ]
    scores, targets, query = (torch.cat([part[i].cpu() for part in parts]) for i in range(3))
    return metrics_of(scores, targets, query)


def metrics_of(scores: Tensor, targets: Tensor, query: Tensor) -> Metrics:
    """Return the figures of N checks.

    Args:
        scores: (N, 2) class scores.
        targets: (N,) long in {0, 1}.
        query: (N,) bool, True for query checks.
    """
    signal = scores.softmax(dim=-1)[:, 1]
    correct = ((signal >= 0.5).long() == targets).float()
    return Metrics(
        loss=float(torch.nn.functional.cross_entropy(scores, targets)),
        prompt_accuracy=float(correct[query].mean()),
        prompt_auc=_auc(signal[query], targets[query]),
        window_accuracy=float(correct[~query].mean()),
        window_auc=_auc(signal[~query], targets[~query]),
        n=len(targets),
    )


def _auc(signal: Tensor, target: Tensor) -> float:
    labels = target.bool().tolist()
    return roc_auc(labels, signal.tolist()) if len(set(labels)) == 2 else math.nan
