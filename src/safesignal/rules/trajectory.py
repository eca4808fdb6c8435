"""The span rules and the verdict's course through one answer: the paper's *strategic attention* as a state machine.

One :class:`Trajectory` follows one answer. The loop asks it what the next check may see (:meth:`Trajectory.span`),
tells it what the check said (:meth:`Trajectory.observe`) and does what it answers (:class:`Action`). Everything is
counted in answer tokens: a caller's prefill first, then the generated tokens.

Two facts hold at every moment, and tests/rules/test_trajectory.py holds the code to them:

* the first `frontier` tokens are covered, without a gap, by checks that said *benign*; only they may be released;
* a malicious run begins at S_t = the frontier when it began, so going back to S_t removes every token that no
  benign check covered (the paper's own point, `transition="paper"`, lies later and needs the buffer off).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from safesignal.errors import SignalError
from safesignal.rules.policy import Policy
from safesignal.types import Span, Verdict

__all__ = ["GO_ON", "Action", "Trajectory", "decisive_signal", "query_verdict", "replay", "verdict_of"]


@dataclass(frozen=True, slots=True)
class Action:
    """What the policy asks of the decode loop.

    Attributes:
        refuse: Whether the policy fired.
        keep: Answer tokens that stay when it fired; everything after them is rolled back.
    """

    refuse: bool = False
    keep: int = 0


GO_ON = Action()


def verdict_of(signal: float, threshold: float) -> Verdict:
    """Compare one signal with its threshold.

    Raises:
        SignalError: If the signal is not a probability. NaN compares false with everything and would read as benign.
    """
    if not (math.isfinite(signal) and 0.0 <= signal <= 1.0):
        raise SignalError(
            f"the signal is {signal}. Expected a probability in [0, 1].",
            hint="the adapter or the base model has non-finite weights; load both again, or retrain the adapter",
        )
    return Verdict.MALICIOUS if signal >= threshold else Verdict.BENIGN


def query_verdict(signal: float, policy: Policy) -> tuple[Verdict, Action]:
    """Judge the query: the first verdict, and whether it refuses before anything is written."""
    verdict = verdict_of(signal, policy.threshold)
    fires = verdict is Verdict.MALICIOUS and policy.dependence != "low"
    return verdict, Action(refuse=True, keep=0) if fires else GO_ON


@dataclass(slots=True)
class Trajectory:
    """The course of one answer under one policy.

    Attributes:
        policy: Thresholds, τ, r1 to r3 and dependence.
        first: Verdict of the query check; None where the query was not checked, which counts as benign.
        prefill: Answer tokens supplied by the caller; a malicious check that ends within them fires regardless of τ.
        turn: Earlier assistant turn this trajectory follows; None for the current answer.
        frontier: Answer tokens covered without a gap by benign checks.
        run: Consecutive malicious checks so far.
        transition: S_t, the answer tokens before the open malicious run; None while there is no run.
        checked: Answer tokens that existed at the last check.
    """

    policy: Policy
    first: Verdict | None = None
    prefill: int = 0
    turn: int | None = None
    frontier: int = 0
    run: int = 0
    transition: int | None = None
    checked: int = 0
    _seen: Span | None = field(default=None, repr=False)

    def span(self, length: int) -> Span:
        """Return what a check may see now that the answer has `length` tokens.

        Rule 1: after a malicious query, the input and the first r1 tokens. Rule 2: while benign, the most recent r2
        tokens, reaching back to the frontier where a false alarm left tokens that no benign check has covered.
        Rule 3: after the turn at S_t, tokens S_t − r2 to S_t + r3. Without strategic attention: the input and the whole
        answer.
        """
        rules = self.policy
        if not rules.strategic_attention:
            return Span(0, length, query=True, turn=self.turn)
        if self.first is Verdict.MALICIOUS:
            return Span(0, min(length, rules.r1), query=True, turn=self.turn)
        if self.transition is not None:
            start, end = self.transition - rules.r2, min(length, self.transition + rules.r3)
            return Span(max(0, start), end, turn=self.turn)
        return Span(max(0, min(length - rules.r2, self.frontier)), length, turn=self.turn)

    def worth_checking(self, length: int) -> bool:
        """Tell whether a check now would see anything that the last one did not (rule 1: "then no further")."""
        return self.first is not Verdict.MALICIOUS or self.span(length) != self._seen

    def observe(self, signal: float, span: Span, length: int) -> tuple[Verdict, Action]:
        """Record one check of the answer and say what follows.

        Args:
            signal: P(malicious) of the check, in [0, 1].
            span: What it saw, as :meth:`span` returned it.
            length: Answer tokens that existed when it ran.

        Raises:
            SignalError: If the signal is not a probability.
        """
        verdict = verdict_of(signal, self.policy.window_threshold)
        self._seen, self.checked = span, length
        if verdict is Verdict.BENIGN:
            self.run, self.transition = 0, None
            if span.start <= self.frontier:
                self.frontier = max(self.frontier, span.end)
            return verdict, GO_ON
        if self.transition is None:
            self.transition = self.frontier if self.policy.transition == "covered" else length
        self.run += 1
        return verdict, self._fire() if self.run >= self._needed(length) else GO_ON

    def closing_due(self, length: int) -> bool:
        """Tell whether an answer that ends at `length` tokens has some that no check has spoken about yet."""
        if self.first is Verdict.MALICIOUS:
            return self.span(length) != self._seen
        return length > self.checked if self.run else length > self.frontier

    def close(self) -> Action:
        """Say what follows at the end of the answer: a malicious run still open there counts as malicious."""
        return self._fire() if self.run else GO_ON

    def releasable(self, length: int) -> int:
        """Return how many answer tokens may be shown now that `length` exist."""
        held = self.policy.buffer and self.policy.dependence != "low"
        return self.frontier if held else length

    def _needed(self, length: int) -> int:
        return 1 if self.policy.dependence == "high" or length <= self.prefill else self.policy.tau

    def _fire(self) -> Action:
        if self.policy.dependence == "low":
            return GO_ON
        transition = self.transition or 0
        within = transition < self.prefill or self.checked <= self.prefill
        return Action(refuse=True, keep=0 if within else transition)


def replay(
    trajectory: Trajectory, lengths: Sequence[int]
) -> Generator[list[Span], list[float], list[tuple[int, float, Verdict, Span, Action]]]:
    """Follow an answer that exists already, asking for as many signals at a time as the rules allow.

    Spans depend on earlier verdicts, so all remaining ones are asked for as if those were benign, and asked for again
    after a malicious one. The record is the one that checking token by token would have made
    (tests/rules/test_trajectory.py).

    Args:
        trajectory: The course to follow; moved along.
        lengths: Answer lengths at which a check is due, ascending.

    Yields:
        Spans to read; send back one signal in [0, 1] for each.

    Returns:
        Per check: answer length, signal, verdict, span and what followed. Ends early where the policy fired.
    """
    record: list[tuple[int, float, Verdict, Span, Action]] = []
    while lengths:
        guess, spans = replace(trajectory), []
        for length in lengths:
            spans.append(guess.span(length))
            guess.observe(0.0, spans[-1], length)
        signals = yield spans
        for length, span, signal in zip(lengths, spans, signals, strict=True):
            verdict, action = trajectory.observe(signal, span, length)
            record.append((length, signal, verdict, span, action))
            if action.refuse:
                return record
            if verdict is Verdict.MALICIOUS:
                break
        lengths = [length for length in lengths if length > trajectory.checked]
    return record


def decisive_signal(signals: Sequence[float], tau: int) -> float:
    """Return the largest threshold at which `tau` consecutive signals, or a run open at the end, would fire.

    This is the policy-relevant maximum of an answer's windows: its highest run of `tau`, each run as high as its
    lowest signal.

    Args:
        signals: Signals of the answer's windows in order, each in [0, 1].
        tau: Consecutive malicious checks the policy asks for.
    """
    runs = [min(signals[i : i + tau]) for i in range(len(signals))]
    return max(runs, default=0.0)
