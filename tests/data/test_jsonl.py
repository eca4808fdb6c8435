from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safesignal.data.jsonl import Writer, append_jsonl, done_ids, read_jsonl
from safesignal.errors import DataError, UsageError

ROWS = st.lists(st.text(max_size=20), min_size=1, max_size=5)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


@settings(max_examples=60, deadline=None)
@given(texts=ROWS, data=st.data())
def test_resuming_after_a_cut_at_any_byte_gives_the_uninterrupted_file(texts: list[str], data: st.DataObject) -> None:
    rows = [{"id": f"r{index}", "text": text} for index, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        append_jsonl(path, rows)
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        append_jsonl(path, rows)
        assert path.read_bytes() == whole


def test_every_row_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    with Writer(tmp_path / "deep" / "out.jsonl") as out:
        out.write({"id": 1, "text": "half \ud800 pair"})
        assert rows_of(out.path) == [{"id": 1, "text": "half \ud800 pair"}]
        assert out.done == {"1"}


def test_done_ids_reads_without_repairing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"id": "a"}\n{"id": "b", "te')
    assert done_ids(path) == {"a"}
    assert path.read_bytes().endswith(b'"te')
    assert done_ids(tmp_path / "none.jsonl") == set()


def test_a_file_that_is_no_jsonl_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    with pytest.raises(DataError, match="line 1"):
        Writer(path)
    assert path.read_text() == "my notes"


def test_an_unwritable_output_is_told_before_any_row_is_drawn(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")

    drawn: list[int] = []

    def rows() -> Iterator[dict[str, Any]]:
        drawn.append(1)
        yield {"id": "a"}

    with pytest.raises(UsageError, match="cannot write") as caught:
        append_jsonl(blocker / "out.jsonl", rows())
    assert caught.value.hint
    assert drawn == []


@pytest.mark.parametrize("row", [{"id": "a", "signal": float("nan")}, {"id": "a", "x": object()}, {"text": "no id"}])
def test_a_row_that_cannot_be_resumed_or_read_is_refused(tmp_path: Path, row: dict[str, Any]) -> None:
    with Writer(tmp_path / "out.jsonl") as out, pytest.raises(DataError):
        out.write(row)
    assert out.path.read_bytes() == b""


def test_overwrite_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps({"id": "old"}) + "\n")
    with Writer(path, overwrite=True) as out:
        assert out.done == set()


@pytest.mark.parametrize("bad", [b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"n": ' + b"9" * 5000 + b"}"])
def test_a_bad_line_is_named(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": 1}\n\n' + bad + b"\n")
    with pytest.raises(DataError, match=r"rows\.jsonl\n  line 3  json"):
        rows_of(path)
