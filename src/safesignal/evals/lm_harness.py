"""The guarded model inside lm-evaluation-harness, as the model `safesignal`, and local tasks in its format.

    safesignal evaluate … runs it; or, from lm-eval's own Python interface after `register()`:
    lm_eval.simple_evaluate(model="safesignal", model_args="adapter=DIR", tasks=["arc_easy"])

A context is one user turn: the signal needs to know who wrote what, so lm-eval's own chat rendering
(`--apply_chat_template`) is not offered.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from safesignal.errors import UsageError
from safesignal.evals.schema import rate_row
from safesignal.evals.scorer import GuardedScorer
from safesignal.evals.tasks import Task, final_number
from safesignal.modeling.model import SafeSignalModel
from safesignal.stats import Rate

__all__ = ["HarnessRequests", "register", "run_harness", "task_config"]

_METRICS = ("acc", "exact_match")


class HarnessRequests:
    """lm-eval's requests answered by a :class:`GuardedScorer`; :func:`register` makes an `lm_eval.api.model.LM` of it.

    Args:
        adapter: Adapter folder; None takes the shipped one.
        base: Base model; None takes the one the adapter names.
        preset: Operating point.
        batch_size: Rows together.
        scorer: A scorer that exists already, instead of all the above.
        unused: What lm-eval passes to every model (`device`, `max_batch_size`).
    """

    def __init__(
        self,
        adapter: str | None = None,
        base: str | None = None,
        preset: str = "balanced",
        batch_size: int | str = 8,
        *,
        scorer: GuardedScorer | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        if scorer is None:
            model = SafeSignalModel.from_pretrained(adapter, base=base)
            scorer = GuardedScorer(model, policy=model.policy(preset), batch_size=int(batch_size or 8))
        self.scorer = scorer

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of each (context, continuation)."""
        return self.scorer.loglikelihood([request.args for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Return the log-probability of each whole text."""
        return self.scorer.loglikelihood_rolling([request.args[0] for request in requests])

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Return the released answer to each context; requests with the same settings share batches."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        answers: dict[int, str] = {}
        for group in groups.values():
            contexts = [requests[index].args[0] for index in group]
            texts = self.scorer.generate(contexts, **_generation(requests[group[0]].args[1]))
            answers |= dict(zip(group, texts, strict=True))
        return [answers[index] for index in range(len(requests))]


@functools.cache
def register() -> type[Any]:
    """Register the model `safesignal` with lm-eval and return its class.

    Raises:
        UsageError: If lm-eval is not installed.
    """
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise UsageError(
            "the package `lm-eval` is not installed. Expected it for tasks of lm-evaluation-harness.",
            hint='pip install "safesignal[eval]"',
        ) from error
    made: type[Any] = register_model("safesignal")(type("SafeSignalLM", (HarnessRequests, LM), {}))
    return made


def run_harness(
    scorer: GuardedScorer, tasks: Sequence[Task | str], *, limit: int | None = None, max_new_tokens: int = 256
) -> list[dict[str, object]]:
    """Run tasks through `lm_eval.simple_evaluate`; one row per task, as :func:`run_local_task` gives it.

    Args:
        scorer: The model.
        tasks: Local tasks, or names of lm-eval's own, which it loads from the hub.
        limit: Most questions of lm-eval's own tasks; local tasks were limited when they were loaded.
        max_new_tokens: Length of a generated answer in local tasks.

    Raises:
        UsageError: If lm-eval is not installed.
    """
    model = register()(scorer=scorer)
    import lm_eval
    from lm_eval.api.task import ConfigurableTask

    rows = []
    for task in tasks:
        local = isinstance(task, Task)
        asked = ConfigurableTask(config=task_config(task, max_new_tokens)) if isinstance(task, Task) else task
        before = set(scorer.refused)
        found = lm_eval.simple_evaluate(
            model=model, tasks=[asked], num_fewshot=0, limit=None if local else limit, bootstrap_iters=0
        )
        prompts = [doc.prompt for doc in task.docs] if isinstance(task, Task) else sorted(set(scorer.refused) - before)
        rows += [_row(name, figures, found, scorer, prompts) for name, figures in found["results"].items()]
    return rows


def task_config(task: Task, max_new_tokens: int = 256) -> dict[str, Any]:
    """Return a local task as lm-eval's `TaskConfig` fields."""
    choices = task.kind == "choices"
    common = {
        "task": task.name,
        "custom_dataset": functools.partial(_dataset, task),
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": _prompt,
        "doc_to_target": _gold if choices else _answer,
        "metric_list": [{"metric": _METRICS[not choices], "aggregation": "mean", "higher_is_better": True}],
    }
    if choices:
        return common | {"output_type": "multiple_choice", "doc_to_choice": _choices}
    return common | {
        "output_type": "generate_until",
        "generation_kwargs": {"until": [], "max_gen_toks": max_new_tokens, "do_sample": False},
        "process_results": _graded,
    }


def _row(
    name: str, figures: dict[str, Any], found: dict[str, Any], scorer: GuardedScorer, prompts: Sequence[str]
) -> dict[str, object]:
    value = next((figures[f"{metric},none"] for metric in _METRICS if f"{metric},none" in figures), None)
    if value is None:
        known = ", ".join(key for key in figures if "," in key)
        raise UsageError(f"task `{name}` reports {known}. Expected one of {', '.join(_METRICS)}.")
    n = int(found["n-samples"][name]["effective"])
    return {
        "task": name,
        "runner": "lm-eval",
        "accuracy": rate_row(Rate(round(value * n), n)),
        "prompts_refused": scorer.refusals(prompts),
    }


def _generation(asked: dict[str, Any]) -> dict[str, Any]:
    """Translate lm-eval's generation arguments; what is not known raises, as nothing is dropped in silence."""
    left = dict(asked)
    until = left.pop("until", None) or []
    sampled = bool(left.pop("do_sample", False))
    temperature = float(left.pop("temperature", 1.0))
    found = {
        "until": [until] if isinstance(until, str) else list(until),
        "max_new_tokens": int(left.pop("max_gen_toks", 256)),
        "temperature": temperature if sampled else 0.0,
        "top_p": float(left.pop("top_p", 1.0)),
    }
    if left:
        raise UsageError(f"generation arguments {', '.join(left)} are not supported. Expected {', '.join(found)}.")
    return found


def _dataset(task: Task, **_: Any) -> dict[str, Any]:
    from datasets import Dataset

    rows = [{"id": d.id, "prompt": d.prompt, "choices": list(d.choices), "answer": d.answer} for d in task.docs]
    return {"test": Dataset.from_list(rows)}


def _prompt(doc: dict[str, Any]) -> str:
    return str(doc["prompt"])


def _answer(doc: dict[str, Any]) -> str:
    return str(doc["answer"])


def _choices(doc: dict[str, Any]) -> list[str]:
    return list(doc["choices"])


def _gold(doc: dict[str, Any]) -> int:
    return int(doc["choices"].index(doc["answer"]))


def _graded(doc: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    return {"exact_match": float(final_number(results[0]) == doc["answer"])}
