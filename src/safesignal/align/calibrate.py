"""Thresholds, calibrated per answer: the share of the base model's own benign answers that is refused or stopped.

Half of a preset's budget goes to the query threshold, the other half to the window threshold. Windows are replayed
under the very rules that decoding applies (schedule, τ, r, closing), with the adapter's saved half-precision weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from safesignal.config import OperatingPoint
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.score import WindowReader
from safesignal.rules import Policy, Schedule

__all__ = ["Calibration", "calibrate", "lowest_threshold"]

_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Calibration:
    """The presets and what they did on the calibration answers.

    Attributes:
        presets: Thresholds by preset name.
        prompts: Query signals of the calibration rows.
        n: Rows.
    """

    presets: dict[str, OperatingPoint]
    prompts: tuple[float, ...]
    n: int


def calibrate(
    model: SafeSignalModel,
    answers: Sequence[Encoded],
    target_fpr: dict[str, float],
    *,
    schedule: Schedule | None = None,
    batch_size: int = 16,
) -> Calibration:
    """Choose the thresholds of every preset.

    Args:
        model: With its weights as they will be saved.
        answers: The base model's own answers to benign validation prompts, as the prefill of each conversation.
        target_fpr: Share of answers that each preset may refuse or stop, in (0, 1).
        schedule: When answers are checked; None takes the model's.
        batch_size: Rows read together.

    Raises:
        DataError: If there is no answer to calibrate on.
    """
    if not answers:
        raise DataError(
            "no benign validation answer to calibrate the thresholds on. Expected at least one, better 150.",
            hint='`safesignal rollouts` with a job named `calibration` and `split = "val"` makes them',
        )
    reader = WindowReader(model.forward_signal, answers, schedule or model.schedule(), batch_size)
    prompts = reader.queries()
    base = Policy(tau=model.config.tau, r1=model.config.r1, r2=model.config.r2, r3=model.config.r3)
    presets = {}
    for name, target in target_fpr.items():
        half = target / 2
        prompt = lowest_threshold(prompts, half)
        window = _window_threshold(reader, base, half)
        policy = replace(base, threshold=prompt, window_threshold=window)
        fired = reader.fired(policy)
        stopped = sum(signal >= prompt or fire for signal, fire in zip(prompts, fired, strict=True))
        presets[name] = OperatingPoint(prompt, window, target, round(stopped / len(answers), 5), len(answers))
    return Calibration(presets, tuple(prompts), len(answers))


def lowest_threshold(signals: Sequence[float], share: float) -> float:
    """Return the lowest threshold that at most `share` of the signals reach, halfway to the next one below.

    Rounded to 4 digits, never below 0.5: a signal that calls itself benign does not refuse.
    """
    allowed = math.floor(share * len(signals) + 1e-9)
    ordered = sorted(signals, reverse=True)
    if allowed >= len(ordered):
        return 0.5
    below = ordered[allowed]
    above = ordered[allowed - 1] if allowed else 1.0
    return max(0.5, round(min(1.0, (below + above) / 2 + 5e-5), 4))


def _window_threshold(reader: WindowReader, policy: Policy, share: float) -> float:
    """Find the lowest window threshold under which at most `share` of the answers are stopped, by bisection."""
    low, high = 0.5, 1.0
    allowed = math.floor(share * reader.n + 1e-9)
    if sum(reader.fired(replace(policy, window_threshold=low))) <= allowed:
        return low
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        stopped = sum(reader.fired(replace(policy, window_threshold=middle)))
        low, high = (low, middle) if stopped <= allowed else (middle, high)
    return math.ceil(high * 10_000) / 10_000
