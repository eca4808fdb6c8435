"""Compliant answers of the unguarded target: what is kept, and that they are written once per target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.base import Reply, Request, Sampling
from safesignal.attacks.compliant import compliant_prefixes
from safesignal.attacks.prefill import Prefill
from safesignal.attacks.targets import PlainTarget
from safesignal.data.jsonl import append_jsonl
from safesignal.judges.base import Judgement
from tests.attacks.stand_ins import REFUSAL, ScriptedTarget, behavior, behaviors
from tests.invariants.harness import guarded


def say(request: Request) -> Reply | str:
    number = request.messages[-1]["content"].split()[3]
    odd: dict[str, Reply | str] = {
        "1": " " + REFUSAL,
        "2": "",
        "3": Reply(" red, as you know.", 4, "eos", 0.1, refused=True),
    }
    return odd.get(number, " the colour: red, then orange, then yellow.")


def test_refusals_and_silence_are_left_out_and_counted(tmp_path: Path) -> None:
    found = compliant_prefixes(ScriptedTarget(say), behaviors(5), tmp_path / "c.jsonl", batch_size=2)
    assert sorted(found.pieces) == ["b0", "b4"]
    assert found.left_out == {"b1": "refused", "b2": "empty", "b3": "refused"}
    assert "".join(found.pieces["b0"]) == "Sure, here is the colour: red, then orange, then yellow."


def test_answers_are_greedy_and_begin_with_the_opening(tmp_path: Path) -> None:
    target = ScriptedTarget(say)
    asked = [
        behavior("a", "Name colour number 0", target="Sure, here is colour 0"),
        behavior("b", "Name colour number 9"),
    ]
    compliant_prefixes(target, asked, tmp_path / "c.jsonl")
    requests = {request.messages[0]["content"]: request for batch in target.batches for request in batch}
    assert requests["Name colour number 0"].prefill == "Sure, here is colour 0"
    assert requests["Name colour number 9"].prefill == "Sure, here is"
    assert requests["Name colour number 9"].sampling == Sampling(max_new_tokens=96)


def test_answers_are_written_once_per_target(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    first = compliant_prefixes(ScriptedTarget(say), behaviors(4), path)
    again = ScriptedTarget(say)
    assert compliant_prefixes(again, behaviors(4), path) == first
    assert again.batches == []
    other = ScriptedTarget(lambda _: " blue and nothing else today.", name="other")
    assert compliant_prefixes(other, behaviors(4), path).pieces["b0"] != first.pieces["b0"]
    assert compliant_prefixes(again, behaviors(4), path) == first
    assert len(path.read_text().splitlines()) == 8


def test_whether_an_answer_complies_is_judged_when_it_is_read(tmp_path: Path) -> None:
    def suspicious(behavior: str, completion: str) -> Judgement:
        return Judgement("yes" if "red" in completion else "unknown" if "that" in completion else "no", "told")

    path, target, asked = tmp_path / "c.jsonl", ScriptedTarget(say), behaviors(2)
    assert sorted(compliant_prefixes(target, asked, path).pieces) == ["b0"]
    stricter = compliant_prefixes(target, asked, path, refusal=suspicious)
    assert (stricter.pieces, stricter.left_out) == ({}, {"b0": "refused", "b1": "unknown"})
    laxer = compliant_prefixes(target, asked, path, refusal=lambda behavior, completion: _complied())
    assert "".join(laxer.pieces["b1"]) == "Sure, here is " + REFUSAL
    assert len(target.batches) == 1


def test_rows_of_an_older_file_are_cut_into_tokens_when_they_are_needed(tmp_path: Path) -> None:
    path, target, asked = tmp_path / "c.jsonl", ScriptedTarget(say), behaviors(2)
    compliant_prefixes(target, asked, path)
    rows = [json.loads(line) | {"pieces": [], "kept": False} for line in path.read_text().splitlines()]
    append_jsonl(older := tmp_path / "older.jsonl", rows)
    assert compliant_prefixes(target, asked, older) == compliant_prefixes(target, asked, path)


def test_the_answers_are_given_to_an_attack(tmp_path: Path) -> None:
    found = compliant_prefixes(ScriptedTarget(say), behaviors(3), tmp_path / "c.jsonl")
    attack = found.given_to(Prefill(depth=(2, 40)))
    assert [plan.prefill for plan in attack.plan(behaviors(3), "cell", Sampling())] == ["Sure"]
    assert attack.left_out(behaviors(3))["depth=40"] == {"empty": 1, "refused": 1, "too_short": 1}


def test_a_changed_request_is_answered_anew(tmp_path: Path) -> None:
    target = ScriptedTarget(say)
    compliant_prefixes(target, [behavior("a", "Name colour number 0")], tmp_path / "c.jsonl")
    compliant_prefixes(target, [behavior("a", "Name colour number 9")], tmp_path / "c.jsonl")
    compliant_prefixes(target, [behavior("a", "Name colour number 9")], tmp_path / "c.jsonl", max_new_tokens=8)
    assert len(target.batches) == 3


def test_an_interrupted_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"

    def stop(request: Request) -> Any:
        if "number 0" in request.messages[-1]["content"]:
            raise KeyboardInterrupt
        return say(request)

    with pytest.raises(KeyboardInterrupt):
        compliant_prefixes(ScriptedTarget(stop), behaviors(5)[::-1], path, batch_size=1)
    before = len(path.read_text().splitlines())
    rest = ScriptedTarget(say)
    compliant_prefixes(rest, behaviors(5), path, batch_size=1)
    assert (before, len(rest.batches)) == (4, 1)


def test_a_depth_is_the_first_k_tokens_by_the_targets_own_tokenizer(tmp_path: Path) -> None:
    target = PlainTarget(guarded("llama"))
    asked = behaviors(3)
    found = compliant_prefixes(
        target, asked, tmp_path / "c.jsonl", refusal=lambda behavior, completion: _complied(), max_new_tokens=24
    )
    rows = {row["behavior_id"]: row for row in map(json.loads, (tmp_path / "c.jsonl").read_text().splitlines())}
    for plan in Prefill(depth=(5, 20), pieces=found.pieces).plan(asked, "cell", Sampling()):
        text, depth = rows[plan.behavior.id]["text"], int(plan.variant.removeprefix("depth="))
        assert text.startswith(plan.prefill)
        ids = target.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert plan.prefill == str(target.tokenizer.decode(ids[:depth])).rstrip("\ufffd")


def _complied() -> Judgement:
    return Judgement("no", "told")
