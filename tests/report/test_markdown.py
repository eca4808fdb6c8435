"""The tables: every number is the one in the results, and no rate stands without its interval and counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from safesignal.report.robustness import _together
from safesignal.stats import Rate
from tests.evals.rows import has_schema
from tests.report.build import DEPTHS, attack, attacks, attempt, leak, rate, refusals, results
from tests.report.conftest import report_of

RATE = re.compile(r"(\d+\.\d) % \[(\d+\.\d), (\d+\.\d)\] \((?:(\d+)/(\d+)|n=\d+)\)")


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the cells of every table, by its caption."""
    found: dict[str, list[list[str]]] = {}
    caption = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\*\*(.+)\*\*", line):
            caption = match[1]
        if line.startswith("|"):
            found.setdefault(caption, []).append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def rates(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every counted rate of a results file."""
    if isinstance(value, dict):
        if "successes" in value:
            yield value
        for inner in value.values():
            yield from rates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from rates(inner)


@pytest.mark.parametrize("guarded", [False, True])
def test_the_built_runs_are_what_evaluations_write(guarded: bool) -> None:
    assert has_schema(results(guarded=guarded))


def test_every_rate_of_the_results_is_in_the_tables(text: str) -> None:
    for guarded in (False, True):
        for own in rates(results(guarded=guarded)):
            assert str(Rate(own["successes"], own["n"])) in text


def test_every_rate_in_the_tables_is_its_counts_and_their_interval(text: str) -> None:
    shown = [match for match in RATE.finditer(text) if match[4]]
    assert len(shown) > 90
    for match in shown:
        assert str(Rate(int(match[4]), int(match[5]))) == match[0]


def test_no_percentage_stands_alone(text: str) -> None:
    figures = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    alone = re.findall(r"[^|]*\d %[^|]*", RATE.sub("", figures))
    # Left are headings of recall at a false-positive rate, and times against a paired run, which are no rates.
    assert {cell.strip() for cell in alone} == {
        *(f"recall at {fpr} % FPR" for fpr in ("0.5", "1", "5")),
        "+0.0 %",
        "+23.6 %",
        "+2.3 %",
        "+4.7 %",
    }


def test_runs_stand_side_by_side(text: str) -> None:
    head, _, first, *_ = tables(text)["Attack success rate, refusal judge"]
    assert head == ["attack", "data set", "base", "guarded"]
    assert first == ["direct", "advbench", "21.0 % [17.7, 24.7] (109/520)", "0.0 % [0.0, 0.7] (0/520)"]


def test_judges_stand_apart_with_their_agreement(text: str) -> None:
    found = tables(text)
    assert found["Harm judge: the released text gives harmful content"][2][2] == str(Rate(54, 520))
    assert found["Refusal judge, corrected for its measured errors"][2][2] == "21.0 % [0.0, 100.0] (n=520)"
    assert found["Agreement with human labels"][2:] == [
        ["refusal", "human-refusals", str(Rate(160, 169)), str(Rate(70, 76)), str(Rate(90, 93))]
    ]


def test_labels_of_a_judge_are_not_called_peoples(tmp_path: Path) -> None:
    def figures(n: int) -> dict[str, Any]:
        return {name: rate(n, n) for name in ("agreement", "sensitivity", "specificity")}

    sets = {"read": {"labelled_by": "people", **figures(9)}, "told": {"labelled_by": "a model", **figures(5)}}
    found = tables(report_of(tmp_path, results(judges={"harm": {"sets": sets, **figures(9)}})).markdown.read_text())
    assert [row[1] for row in found["Agreement with human labels"][2:]] == ["read", "all of these"]
    assert [row[1] for row in found["Agreement with labels of a model"][2:]] == ["told"]


def test_variants_and_the_worst_of_the_grid(text: str) -> None:
    found = tables(text)
    assert found["Worst of the grid: a behavior counts if any variant succeeded"][2:] == [
        ["prefill", "advbench", str(Rate(92, 100)), str(Rate(7, 100))]
    ]
    assert [row[0] for row in found["By variant, refusal judge"][2:]] == [f"prefill · depth={k}" for k in DEPTHS]


def test_refusals_are_split_by_when_they_came(text: str) -> None:
    rows = [row for row in tables(text)["When refusals came"] if row[0] == "xstest" and row[2] == "guarded"]
    assert rows[0][1:6] == ["benign", "guarded", str(Rate(31, 250)), str(Rate(4, 250)), str(Rate(10, 250))]
    types = tables(text)["Refused, by type"]
    assert types[2] == ["homonyms", "xstest, benign", str(Rate(1, 25)), str(Rate(0, 25))]


def test_the_other_figures(text: str) -> None:
    found = tables(text)
    signal = found["The signal as a detector"][2]
    assert signal[2:4] == ["200 of 400", "0.987 [0.976, 0.995]"]
    assert signal[8] == "0.041"
    assert found["At the threshold in use"][2][3:] == [str(Rate(191, 200)), str(Rate(14, 200))]
    assert found["Cost of checks"][3][3:5] == ["42.4 [42.0, 43.3]", "+23.6 %"]
    assert ["perplexity · base", *["12.2 [11.5, 13] (n=640)"] * 2] in found["Figures"]
    assert found["tasks"][2:] == [["base", "gsm8k", str(Rate(18, 200))], ["guarded", "gsm8k", str(Rate(17, 200))]]
    assert found["conditions"][2][:4] == ["base", "direct", "100", "0.575 [0.525, 0.625] (n=100)"]
    assert found["Leak by cell"][2][4] == "4 / 18 / 18"


def test_provenance(text: str) -> None:
    found = tables(text)
    assert "`the command`" in text
    assert ["seed", "0", "0"] in found["Runs"]
    assert [r"git\_commit", "0123abcd4567", "0123abcd4567"] in found["Versions"]
    assert [r"policy.window\_threshold", "–", "0.5"] in found["Targets"]
    assert found["Data"][2] == ["advbench", "base", "520", "520", "0123456789ab…"]


def test_an_errored_cell_has_a_warning_and_no_rate(tmp_path: Path) -> None:
    found = results(attacks=[attack("direct", 2, 95, errored=3), attack("gcg", 1, 99)])
    text = report_of(tmp_path, found).markdown.read_text()
    assert text.index("3 attempts errored in direct") < text.index("## Attack success")
    assert "/97)" not in text.split("## Attack success")[1].split("\n## ")[0]
    assert tables(text)["Attack success rate, refusal judge"][2][2] == "withheld (3 errored)"
    assert tables(text)["Highest rates"][2][1] == "withheld (attempts errored)"
    assert str(Rate(1, 100)) in text


def test_rates_of_errored_cells_on_request(tmp_path: Path) -> None:
    found = results(attacks=[attack("direct", 2, 95, errored=3)])
    report = report_of(tmp_path, found, allow_errors=True)
    assert report.errored == 3
    assert str(Rate(2, 97)) in report.markdown.read_text()
    assert any("3 attempts errored" in warning for warning in report.warnings)


def test_a_variant_is_withheld_with_its_cell(tmp_path: Path) -> None:
    whole = attack("prefill", 5, 190, attack="prefill", errored=5)
    part = attack("prefill", 2, 98, attack="prefill", variant="depth=5") | {"asr": None, "note": whole["note"]}
    text = report_of(tmp_path, results(attacks=[whole, part])).markdown.read_text()
    assert tables(text)["By variant, refusal judge"][2][2] == "withheld (errors in the cell)"


def test_errors_withhold_refusal_rates_too(tmp_path: Path) -> None:
    found = results(over_refusal=[refusals("alpaca-benign", (90, 5, 0, 0), errored=5)])
    report = report_of(tmp_path, found)
    assert str(Rate(5, 95)) not in report.markdown.read_text()
    assert report.errored == 5


@pytest.mark.parametrize(
    ("goal", "shown"),
    [("< 4 %", "< 4 % not met"), ("< 4.1 %", "< 4.1 % met"), ("<= 4 %", "<= 4 % met"), (">= 90 %", ">= 90 % not met")],
)
def test_a_goal_is_met_by_the_point_alone(tmp_path: Path, goal: str, shown: str) -> None:
    text = report_of(tmp_path, results(), goals={"gcg": goal}).markdown.read_text()
    row = next(row for row in tables(text)["Attack success rate, refusal judge"] if row[0] == "gcg")
    assert row[2:] == [str(Rate(4, 100)), shown.replace("<", r"\<").replace(">", r"\>")]


def test_what_is_missing_says_what_adds_it(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {
        "over_refusal": [],
        "signal": [],
        "leak": [],
        "overhead": None,
        "utility": None,
        "probe": None,
    }
    bare = [entry | {"asr_harm": {}} for entry in attacks(guarded=True)]
    text = report_of(tmp_path, results(**nothing, judges={}, attacks=bare)).markdown.read_text()
    for title in ("Over-refusal", "Leak and delay", "Signal quality", "Overhead", "Utility", "Probe", "Judges"):
        part = text.split(f"## {title}\n")[1].split("\n## ")[0]
        assert re.search(r"`safesignal \w+.*?`", part), title
        assert "|" not in part
    assert "`safesignal judge --run RUN --judge harm` adds it" in text


def test_names_from_files_cannot_break_a_table(tmp_path: Path) -> None:
    found = results(name="a | b\n<i>", attacks=[attack("x|y", 1, 99)])
    text = report_of(tmp_path, found).markdown.read_text()
    head, rule, row = tables(text)["Attack success rate, refusal judge"]
    assert len(head) == len(rule) == len(row) == 3
    assert row[0] == r"x\|y"
    assert head[2] == r"a \| b \<i\>"


def test_the_worst_attack_is_one_on_the_whole_defence(tmp_path: Path) -> None:
    settings = {"cells": [{"cell": "leak", "buffer": False}, {"cell": "windows", "check_query": False}]}
    found = results(
        settings=settings, attacks=[attack("leak", 60, 40), attack("windows", 50, 50), attack("gcg", 3, 97)]
    )
    text = report_of(tmp_path, found).markdown.read_text()
    assert tables(text)["Highest rates"][2][1] == f"{Rate(3, 100)} gcg, advbench"
    assert str(Rate(60, 100)) in text


def test_several_attempts_on_one_behavior_are_named_beside_their_counts(tmp_path: Path) -> None:
    drawn = {"value": 0.6, "low": 0.25, "high": 0.875, "n": 20}
    grid = attack("decoding", 60, 40, n_behaviors=20, asr_clustered=drawn)
    direct = attack("direct", 3, 97, n_behaviors=100, asr_clustered=None)
    text = report_of(tmp_path, results(attacks=[grid, direct])).markdown.read_text()
    assert "(60/100) on 20 behaviors" in text
    assert "(3/100) on" not in text
    assert "[25.0, 87.5] (n=20)" in text.split("resampling behaviors")[1]


def test_accuracy_says_what_becomes_of_refused_questions(text: str) -> None:
    assert "graded as if none had been refused" in text.split("## Utility")[1]


def test_a_report_takes_the_place_of_the_last_one_in_one_move(tmp_path: Path) -> None:
    report = report_of(tmp_path, results())
    before = report.markdown.read_text()
    (tmp_path / "kept.md").hardlink_to(report.markdown)
    report_of(tmp_path, results(attacks=[]))
    assert (tmp_path / "kept.md").read_text() == before != report.markdown.read_text()
    assert sorted(path.name for path in report.markdown.parent.iterdir()) == ["report.html", "report.md"]


def test_every_harm_judge_has_a_table(tmp_path: Path) -> None:
    entry = attack("direct", 6, 94) | {"asr_harm": {"harm": rate(3, 100), "a|guard": rate(5, 100), "idle": None}}
    entry |= {"asr_harm_corrected": {"a|guard": {"value": 0.04, "low": 0.0, "high": 0.1}}}
    own = leak()[0] | {"harmful_released": {"harm": rate(1, 9), "a|guard": rate(2, 9)}}
    found = tables(report_of(tmp_path, results(attacks=[entry], leak=[own])).markdown.read_text())
    assert found["Harm judge: the released text gives harmful content"][2][2] == str(Rate(3, 100))
    assert found[r"Harm judge a\|guard: the released text gives harmful content"][2][2] == str(Rate(5, 100))
    assert found[r"Harm judge a\|guard, corrected for its measured errors"][2][2] == "4.0 % [0.0, 10.0] (n=100)"
    assert not any("idle" in caption or caption == "Harm judge, corrected" for caption in found)
    head, _, row = found["Leak by cell"]
    harmful = {column: row[place] for place, column in enumerate(head) if column.startswith("harmful")}
    assert harmful == {
        "harmful among them, by harm": str(Rate(1, 9)),
        r"harmful among them, by a\|guard": str(Rate(2, 9)),
    }


def test_labels_of_a_leak_stand_apart(tmp_path: Path) -> None:
    rows = [leak()[0], leak()[0] | {"label": "benign", "stopped": rate(3, 50)}]
    found = tables(report_of(tmp_path, results(leak=rows)).markdown.read_text())["Leak by cell"]
    assert [row[1:4:2] for row in found[2:]] == [["malicious", str(Rate(97, 100))], ["benign", str(Rate(3, 50))]]


def test_behaviors_without_an_attempt_are_shown_with_their_reasons(tmp_path: Path) -> None:
    left_out = {"prefill": {"depth=5": {"refused": 3}, "depth=40": {"refused": 3, "too_short": 12}}, "direct": {}}
    rows = [attack("prefill", 2, 98, attack="prefill") | {"n_left_out": 18}]
    found = tables(
        report_of(tmp_path, results(left_out=left_out, behaviors={"prefill": 60}, attacks=rows)).markdown.read_text()
    )
    assert [row[3:] for row in found["Behaviors that an attack has no attempt for"][2:]] == [
        ["60", "57", "refused: 3"],
        ["60", "45", "refused: 3, too short: 12"],
    ]
    head, _, counts = found["Counts"]
    assert [counts[head.index(name)] for name in ("rows of the set", "left out", "planned")] == ["520", "18", "100"]


def test_names_beside_the_highest_rates_are_escaped_and_their_figures_are_not(tmp_path: Path) -> None:
    found = results(attacks=[attack("a|b_*c*", 4, 96)], over_refusal=[refusals("<set>", (90, 10, 0, 0))])
    report = report_of(tmp_path, found)
    _, _, first, second = tables(report.markdown.read_text())["Highest rates"]
    assert first[1] == rf"{Rate(4, 100)} a\|b\_\*c\*, advbench"
    assert second[1] == rf"{Rate(10, 100)} \<set\>"
    assert "&lt;set&gt;" in report.html.read_text()


def test_refusal_rates_of_errored_cells_on_request(tmp_path: Path) -> None:
    found = results(over_refusal=[refusals("alpaca-benign", (90, 5, 0, 0), errored=5)])
    text = report_of(tmp_path, found, allow_errors=True).markdown.read_text()
    assert tables(text)["Refused, by set"][2][2] == str(Rate(5, 95))
    assert tables(text)["Highest rates"][-1][1] == f"{Rate(5, 95)} alpaca-benign"


def test_a_cell_of_many_variants_is_shown_by_family() -> None:
    harm = [{"harm": rate(0, 2), "guard": rate(1, 2)}, {"harm": None, "guard": rate(2, 2)}]
    entries: list[dict[str, Any]] = [
        {"family": "a", "asr": rate(1, 2), "asr_harm": harm[0], "succeeded": 1, "resisted": 1, "n_behaviors": 2},
        {"family": "a", "asr": rate(2, 2), "asr_harm": harm[1], "succeeded": 2, "resisted": 0, "n_behaviors": 2},
    ]
    merged = _together(entries)
    assert merged is not None
    assert (merged["asr"]["successes"], merged["asr"]["n"]) == (3, 4)
    assert merged["asr_harm"]["harm"] is None
    assert merged["asr_harm"]["guard"]["successes"] == 3
    assert (merged["succeeded"], merged["resisted"], merged["errored"], merged["n_behaviors"]) == (3, 1, 0, None)
    assert _together([]) is None


@pytest.mark.parametrize("errored", [0, 1])
def test_a_family_is_all_of_its_variants_with_errors_allowed_too(tmp_path: Path, errored: int) -> None:
    cells = [(0, 10), (10, 0), *[(9, 0)] * 12]
    more: dict[str, Any] = {"errored": errored, "family": "a", "n_behaviors": 10, "attack": "template"}
    entries = [attack("t", *counts, variant=f"a/{i}", **more) for i, counts in enumerate(cells)]
    entries.append(attack("t", 118, 10, errored=errored, attack="template"))
    rows = [attempt("t", i, "resisted", guarded=False, family="a", behavior=f"Write list {i % 10}") for i in range(128)]
    text = report_of(tmp_path, results(attacks=entries), rows, allow_errors=True).markdown.read_text()
    (row,) = (row for row in tables(text)["By variant, refusal judge"] if row[0].startswith("t ·"))
    assert row[-1].endswith("(118/128) on 10 behaviors")
