"""One alignment from files to a saved adapter: data, training, half-precision weights, thresholds, record."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from safesignal.align.calibrate import Calibration, calibrate
from safesignal.align.config import AlignConfig
from safesignal.align.evaluate import Metrics, validate
from safesignal.align.examples import Example, encode_examples, load_mixture
from safesignal.align.rollouts import SPLIT_SEED
from safesignal.align.trainer import Progress, Trainer
from safesignal.data.jsonl import Writer
from safesignal.data.mixture import split_by_prompt
from safesignal.data.records import Record, read_records
from safesignal.data.sources import SOURCES
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.runtime import environment

__all__ = ["AlignResult", "align"]

_WORK = "training"


@dataclass(frozen=True, slots=True)
class AlignResult:
    """What an alignment came to.

    Attributes:
        metrics: Validation figures of the saved weights.
        calibration: Thresholds and what they did on the calibration answers.
        seconds: Training and calibration.
        left_out: Rows too long or without a label.
    """

    metrics: Metrics
    calibration: Calibration
    seconds: float
    left_out: int


def align(
    model: SafeSignalModel,
    config: AlignConfig,
    data: Sequence[str | Path],
    output: str | Path,
    *,
    data_dir: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> AlignResult:
    """Train a model's signal and save the adapter.

    Args:
        model: From :meth:`SafeSignalModel.from_base`; trained in place.
        config: Settings.
        data: JSONL files of records, rollouts among them.
        output: Adapter folder; checkpoints go to its `training` sub-folder, and a run found there is resumed.
        data_dir: Folder of local copies of the registered sources.
        report: Called after every step.
        log: Called with one line per stage.

    Raises:
        DataError: If no row can be trained or calibrated on.
    """
    begun, folder = time.perf_counter(), Path(output)
    _refuse_eval_files(data)
    records = [record for path in data for record in read_records(path, require=())]
    mixture = load_mixture(config, data_dir, records)
    train_rows, val_rows = split_by_prompt(mixture, config.val_fraction, SPLIT_SEED)
    if not train_rows or not val_rows:
        raise DataError(
            f"{len(mixture)} rows gave {len(train_rows)} to train on and {len(val_rows)} to validate on. "
            "Expected some of both.",
            hint="give more rows with different prompts, or another `val_fraction`",
        )
    foreign = sum(record.licence not in config.licences for record in records)
    train, left_out = encode_examples(model, train_rows, config)
    val, _ = encode_examples(model, val_rows, config)
    val = _thinned(val, config.val_rows)
    answers = _calibration_answers(model, records, val, config)
    lookalikes = _job_answers(model, records, config.lookalike_job, config)
    calibration_rows = f"{len(answers)} calibration answers and {len(lookalikes)} to look-alikes"
    log(f"{len(train)} training rows, {len(val)} validation rows, {calibration_rows}")
    log(f"left out: {left_out} too long or unlabelled, {foreign} of other licences")

    _write_prompts(folder / _WORK, train, val, records, config)
    trainer = Trainer(model, config, train, val, folder / _WORK)
    trainer.run(report)
    _round_to_half(model)
    metrics = validate(model, val, config)
    log(f"saved weights: {metrics.as_dict()}")
    calibration = calibrate(
        model, answers, config.target_fpr, lookalikes=lookalikes, lookalike_fpr=config.lookalike_fpr
    )
    model.config = replace(model.config, presets=calibration.presets)
    model.training_record = _record(config, train, val, data, metrics, trainer.history, time.perf_counter() - begun)
    model.training_record["lookalikes"] = {"n": calibration.n_lookalikes, "measured_fpr": calibration.lookalikes}
    if trainer.accelerator.is_main_process:
        model.save_pretrained(folder)
    return AlignResult(metrics, calibration, time.perf_counter() - begun, left_out)


def _refuse_eval_files(data: Sequence[str | Path]) -> None:
    reserved = {source.local_file for source in SOURCES.values() if source.role == "eval"}
    for path in data:
        if Path(path).name in reserved:
            raise DataError(
                f"`{path}` is an evaluation set. Expected training rows.",
                hint="a figure measured on rows that were trained on says nothing",
            )


def _write_prompts(
    folder: Path, train: Sequence[Example], val: Sequence[Example], records: Sequence[Record], config: AlignConfig
) -> None:
    """Leave the prompts behind with their split, so that a rival can be trained on the very same ones."""
    calibration = [record for record in records if record.meta.get("job") == config.calibration_job]
    splits = (("train", [e.record for e in train]), ("val", [e.record for e in val]), ("calibration", calibration))
    seen: set[tuple[str, str]] = set()
    with Writer(folder / "prompts.jsonl", overwrite=True) as writer:
        for split, rows in splits:
            for record in rows:
                if record.prompt_label is not None and (split, record.prompt) not in seen:
                    seen.add((split, record.prompt))
                    row = {"id": f"{split}/{record.id}", "prompt": record.prompt, "prompt_label": record.prompt_label}
                    writer.write(row | {"split": split, "source": record.source})


def _thinned(val: Sequence[Example], most: int) -> list[Example]:
    """Take at most `most` examples, chosen by their ids so that adding rows moves few of them."""
    ordered = sorted(val, key=lambda example: hashlib.sha256(example.record.id.encode()).hexdigest())
    return ordered[:most]


def _calibration_answers(
    model: SafeSignalModel, records: Sequence[Record], val: Sequence[Example], config: AlignConfig
) -> list[Encoded]:
    """Return the calibration job's answers; without one, the benign answers of the validation split."""
    if found := _job_answers(model, records, config.calibration_job, config):
        return found
    return [e.encoded for e in val if e.prompt_is_malicious is False and e.response_is_malicious is False]


def _job_answers(model: SafeSignalModel, records: Sequence[Record], job: str, config: AlignConfig) -> list[Encoded]:
    """Return the benign answers of a rollout job, all to prompts of the validation split."""
    own = [r for r in records if r.meta.get("job") == job and r.response_label == "benign"]
    _, kept = split_by_prompt(own, config.val_fraction, SPLIT_SEED)
    if len(kept) < len(own):
        raise DataError(
            f"{len(own) - len(kept)} rows of job `{job}` have prompts of the training split. "
            "Expected validation prompts.",
            hint='make them with `split = "val"` in the plan, and keep `val_fraction`',
        )
    return [model.encode_one(r.chat(), r.prefill + (r.response or "")) for r in own]


def _round_to_half(model: SafeSignalModel) -> None:
    """Bring the adapter to the precision it is saved in, so that thresholds are calibrated on what will be loaded."""
    adapter = model.forward_signal.adapter
    for parameter in adapter.parameters():
        parameter.data = parameter.data.to(torch.float16).to(parameter.dtype)
    adapter.requires_grad_(False)
    model.trained_signal = True


def _record(
    config: AlignConfig,
    train: Sequence[Example],
    val: Sequence[Example],
    data: Sequence[str | Path],
    metrics: Metrics,
    history: Sequence[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Write down everything a stranger needs to know how these weights came to be."""
    return {
        "settings": asdict(config),
        "files": {Path(path).name: hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in data},
        "rows_by_source": dict(sorted(Counter(e.record.source for e in train).items())),
        "rows_by_licence": dict(sorted(Counter(e.record.licence for e in train).items())),
        "rows_by_label": dict(sorted(Counter(_label_of(e) for e in train).items())),
        "train_rows": len(train),
        "val_rows": len(val),
        "val_metrics": metrics.as_dict(),
        "history": list(history),
        "seconds": round(seconds, 1),
        "environment": environment(),
    }


def _label_of(example: Example) -> str:
    return f"{example.record.prompt_label or 'unlabelled'} prompt, {example.record.response_label} answer"
