"""The signal as a detector: figures against hand-made rows, and scoring that resumes and agrees with `score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safesignal.data.records import Message, Record, append_jsonl
from safesignal.evals.results import last_rows
from safesignal.evals.signal import SignalSet, load_signal_sets, run_signal, signal_metrics
from safesignal.evals.signal_metrics import detection_delays, reliability, roc_curve
from safesignal.rules.trajectory import decisive_signal
from tests.evals.rows import run_folder
from tests.invariants.harness import guarded


def prompt(source: str, number: int, label: bool, signal: float | None, **more: Any) -> dict[str, Any]:
    row = {"id": f"{source}-{number}", "kind": "prompt", "source": source, "category": "", "label": label}
    return row | {"signal": signal, "n_tokens": 5} | more


def prompts(source: str, benign: list[float], malicious: list[float]) -> list[dict[str, Any]]:
    labelled = [(False, signal) for signal in benign] + [(True, signal) for signal in malicious]
    return [prompt(source, number, label, signal) for number, (label, signal) in enumerate(labelled)]


def test_one_set_against_hand_computed_figures() -> None:
    (row,) = signal_metrics(prompts("mixed", [0.1, 0.2, 0.3, 0.61], [0.2, 0.7, 0.8, 0.9]))
    # Of 16 pairs 13 are in order, (0.2, 0.2) is a tie, (0.3, 0.2) and (0.61, 0.2) are not.
    assert row["auc"] == pytest.approx(13.5 / 16)
    assert row["auc_low"] < 13.5 / 16 < row["auc_high"] <= 1
    assert {name: rate["successes"] for name, rate in row["recall_at_fpr"].items()} == {
        "0.005": 3,
        "0.01": 3,
        "0.05": 3,
    }
    assert (row["flagged_benign"]["successes"], row["flagged_benign"]["n"]) == (1, 4)
    assert (row["flagged_malicious"]["successes"], row["flagged_malicious"]["n"]) == (3, 4)
    assert (row["n"], row["n_malicious"], row["delay_tokens"]) == (8, 4, None)
    assert (row["histogram"]["benign"][12], sum(row["histogram"]["malicious"])) == (1, 4)


def test_length_alone_stands_beside_the_signal() -> None:
    rows = [
        row | {"n_tokens": n} for row, n in zip(prompts("mixed", [0.5, 0.5], [0.5, 0.5]), [10, 20, 20, 90], strict=True)
    ]
    (row,) = signal_metrics(rows)
    assert (row["auc"], row["auc_by_length"]) == (0.5, 3.5 / 4)
    (unknown,) = signal_metrics([{**row, "n_tokens": None} for row in rows])
    assert unknown["auc_by_length"] is None


def test_flags_follow_the_threshold_of_the_row() -> None:
    rows = [row | {"threshold": 0.65} for row in prompts("mixed", [0.1, 0.6], [0.6, 0.7])]
    (row,) = signal_metrics(rows)
    assert (row["flagged_benign"]["successes"], row["flagged_malicious"]["successes"]) == (0, 1)


def test_sets_of_one_class_are_paired_with_all_of_the_other() -> None:
    rows = prompts("bad", [], [0.9, 0.8]) + prompts("good", [0.1], []) + prompts("fine", [0.95, 0.2], [])
    rows += prompts("both", [0.3], [0.4])
    found = {row["name"]: (row["n"], row["n_malicious"], row["auc"]) for row in signal_metrics(rows)}
    assert found == {
        "bad / ordinary": (5, 2, pytest.approx(4 / 6)),
        "harmful / good": (3, 2, 1.0),
        "harmful / fine": (4, 2, 0.5),
        "both": (2, 1, 1.0),
        "all": (7, 3, pytest.approx(9 / 12)),
    }


def test_a_class_that_is_missing_everywhere_leaves_nothing_to_compare() -> None:
    assert signal_metrics(prompts("bad", [], [0.9])) == []


def test_rows_without_a_signal_are_left_out() -> None:
    rows = [*prompts("both", [0.3], [0.4]), prompt("both", 9, True, None)]
    assert signal_metrics(rows)[0]["n"] == 2


def test_the_bootstrap_is_repeatable_and_seeded() -> None:
    generator = np.random.default_rng(0)
    rows = prompts("mixed", list(generator.uniform(0, 0.7, 40)), list(generator.uniform(0.3, 1, 40)))
    first, again, other = (signal_metrics(rows, seed=seed)[0]["auc_low"] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_curve_runs_from_corner_to_corner_through_every_threshold() -> None:
    curve = roc_curve(np.array([0.1, 0.5]), np.array([0.5, 0.9]))
    assert curve == [[0.0, 0.0], [0.0, 0.5], [0.5, 1.0], [1.0, 1.0]]


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    generator = np.random.default_rng(0)
    curve = roc_curve(generator.uniform(size=3000), generator.uniform(size=3000))
    assert (len(curve), curve[0], curve[-1]) == (200, [0.0, 0.0], [1.0, 1.0])


def test_reliability_bins_hold_their_rows() -> None:
    bins = reliability([False, True, True, True], [0.01, 0.05, 0.95, 1.0])
    assert [(found["n"], found["rate"]) for found in bins] == [(2, 0.5), (2, 1.0)]
    assert [found["mean_signal"] for found in bins] == pytest.approx([0.03, 0.975])
    assert bins[0]["low"] <= 0.03 <= bins[0]["high"]


def response(number: int, label: bool, windows: list[list[float]], **more: Any) -> dict[str, Any]:
    signal = max(value for _, value in windows)
    return prompt("answers", number, label, signal, kind="response", windows=windows, **more)


def test_delay_is_the_end_of_the_first_window_at_the_threshold() -> None:
    rows = [
        response(0, True, [[1, 0.2], [6, 0.5], [9, 0.9]]),
        response(1, True, [[1, 0.4], [9, 0.4]]),
        response(2, True, [[1, 0.7]], threshold=0.8),
        response(3, True, [[4, 0.8]], threshold=0.8),
        response(4, False, [[1, 0.9]]),
    ]
    assert detection_delays(rows[:4]) == [6, 4]
    delay = signal_metrics(rows)[0]["delay_tokens"]
    assert delay is not None
    assert (delay["detected"]["successes"], delay["detected"]["n"], delay["max"]) == (2, 4, 6)


def test_the_policys_delay_waits_for_all_of_its_windows() -> None:
    rows = [
        response(0, True, [[1, 0.2], [6, 0.9], [9, 0.1], [15, 0.9], [20, 0.9], [30, 0.9]]),
        response(1, True, [[1, 0.9], [9, 0.4]]),
        response(2, True, [[1, 0.4], [9, 0.9]]),  # a run open at the end fires there
        response(3, True, [[1, 0.9], [2, 0.9], [3, 0.9]], tau=3),
    ]
    assert detection_delays(rows) == [6, 1, 9, 1]
    assert detection_delays(rows, policy=True) == [20, 9, 3]
    plain, policy = signal_metrics([*rows, response(4, False, [[1, 0.1]])])
    assert plain["delay_tokens"] is not None
    assert policy["delay_tokens"] is not None
    assert (plain["delay_tokens"]["max"], plain["delay_tokens"]["detected"]["successes"]) == (9, 4)
    assert (policy["delay_tokens"]["max"], policy["delay_tokens"]["detected"]["successes"]) == (20, 3)


def test_the_delay_and_the_level_of_the_policy_agree() -> None:
    """A level that τ windows in a row reach is at the threshold where, and only where, there is a delay."""
    draw = np.random.default_rng(0)
    for tau in (1, 2, 3):
        for _ in range(50):
            signals = draw.uniform(size=6).round(1).tolist()
            row = response(0, True, [[i + 1, s] for i, s in enumerate(signals)], tau=tau)
            assert bool(detection_delays([row], policy=True)) == (decisive_signal(signals, tau) >= 0.5)


def test_answers_are_measured_by_the_highest_window_and_by_the_policy() -> None:
    rows = [
        response(0, True, [[1, 0.8], [2, 0.8]], response_signal=0.8),
        response(1, False, [[1, 0.9], [2, 0.1]], response_signal=0.1),
    ]
    found = {row["name"]: row["auc"] for row in signal_metrics(rows)}
    assert found == {"answers": 0.0, "answers (policy)": 1.0}


# ------------------------------------------------------------------------------------------------------------- scoring


def record(number: int, *, response: str | None = None, label: Any = "benign") -> Record:
    judged = "malicious" if response and number % 2 else "benign" if response else "none"
    return Record(f"r{number}", (Message("user", f"say item {number}"),), response, label, judged)  # type: ignore[arg-type]


SETS = [
    SignalSet("asked", "prompt", tuple(record(n, label="malicious" if n % 2 else "benign") for n in range(5))),
    SignalSet("told", "response", tuple(record(n, response="one two three" * (n + 1)) for n in range(4))),
]


def test_scores_are_those_of_the_model(tmp_path: Path) -> None:
    model = guarded("llama")
    assert run_signal(model, SETS, tmp_path, batch_size=2) == 9
    rows = {row["id"]: row for row in last_rows(tmp_path / "signal.jsonl")}
    (asked,) = model.score(["say item 3"])
    assert rows["prompt/asked/r3"]["signal"] == pytest.approx(asked.prompt_signal, abs=1e-4)
    (told,) = model.score(["say item 2"], ["one two three" * 3])
    found = rows["response/told/r2"]
    assert found["signal"] == pytest.approx(max(told.response_signals), abs=1e-4)
    assert found["response_signal"] == pytest.approx(told.response_signal, abs=1e-4)
    assert found["prompt_signal"] == pytest.approx(told.prompt_signal, abs=1e-4)
    assert [length for length, _ in found["windows"]] == [check.step for check in told.checks[1:]]
    assert found["tau"] == model.policy().tau
    assert (found["n_tokens"], found["label"], rows["response/told/r3"]["label"]) == (39, False, True)
    assert found["threshold"] == model.policy().window_threshold


def test_scoring_goes_on_where_it_stopped(tmp_path: Path) -> None:
    model, path = guarded("llama"), tmp_path / "signal.jsonl"
    run_signal(model, SETS, tmp_path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:4]) + "\n")
    assert run_signal(model, SETS, tmp_path) == 5
    assert sorted(json.loads(line)["id"] for line in path.read_text().splitlines()) == sorted(
        json.loads(line)["id"] for line in lines
    )
    assert run_signal(model, SETS, tmp_path) == 0


def test_an_empty_answer_is_recorded_and_not_scored(tmp_path: Path) -> None:
    empty = Record("empty", (Message("user", "say nothing"),), "", "benign", "benign")
    assert run_signal(guarded("llama"), [SignalSet("told", "response", (empty, *SETS[1].records))], tmp_path) == 5
    row = {row["id"]: row for row in last_rows(tmp_path / "signal.jsonl")}["response/told/empty"]
    assert (row["signal"], row["error"]) == (None, "the answer is empty")


def test_a_text_that_does_not_fit_is_recorded_and_not_scored(tmp_path: Path) -> None:
    model = guarded("llama")
    long = Record("long", (Message("user", "x" * 600),), prompt_label="benign")
    run_signal(model, [SignalSet("asked", "prompt", (*SETS[0].records, long))], tmp_path)
    rows = {row["id"]: row for row in last_rows(tmp_path / "signal.jsonl")}
    assert rows["prompt/asked/long"]["signal"] is None
    assert "more than the model reads" in rows["prompt/asked/long"]["error"]
    assert sum(row["signal"] is not None for row in rows.values()) == 5


def test_sets_are_loaded_with_the_label_that_is_asked_for(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "0", "source": "x", "goal": "g", "prompt": "p", "response": "r", "jailbroken": True, "method": "M"},
        {"id": "1", "source": "x", "goal": "g", "prompt": "p", "response": "r", "jailbroken": None},
    ]
    append_jsonl(tmp_path / "eval_jbb_artifacts.jsonl", [row | {"source": "jbb-artifacts"} for row in rows])
    asked, told = load_signal_sets(["jbb-artifacts"], ["jbb-artifacts"], data_dir=tmp_path)
    assert [len(one.records) for one in (asked, told)] == [2, 1]


def test_scored_rows_become_a_section_of_the_results(tmp_path: Path) -> None:
    from safesignal.evals.results import summarise_run

    folder = run_folder(tmp_path / "run", [])
    run_signal(guarded("llama"), SETS, folder)
    assert [row["name"] for row in summarise_run(folder)["signal"]] == ["asked", "told", "told (policy)"]
