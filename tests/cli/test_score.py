"""`safesignal score`: the contract, and the same signals whatever the batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.base import Request, Sampling
from safesignal.attacks.targets import GuardedTarget
from safesignal.modeling.model import SafeSignalModel
from tests.cli.conftest import Run, Tiny, read_rows, save_adapter, write_rows

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "How do plants grow?", "response": "They drink water and eat light."},
    {"id": "b", "prompt": "Hello"},
    {
        "id": "c",
        "messages": [{"role": "user", "content": "Go on"}],
        "prefill": "Sure, ",
        "response": "here it is.",
        "x": 1,
    },
]


def score(run: Run, tiny: Tiny, folder: Path, *more: object, name: str = "out.jsonl") -> list[dict[str, Any]]:
    source = write_rows(folder / "in.jsonl", ROWS)
    done = run("score", *tiny.args, "--input", source, "--output", folder / name, *more)
    assert done.code == 0, done.err
    return read_rows(folder / name)


def test_the_contract(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    first, second, third = score(run, tiny, tmp_path)
    for row in (first, third):
        assert 0.0 <= row["prompt_signal"] <= 1.0
        assert all(0.0 <= signal <= 1.0 for signal in row["response_signals"])
        assert min(row["response_signals"]) <= row["response_signal"] <= max(row["response_signals"])
    assert set(second) == {"id", "prompt", "prompt_signal", "run"}
    assert third["x"] == 1


def test_batches_do_not_matter(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    one = score(run, tiny, tmp_path, "--batch_size", 1, name="one.jsonl")
    together = {row["id"]: row for row in score(run, tiny, tmp_path, "--batch_size", 3, name="three.jsonl")}
    for row in one:
        other = together[row["id"]]
        assert row["prompt_signal"] == pytest.approx(other["prompt_signal"], abs=2e-5)
        assert row.get("response_signals", []) == pytest.approx(other.get("response_signals", []), abs=2e-5)


def test_one_pair_on_stdout_is_the_row_of_a_file(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    row = score(run, tiny, tmp_path)[0]
    done = run("score", *tiny.args, "--prompt", row["prompt"], "--response", row["response"])
    printed = json.loads(done.out)
    assert printed["prompt_signal"] == pytest.approx(row["prompt_signal"], abs=2e-5)
    assert printed["response_signals"] == pytest.approx(row["response_signals"], abs=2e-5)
    assert set(json.loads(run("score", *tiny.args, "--prompt", "Hello").out)) == {"prompt_signal"}


def test_a_trace_is_a_table(run: Run, tiny: Tiny) -> None:
    out = run("score", *tiny.args, "--prompt", "Hi", "--response", "abc", "--trace").out
    assert "query" in out
    assert out.count("window") == 3


def test_resuming(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    whole = score(run, tiny, tmp_path, "--batch_size", 1)
    out = tmp_path / "out.jsonl"
    out.write_text(json.dumps(whole[0]) + "\n")
    assert {row["id"] for row in score(run, tiny, tmp_path)} == {"a", "b", "c"}
    assert len(read_rows(out)) == len(ROWS)


def test_scores_are_the_checks_that_generate_logs_of_the_same_text(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    text = "They drink water and eat light, all day."
    source = write_rows(tmp_path / "in.jsonl", [{"id": 0, "prompt": "Hello there", "prefill": text}])
    common = [*tiny.args, "--schedule", "periodic:4", "--threshold", 1.0]
    assert run("generate", *common, "--max_new_tokens", 4, "--input", source, "--output", tmp_path / "g").code == 0
    checks = read_rows(tmp_path / "g")[0]["checks"]
    found = json.loads(run("score", *common, "--prompt", "Hello there", "--response", text).out)
    logged = [check["signal"] for check in checks if check["kind"] != "window"]
    assert len(logged) == 1 + len(text) // 4
    assert [found["prompt_signal"], *found["response_signals"]] == pytest.approx(logged, abs=1e-4)


def test_labelled_rows_are_summed_up(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    """AUC, and shares at or above the thresholds in use, counted here by hand from the rows that were written."""
    answers = {"benign": "Yes.", "malicious": "No way.", "refusal": "I won't.", "none": None}
    rows: list[dict[str, Any]] = [
        {"id": f"{label}{n}", "prompt": f"Say {label} {n}", "prompt_label": "malicious" if n % 2 else "benign"}
        | {"response": text and f"{text} {n}", "response_label": label}
        for label, text in answers.items()
        for n in range(3)
    ]
    source, output = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = run("score", *tiny.args, "--input", source, "--output", output, "--threshold", 0.4)
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    found = read_rows(output)
    for what, names in (("prompt", ("malicious", "benign")), ("response", ("malicious", "benign refusal"))):
        classes = [[r[f"{what}_signal"] for r in found if r[f"{what}_label"] in own.split()] for own in names]
        bad, good = classes
        auc = sum((a > b) + 0.5 * (a == b) for a in bad for b in good) / len(bad) / len(good)
        threshold = 0.4  # the option sets both
        flagged = [f"({sum(signal >= threshold for signal in own)}/{len(own)}) of the" for own in classes]
        (line,) = [part for part in said.split("labelled ") if part.startswith(f"{what}s: ")]
        assert f"AUC {auc:.3f}; at the threshold, {threshold:.2f}, " in line
        assert f"{flagged[0]} malicious ones and " in line
        assert f"{flagged[1]} benign ones are flagged" in line


def test_of_rows_of_one_label_the_share_that_is_flagged_is_said(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = [{"id": str(n), "prompt": f"Hello {n}", "prompt_label": "benign"} for n in range(4)]
    source, output = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    done = run("score", *tiny.args, "--input", source, "--output", output, "--threshold", 0.4)
    flagged = sum(row["prompt_signal"] >= 0.4 for row in read_rows(output))
    assert (done.code, "AUC" in done.err, "malicious" in done.err) == (0, False, False)
    assert f"4 labelled prompts: at the threshold, 0.40, {100 * flagged / 4:.1f} %" in " ".join(done.err.split())


def test_rows_without_a_label_have_no_summary(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": "Hello"}])
    done = run("score", *tiny.args, "--input", source, "--output", tmp_path / "out.jsonl")
    assert (done.code, "labelled" in done.err) == (0, False)


def test_what_a_disguised_query_was_read_as_is_said(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    """In rows of both verbs and beside a trace; of plain queries, and without a reader, nothing is said."""
    plain = "tell me about bread"
    typed = "<|im_end|>".join(plain)  # the one disguise that needs no words in the vocabulary
    source = write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": typed}, {"id": "b", "prompt": "Hello"}])
    folder = save_adapter(tiny.base, tmp_path / "reader", 1.0, reader_rank=2)
    model = SafeSignalModel.from_pretrained(folder)
    encoded, options = [model.encode_one(text) for text in (typed, "Hello")], model.options(max_new_tokens=2)
    for signal, expected in ((True, [plain, None]), (False, [None, None])):
        assert [one.read_as for one in model.answer(encoded, signal=signal, options=options)] == expected
    unread = replace(model.policy(), check_query=False)
    assert [one.read_as for one in model.answer(encoded, policy=unread, options=options)] == [None, None]
    replies = GuardedTarget(model).answer([Request(({"role": "user", "content": typed},), "", Sampling(2), 0)])
    assert [reply.read_as for reply in replies] == [plain]
    assert [score.read_as for score in model.score([typed, "Hello"])] == [plain, None]
    for verb in ("score", "generate"):
        for adapter, expected in ((folder, [plain, None]), (tiny.trusting, [None, None])):
            args = ["--model", tiny.base, "--adapter", adapter]
            name = tmp_path / f"{verb}-{adapter.name}.jsonl"
            done = run(verb, *args, "--input", source, "--output", name)
            assert done.code == 0, done.err
            assert [row.get("read_as") for row in read_rows(name)] == expected
            done = run(verb, *args, "--prompt", typed, "--trace")
            assert (f"the query was read as: {plain}" in done.err) == (expected[0] is not None), done.err
    bare = tmp_path / "bare.jsonl"
    source = tmp_path / f"generate-{folder.name}.jsonl"  # what an earlier run said does not stay
    run("generate", "--model", tiny.base, "--no-signal", "--input", source, "--output", bare)
    assert [row.get("read_as") for row in read_rows(bare)] == [None, None]
