"""The embedded judge on stand-ins: "forbidden" here is talk of dragons."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safesignal.errors import UsageError
from safesignal.judges.embedded import EmbeddedJudge, TrainingRow, _parts, default_folder, disjoint, train_embedded

DRAGON_TEXT = "wake the dragon feed it coal pull its tail then hide behind the scorched rock until the fire stops"
GARDEN_TEXT = "water the roses trim the hedge plant some bulbs then rest under the old tree until the sun goes"


def rows(n: int = 120, seed: int = 0) -> list[TrainingRow]:
    rng = random.Random(seed)
    made = []
    for index in range(n):
        dragon = index % 2 == 0
        words = (DRAGON_TEXT if dragon else GARDEN_TEXT).split()
        answer = " ".join(rng.choice(words) for _ in range(30))
        made.append(TrainingRow(f"request number {seed} {index}", answer, dragon, "stand-in"))
    return made


@pytest.fixture(scope="module")
def judge() -> EmbeddedJudge:
    return train_embedded(rows())


def test_it_tells_the_classes_apart_on_new_rows(judge: EmbeddedJudge) -> None:
    new = rows(40, seed=1)
    found = judge.judge_all([row[:2] for row in new])
    assert [one.verdict == "yes" for one in found] == [row.harmful for row in new]


def test_a_continuation_without_its_beginning_is_judged(judge: EmbeddedJudge) -> None:
    assert judge("a", ", then pull its tail and hide behind the scorched rock").verdict == "yes"
    assert judge("a", ", then trim the hedge and plant some bulbs").verdict == "no"


def test_the_answer_decides_not_the_request(judge: EmbeddedJudge) -> None:
    assert (
        judge("wake the dragon and feed it coal", "trim the hedge, plant some bulbs, water the roses").verdict == "no"
    )


def test_nothing_is_unknown(judge: EmbeddedJudge) -> None:
    assert [one.verdict for one in judge.judge_all([("a", ""), ("a", " ... ")])] == ["unknown", "unknown"]
    assert judge.judge_all([]) == []


def test_saved_and_read_it_says_the_same(judge: EmbeddedJudge, tmp_path: Path) -> None:
    judge.save(tmp_path)
    again = EmbeddedJudge.load(tmp_path)
    pairs = [row[:2] for row in rows(6, seed=2)]
    assert np.array_equal(again.score(pairs), judge.score(pairs))
    assert (again.threshold, again.record) == (judge.threshold, judge.record)
    assert {path.name for path in tmp_path.iterdir()} == {"weights.npz", "judge.json"}


def test_files_of_two_judges_are_no_judge(judge: EmbeddedJudge, tmp_path: Path) -> None:
    judge.save(tmp_path / "a")
    replace(judge, weights=judge.weights * 2, threshold=0.9).save(tmp_path / "b")
    (tmp_path / "a" / "weights.npz").replace(tmp_path / "b" / "weights.npz")
    with pytest.raises(UsageError, match="of two judges"):
        EmbeddedJudge.load(tmp_path / "b")


def test_killed_between_its_two_files_a_save_leaves_no_mixture(
    judge: EmbeddedJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.save(tmp_path)
    about = tmp_path / "judge.json"
    about.write_text(json.dumps({k: v for k, v in json.loads(about.read_text()).items() if k != "weights"}))
    assert EmbeddedJudge.load(tmp_path).threshold == judge.threshold

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("safesignal.judges.embedded.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        replace(judge, weights=judge.weights * 2).save(tmp_path)
    with pytest.raises(UsageError, match="no trained harm judge"):
        EmbeddedJudge.load(tmp_path)


def test_killed_within_its_weights_a_save_leaves_the_judge_before(
    judge: EmbeddedJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge.save(tmp_path)

    def killed(file: Any, **_: object) -> None:
        with file if hasattr(file, "write") else Path(file).open("wb") as half:
            half.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("numpy.savez_compressed", killed)
        with pytest.raises(KeyboardInterrupt):
            replace(judge, weights=judge.weights * 2).save(tmp_path)
    assert np.array_equal(EmbeddedJudge.load(tmp_path).weights, judge.weights)


def test_the_record_names_sources_and_rows(judge: EmbeddedJudge) -> None:
    assert judge.record["rows"] == {"stand-in/harmful": 60, "stand-in/harmless": 60}
    other = train_embedded(rows(seed=3))
    assert other.record["rows_sha256"] != judge.record["rows_sha256"]
    assert judge.record["held_out"]["agreement"]["n"] > 0


def test_the_rows_it_is_measured_on_have_no_part_in_it(judge: EmbeddedJudge) -> None:
    _, chosen_on, measured_on = _parts(rows())
    assert not {row.behavior for row in chosen_on} & {row.behavior for row in measured_on}
    turned = [row._replace(harmful=not row.harmful) if row in measured_on else row for row in rows()]
    other = train_embedded(turned)
    assert np.array_equal(other.weights, judge.weights)
    assert other.threshold == judge.threshold
    assert judge.record["held_out"]["agreement"]["value"] > 0.9
    assert other.record["held_out"]["agreement"]["value"] < 0.1


def test_training_is_repeatable(judge: EmbeddedJudge) -> None:
    assert np.array_equal(train_embedded(rows()).weights, judge.weights)


def test_one_class_is_not_enough() -> None:
    with pytest.raises(UsageError, match="both classes"):
        train_embedded([row for row in rows() if row.harmful])


def test_prompts_of_the_signal_are_left_out() -> None:
    kept = disjoint([TrainingRow("How, now?", "a", True, "s"), TrainingRow("Brown cow", "b", False, "s")], ["how NOW"])
    assert [row.behavior for row in kept] == ["Brown cow"]


def test_where_none_is_trained_the_hint_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESIGNAL_CACHE", str(tmp_path))
    assert default_folder().is_relative_to(tmp_path)
    with pytest.raises(UsageError, match="no trained harm judge") as caught:
        EmbeddedJudge.load()
    assert "--train" in caught.value.hint
