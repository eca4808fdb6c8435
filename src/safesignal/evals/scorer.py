"""The guarded model as task runners want it: likelihoods of continuations, and answers under the signal.

Likelihoods are those of the text as it would be written: the base model's own, which the gated recipe leaves as it is,
or a joint model's with the check of the context in sight. That a prompt would have been refused is counted beside them.
A generated answer is what the defence released, so a refusal is a wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from safesignal.errors import UsageError
from safesignal.evals.schema import RateRow, rate_row
from safesignal.evals.tasks import Task, final_number, most_likely
from safesignal.modeling.likelihood import Likelihood, answer_likelihoods, watched_likelihoods
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import Policy, Schedule
from safesignal.stats import Rate

__all__ = ["GuardedScorer", "run_local_task"]


class GuardedScorer:
    """Answers the requests of a task runner.

    Args:
        model: The guarded model.
        policy: Operating point; None takes the adapter's balanced preset.
        schedule: When answers are checked; None takes the adapter's.
        signal: Read the signal at all; False is the bare base model.
        batch_size: Rows read or written together.

    Attributes:
        refused: Per prompt seen so far, whether the defence refused it or stopped its answer.
    """

    def __init__(
        self,
        model: SafeSignalModel,
        *,
        policy: Policy | None = None,
        schedule: Schedule | None = None,
        signal: bool = True,
        batch_size: int = 8,
    ) -> None:
        self.model, self.schedule, self.signal, self.batch_size = model, schedule, signal, batch_size
        self.policy = policy or model.policy()
        self.refused: dict[str, bool] = {}

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return, per (context, continuation), its log-probability in nats and whether greedy decoding writes it."""
        self._watch(dict.fromkeys(context for context, _ in pairs if context.strip()))
        return self._likelihoods([self._split(context, continuation) for context, continuation in pairs])

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Return the log-probability of whole texts, in nats; every token is predicted once, with the most context."""
        windows = [self._windows(self._ids(text)) for text in texts]
        found = iter(self._likelihoods(list(chain.from_iterable(windows))))
        return [sum(next(found)[0] for _ in own) for own in windows]

    def generate(
        self,
        contexts: Sequence[str],
        *,
        until: Sequence[str] = (),
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> list[str]:
        """Return the released answer to each context, which is one user turn, cut before the first of `until`."""
        options = self.model.options(
            max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, stop_strings=list(until) or None
        )
        answers: dict[int, str] = {}
        for batch in self._batches([len(context) for context in contexts]):
            encoded = [self.model.encode_one(contexts[index]) for index in batch]
            how: dict[str, Any] = {"policy": self.policy, "schedule": self.schedule, "signal": self.signal}
            found = self.model.answer(encoded, options=options, numbers=batch, **how)
            answers |= {index: answer.text for index, answer in zip(batch, found, strict=True)}
            self.refused |= {contexts[index]: answer.refused for index, answer in zip(batch, found, strict=True)}
        return [answers[index] for index in range(len(contexts))]

    def refusals(self, prompts: Sequence[str]) -> RateRow:
        """Return the share of distinct prompts that the defence refused."""
        return rate_row(Rate.of([self.refused.get(prompt, False) for prompt in dict.fromkeys(prompts)]))

    def _watch(self, contexts: Sequence[str] | dict[str, None]) -> None:
        """Note which contexts the query check would refuse."""
        new = [context for context in contexts if context not in self.refused] if self.signal else []
        for batch in self._batches([len(context) for context in new]):
            scores = self.model.score([new[index] for index in batch], policy=self.policy)
            flags = [score.prompt_signal >= self.policy.threshold for score in scores]
            self.refused |= {new[index]: flag for index, flag in zip(batch, flags, strict=True)}

    def _likelihoods(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of the second part of each row, given the first."""
        found: dict[int, tuple[float, bool]] = {}
        for batch in self._batches([len(context) + len(wanted) for context, wanted in rows]):
            contexts, wanted = zip(*(rows[index] for index in batch), strict=True)
            self._check_length(max(len(own) + len(other) - 1 for own, other in zip(contexts, wanted, strict=True)))
            read = self._read(contexts, wanted)
            found |= {i: (float(one.logprobs_A.sum()), one.greedy) for i, one in zip(batch, read, strict=True)}
        return [found[index] for index in range(len(rows))]

    def _read(self, contexts: Sequence[list[int]], wanted: Sequence[list[int]]) -> list[Likelihood]:
        """Read continuations as they are written: where text sees the signal, with the check of its context."""
        if not (self.signal and self.policy.implicit and self.model.forward_signal.joint):
            return answer_likelihoods(self.model.base, contexts, wanted)
        return watched_likelihoods(
            self.model.forward_signal, contexts, wanted, [[(0, len(context))] for context in contexts]
        )

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenise both as one text; spaces at the end of the context belong to the continuation."""
        stripped = context.rstrip()
        continuation = context[len(stripped) :] + continuation
        before = self._ids(stripped)
        whole = self._ids(stripped + continuation)
        wanted = whole[len(before) :]
        if not wanted:
            raise UsageError(f"the continuation {continuation!r} has no tokens. Expected text.")
        return (before and whole[: len(before)]) or [self._first_id()], wanted

    def _windows(self, ids: list[int]) -> list[tuple[list[int], list[int]]]:
        longest = self.model.forward_signal.stack.max_length
        everything = [self._first_id(), *ids]
        ends = [min(start + longest, len(ids)) for start in range(0, len(ids), longest)]
        starts = range(0, len(ids), longest)
        return [
            (everything[max(0, end - longest) : start + 1], ids[start:end])
            for start, end in zip(starts, ends, strict=True)
        ]

    def _first_id(self) -> int:
        """Return the token that stands before a text without context."""
        tokenizer = self.model.tokenizer
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        return int(first)

    def _ids(self, text: str) -> list[int]:
        return list(self.model.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _check_length(self, tokens: int) -> None:
        longest = self.model.forward_signal.stack.max_length
        if tokens > longest:
            raise UsageError(f"a request has {tokens} tokens. Expected at most {longest} for this model.")

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Group indices of similar length."""
        order = sorted(range(len(lengths)), key=lambda index: lengths[index])
        return [order[begin : begin + self.batch_size] for begin in range(0, len(order), self.batch_size)]


def run_local_task(scorer: GuardedScorer, task: Task, *, max_new_tokens: int = 256) -> dict[str, object]:
    """Grade a task without lm-evaluation-harness; accuracy is the same as through it (tests/evals/test_lm_harness.py).

    Args:
        scorer: The model.
        task: The questions.
        max_new_tokens: Length of a generated answer.
    """
    numbers = task.kind == "number"
    correct = _graded_numbers(scorer, task, max_new_tokens) if numbers else _graded_choices(scorer, task)
    return {
        "task": task.name,
        "runner": "local",
        "accuracy": rate_row(Rate.of(correct)),
        "prompts_refused": scorer.refusals([doc.prompt for doc in task.docs]),
    }


def _graded_choices(scorer: GuardedScorer, task: Task) -> list[bool]:
    pairs = [(doc.prompt, f" {choice}") for doc in task.docs for choice in doc.choices]
    found = iter(scorer.loglikelihood(pairs))
    chosen = [most_likely([next(found)[0] for _ in doc.choices]) for doc in task.docs]
    return [doc.choices[index] == doc.answer for doc, index in zip(task.docs, chosen, strict=True)]


def _graded_numbers(scorer: GuardedScorer, task: Task, max_new_tokens: int) -> list[bool]:
    answers = scorer.generate([doc.prompt for doc in task.docs], max_new_tokens=max_new_tokens)
    return [final_number(answer) == doc.answer for doc, answer in zip(task.docs, answers, strict=True)]
