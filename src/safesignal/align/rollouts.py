"""On-policy data: let the target model answer prompts itself, in batches, appended as they come.

Label rule. The answer to a benign prompt is benign. The answer to a malicious prompt is `refusal` where the job made
it begin with a refusal, or where the refusal judge says so; everything else the model wrote to a malicious prompt is
`malicious`. An answer too short to tell is dropped.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.data.mixture import SPLIT_SEED, filter_licence, split_by_prompt, text_key
from safesignal.data.records import Record, read_records
from safesignal.data.sources import load_training
from safesignal.errors import UsageError
from safesignal.judges.refusal import judge_refusal
from safesignal.kinds import misfits
from safesignal.modeling.model import SafeSignalModel

__all__ = [
    "INPUT_JOB",
    "VAL_FRACTION",
    "RolloutJob",
    "RolloutTask",
    "plan_input",
    "plan_tasks",
    "read_plan",
    "require_same_answers",
    "run_rollouts",
]

VAL_FRACTION = 0.1
"""Share of prompts, by hash, that training never sees."""
INPUT_JOB = "input"
"""Job of the answers to a file's own prompts, which no plan names."""

_FEWEST_TOKENS = 4
_ASKED = ("prompt", "messages", "prefill")


@dataclass(frozen=True, slots=True)
class RolloutJob:
    """Which prompts the target answers, and how; one docstring per field, which documents the plan file."""

    name: str
    """Names the job; part of every row's id."""
    prompts: Literal["benign", "malicious"]
    """Label of the prompts to take."""
    n: int
    """How many prompts, spread over the sources and files as evenly as they allow."""
    sources: tuple[str, ...] = ()
    """Registered training sources the prompts come from."""
    files: tuple[str, ...] = ()
    """JSONL files the prompts come from; a path is relative to the plan file."""
    prefills: tuple[str, ...] = ("",)
    """Starts of the answer; each row gets one of them, by its id."""
    split: Literal["any", "val"] = "any"
    """`val` takes prompts of the validation split only: answers to calibrate thresholds on."""
    max_new_tokens: int = 64
    """Length of an answer."""
    temperature: float = 0.0
    """0 for greedy decoding."""
    seed: int = 0
    """Of the choice of prompts, prefills and of sampling."""
    refuses: bool = False
    """The prefills begin a refusal, so the answers are labelled `refusal`."""


@dataclass(frozen=True, slots=True)
class RolloutTask:
    """One prompt to answer."""

    id: str
    record: Record
    job: RolloutJob
    prefill: str
    number: int


def read_plan(path: str | Path) -> list[RolloutJob]:
    """Read the `[[rollouts]]` tables of a plan file.

    Raises:
        UsageError: If the file cannot be read or a table has unknown, missing or mistyped fields; all at once.
    """
    try:
        content = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the plan `{path}` cannot be read: {error}. Expected a TOML file.") from error
    tables = content.get("rollouts", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"rollouts in `{path}` is {tables!r:.40}. Expected tables, `[[rollouts]]`.")
    problems, jobs = [], []
    for index, table in enumerate(tables, 1):
        if found := misfits(f"rollouts[{index}]", table, RolloutJob):
            problems += found
            continue
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
        values["files"] = tuple(str(Path(path).parent / name) for name in values.get("files", ()))
        jobs.append(RolloutJob(**values))
    if problems or not jobs:
        raise UsageError(f"problems in {path}\n  " + "\n  ".join(problems or ["no [[rollouts]] table"]))
    return jobs


def plan_tasks(
    jobs: Sequence[RolloutJob], data_dir: str | Path | None, licences: Sequence[str], share: float = 1.0
) -> list[RolloutTask]:
    """Choose the prompts of every job, or of each this share in (0, 1]; the same plan and data give the same tasks.

    A smaller share takes some of a larger one's tasks, so that a file begun with one goes on with the other.
    """
    tasks: list[RolloutTask] = []
    for job in (replace(job, n=max(1, round(share * job.n))) for job in jobs):
        for record in _choose(job, data_dir, licences):
            prefill = job.prefills[_key(job.seed, record.id) % len(job.prefills)]
            task_id = f"{job.name}/{record.id}"
            # The noise is keyed by the id, so that a plan that grows leaves the answers it has as they are.
            tasks.append(RolloutTask(task_id, record, job, prefill, _key(job.seed, task_id) % 2**31))
    return tasks


def plan_input(path: str | Path, *, max_new_tokens: int, temperature: float, seed: int) -> list[RolloutTask]:
    """Make one task of every row of a user's own file; rows give `prompt_label` and may give a `prefill`.

    Raises:
        DataError: If a row is not what it should be; all problems at once.
    """
    records = read_records(path)
    # The job only says how to answer; each row brings its own label and prefill.
    job = RolloutJob(
        INPUT_JOB, "benign", len(records), max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
    )
    return [RolloutTask(record.id, record, job, record.prefill, number) for number, record in enumerate(records)]


def run_rollouts(
    model: SafeSignalModel,
    tasks: Sequence[RolloutTask],
    output: str | Path,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Answer every task that `output` does not hold yet; the signal is off, so the text is the base model's own.

    Args:
        model: The target; its adapter is not used.
        tasks: What to answer.
        output: JSONL file, appended to; rows carry labels, source, licence and how they were made.
        batch_size: Rows per batch.
        progress: Called with (done, all) after each batch.

    Returns:
        Rows written now.
    """
    written = 0
    with Writer(output) as writer:
        left = [task for task in tasks if task.id not in writer.done]
        done = len(tasks) - len(left)
        for batch in _batches(model, left, batch_size):
            for row in _answer(model, batch):
                writer.write(row)
                written += 1
            done += len(batch)
            if progress:
                progress(done, len(tasks))
    return written


def _batches(model: SafeSignalModel, tasks: Sequence[RolloutTask], size: int) -> Iterator[list[RolloutTask]]:
    """Group tasks of one job and similar prompt length, so that little is padding."""
    by_job: dict[str, list[RolloutTask]] = {}
    for task in tasks:
        by_job.setdefault(task.job.name, []).append(task)
    for own in by_job.values():
        near = sorted(own, key=lambda task: len(task.record.prompt))
        yield from (near[i : i + size] for i in range(0, len(near), size))


def require_same_answers(tasks: Sequence[RolloutTask], output: str | Path, model: str) -> None:
    """Raise if rows in the output answer other prompts than the tasks of their ids, or come from another model.

    Args:
        tasks: What is to be answered.
        output: File that goes on.
        model: The base model's name.

    Raises:
        UsageError: With the first such row.
    """
    known = {task.id: task for task in tasks}
    other = []
    for _, row in read_jsonl(output):
        task = known.get(str(row.get("id")))
        if task is not None:
            asked = task.record.to_row() | {"prefill": task.prefill}
            wanted = {"model": model, "temperature": task.job.temperature, **{k: asked.get(k) for k in _ASKED}}
            other += [str(row["id"])] if any(row.get(k) != value for k, value in wanted.items()) else []
    if other:
        raise UsageError(
            f"{len(other)} rows of `{output}` come from another run, the first with id {other[0]}: the model, the "
            "temperature, the prompt or its prefill was another. Expected the same, to go on from it.",
            hint="choose another `--output`",
        )


def _answer(model: SafeSignalModel, batch: Sequence[RolloutTask]) -> Iterator[dict[str, Any]]:
    job = batch[0].job
    options = model.options(max_new_tokens=job.max_new_tokens, temperature=job.temperature, seed=job.seed)
    encoded = [model.encode_one(task.record.chat(), task.prefill) for task in batch]
    numbers = [task.number for task in batch]
    answers = model.answer(encoded, signal=False, options=options, numbers=numbers)
    for task, answer in zip(batch, answers, strict=True):
        label = "none" if answer.n_tokens < _FEWEST_TOKENS else _label(task, task.prefill + answer.text)
        row = task.record.to_row() | {
            "id": task.id,
            "response": answer.text or None,
            "response_label": label,
            "prefill": task.prefill,
            "on_policy": True,
            "job": job.name,
            "temperature": job.temperature,
            "model": model.name,
        }
        yield row


def _label(task: RolloutTask, answer: str) -> str:
    if task.record.prompt_label == "benign":
        return "benign"
    if task.job.refuses:
        return "refusal"
    verdict = judge_refusal(task.record.prompt, answer).verdict
    return {"yes": "refusal", "no": "malicious"}.get(verdict, "none")


def _choose(job: RolloutJob, data_dir: str | Path | None, licences: Sequence[str]) -> list[Record]:
    """Take prompts from the sources in turn until there are enough; each prompt once."""
    pools = []
    for source in (*job.sources, *job.files):
        records = read_records(source) if source in job.files else load_training(source, data_dir=data_dir)
        records = filter_licence(records, licences)
        if job.split == "val":
            records = split_by_prompt(records, VAL_FRACTION, SPLIT_SEED)[1]
        own = {text_key(r.query): r for r in records if r.prompt_label == job.prompts}
        pool = sorted(own.values(), key=lambda record: record.id)
        random.Random(f"{job.seed}/{Path(source).name}").shuffle(pool)
        pools.append(pool)
    chosen: dict[str, Record] = {}
    while len(chosen) < job.n and any(pools):
        for pool in pools:
            if pool and len(chosen) < job.n:
                record = pool.pop()
                chosen.setdefault(text_key(record.query), record)
    return list(chosen.values())


def _key(seed: int, text: str) -> int:
    return int.from_bytes(sha256(f"{seed}/{text}".encode()).digest()[:8], "big")
