"""Load a public set by name: from a file, from a data folder (offline), or from the Hugging Face hub.

A path or a data folder overrides the hub. The folder defaults to the environment variable ``SAFESIGNAL_DATA_DIR``.
Sets of role ``eval`` are refused as training data.
"""

from __future__ import annotations

import difflib
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safesignal.data.catalog import SOURCES, Source
from safesignal.data.jsonl import Problem, problems_error, scan_jsonl
from safesignal.data.mappers import EmptyPromptError, FieldError
from safesignal.data.records import Record
from safesignal.errors import DataError, UsageError

__all__ = ["DATA_DIR_VARIABLE", "SOURCES", "Source", "get_source", "load_source", "load_training", "refuse_eval_files"]

DATA_DIR_VARIABLE = "SAFESIGNAL_DATA_DIR"
"""Environment variable that names the default data folder."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _EmptyPrompt(Problem):
    """A row that says nothing, which a hub set may have."""


def get_source(name: str) -> Source:
    """Return the set of that name.

    Raises:
        UsageError: If there is none; the hint names near ones.
    """
    if name in SOURCES:
        return SOURCES[name]
    near = difflib.get_close_matches(name.lower().replace("_", "-"), SOURCES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(f'`{other}`' for other in near)}?" if near else ""
    raise UsageError(f"unknown data set `{name}`; known: {', '.join(sorted(SOURCES))}", hint=hint)


def load_source(
    name: str,
    *,
    data_dir: str | Path | None = None,
    path: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Record]:
    """Return the records of a public set, in the set's order.

    Args:
        name: A name in `SOURCES`.
        data_dir: Folder with the local files; overrides the hub. Default: ``SAFESIGNAL_DATA_DIR`` if set.
        path: File to read instead, in the format of the set's local file; overrides both.
        limit: Draw this many records at random, without replacement; None takes all.
        seed: Makes the draw repeatable.

    Raises:
        UsageError: If the name is unknown, `limit` is below 1, or the `datasets` package is needed and missing.
        DataError: If the file or hub set is missing, or a row does not have the announced fields.
    """
    source = get_source(name)
    if limit is not None and limit < 1:
        raise UsageError(f"`limit` is {limit}. Expected at least 1, or None for all rows.")
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    file = Path(path) if path is not None else None
    if file is None and folder is not None and source.local_file is not None:
        file = Path(folder) / source.local_file
    records = _load_hub(source) if file is None else _load_local(source, file)
    if not records:
        raise _came_out_empty(source, file)
    if limit is None or limit >= len(records):
        return records
    chosen = random.Random(f"{seed}:{name}").sample(range(len(records)), limit)
    return [records[index] for index in sorted(chosen)]


def load_training(
    name: str,
    *,
    data_dir: str | Path | None = None,
    path: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> list[Record]:
    """Return the records of a set for training; like `load_source`, but evaluation sets are refused.

    Raises:
        UsageError: If the set, or the file `path` names, is one that evaluations measure on.
    """
    if get_source(name).role == "eval" or (path is not None and _is_eval_file(path)):
        known = ", ".join(sorted(source.name for source in SOURCES.values() if source.role == "train"))
        raise UsageError(
            f"`{path or name}` is an evaluation set and was asked for as training data. Expected one of: {known}.",
            hint="measure on it with `safesignal evaluate`",
        )
    return load_source(name, data_dir=data_dir, path=path, limit=limit, seed=seed)


def refuse_eval_files(paths: Iterable[str | Path]) -> None:
    """Raise if a file is one that evaluations measure on: nothing is trained on it, and no threshold chosen by it.

    Raises:
        DataError: If one is.
    """
    for path in paths:
        if _is_eval_file(path):
            raise DataError(
                f"`{path}` is an evaluation set. Expected training rows.",
                hint="a figure measured on rows that were trained on says nothing",
            )


def _is_eval_file(path: str | Path) -> bool:
    return Path(path).name in {source.local_file for source in SOURCES.values() if source.role == "eval"}


def _came_out_empty(source: Source, file: Path | None) -> DataError:
    if file is None:
        return DataError(
            f"data set `{source.name}` came out empty: no row of {source.hub_id} has a prompt. Expected rows with one.",
            hint="the set may have changed on the hub; `--data_dir DIR` takes a local copy",
        )
    belong = f" with `source` {' or '.join(source.local_sources)}" if source.local_sources else ""
    return DataError(
        f"data set `{source.name}` came out empty: {file} has no row of it. Expected rows{belong}.",
        hint="`safesignal data list --data_dir DIR` says what a folder lacks; docs/data.md what a row must have",
    )


def _load_local(source: Source, path: Path) -> list[Record]:
    """Read the set's rows out of a local file; all problems come at once."""
    if not path.is_file():
        raise DataError(
            f"no file {path} for data set `{source.name}`. Expected the local copy of the set.",
            hint="`--data_dir DIR` names a folder that has it"
            + (f"; without it, and without {DATA_DIR_VARIABLE}, the set comes from the hub" if source.hub_id else ""),
        )
    records: list[Record] = []
    problems: list[Problem] = []
    for line, row in scan_jsonl(path):
        if isinstance(row, Problem):
            problems.append(row)
        elif not source.local_sources or row.get("source", source.local_sources[0]) in source.local_sources:
            record = _map_row(source, row, line, hub=False)
            if isinstance(record, Record):
                records.append(_complete(record, source, line, row.get("licence")))
            else:
                problems.append(record)
    if problems:
        raise problems_error(path, problems, f"docs/data.md says what a row of `{source.name}` must have")
    return records


def _load_hub(source: Source) -> list[Record]:
    """Download the set and read its rows; rows without a prompt are left out and counted in the log."""
    records: list[Record] = []
    dropped = 0
    for index, row in enumerate(_hub_rows(source)):
        # A column named like one of ours means something else there.
        foreign = {"origin": row["source"]} if "source" in row else {}
        own = {key: value for key, value in row.items() if key not in ("id", "source", "licence")}
        record = _map_row(source, own | foreign, index, hub=True)
        if isinstance(record, Record):
            records.append(_complete(record, source, index, None))
        elif isinstance(record, _EmptyPrompt):
            dropped += 1
        else:
            raise DataError(
                f"row {index} of {source.hub_id}: `{record.field}` {record.text}.",
                hint="the set may have changed on the hub; pass `path` to use a local copy",
            )
    if dropped:
        _log.warning("%d rows of `%s` have no prompt and were left out", dropped, source.name)
    return records


def _hub_rows(source: Source) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of the hub set, with the name of the split where all splits are read."""
    if source.hub_id is None:
        raise DataError(
            f"data set `{source.name}` is not on the hub. Expected its file {source.local_file} in a data folder.",
            hint=f"`--data_dir DIR` or {DATA_DIR_VARIABLE} names the folder; published in {source.published}",
        )
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UsageError(
            f"data set `{source.name}` comes from the hub, which needs the package `datasets`.",
            hint='pip install "safesignal[data]", or `--data_dir DIR`',
        ) from error
    try:
        loaded = load_dataset(source.hub_id, source.hub_config, split=source.hub_split, **source.hub_args)
    except (OSError, ValueError, RuntimeError) as error:
        terms = f"accept the terms at https://huggingface.co/datasets/{source.hub_id} and log in with `hf auth login`"
        raise DataError(
            f"cannot load {source.hub_id} from the hub: {error}",
            hint=terms if source.gated else "check the network, or `--data_dir DIR` for local files",
        ) from error
    if source.hub_split is not None:
        yield from loaded
    else:
        for split, rows in loaded.items():
            yield from ({**row, "split": split} for row in rows)


def _map_row(source: Source, row: Mapping[str, Any], line: int, *, hub: bool) -> Record | Problem:
    """Apply the set's mapper; what it cannot read becomes a problem."""
    try:
        return (source.from_hub if hub else source.from_local)(row)
    except KeyError as error:
        return Problem(line, str(error.args[0]), f"is missing or unknown; the row has {', '.join(sorted(row))}")
    except UsageError as error:
        return Problem(line, "row", str(error))
    except EmptyPromptError as error:
        return _EmptyPrompt(line, error.field, str(error))
    except FieldError as error:
        return Problem(line, error.field, str(error))
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        return Problem(line, "prompt", f"cannot be read: {error}")


def _complete(record: Record, source: Source, line: int, licence: str | None) -> Record:
    """Fill in id, source and licence where the row has none; a row that says ``unstated`` stays so."""
    return replace(
        record,
        id=record.id or f"{source.name}-{line}",
        source=record.source or source.name,
        licence=licence or source.licence,
    )
