"""`safesignal evaluate`: two targets, one command; errors withhold rates; wrong use is one line."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.targets import PlainTarget
from safesignal.judges.embedded import default_folder
from tests.cli.conftest import Run, Tiny


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SAFESIGNAL_CACHE", str(tmp_path / "cache"))
    for name, label in (("data", "malicious"), ("plain", "benign")):
        rows = [{"id": f"{name}-{i}", "prompt": f"name item {i} of the list", "prompt_label": label} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tiny.yaml").write_text(
        f"name: tiny\nmax_new_tokens: 8\ncells:\n"
        f"  - {{cell: direct, attack: direct, dataset: {tmp_path / 'data.jsonl'}}}\n"
        f"  - {{cell: ordinary, attack: direct, dataset: {tmp_path / 'plain.jsonl'}}}\n"
    )
    return ["evaluate", "--suite", str(tmp_path / "tiny.yaml"), "--output_dir", str(tmp_path / "out")]


def attempts(tmp_path: Path, target: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "out" / target / "attempts.jsonl").read_text().splitlines()]


def test_base_and_guarded_side_by_side(run: Run, tiny: Tiny, suite: list[str], tmp_path: Path) -> None:
    done = run(*suite, *tiny.args)
    assert done.code == 0, done.err
    for target in ("base", "guarded"):
        results = json.loads((tmp_path / "out" / target / "results.json").read_text())
        assert [row["cell"] for row in results["attacks"]] == ["direct"]
        assert len(attempts(tmp_path, target)) == 6
        assert target in done.out
    assert "direct: complied" in done.out
    assert "ordinary: refused" in done.out
    assert "6 attempts to make" in done.err
    assert "safesignal judge --train" in done.err
    again = run(*suite, *tiny.args)
    assert again.code == 0
    assert "attempts to make" not in again.err


def test_the_policy_asked_for_is_the_one_measured(run: Run, tiny: Tiny, suite: list[str], tmp_path: Path) -> None:
    own = ["--model", str(tiny.base), "--adapter", str(tiny.strict)]
    assert run(*suite, *own, "--targets", "guarded").code == 0
    assert all(row["refused"] for row in attempts(tmp_path, "guarded"))
    other = run(*suite, *own, "--targets", "guarded", "--policy", "low")
    assert other.code == 2
    assert "another target" in other.err


def test_a_schedule_that_stops_is_measured_without_the_buffer(run: Run, tiny: Tiny, suite: list[str]) -> None:
    """A row of recipes/paper.sh; what is asked of the policy counts in its check."""
    own = ["--model", str(tiny.base), "--adapter", str(tiny.strict), "--targets", "guarded", "--schedule", "first"]
    refused = run(*suite, *own)
    assert (refused.code, "--no-buffer" in refused.err) == (2, True)
    assert run(*suite, *own, "--no-buffer").code == 0


def test_attacks_alone_are_the_suites_attacks_and_its_sections_can_follow(
    run: Run, tiny: Tiny, suite: list[str], tmp_path: Path
) -> None:
    with (tmp_path / "tiny.yaml").open("a") as file:
        file.write("overhead: {batch_sizes: [1], contexts: [8], new_tokens: 4, repeats: 1}\n")
    only = ["--targets", "guarded", *tiny.args]
    assert run(*suite, *only, "--attacks_only").code == 0
    folder = tmp_path / "out" / "guarded"
    assert not (folder / "overhead.json").exists()
    made = (folder / "attempts.jsonl").read_bytes()
    assert run(*suite, *only).code == 0
    assert (folder / "overhead.json").exists()
    assert (folder / "attempts.jsonl").read_bytes() == made


def test_a_harm_judge_without_its_library_is_left_out_and_said_so(
    run: Run, tiny: Tiny, suite: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default_folder().mkdir(parents=True)
    monkeypatch.setattr(import_module("safesignal.cli.evaluate"), "find_spec", lambda _: None)
    done = run(*suite, *tiny.args, "--targets", "base")
    assert done.code == 0, done.err
    assert "without scikit-learn" in done.err
    assert all(set(row["judgements"]) == {"refusal"} for row in attempts(tmp_path, "base"))


def test_errored_attempts_withhold_rates(
    run: Run, tiny: Tiny, suite: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = PlainTarget.answer

    def broken(self: PlainTarget, requests: Any) -> Any:
        if any("item 1" in request.messages[-1]["content"] for request in requests):
            raise RuntimeError("planted")
        return whole(self, requests)

    monkeypatch.setattr(PlainTarget, "answer", broken)
    monkeypatch.setattr("safesignal.suites.run.SuiteRun.expected", lambda _: (0, 0.0))
    done = run(*suite, *tiny.args, "--targets", "base")
    assert done.code == 3
    assert "2 attempts errored" in done.err
    assert "complied" not in done.out
    allowed = run(*suite, *tiny.args, "--targets", "base", "--allow_errors")
    assert allowed.code == 3
    assert "complied" in allowed.out
    monkeypatch.setattr(PlainTarget, "answer", whole)
    assert run(*suite, *tiny.args, "--targets", "base").code == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--targets", "base,gaurded"], "Expected some of base, guarded"),
        (["--endpoint", "http://127.0.0.1:1"], "Expected both or neither"),
        (["--batch_size", "0"], "batch_size is 0"),
        (["--suite", "quik"], "Expected full, paper, quick"),
    ],
)
def test_wrong_use_is_one_line(run: Run, tiny: Tiny, suite: list[str], more: list[str], said: str) -> None:
    done = run(*suite, *tiny.args, *more)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err


def test_an_errored_attempt_is_counted_once(
    run: Run, tiny: Tiny, suite: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Malicious prompts that stand beside ordinary ones are in the table of attacks and in that of refusals."""
    rows = [{"id": label, "prompt": f"name {label}", "prompt_label": label} for label in ("malicious", "benign")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = PlainTarget.answer

    def broken(self: PlainTarget, requests: Any) -> Any:
        if any("name malicious" in request.messages[-1]["content"] for request in requests):
            raise RuntimeError("planted")
        return whole(self, requests)

    monkeypatch.setattr(PlainTarget, "answer", broken)
    monkeypatch.setattr("safesignal.suites.run.SuiteRun.expected", lambda _: (1, None))
    done = run(*suite, *tiny.args, "--targets", "base")
    assert "1 attempts errored" in done.err
    assert "for how long is unknown" in done.err
