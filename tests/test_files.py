"""Small JSON files are whole or not there, and a mark keeps two runs apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safesignal.errors import UsageError
from safesignal.files import claim, write_json
from safesignal.problems import problems_in


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"τ": 2, "odd": "\udc80"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"τ": 2, "odd": "\udc80"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"rate": float("nan")})
    assert "τ" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(UsageError, match="cannot be written"):
        write_json(tmp_path / "no" / "a.json", {})


def test_a_mark_is_made_once_and_compared_after_that(tmp_path: Path) -> None:
    path = tmp_path / "run" / "run.json"
    claim(path, {"seed": 1}, {"started": "now"}, place="run", option="--output_dir", begin=True)
    claim(path, {"seed": 1}, {"started": "later"}, place="run", option="--output_dir", begin=False)
    assert json.loads(path.read_text()) == {"seed": 1, "started": "now"}
    with pytest.raises(UsageError, match="`run` holds a run with another seed") as caught:
        claim(path, {"seed": 2}, {}, place="run", option="--output_dir", begin=False)
    assert "--output_dir" in caught.value.hint
    with pytest.raises(UsageError, match="another seed"):
        claim(tmp_path / "none.json", {"seed": 1}, {}, place="run", option="--output", begin=False)


def test_problems_are_counted_and_the_rest_named() -> None:
    assert problems_in("in x", ["a"]) == "1 problem in x\n  a"
    assert problems_in("in x", ["a", "b", "c"], most=2) == "3 problems in x\n  a\n  b\n  and 1 more"
