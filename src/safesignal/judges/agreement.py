"""How far a judge agrees with people, and what that makes of a rate it gave.

"Yes" is the positive class throughout. Unknowns stand apart: they agree with nobody, and sensitivity and specificity
are those of the decided rows, because rates are counted over decided rows too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safesignal.errors import UsageError
from safesignal.judges.base import JudgeVerdict
from safesignal.stats import Rate

__all__ = ["Agreement", "Corrected", "correct_rate", "measure_agreement"]

_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against people.

    Attributes:
        agreement: Rows on which both say the same, of all rows; an unknown agrees with nobody.
        sensitivity: Yes where people say yes, of the decided rows.
        specificity: No where people say no, of the decided rows.
        unknown: Rows the judge did not decide.
    """

    agreement: Rate
    sensitivity: Rate
    specificity: Rate
    unknown: int

    @property
    def decided(self) -> Rate:
        """Agreement of the decided rows alone."""
        return Rate(self.agreement.successes, self.agreement.n - self.unknown)

    def opposite(self) -> Agreement:
        """Return the agreement on the opposite question: a refusal judge's, asked whether a text complies."""
        return Agreement(self.agreement, self.specificity, self.sensitivity, self.unknown)

    def to_row(self) -> dict[str, Any]:
        """Return all rates as JSON values, with their intervals and counts."""
        names = ("agreement", "decided", "sensitivity", "specificity")
        return {name: _rate_row(getattr(self, name)) for name in names} | {"unknown": self.unknown}


@dataclass(frozen=True, slots=True)
class Corrected:
    """A rate corrected for a judge's errors, with its 95 % interval; all in [0, 1]."""

    value: float
    low: float
    high: float


def measure_agreement(verdicts: Sequence[JudgeVerdict], truth: Sequence[bool]) -> Agreement:
    """Compare verdicts with people's labels, row by row.

    Args:
        verdicts: (N,) what the judge says.
        truth: (N,) True where people say yes.

    Raises:
        UsageError: If the lengths differ.

    Example:
        >>> str(measure_agreement(["yes", "no", "unknown"], [True, True, False]).agreement)
        '33.3 % [6.1, 79.2] (1/3)'
    """
    if len(verdicts) != len(truth):
        raise UsageError(f"{len(verdicts)} verdicts stand against {len(truth)} labels. Expected one label per verdict.")
    pairs = list(zip(verdicts, truth, strict=True))
    decided = [(verdict == "yes", label) for verdict, label in pairs if verdict != "unknown"]
    return Agreement(
        agreement=Rate(sum(said == label for said, label in decided), len(pairs)),
        sensitivity=Rate.of([said for said, label in decided if label]),
        specificity=Rate.of([not said for said, label in decided if not label]),
        unknown=len(pairs) - len(decided),
    )


def correct_rate(raw: Rate, judge: Agreement) -> Corrected | None:
    """Correct a raw rate of yes for the judge's sensitivity and specificity (Rogan-Gladen), clipped to [0, 1].

    The interval carries the uncertainty of all three rates on (delta method, each variance taken from its Wilson
    interval, so that a rate of 0 or 1 has one too).

    Args:
        raw: Share of yes among the decided rows.
        judge: The judge on the same question.

    Returns:
        The corrected rate; None where it has no meaning: nothing was counted, or the judge is no better than chance
        (sensitivity + specificity <= 1).
    """
    sensitivity, specificity = judge.sensitivity, judge.specificity
    if not (raw.n and sensitivity.n and specificity.n):
        return None
    youden = sensitivity.value + specificity.value - 1.0
    if youden <= 0.0:
        return None
    value = min(1.0, max(0.0, (raw.value + specificity.value - 1.0) / youden))
    variance = _variance(raw) + value**2 * _variance(sensitivity) + (1.0 - value) ** 2 * _variance(specificity)
    half = _Z * variance**0.5 / youden
    return Corrected(value, max(0.0, value - half), min(1.0, value + half))


def _variance(rate: Rate) -> float:
    low, high = rate.interval
    return float(((high - low) / (2.0 * _Z)) ** 2)


def _rate_row(rate: Rate) -> dict[str, Any]:
    low, high = rate.interval
    return {"value": rate.value if rate.n else None, "low": low, "high": high, "successes": rate.successes, "n": rate.n}
