"""Run folders as a report sees them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safesignal.data.jsonl import Problem, scan_jsonl
from safesignal.errors import DataError, UsageError
from safesignal.judges.shown import stands_in
from safesignal.report.numbers import counted

__all__ = ["Run", "by_key", "load_runs"]

_SCHEMA = 2
_PALETTES = {"guarded": (1, 2, 5), "plain": (0, 3, 4)}
"""Accent colours in the order they are taken, per kind of target; the style sheet names them `--run-0` and so on."""

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder.

    Attributes:
        name: What the report calls it.
        folder: Where it lies.
        results: Its `results.json`.
        accent: Number of its colour, 0 to 5.
        allow_errors: Whether a rate is shown although attempts errored.
        goals: What is wanted of a cell's rate, such as `< 5 %`.
    """

    name: str
    folder: Path
    results: Mapping[str, Any]
    accent: int = 0
    allow_errors: bool = False
    goals: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Mapping[str, Any]:
        """What was measured."""
        return self.results.get("target") or {}

    @property
    def guarded(self) -> bool:
        """Whether a signal guarded the target."""
        return self.target.get("kind") == "guarded"

    def entries(self, section: str) -> list[dict[str, Any]]:
        """Return a section that is a list, or a mapping from cell to figures, as a list."""
        found = self.results.get(section) or []
        if isinstance(found, Mapping):
            return [{"cell": name, **entry} for name, entry in found.items() if isinstance(entry, Mapping)]
        return [dict(entry) for entry in found]

    def asr(self, entry: Entry, name: str = "asr", judge: str = "") -> Mapping[str, Any] | None:
        """Return a rate over attempts, by one harm judge where there are several; None where errors forbid it."""
        value: Mapping[str, Any] | None = (entry.get(name) or {}).get(judge) if judge else entry.get(name)
        if value is None and name == "asr" and self.allow_errors:
            value = counted(entry["succeeded"], entry["succeeded"] + entry["resisted"])
        return None if self.withheld(entry) else value

    def refused(self, entry: Entry) -> Mapping[str, Any] | None:
        """Return the rate of refused prompts, None where errors forbid it."""
        value: Mapping[str, Any] | None = entry.get("refused")
        if value is None and self.allow_errors:
            decided = entry["n"] - entry["undecided"] - entry["errored"]
            value = counted(decided - entry["answered"], decided)
        return None if self.withheld(entry) else value

    def withheld(self, entry: Entry) -> bool:
        """Tell whether attempts errored, so that no rate over them (or their cell) may be named."""
        errored = entry.get("errored") or "errored attempts in the cell" in str(entry.get("note", ""))
        return bool(errored) and not self.allow_errors

    def attempts(self) -> Iterator[dict[str, Any]]:
        """Yield the last row of every attempt with all its judgements, in order; none where there is no file."""
        given: dict[str, dict[str, Any]] = {}
        for row in _rows(self.folder / "judgements.jsonl"):
            given.setdefault(str(row.get("attempt")), {})[str(row.get("judge"))] = row
        last = {str(row.get("id")): row for row in _rows(self.folder / "attempts.jsonl")}
        for name, row in last.items():
            own = row.get("judgements") or {}
            late = {judge: said for judge, said in given.get(name, {}).items() if stands_in(said, own.get(judge))}
            yield row | {"judgements": {**own, **late}}

    def cell(self, name: str) -> Mapping[str, Any]:
        """Return what the suite says of a cell; empty if it names none such."""
        cells = (self.results.get("settings") or {}).get("cells") or []
        return next((cell for cell in cells if isinstance(cell, Mapping) and cell.get("cell") == name), {})

    def weakened(self, name: str) -> bool:
        """Tell whether a cell has a part of the defence off, so that it measures that part and not the defence."""
        cell = self.cell(name)
        return cell.get("buffer") is False or cell.get("check_query") is False


def load_runs(
    folders: Sequence[str | Path],
    names: Sequence[str] | None = None,
    *,
    allow_errors: bool = False,
    goals: Mapping[str, str] | None = None,
) -> list[Run]:
    """Read the results of run folders.

    Args:
        folders: At least one.
        names: What to call them; None takes the name of each target, and the folder's where two are alike.
        allow_errors: Name rates although attempts errored.
        goals: What is wanted per cell, such as `< 5 %`.

    Raises:
        UsageError: If there are no folders, or not one distinct name per folder.
        DataError: If a folder holds no results, or results of another schema.
    """
    if not folders:
        raise UsageError("no run was named. Expected at least one folder.", hint="`safesignal report runs/a runs/b`")
    read = [(Path(folder), _results(Path(folder))) for folder in folders]
    chosen = list(names) if names is not None else _names(read)
    if len(chosen) != len(read) or len(set(chosen)) != len(chosen) or not all(chosen):
        raise UsageError(
            f"got the names {', '.join(chosen)} for {len(read)} runs. Expected one distinct name per run.",
            hint="`--names base,guarded` names the folders in their order",
        )
    accents = _accents([str((results.get("target") or {}).get("kind")) for _, results in read])
    return [
        Run(name, folder, results, accent, allow_errors, goals or {})
        for name, (folder, results), accent in zip(chosen, read, accents, strict=True)
    ]


def by_key(runs: Sequence[Run], section: str, *names: str) -> dict[tuple[Any, ...], list[dict[str, Any] | None]]:
    """Return the entries of a section side by side: per key, in order of appearance, one entry or None per run."""
    table: dict[tuple[Any, ...], list[dict[str, Any] | None]] = {}
    for index, run in enumerate(runs):
        for entry in run.entries(section):
            key = tuple(entry.get(name) for name in names)
            table.setdefault(key, [None] * len(runs))[index] = entry
    return table


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file, but for one that is being written right now; none where there is no file."""
    for _, row in scan_jsonl(path) if path.exists() else ():
        if not isinstance(row, Problem):
            yield row


def _results(folder: Path) -> dict[str, Any]:
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}. Expected the folder of a run.",
            hint=f"`safesignal evaluate --suite quick --output_dir {folder}` makes one",
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Expected the results of a run.") from error
    found = results.get("schema_version") if isinstance(results, dict) else None
    if found != _SCHEMA or not isinstance(results.get("attacks", []), list) or "summary" in results:
        raise DataError(
            f"{path} holds schema {found!r} of suite {results.get('suite') if isinstance(results, dict) else None!r}. "
            f"Expected a run of schema {_SCHEMA} as docs/run-folder.md describes.",
            hint=f"`safesignal judge --run {folder}` makes the results of recorded attempts anew",
        )
    return {**_run_json(folder), **results}


def _run_json(folder: Path) -> dict[str, Any]:
    """Return what `run.json` says, nothing where it is not there: results carry the same fields."""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _names(read: Iterable[tuple[Path, Mapping[str, Any]]]) -> list[str]:
    pairs = [(folder, str((results.get("target") or {}).get("name") or folder.name)) for folder, results in read]
    taken = [name for _, name in pairs]
    return [name if taken.count(name) == 1 else str(folder) for folder, name in pairs]


def _accents(kinds: Sequence[str]) -> list[int]:
    """Return a colour per run: guarded ones and others from palettes of their own, while these last."""
    free = {kind: [*own, *(i for i in range(6) if i not in own)] for kind, own in _PALETTES.items()}
    taken: list[int] = []
    for kind in kinds:
        order = free.get(kind, free["plain"])
        taken.append(next((accent for accent in order if accent not in taken), order[len(taken) % 6]))
    return taken
