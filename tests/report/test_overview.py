"""The table of many runs: a line each, the same figures as in the sections, nothing for what a run lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safesignal.report.write import write_report
from safesignal.stats import Rate
from tests.report.build import attack, build, rate, refusals, results
from tests.report.test_markdown import tables


def overview(folder: Path, runs: dict[str, dict[str, Any]]) -> dict[str, list[list[str]]]:
    folders = [build(folder / name, found) for name, found in runs.items()]
    text = write_report(folders, folder / "out", names=list(runs)).markdown.read_text(encoding="utf-8")
    begin = text.find("## All runs")
    return tables(text[begin : text.index("\n## ", begin + 1)]) if begin >= 0 else {}


def four(**last: Any) -> dict[str, dict[str, Any]]:
    first = {"a": results(guarded=False), "b": results(), "c": results()}
    return {**first, "d": results(**last)}


def test_few_runs_stand_side_by_side_instead(tmp_path: Path) -> None:
    runs = four()
    del runs["d"]
    assert overview(tmp_path, runs) == {}


def test_every_run_has_a_line_with_its_own_rates(tmp_path: Path) -> None:
    own = four(attacks=[attack("direct", 3, 97)], over_refusal=[refusals("alpaca", (90, 5, 0, 5))], utility=None)
    found = overview(tmp_path, own)
    attacks = found["Attacks"]
    assert attacks[0][:4] == ["run", "direct", "direct-mi", "prefill"]
    assert [line[0] for line in attacks[2:]] == ["a", "b", "c", "d"]
    assert attacks[2][1] == str(Rate(109, 520))
    assert attacks[5] == ["d", str(Rate(3, 100)), *["–"] * (len(attacks[0]) - 2)]
    refused = found["Ordinary requests refused"]
    assert refused[0] == ["run", "alpaca-benign", "xstest", "alpaca"], (
        "sets labelled malicious are no ordinary requests"
    )
    assert refused[5] == ["d", "–", "–", str(Rate(10, 100))]
    ability = found["Ability and cost"]
    assert ability[0] == ["run", "perplexity", "gsm8k, accuracy", "extra time per token"]
    assert ability[2][1:] == ["12.2 [11.5, 13] (n=640)", str(Rate(18, 200)), "–"]
    assert ability[5] == ["d", "–", "–", "+4.7 %"]


def test_a_cell_with_errors_has_no_rate_and_one_of_several_sets_names_them(tmp_path: Path) -> None:
    rows = [attack("direct", 3, 90, errored=7), attack("direct", 1, 99, dataset="other")]
    attacks = overview(tmp_path, four(attacks=rows))["Attacks"]
    assert "direct, advbench" in attacks[0]
    assert "direct, other" in attacks[0]
    assert attacks[5][attacks[0].index("direct, advbench")] == "withheld (7 errored)"
    assert attacks[5][attacks[0].index("direct, other")] == str(Rate(1, 100))


def test_questions_that_were_refused_stand_beside_the_accuracy(tmp_path: Path) -> None:
    task = {"task": "mmlu", "accuracy": rate(9, 40), "prompts_refused": rate(4, 40)}
    ability = overview(tmp_path, four(utility={"tasks": [task]}))["Ability and cost"]

    place = ability[0].index("mmlu, refused")
    assert [ability[5][place - 1], ability[5][place]] == [str(Rate(9, 40)), str(Rate(4, 40))]
