"""`safesignal data build` from end to end, on stand-in rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safesignal.data.catalog import SOURCES
from tests.cli.conftest import Run, read_rows
from tests.data.build.rows import folder

RECIPE = """
parts: [{file: good.jsonl}, {file: bad.jsonl, n: 40}]
match: [{name: all, parts: [good, bad]}]
wrap: {n: 5}
noise: {rate: 0.1}
holdout: {families: [other/held], n: 5}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder(tmp_path)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path / "mine.yaml"


def test_rows_holdout_and_report_are_written_and_repeat_to_the_byte(run: Run, recipe: Path) -> None:
    at = recipe.parent
    outputs = {
        name: [at / name / "rows.jsonl", at / name / "held.jsonl", at / name / "report.json"] for name in ("one", "two")
    }
    for rows, held, report in outputs.values():
        args = ["--output", rows, "--holdout_output", held, "--report", report]
        done = run("data", "build", recipe, "--data_dir", at, *args)
        assert done.code == 0, done.err
    assert [path.read_bytes() for path in outputs["one"]] == [path.read_bytes() for path in outputs["two"]]
    rows, held, report = outputs["one"]
    found = json.loads(report.read_text())
    assert found["recipe"]["name"] == "mine"
    assert found["rows"]["n"] == len(read_rows(rows)) > 60
    assert found["held_out"]["n"] == len(read_rows(held)) == 10
    assert f"{found['rows']['n']} rows" in done.err
    assert "10 held out" in done.err
    assert "1 evaluation text" in done.out
    assert f"{found['separability']['whole']['words']:.3f}" in done.out


def test_what_is_there_is_not_overwritten_unasked(run: Run, recipe: Path) -> None:
    at = recipe.parent
    (at / "rows.jsonl").write_text("mine\n")
    args = [
        "data",
        "build",
        recipe,
        "--data_dir",
        at,
        "--output",
        at / "rows.jsonl",
        "--holdout_output",
        at / "h.jsonl",
    ]
    done = run(*args)
    assert done.code == 2
    assert "rows.jsonl exists" in done.err
    assert (at / "rows.jsonl").read_text() == "mine\n"
    assert run(*args, "--overwrite").code == 0
    assert len(read_rows(at / "rows.jsonl")) > 60


def test_wrong_use_is_named_before_anything_is_read(run: Run, recipe: Path) -> None:
    at = recipe.parent
    done = run("data", "build", recipe, "--output", at / "r.jsonl", "--report", at / "r.jsonl")
    assert done.code == 2
    assert "2 problems" in done.err
    assert "two outputs have one name" in done.err
    assert "holds rows out and has no file" in done.err
    (at / "plain.yaml").write_text("parts: [{file: good.jsonl}]")
    done = run("data", "build", at / "plain.yaml", "--output", at / "r.jsonl", "--holdout_output", at / "h.jsonl")
    assert "holds nothing out" in done.err
    (at / "wrong.yaml").write_text("part: 1")
    done = run("data", "build", at / "wrong.yaml", "--output", at / "r.jsonl")
    assert done.code == 2
    assert "did you mean `parts`?" in done.err
    assert not (at / "r.jsonl").exists()


def test_the_list_names_every_set_its_source_and_what_a_folder_lacks(run: Run, tmp_path: Path) -> None:
    (tmp_path / "eval_xstest.jsonl").touch()
    done = run("data", "list", "--data_dir", tmp_path)
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert (done.code, list(lines)) == (0, list(SOURCES))
    assert lines["xstest"].endswith("hub: walledai/XSTest (gated)  [eval_xstest.jsonl]")
    assert lines["gcg"].endswith("attack-artifacts; arobey1/smooth-llm: data/GCG  [eval_gcg_suffix.jsonl, missing]")
    assert "missing" not in run("data", "list").out
    wrong = run("data", "list", "--data_dir", tmp_path / "none")
    assert wrong.code == 2
    assert "is no folder" in wrong.err
