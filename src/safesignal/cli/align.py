"""`safesignal align`: train a signal for a base model and save it as an adapter."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.progress import Progress as Bar
from rich.progress import TaskID

from safesignal.cli.arguments import flag, option, together
from safesignal.cli.console import note, progress
from safesignal.cli.options import BaseOptions
from safesignal.config import SignalConfig
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.align.config import AlignConfig
    from safesignal.align.trainer import Progress

__all__ = ["TrainingOptions", "align"]

_IO, _TRAINING = "Input and output", "Training (over the recipe file)"


@dataclass(frozen=True)
class TrainingOptions:
    """Settings that take the place of the recipe file's."""

    recipe: Annotated[str, option("recipe", "gated: the base stays frozen.", _TRAINING)] = "gated"
    epochs: Annotated[float | None, option("epochs", "Passes over the rows.", _TRAINING)] = None
    learning_rate: Annotated[float | None, option("learning_rate", "Peak learning rate.", _TRAINING)] = None
    batch_size: Annotated[int | None, option("batch_size", "Rows per step and process.", _TRAINING)] = None
    seed: Annotated[int | None, option("seed", "Of data, order, spans and first weights.", _TRAINING)] = None

    def given(self) -> dict[str, Any]:
        """Return the fields of :class:`AlignConfig` that were set."""
        values = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_size", "seed")}
        return {name: value for name, value in values.items() if value is not None}


def align(
    model: BaseOptions,
    training: TrainingOptions,
    output: Annotated[str, option("output", "Adapter folder; a run that was cut short there goes on.", _IO)],
    data: Annotated[
        list[str] | None, option("data", "JSONL of labelled rows, rollouts too; repeat for more.", _IO)
    ] = None,
    config: Annotated[str | None, option("config", "TOML file with align and signal tables.", _IO)] = None,
    data_dir: Annotated[str | None, option("data_dir", "Folder of the training sets.", _IO, show_default="hub")] = None,
    dry_run: Annotated[bool, flag("dry_run", "Check settings and rows, train nothing.", _IO)] = False,
) -> None:
    """Train the signal on labelled rows; the base model stays as it is."""
    settings, signal = _settings(config, training)
    together(model.check, partial(_check_data, data or [], settings), partial(_check_output, output))
    if dry_run:
        note("settings and rows are in order; nothing was trained")
        return
    from safesignal.align.run import align as run

    loaded = model.load_base(signal, settings.seed)
    first = os.environ.get("RANK", "0") == "0"
    with progress() as bar:
        bar.disable = not first
        report = _Report(bar, bar.add_task("training", total=None))
        log = note if first else _silent
        result = run(loaded, settings, data or [], output, data_dir=data_dir, report=report, log=log)
    if first:
        note(f"adapter saved in {output} after {result.seconds / 60:.1f} min; `--adapter {output}` uses it")


def _settings(config: str | None, training: TrainingOptions) -> tuple[AlignConfig, SignalConfig]:
    """Read the recipe file and put the options over it."""
    from safesignal.align.config import AlignConfig, read_align_config

    settings, signal = read_align_config(config) if config is not None else (AlignConfig(), {})
    known = {field.name for field in fields(SignalConfig)}
    unknown = sorted(set(signal) - known)
    if unknown:
        raise UsageError(f"signal.{unknown[0]} in {config} is unknown. Expected some of {', '.join(sorted(known))}.")
    chosen: dict[str, Any] = {"recipe": training.recipe} | signal
    if "targets" in chosen:
        chosen["targets"] = tuple(chosen["targets"])
    return replace(settings, **training.given()), SignalConfig(**chosen)


def _check_data(data: list[str], settings: AlignConfig) -> None:
    from safesignal.data.records import read_records

    if not data and not settings.mixture:
        raise UsageError(
            "there is nothing to train on. Expected `--data`, or a `--config` with a mixture.",
            hint="`--data rows.jsonl` with prompt, response, prompt_label, response_label",
        )
    together(*(partial(read_records, path, require=()) for path in data))


def _check_output(output: str) -> None:
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
            seen = at.metrics
            note(
                f"step {at.step}  validation loss {seen.loss:.3f}  prompts: accuracy {seen.prompt_accuracy:.3f}, AUC "
                f"{seen.prompt_auc:.3f}  windows: accuracy {seen.window_accuracy:.3f}, AUC {seen.window_auc:.3f}"
            )


def _silent(_: str) -> None:
    """Say nothing: only the first process speaks."""
