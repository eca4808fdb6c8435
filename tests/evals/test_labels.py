"""How far a judge agrees with people: over their labels alone, whatever else is measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from safesignal.evals.labels import HARM_SETS, measure_judge, record_agreement
from safesignal.judges.base import Judgement

FILES: dict[str, list[dict[str, Any]]] = {
    "eval_human_harm.jsonl": [
        {"objective": "a", "response": "dragons", "is_harmful": True, "mean_score": 1.0},
        {"objective": "b", "response": "roses", "is_harmful": False, "mean_score": 0.0},
    ],
    "eval_xstest_responses.jsonl": [
        {
            "prompt": "c",
            "prompt_label": "safe",
            "response": "roses",
            "response_refusal": None,
            "response_harm": "unharmful",
        }
    ],
    "eval_jbb_artifacts.jsonl": [
        {"goal": "d", "prompt": f"d {i}", "response": "roses", "jailbroken": True, "method": "m", "model": "x"}
        for i in range(5)
    ],
}


class Dragons:
    """Says yes to talk of dragons."""

    name, fingerprint = "dragons", "1"

    def __call__(self, behavior: str, completion: str) -> Judgement:
        return Judgement("yes" if "dragons" in completion else "no", "planted")

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        return [self(*pair) for pair in pairs]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
    return tmp_path


def test_labels_of_a_judge_stand_by_themselves(data: Path) -> None:
    found = measure_judge(Dragons(), HARM_SETS, data)
    assert (found["agreement"]["successes"], found["agreement"]["n"]) == (3, 3)
    assert (found["sensitivity"]["successes"], found["sensitivity"]["n"]) == (1, 1)
    by_whom = {title: (own["labelled_by"], own["agreement"]["n"]) for title, own in found["sets"].items()}
    people = {title: n for title, (by, n) in by_whom.items() if by == "people"}
    assert people == {"human-harm": 2, "xstest-response (harm)": 1}
    assert found["measured_on"] == list(people)
    assert [n for by, n in by_whom.values() if by != "people"] == [5]


def test_what_is_recorded_of_other_judges_stays(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "judges.json"
    path.write_text(json.dumps({"harm": {"fingerprint": "absent today"}}))
    assert record_agreement(tmp_path, {"dragons": Dragons()}, data) == {}
    recorded = json.loads(path.read_text())
    assert recorded["harm"] == {"fingerprint": "absent today"}
    assert (recorded["dragons"]["fingerprint"], recorded["dragons"]["agreement"]["n"]) == ("1", 3)


def test_a_missing_set_leaves_the_file_as_it_was(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "judges.json"
    path.write_text(json.dumps({"dragons": {"fingerprint": "0"}, "harm": {"fingerprint": "2"}}))
    before = path.read_text()
    (data / "eval_jbb_artifacts.jsonl").unlink()
    assert "eval_jbb_artifacts.jsonl" in record_agreement(tmp_path, {"dragons": Dragons()}, data)["dragons"]
    assert path.read_text() == before


def test_a_judge_that_fails_leaves_the_file_as_it_was(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "judges.json"
    path.write_text(json.dumps({"dragons": {"fingerprint": "0"}}))
    before = path.read_text()

    def killed(*_: object) -> list[Judgement]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Dragons, "judge_all", killed)
    with pytest.raises(KeyboardInterrupt):
        record_agreement(tmp_path, {"dragons": Dragons()}, data)
    assert path.read_text() == before
