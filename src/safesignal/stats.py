"""Rates with their intervals, and what a score is worth as a detector. numpy only.

Scores are P(malicious) or anything monotone in it; a row is flagged where its score is at or above the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from safesignal.errors import UsageError

__all__ = ["Rate", "expected_calibration_error", "recall_at_fpr", "roc_auc", "threshold_at_fpr", "wilson_interval"]

Floats = Sequence[float] | NDArray[np.floating]
Flags = Sequence[bool] | Sequence[int] | NDArray[np.bool_] | NDArray[np.integer]


def wilson_interval(successes: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a rate, within [0, 1]; (0, 1) for n = 0.

    Args:
        successes: Between 0 and `n`.
        n: Trials.
        level: Confidence, in (0, 1).

    Raises:
        UsageError: If a count or the level is out of range.

    Example:
        >>> [round(100 * bound, 2) for bound in wilson_interval(0, 100)]
        [0.0, 3.7]
    """
    if not 0 <= successes <= n:
        raise UsageError(f"`successes` is {successes} of {n}. Expected 0 <= successes <= n.")
    if not 0.0 < level < 1.0:
        raise UsageError(f"`level` is {level}. Expected a number in (0, 1), such as 0.95.")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of counted things; printing it always prints its 95 % Wilson interval and its counts.

    Attributes:
        successes: Between 0 and `n`.
        n: Trials that ran.

    Example:
        >>> str(Rate(6, 200))
        '3.0 % [1.4, 6.4] (6/200)'
    """

    successes: int
    n: int

    def __post_init__(self) -> None:
        """Refuse counts that are no rate."""
        wilson_interval(self.successes, self.n)

    @classmethod
    def of(cls, flags: Flags) -> Rate:
        """Count the true ones among `flags`."""
        values = np.asarray(flags, dtype=bool)
        return cls(int(values.sum()), int(values.size))

    @property
    def value(self) -> float:
        """The rate in [0, 1]; NaN if nothing was counted."""
        return self.successes / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval."""
        return wilson_interval(self.successes, self.n)

    def __str__(self) -> str:
        """Return percent, interval in percent and counts."""
        if not self.n:
            return "n/a (0/0)"
        low, high = (100 * bound for bound in self.interval)
        return f"{100 * self.value:.1f} % [{low:.1f}, {high:.1f}] ({self.successes}/{self.n})"


def roc_auc(labels: Flags, scores: Floats) -> float:
    """Return the probability that a malicious row scores above a benign one, ties counted half, in [0, 1].

    Args:
        labels: (N,) True where malicious.
        scores: (N,) finite.

    Raises:
        UsageError: If a class is missing, shapes differ or a score is not finite.
    """
    positive, negative = _by_class(labels, scores)
    pooled = np.concatenate([positive, negative])
    _, inverse, counts = np.unique(pooled, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mid_ranks[inverse][: positive.size].sum())
    above = rank_sum - positive.size * (positive.size + 1) / 2.0
    return float(above / (positive.size * negative.size))


def threshold_at_fpr(benign_scores: Floats, fpr: float) -> float:
    """Return the lowest threshold that flags at most a share `fpr` of the benign scores (flagged: score >= threshold).

    With tied scores fewer may be flagged, never more. The result lies above the highest score if even one flagged row
    would be too many.

    Args:
        benign_scores: (N,) finite, N >= 1.
        fpr: Allowed share, in [0, 1].

    Raises:
        UsageError: If there are no scores, one is not finite, or `fpr` is outside [0, 1].
    """
    scores = _finite(benign_scores)
    if not scores.size:
        raise UsageError("no benign scores to set a threshold on. Expected at least one.")
    if not 0.0 <= fpr <= 1.0:
        raise UsageError(f"`fpr` is {fpr}. Expected a number in [0, 1], such as 0.01.")
    # The small term is for products like 0.29 * 100 = 28.999999999999996.
    allowed = math.floor(fpr * scores.size + 1e-9)
    descending = np.sort(scores)[::-1]
    if allowed >= scores.size:
        return float(descending[-1])
    return float(np.nextafter(descending[allowed], np.inf))


def recall_at_fpr(labels: Flags, scores: Floats, fpr: float) -> float:
    """Return the share of malicious rows flagged where at most a share `fpr` of the benign ones is, in [0, 1].

    Args:
        labels: (N,) True where malicious.
        scores: (N,) finite.
        fpr: Allowed share of flagged benign rows, in [0, 1].

    Raises:
        UsageError: If a class is missing, shapes differ, or a number is out of range.
    """
    positive, negative = _by_class(labels, scores)
    return float(np.mean(positive >= threshold_at_fpr(negative, fpr)))


def expected_calibration_error(labels: Flags, probabilities: Floats, *, bins: int = 15) -> float:
    """Return the mean distance between predicted and observed rate over equal-width bins, weighted by size, in [0, 1].

    Args:
        labels: (N,) True where malicious.
        probabilities: (N,) in [0, 1]; 1.0 falls into the last bin.
        bins: Number of bins over [0, 1].

    Raises:
        UsageError: If shapes differ, nothing is given, or a probability is outside [0, 1].
    """
    truth, predicted = _aligned(labels, probabilities)
    if not predicted.size or predicted.min() < 0.0 or predicted.max() > 1.0:
        raise UsageError(f"got {predicted.size} probabilities. Expected at least one, all in [0, 1].")
    if bins < 1:
        raise UsageError(f"`bins` is {bins}. Expected at least 1.")
    index = np.minimum((predicted * bins).astype(int), bins - 1)
    gap = np.bincount(index, weights=predicted, minlength=bins) - np.bincount(index, weights=truth, minlength=bins)
    return float(np.abs(gap).sum() / predicted.size)


def _finite(values: Floats) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise UsageError(f"{bad} of {array.size} scores are not finite. Expected numbers only.")
    return array


def _aligned(labels: Flags, scores: Floats) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, values = np.asarray(labels, dtype=bool), _finite(scores)
    if truth.shape != values.shape or truth.ndim != 1:
        raise UsageError(f"labels have shape {truth.shape} and scores {values.shape}. Expected (N,) for both.")
    return truth, values


def _by_class(labels: Flags, scores: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of malicious and of benign rows."""
    truth, values = _aligned(labels, scores)
    if truth.all() or not truth.any():
        raise UsageError(f"{int(truth.sum())} of {truth.size} rows are malicious. Expected at least one of each class.")
    return values[truth], values[~truth]
