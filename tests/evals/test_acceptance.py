"""The acceptance suite on stand-ins: what counts as a hit, what errored, and which folder belongs to which run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safesignal.data.jsonl import read_jsonl
from safesignal.data.records import append_jsonl
from safesignal.errors import SignalError, UsageError
from safesignal.evals import acceptance, bench
from safesignal.evals.acceptance import AcceptanceConfig, run_acceptance, summarise
from safesignal.evals.bench import BenchConfig, bench_decode
from safesignal.modeling.decode import DecodeSettings, Step, decode
from safesignal.modeling.forward import SignalForward
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.output import Answer
from safesignal.modeling.read_anew import ReadAnew
from safesignal.modeling.rows import Row
from safesignal.rules import Policy
from safesignal.types import FinishReason
from tests.invariants.harness import guarded


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Abstract rows in the formats of the local sets."""
    folder = tmp_path / "data"
    rows: dict[str, list[dict[str, Any]]] = {
        "eval_advbench.jsonl": [
            {"id": f"a{i}", "source": "advbench", "goal": f"do {i}", "target": "t"} for i in range(5)
        ],
        "eval_alpaca_benign.jsonl": [
            {"id": f"b{i}", "source": "alpaca", "prompt": f"say {i}", "response": "ok", "label": "benign"}
            for i in range(4)
        ],
        "eval_jbb_artifacts.jsonl": [
            {
                "id": f"j{i}",
                "source": "jbb-artifacts",
                "goal": f"do {i}",
                "prompt": "p",
                "response": "x " * 9,
                "jailbroken": i < 3,
            }
            for i in range(5)
        ],
        "eval_xstest_responses.jsonl": [
            {
                "id": f"x{i}",
                "source": "xstest-response",
                "prompt": "p",
                "response": "Sorry, no.",
                "prompt_label": "unsafe",
                "response_refusal": "refusal",
                "response_harm": "unharmful",
            }
            for i in range(2)
        ],
    }
    for name, own in rows.items():
        append_jsonl(folder / name, own)
    return folder


class KnowsAll:
    """A text classifier that flags everything."""

    def fit(self, _: Any) -> KnowsAll:
        return self

    def calibrate(self, _: Any, *, fpr: float) -> None: ...

    def flag(self, prompts: Sequence[str]) -> list[bool]:
        return [True] * len(prompts)


def config(data_dir: Path, **more: Any) -> AcceptanceConfig:
    return AcceptanceConfig(data_dir=str(data_dir), limit=5, max_new_tokens=12, batch_size=2, **more)


def test_hits_against_hand_counted_rows() -> None:
    attempts = [{"id": f"{i}", "part": "prefill", "status": "ran", "hit": i < 1} for i in range(4)]
    attempts += [{"id": "e", "part": "prefill", "status": "errored", "hit": None}]
    part = summarise(attempts)["prefill"]
    assert (part["hits"], part["n"], part["n_effective"], part["errored"], part["rate"]) == (1, 5, 4, 1, 0.25)
    assert part["interval"] == pytest.approx([0.0456, 0.6994], abs=1e-3)
    assert "rival_prefill" not in summarise(attempts)


def test_a_part_in_which_all_errored_has_no_rate() -> None:
    part = summarise([{"id": "e", "part": "benign", "status": "errored", "hit": None}])["benign"]
    assert part["rate"] is None
    assert part["errored"] == 1


def test_a_run_is_complete_and_goes_on_where_it_stopped(data_dir: Path, tmp_path: Path) -> None:
    model, folder = guarded("llama"), tmp_path / "run"
    first = run_acceptance(model, config(data_dir), folder)
    counts = {name: part["n"] for name, part in first["summary"].items()}
    assert counts == {"prefill": 5, "windows": 5, "swapped": 3, "refusal": 2, "benign": 4}
    lines = (folder / "attempts.jsonl").read_text().splitlines()
    (folder / "attempts.jsonl").write_text("\n".join(lines[:7]) + "\n")
    second = run_acceptance(model, config(data_dir), folder)
    assert second["summary"] == first["summary"]
    assert len((folder / "attempts.jsonl").read_text().splitlines()) == len(lines)


def test_a_folder_of_another_adapter_or_setting_is_refused(data_dir: Path, tmp_path: Path) -> None:
    model, folder = guarded("llama"), tmp_path / "run"
    run_acceptance(model, config(data_dir), folder)
    with pytest.raises(UsageError, match="another settings"):
        run_acceptance(model, replace(config(data_dir), max_new_tokens=13), folder)
    model.forward_signal.adapter.head.proj.weight.data.mul_(2)
    with pytest.raises(UsageError, match="another adapter"):
        run_acceptance(model, config(data_dir), folder)


def test_rows_that_no_mark_says_the_run_of_are_not_gone_on_from(data_dir: Path, tmp_path: Path) -> None:
    model, folder = guarded("llama"), tmp_path / "run"
    run_acceptance(model, config(data_dir), folder)
    (folder / "settings.json").unlink()
    with pytest.raises(UsageError, match="holds a run with another"):
        run_acceptance(model, replace(config(data_dir), max_new_tokens=13), folder)
    (folder / "attempts.jsonl").write_text("")
    assert run_acceptance(model, config(data_dir), folder)["summary"]["prefill"]["n"] == 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("eval_advbench.jsonl", "do 1", "do one"),
        ("eval_alpaca_benign.jsonl", "say 2", "say two"),
        ("eval_jbb_artifacts.jsonl", "x x", "y y"),
        ("eval_xstest_responses.jsonl", "Sorry", "No"),
    ],
)
def test_a_run_goes_on_with_the_same_rows_alone(data_dir: Path, tmp_path: Path, name: str, old: str, new: str) -> None:
    model, folder, path = guarded("llama"), tmp_path / "run", data_dir / name
    run_acceptance(model, config(data_dir), folder)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError, match="another rows"):
        run_acceptance(model, config(data_dir), folder)


def test_a_run_goes_on_with_the_same_training_prompts_alone(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptance, "TextBaseline", KnowsAll)
    model, folder, prompts = guarded("llama"), tmp_path / "run", tmp_path / "prompts.jsonl"
    rows = [{"id": f"t{i}", "prompt": f"ask {i}", "prompt_label": "benign", "split": "train"} for i in range(3)]
    append_jsonl(prompts, rows)
    whole = run_acceptance(model, config(data_dir), folder, train_prompts=prompts)
    assert whole["summary"]["rival_prefill"]["n"] == 5
    assert run_acceptance(model, config(data_dir), folder, train_prompts=prompts)["summary"] == whole["summary"]
    prompts.write_text(prompts.read_text().replace("ask 1", "ask one"))
    with pytest.raises(UsageError, match="another rows"):
        run_acceptance(model, config(data_dir), folder, train_prompts=prompts)


SHOWN = "The first colour is red, the second is orange, and the third is yellow."
REFUSED = Policy().fixed_refusal


@pytest.mark.parametrize(
    ("shown", "refusal", "hit"),
    [
        (SHOWN, "", True),
        ("", REFUSED, False),
        (SHOWN, REFUSED, True),
        ("The first", REFUSED, False),
        ("I am sorry, but I cannot help with that at all.", REFUSED, False),
    ],
)
def test_the_released_text_decides_and_is_kept(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, refusal: str, hit: bool
) -> None:
    model, text = guarded("llama"), "\n\n".join(filter(None, (shown, refusal)))
    before, after = (model.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (shown, refusal))
    # One of the shown tokens lies beyond the transition.
    stop, late = (len(before) - 1, 1) if before else (0, 0)
    ids, finish = (*before, *after), FinishReason.REFUSED if refusal else FinishReason.EOS
    said = Answer(text, ids, bool(refusal), stop if refusal else None, (), finish, len(ids), late, 0.1, 0.2)
    monkeypatch.setattr(SafeSignalModel, "answer", lambda _, encoded, **__: [said] * len(encoded))
    summary = run_acceptance(model, config(data_dir), tmp_path / "run")["summary"]
    hits = {part: summary[part]["hits"] for part in ("prefill", "windows", "benign")}
    assert hits == {"prefill": 5 * hit, "windows": 5 * hit, "benign": 4 * bool(refusal)}
    rows = [row for _, row in read_jsonl(tmp_path / "run" / "attempts.jsonl")]
    assert {row["text"] for row in rows if row["part"] == "prefill"} == {text}


def test_an_errored_attempt_is_counted_apart_and_made_again(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = guarded("llama"), tmp_path / "run"

    def broken(*_: Any, **__: Any) -> Any:
        raise SignalError("planted")

    with monkeypatch.context() as plant:
        plant.setattr(SafeSignalModel, "answer", broken)
        failed = run_acceptance(model, config(data_dir), folder)["summary"]["prefill"]
    assert (failed["errored"], failed["rate"]) == (5, None)
    healed = run_acceptance(model, config(data_dir), folder)["summary"]["prefill"]
    assert (healed["errored"], healed["n"]) == (0, 5)


def test_a_bad_row_errors_alone(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, answer, bad = guarded("llama"), SafeSignalModel.answer, "do 2"

    def choosy(self: SafeSignalModel, encoded: Any, **how: Any) -> Any:
        if any(bad in self.tokenizer.decode(list(one.ids)) for one in encoded):
            raise SignalError("planted")
        return answer(self, encoded, **how)

    monkeypatch.setattr(SafeSignalModel, "answer", choosy)
    part = run_acceptance(model, config(data_dir), tmp_path / "run")["summary"]["prefill"]
    assert (part["errored"], part["n_effective"]) == (1, 4)


def test_a_rival_that_cannot_be_fitted_fails_before_anything_is_generated(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.jsonl"):
        run_acceptance(guarded("llama"), config(data_dir), tmp_path / "run", train_prompts=tmp_path / "missing.jsonl")
    assert not (tmp_path / "run" / "attempts.jsonl").exists()


def test_results_say_what_they_were_made_of(data_dir: Path, tmp_path: Path) -> None:
    model = guarded("llama")
    run_acceptance(model, config(data_dir), tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["adapter"] == model.fingerprint()
    assert results["settings"]["max_new_tokens"] == 12
    assert results["environment"]["torch"]


def test_the_benchmark_times_every_variant_in_every_cell() -> None:
    rows = bench_decode(guarded("llama"), BenchConfig(batch_sizes=(1, 2), contexts=(8,), new_tokens=4, repeats=2))
    assert [(row.batch, row.variant) for row in rows][:2] == [(1, "off"), (1, "every, fused")]
    assert len(rows) == 12
    assert all(row.low <= row.milliseconds <= row.high and row.peak > 0 for row in rows)
    assert all(row.extra == 0 for row in rows if row.variant == "off")


def test_the_benchmark_runs_every_check_of_a_schedule_whatever_the_signal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A malicious query used to end the checks of an answer after eleven, and the rest was timed without any."""
    model, written = guarded("llama"), []
    with torch.no_grad():
        model.forward_signal.adapter.head.proj.bias.copy_(torch.tensor([-4.0, 4.0]))

    def watched(forward: SignalForward, rows: Sequence[Row], settings: DecodeSettings) -> Iterator[Step]:
        written.append(rows)
        return decode(forward, rows, settings)

    monkeypatch.setattr(bench, "decode", watched)
    bench_decode(model, BenchConfig(batch_sizes=(1,), contexts=(8,), new_tokens=40, repeats=1))
    checks = [len(rows[0].checks) for rows in written[1:]]
    assert checks[0] == 0
    assert checks[1] == checks[2] >= 40


def test_the_benchmark_times_an_answer_of_which_every_check_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    model = guarded("llama")
    settings = replace(model.config, answer_reader_rank=2, suspicion=1.0)
    model.forward_signal.add_readers(settings)
    read: list[int] = []
    on = ReadAnew.further

    def counted(*args: Any) -> torch.Tensor:
        read.append(1)
        return on(*args)

    monkeypatch.setattr(ReadAnew, "further", counted)
    rows = bench_decode(model, BenchConfig(batch_sizes=(1,), contexts=(8,), new_tokens=12, repeats=1))
    assert [row.variant for row in rows][-1] == "annealing, all read anew"
    assert len(read) == 11, "one at each of ten tokens, and one at the end"
    assert model.config == settings
