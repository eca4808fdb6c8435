"""Reading a plan of rollouts: paths, and what is wrong with its tables, all of it at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safesignal.align.rollouts import plan_tasks, read_plan
from safesignal.errors import UsageError


def plan(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def test_lists_become_tuples_and_files_lie_beside_the_plan(tmp_path: Path) -> None:
    (job,) = read_plan(
        plan(
            tmp_path, '[[rollouts]]\nname = "a"\nprompts = "benign"\nn = 2\nfiles = ["x.jsonl"]\nprefills = ["", "Yes"]'
        )
    )
    assert (job.name, job.n, job.files, job.prefills) == ("a", 2, (str(tmp_path / "x.jsonl"),), ("", "Yes"))


def test_a_text_in_the_place_of_a_list_is_an_error_beside_the_others(tmp_path: Path) -> None:
    text = '[[rollouts]]\nname = "a"\nprompts = "benign"\nn = 2\nfiles = "x.jsonl"\nprefills = "Yes"\n'
    with pytest.raises(UsageError) as caught:
        read_plan(plan(tmp_path, text + '[[rollouts]]\nname = "b"\nprompt = "benign"\n'))
    lines = str(caught.value).splitlines()[1:]
    assert lines[0] == "  rollouts[1].files = 'x.jsonl'    must be a list, each text"
    assert lines[1] == "  rollouts[1].prefills = 'Yes'    must be a list, each text"
    assert lines[2].startswith("  rollouts[2].prompt    is unknown; known: files, max_new_tokens, n, ")
    assert lines[3:] == ["  rollouts[2].prompts    is missing", "  rollouts[2].n    is missing"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[rollouts]]\nname = "a"\nprompts = "mixed"\nn = 2',
            "must be one of 'benign', 'malicious'",
        ),
        ('[[rollouts]]\nname = "a"\nprompts = "benign"\nn = "2"', "n = '2'    must be a whole number"),
        ("rollouts = 2", "Expected tables, `[[rollouts]]`"),
        ("", "no [[rollouts]] table"),
    ],
)
def test_a_plan_is_read_by_the_kinds_of_its_fields(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_plan(plan(tmp_path, text))
    assert said in str(caught.value)


def test_a_share_takes_some_of_the_same_tasks(tmp_path: Path) -> None:
    rows = [
        {"id": f"r{i}", "prompt": f"How tall is tower {i}?", "prompt_label": "benign", "licence": "permissive"}
        for i in range(9)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = '[[rollouts]]\nname = "a"\nprompts = "benign"\nn = 8\nfiles = ["x.jsonl"]\nprefills = ["", "Yes"]\n'
    jobs = read_plan(plan(tmp_path, text))
    whole = plan_tasks(jobs, None, ["permissive"])
    half = plan_tasks(jobs, None, ["permissive"], 0.5)
    assert (len(whole), len(half), len(plan_tasks(jobs, None, ["permissive"], 0.01))) == (8, 4, 1)
    answered = {(task.id, task.prefill, task.number) for task in whole}
    assert {(task.id, task.prefill, task.number) for task in half} <= answered
