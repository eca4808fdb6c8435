"""Seeded percentile intervals for figures that are no counted rates: means, AUCs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval", "mean_with_interval", "ratio_with_interval"]

Floats = NDArray[np.float64]


def bootstrap_interval(
    statistic: Callable[..., float], *samples: Sequence[float] | Floats, seed: int = 0, resamples: int = 500
) -> tuple[float, float]:
    """Return the 2.5th and 97.5th percentile of a statistic over resamples, each sample drawn within itself.

    Args:
        statistic: Takes as many arrays as there are samples.
        samples: Each (N_i,), N_i >= 1.
        seed: Makes the draws repeatable.
        resamples: Number of draws.
    """
    generator = np.random.default_rng(seed)
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    drawn = [
        statistic(*(array[generator.integers(0, array.size, array.size)] for array in arrays)) for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def mean_with_interval(values: Sequence[float] | Floats, *, seed: int = 0) -> dict[str, float | int]:
    """Return `value`, `low`, `high` and `n` of a mean, with its bootstrap interval.

    Args:
        values: (N,), N >= 1.
        seed: Of the resampling.
    """
    low, high = bootstrap_interval(lambda array: float(array.mean()), values, seed=seed)
    return {"value": float(np.mean(values)), "low": low, "high": high, "n": len(values)}


def ratio_with_interval(
    parts: Sequence[float] | Floats, wholes: Sequence[float] | Floats, *, seed: int = 0
) -> dict[str, float | int]:
    """Return `value`, `low`, `high` and `n` of a sum over a sum, where what belongs together is drawn together.

    Args:
        parts: (N,) summands above the line, one per group.
        wholes: (N,) summands below it.
        seed: Of the resampling.
    """
    above, below = np.asarray(parts, dtype=np.float64), np.asarray(wholes, dtype=np.float64)

    def ratio(groups: Floats) -> float:
        chosen = groups.astype(int)
        return float(above[chosen].sum() / below[chosen].sum())

    groups = np.arange(len(above), dtype=np.float64)
    low, high = bootstrap_interval(ratio, groups, seed=seed)
    return {"value": ratio(groups), "low": low, "high": high, "n": len(above)}
