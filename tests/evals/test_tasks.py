"""What tasks ask, how answers are graded, and the likelihoods behind them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safesignal.data.records import append_jsonl
from safesignal.errors import DataError, UsageError
from safesignal.evals.scorer import GuardedScorer, run_local_task
from safesignal.evals.tasks import Task, TaskDoc, final_number, load_task, most_likely
from safesignal.modeling.model import SafeSignalModel
from tests.invariants.harness import guarded
from tests.support import BOS


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    rows: dict[str, list[dict[str, Any]]] = {
        "eval_gsm8k.jsonl": [
            {"id": f"g{i}", "source": "gsm8k-test", "question": f"what is {i}?", "answer": f"<<1=1>>1\n#### 1,{i}00"}
            for i in range(3)
        ],
        "eval_mmlu_sample.jsonl": [
            {"id": f"m{i}", "source": "mmlu-test", "question": f"item {i}?", "choices": list("wxyz"), "answer": letter}
            for i, letter in enumerate("BDA")
        ],
    }
    for name, own in rows.items():
        append_jsonl(tmp_path / name, own)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 42.", "42"),
        ("12 and then $1,300.50", "1300.5"),
        ("3.0", "3"),
        ("it falls by -7 degrees", "-7"),
        ("100", "100"),
        ("none", ""),
        ("", ""),
    ],
)
def test_the_last_number_in_one_spelling(text: str, number: str) -> None:
    assert final_number(text) == number


def test_tasks_say_what_is_asked_and_what_is_right(data_dir: Path) -> None:
    gsm8k, mmlu, cloze = (load_task(name, data_dir=data_dir).docs for name in ("gsm8k", "mmlu", "mmlu_cloze"))
    assert gsm8k[2] == TaskDoc("g2", "what is 2?", (), "1200")
    assert mmlu[0] == TaskDoc("m0", "item 0?\nA. w\nB. x\nC. y\nD. z\nAnswer:", ("A", "B", "C", "D"), "B")
    assert cloze[1] == TaskDoc("m1", "Question: item 1?\nAnswer:", ("w", "x", "y", "z"), "z")


def test_an_unknown_task_and_a_row_without_an_answer_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown task `arc`; known: gsm8k"):
        load_task("arc")
    row = {"id": "g", "source": "gsm8k-test", "question": "q?", "answer": "#### none"}
    append_jsonl(tmp_path / "eval_gsm8k.jsonl", [row])
    with pytest.raises(DataError, match="no answer to grade by"):
        load_task("gsm8k", data_dir=tmp_path)


def test_ties_go_to_the_first() -> None:
    assert most_likely([-2.0, -1.0, -1.0]) == 1


def by_hand(model: SafeSignalModel, context: list[int], wanted: list[int]) -> float:
    base: Any = model.base
    logprobs = base(torch.tensor([context + wanted])).logits[0].log_softmax(-1)
    return sum(float(logprobs[len(context) + i - 1, token]) for i, token in enumerate(wanted))


def ids_of(model: SafeSignalModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_likelihoods_are_those_of_the_base_model_one_by_one() -> None:
    model = guarded("llama")
    parts = [("a longer context here", " yes"), ("short", " no, not"), ("ends in a space", " x")]
    expected = [by_hand(model, ids_of(model, context), ids_of(model, wanted)) for context, wanted in parts]
    expected.append(by_hand(model, [BOS], ids_of(model, "alone")))
    pairs = [*parts[:2], ("ends in a space ", "x"), ("", "alone")]
    found = [value for value, _ in GuardedScorer(model, signal=False, batch_size=2).loglikelihood(pairs)]
    assert found == pytest.approx(expected, abs=1e-3)


def test_greedy_is_what_the_base_would_write() -> None:
    model = guarded("llama")
    base: Any = model.base
    context = ids_of(model, "abc")
    best = int(base(torch.tensor([context])).logits[0, -1].argmax())
    found = GuardedScorer(model)._likelihoods([(context, [best]), (context, [best - 1])])
    assert [greedy for _, greedy in found] == [True, False]


def test_a_rolling_likelihood_predicts_every_token_once_with_the_most_context() -> None:
    model = guarded("llama")
    model.forward_signal.stack = replace(model.forward_signal.stack, max_length=16)
    scorer = GuardedScorer(model)
    ids = list(range(50, 50 + 37))
    windows = scorer._windows(ids)
    assert [token for _, wanted in windows for token in wanted] == ids
    assert [len(context) for context, _ in windows] == [1, 1, 12]
    assert all(len(context) + len(wanted) - 1 == 16 for context, wanted in windows)
    (found, nothing) = scorer.loglikelihood_rolling(["one two", ""])
    assert found == pytest.approx(by_hand(model, [BOS], ids_of(model, "one two")), abs=1e-3)
    assert nothing == 0


def test_prompts_the_signal_would_refuse_are_counted_once_each() -> None:
    model = guarded("llama")
    signals = [score.prompt_signal for score in model.score(["say one", "say two", "three"])]
    policy = model.policy(threshold=sorted(signals)[1])
    scorer = GuardedScorer(model, policy=policy)
    scorer.loglikelihood([(context, f" {x}") for context in ("say one", "say two", "three") for x in "ab"])
    rate = scorer.refusals(["say one", "say one", "say two", "three"])
    assert (rate["successes"], rate["n"]) == (2, 3)
    bare = GuardedScorer(model, policy=policy, signal=False)
    bare.loglikelihood([("say one", " a")])
    assert bare.refusals(["say one"])["successes"] == 0


def test_a_refusal_is_a_wrong_answer() -> None:
    model = guarded("llama")
    task = Task("n", "number", (TaskDoc("0", "what is 1?", (), "1"), TaskDoc("1", "what is 2?", (), "2")))
    strict = GuardedScorer(model, policy=model.policy(threshold=0.0, window_threshold=1.0))
    found: Any = run_local_task(strict, task, max_new_tokens=12)
    assert found["accuracy"]["successes"] == 0
    assert (found["prompts_refused"]["successes"], found["prompts_refused"]["n"]) == (2, 2)


def test_numbers_are_graded_by_what_was_released(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = GuardedScorer(guarded("llama"))
    monkeypatch.setattr(scorer, "generate", lambda prompts, **_: ["it is 3", "it is 3, no: 4"])
    docs = (TaskDoc("0", "a", (), "3"), TaskDoc("1", "b", (), "3"))
    found: Any = run_local_task(scorer, Task("n", "number", docs))
    assert found["accuracy"]["successes"] == 1


def test_choices_are_graded_by_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = GuardedScorer(guarded("llama"))
    asked: list[Any] = []

    def likelihoods(pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
        asked.extend(pairs)
        return [(-1.0 if choice == " x" else -2.0, False) for _, choice in pairs]

    monkeypatch.setattr(scorer, "loglikelihood", likelihoods)
    docs = (TaskDoc("0", "a", ("w", "x"), "x"), TaskDoc("1", "b", ("w", "x", "y"), "y"))
    found: Any = run_local_task(scorer, Task("c", "choices", docs))
    assert (found["accuracy"]["successes"], found["accuracy"]["n"]) == (1, 2)
    assert asked[0] == ("a", " w")


def test_answers_come_in_order_and_end_at_the_stop_text() -> None:
    model = guarded("llama")
    scorer = GuardedScorer(model, signal=False, batch_size=2)
    prompts = ["a much longer prompt than the others", "short", "middling one"]
    whole = scorer.generate(prompts, max_new_tokens=16)
    for prompt, text in zip(prompts, whole, strict=True):
        assert scorer.generate([prompt], max_new_tokens=16) == [text]
    stop = whole[1][4]
    assert scorer.generate([prompts[1]], until=[stop], max_new_tokens=16) == [whole[1].split(stop)[0]]
