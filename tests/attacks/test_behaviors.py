"""Behaviors out of public sets and files: what becomes of a row, the sample, and its fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.behaviors import fingerprint, load_behavior_set, load_behaviors
from safesignal.data.records import append_jsonl
from safesignal.errors import DataError, UsageError


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Abstract rows in the formats of the local sets."""
    rows: dict[str, list[dict[str, Any]]] = {
        "eval_advbench.jsonl": [
            {"id": f"a{i}", "source": "advbench", "goal": f"do {i}", "target": f"Sure, {i}"} for i in range(30)
        ],
        "eval_jbb_artifacts.jsonl": [
            {"id": f"j{i}", "source": "x", "method": ("GCG", "JBC")[i % 2], "goal": f"do {i}", "prompt": f"!! do {i}"}
            for i in range(10)
        ],
        "eval_jbb_behaviors.jsonl": [
            {"id": f"h{i}", "label": ("harmful", "benign")[i % 2], "goal": f"do {i}", "category": "c"} for i in range(6)
        ],
        "eval_mtbench.jsonl": [{"id": "m0", "source": "mt-bench", "category": "writing", "turns": ["one", "two"]}],
        "eval_human_refusals.jsonl": [{"id": "r0", "objective": "do", "response": "no", "is_refusal": True}],
    }
    for name, own in rows.items():
        append_jsonl(tmp_path / "data" / name, own)
    return tmp_path / "data"


def test_what_becomes_of_a_row(data_dir: Path) -> None:
    first = load_behaviors("advbench", data_dir)[0]
    assert (first.id, first.text, first.prompt, first.target) == ("a0", "do 0", "do 0", "Sure, 0")
    assert (first.dataset, first.label, first.family) == ("advbench", "malicious", "")
    artifact = load_behaviors("jbb-artifacts", data_dir)[1]
    assert (artifact.text, artifact.prompt, artifact.family) == ("do 1", "!! do 1", "JBC")
    turns = load_behaviors("mt-bench", data_dir)[0]
    assert (turns.text, turns.turns, turns.category, turns.label) == ("one", ("two",), "writing", "benign")


def test_the_sample_depends_on_its_arguments_alone(data_dir: Path) -> None:
    once = load_behavior_set("advbench", data_dir, 7, 1)
    assert once == load_behavior_set("advbench", data_dir, 7, 1)
    assert once != load_behavior_set("advbench", data_dir, 7, 2)
    assert (len(once.behaviors), once.n_original) == (7, 30)
    assert once.provenance()["n_used"] == 7
    assert len(load_behaviors("advbench", data_dir, 99)) == 30


def test_the_sample_is_that_of_the_other_measurements(data_dir: Path) -> None:
    from safesignal.data.sources import load_source

    records = load_source("advbench", data_dir=data_dir, limit=7, seed=1)
    assert [one.id for one in load_behaviors("advbench", data_dir, 7, 1)] == [record.id for record in records]


def test_filters_come_before_the_draw(data_dir: Path) -> None:
    assert {one.family for one in load_behaviors("jbb-artifacts", data_dir, 3, families=("GCG",))} == {"GCG"}
    benign = load_behaviors("jailbreakbench", data_dir, label="benign")
    assert [one.id for one in benign] == ["h1", "h3", "h5"]
    with pytest.raises(UsageError, match="no row"):
        load_behaviors("advbench", data_dir, label="benign")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    append_jsonl(
        path, [{"id": "x", "prompt": "do", "prompt_label": "malicious", "target": "Sure", "turns": ["do", "so"]}]
    )
    (own,) = load_behaviors(str(path))
    assert (own.id, own.dataset, own.target, own.turns) == ("x", "own", "Sure", ("so",))


def test_unlabelled_prompts_repeated_ids_and_limits_are_refused(data_dir: Path) -> None:
    with pytest.raises(DataError, match="no label"):
        load_behaviors("human-refusal", data_dir)
    with pytest.raises(UsageError, match="`limit` is 0"):
        load_behaviors("advbench", data_dir, 0)
    with (data_dir / "eval_advbench.jsonl").open("a") as file:
        file.write('{"id": "a0", "goal": "do it twice", "target": "t"}\n')
    with pytest.raises(DataError, match="ids twice, first 'a0'"):
        load_behaviors("advbench", data_dir)


def test_the_fingerprint_sees_every_change(data_dir: Path) -> None:
    own = load_behaviors("advbench", data_dir)
    assert fingerprint(own) == fingerprint(load_behaviors("advbench", data_dir))
    assert len({fingerprint(own), fingerprint(own[:-1]), fingerprint(own[::-1])}) == 3
