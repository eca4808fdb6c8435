"""Small files beside the rows: written in one move, and the mark that keeps two runs out of one place."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from safesignal.errors import UsageError

__all__ = ["claim", "digests", "write_json", "write_text"]


def write_json(path: str | Path, value: Any, *, hint: str = "") -> None:
    """Write a JSON file in one move, so that a reader, or a run that was killed meanwhile, never meets half of it.

    Args:
        path: The file; its folder exists.
        value: JSON values; NaN and infinity have no form.
        hint: What to do if the file cannot be written.

    Raises:
        UsageError: If it cannot be written.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A lone surrogate becomes its JSON escape.
    write_text(path, text, errors="backslashreplace", hint=hint)


def write_text(path: str | Path, text: str, *, errors: str = "strict", hint: str = "") -> None:
    """Write a text file in one move, as :func:`write_json` does.

    Args:
        path: The file; its folder exists.
        text: Its content, written as UTF-8.
        errors: What becomes of characters that UTF-8 cannot hold, as in :meth:`str.encode`.
        hint: What to do if the file cannot be written.

    Raises:
        UsageError: If it cannot be written.
    """
    path = Path(path)
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8", errors=errors)
        draft.replace(path)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be written: {error.strerror}.", hint=hint) from error


def digests(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return a short hash of each file's bytes, by its name: which data a result was made from."""
    return {Path(path).name: sha256(Path(path).read_bytes()).hexdigest()[:16] for path in paths}


def claim(
    path: Path, run: Mapping[str, Any], record: Mapping[str, Any], *, place: str | Path, option: str, begin: bool
) -> None:
    """Mark a place with what is measured there, or check that it holds the beginning of this very run.

    Args:
        path: The file of the mark.
        run: What decides the rows; must be the same on resume.
        record: What else the mark holds.
        place: What is claimed, for the message.
        option: The option that names another place.
        begin: Write the mark; else it must be there.

    Raises:
        UsageError: If the place holds another run, or cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if begin:
            write_json(path, {**run, **record}, hint="choose another folder")
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"`{path}` cannot be written or read: {error}.", hint="choose another folder") from error
    other = [name for name, value in json.loads(json.dumps(run)).items() if found.get(name) != value]
    if other:
        raise UsageError(
            f"`{place}` holds a run with another {', '.join(other)}. Expected the same, to go on from it.",
            hint=f"choose another `{option}`",
        )
