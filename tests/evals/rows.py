"""Rows of a run folder with harmless stand-ins, for the tables that are made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safesignal.data.jsonl import append_jsonl
from safesignal.errors import DataError
from safesignal.evals.schema import validate_results

RUN: dict[str, Any] = {
    "schema_version": 1,
    "suite": "quick",
    "suite_sha256": "0" * 64,
    "settings": {},
    "target": {"kind": "guarded", "name": "tiny"},
    "seed": 0,
    "datasets": {"set": {"sha256": "1" * 64, "n_original": 520, "n_used": 100}},
    "environment": {"python": "3.11"},
    "started": "2026-01-01T00:00:00Z",
}


def attempt(number: int, status: str = "resisted", **more: Any) -> dict[str, Any]:
    """Return one row of `attempts.jsonl`; `number` names the behavior."""
    row: dict[str, Any] = {
        "cell": "direct",
        "attack": "direct",
        "variant": "",
        "family": "",
        "dataset": "set",
        "behavior_id": f"b{number}",
        "behavior": f"list item {number}",
        "category": "",
        "label": "malicious",
        "status": status,
        "n_tokens": 10,
        "refused": False,
        "stopped_at": None,
        "released_after_transition": 0,
        "checks": [],
        "judgements": {},
    } | more
    return {"id": f"{row['cell']}/{row['variant']}/{row['behavior_id']}"} | row


def attempts(status: str, count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [attempt(start + number, status, **more) for number in range(count)]


def has_schema(results: Mapping[str, Any]) -> bool:
    """Tell whether results are let through by the check of their schema."""
    try:
        validate_results(results)
    except DataError:
        return False
    return True


def run_folder(
    folder: Path, rows: Sequence[Mapping[str, Any]], *, run: Mapping[str, Any] | None = None, **files: Any
) -> Path:
    """Write a run folder; `files` are JSON lines where they are lists, JSON where not."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**RUN, **(run or {})}))
    with (folder / "attempts.jsonl").open("a") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    for name, content in files.items():
        if isinstance(content, list):
            append_jsonl(folder / f"{name}.jsonl", content)
        else:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
