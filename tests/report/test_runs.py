"""Which folders are taken, and what runs are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from safesignal.errors import DataError, UsageError
from safesignal.report.numbers import parse_goals
from safesignal.report.runs import load_runs
from tests.report.build import build, results


def test_runs_are_called_by_their_target(pair: list[Path]) -> None:
    assert [run.name for run in load_runs(pair)] == ["SmallModel", "SmallModel + signal"]


def test_runs_of_one_target_are_called_by_their_folder(tmp_path: Path) -> None:
    folders = [build(tmp_path / name, results()) for name in "ab"]
    assert [run.name for run in load_runs(folders)] == [str(folder) for folder in folders]


@pytest.mark.parametrize("names", [["one"], ["one", "one"], ["one", ""]])
def test_names_must_fit(pair: list[Path], names: list[str]) -> None:
    with pytest.raises(UsageError, match="Expected one distinct name per run"):
        load_runs(pair, names)


def test_colours_go_by_kind_and_never_twice(tmp_path: Path) -> None:
    kinds = [True, False, True, True, True, False]
    runs = load_runs([build(tmp_path / str(n), results(guarded=kind)) for n, kind in enumerate(kinds)])
    assert sorted(run.accent for run in runs) == list(range(6))
    alone = load_runs([tmp_path / "1"])[0], load_runs([tmp_path / "0"])[0]
    assert [run.accent for run in alone] == [runs[1].accent, runs[0].accent]


def test_a_folder_without_results_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read") as caught:
        load_runs([tmp_path])
    assert "safesignal evaluate" in caught.value.hint


@pytest.mark.parametrize("found", [{"schema_version": 1}, {"schema_version": 2, "suite": "a", "summary": {}}])
def test_results_of_another_schema_are_refused(tmp_path: Path, found: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"Expected a run of schema 2"):
        load_runs([build(tmp_path / "x", found)])


def test_the_last_row_of_an_attempt_counts_and_late_verdicts_join(tmp_path: Path) -> None:
    rows = [{"id": "a", "status": "errored"}, {"id": "b"}, {"id": "a", "status": "resisted"}]
    folder = build(tmp_path / "x", results(), rows)
    with (folder / "attempts.jsonl").open("a") as file:
        file.write('{"id": "torn')
    (folder / "judgements.jsonl").write_text('{"id": "harm/a", "attempt": "a", "judge": "harm", "verdict": "yes"}\n')
    first, second = load_runs([folder])[0].attempts()
    assert (first["status"], first["judgements"]["harm"]["verdict"]) == ("resisted", "yes")
    assert second["judgements"] == {}


def test_a_late_verdict_of_another_judge_of_the_name_does_not_join(tmp_path: Path) -> None:
    own = {"harm": {"verdict": "yes", "rule": "", "fingerprint": "new"}}
    folder = build(tmp_path / "x", results(), [{"id": "a", "judgements": own}])
    late = '{"id": "harm/a", "attempt": "a", "judge": "harm", "verdict": "no", "fingerprint": "old"}\n'
    (folder / "judgements.jsonl").write_text(late)
    (row,) = load_runs([folder])[0].attempts()
    assert row["judgements"] == own


@pytest.mark.parametrize("text", ["direct", "direct=5", "<5", "direct<many"])
def test_a_goal_is_a_cell_a_comparison_and_a_number(text: str) -> None:
    with pytest.raises(UsageError, match="goal is"):
        parse_goals([text])
