"""What a verdict does to decoding: the paper's *strategic decoding* (the explicit lever) as settings.

`low` ignores the prediction, `high` stops with a fixed refusal at the first malicious verdict, `medium` (the
paper's choice and the default) inserts a refusal prefix, at once for a malicious query and at the transition point
after `tau` consecutive malicious checks of the answer, and lets the model explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from safesignal.errors import UsageError
from safesignal.problems import problems_in
from safesignal.rules.schedule import Schedule

__all__ = ["FIXED_REFUSAL", "REFUSAL_PREFIX", "Policy", "validate_policy"]

REFUSAL_PREFIX = "Sorry, I cannot fulfill your request because"
"""The paper's refusal prefix, which the model continues with its own explanation."""

FIXED_REFUSAL = "Sorry, I cannot help with that request."
"""Said whole when no explanation is wanted, or when the explanation itself is judged malicious."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How the signal steers decoding; one docstring per field, which is also its `--help` line."""

    dependence: Literal["low", "medium", "high"] = "medium"
    """`low` only records the signal, `medium` refuses after `tau` checks, `high` stops at the first malicious one."""
    tau: int = 2
    """Consecutive malicious checks of the answer before `medium` refuses, 1 to 3 in the paper."""
    threshold: float = 0.5
    """A query check is malicious at or above this P(malicious), in [0, 1]. Lower is stricter."""
    window_threshold: float = 0.5
    """A check of answer tokens is malicious at or above this P(malicious), in [0, 1]. Lower is stricter."""
    r1: int = 10
    """Generated tokens seen along with a malicious query (rule 1)."""
    r2: int = 10
    """Most recent generated tokens seen while the verdict is benign (rule 2)."""
    r3: int = 10
    """Tokens seen beyond the transition point once the verdict has turned (rule 3)."""
    strategic_attention: bool = True
    """Keep checks of the answer to rules 1 to 3; off (an ablation) lets them see the query and the whole answer."""
    implicit: bool = True
    """Let answer tokens see the latest [CLS], where the adapter is a joint one; off leaves the explicit lever alone."""
    check_query: bool = True
    """Read the signal on the query before generating; off leaves it to checks of the answer to find harm."""
    refusal_prefix: str = REFUSAL_PREFIX
    """Inserted when the policy fires and `after` is `explain`."""
    fixed_refusal: str = FIXED_REFUSAL
    """Released instead of anything the model would say, when no explanation is wanted or it is malicious too."""
    after: Literal["explain", "stop"] = "explain"
    """What follows a refusal under `medium`: the model's own bounded explanation, or nothing."""
    explain_tokens: int = 48
    """Most tokens of an explanation; it ends earlier at the end of its first sentence."""
    transition: Literal["covered", "paper"] = "covered"
    """Where a malicious run begins: after the last covered token, or (buffer off) at the first malicious check."""
    buffer: bool = True
    """Hold tokens back until a benign check covers them; off shows them at once and cannot take them back."""

    @property
    def explains(self) -> bool:
        """Whether a refusal is continued by the model."""
        return self.dependence == "medium" and self.after == "explain"


def validate_policy(policy: Policy, schedule: Schedule) -> None:
    """Raise one error that lists every setting out of range, and every pair that would release unchecked text."""
    problems = [f"{name} = {value}    must be {bound}" for name, value, bound, holds in _bounds(policy) if not holds]
    if policy.buffer and policy.dependence != "low":
        if policy.transition == "paper":
            problems.append("transition = paper    keeps tokens no benign check covered, which the buffer never shows")
        gap = schedule.max_gap
        if gap is None:
            problems.append(f"schedule = {schedule}    stops checking, so the release buffer would never be emptied")
        elif gap > policy.r2:
            problems.append(f"schedule = {schedule}    leaves {gap} tokens between checks that see r2 = {policy.r2}")
    if problems:
        raise UsageError(
            problems_in("in the policy", problems),
            hint="the defaults are safe; a schedule that stops or skips tokens needs `buffer=False` (`--no-buffer`)",
        )


def _bounds(policy: Policy) -> list[tuple[str, object, str, bool]]:
    counts = [("tau", policy.tau, 1), ("r1", policy.r1, 0), ("r2", policy.r2, 1), ("r3", policy.r3, 1)]
    counts.append(("explain_tokens", policy.explain_tokens, 0))
    words = [("dependence", ("low", "medium", "high")), ("after", ("explain", "stop"))]
    words.append(("transition", ("covered", "paper")))
    thresholds = ("threshold", "window_threshold")
    return [
        *((name, value, f"at least {least}", value >= least) for name, value, least in counts),
        *((name, getattr(policy, name), "in [0, 1]", 0.0 <= getattr(policy, name) <= 1.0) for name in thresholds),
        *((name, getattr(policy, name), " or ".join(known), getattr(policy, name) in known) for name, known in words),
        ("fixed_refusal", repr(policy.fixed_refusal), "non-empty", bool(policy.fixed_refusal.strip())),
        ("refusal_prefix", repr(policy.refusal_prefix), "non-empty", bool(policy.refusal_prefix.strip())),
    ]
