"""`safesignal align`: train a signal for a base model and save it as an adapter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.progress import Progress as Bar
from rich.progress import TaskID

from safesignal.cli.arguments import flag, option, together
from safesignal.cli.console import note, out, progress, quiet_libraries, waiting
from safesignal.cli.options import BaseOptions
from safesignal.config import SignalConfig
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.align.config import AlignConfig
    from safesignal.align.memory import ModelShape
    from safesignal.align.recipe import Recipe
    from safesignal.align.trainer import Progress
    from safesignal.data.records import Record

__all__ = ["TrainingOptions", "align", "check_data", "check_output"]

_IO, _TRAINING = "Input and output", "Training (over the recipe file)"
_SIGNAL = ("position", "cls_spans", "reader_rank", "answer_reader_rank")
"""Options that belong to the signal, not to the run."""
_WITH_SIGNAL = ("gated", "joint", "pretrain")


@dataclass(frozen=True)
class TrainingOptions:
    """Settings that take the place of the recipe file's."""

    recipe: Annotated[
        str | None,
        option(
            "recipe",
            "gated (base frozen), joint, pretrain (paper), sft, augment (baselines).",
            _TRAINING,
            show_default="gated",
        ),
    ] = None
    epochs: Annotated[float | None, option("epochs", "Passes over the rows.", _TRAINING)] = None
    max_steps: Annotated[int | None, option("max_steps", "Most steps, whatever the passes.", _TRAINING)] = None
    learning_rate: Annotated[float | None, option("learning_rate", "Peak learning rate.", _TRAINING)] = None
    batch_size: Annotated[int | None, option("batch_size", "Rows per forward pass and process.", _TRAINING)] = None
    accumulation: Annotated[int | None, option("accumulation", "Forward passes per step.", _TRAINING)] = None
    tuning: Annotated[str | None, option("tuning", "lora or full: what of the base is trained.", _TRAINING)] = None
    lambda_cls: Annotated[float | None, option("lambda_cls", "Weight of L_cls (λ1, λ2).", _TRAINING)] = None
    start: Annotated[
        str | None, option("start", "Pretrain run that joint, or adapter that gated goes on from.", _TRAINING)
    ] = None
    precision: Annotated[str | None, option("precision", "fp32 or bf16.", _TRAINING)] = None
    activation_checkpointing: Annotated[
        bool, flag("activation_checkpointing", "Less memory, about a third more time.", _TRAINING)
    ] = False
    text_store: Annotated[
        bool, flag("text_store", "gated: keep on disk what the base makes of the texts.", _TRAINING)
    ] = False
    shard: Annotated[bool, flag("shard", "Split the model over the processes.", _TRAINING)] = False
    position: Annotated[str | None, option("position", "Of [CLS]: tracking or first.", _TRAINING)] = None
    cls_spans: Annotated[
        str | None, option("cls_spans", "What [CLS] sees in joint training: query or inference.", _TRAINING)
    ] = None
    reader_rank: Annotated[
        int | None,
        option(
            "reader_rank", "gated: rank of a reader of queries, 16 in what ships.", _TRAINING, show_default="0: none"
        ),
    ] = None
    answer_reader_rank: Annotated[
        int | None,
        option(
            "answer_reader_rank",
            "gated: rank of a reader of answers, 16 in what ships.",
            _TRAINING,
            show_default="0: none",
        ),
    ] = None
    read_answers: Annotated[
        bool, flag("read_answers", "gated: train the reader of answers alone, after --start.", _TRAINING)
    ] = False
    seed: Annotated[int | None, option("seed", "Of data, order, spans and first weights.", _TRAINING)] = None

    def given(self) -> dict[str, Any]:
        """Return the fields of :class:`AlignConfig` that were set."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _SIGNAL}
        return {name: value for name, value in values.items() if value is not None and value is not False}

    def signal(self) -> dict[str, Any]:
        """Return the fields of :class:`SignalConfig` that were set."""
        return {name: getattr(self, name) for name in _SIGNAL if getattr(self, name) is not None}


def align(
    model: BaseOptions,
    training: TrainingOptions,
    output: Annotated[str, option("output", "Folder of the result; a run that was cut short there goes on.", _IO)],
    data: Annotated[
        list[str] | None, option("data", "JSONL of labelled rows, rollouts too; repeat for more.", _IO)
    ] = None,
    config: Annotated[str | None, option("config", "TOML file with align and signal tables.", _IO)] = None,
    data_dir: Annotated[str | None, option("data_dir", "Folder of the training sets.", _IO, show_default="hub")] = None,
    dry_run: Annotated[bool, flag("dry_run", "Check settings and rows, train nothing.", _IO)] = False,
) -> None:
    """Train a signal, or a baseline without one, on labelled rows; the gated recipe leaves the base as it is."""
    settings, signal = _settings(config, training)
    together(
        model.check,
        partial(check_data, data or [], settings),
        partial(check_start, settings),
        partial(check_output, output),
    )
    shape = _shape(config)
    if dry_run:
        _say_expected(shape, settings)
        from safesignal.data.records import read_records

        counts = _labels(record for path in data or [] for record in read_records(path, require=()))
        rows = f"{counts['malicious prompts']} rows have malicious prompts, {counts['benign prompts']} benign ones; "
        note(f"{rows if data else ''}settings are in order, and nothing was trained")
        return
    if model.model is None and shape is not None:
        model = replace(model, model=shape.name)
    first = os.environ.get("RANK", "0") == "0"
    recipe = _load(model, settings, signal)
    from safesignal.align.parallel import leave
    from safesignal.align.run import align as run

    with progress() as bar:
        bar.disable = not first
        report = _Report(bar, bar.add_task("training", total=None))
        log = note if first else _silent
        result = run(recipe, data or [], output, data_dir=data_dir, report=report, log=log)
    leave()
    if first:
        guarded = settings.recipe in _WITH_SIGNAL
        use = f"`--adapter {output}` uses it" if guarded else f"`--model {output}` uses it"
        note(f"saved in {output} after {result.seconds / 60:.1f} min; {use}")


def _shape(config: str | None) -> ModelShape | None:
    """Return the model that the recipe file describes, if it does."""
    from safesignal.align.config import read_recipe
    from safesignal.align.memory import ModelShape

    table = read_recipe(config).get("model") if config is not None else None
    return None if table is None else ModelShape.from_table(table)


def _say_expected(shape: ModelShape | None, settings: AlignConfig) -> None:
    if shape is not None:
        from safesignal.align.memory import report_lines

        out.print("\n".join(report_lines(shape, settings)), highlight=False)


def _load(model: BaseOptions, settings: AlignConfig, signal: SignalConfig) -> Recipe:
    name = model.model or "smollm2"
    with waiting(f"loading {name} …"):
        quiet_libraries()
        from safesignal.align.registry import recipe_class

        how, frozen = model.how(), settings.recipe == "gated" or settings.tuning == "lora"
        if frozen and settings.precision == "bf16" and model.dtype == "auto":
            how["dtype"] = "bfloat16"  # a checkpoint in fp16 would carry fp32 between its layers under autocast
        return recipe_class(settings.recipe).from_base(name, settings, signal, **how)


def _settings(config: str | None, training: TrainingOptions) -> tuple[AlignConfig, SignalConfig]:
    """Read the recipe file and put the options over it."""
    from safesignal.align.config import AlignConfig, read_align_config

    settings, signal = read_align_config(config) if config is not None else (AlignConfig(), {})
    chosen: dict[str, Any] = signal | training.signal()
    known = {field.name for field in fields(SignalConfig)}
    unknown = sorted(set(chosen) - known)
    if unknown:
        raise UsageError(f"signal.{unknown[0]} is unknown. Expected some of {', '.join(sorted(known))}.")
    settings = replace(settings, **training.given())
    if settings.recipe in ("joint", "pretrain"):
        chosen["recipe"] = "joint"
    if "targets" in chosen:
        chosen["targets"] = tuple(chosen["targets"])
    return settings, SignalConfig(**chosen)


def check_data(data: list[str], settings: AlignConfig) -> None:
    """Raise unless there are rows to train on, and every given file holds rows and is no evaluation set."""
    from safesignal.data.jsonl import require_file
    from safesignal.data.records import read_records
    from safesignal.data.sources import refuse_eval_files

    if not data and not settings.mixture:
        raise UsageError(
            "there is nothing to train on. Expected `--data`, or a `--config` with a mixture.",
            hint="`--data rows.jsonl` with prompt, response, prompt_label, response_label",
        )
    records: list[Record] = []

    def read(path: str) -> None:
        require_file(path)
        records.extend(read_records(path, require=()))

    together(partial(refuse_eval_files, data), *(partial(read, path) for path in data))
    if settings.recipe in _WITH_SIGNAL and not settings.mixture:
        counts = _labels(records)
        if settings.read_answers:
            counts = Counter(map(_answer_label, records))
        if not counts["malicious"] or not counts["benign"]:
            raise UsageError(
                f"the rows have {counts['malicious']} malicious labels and {counts['benign']} benign ones. "
                f"Expected some of both, for {'responses' if settings.read_answers else 'prompts or responses'}.",
                hint="`prompt_label` and `response_label` are `benign`, `malicious` or `refusal`",
            )


def check_start(settings: AlignConfig) -> None:
    """Raise unless what this run goes on from is there."""
    if not settings.start or Path(settings.start).is_dir():
        return
    if settings.recipe == "gated":
        from safesignal.modeling.adapter_io import shipped_adapter

        if shipped_adapter(settings.start) is None:
            raise UsageError(
                f"align.start = {settings.start} is no folder and no model that an adapter ships for. "
                "Expected a gated adapter.",
                hint="`--start smollm2`, or leave it out to begin anew",
            )
        return
    raise UsageError(
        f"align.start = {settings.start} is no folder. Expected a finished pretraining run.",
        hint="`safesignal align --recipe pretrain` makes one",
    )


def _labels(records: Iterable[Record]) -> Counter[str]:
    """Count the labels of all rows: of prompts, of responses (a refusal is a benign one), and rows by prompt label."""
    found: Counter[str] = Counter()
    for record in records:
        found.update([str(record.prompt_label), _answer_label(record), f"{record.prompt_label} prompts"])
    return found


def _answer_label(record: Record) -> str:
    return {"refusal": "benign"}.get(record.response_label, record.response_label)


def check_output(output: str) -> None:
    """Raise unless the folder of the result can be written."""
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the adapter folder `{output}` cannot be written: {error.strerror}. Expected a folder.",
            hint="choose another `--output`",
        ) from error


class _Report:
    """Moves the progress bar and prints validation figures above it."""

    def __init__(self, bar: Bar, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def __call__(self, at: Progress) -> None:
        self._bar.update(self._task, completed=at.step, total=at.steps, description=f"training  loss {at.loss:.3f}")
        if at.metrics is not None:
            note(f"step {at.step}  {at.metrics}")


def _silent(_: str) -> None:
    """Say nothing: only the first process speaks."""
