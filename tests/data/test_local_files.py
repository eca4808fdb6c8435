"""docs/data.md says what a row of each local file must have: such rows load, and every local file stands there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from safesignal.data.sources import SOURCES, load_source

DOC = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
TABLE = {
    file: re.findall(r"`(\w+)`(?!\.)", re.sub(r"\([^)]*\)", "", fields))
    for files, fields in re.findall(r"^\| ((?:`[\w.]+\.jsonl`(?:, )?)+) \| .*? \| (.*) \|$", DOC, re.MULTILINE)
    for file in re.findall(r"`([\w.]+)`", files)
}
VALUES: dict[str, Any] = {
    "is_refusal": True,
    "is_harmful": False,
    "jailbroken": True,
    "turns": ["First?", "Second?"],
    "choices": ["one", "two"],
    "answer": "A",
    "label": "benign",
    "prompt_label": "benign",
    "response_label": "benign",
    "response_refusal": "compliance",
    "response_harm": "unharmful",
    "licence": "permissive",
    "template": "Say: [INSERT PROMPT HERE]",
}
LOCAL = sorted((name, source.local_file) for name, source in SOURCES.items() if source.local_file)


def test_every_local_file_is_described() -> None:
    assert set(TABLE) == {file for _, file in LOCAL}


@pytest.mark.parametrize(("name", "file"), LOCAL)
def test_a_row_of_the_fields_named_there_loads(tmp_path: Path, name: str, file: str) -> None:
    source = (SOURCES[name].local_sources or ("somewhere",))[0]
    row = {field: VALUES.get(field, f"some {field}") for field in TABLE[file]}
    (tmp_path / file).write_text(json.dumps({"id": "1", **row, "source": source}) + "\n")
    (record,) = load_source(name, data_dir=tmp_path)
    assert record.prompt.startswith(("some ", "Say: ", "First?"))
    assert (record.source, record.response is None) == (source, "response" not in row)
