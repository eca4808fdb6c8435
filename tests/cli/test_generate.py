"""`safesignal generate`: the contract, parity with Python, batches, resuming, the bare base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import GenerateOutput
from tests.cli.conftest import Run, Tiny, read_rows, write_rows

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "How do plants grow?"},
    {"id": 2, "messages": [{"role": "user", "content": "Hello"}], "note": "kept"},
    {"id": "c", "prompt": "Say it", "prefill": "Sure, here is"},
    {"id": "d", "prompt": "A rather longer prompt than the others, so that padding matters."},
    {"id": "e", "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}]},
]
LENGTH = ["--max_new_tokens", 24]
MIXED = ["--threshold", 0.97]
"""With the tiny adapter this lets some rows through and stops others."""


def generate(run: Run, tiny: Tiny, folder: Path, *more: object, name: str = "out.jsonl") -> list[dict[str, Any]]:
    source = write_rows(folder / "in.jsonl", ROWS)
    done = run("generate", *tiny.args, "--input", source, "--output", folder / name, *LENGTH, *MIXED, *more)
    assert done.code == 0, done.err
    return read_rows(folder / name)


def test_the_contract(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = generate(run, tiny, tmp_path)
    assert {row["id"] for row in rows} == {"a", 2, "c", "d", "e"}
    assert {row["refused"] for row in rows} == {True, False}
    for row in rows:
        assert isinstance(row["text"], str)
        assert isinstance(row["refused"], bool)
        assert row["stopped_at"] is None or (isinstance(row["stopped_at"], int) and row["refused"])
        assert isinstance(row["n_tokens"], int)
        assert "base_drift" not in row
        assert row["checks"]
        for check in row["checks"]:
            assert set(check) == {"step", "signal", "verdict", "kind"}
            assert isinstance(check["step"], int)
            assert 0.0 <= check["signal"] <= 1.0
            assert check["verdict"] in ("benign", "malicious")
            assert check["kind"] in ("query", "history", "prefill", "window", "explanation")
    by_id = {row["id"]: row for row in rows}
    assert by_id[2]["note"] == "kept"
    assert by_id["c"]["prefill"] == "Sure, here is"
    assert by_id["a"]["prompt"] == "How do plants grow?"


@pytest.mark.parametrize("sampling", [[], ["--temperature", 0.8, "--seed", 3]], ids=["greedy", "sampled"])
def test_batches_do_not_matter(run: Run, tiny: Tiny, tmp_path: Path, sampling: list[object]) -> None:
    one = {r["id"]: r for r in generate(run, tiny, tmp_path, "--batch_size", 1, *sampling, name="one.jsonl")}
    all_ = {r["id"]: r for r in generate(run, tiny, tmp_path, "--batch_size", 5, *sampling, name="all.jsonl")}
    for key, row in one.items():
        other = all_[key]
        signals = [check.pop("signal") for check in row["checks"]]
        others = [check.pop("signal") for check in other["checks"]]
        assert signals == pytest.approx(others, abs=2e-5)
        assert row == other


def test_order_is_kept_within_a_batch(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = generate(run, tiny, tmp_path, "--batch_size", 5)
    assert [row["id"] for row in rows] == ["a", 2, "c", "d", "e"]


def test_resuming_does_what_is_left_and_nothing_twice(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    whole = generate(run, tiny, tmp_path, "--batch_size", 2)
    out = tmp_path / "out.jsonl"
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    again = generate(run, tiny, tmp_path, "--batch_size", 2)
    assert again[:2] == whole[:2]
    assert {r["id"]: (r["text"], r["refused"], r["stopped_at"]) for r in again} == {
        r["id"]: (r["text"], r["refused"], r["stopped_at"]) for r in whole
    }
    before = out.read_bytes()
    files = ["--input", tmp_path / "in.jsonl", "--output", out]
    done = run("generate", *tiny.args, *files, *LENGTH, *MIXED, "--batch_size", 2)
    assert (done.code, out.read_bytes()) == (0, before)
    assert "5 rows are in" in done.err


@pytest.mark.parametrize(
    "other",
    [["--no-signal"], ["--threshold", 0.9], ["--max_new_tokens", 23], ["--schedule", "every"], ["--system", "x"]],
)
def test_another_run_does_not_go_on_from_this_one(run: Run, tiny: Tiny, tmp_path: Path, other: list[object]) -> None:
    """Answers written without the signal, or under other thresholds, would pass for guarded ones."""
    generate(run, tiny, tmp_path)
    out = tmp_path / "out.jsonl"
    before = out.read_bytes()
    files = ["--input", tmp_path / "in.jsonl", "--output", out]
    done = run("generate", *tiny.args, *files, *LENGTH, *MIXED, *other)
    assert (done.code, out.read_bytes()) == (2, before)
    assert "5 rows" in done.err
    assert "another run" in done.err
    write_rows(tmp_path / "in.jsonl", [{"id": "a", "prompt": "Another prompt under an old id"}])
    assert "another run, the first with id a" in run("generate", *tiny.args, *files, *LENGTH, *MIXED).err
    write_rows(tmp_path / "in.jsonl", [{"id": "new", "prompt": "A prompt that the file has no answer to"}])
    done = run("generate", *tiny.args, *files, *LENGTH, *MIXED, *other)
    assert (done.code, out.read_bytes()) == (2, before), "nor beside its rows"
    assert run("generate", *tiny.args, *files, *LENGTH, *MIXED).code == 0
    assert len(read_rows(out)) == len(ROWS) + 1


def test_a_failed_overwrite_leaves_what_was_there(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    generate(run, tiny, tmp_path)
    out = tmp_path / "out.jsonl"
    before, source = out.read_bytes(), tmp_path / "in.jsonl"
    missing = ["--model", tmp_path / "none", "--adapter", tiny.adapter, "--overwrite"]
    assert run("generate", *missing, "--input", source, "--output", out).code != 0
    assert out.read_bytes() == before
    done = run("generate", *tiny.args, "--input", source, "--output", source, "--overwrite")
    assert done.code == 2
    assert "input and output" in done.err
    assert source.stat().st_size


def test_overwriting_starts_anew(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    generate(run, tiny, tmp_path)
    assert len(generate(run, tiny, tmp_path, "--overwrite")) == len(ROWS)


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_text_and_checks_are_those_of_python(run: Run, tiny: Tiny, tmp_path: Path, row: int) -> None:
    given = ROWS[row]
    model = SafeSignalModel.from_pretrained(tiny.adapter, base=str(tiny.base))
    conversation = given.get("prompt") or given["messages"]
    inputs = model.encode(conversation, prefill=given.get("prefill", ""))
    policy = model.policy(threshold=0.97, window_threshold=0.97)
    output = model.generate(**inputs, policy=policy, max_new_tokens=24, return_dict_in_generate=True)
    assert isinstance(output, GenerateOutput)
    answer = output.answers[0]
    written = next(r for r in generate(run, tiny, tmp_path) if r["id"] == given["id"])
    assert written["text"] == answer.text
    assert (written["refused"], written["stopped_at"]) == (answer.refused, answer.stopped_at)
    assert [c["signal"] for c in written["checks"]] == pytest.approx([c.signal for c in answer.checks], abs=2e-5)


def test_text_mode_streams_the_same_text(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = {row["id"]: row for row in generate(run, tiny, tmp_path)}
    done = run("generate", *tiny.args, *LENGTH, *MIXED, "--prompt", "How do plants grow?")
    assert done.out == rows["a"]["text"] + "\n"
    done = run("generate", *tiny.args, *LENGTH, *MIXED, "--prompt", "Say it", "--prefill", "Sure, here is")
    assert done.out == rows["c"]["text"] + "\n"
    done = run("generate", *tiny.args, *LENGTH, *MIXED, "--prompt", "Why?", "--system", "Be short.")
    assert done.out == rows["e"]["text"] + "\n"


@pytest.mark.parametrize("adapter", [[], ["--adapter"]], ids=["base alone", "with an adapter"])
def test_without_the_signal_it_is_the_base_model(run: Run, tiny: Tiny, tmp_path: Path, adapter: list[object]) -> None:
    base: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny.base)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(tiny.base)
    chat = [{"role": "user", "content": "How do plants grow?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    expected = base.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    given = ["--model", tiny.base, *([*adapter, tiny.strict] if adapter else [])]
    done = run("generate", *given, *LENGTH, "--no-signal", "--prompt", "How do plants grow?")
    assert done.out == tokenizer.decode(expected, skip_special_tokens=True) + "\n"
    source = write_rows(tmp_path / "in.jsonl", [{"id": 0, "prompt": "How do plants grow?"}])
    assert run("generate", *given, *LENGTH, "--no-signal", "--input", source, "--output", tmp_path / "o").code == 0
    (row,) = read_rows(tmp_path / "o")
    assert row["checks"] == []
    assert row["text"] + "\n" == done.out


def test_temperature_zero_is_greedy_and_not_the_default(run: Run, tiny: Tiny) -> None:
    args = ["generate", "--model", tiny.base, "--no-signal", "--prompt", "Go", *LENGTH]
    greedy = run(*args).out
    assert run(*args, "--temperature", 0).out == greedy
    assert run(*args, "--temperature", 0, "--seed", 5).out == greedy
    assert run(*args, "--temperature", 1.5, "--seed", 5).out != greedy
    assert run(*args, "--top_k", 50, "--seed", 5).out != greedy


def test_a_stop_string_ends_the_answer(run: Run, tiny: Tiny) -> None:
    args = ["generate", "--model", tiny.base, "--no-signal", "--prompt", "Go", *LENGTH]
    whole = run(*args).out.rstrip("\n")
    stop = next(c for c in whole if c.isascii() and c.isalnum())
    assert run(*args, "--stop", "never there", "--stop", stop).out == whole[: whole.index(stop)] + "\n"


def test_hyphens_work_in_option_names(run: Run, tiny: Tiny) -> None:
    args = ["generate", *tiny.args, "--prompt", "Go"]
    assert run(*args, "--max-new-tokens", 9, "--no_buffer").out == run(*args, "--max_new_tokens", 9, "--no-buffer").out


def test_drift_is_refused_unless_accepted_and_then_recorded(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny.base)
    model.get_input_embeddings().weight.data.mul_(1.01)
    other = tmp_path / "tuned"
    model.save_pretrained(other)
    transformers.AutoTokenizer.from_pretrained(tiny.base).save_pretrained(other)
    source = write_rows(tmp_path / "in.jsonl", ROWS[:1])
    args = [
        "generate",
        "--model",
        other,
        "--adapter",
        tiny.adapter,
        "--input",
        source,
        "--output",
        tmp_path / "o",
        *LENGTH,
    ]
    refused = run(*args)
    assert refused.code == 1
    assert "--allow_base_drift" in refused.err
    assert run(*args, "--allow_base_drift").code == 0
    assert "weights differ" in read_rows(tmp_path / "o")[0]["base_drift"]


def test_a_trace_shows_every_check(run: Run, tiny: Tiny) -> None:
    args = ["generate", *tiny.args, *LENGTH, "--prompt", "Say it", "--prefill", "Sure, here is", "--trace"]
    done = run(*args, "--threshold", 1.0)
    assert done.code == 0
    prefill, windows = 10 + 1, 10 + 2 + 1  # the schedule, and the end
    assert done.out.count("○ benign") == 1 + prefill + windows
    assert "p = token of the prefill" in done.out
    assert "answered" in done.out
    assert "\x1b[" not in done.out
    assert "refused" in run(*args, "--threshold", 0.0).out
