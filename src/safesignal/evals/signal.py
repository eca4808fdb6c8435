"""Scoring labelled prompts and answers into `signal.jsonl`: what the signal says, nothing generated.

An answer counts by checks of its windows alone (`signal` is the highest, `response_signal` the level that τ consecutive
ones reach), because its prompt may be malicious whatever the answer is; a reader of answers reads that prompt along.
`prompt_signal` stands beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safesignal.data.jsonl import Writer
from safesignal.data.records import Record
from safesignal.data.sources import load_source
from safesignal.evals.signal_metrics import signal_metrics
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Score
from safesignal.modeling.score import score_encoded
from safesignal.rules import Policy, Schedule
from safesignal.types import CheckKind

__all__ = ["PROMPT_SETS", "RESPONSE_SETS", "SignalSet", "load_signal_sets", "run_signal", "signal_metrics"]

PROMPT_SETS = (
    "advbench",
    "maliciousinstruct",
    "jailbreakbench",
    "xstest",
    "alpaca-benign",
    "mt-bench",
    "gsm8k",
    "gcg",
    "autodan",
    "deepinception",
)
"""Sets whose prompts are labelled; jailbreakbench and xstest bring both classes."""

RESPONSE_SETS = ("jbb-artifacts", "human-harm", "xstest-response")
"""Sets whose answers are labelled: jailbroken, harmful by human score, harmful."""

_CATEGORIES = ("type", "category", "harm_category", "method")


@dataclass(frozen=True, slots=True)
class SignalSet:
    """One labelled set, read by its prompts or by its answers.

    Attributes:
        name: The source that its rows are counted under.
        kind: What of a record is labelled and scored.
        records: All have the label that `kind` asks for.
    """

    name: str
    kind: Literal["prompt", "response"]
    records: tuple[Record, ...]


def load_signal_sets(
    prompts: Sequence[str] = PROMPT_SETS,
    responses: Sequence[str] = RESPONSE_SETS,
    *,
    data_dir: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[SignalSet]:
    """Load sets by their names in the catalog; records without a label are left out.

    Args:
        prompts: Sets to read by their prompts.
        responses: Sets to read by their answers.
        data_dir: As in :func:`load_source`.
        limit: Most records of each set; None takes all.
        seed: Of the draw.
    """
    sets = []
    kinds: tuple[tuple[Literal["prompt", "response"], Sequence[str]], ...]
    kinds = (("prompt", prompts), ("response", responses))
    for kind, names in kinds:
        for name in names:
            records = load_source(name, data_dir=data_dir, limit=limit, seed=seed)
            sets.append(SignalSet(name, kind, tuple(r for r in records if _label(r, kind) is not None)))
    return sets


def run_signal(
    model: SafeSignalModel,
    sets: Sequence[SignalSet],
    folder: str | Path,
    *,
    policy: Policy | None = None,
    schedule: Schedule | None = None,
    batch_size: int = 8,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> int:
    """Score what `signal.jsonl` of a run folder does not hold yet; a row is on disk as soon as its batch is read.

    A text longer than the model can read, or an empty answer, gets a row without a signal, with the reason in `error`.

    Args:
        model: The guarded model.
        sets: What to score.
        folder: The run folder.
        policy: Thresholds, τ and window sizes; None takes the adapter's balanced preset.
        schedule: When answers are checked; None takes the adapter's.
        batch_size: Rows read together.
        progress: Called with (set, done, all).

    Returns:
        The number of rows written.
    """
    policy, schedule = policy or model.policy(), schedule or model.schedule()
    written = 0
    with Writer(Path(folder) / "signal.jsonl") as writer:
        for one in sets:
            left = [record for record in one.records if _id(one, record) not in writer.done]
            encoded = [model.encode_one(r.chat(), _response(r, one.kind)) for r in left]
            order = sorted(range(len(left)), key=lambda index: len(encoded[index].ids))
            for begin in range(0, len(order), batch_size):
                batch = order[begin : begin + batch_size]
                scores = _score(model, [encoded[index] for index in batch], policy, schedule)
                for index, score in zip(batch, scores, strict=True):
                    writer.write(_row(one, left[index], encoded[index], score, policy))
                written += len(batch)
                progress(one.name, len(one.records) - len(left) + begin + len(batch), len(one.records))
    return written


def _score(
    model: SafeSignalModel, encoded: Sequence[Encoded], policy: Policy, schedule: Schedule
) -> list[Score | None]:
    """Score one batch; None for texts that do not fit the model."""
    fits = [len(one.ids) < model.forward_signal.stack.max_length for one in encoded]
    readable = [one for one, fit in zip(encoded, fits, strict=True) if fit]
    scores = iter(score_encoded(model.forward_signal, readable, policy, schedule) if readable else [])
    return [next(scores) if fit else None for fit in fits]


def _row(one: SignalSet, record: Record, encoded: Encoded, score: Score | None, policy: Policy) -> dict[str, Any]:
    response = one.kind == "response"
    row = {
        "id": _id(one, record),
        "kind": one.kind,
        "source": one.name,
        "category": next((str(record.meta[name]) for name in _CATEGORIES if record.meta.get(name)), ""),
        "label": _label(record, one.kind),
        "threshold": policy.window_threshold if response else policy.threshold,
        "n_tokens": encoded.prefill if response else len(encoded.ids),
    }
    if score is None:
        return {**row, "signal": None, "error": f"the text has {len(encoded.ids)} tokens, more than the model reads"}
    if not response:
        return {**row, "signal": score.prompt_signal}
    if not score.response_signals:
        return {**row, "signal": None, "error": "the answer is empty"}
    windows = [[check.step, check.signal] for check in score.checks if check.kind is CheckKind.WINDOW]
    return {
        **row,
        "signal": max(score.response_signals),
        "response_signal": score.response_signal,
        "prompt_signal": score.prompt_signal,
        "windows": windows,
        "tau": policy.tau,
    }


def _id(one: SignalSet, record: Record) -> str:
    return f"{one.kind}/{one.name}/{record.id}"


def _label(record: Record, kind: str) -> bool | None:
    return record.prompt_is_malicious if kind == "prompt" else record.response_is_malicious


def _response(record: Record, kind: str) -> str:
    return (record.response or "") if kind == "response" else ""
