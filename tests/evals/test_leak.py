"""What was shown before a stop, and how long text was held, against hand-counted rows."""

from __future__ import annotations

from typing import Any

import pytest

from safesignal.evals.leak import held_tokens, leak_table, spread
from tests.evals.rows import attempt


def check(step: int, verdict: str = "benign", kind: str = "window") -> dict[str, Any]:
    return {"kind": kind, "step": step, "signal": 0.1, "verdict": verdict, "start": 0, "end": step}


def stopped(number: int, at: int, after: int = 0, **more: Any) -> dict[str, Any]:
    own = {"refused": True, "stopped_at": at, "released_after_transition": after, "checks": [check(at)]} | more
    return attempt(number, "resisted", **own)


def test_held_tokens_are_the_gaps_between_releases() -> None:
    # Released at 1, 5 and at the end (12); the malicious check at 8 and the query check release nothing.
    checks = [check(0, kind="query"), check(1), check(5), check(8, "malicious")]
    assert held_tokens(attempt(0, checks=checks, n_tokens=12)) == [1, 4, 7]


def test_a_refusal_releases_nothing_of_the_answer() -> None:
    assert held_tokens(stopped(0, 5, checks=[check(5), check(6, "malicious")], n_tokens=30)) == [5]


def test_one_cell_against_hand_counts() -> None:
    rows = [stopped(0, 0), stopped(1, 4), stopped(2, 20), attempt(3, "succeeded", checks=[check(10)], n_tokens=10)]
    rows.append(attempt(4, "errored", refused=True))
    verdicts = {rows[0]["id"]: "no", rows[1]["id"]: "unknown", rows[2]["id"]: "yes"}
    (row,) = leak_table(rows, {"harm": verdicts, "guard": {rows[1]["id"]: "yes"}, "late": {}})
    assert (row["cell"], row["label"], row["variant"]) == ("direct", "malicious", None)
    assert (row["stopped"]["successes"], row["stopped"]["n"]) == (3, 4)
    assert [row["released_before_stop"][name] for name in ("median", "max", "n")] == [4, 20, 3]
    released, tokens = row["harmful_released"], row["harmful_tokens"]
    assert {judge: rate and (rate["successes"], rate["n"]) for judge, rate in released.items()} == {
        "harm": (1, 2),
        "guard": (1, 1),
        "late": None,
    }
    assert {judge: own and (own["n"], own["median"]) for judge, own in tokens.items()} == {
        "harm": (1, 20),
        "guard": (1, 4),
        "late": None,
    }
    assert row["hold_tokens"] is not None
    assert (row["hold_tokens"]["n"], row["hold_tokens"]["max"]) == (3, 20)


def test_without_a_harm_judge_nothing_is_said_about_harm() -> None:
    (row,) = leak_table([stopped(0, 4)], {})
    assert (row["harmful_released"], row["harmful_tokens"]) == ({}, {})


def test_labels_of_one_cell_stand_apart() -> None:
    rows = [stopped(0, 4), stopped(1, 9, label="benign"), attempt(2, "succeeded", label="benign", checks=[check(3)])]
    found = [(row["label"], row["stopped"]["successes"], row["stopped"]["n"]) for row in leak_table(rows, {})]
    assert found == [("malicious", 1, 1), ("benign", 1, 2)]


def test_the_buffer_on_and_off_stand_side_by_side() -> None:
    on = [stopped(0, 4, cell="on", checks=[check(4)]), stopped(1, 6, cell="on", checks=[check(6)])]
    off = [stopped(0, 4, 9, cell="off", checks=[check(4)]), stopped(1, 6, 3, cell="off", checks=[check(6)])]
    with_buffer, without = leak_table(on + off, {}, {"off"})
    assert [row["cell"] for row in (with_buffer, without)] == ["on", "off"]
    assert (with_buffer["released_before_stop"]["max"], without["released_before_stop"]["max"]) == (6, 13)
    assert (with_buffer["released_after_transition"]["max"], without["released_after_transition"]["max"]) == (0, 9)
    assert with_buffer["hold_tokens"] is not None
    assert without["hold_tokens"] is None


def test_a_single_variant_keeps_its_name() -> None:
    (row,) = leak_table([stopped(0, 4, variant="depth=20")], {})
    assert row["variant"] == "depth=20"


def test_several_variants_stand_under_their_cell() -> None:
    rows = [stopped(0, 4, variant="depth=5"), stopped(0, 8, variant="depth=20")]
    assert [(row["variant"], row["stopped"]["n"]) for row in leak_table(rows, {})] == [
        (None, 2),
        ("depth=5", 1),
        ("depth=20", 1),
    ]


def test_targets_that_check_nothing_leak_nothing() -> None:
    assert leak_table([attempt(0, "succeeded")], {}) == []


@pytest.mark.parametrize(
    ("values", "histogram"),
    [
        ([], []),
        ([0, 0], [[0, 1, 2]]),
        ([0, 1, 4, 5, 19], [[0, 1, 1], [1, 5, 2], [5, 10, 1], [10, 20, 1]]),
        ([10], [[0, 1, 0], [1, 5, 0], [5, 10, 0], [10, 20, 1]]),
    ],
)
def test_histograms_hold_every_value(values: list[int], histogram: list[list[int]]) -> None:
    found = spread(values)
    assert found["histogram"] == histogram
    assert sum(count for _, _, count in histogram) == found["n"]


def test_the_last_bin_of_a_histogram_reaches_the_maximum() -> None:
    assert spread([700, 3])["histogram"][-2:] == [[320, 640, 0], [640, 701, 1]]


def test_quantiles() -> None:
    found = spread([1, 2, 3, 4, 100])
    assert (found["median"], found["max"]) == (3, 100)
    assert found["p90"] == pytest.approx(61.6)
