"""The last part of every recipe with a signal: which answers set its thresholds, and putting these into the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from safesignal.align.calibrate import calibrate
from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example
from safesignal.align.recipe import Figures, Finished, Rows
from safesignal.align.rollouts import SPLIT_SEED
from safesignal.data.mixture import split_by_prompt
from safesignal.data.records import Record
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel

__all__ = ["calibration_answers", "check_jobs", "choose_thresholds", "round_to_half"]


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
    lookalikes = _job_answers(model, rows.records, config.lookalike_job, config)
    found = calibrate(model, answers, config.target_fpr, lookalikes=lookalikes, lookalike_fpr=config.lookalike_fpr)
    model.config = replace(model.config, presets=found.presets)
    return Finished(metrics, found, {"lookalikes": {"n": found.n_lookalikes, "measured_fpr": found.lookalikes}})


def calibration_answers(
    model: SafeSignalModel, records: Sequence[Record], val: Sequence[Example], config: AlignConfig
) -> list[Encoded]:
    """Return the calibration job's answers; without one, the benign answers of the validation split."""
    if found := _job_answers(model, records, config.calibration_job, config):
        return found
    return [e.encoded for e in val if e.prompt_is_malicious is False and e.response_is_malicious is False]


def check_jobs(records: Sequence[Record], config: AlignConfig) -> dict[str, int]:
    """Return how many answers there are to calibrate on, by job, before anything is trained.

    Raises:
        DataError: If one of them answers a prompt of the training split.
    """
    return {job: len(_job(records, job, config)) for job in (config.calibration_job, config.lookalike_job)}


def _job_answers(model: SafeSignalModel, records: Sequence[Record], job: str, config: AlignConfig) -> list[Encoded]:
    return [model.encode_one(r.chat(), r.prefill + (r.response or "")) for r in _job(records, job, config)]


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
