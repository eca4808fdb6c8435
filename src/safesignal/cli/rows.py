"""JSONL in, JSONL out: read all rows or none, work through them in batches, append as they come, resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safesignal.cli.console import note, progress
from safesignal.data.jsonl import Writer, read_jsonl, require_file
from safesignal.data.records import Record, read_records, record_from_row
from safesignal.errors import DataError, SafeSignalError, UsageError
from safesignal.types import Check

if TYPE_CHECKING:
    from safesignal.modeling.chat import Encoded
    from safesignal.modeling.model import SafeSignalModel

__all__ = [
    "InputRow",
    "check_row",
    "encode_rows",
    "marker",
    "one_row",
    "read_rows",
    "require_same_run",
    "where_it_applies",
    "work_through",
]

_MAX_PROBLEMS = 10
_WHERE_IT_APPLIES = ("read_as", "base_drift")
"""Fields that an output row has only where they apply: those of an earlier run do not stay in its row."""


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of an input file.

    Attributes:
        number: Its place in the file, which keys the noise of sampling, so that batches do not matter.
        raw: The object as it stands in the file; output rows add to it.
        record: The same, checked.
    """

    number: int
    raw: dict[str, Any]
    record: Record

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"row {self.record.id}" if "id" in self.raw else "the prompt"


def read_rows(path: str | Path) -> list[InputRow]:
    """Read a file of prompts.

    Raises:
        DataError: If any row is not what it should be; all problems at once.
    """
    require_file(path)
    records = read_records(path, require=())
    raws = (row for _, row in read_jsonl(path))
    named = [row | {"id": row.get("id") or record.id} for record, row in zip(records, raws, strict=True)]
    return [InputRow(i, row, record) for i, (row, record) in enumerate(zip(named, records, strict=True))]


def marker(how: Mapping[str, object]) -> Callable[[InputRow], str]:
    """Return a function that gives a row its mark: a short hash of its text and of `how` it is answered.

    Args:
        how: JSON values that decide what comes out: model, adapter, settings.
    """
    settings = json.dumps(how, sort_keys=True)

    def mark(row: InputRow) -> str:
        text = json.dumps([row.record.chat(), row.record.prefill, row.record.response])
        return sha256(f"{settings}\n{text}".encode()).hexdigest()[:16]

    return mark


def require_same_run(rows: Sequence[InputRow], out: Writer, mark: Callable[[InputRow], str]) -> None:
    """Raise if rows in the output were answered under other settings, or are other rows: a mixture looks like one run.

    Raises:
        UsageError: With the first such row.
    """
    ids = {str(row.record.id): row for row in rows}
    written = read_rows(out.path) if out.done else []
    # A row that the input has no more is told by the text that it holds itself.
    other = [row.record.id for row in written if row.raw.get("run") != mark(ids.get(str(row.record.id), row))]
    if other:
        raise UsageError(
            f"{len(other)} rows of `{out.path}` come from another run, the first with id {other[0]}: "
            "the model, a setting or the text was another. Expected the same, to go on from it.",
            hint="choose another `--output`, or start anew with `--overwrite`",
        )


def one_row(name: str, prompt: str) -> InputRow:
    """Take a prompt from the command line as a row.

    Raises:
        UsageError: If it is empty.
    """
    try:
        return InputRow(0, {"prompt": prompt}, record_from_row({"prompt": prompt}))
    except DataError as error:
        raise UsageError(f"{name} cannot be used: {error}.", hint=f'try `{name} "How do plants grow?"`') from error


def check_row(check: Check) -> dict[str, Any]:
    """Return a check as the JSONL contract has it."""
    signal = round(check.signal, 6)
    return {"step": check.step, "signal": signal, "verdict": str(check.verdict), "kind": str(check.kind)}


def encode_rows(
    model: SafeSignalModel,
    rows: Sequence[InputRow],
    text_of: Callable[[InputRow], tuple[list[dict[str, str]], str]],
    room: int,
) -> list[Encoded]:
    """Render every row before anything is generated, so that one that cannot be read costs nothing.

    Args:
        model: Gives template, tokenizer and context length.
        rows: What to render.
        text_of: Returns a row's messages and the start of its answer.
        room: Tokens that must stay free after it.

    Raises:
        DataError: If rows do not fit the template or the context; all of them at once.
    """
    limit = model.forward_signal.stack.max_length
    encoded: list[Encoded] = []
    problems: list[str] = []
    for row in rows:
        try:
            one = model.encode_one(*text_of(row))
        except SafeSignalError as error:
            problems.append(f"{row.name}: {error}")
            continue
        encoded.append(one)
        if len(one.ids) + room > limit:
            asked = f" and {room} new ones" if room else ""
            problems.append(f"{row.name} has {len(one.ids)} tokens{asked}; expected at most {limit} in all")
    if len(rows) == 1 and problems:
        raise DataError(problems[0], hint=_shorter(room))
    if problems:
        shown = problems[:_MAX_PROBLEMS]
        if len(problems) > _MAX_PROBLEMS:
            shown.append(f"and {len(problems) - _MAX_PROBLEMS} more")
        raise DataError(
            f"{len(problems)} of {len(rows)} rows cannot be used\n  " + "\n  ".join(shown),
            hint=_shorter(room),
        )
    return encoded


def where_it_applies(read_as: str | None, base_drift: str) -> dict[str, str]:
    """Return what a disguised query was read as and how the base differs, as fields of an output row where they do."""
    return {name: said for name, said in zip(_WHERE_IT_APPLIES, (read_as, base_drift), strict=True) if said}


def _shorter(room: int) -> str:
    return "shorten the prompt or lower `--max_new_tokens`" if room else "shorten the prompt or the response"


def work_through(
    rows: Sequence[InputRow],
    out: Writer,
    prepare: Callable[[Sequence[InputRow]], list[Encoded]],
    answer: Callable[[Sequence[InputRow], Sequence[Encoded]], Iterable[dict[str, Any]]],
    mark: Callable[[InputRow], str],
    batch_size: int,
) -> None:
    """Answer what `out` does not hold yet, in batches of similar length, longest first.

    Args:
        rows: All rows of the input.
        out: Where answers go, each batch as soon as it is there.
        prepare: Renders all rows that are left; raises before anything is answered.
        answer: Returns what a batch adds to its rows, in order.
        mark: Gives each row the mark of this run, its field `run`.
        batch_size: Rows per batch.
    """
    left = [row for row in rows if row.record.id not in out.done]
    if len(left) < len(rows):
        note(f"{len(rows) - len(left)} of {len(rows)} rows are in {out.path} already; going on with the rest")
    by_length = sorted(zip(left, prepare(left), strict=True), key=lambda pair: (-len(pair[1].ids), pair[0].number))
    with progress() as bar:
        task = bar.add_task(str(out.path), total=len(rows), completed=len(rows) - len(left))
        for start in range(0, len(left), batch_size):
            batch = sorted(by_length[start : start + batch_size], key=lambda pair: pair[0].number)
            chosen, encoded = [row for row, _ in batch], [one for _, one in batch]
            for row, added in zip(chosen, answer(chosen, encoded), strict=True):
                kept = {name: value for name, value in row.raw.items() if name not in _WHERE_IT_APPLIES}
                out.write(kept | added | {"run": mark(row)})
            bar.update(task, advance=len(batch))
