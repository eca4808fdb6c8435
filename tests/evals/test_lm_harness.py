"""lm-evaluation-harness and the local runner: the same requests, the same figures."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pytest

from safesignal.errors import UsageError
from safesignal.evals.lm_harness import HarnessRequests, register, run_harness, task_config
from safesignal.evals.scorer import GuardedScorer, run_local_task
from safesignal.evals.tasks import Task, TaskDoc
from safesignal.evals.utility import run_utility
from tests.invariants.harness import guarded

CHOICES = Task(
    "letters",
    "choices",
    tuple(TaskDoc(f"{i}", f"pick item {i}\nAnswer:", ("A", "B", "C"), "ABC"[i % 3]) for i in range(9)),
)
NUMBERS = Task("numbers", "number", tuple(TaskDoc(f"{i}", f"say {i}", (), str(i)) for i in range(4)))


@dataclass(frozen=True)
class Request:
    """What of lm-eval's `Instance` a model reads."""

    args: tuple[Any, ...]


def scorer() -> GuardedScorer:
    model = guarded("llama")
    return GuardedScorer(model, policy=model.policy(threshold=0.5, window_threshold=1.0))


# ------------------------------------------------------------------------------------------------- without the package


def test_requests_are_answered_in_order_whatever_their_settings() -> None:
    own = scorer()
    model = HarnessRequests(scorer=own)
    settings = [{"max_gen_toks": 4, "until": []}, {"max_gen_toks": 9, "until": []}, {"max_gen_toks": 4, "until": []}]
    requests = [Request((f"say {i}", one)) for i, one in enumerate(settings)]
    expected = [own.generate([f"say {i}"], max_new_tokens=one["max_gen_toks"])[0] for i, one in enumerate(settings)]  # type: ignore[arg-type]
    assert model.generate_until(requests) == expected
    pairs = [("one", " two"), ("three", " four")]
    assert model.loglikelihood([Request(pair) for pair in pairs]) == own.loglikelihood(pairs)
    assert model.loglikelihood_rolling([Request(("one two",))]) == own.loglikelihood_rolling(["one two"])


def test_a_generation_argument_that_is_not_known_raises() -> None:
    with pytest.raises(UsageError, match="num_beams"):
        HarnessRequests(scorer=scorer()).generate_until([Request(("say", {"num_beams": 4}))])


def test_greedy_unless_sampling_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    own = scorer()
    seen: list[dict[str, Any]] = []

    def generate(contexts: list[str], **kwargs: Any) -> list[str]:
        seen.append(kwargs)
        return [""] * len(contexts)

    monkeypatch.setattr(own, "generate", generate)
    model = HarnessRequests(scorer=own)
    model.generate_until([Request(("a", {"do_sample": False, "temperature": 0.7, "until": "x"}))])
    model.generate_until([Request(("a", {"do_sample": True, "temperature": 0.7}))])
    assert [(kwargs["temperature"], kwargs["until"]) for kwargs in seen] == [(0.0, ["x"]), (0.7, [])]


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(UsageError, match="not installed") as caught:
        register.__wrapped__()
    assert "safesignal[eval]" in caught.value.hint


def test_utility_runs_local_tasks_without_the_package() -> None:
    own = scorer()
    found = run_utility(own, [("say one", "one two")], [CHOICES], runner="local")
    assert found["tasks"] == [run_local_task(own, CHOICES)]
    assert {"perplexity", "kl_per_token", "prompts_refused"} <= set(found)
    with pytest.raises(UsageError, match="`arc_easy` is lm-eval's"):
        run_utility(own, [], ["arc_easy"], runner="local")


def test_utility_of_a_bare_model_has_no_guarded_figures() -> None:
    found = run_utility(GuardedScorer(guarded("llama"), signal=False), [("say one", "one two")], [], runner="local")
    assert set(found["perplexity"]) == {"base"}
    assert "kl_per_token" not in found


def test_a_local_task_as_lm_eval_reads_it() -> None:
    config = task_config(CHOICES)
    doc = {"prompt": "p", "choices": ["A", "B"], "answer": "B"}
    assert (config["output_type"], config["doc_to_target"](doc)) == ("multiple_choice", 1)
    graded = task_config(NUMBERS)["process_results"]
    assert [graded({"answer": "4"}, [text])["exact_match"] for text in ("3, no: 4", "4, no: 3")] == [1, 0]


# ---------------------------------------------------------------------------------------------------- with the package


@pytest.fixture
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="lm-eval is the `eval` extra")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", [CHOICES, NUMBERS], ids=lambda task: task.name)
def test_both_runners_give_the_same_figures(lm_eval: Any, task: Task) -> None:
    (through,) = run_harness(scorer(), [task], max_new_tokens=8)
    local = run_local_task(scorer(), task, max_new_tokens=8)
    assert through | {"runner": ""} == local | {"runner": ""}
    assert (through["runner"], local["runner"]) == ("lm-eval", "local")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_model_is_registered_by_name(lm_eval: Any) -> None:
    from lm_eval.api.model import LM
    from lm_eval.api.registry import get_model

    made = register()
    assert get_model("safesignal") is made
    assert issubclass(made, LM)
    assert made(scorer=scorer()).world_size == 1
