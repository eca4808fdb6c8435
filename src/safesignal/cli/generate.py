"""`safesignal generate`: answers to one prompt as text, or to a file of prompts as JSONL."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from safesignal.cli.arguments import flag, option, together
from safesignal.cli.console import note, note_read_as, out, say, waiting
from safesignal.cli.options import FileOptions, ModelOptions, PolicyOptions, SamplingOptions, SignalOptions
from safesignal.cli.rows import (
    InputRow,
    check_row,
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
    from safesignal.modeling.output import Answer

__all__ = ["generate"]

_IO = "Input and output"


def generate(
    model: ModelOptions,
    signal: SignalOptions,
    policy: PolicyOptions,
    sampling: SamplingOptions,
    files: FileOptions,
    prefill: Annotated[
        str, option("prefill", "Make answers begin with this; it is checked as if generated.", _IO)
    ] = "",
    system: Annotated[str, option("system", "System message, where a row has none of its own.", _IO)] = "",
    trace: Annotated[bool, flag("trace", "Show every check and colour the tokens by their signal.", _IO)] = False,
    no_signal: Annotated[bool, flag("no-signal", "The bare base model: nothing is checked.", _IO)] = False,
) -> None:
    """Answer one prompt, or every row of a file, under the signal."""
    watching = partial(signal.check, model, policy)
    together(files.check, model.check, sampling.check, *([] if no_signal else [watching]))
    if trace and (files.input is not None or no_signal):
        raise UsageError("`--trace` shows the checks of one prompt. Expected `--prompt` and no `--no-signal`.")
    job = _Job(model, signal, policy, sampling, prefill, system, watch=not no_signal)
    if files.prompt is not None:
        job.say(one_row("--prompt", files.prompt), trace=trace)
    elif files.input is not None and files.output is not None:
        rows = read_rows(files.input)
        with Writer(files.output, overwrite=files.overwrite) as writer:
            job.write(rows, writer, files.batch_size)


class _Job:
    """One request: what was asked for, and the model once it is loaded."""

    def __init__(
        self,
        model: ModelOptions,
        signal: SignalOptions,
        policy: PolicyOptions,
        sampling: SamplingOptions,
        prefill: str,
        system: str,
        *,
        watch: bool,
    ) -> None:
        self._asked = (model, signal, policy)
        self._sampling = sampling
        self._prefill = prefill
        self._system = system
        self._watch = watch

    def say(self, row: InputRow, *, trace: bool) -> None:
        """Answer one prompt on stdout."""
        model = self._load()
        (encoded,) = encode_rows(model, [row], self._text_of, self._sampling.max_new_tokens)
        if trace:
            self._show(model, row, encoded)
            return
        messages, prefill = self._text_of(row)
        answer: Answer | None = None
        for chunk in model.stream(messages, prefill=prefill, **self._how(model), **self._sampling.given()):
            say(chunk.text)
            answer = chunk.answer
        typer.echo()
        if answer is not None and answer.refused:
            where = f"at token {answer.stopped_at}" if answer.stopped_at else "before the first token"
            note(f"refused {where}; `--trace` shows every check")

    def write(self, rows: Sequence[InputRow], writer: Writer, batch_size: int) -> None:
        """Answer the rows of a file that are not in the output yet."""
        mark = marker(self._settings())
        require_same_run(rows, writer, mark)
        if all(row.record.id in writer.done for row in rows):
            note(f"all {len(rows)} rows are in {writer.path} already; `--overwrite` starts anew")
            return
        model = self._load()
        how, options = self._how(model), self._sampling.resolve(model)

        def answer(batch: Sequence[InputRow], encoded: Sequence[Encoded]) -> Iterable[dict[str, Any]]:
            answers = model.answer(encoded, **how, options=options, numbers=[row.number for row in batch])
            return [self._row(model, *one) for one in zip(batch, answers, strict=True)]

        room = self._sampling.max_new_tokens
        work_through(rows, writer, lambda left: encode_rows(model, left, self._text_of, room), answer, mark, batch_size)

    def _settings(self) -> dict[str, Any]:
        """Return what decides the answers, as JSON values."""
        model, signal, policy = self._asked
        watched = {"signal": asdict(signal), "policy": policy.overrides()} if self._watch else None
        text = {"prefill": self._prefill, "system": self._system}
        return {"model": model.key(), "watched": watched, "sampling": self._sampling.given(), **text}

    def _load(self) -> SafeSignalModel:
        model = self._asked[0].load(signal=self._watch)
        if self._watch and model.base_drift:
            note(f"base drift accepted: {model.base_drift}")
        return model

    def _how(self, model: SafeSignalModel) -> dict[str, Any]:
        if not self._watch:
            return {"signal": False}
        _, signal, policy = self._asked
        wanted = model.policy(signal.preset, **signal.overrides(), **policy.overrides())
        return {"policy": wanted, "schedule": signal.reading(model.config)}

    def _text_of(self, row: InputRow) -> tuple[list[dict[str, str]], str]:
        messages = row.record.chat()
        if self._system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": self._system}, *messages]
        return messages, row.record.prefill or self._prefill

    def _row(self, model: SafeSignalModel, row: InputRow, answer: Answer) -> dict[str, Any]:
        prefill = self._text_of(row)[1]
        return {
            **({"prefill": prefill} if prefill else {}),
            "text": answer.text,
            "refused": answer.refused,
            "stopped_at": answer.stopped_at,
            "checks": [check_row(check) for check in answer.checks],
            "n_tokens": answer.n_tokens,
            **where_it_applies(answer.read_as, model.base_drift if self._watch else ""),
        }

    def _show(self, model: SafeSignalModel, row: InputRow, encoded: Encoded) -> None:
        from safesignal.cli.render import Trace, token_pieces, trace_view

        how = self._how(model)
        with waiting("generating …"):
            (answer,) = model.answer([encoded], **how, options=self._sampling.resolve(model))
        prefill = token_pieces(model.tokenizer, encoded.ids[encoded.text :])
        pieces = token_pieces(model.tokenizer, answer.ids)
        note_read_as(answer.read_as)
        out.print(trace_view(Trace(row.record.prompt, prefill, pieces, answer, how["policy"], how["schedule"])))
