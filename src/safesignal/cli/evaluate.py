"""`safesignal evaluate`: run a suite of measurements and print its rates with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from rich import box
from rich.progress import TaskID
from rich.table import Table

from safesignal.cli.arguments import flag, option, require_at_least_one, together
from safesignal.cli.console import note, out, progress
from safesignal.cli.options import ModelOptions
from safesignal.errors import UsageError

__all__ = ["evaluate"]

_IO, _SIZE = "Input and output", "Size"
_ERRORED = 3


@dataclass(frozen=True)
class SizeOptions:
    """How much to measure."""

    limit: Annotated[int, option("limit", "Rows of each generated part.", _SIZE)] = 200
    scored_limit: Annotated[int, option("scored_limit", "Rows of each scored part.", _SIZE)] = 400
    max_new_tokens: Annotated[int, option("max_new_tokens", "Length of an answer.", _SIZE)] = 256
    batch_size: Annotated[int, option("batch_size", "Rows written side by side.", _SIZE)] = 16
    preset: Annotated[str, option("preset", "Operating point: strict, balanced, permissive.", _SIZE)] = "balanced"

    def check(self) -> None:
        """Raise what would leave nothing to do."""
        together(partial(require_at_least_one, self.batch_size), partial(require_at_least_one, self.limit))


def evaluate(
    model: ModelOptions,
    size: SizeOptions,
    output_dir: Annotated[str, option("output_dir", "Folder of the results; a run found there goes on.", _IO)],
    suite: Annotated[str, option("suite", "Which measurements: acceptance.", _IO)] = "acceptance",
    data_dir: Annotated[str | None, option("data_dir", "Folder of the public sets.", _IO, show_default="hub")] = None,
    train_prompts: Annotated[
        str | None, option("train_prompts", "The adapter's training/prompts.jsonl, to fit the text rival on.", _IO)
    ] = None,
    allow_errors: Annotated[bool, flag("allow_errors", "Print rates although attempts errored.", _IO)] = False,
) -> int:
    """Measure the guarded model; rates carry 95 % Wilson intervals."""
    if suite != "acceptance":
        raise UsageError(f"suite is `{suite}`. Expected acceptance.")
    together(model.check, size.check)
    from safesignal.evals.acceptance import AcceptanceConfig, run_acceptance

    config = AcceptanceConfig(data_dir=data_dir, **asdict(size))
    loaded = model.load()
    with progress() as bar:
        lines: dict[str, TaskID] = {}

        def show(part: str, done: int, total: int) -> None:
            if part not in lines:
                lines[part] = bar.add_task(part, total=total)
            bar.update(lines[part], completed=done)

        results = run_acceptance(loaded, config, output_dir, train_prompts=train_prompts, progress=show)
    errored = sum(part["errored"] for part in results["summary"].values())
    if errored and not allow_errors:
        note(f"{errored} attempts errored, so no rate is printed; see {output_dir}/attempts.jsonl, or `--allow_errors`")
        return _ERRORED
    out.print(_table(results))
    note(f"results in {Path(output_dir) / 'results.json'}")
    return _ERRORED if errored else 0


def _table(results: dict[str, Any]) -> Table:
    thresholds = results["thresholds"]
    title = f"{results['model']}, thresholds {thresholds['prompt']} (query) and {thresholds['window']} (windows)"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("measured", "rate [95 % interval] (count)", "goal"):
        table.add_column(column)
    for part in results["summary"].values():
        table.add_row(part["question"], part["text"], part["goal"])
    return table
