"""Thresholds, calibrated per answer: the share of the base model's own benign answers that is refused or stopped.

Two sets of answers may set limits: those to ordinary prompts, and those to look-alikes, which sound harmful and are
not. Half of a preset's budget on either set goes to the query threshold, what that leaves of the whole to the window
threshold; the stricter demand counts. No preset's windows stop at less than those of one with a larger budget, which
could happen where its queries leave them more. Windows are replayed under the very rules that decoding applies
(schedule, τ, r, closing), with the adapter's saved half-precision weights. A joint model's answers are read as
prefills, under the query check alone: while it writes, its tokens also see the windows' checks, so its real share may
differ from the measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from types import MappingProxyType

from safesignal.config import OperatingPoint
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.score import WindowReader
from safesignal.rules import Policy, Schedule

__all__ = ["Calibration", "calibrate", "lowest_threshold", "require_answers", "share_left"]

_ROUNDS = 12


@dataclass(frozen=True, slots=True)
class Calibration:
    """The presets and what they did on the calibration answers.

    Attributes:
        presets: Thresholds by preset name.
        prompts: Query signals of the calibration rows.
        n: Rows.
        lookalikes: Share of the answers to look-alikes that each preset refuses or stops; empty without such answers.
        n_lookalikes: Their number.
    """

    presets: dict[str, OperatingPoint]
    prompts: tuple[float, ...]
    n: int
    lookalikes: dict[str, float]
    n_lookalikes: int


def calibrate(
    model: SafeSignalModel,
    answers: Sequence[Encoded],
    target_fpr: Mapping[str, float],
    *,
    lookalikes: Sequence[Encoded] = (),
    lookalike_fpr: Mapping[str, float] = MappingProxyType({}),
    least_windows: Mapping[str, float] = MappingProxyType({}),
    kept_queries: Mapping[str, float] = MappingProxyType({}),
    schedule: Schedule | None = None,
    batch_size: int = 16,
) -> Calibration:
    """Choose the thresholds of every preset.

    Args:
        model: With its weights as they will be saved.
        answers: The base model's own answers to benign validation prompts, as the prefill of each conversation.
        target_fpr: Share of answers that each preset may refuse or stop, in (0, 1).
        lookalikes: Its answers to benign prompts that sound harmful.
        lookalike_fpr: Share of those that each preset may refuse or stop, in (0, 1); a preset not named has no limit.
        least_windows: Window threshold that each preset has at least, in [0, 1], besides that of stricter ones.
        kept_queries: Query threshold that each preset keeps, in [0, 1]; for a preset not named it is chosen.
        schedule: When answers are checked; None takes the model's.
        batch_size: Rows read together.

    Raises:
        DataError: If there is no answer to calibrate on.
    """
    require_answers(answers)
    readers = [
        WindowReader(model.forward_signal, own, schedule or model.schedule(), batch_size)
        for own in (answers, lookalikes)
        if own
    ]
    base = Policy(tau=model.config.tau, **model.config.rules())
    presets: dict[str, OperatingPoint] = {}
    alarms: dict[str, float] = {}
    stricter = 0.0
    for name, target in sorted(target_fpr.items(), key=itemgetter(1), reverse=True):
        budgets = [target, *([lookalike_fpr[name]] if name in lookalike_fpr else [])]
        least = max(stricter, least_windows.get(name, 0.0))
        policy = _lowest_policy(readers, base, budgets, least, kept_queries.get(name))
        if policy.window_threshold < 1.0:  # where its queries use the budget up, a preset's own windows never stop
            stricter = policy.window_threshold
        rates = [_refused(reader, policy) for reader in readers]
        presets[name] = OperatingPoint(
            policy.threshold, policy.window_threshold, target, round(rates[0], 5), len(answers)
        )
        if lookalikes:
            alarms[name] = round(rates[-1], 5)
    return Calibration(presets, tuple(readers[0].queries()), len(answers), alarms, len(lookalikes))


def require_answers(answers: Sequence[object]) -> None:
    """Raise unless there is an answer to calibrate on."""
    if not answers:
        raise DataError(
            "no benign validation answer to calibrate the thresholds on. Expected at least one, better 150.",
            hint="give benign prompts with benign responses, as `safesignal rollouts --input` writes them, or a plan "
            'with a job `calibration` of `split = "val"`',
        )


def _lowest_policy(
    readers: Sequence[WindowReader], base: Policy, budgets: Sequence[float], least: float, query: float | None
) -> Policy:
    """Return the policy with the lowest thresholds that keep to the budgets of the first readers.

    That of windows is `least` or above, that of queries `query` if one is given.
    """
    demands = list(zip(readers, budgets, strict=False))
    prompt = query
    if prompt is None:
        prompt = max(lowest_threshold(reader.queries(), budget / 2) for reader, budget in demands)
    window = max(
        _window_threshold(reader, base, share_left(reader.queries(), prompt, budget)) for reader, budget in demands
    )
    return replace(base, threshold=prompt, window_threshold=max(window, least))


def _refused(reader: WindowReader, policy: Policy) -> float:
    """Return the share of a reader's answers that the policy refuses or stops, in [0, 1]."""
    found = zip(reader.queries(), reader.fired(policy), strict=True)
    return sum(signal >= policy.threshold or fired for signal, fired in found) / reader.n


def lowest_threshold(signals: Sequence[float], share: float) -> float:
    """Return the lowest threshold that at most `share` of the signals reach.

    Rounded to 4 digits, never below 0.5: a signal that calls itself benign does not refuse. Never above 1, which a
    signal of 1 reaches whatever the share.
    """
    allowed = math.floor(share * len(signals) + 1e-9)
    ordered = sorted(signals, reverse=True)
    if allowed >= len(ordered):
        return 0.5
    return max(0.5, min(1.0, round(ordered[allowed] + 1e-4, 4)))


def share_left(signals: Sequence[float], threshold: float, budget: float) -> float:
    """Return what query signals that reach their threshold leave of a budget, a share in [0, 1] as they are."""
    return budget - sum(signal >= threshold for signal in signals) / len(signals)


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
