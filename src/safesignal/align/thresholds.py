"""Which answers set the thresholds: the last part of every recipe with a signal, and `safesignal calibrate` later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from safesignal.align.calibrate import Calibration, calibrate, require_answers
from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example
from safesignal.align.recipe import Figures, Finished, Rows
from safesignal.align.rollouts import INPUT_JOB
from safesignal.config import SignalConfig
from safesignal.data.build.splice import SPLICE
from safesignal.data.mixture import SPLIT_SEED, split_by_prompt
from safesignal.data.records import Record
from safesignal.errors import DataError, UsageError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel

__all__ = [
    "answers_among",
    "calibration_answers",
    "check_jobs",
    "choose_thresholds",
    "operating",
    "recalibrate",
    "require_enough",
    "require_lookalikes",
    "round_to_half",
]

_FEW = 100
"""Answers below which the thresholds' measured shares say little."""
_OPERATING = ("r1", "r2", "r3", "schedule", "strategic_attention", "surprise", "suspicion", "tau")
"""Fields that decoding goes by: weights that saw other windows in training still read these."""


def round_to_half(model: SafeSignalModel) -> None:
    """Bring the adapter to the precision it is saved in, so that thresholds are calibrated on what will be loaded."""
    for parameter in model.forward_signal.adapter.parameters():
        parameter.data = parameter.data.to(torch.float16).to(parameter.dtype)


def choose_thresholds(model: SafeSignalModel, rows: Rows, metrics: Figures, config: AlignConfig) -> Finished:
    """Calibrate the presets of a model whose weights are those that will be saved, in place.

    The answers are the calibration job's, without one the benign answers of the validation split; those of the
    look-alike job limit the thresholds besides.

    Raises:
        DataError: If there is no answer to calibrate on.
    """
    answers = calibration_answers(model, rows.records, rows.val, config)
    found = _calibrated(model, answers, _job_answers(model, rows.records, config.lookalike_job, config), config)
    return Finished(metrics, found, {"lookalikes": {"n": found.n_lookalikes, "measured_fpr": found.lookalikes}})


def calibration_answers(
    model: SafeSignalModel, records: Sequence[Record], val: Sequence[Example], config: AlignConfig
) -> list[Encoded]:
    """Return the calibration job's answers; without one, the benign answers of the validation split."""
    if found := _job_answers(model, records, config.calibration_job, config):
        return found
    return [example.encoded for example in _benign(val)]


def require_enough(jobs: Mapping[str, int], val: Sequence[Example], config: AlignConfig) -> str:
    """Say, before anything is trained, what thresholds will be calibrated on.

    Args:
        jobs: Answers by job, from :func:`check_jobs`.
        val: Validation rows.
        config: Names the jobs.

    Raises:
        DataError: If there is nothing.
    """
    own = jobs[config.calibration_job]
    n = own or len(_benign(val))
    require_answers(range(n))
    few = f"; {_FEW} or more would say what share of them is refused" if n < _FEW else ""
    return f"thresholds: {n} {'calibration' if own else 'benign validation'} answers{few}"


def _benign(val: Sequence[Example]) -> list[Example]:
    """Return the rows of both a benign prompt and a benign answer."""
    benign = [e for e in val if e.record.prompt_is_malicious is False and e.response_is_malicious is False]
    return [e for e in benign if not _spliced(e.record)]


def _spliced(record: Record) -> bool:
    """Tell whether the answer was given to another request: it is not what the model says here."""
    return bool(record.meta.get("variant") == SPLICE)


def check_jobs(records: Sequence[Record], config: AlignConfig) -> dict[str, int]:
    """Return how many answers there are to calibrate on, by job, before anything is trained.

    Raises:
        DataError: If one of them answers a prompt of the training split.
    """
    return {job: len(_job(records, job, config)) for job in (config.calibration_job, config.lookalike_job)}


def operating(config: SignalConfig, wanted: Mapping[str, Any]) -> SignalConfig:
    """Return an adapter's settings with other window lengths, schedule or τ; its thresholds are those of the old ones.

    Args:
        config: The adapter's.
        wanted: Fields by name. The others may be named with the value they have.

    Raises:
        UsageError: If another field would change, which makes the weights what they are.
    """
    plain: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in wanted.items()}
    fixed = [name for name, value in plain.items() if name not in _OPERATING and getattr(config, name, None) != value]
    if fixed:
        name = fixed[0]
        raise UsageError(
            f"signal.{name} = {plain[name]}, and the adapter has {getattr(config, name, 'no such setting')}. "
            f"Expected the same: only {', '.join(_OPERATING)} may change without training.",
            hint="`safesignal align` trains an adapter anew",
        )
    return replace(config, **{name: value for name, value in plain.items() if name in _OPERATING})


def answers_among(records: Sequence[Record], job: str, config: AlignConfig) -> list[Record]:
    """Return the benign answers of a rollout job; of rows without that job, every benign answer to a benign prompt.

    Answers that `rollouts --input` wrote to a file's prompts are of no job of a plan.

    Raises:
        DataError: If the job's rows answer prompts of the training split.
    """
    benign = [r for r in records if r.response and r.prompt_label == "benign" and r.response_label == "benign"]
    own = [r for r in benign if r.meta.get("job") in (None, "", INPUT_JOB) and not _spliced(r)]
    return _job(records, job, config) or own


def recalibrate(
    model: SafeSignalModel, answers: Sequence[Record], lookalikes: Sequence[Record], config: AlignConfig
) -> Calibration:
    """Choose the thresholds of a trained model anew, in place; its weights stay as they are.

    Args:
        model: With the window lengths, schedule and τ that it shall work with.
        answers: Benign answers, as the model gives them, to ordinary prompts it was not trained on.
        lookalikes: The same to benign prompts that sound harmful; may be none.
        config: Gives `target_fpr` and `lookalike_fpr`.

    Raises:
        DataError: If there is no answer to calibrate on.
        UsageError: If look-alikes are limited and there are none.
    """
    require_lookalikes(lookalikes, config)
    return _calibrated(model, _encoded(model, answers), _encoded(model, lookalikes), config)


def _calibrated(
    model: SafeSignalModel, answers: Sequence[Encoded], lookalikes: Sequence[Encoded], config: AlignConfig
) -> Calibration:
    """Put calibrated presets into the model.

    Where windows were not trained, theirs stay at least as high as they were: what a better check of queries leaves of
    the budget of ordinary answers would go to windows that are no better, and be paid for by look-alikes. Where the
    reader of answers alone was, those of queries stay as they were.
    """
    queries = {name: point.prompt for name, point in model.config.presets.items()} if config.read_answers else {}
    least = {} if config.windows else {name: point.window for name, point in model.config.presets.items()}
    found = calibrate(
        model,
        answers,
        config.target_fpr,
        lookalikes=lookalikes,
        lookalike_fpr=config.lookalike_fpr,
        least_windows=least,
        kept_queries=queries,
    )
    model.config = replace(model.config, presets=found.presets)
    return found


def require_lookalikes(lookalikes: Sequence[object], config: AlignConfig, *, asked: bool = False) -> None:
    """Raise if answers to look-alikes limit the thresholds, or a file of them was named, and there are none."""
    if (asked or config.lookalike_fpr) and not lookalikes:
        what = "the files of look-alikes hold" if asked else "`lookalike_fpr` sets a limit and there is"
        raise UsageError(
            f"{what} no benign answer to a look-alike. Expected some.",
            hint="`--lookalikes FILE`, rows with `prompt_label` and `response_label` benign",
        )


def _job_answers(model: SafeSignalModel, records: Sequence[Record], job: str, config: AlignConfig) -> list[Encoded]:
    return _encoded(model, _job(records, job, config))


def _encoded(model: SafeSignalModel, records: Sequence[Record]) -> list[Encoded]:
    return [model.encode_one(record.chat(), record.prefill + (record.response or "")) for record in records]


def _job(records: Sequence[Record], job: str, config: AlignConfig) -> list[Record]:
    """Return the benign answers of a rollout job, all to prompts of the validation split."""
    own = [r for r in records if r.meta.get("job") == job and r.response_label == "benign"]
    _, kept = split_by_prompt(own, config.val_fraction, SPLIT_SEED)
    if len(kept) < len(own):
        raise DataError(
            f"{len(own) - len(kept)} rows of job `{job}` have prompts of the training split. "
            "Expected validation prompts.",
            hint='make them with `split = "val"` in the plan, and keep `val_fraction`',
        )
    return own
