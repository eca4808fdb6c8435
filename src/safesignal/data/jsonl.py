"""JSON lines: read with line numbers, append row by row, resume after a crash.

A writer is opened before any work starts, so an output that cannot be written costs nothing. Every row is one
unbuffered append, so a killed run loses at most the row it was writing; the half-written line it may leave is cut off
when the file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safesignal.errors import DataError, UsageError
from safesignal.problems import problems_in

__all__ = [
    "Problem",
    "Writer",
    "append_jsonl",
    "done_ids",
    "problems_error",
    "read_jsonl",
    "repeated_id",
    "require_file",
    "scan_jsonl",
]

_MAX_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with one line.

    Attributes:
        line: 1-based line number.
        field: Name of the field, ``json`` if the line is not a JSON object at all.
        text: What it is and what was expected.
    """

    line: int
    field: str
    text: str


def problems_error(
    path: str | Path,
    problems: Sequence[Problem],
    hint: str = "a row is one JSON object on one line, with `prompt` or `messages`",
) -> DataError:
    """Return the error that lists up to 10 problems of a file, each with line and field."""
    lines = [f"line {problem.line}  {problem.field}  {problem.text}" for problem in problems]
    return DataError(problems_in(f"in {path}", lines, most=_MAX_PROBLEMS), hint=hint)


def repeated_id(name: str, line: int, first_line: dict[str, int]) -> Problem | None:
    """Return the problem of an id that an earlier line has; else keep in `first_line` that it stands here."""
    first = first_line.setdefault(name, line)
    return None if first == line else Problem(line, "id", f"{name!r} stands on line {first} too; expected a unique id")


def require_file(path: str | Path) -> None:
    """Raise if a path is a pipe, for those who read it more than once; whether it can be read is found out later.

    Raises:
        DataError: If it is there and no file.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise DataError(
            f"{path} is no file, and it is read more than once. Expected a file of JSON lines.",
            hint=f"save it first: `cat > rows.jsonl < {path}`",
        )


def scan_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Yield each non-blank line with its 1-based number, as an object or as the problem it is.

    Raises:
        DataError: If the file cannot be opened or read.
    """
    try:
        with Path(path).open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, _parse_line(number, raw)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}. Expected a JSONL file.",
            hint="check the path and its permissions",
        ) from error


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each non-blank line as its 1-based number and its object.

    Raises:
        DataError: At the first line that is not a JSON object, or if the file cannot be read.
    """
    for number, row in scan_jsonl(path):
        if isinstance(row, Problem):
            raise problems_error(path, [row])
        yield number, row


def done_ids(path: str | Path, *, key: str = "id") -> set[str]:
    """Return the ids of the complete rows in a file; empty if the file does not exist.

    A half-written last line counts as not done. The file is not changed.

    Raises:
        DataError: If any other line is not a JSON object with an id, so that resuming would repeat or lose work.
    """
    if not Path(path).exists():
        return set()
    ids: set[str] = set()
    problems: list[Problem] = []
    for number, row in scan_jsonl(path):
        if isinstance(row, Problem):
            problems.append(row)
        elif row.get(key) is None:
            problems.append(Problem(number, key, "is missing; expected the id that resuming goes by"))
        else:
            ids.add(str(row[key]))
    if problems and problems[-1].field == "json" and _torn_tail(Path(path)):
        problems.pop()
    if problems:
        raise problems_error(path, problems)
    return ids


class Writer:
    """Append rows to a JSONL file as they come, and resume where an earlier run stopped.

    Rows written so far are on disk after every `write`. Opening a file that ends in a half-written row cuts that row
    off; a file that does not look like JSONL is left alone and refused.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "out.jsonl"
        >>> with Writer(path) as out:
        ...     out.write({"id": "a", "text": "hello"})
        >>> done_ids(path)
        {'a'}
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, key: str = "id") -> None:
        """Open the file for appending, before any work is done.

        Args:
            path: The output file; missing folders are made.
            overwrite: Start anew instead of resuming. What the file holds goes with the first row that is written, or
                where no error comes before the end: a run that fails before it has anything to write costs nothing.
            key: Field that identifies a row.

        Raises:
            UsageError: If the path cannot be written.
            DataError: If the file holds something else than JSON lines.
        """
        self.path = Path(path)
        self._key = key
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        self._stale = overwrite
        try:
            self.done: set[str] = set() if overwrite else done_ids(self.path, key=key)
            """Ids of the rows that are in the file and stay."""
            if not overwrite:
                self._repair()
        except BaseException:
            self._file.close()
            raise

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; it is in the file when this returns.

        Raises:
            DataError: If the row has no id, or holds a value that JSON has no form for (NaN, infinity, an object).
            UsageError: If the file can no longer be written, a full disk for example.
        """
        if row.get(self._key) is None:
            raise DataError(f"a row for {self.path} has no `{self._key}`. Expected one, because resuming goes by it.")
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(f"row {row[self._key]!r} cannot be written as JSON: {error}.") from error
        # A lone surrogate becomes its JSON escape, so any str survives the round trip.
        self._append(line.encode("utf-8", "backslashreplace") + b"\n")
        self.done.add(str(row[self._key]))

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if kind is None:
            self._begin_anew()
        self.close()

    def _begin_anew(self) -> None:
        """Drop what is to be overwritten, once."""
        if self._stale:
            self._file.truncate(0)
            self._stale = False

    def _append(self, data: bytes) -> None:
        try:
            self._begin_anew()
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _repair(self) -> None:
        """Make the file end with a complete line."""
        torn = _torn_tail(self.path)
        if torn:
            self._file.truncate(self.path.stat().st_size - len(torn))
        elif _last_line(self.path):
            self._append(b"\n")

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"cannot write {self.path}: {error.strerror or error}. Expected a file that can be appended to.",
            hint="choose another output path, or check the permissions of its folder",
        )


def append_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]], *, key: str = "id") -> int:
    """Append the rows whose id is not in the file yet; return how many were written.

    Raises:
        UsageError: If the path cannot be written; raised before the first row is drawn from `rows`.
    """
    written = 0
    with Writer(path, key=key) as out:
        for row in rows:
            if str(row.get(key)) not in out.done:
                out.write(row)
                written += 1
    return written


def _parse_line(number: int, raw: bytes) -> dict[str, Any] | Problem:
    """Parse one line; what is not a JSON object becomes a problem."""
    try:
        row = json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return Problem(number, "json", f"is not UTF-8 (byte {error.start + 1}); expected UTF-8 text")
    except json.JSONDecodeError as error:
        return Problem(number, "json", f"is not JSON ({error.msg} at column {error.colno}); expected one JSON object")
    except ValueError as error:
        return Problem(number, "json", f"cannot be read ({error}); expected one JSON object")
    except RecursionError:
        return Problem(number, "json", "is nested too deeply to read; expected one JSON object")
    if not isinstance(row, dict):
        return Problem(number, "json", f"is a JSON {type(row).__name__}; expected a JSON object")
    return row


def _last_line(path: Path, block: int = 65536) -> bytes:
    """Return the bytes after the last newline: empty if the file is empty or ends with a newline."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        tail = b""
        while position > 0 and b"\n" not in tail:
            step = min(block, position)
            position -= step
            file.seek(position)
            tail = file.read(step) + tail
    return tail.rsplit(b"\n", 1)[-1]


def _torn_tail(path: Path) -> bytes:
    """Return the half-written row at the end of the file, empty if the last line is complete or never was a row."""
    tail = _last_line(path)
    torn = tail.lstrip().startswith(b"{") and isinstance(_parse_line(0, tail), Problem)
    return tail if torn else b""
