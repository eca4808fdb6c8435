"""A suite leaves one folder that says everything, goes on where it stopped, and takes no other run's rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks import runner
from safesignal.attacks.compliant import CompliantPrefixes
from safesignal.attacks.targets import GuardedTarget, PlainTarget
from safesignal.data.mappers import SLOT
from safesignal.errors import UsageError
from safesignal.judges.base import Judgement
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import Policy
from safesignal.suites.record import RunRecord
from safesignal.suites.run import Subject, SuiteRun
from safesignal.suites.spec import load_suite

NEVER = Policy(threshold=1.0, window_threshold=1.0)


@pytest.fixture(autouse=True)
def short_answers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny random model writes no words; its six tokens are an answer here."""
    monkeypatch.setattr(runner, "SAYS_SOMETHING", 0)


def answers(verdict: Any) -> Any:
    return lambda *_: Judgement(verdict, "planted")


def suite_run(model: SafeSignalModel, suite_file: Path, name: str, **more: Any) -> SuiteRun:
    plain = PlainTarget(model)
    target = plain if name == "base" else GuardedTarget(model, more.pop("policy", NEVER))
    folder = suite_file.parent
    judges = {"refusal": answers(more.pop("verdict", "no"))}
    return SuiteRun(
        load_suite(str(suite_file)),
        Subject(target, plain),
        folder / name,
        judges=judges,
        cache=folder / "c.jsonl",
        **more,
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "attempts.jsonl").read_text().splitlines()]


def test_cells_whose_prefills_nobody_writes_are_left_out(model: SafeSignalModel, suite_file: Path) -> None:
    folder = suite_file.parent / "far"
    run = SuiteRun(load_suite(str(suite_file)), Subject(PlainTarget(model), None), folder)
    assert run.unwritten == ["deep"]
    assert {entry["cell"] for entry in run.run()["attacks"]} == {"direct"}
    assert {row["cell"] for row in rows_of(folder)} == {"direct", "ordinary"}
    assert suite_run(model, suite_file, "base").unwritten == []


def test_guarded_run_fills_every_cell(model: SafeSignalModel, suite_file: Path) -> None:
    results = suite_run(model, suite_file, "guarded").run()
    rows = rows_of(suite_file.parent / "guarded")
    cells = {cell: sum(row["cell"] == cell for row in rows) for cell in ("direct", "deep", "open", "ordinary")}
    assert cells == {"direct": 3, "deep": 4, "open": 2, "ordinary": 4}
    assert {row["sampling"]["seed"] for row in rows} == {3}
    assert {row["variant"] for row in rows if row["cell"] == "deep"} == {"depth=2", "depth=4"}
    assert all(row["checks"] for row in rows)
    assert results["planned"] == cells
    whole = {row["cell"]: row for row in results["attacks"] if row["variant"] is None}
    assert whole["direct"]["asr"]["n"] == 3
    assert [row["label"] for row in results["over_refusal"]] == ["benign"]


def test_the_bare_model_has_no_buffer_to_switch_off(model: SafeSignalModel, suite_file: Path) -> None:
    suite_run(model, suite_file, "base").run()
    rows = rows_of(suite_file.parent / "base")
    assert {row["cell"] for row in rows} == {"direct", "deep", "ordinary"}
    assert not any(row["checks"] for row in rows)


@pytest.mark.parametrize("off", ["buffer", "check_query"])
def test_a_cell_with_a_part_off_leaves_off_what_the_target_goes_without(
    model: SafeSignalModel, suite_file: Path, off: str
) -> None:
    given = replace(NEVER, buffer=off == "buffer", check_query=off == "check_query")
    suite_file.write_text(suite_file.read_text().replace("buffer: false", f"{off}: false"))
    run = suite_run(model, suite_file, "guarded", policy=given)
    policies = {cell.name: run.subject.variant(cell).policy for cell in run.cells}  # type: ignore[union-attr]
    assert (policies["open"].buffer, policies["open"].check_query) == (False, False)
    assert policies["direct"] == given


def test_a_benign_signal_leaves_the_base_models_answers(model: SafeSignalModel, suite_file: Path) -> None:
    for name in ("base", "guarded"):
        suite_run(model, suite_file, name).run()
    base, own = ({row["id"]: row["text"] for row in rows_of(suite_file.parent / name)} for name in ("base", "guarded"))
    assert base
    assert all(own[name] == text for name, text in base.items())


def test_an_interrupted_run_goes_on_and_a_finished_one_writes_nothing(model: SafeSignalModel, suite_file: Path) -> None:
    suite_run(model, suite_file, "base").run()
    path = suite_file.parent / "base" / "attempts.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])
    suite_run(model, suite_file, "base").run()
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == sorted(
        json.loads(line)["id"] for line in lines
    )
    before = path.read_text()
    suite_run(model, suite_file, "base").run()
    assert path.read_text() == before


def test_another_suite_or_target_is_refused(model: SafeSignalModel, suite_file: Path) -> None:
    suite_run(model, suite_file, "guarded").run()
    with pytest.raises(UsageError, match="another target"):
        suite_run(model, suite_file, "guarded", policy=Policy(threshold=0.9, window_threshold=1.0)).run()
    suite_file.write_text(suite_file.read_text().replace("limit: 3", "limit: 2"))
    with pytest.raises(UsageError, match="another suite_sha256"):
        suite_run(model, suite_file, "guarded").run()


def test_what_no_mark_says_the_run_of_is_not_gone_on_from(model: SafeSignalModel, suite_file: Path) -> None:
    run = suite_run(model, suite_file, "base")
    run.run()
    rows = rows_of(run.folder)
    (run.folder / "run.json").unlink()
    suite_file.write_text(suite_file.read_text().replace("seed: 3", "seed: 4"))
    with pytest.raises(UsageError, match="holds a run with another"):
        suite_run(model, suite_file, "base").claim()
    assert rows_of(run.folder) == rows
    (run.folder / "attempts.jsonl").write_text("")
    (run.folder / "signal.jsonl").write_text('{"id": "of another run"}\n')
    with pytest.raises(UsageError, match="holds a run with another"):
        suite_run(model, suite_file, "base").claim()
    (run.folder / "signal.jsonl").unlink()
    suite_run(model, suite_file, "base").claim()
    assert run.record.read()["seed"] == 4


def test_changed_rows_of_a_set_are_refused(model: SafeSignalModel, suite_file: Path) -> None:
    suite_run(model, suite_file, "base").run()
    data = suite_file.parent / "plain.jsonl"
    data.write_text(data.read_text().replace("item 2", "item 9"))
    with pytest.raises(UsageError, match="another datasets"):
        suite_run(model, suite_file, "base").run()


def test_better_judges_change_verdicts_of_texts_that_are_there(model: SafeSignalModel, suite_file: Path) -> None:
    first = suite_run(model, suite_file, "base").run()
    again = suite_run(model, suite_file, "base", verdict="yes").run()
    asr = [next(r["asr"] for r in results["attacks"] if r["cell"] == "direct") for results in (first, again)]
    assert [(rate["successes"], rate["n"]) for rate in asr] == [(3, 3), (0, 3)]
    texts = {row["id"]: row["text"] for row in rows_of(suite_file.parent / "base")}
    assert len(rows_of(suite_file.parent / "base")) == 2 * len(texts)


def test_the_expected_time_counts_what_is_left(model: SafeSignalModel, suite_file: Path) -> None:
    run = suite_run(model, suite_file, "base")
    run.claim()
    left, seconds = run.expected()
    assert left == 3 + 4 + 4
    assert seconds is not None
    assert seconds > 0
    run.run()
    assert run.expected() == (0, 0.0)


def test_a_trial_that_fails_leaves_the_time_unknown_and_the_run_going(
    model: SafeSignalModel, suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that does not fit is an errored attempt, not the end of the suite."""
    whole = PlainTarget.answer

    def narrow(self: PlainTarget, requests: Any) -> Any:
        if any("item 1" in request.messages[-1]["content"] and not request.prefill for request in requests):
            raise UsageError("planted: a prompt is never cut")
        return whole(self, requests)

    monkeypatch.setattr(PlainTarget, "answer", narrow)
    monkeypatch.setattr("safesignal.suites.run._TRIAL_ROWS", 16)  # every attempt: which rows a cell draws varies
    run = suite_run(model, suite_file, "base")
    run.claim()
    assert run.expected() == (11, None)
    results = run.run()
    assert sum(row["errored"] for row in [*results["attacks"], *results["over_refusal"]]) >= 1


def test_without_a_compliant_answer_the_other_cells_go_on(
    model: SafeSignalModel, suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: Any, behaviors: Any, *__: Any, **___: Any) -> CompliantPrefixes:
        return CompliantPrefixes({}, {one.id: "refused" for one in behaviors})

    monkeypatch.setattr("safesignal.suites.run.compliant_prefixes", refused)
    run = suite_run(model, suite_file, "base")
    results = run.run()
    assert results["planned"] == {"direct": 3, "deep": 0, "ordinary": 4}
    assert results["left_out"]["direct"] == {}
    assert results["left_out"]["deep"] == {"depth=2": {"refused": 2}, "depth=4": {"refused": 2}}
    assert {row["cell"] for row in results["attacks"]} == {"direct"}
    assert suite_run(model, suite_file, "base").expected() == (0, 0.0)


class Measured:
    """A judge whose agreement with people can be measured."""

    name = "own"

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint

    def __call__(self, behavior: str, completion: str) -> Judgement:
        return Judgement("no", "planted")

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        return [self(*pair) for pair in pairs]


def test_another_judge_is_measured_anew_and_the_same_one_is_not(
    model: SafeSignalModel, suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(judge: Measured, *_: Any, **__: Any) -> dict[str, Any]:
        measured.append(judge.fingerprint)
        return {"fingerprint": judge.fingerprint}

    monkeypatch.setattr("safesignal.evals.labels.measure_judge", measure)
    for fingerprint in ("first", "first", "second"):
        run = suite_run(model, suite_file, "base")
        run.judges["harm"] = Measured(fingerprint)
        results = run.run()
    assert measured == ["first", "second"]
    assert results["judges"] == {"harm": {"fingerprint": "second"}}
    without = suite_run(model, suite_file, "base").run()
    assert without["judges"] == {"harm": {"fingerprint": "second"}}


def test_what_a_cell_sends_is_what_it_was_begun_with(model: SafeSignalModel, suite_file: Path) -> None:
    """Whatever file the text comes from: templates, prefills, and rows that only a smaller sample holds."""
    folder = suite_file.parent
    templates, prefills = folder / "templates.jsonl", folder / "prefills.jsonl"
    templates.write_text(json.dumps({"id": "t", "template": f"Pretend: {SLOT}", "source": "own"}) + "\n")
    prefills.write_text("".join(json.dumps({"id": f"data-{i}", "prefill": "A list:"}) + "\n" for i in range(4)))
    suite_file.write_text(
        f"name: tiny\nmax_new_tokens: 2\ncells:\n"
        f"  - {{cell: slot, attack: template, file: {templates}, dataset: {folder / 'data.jsonl'}, limit: 2}}\n"
        f"  - {{cell: file, attack: prefill, file: {prefills}, dataset: {folder / 'data.jsonl'}, limit: 2}}\n"
    )
    suite_run(model, suite_file, "base").run()
    for path, old, new, cell in ((templates, "Pretend", "Imagine", "slot"), (prefills, "A list", "The list", "file")):
        whole = path.read_text()
        path.write_text(whole.replace(old, new))
        with pytest.raises(UsageError, match=f"1 problem(?s:.*)cell `{cell}`: sends other prompts"):
            suite_run(model, suite_file, "base").claim()
        path.write_text(whole)
    suite_run(model, suite_file, "base").claim()


def published(folder: Path) -> None:
    rows = [
        {"id": f"j{i:02}", "source": "x", "method": "ABC"[i % 3], "goal": f"do {i}", "prompt": f"!! do {i}"}
        for i in range(12)
    ]
    (folder / "eval_jbb_artifacts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_cell_takes_its_limit_of_the_methods_that_are_not_excluded(model: SafeSignalModel, suite_file: Path) -> None:
    published(suite_file.parent)
    line = "  - {{cell: own, attack: artifact, dataset: jbb-artifacts, exclude: [{0}], limit: 4}}\n"
    suite_file.write_text(f"name: tiny\ncells:\n{line.format('A, C')}")
    (plans,) = suite_run(model, suite_file, "base", data_dir=str(suite_file.parent)).outlines.values()
    assert [plan.family for plan in plans] == ["B"] * 4
    suite_file.write_text(f"name: tiny\ncells:\n{line.format('AA')}")
    with pytest.raises(UsageError, match=r"cell `own`: 1 problem(?s:.*)artifact\.exclude: `AA`    is unknown"):
        suite_run(model, suite_file, "base", data_dir=str(suite_file.parent))


def test_rows_of_a_smaller_sample_are_held_to_too(
    model: SafeSignalModel, suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(suite_file.parent)  # a draw depends on the set's name
    data = suite_file.with_name("rows.jsonl")
    rows = [{"id": f"{i:02}", "prompt": f"name item {i:02}", "prompt_label": "malicious"} for i in range(30)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = "  - {{cell: {0}, attack: direct, dataset: rows.jsonl, limit: {1}}}\n"
    suite_file.write_text(f"name: tiny\nmax_new_tokens: 1\ncells:\n{line.format('large', 15)}{line.format('small', 5)}")
    run = suite_run(model, suite_file, "base")
    small, large = ({one.id for one in run.behaviors[cell].behaviors} for cell in ("small", "large"))
    only = min(small - large)
    run.run()
    data.write_text(data.read_text().replace(f"item {only}", "item of another kind"))
    with pytest.raises(UsageError, match=r"1 problem(?s:.*)cell `small`: sends other prompts"):
        suite_run(model, suite_file, "base").run()
    assert len(rows_of(run.folder)) == 20


def test_a_finished_section_is_of_these_settings_or_refused(model: SafeSignalModel, suite_file: Path) -> None:
    cells, folder = suite_file.read_text(), suite_file.parent / "guarded"
    small = "overhead: {batch_sizes: [1], contexts: [8], new_tokens: 2, repeats: 1}\n"
    suite_run(model, suite_file, "guarded").run()
    suite_file.write_text(cells + small)
    first = suite_run(model, suite_file, "guarded").run()["overhead"]
    assert first["rows"]
    assert suite_run(model, suite_file, "guarded").run()["overhead"] == first
    suite_file.write_text(cells + small.replace("[8]", "[9]"))
    with pytest.raises(UsageError, match="section `overhead`: has other settings") as caught:
        suite_run(model, suite_file, "guarded").claim()
    assert "whose file is removed is measured again" in caught.value.hint
    (folder / "overhead.json").unlink()
    again = suite_run(model, suite_file, "guarded").run()["overhead"]
    assert {row["context"] for row in again["rows"]} == {9}


def test_sections_of_a_folder_that_noted_none_are_those_it_was_begun_with(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"probe": {"depths": [5]}}}))
    record = RunRecord(tmp_path)
    record.check({"any": "digest"}, {"probe": {"depths": (5,)}})
    with pytest.raises(UsageError, match="section `probe`"):
        record.check({}, {"probe": {"depths": [10]}})


def test_a_run_that_is_killed_while_it_notes_a_plan_is_still_whole(
    model: SafeSignalModel, suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = suite_run(model, suite_file, "base")
    run.claim()
    before = (run.folder / "run.json").read_text()

    def killed(self: Path, text: str, **_: Any) -> int:
        with self.open("w") as file:
            file.write(text[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert (run.folder / "run.json").read_text() == before
    assert suite_run(model, suite_file, "base").run()["planned"]["direct"] == 3


def test_another_model_may_write_the_prefills_and_the_run_goes_on_with_it_alone(
    model: SafeSignalModel, suite_file: Path
) -> None:
    class Author(PlainTarget):
        asked = 0

        def identity(self) -> dict[str, Any]:
            return {**super().identity(), "name": "the author"}

        def answer(self, requests: Sequence[Any]) -> list[Any]:
            self.asked += len(requests)
            return super().answer(requests)

    author, own = Author(model), suite_run(model, suite_file, "base")
    own.subject = Subject(PlainTarget(model), author, prefills_by="the author")
    own.run()
    assert author.asked
    assert {row["cell"] for row in rows_of(own.folder)} >= {"deep"}
    assert own.record.read()["prefills_by"]["name"] == "the author"
    with pytest.raises(UsageError, match="another prefills_by"):
        suite_run(model, suite_file, "base").claim()
