"""`safesignal score`: the signal of prompts, or of prompts and somebody's responses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safesignal.cli.arguments import flag, option, together
from safesignal.cli.console import note, note_read_as, out
from safesignal.cli.options import FileOptions, ModelOptions, SignalOptions
from safesignal.cli.rows import (
    InputRow,
    encode_rows,
    marker,
    one_row,
    read_rows,
    require_same_run,
    where_it_applies,
    work_through,
)
from safesignal.data.jsonl import Writer
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.modeling.chat import Encoded
    from safesignal.modeling.model import SafeSignalModel
    from safesignal.modeling.output import Score
    from safesignal.rules import Policy, Schedule

__all__ = ["score"]

_IO = "Input and output"


def score(
    model: ModelOptions,
    signal: SignalOptions,
    files: FileOptions,
    response: Annotated[str | None, option("response", "Score this response to it too.", _IO)] = None,
    trace: Annotated[bool, flag("trace", "Show every check as a table.", _IO)] = False,
) -> None:
    """Read the signal of prompts and responses without generating; of labelled rows, say how it tells them apart."""
    together(files.check, model.check, partial(signal.check, model, None))
    if files.prompt is not None:
        _one(model, signal, one_row("--prompt", files.prompt), response or "", trace=trace)
    elif files.input is not None and files.output is not None:
        if response is not None or trace:
            raise UsageError("`--response` and `--trace` belong to one `--prompt`. Expected neither with `--input`.")
        rows = read_rows(files.input)
        with Writer(files.output, overwrite=files.overwrite) as writer:
            _many(model, signal, rows, writer, files.batch_size)


def _one(asked: ModelOptions, signal: SignalOptions, row: InputRow, response: str, *, trace: bool) -> None:
    model = asked.load()
    encoded = encode_rows(model, [row], lambda one: (one.record.chat(), response), 0)
    policy, schedule = _reading(model, signal)
    (found,) = _scores(model, encoded, policy, schedule)
    if trace:
        from safesignal.cli.render import checks_table

        out.print(checks_table(found.checks, policy, refused=False))
        note_read_as(found.read_as)
    else:
        typer.echo(json.dumps(_row(model, found)))


def _many(
    asked: ModelOptions, signal: SignalOptions, rows: Sequence[InputRow], writer: Writer, batch_size: int
) -> None:
    mark = marker({"model": asked.key(), "signal": asdict(signal)})
    require_same_run(rows, writer, mark)
    if all(row.record.id in writer.done for row in rows):
        note(f"all {len(rows)} rows are in {writer.path} already; `--overwrite` starts anew")
        return
    model = asked.load()
    policy, schedule = _reading(model, signal)

    def answer(_: Sequence[InputRow], encoded: Sequence[Encoded]) -> Iterable[dict[str, Any]]:
        return [_row(model, found) for found in _scores(model, encoded, policy, schedule)]

    def text_of(row: InputRow) -> tuple[list[dict[str, str]], str]:
        return row.record.chat(), row.record.prefill + (row.record.response or "")

    work_through(rows, writer, lambda left: encode_rows(model, left, text_of, 0), answer, mark, batch_size)
    for line in _summary(read_rows(writer.path), policy):
        note(line)


def _summary(rows: Sequence[InputRow], policy: Policy) -> Iterator[str]:
    """Say how well the signal tells labelled prompts and responses apart, and how many of each label it flags."""
    from safesignal.stats import Rate, roc_auc

    prompts = [(row.record.prompt_is_malicious, row.raw.get("prompt_signal")) for row in rows]
    responses = [(row.record.response_is_malicious, row.raw.get("response_signal")) for row in rows]
    for what, pairs, threshold in (
        ("prompts", prompts, policy.threshold),
        ("responses", responses, policy.window_threshold),
    ):
        labelled = [(own, float(signal)) for own, signal in pairs if own is not None and signal is not None]
        rates = {
            name: Rate.of([signal >= threshold for own, signal in labelled if own is label])
            for name, label in (("malicious", True), ("benign", False))
            if any(own is label for own, _ in labelled)
        }
        if rates:
            auc = f"AUC {roc_auc(*zip(*labelled, strict=True)):.3f}; " if len(rates) == 2 else ""
            flagged = " and ".join(f"{rate} of the {name} ones" for name, rate in rates.items())
            yield f"{len(labelled)} labelled {what}: {auc}at the threshold, {threshold:.2f}, {flagged} are flagged"


def _reading(model: SafeSignalModel, signal: SignalOptions) -> tuple[Policy, Schedule]:
    if model.base_drift:
        note(f"base drift accepted: {model.base_drift}")
    return model.policy(signal.preset, **signal.overrides()), signal.reading(model.config)


def _scores(model: SafeSignalModel, encoded: Sequence[Encoded], policy: Policy, schedule: Schedule) -> list[Score]:
    from safesignal.modeling.score import score_encoded

    return score_encoded(model.forward_signal, encoded, policy, schedule)


def _row(model: SafeSignalModel, found: Score) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt_signal": round(found.prompt_signal, 6)}
    if found.response_signal is not None:
        row["response_signals"] = [round(signal, 6) for signal in found.response_signals]
        row["response_signal"] = round(found.response_signal, 6)
    return row | where_it_applies(found.read_as, model.base_drift)
