from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safesignal.data.records import Message, Record, read_records, record_from_row
from safesignal.errors import DataError, UsageError


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompt_and_messages_give_the_same_record() -> None:
    turns = [{"role": "user", "content": "hello"}]
    assert record_from_row({"prompt": "hello"}) == record_from_row({"messages": turns})


def test_a_record_survives_its_row() -> None:
    turns = (Message("system", "be kind"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    record = Record("x", turns, "d", "benign", "refusal", "s", "permissive", "Sure", {"topic": ["t"]})
    assert record_from_row(json.loads(json.dumps(record.to_row()))) == record
    assert record.prompt == "c"


@pytest.mark.parametrize(
    ("label", "malicious"), [("refusal", False), ("benign", False), ("malicious", True), ("none", None)]
)
def test_a_refusal_is_benign_for_the_signal(label: str, malicious: bool | None) -> None:
    assert record_from_row({"prompt": "p", "response": "r", "response_label": label}).response_is_malicious is malicious


def test_all_problems_come_at_once_with_line_and_field(tmp_path: Path) -> None:
    good = {"id": "a", "prompt": "p", "prompt_label": "benign"}
    path = write(tmp_path / "r.jsonl", good, {"prompt": " "}, {**good, "prompt_label": "bad"}, [1])
    with pytest.raises(DataError) as caught:
        read_records(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith(f"problems in {path}")
    assert {" ".join(line.split()[:3]) for line in lines[1:]} == {
        "line 2 prompt",
        "line 2 prompt_label",
        "line 3 prompt_label",
        "line 4 json",
    }


def test_more_than_ten_problems_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", *[{"prompt": ""}] * 14)
    with pytest.raises(DataError, match="14 problems") as caught:
        read_records(path, require=())
    assert str(caught.value).splitlines()[-1].strip() == "and 4 more"


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({}, "prompt"),
        ({"prompt": "p", "messages": []}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "messages"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"prompt": "p", "response_label": "malicious"}, "response"),
        ({"prompt": "p", "id": True}, "id"),
    ],
)
def test_a_bad_field_is_named(row: dict[str, Any], field: str) -> None:
    with pytest.raises(DataError) as caught:
        record_from_row(row)
    assert f"`{field}`" in str(caught.value)


def test_a_repeated_id_and_an_empty_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2  id"):
        read_records(write(tmp_path / "r.jsonl", {"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}), require=())
    with pytest.raises(DataError, match="no rows"):
        read_records(write(tmp_path / "e.jsonl"))
    with pytest.raises(DataError, match="cannot read"):
        read_records(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="colour"):
        read_records(tmp_path / "r.jsonl", require=("colour",))
