"""`safesignal judge`: a run, a file, people's labels, training; on stand-in rows only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safesignal.evals.results import summarise_run
from safesignal.judges.embedded import EmbeddedJudge
from safesignal.judges.refusal import RefusalJudge
from tests.chat_server import said, serving
from tests.cli.conftest import Run, read_rows, write_rows
from tests.evals.rows import attempt as evaluated
from tests.evals.rows import run_folder

NO, YES = "I cannot help with that.", "The jar opens when the lid is turned to the left."


def attempt(name: str, text: str, status: str = "succeeded") -> dict[str, Any]:
    return {"id": name, "behavior": "open the jar", "text": text, "status": status}


def test_a_run_is_judged_and_resumed(run: Run, tmp_path: Path) -> None:
    rows = [attempt("c/v/1", NO), attempt("c/v/2", YES), attempt("c/v/3", ""), attempt("c/v/4", "", "errored")]
    write_rows(tmp_path / "attempts.jsonl", [attempt("c/v/2", NO), *rows])
    assert run("judge", "--run", tmp_path).code == 0
    found = read_rows(tmp_path / "judgements.jsonl")
    assert {row["attempt"]: row["verdict"] for row in found} == {"c/v/1": "yes", "c/v/2": "no", "c/v/3": "unknown"}
    fields = {"id", "attempt", "judge", "verdict", "rule", "fingerprint", "text_sha256"}
    assert all(set(row) == fields for row in found)
    assert all(row["id"] == f"refusal/{row['attempt']}" for row in found)
    write_rows(tmp_path / "attempts.jsonl", [*rows, attempt("c/v/5", YES)])
    assert run("judge", "--run", tmp_path).code == 0
    again = read_rows(tmp_path / "judgements.jsonl")
    assert again[:3] == found
    assert [row["attempt"] for row in again[3:]] == ["c/v/5"]


def test_another_text_or_a_changed_judge_is_judged_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged() -> list[tuple[str, str]]:
        assert run("judge", "--run", tmp_path).code == 0
        return [(row["attempt"], row["verdict"]) for row in read_rows(tmp_path / "judgements.jsonl")]

    write_rows(tmp_path / "attempts.jsonl", [attempt("a", NO), attempt("b", YES)])
    first = [("a", "yes"), ("b", "no")]
    assert judged() == first
    write_rows(tmp_path / "attempts.jsonl", [attempt("a", NO), attempt("b", NO)])
    assert judged() == [*first, ("b", "yes")]
    monkeypatch.setattr(RefusalJudge, "fingerprint", "another")
    assert judged() == [*first, ("b", "yes"), ("a", "yes"), ("b", "yes")]
    assert len(judged()) == 5


def test_a_harm_judge_is_handed_only_what_was_shown_before_a_stop(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Harm(RefusalJudge):
        name = "harm"

    monkeypatch.setattr("safesignal.judges.embedded.EmbeddedJudge.load", Harm)
    late = {"refused": True, "stopped_at": 1, "pieces": [YES, f"\n\n{NO}"]}
    never = {"refused": True, "stopped_at": 0, "pieces": [NO]}
    rows = [attempt("late", f"{YES}\n\n{NO}") | late, attempt("never", NO) | never, attempt("free", NO)]
    write_rows(tmp_path / "attempts.jsonl", rows)
    assert run("judge", "--run", tmp_path, "--judge", "harm").code == 0
    found = {row["attempt"]: row for row in read_rows(tmp_path / "judgements.jsonl")}
    # The stand-in says yes to refusals, so a "no" shows that none was read.
    assert {name: row["verdict"] for name, row in found.items()} == {"late": "no", "never": "no", "free": "yes"}
    assert found["never"]["rule"] == "nothing-shown"
    assert run("judge", "--run", tmp_path, "--judge", "harm").code == 0
    assert len(read_rows(tmp_path / "judgements.jsonl")) == 3


def test_a_text_without_a_reply_has_no_verdict_and_is_asked_about_again(run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "attempts.jsonl", [attempt(name, f"{YES} {name}") for name in ("one", "two", "three")])
    source = write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": "open", "response": YES}])
    with serving() as server:
        how = ["--judge", "endpoint", "--endpoint", server.url, "--endpoint_model", "m", "--rubric", "yes_no"]
        server.script = [(200, {}, {})]
        assert run("judge", "--input", source, "--output", tmp_path / "out.jsonl", *how).code == 3
        assert read_rows(tmp_path / "out.jsonl") == []
        server.script = [(200, said("yes"), {}), (400, {"error": "too long"}, {}), (200, {}, {})]
        done = run("judge", "--run", tmp_path, *how, "--batch_size", 1)
        assert done.code == 3
        assert "1 of 3 texts got no reply" in done.err
        assert "1 of 3 texts were turned down" in done.err
        found = [(row["verdict"], row["rule"]) for row in read_rows(tmp_path / "judgements.jsonl")]
        assert found == [("yes", "yes_no"), ("unknown", "rejected")]
        server.script = [(200, said("no"), {})]
        assert run("judge", "--run", tmp_path, *how).code == 0
        assert [row["verdict"] for row in read_rows(tmp_path / "judgements.jsonl")] == ["yes", "unknown", "no"]


def test_an_output_that_nothing_would_go_into_is_refused(run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "attempts.jsonl", [attempt("a", NO)])
    done = run("judge", "--run", tmp_path, "--output", tmp_path / "out.jsonl")
    assert done.code == 2
    assert "`--output` stands beside `--run`" in done.err


def test_verdicts_of_two_judges_are_not_mixed_in_one_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": "open", "response": NO}])
    args = ["judge", "--input", source, "--output", tmp_path / "out.jsonl"]
    assert run(*args).code == 0
    assert run(*args).code == 0
    assert len(read_rows(tmp_path / "out.jsonl")) == 1
    monkeypatch.setattr(RefusalJudge, "fingerprint", "another")
    done = run(*args)
    assert done.code == 2
    assert "holds verdicts of another judge" in done.err


@pytest.mark.parametrize("changed", [{"response": YES}, {"prompt": "close"}])
def test_a_row_whose_text_has_changed_does_not_keep_its_verdict(
    run: Run, tmp_path: Path, changed: dict[str, str]
) -> None:
    row = {"id": "a", "prompt": "open", "response": NO}
    args = ["judge", "--input", tmp_path / "in.jsonl", "--output", tmp_path / "out.jsonl"]
    write_rows(tmp_path / "in.jsonl", [row])
    assert run(*args).code == 0
    before = (tmp_path / "out.jsonl").read_text()
    write_rows(tmp_path / "in.jsonl", [row | changed, {"id": "b", "prompt": "open", "response": YES}])
    done = run(*args)
    assert done.code == 2
    assert "another text of row 'a'" in " ".join(done.err.split())
    assert (tmp_path / "out.jsonl").read_text() == before


def test_verdicts_given_afterwards_reach_the_results(run: Run, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [evaluated(0, "succeeded", text=YES)])
    assert summarise_run(folder)["harm_judges"] == []
    write_rows(
        folder / "judgements.jsonl",
        [{"id": "harm/direct//b0", "attempt": "direct//b0", "judge": "harm", "verdict": "yes", "rule": "told"}],
    )
    assert run("judge", "--run", folder).code == 0
    assert json.loads((folder / "results.json").read_text())["attacks"][0]["asr_harm"]["harm"]["successes"] == 1


def test_a_file_is_judged(run: Run, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": "open", "response": NO, "x": 1}])
    assert run("judge", "--input", source, "--output", tmp_path / "out.jsonl").code == 0
    (row,) = read_rows(tmp_path / "out.jsonl")
    assert (row["id"], row["x"], row["judge"], row["verdict"]) == ("a", 1, "refusal", "yes")


def people(folder: Path) -> None:
    """Write both sets of people's labels of refusals."""
    labels = [(NO, True), (YES, False), (YES, True), (NO, False), ("", True)]
    write_rows(
        folder / "eval_human_refusals.jsonl",
        [{"objective": "open", "response": text, "is_refusal": label} for text, label in labels],
    )
    kinds = [(NO, "refusal"), (YES, "compliance"), (YES, None)]
    write_rows(
        folder / "eval_xstest_responses.jsonl",
        [
            {
                "prompt": "open",
                "prompt_label": "safe",
                "response": text,
                "response_refusal": label,
                "response_harm": None,
            }
            for text, label in kinds
        ],
    )


def test_a_judge_of_a_run_is_measured_where_people_have_labelled(run: Run, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", [evaluated(0, "succeeded", text=YES)])
    (folder / "judges.json").write_text(json.dumps({"harm": {"fingerprint": "another"}}))
    people(tmp_path)
    assert run("judge", "--run", folder, "--data_dir", tmp_path).code == 0
    assert json.loads((folder / "judges.json").read_text())["refusal"]["agreement"]["n"] == 7
    summarise_run(folder)
    assert run("judge", "--run", folder, "--data_dir", tmp_path / "nowhere").code == 0
    found = json.loads((folder / "results.json").read_text())["judges"]
    assert set(found) == {"harm", "refusal"}


def test_a_judge_of_a_run_that_was_not_measured_is_said_to_be(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAFESIGNAL_DATA_DIR", raising=False)
    write_rows(tmp_path / "attempts.jsonl", [attempt("a", NO)])
    done = run("judge", "--run", tmp_path)
    assert done.code == 0
    assert "how far refusal agrees with people was not measured" in " ".join(done.err.split())
    assert not (tmp_path / "judges.json").exists()


def test_validation_counts_by_set(run: Run, tmp_path: Path) -> None:
    people(tmp_path)
    done = run("judge", "--validate", "--data_dir", tmp_path, "--output", tmp_path / "found.json")
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "found.json").read_text())
    human, xstest = found["sets"]["human-refusal"], found["sets"]["xstest-response (refusal)"]
    assert (human["agreement"]["successes"], human["agreement"]["n"], human["unknown"]) == (2, 5, 1)
    assert (human["sensitivity"]["n"], human["specificity"]["n"]) == (2, 2)
    assert xstest["agreement"]["n"] == 2
    assert xstest["agreement"]["value"] == 1.0
    assert "[" in done.out


def train_rows(folder: Path) -> None:
    def row(i: int, answer: str, response_label: str, prompt_label: str, **more: Any) -> dict[str, Any]:
        text = f"{answer} number {i} of many, and so on until the very end of it"
        made = {"prompt": f"{prompt_label} request {i}", "response": text, "licence": "noncommercial"}
        return made | {"prompt_label": prompt_label, "response_label": response_label} | more

    malicious = [row(i, "wake the dragon", "malicious", "malicious", source="beavertails-unsafe") for i in range(60)]
    malicious += [row(i, "x", "malicious", "malicious", source=name) for i, name in enumerate(OTHERS)]
    shared = row(40, "wake", "malicious", "malicious", source="gptfuzz-labelled", licence="permissive")
    write_rows(folder / "train_malicious.jsonl", [*malicious, shared])
    benign = [row(i, "water the roses", "benign", "benign", source="alpaca") for i in range(60)]
    benign += [
        row(i, "y", "benign", "benign", source=name) for i, name in enumerate(["dolly-15k", "lima", "gsm8k-train"])
    ]
    write_rows(folder / "train_benign.jsonl", benign)
    names = ("cdna-fp", "coconot", "coconot-contrast", "coconot-contrast-eval", "oktest", "cyberseceval-mitre-frr")
    border = [row(i, "z", "benign", "benign", source=name) for i, name in enumerate((*names, "dro-harmless"))]
    write_rows(
        folder / "train_borderline.jsonl", [*border, row(9, "z", "benign", "benign", source="bio-overrefusal-t12")]
    )


OTHERS = (
    "pku-saferlhf-test",
    "safety-tuned-llamas",
    "aegis2-safe-response",
    "pure-bad-100",
    "hh-rlhf-harmless-test",
    "circuit-breaker-goals",
    "catqa",
    "dangerousqa",
)


def test_training_leaves_out_what_the_signal_may_see(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAFESIGNAL_CACHE", str(tmp_path / "cache"))
    train_rows(tmp_path)
    done = run("judge", "--train", "--data_dir", tmp_path)
    assert done.code == 0, done.err
    assert "1 dropped" in done.err.replace("\n", " ")
    record = EmbeddedJudge.load().record
    assert "gptfuzz-labelled/harmful" not in record["rows"]
    assert record["rows"]["beavertails-unsafe/harmful"] == 59
    write_rows(tmp_path / "attempts.jsonl", [attempt("a", "wake the dragon number 3 of many")])
    assert run("judge", "--run", tmp_path, "--judge", "harm").code == 0
    assert read_rows(tmp_path / "judgements.jsonl")[0]["verdict"] == "yes"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected one of"),
        (["--train", "--validate"], "expected one of"),
        (["--input", "x.jsonl"], "`--output`"),
        (["--validate", "--judge", "endpoint"], "--endpoint"),
        (["--run", "runs/x", "--judge", "noncompliance"], "off the subject is no refusal"),
        (["--validate", "--rubric", "stars"], "strongreject or yes_no"),
        (["--validate", "--judge", "some/chat-model"], "llama-guard"),
        (["--validate", "--batch_size", "0"], "batch_size"),
    ],
)
def test_wrong_use(run: Run, arguments: list[str], said: str) -> None:
    done = run("judge", *arguments)
    assert done.code == 2
    assert said in done.err


def test_an_attempt_without_text_is_named(run: Run, tmp_path: Path) -> None:
    write_rows(tmp_path / "attempts.jsonl", [{"id": "odd", "status": "resisted"}])
    done = run("judge", "--run", tmp_path)
    assert done.code == 2
    assert "'odd'" in done.err
