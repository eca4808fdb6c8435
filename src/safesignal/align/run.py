"""One run from files to a saved model: data, training, saved precision, thresholds where there is a signal, record."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from safesignal.align.calibrate import Calibration
from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example, load_mixture
from safesignal.align.recipe import Figures, Recipe, Rows
from safesignal.align.thresholds import check_jobs, require_enough
from safesignal.align.trainer import Progress, Trainer
from safesignal.data.jsonl import Writer
from safesignal.data.mixture import SPLIT_SEED, split_by_prompt
from safesignal.data.records import Record, read_records
from safesignal.data.sources import refuse_eval_files
from safesignal.errors import DataError
from safesignal.files import digests
from safesignal.runtime import environment

__all__ = ["AlignResult", "align"]

_WORK = "training"


@dataclass(frozen=True, slots=True)
class AlignResult:
    """What an alignment came to.

    Attributes:
        metrics: Validation figures of the saved weights.
        calibration: Thresholds and what they did on the calibration answers; None without a signal.
        seconds: Training and calibration.
        left_out: Rows too long, without a label, or torn between two.
    """

    metrics: Figures
    calibration: Calibration | None
    seconds: float
    left_out: int


def align(
    recipe: Recipe,
    data: Sequence[str | Path],
    output: str | Path,
    *,
    data_dir: str | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    log: Callable[[str], None] = lambda _: None,
) -> AlignResult:
    """Train by a recipe and save what came of it.

    Args:
        recipe: From its `from_base`; its model is trained in place.
        data: JSONL files of records, rollouts among them.
        output: Folder of the trained model or adapter; checkpoints go to its `training` sub-folder, and a run found
            there is resumed.
        data_dir: Folder of local copies of the registered sources.
        report: Called after every step.
        log: Called with one line per stage.

    Raises:
        DataError: If no row can be trained or calibrated on.
    """
    begun, folder, config = time.perf_counter(), Path(output), recipe.config
    refuse_eval_files(data)
    records = [record for path in data for record in read_records(path, require=())]
    mixture = load_mixture(config, data_dir, records)
    train_rows, val_rows = split_by_prompt(mixture, config.val_fraction, SPLIT_SEED)
    foreign = sum(record.licence not in config.licences for record in records)
    if not train_rows or not val_rows:
        raise _no_rows(len(train_rows), len(val_rows), foreign, config)
    jobs = check_jobs(records, config)
    train, left_out = recipe.encode(train_rows)
    val = _thinned(recipe.encode(val_rows)[0], config.val_rows)
    log(f"{len(train)} training rows, {len(val)} validation rows")
    if config.recipe in ("gated", "joint"):
        log(f"{require_enough(jobs, val, config)}, {jobs[config.lookalike_job]} answers to look-alikes")
    log(f"left out: {left_out} too long, unlabelled or torn between labels, {foreign} of other licences")

    trainer = Trainer(recipe, train, val, folder / _WORK)
    if trainer.steps < config.max_steps:
        log(f"the rows end after {trainer.steps} steps, fewer than max_steps = {config.max_steps}")
    recipe.prepare([*train, *val], folder / _WORK)
    if trainer.accelerator.is_main_process:
        _write_prompts(folder / _WORK, train, val, records, config)
    trainer.run(report)
    finished = trainer.finish(Rows(records, train, val), log)
    record = _record(config, trainer, data, finished.metrics, time.perf_counter() - begun)
    recipe.save(folder, record | dict(finished.record), write=trainer.accelerator.is_main_process)
    return AlignResult(finished.metrics, finished.calibration, time.perf_counter() - begun, left_out)


def _no_rows(train: int, val: int, foreign: int, config: AlignConfig) -> DataError:
    names = ", ".join(config.licences)
    others = f" {foreign} more rows of the files have another licence than {names}." if foreign else ""
    more = "give more rows with different prompts, or another `val_fraction`"
    licensed = "a row says its `licence`; `licences` in the recipe's `[align]` says which are trained on"
    return DataError(
        f"{train + val} rows gave {train} to train on and {val} to validate on.{others} Expected some of both.",
        hint=licensed if foreign else more,
    )


def _write_prompts(
    folder: Path, train: Sequence[Example], val: Sequence[Example], records: Sequence[Record], config: AlignConfig
) -> None:
    """Leave the prompts behind with their split, so that a rival can be trained on the very same ones.

    Rows of different files may share an id; here each has its own.
    """
    calibration = [record for record in records if record.meta.get("job") == config.calibration_job]
    splits = (("train", [e.record for e in train]), ("val", [e.record for e in val]), ("calibration", calibration))
    seen: set[tuple[str, str]] = set()
    ids: set[str] = set()
    with Writer(folder / "prompts.jsonl", overwrite=True) as writer:
        for split, rows in splits:
            for record in rows:
                if record.prompt_label is not None and (split, record.query) not in seen:
                    seen.add((split, record.query))
                    own = f"{split}/{record.id}"
                    name = next(n for n in chain([own], (f"{own}#{i}" for i in count(2))) if n not in ids)
                    ids.add(name)
                    asked = replace(record, id=name, response=None, response_label="none", prefill="")
                    writer.write(replace(asked, meta={"split": split}).to_row())


def _thinned(val: Sequence[Example], most: int) -> list[Example]:
    """Take at most `most` examples, chosen by their ids so that adding rows moves few of them."""
    ordered = sorted(val, key=lambda example: hashlib.sha256(example.record.id.encode()).hexdigest())
    return ordered[:most]


def _record(
    config: AlignConfig, trainer: Trainer, data: Sequence[str | Path], metrics: Figures, seconds: float
) -> dict[str, Any]:
    """Write down everything a stranger needs to know how these weights came to be."""
    train = trainer.train
    return {
        "settings": asdict(config.settled()),
        "files": digests(data),
        "rows_by_source": dict(sorted(Counter(e.record.source for e in train).items())),
        "rows_by_licence": dict(sorted(Counter(e.record.licence for e in train).items())),
        "rows_by_label": dict(sorted(Counter(_label_of(e) for e in train).items())),
        "train_rows": len(train),
        "val_rows": len(trainer.val),
        "val_metrics": metrics.as_dict(),
        "steps": trainer.step,
        "step_rows": trainer.rows,
        "history": list(trainer.history),
        "seconds": round(seconds, 1),
        "environment": environment(),
    }


def _label_of(example: Example) -> str:
    return f"{example.record.prompt_label or 'unlabelled'} prompt, {example.record.response_label} answer"
