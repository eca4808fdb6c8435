"""Raw text comes as a stream, in pieces with ids that stay."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesignal.data.raw import Document, cut, hub_documents, local_documents, pieces
from safesignal.errors import DataError, UsageError


@given(st.text(alphabet="ab \n\t", max_size=60), st.integers(1, 12))
def test_pieces_are_short_and_lose_nothing_but_white_space(text: str, length: int) -> None:
    found = list(cut(text, length))
    assert all(0 < len(piece) <= length and piece.strip() == piece for piece in found)
    assert "".join("".join(found).split()) == "".join(text.split())
    words = [word for word in text.split() if len(word) <= length]
    assert all(any(word in piece for piece in found) for word in words if len(text.split()) == len(words))


def test_words_stay_whole_where_they_fit() -> None:
    assert list(cut("one two three", 8)) == ["one two", "three"]
    assert list(cut("abcdefgh", 3)) == ["abc", "def", "gh"]


def test_a_text_file_is_blocks_and_a_jsonl_file_rows(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("\none\ntwo\n\n\nthree\n")
    assert list(local_documents(plain)) == [Document("a.txt/2", "one\ntwo\n"), Document("a.txt/6", "three\n")]
    rows = tmp_path / "b.jsonl"
    rows.write_text(json.dumps({"id": "x", "body": "one"}) + "\n" + json.dumps({"body": "two"}) + "\n")
    assert [one.id for one in local_documents(rows, "body")] == ["b.jsonl/x", "b.jsonl/2"]
    with pytest.raises(DataError, match="text"):
        list(local_documents(rows))
    with pytest.raises(DataError, match="cannot be read"):
        list(local_documents(tmp_path / "none.txt"))


def test_a_row_without_an_id_goes_by_its_line_and_ids_stand_once(tmp_path: Path) -> None:
    rows = tmp_path / "b.jsonl"
    ids: list[Any] = [None, "", 0, "x"]
    rows.write_text("".join(json.dumps({"id": own, "text": f"one {own}"}) + "\n" for own in ids))
    assert [one.id for one in local_documents(rows)] == ["b.jsonl/1", "b.jsonl/2", "b.jsonl/0", "b.jsonl/x"]
    with rows.open("a") as file:
        file.write(json.dumps({"id": "x", "text": "more"}) + "\n")
    with pytest.raises(DataError, match=r"(?s)b\.jsonl.*line 5  id  'x' stands on line 4 too") as caught:
        list(local_documents(rows))
    assert "number of the line" in caught.value.hint


def test_no_more_is_read_than_is_asked_for() -> None:
    def endless() -> Iterator[Document]:
        for number in itertools.count():
            assert number < 3
            yield Document(str(number), "one two")

    assert [piece.id for piece in pieces(endless(), 3, 4)] == ["0#0", "0#1", "1#0", "1#1"]


def test_a_hub_set_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(name: str, config: str | None, **how: Any) -> Iterator[dict[str, Any]]:
        asked.update(name=name, config=config, **how)
        return iter([{"id": "7", "text": "one"}, {"text": "two"}, {"id": None, "text": "3"}, {"id": "9"}])

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    stream = hub_documents("some/set", "en", "train")
    assert [next(stream).id for _ in range(3)] == ["some/set/7", "some/set/1", "some/set/2"]
    assert asked == {"name": "some/set", "config": "en", "split": "train", "streaming": True}
    with pytest.raises(DataError, match="row 3 of some/set"):
        next(stream)


def test_without_datasets_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError) as caught:
        next(hub_documents("some/set"))
    assert "safesignal[data]" in caught.value.hint
