"""One row of data as a value, and the checks that stand between a JSONL file and the rest of the project.

A row gives its text as ``prompt`` (one user turn) or as ``messages``; everything else is optional unless the reader
requires it. Unknown fields are kept in ``meta`` and written back. All problems of a file are reported at once, each
with line and field. Reading and writing of lines lives in :mod:`safesignal.data.jsonl`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from safesignal.data.jsonl import (
    Problem,
    Writer,
    append_jsonl,
    done_ids,
    problems_error,
    read_jsonl,
    repeated_id,
    scan_jsonl,
)
from safesignal.display import has_surrogate
from safesignal.errors import DataError, UsageError

__all__ = [
    "FIELDS",
    "Message",
    "PromptLabel",
    "Record",
    "ResponseLabel",
    "Writer",
    "append_jsonl",
    "done_ids",
    "parse_row",
    "read_jsonl",
    "read_records",
    "record_from_row",
    "with_meta",
]

PromptLabel = Literal["benign", "malicious"]
ResponseLabel = Literal["benign", "malicious", "refusal", "none"]

_Note = Callable[[str, str], None]
"""Takes the name of a field and what is wrong with it."""

_ROLES = ("system", "user", "assistant")
FIELDS = ("id", "prompt", "messages", "response", "prompt_label", "response_label", "source", "licence", "prefill")
"""The fields a row may give; all others are kept in ``Record.meta``."""

_REQUIRABLE = ("id", "response", "prompt_label", "response_label", "source", "licence", "prefill")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: The text of the turn, without any chat markup.
    """

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """Return the turn as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True, slots=True)
class Record:
    """A conversation up to its last user turn, an answer if there is one, and what is known about both.

    Attributes:
        id: Unique within its file; the key that resuming goes by.
        messages: At least one turn; the last one is the user's.
        response: The answer, None where the row has none (never an empty string).
        prompt_label: What the prompt asks for; None if nobody labelled it.
        response_label: What the answer is; ``none`` if there is no answer or no label.
        source: Name of the data set.
        licence: ``permissive``, ``sharealike``, ``noncommercial`` or ``unstated``; anything else never ships.
        prefill: Start of the answer supplied by the caller; the response does not repeat it.
        meta: All other fields of the row.
    """

    id: str
    messages: tuple[Message, ...]
    response: str | None = None
    prompt_label: PromptLabel | None = None
    response_label: ResponseLabel = "none"
    source: str = ""
    licence: str = "unstated"
    prefill: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def user_turns(self) -> list[str]:
        """What the user said, turn by turn; at least one."""
        return [message.content for message in self.messages if message.role == "user"]

    @property
    def prompt(self) -> str:
        """The text of the last user turn."""
        return self.user_turns[-1]

    @property
    def query(self) -> str:
        """The text of all user turns, one a line: what a prompt is known by, and what the query's check is about."""
        return "\n".join(self.user_turns)

    @property
    def prompt_is_malicious(self) -> bool | None:
        """The label of the signal for the query; None if the prompt is unlabelled."""
        return None if self.prompt_label is None else self.prompt_label == "malicious"

    @property
    def response_is_malicious(self) -> bool | None:
        """The label of the signal for the answer; a refusal is benign, None if there is no label."""
        return None if self.response_label == "none" else self.response_label == "malicious"

    def chat(self) -> list[dict[str, str]]:
        """Return the messages as ``tokenizer.apply_chat_template`` takes them (without the response)."""
        return [message.as_dict() for message in self.messages]

    def to_row(self) -> dict[str, Any]:
        """Return the record as a JSON object; ``record_from_row`` gives back an equal record."""
        text: dict[str, Any]
        if len(self.messages) == 1 and self.messages[0].role == "user":
            text = {"prompt": self.prompt}
        else:
            text = {"messages": self.chat()}
        row = {"id": self.id, **text, "response": self.response, "prompt_label": self.prompt_label}
        row |= {"response_label": self.response_label, "source": self.source, "licence": self.licence}
        if self.prefill:
            row["prefill"] = self.prefill
        return {**self.meta, **row}


def parse_row(
    row: Mapping[str, Any], *, line: int = 0, default_id: str = "row", require: Sequence[str] = ()
) -> tuple[Record | None, list[Problem]]:
    """Turn one JSON object into a record, or into the list of everything that is wrong with it.

    Exactly one of the two is empty.

    Args:
        row: The JSON object.
        line: 1-based line number put into the problems.
        default_id: The id of a row that has none.
        require: Fields that must be present and not null, out of id, response, prompt_label, response_label,
            source, licence, prefill.
    """
    problems: list[Problem] = []

    def note(name: str, text: str) -> None:
        problems.append(Problem(line, name, text))

    messages = _messages(row, note)
    response = _text(row, "response", note) or None
    response_label: ResponseLabel = _choice(row, "response_label", get_args(ResponseLabel), note) or "none"
    if response is None and response_label != "none":
        note("response", f"is missing or empty; expected text, because `response_label` is {response_label!r}")
    record = Record(
        id=_identifier(row, default_id, note),
        messages=messages,
        response=response,
        prompt_label=_choice(row, "prompt_label", get_args(PromptLabel), note),
        response_label=response_label,
        source=_text(row, "source", note),
        licence=_text(row, "licence", note) or "unstated",
        prefill=_text(row, "prefill", note),
        meta={key: value for key, value in row.items() if key not in FIELDS},
    )
    for name in require:
        if row.get(name) in (None, ""):
            note(name, "is missing; expected a value")
    return (None, problems) if problems else (record, problems)


def record_from_row(row: Mapping[str, Any], *, default_id: str = "row") -> Record:
    """Turn one JSON object into a record.

    Raises:
        DataError: If a field is missing or out of its range; the message names every such field.
    """
    record, problems = parse_row(row, default_id=default_id)
    if record is None:
        raise DataError(
            "; ".join(f"`{problem.field}` {problem.text}" for problem in problems),
            hint="a row needs `prompt` or `messages`; see `safesignal.data.records.Record`",
        )
    return record


def read_records(path: str | Path, *, require: Sequence[str] = ("prompt_label",)) -> list[Record]:
    """Read a JSONL file of rows, all of them or none.

    Args:
        path: A UTF-8 file with one JSON object per line; blank lines are skipped.
        require: Fields every row must have (`prompt` or `messages` always is one of them).

    Raises:
        DataError: If the file cannot be read or any row has a problem; up to 10 problems are listed with line and
            field, the others counted.
        UsageError: If `require` names a field that no row can be required to have.
    """
    path = Path(path)
    unknown = sorted(set(require) - set(_REQUIRABLE))
    if unknown:
        raise UsageError(f"`require` names {unknown}. Expected fields out of {', '.join(_REQUIRABLE)}.")
    records: list[Record] = []
    problems: list[Problem] = []
    first_line: dict[str, int] = {}
    for line, row in scan_jsonl(path):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        record, found = parse_row(row, line=line, default_id=f"{path.stem}-{line}", require=require)
        problems += found
        if record is not None:
            if repeated := repeated_id(record.id, line, first_line):
                problems.append(repeated)
            records.append(record)
    if problems:
        raise problems_error(path, problems)
    if not records:
        raise DataError(f"{path} holds no rows. Expected one JSON object per line.")
    return records


def with_meta(record: Record, **extra: Any) -> Record:
    """Return a copy of the record with more fields in its `meta`."""
    return replace(record, meta={**record.meta, **extra})


def _messages(row: Mapping[str, Any], note: _Note) -> tuple[Message, ...]:
    """Read `prompt` or `messages`; the empty tuple after a noted problem."""
    prompt, turns = row.get("prompt"), row.get("messages")
    if prompt is not None and turns is not None:
        note("messages", "stands beside `prompt`; expected one of the two")
    elif prompt is not None:
        return _message({"role": "user", "content": prompt}, "prompt", note)
    elif turns is None:
        note("prompt", "is missing; expected `prompt` (text) or `messages` (list of role and content)")
    elif not isinstance(turns, list) or not turns:
        note("messages", f"is {_kind(turns)}; expected a non-empty list of role and content")
    else:
        parsed = [_message(turn, f"messages[{index}]", note) for index, turn in enumerate(turns)]
        if all(parsed) and parsed[-1][0].role != "user":
            role = parsed[-1][0].role
            note("messages", f"ends with role {role!r}; expected the user's turn last, the answer in `response`")
        return tuple(turn for part in parsed for turn in part)
    return ()


def _message(turn: Any, name: str, note: _Note) -> tuple[Message, ...]:
    """Read one turn; the empty tuple after a noted problem."""
    if not isinstance(turn, Mapping):
        note(name, f"is {_kind(turn)}; expected an object with role and content")
        return ()
    role, content = turn.get("role"), turn.get("content")
    if role not in _ROLES:
        note(f"{name}.role", f"is {role!r}; expected one of {', '.join(_ROLES)}")
        return ()
    where = name if name == "prompt" else f"{name}.content"
    if not isinstance(content, str):
        note(where, f"is {_kind(content)}; expected text")
    elif role == "user" and not content.strip():
        note(where, "is empty; expected text")
    elif has_surrogate(content):
        note(where, "holds half of a surrogate pair; expected valid Unicode")
    else:
        return (Message(role, content),)
    return ()


def _text(row: Mapping[str, Any], name: str, note: _Note) -> str:
    """Read an optional text field; absent and null are the empty string."""
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        note(name, f"is {_kind(value)}; expected text")
        return ""
    if has_surrogate(value):
        note(name, "holds half of a surrogate pair; expected valid Unicode")
        return ""
    return value


def _choice(row: Mapping[str, Any], name: str, known: Sequence[str], note: _Note) -> Any:
    """Read an optional field with a closed set of values; absent and null are None."""
    value = row.get(name)
    if value is None or (isinstance(value, str) and value in known):
        return value
    note(name, f"is {value!r}; expected one of {', '.join(known)}")
    return None


def _identifier(row: Mapping[str, Any], default: str, note: _Note) -> str:
    """Read the id: text, or an integer taken as text."""
    value = row.get("id")
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        note("id", f"is {_kind(value)}; expected text or an integer")
        return default
    return str(value)


def _kind(value: Any) -> str:
    """Name a JSON value for a message, without its content."""
    names = {bool: "a boolean", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
