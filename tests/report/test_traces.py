"""Which check vouches for which token, and which attempts are shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safesignal.report.runs import load_runs
from safesignal.report.traces import sample_traces, stretches
from tests.report.build import attempt, build, check, prefilled, results


def shown(row: Mapping[str, Any]) -> list[tuple[str, str, float | None]]:
    before, after = stretches(row)
    return [(s.text, s.kind, s.signal) for s in (*before, *after)]


def test_a_token_goes_with_the_first_check_that_covers_it() -> None:
    checks = [check("query", 0, 0.9, 0, 0), check("window", 2, 0.1, 0, 2), check("window", 3, 0.7, 1, 3)]
    row = {"pieces": ["a", "b", "c", "d"], "text": "abcd", "checks": checks}
    assert shown(row) == [("ab", "checked", 0.1), ("c", "checked", 0.7), ("d", "unchecked", None)]
    assert [s.malicious for s in stretches(row)[0]] == [False, True, False]


def test_spans_count_from_the_prefill() -> None:
    checks = [check("prefill", 0, 0.2, 0, 3), check("window", 1, 0.4, 0, 4)]
    row = {"pieces": ["a", "b"], "checks": checks, "prefill": "x y z"}
    assert shown(row) == [("a", "checked", 0.4), ("b", "unchecked", None)]


def test_the_refusal_begins_at_the_transition() -> None:
    checks = [check("window", 2, 0.1, 0, 2), check("window", 4, 0.9, 0, 4)]
    row = {"pieces": ["a", "b", "Sorry", "."], "checks": checks, "refused": True, "stopped_at": 2}
    assert shown(row) == [("ab", "checked", 0.1), ("Sorry.", "refusal", None)]
    leaked = row | {"released_after_transition": 1}
    assert shown(leaked) == [("ab", "checked", 0.1), ("Sorry", "checked", 0.9), (".", "refusal", None)]
    assert [len(part) for part in stretches(row | {"stopped_at": 0})] == [0, 1]


def test_an_explanation_is_the_models_own() -> None:
    checks = [check("query", 0, 0.9, 0, 0), check("explanation", 3, 0.2, 0, 2)]
    row = {"pieces": ["Sorry, ", "it ", "is "], "checks": checks, "refused": True, "stopped_at": 0}
    assert shown(row) == [("Sorry, ", "refusal", None), ("it is ", "explained", 0.2)]


def test_text_without_tokens_is_one_unchecked_stretch() -> None:
    assert shown({"text": "a b c", "checks": []}) == [("a b c", "unchecked", None)]
    assert shown({"text": "", "pieces": [], "checks": []}) == []


def test_ticks_say_what_a_check_saw(tmp_path: Path) -> None:
    folder = build(tmp_path / "a", results(), [prefilled(0, guarded=True)])
    (trace,) = sample_traces(load_runs([folder]), 1)
    assert [(tick.kind, tick.step, tick.saw) for tick in trace.ticks[:4]] == [
        ("query", 0, "prompt"),
        ("prefill", 0, "tokens p1–p3"),
        ("window", 5, "tokens p1–5"),
        ("window", 10, "tokens p1–10"),
    ]
    assert [tick.at for tick in trace.ticks[-2:]] == [62.5, 83.33]
    assert trace.threshold == 0.5


def test_what_a_disguised_query_was_read_as_stands_below_it(tmp_path: Path) -> None:
    row = attempt("direct", 0, "resisted", guarded=True)
    folder = build(tmp_path / "a", results(), [row | {"read_as": "a b\u202eomb"}])
    (trace,) = sample_traces(load_runs([folder]), 1)
    assert [role for role, _ in trace.messages] == [*(turn["role"] for turn in row["messages"]), "read as"]
    assert trace.messages[-1][1] == "a b\ufffdomb"


def test_the_transition_is_on_the_time_line(tmp_path: Path) -> None:
    folder = build(tmp_path / "a", results(), [attempt("direct", 0, "resisted", guarded=True)])
    (trace,) = sample_traces(load_runs([folder]), 1)
    assert (trace.transition, trace.stop_at) == ("stopped at token 20", 80.0)
    assert "stopped at token 20" in trace.facts


def test_what_was_shown_after_the_transition_is_no_refusal_at_the_start(tmp_path: Path) -> None:
    row = attempt("direct", 0, "resisted", guarded=True, stopped_at=0)
    folder = build(tmp_path / "a", results(), [row | {"released_after_transition": 7}])
    (trace,) = sample_traces(load_runs([folder]), 1)
    assert (trace.transition, trace.folded) == ("stopped at token 0, 7 more shown", True)
    (start,) = sample_traces(load_runs([build(tmp_path / "b", results(), [row])]), 1)
    assert start.transition == "refused before anything was shown"


def test_the_sample_is_the_same_behaviors_in_every_run(tmp_path: Path) -> None:
    many = [attempt("direct", n, "resisted", guarded=True) for n in range(30)]
    some = [attempt("nested", n, "succeeded", guarded=True) for n in range(2)]
    folders = [build(tmp_path / "a", results(), many + some), build(tmp_path / "b", results(), [*many[::-1], *some])]
    traces = sample_traces(load_runs(folders), 3)
    groups = [[t.row["id"] for t in traces if t.run.folder == folder] for folder in folders]
    assert groups[0] == groups[1]
    assert [identity.split("/")[0] for identity in groups[0]] == ["direct"] * 3 + ["nested"] * 2


def test_a_benign_answer_is_no_success_of_an_attack(tmp_path: Path) -> None:
    rows = [attempt(s, 0, s, guarded=False, label="benign") for s in ("succeeded", "resisted", "budget_exhausted")]
    traces = sample_traces(load_runs([build(tmp_path / "a", results(), rows)]), 1)
    assert [(t.outcome, t.tone) for t in traces] == [("answered", "good"), ("refused", "bad"), ("undecided", "")]
