"""Raw text for the pretraining stage, read as a stream and cut into pieces: a text file, a JSONL file, a hub set.

Nothing is held in memory but the document at hand and the ids of a JSONL file. A piece's id depends on its document and
its place there alone, so a run that goes on from where it stopped meets the same ids again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safesignal.data.jsonl import Problem, problems_error, repeated_id, scan_jsonl
from safesignal.errors import DataError, UsageError

__all__ = ["Document", "Piece", "cut", "hub_documents", "local_documents", "pieces"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text as its source has it.

    Attributes:
        id: Unique in its source.
        text: The whole of it.
        label: What the source itself says of it; empty if it says nothing.
        kept: Fields of its row that decide whether and where it is trained on: `job` and `base_prompt`.
    """

    id: str
    text: str
    label: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a document.

    Attributes:
        id: The document's id, `#`, and the number of the piece in it.
        text: At most as many characters as asked for, never blank.
        label: The document's own label.
        kept: The document's own.
    """

    id: str
    text: str
    label: str = ""
    kept: Mapping[str, str] = field(default_factory=dict)


def local_documents(path: str | Path, field: str = "text", label_field: str = "") -> Iterator[Document]:
    """Yield the documents of a local file: the rows of a `.jsonl` file, else blocks of text between blank lines.

    Args:
        path: The file, UTF-8.
        field: Field of a JSONL row that holds the text; rows in which it is null are passed over.
        label_field: Field of a JSONL row that holds a label; empty reads none.

    Raises:
        DataError: If the file cannot be read, a row has something else than text in that field, or an id repeats.
    """
    path = Path(path)
    try:
        if path.suffix == ".jsonl":
            yield from _rows(path, field, label_field)
        else:
            yield from _blocks(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{path}` cannot be read: {error}. Expected UTF-8 text or JSON lines.") from error


def hub_documents(
    name: str, config: str | None = None, split: str = "train", field: str = "text"
) -> Iterator[Document]:
    """Yield the rows of a hub set as they arrive; nothing is downloaded ahead.

    Args:
        name: Hub id, such as `wikimedia/wikipedia`.
        config: Its configuration, such as `20231101.en`.
        split: Which split.
        field: Column that holds the text.

    Raises:
        UsageError: If the package `datasets` is missing.
        DataError: If the set cannot be read, or has no such column.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UsageError(
            f"the set `{name}` comes from the hub, which needs the package `datasets`.",
            hint='pip install "safesignal[data]", or pass a local file with `--input`',
        ) from error
    try:
        for number, row in enumerate(load_dataset(name, config, split=split, streaming=True)):
            if not isinstance(row.get(field), str):
                raise DataError(
                    f"row {number} of {name} has no text in `{field}`. Expected one of {', '.join(sorted(row))}.",
                    hint="name the column with `--field`",
                )
            yield Document(f"{name}/{_id_of(row, number)}", row[field])
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot stream {name} from the hub: {error}", hint="check the network and the name") from error


def pieces(documents: Iterator[Document], length: int, limit: int | None = None) -> Iterator[Piece]:
    """Yield the documents' pieces of at most `length` characters, the first `limit` of them."""
    every = (
        Piece(f"{document.id}#{number}", text, document.label, document.kept)
        for document in documents
        for number, text in enumerate(cut(document.text, length))
    )
    yield from itertools.islice(every, limit)


def cut(text: str, length: int) -> Iterator[str]:
    """Yield a text in pieces of at most `length` characters, cut at white space where a piece holds any.

    Joined, the pieces are the text but for white space at the cuts.

    Example:
        >>> list(cut("one two three", 8))
        ['one two', 'three']
    """
    rest = text.strip()
    while rest:
        if len(rest) <= length:
            yield rest
            return
        space = max(rest.rfind(mark, 0, length + 1) for mark in " \n\t")
        at = space if space > 0 else length
        yield rest[:at].rstrip()
        rest = rest[at:].lstrip()


def _rows(path: Path, field: str, label_field: str) -> Iterator[Document]:
    first_line: dict[str, int] = {}
    for line, row in scan_jsonl(path):
        problem = row if isinstance(row, Problem) else None
        if not isinstance(row, Problem) and not isinstance(row.get(field, 0), str | None):
            problem = Problem(line, field, f"is missing or no text; the row has {', '.join(sorted(row))}")
        if problem is not None:
            raise problems_error(path, [problem])
        assert isinstance(row, dict)
        if row[field] is not None:
            name, label = _id_of(row, line), str(row.get(label_field) or "")
            if repeated := repeated_id(name, line, first_line):
                raise problems_error(
                    path, [repeated], "give the rows ids of their own, or none: the number of the line will do"
                )
            yield Document(f"{path.name}/{name}", row[field], label, _kept(row, field))


def _id_of(row: Mapping[str, Any], number: int) -> str:
    """Return the row's id, its number where it has none."""
    own = row.get("id")
    return str(number if own is None or own == "" else own)


def _kept(row: Mapping[str, Any], field: str) -> dict[str, str]:
    """Return what keeps an answer apart: its rollout job, and the prompt whose side of the split it must stay on."""
    asked = row.get("base_prompt") or (row.get("prompt") if field != "prompt" else None)
    found = {"job": row.get("job"), "base_prompt": asked}
    return {name: value for name, value in found.items() if isinstance(value, str) and value.strip()}


def _blocks(path: Path) -> Iterator[Document]:
    """Yield blocks of lines; a block is known by the line it begins on."""
    block: list[str] = []
    first = 1
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(itertools.chain(file, [""]), 1):
            if line.strip():
                first = first if block else number
                block.append(line)
            elif block:
                yield Document(f"{path.name}/{first}", "".join(block))
                block = []
