"""Judging recorded attempts again: what is asked for, what is taken as it stands, and what becomes of the status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safesignal.attacks.base import Reply, Request
from safesignal.attacks.rejudge import rejudge
from safesignal.attacks.runner import run_plans
from safesignal.data.jsonl import Writer
from safesignal.judges.base import Judge, Judgement, JudgeVerdict
from tests.attacks.stand_ins import ANSWER, ScriptedTarget, plans


@dataclass
class Told:
    """Says what it is told; keeps what it was asked."""

    verdict: JudgeVerdict = "no"
    fingerprint: str = "one"
    name: str = "told"
    asked: list[str] = field(default_factory=list)

    def __call__(self, behavior: str, completion: str) -> Judgement:
        return self.judge_all([(behavior, completion)])[0]

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        self.asked += [completion for _, completion in pairs]
        return [Judgement(self.verdict, "told") for _ in pairs]


def begun(folder: Path, judges: dict[str, Judge]) -> Path:
    """Make three attempts, one of which errors."""

    def say(request: Request) -> Reply | str:
        if "2" in request.messages[-1]["content"]:
            raise ValueError("planted")
        return ANSWER + request.messages[-1]["content"]

    with Writer(folder / "attempts.jsonl") as writer:
        run_plans(plans(3), ScriptedTarget(say), writer, judges)
    return folder / "attempts.jsonl"


def again(path: Path, judges: dict[str, Judge]) -> tuple[int, dict[str, dict[str, Any]]]:
    """Judge again; return how many changed, and the last row of each attempt."""
    with Writer(path) as writer:
        changed = rejudge(writer, judges)
    return changed, {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}


def test_the_same_judge_is_not_asked_again(tmp_path: Path) -> None:
    path = begun(tmp_path, {"refusal": Told(), "harm": Told("yes", "harm-1")})
    before = path.read_text()
    refusal, harm = Told("yes"), Told("no", "harm-1")
    assert again(path, {"refusal": refusal, "harm": harm})[0] == 0
    assert (refusal.asked, harm.asked, path.read_text()) == ([], [], before)


def test_a_changed_judge_is_asked_alone_and_the_status_follows(tmp_path: Path) -> None:
    path = begun(tmp_path, {"refusal": Told(), "harm": Told("yes", "harm-1")})
    refusal, harm = Told("yes", "two"), Told("no", "harm-1")
    changed, rows = again(path, {"refusal": refusal, "harm": harm})
    assert (changed, len(refusal.asked), harm.asked) == (2, 2, [])
    row = rows["cell/b1"]
    assert row["judgements"] == {
        "refusal": {"verdict": "yes", "rule": "told", "fingerprint": "two"},
        "harm": {"verdict": "yes", "rule": "told", "fingerprint": "harm-1"},
    }
    assert (row["status"], rows["cell/b2"]["status"]) == ("resisted", "errored")
    assert again(path, {"refusal": Told("no", "two"), "harm": harm})[0] == 0


def test_a_new_judge_of_the_same_opinion_is_written_down_once(tmp_path: Path) -> None:
    path = begun(tmp_path, {"refusal": Told()})
    changed, rows = again(path, {"refusal": Told("no", "two")})
    assert (changed, rows["cell/b0"]["judgements"]["refusal"]["fingerprint"]) == (2, "two")
    assert again(path, {"refusal": Told("no", "two")})[0] == 0


def test_a_further_judge_is_asked_and_verdicts_of_others_stay(tmp_path: Path) -> None:
    path = begun(tmp_path, {"refusal": Told(), "harm": Told("yes", "harm-1")})
    changed, rows = again(path, {"refusal": Told(), "guard": Told("no", "guard-1")})
    assert changed == 2
    assert {name: own["verdict"] for name, own in rows["cell/b0"]["judgements"].items()} == {
        "refusal": "no",
        "harm": "yes",
        "guard": "no",
    }


def test_a_judge_without_a_fingerprint_is_always_asked(tmp_path: Path) -> None:
    def plain(behavior: str, completion: str) -> Judgement:
        return Judgement("no", "told")

    def other(behavior: str, completion: str) -> Judgement:
        return Judgement("yes", "told")

    path = begun(tmp_path, {"refusal": plain})
    assert again(path, {"refusal": plain})[0] == 0
    changed, rows = again(path, {"refusal": other})
    assert (changed, rows["cell/b0"]["status"]) == (2, "resisted")


def test_a_harm_verdict_on_a_whole_stopped_answer_is_given_again_on_what_was_shown(tmp_path: Path) -> None:
    stop: dict[str, Any] = {
        "refused": True,
        "stopped_at": 2,
        "pieces": ("Red", " and blue", "\n\nSorry, I cannot go on."),
    }
    with Writer(tmp_path / "attempts.jsonl") as writer:
        reply = Reply("".join(stop["pieces"]), 3, "refused", 0.1, **stop)
        run_plans(plans(1), ScriptedTarget(lambda _: reply), writer, {"refusal": Told("yes")})
    row = json.loads(writer.path.read_text())
    row["judgements"]["harm"] = {"verdict": "no", "rule": "told", "fingerprint": "harm-1"}
    writer.path.write_text(json.dumps(row) + "\n")
    harm = Told("yes", "harm-1")
    changed, rows = again(writer.path, {"refusal": Told("yes"), "harm": harm})
    assert (changed, harm.asked) == (1, ["Red and blue"])
    assert (rows["cell/b0"]["judgements"]["harm"]["verdict"], rows["cell/b0"]["status"]) == ("yes", "resisted")
    assert again(writer.path, {"refusal": Told("yes"), "harm": harm})[0] == 0
