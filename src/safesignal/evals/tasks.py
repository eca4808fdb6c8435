"""Ability tasks from local copies of public sets: what is asked, what is right, and how an answer is graded.

Prompts are zero-shot. `gsm8k` is graded by the last number of the answer; `mmlu` by the most likely letter;
`mmlu_cloze` by the most likely choice text, as ARC is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from safesignal.data.records import Record
from safesignal.data.sources import load_source
from safesignal.errors import DataError, UsageError

__all__ = ["TASKS", "Task", "TaskDoc", "final_number", "load_task", "most_likely"]

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class TaskDoc:
    """One question.

    Attributes:
        id: Unique in the task.
        prompt: What the model is given.
        choices: Continuations to choose from, without the space before them; empty for a generated answer.
        answer: The right choice, or the right number as text.
    """

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: str


@dataclass(frozen=True, slots=True)
class Task:
    """A list of questions that are graded alike.

    Attributes:
        name: As in `TASKS`.
        kind: `choices` are ranked by likelihood, `number` is generated.
        docs: The questions, in the set's order.
    """

    name: str
    kind: Literal["choices", "number"]
    docs: tuple[TaskDoc, ...]


def load_task(name: str, *, data_dir: str | Path | None = None, limit: int | None = None, seed: int = 0) -> Task:
    """Load a task by name.

    Args:
        name: In `TASKS`.
        data_dir: As in :func:`load_source`; local files offline, the hub online.
        limit: Most questions; None takes all.
        seed: Of the draw.

    Raises:
        UsageError: If there is no such task.
        DataError: If a row has no answer.
    """
    if name not in TASKS:
        raise UsageError(f"unknown task `{name}`; known: {', '.join(sorted(TASKS))}")
    source, kind, read = TASKS[name]
    records = load_source(source, data_dir=data_dir, limit=limit, seed=seed)
    try:
        return Task(name, kind, tuple(read(record) for record in records))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"a row of `{source}` has no answer to grade by ({error}). Expected one in every row."
        ) from error


def final_number(text: str) -> str:
    """Return the last number of a text in one spelling; empty if there is none.

    Example:
        >>> final_number("So it is $1,200.50, no: 1,300.00.")
        '1300'
    """
    found = _NUMBER.findall(text)
    return f"{float(found[-1].replace(',', '')):.6f}".rstrip("0").rstrip(".") if found else ""


def most_likely(logprobs: Sequence[float]) -> int:
    """Return the index of the highest log-probability, the first of several."""
    return int(np.argmax(logprobs))


def _gsm8k(record: Record) -> TaskDoc:
    number = final_number(str(record.meta["answer"]).rsplit("####", 1)[-1])
    if not number:
        raise ValueError(f"row {record.id} ends in no number")
    return TaskDoc(record.id, record.prompt, (), number)


def _mmlu(record: Record) -> TaskDoc:
    letters = tuple("ABCDEFGHIJ"[: len(record.meta["choices"])])
    return TaskDoc(record.id, f"{record.prompt}\nAnswer:", letters, str(record.meta["letter"]))


def _mmlu_cloze(record: Record) -> TaskDoc:
    choices = tuple(str(choice) for choice in record.meta["choices"])
    right = choices["ABCDEFGHIJ".index(str(record.meta["letter"]))]
    return TaskDoc(record.id, f"Question: {record.meta['question']}\nAnswer:", choices, right)


TASKS: dict[str, tuple[str, Literal["choices", "number"], Callable[[Record], TaskDoc]]] = {
    "gsm8k": ("gsm8k", "number", _gsm8k),
    "mmlu": ("mmlu", "choices", _mmlu),
    "mmlu_cloze": ("mmlu", "choices", _mmlu_cloze),
}
"""Per task: its set in the catalog, how it is graded, how a row is read."""
