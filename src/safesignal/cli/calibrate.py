"""`safesignal calibrate`: new thresholds for an adapter, from one's own answers or for another schedule."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Table

from safesignal.cli.align import check_output
from safesignal.cli.arguments import option, together
from safesignal.cli.console import note, out, waiting
from safesignal.cli.options import ModelOptions
from safesignal.config import SignalConfig
from safesignal.data.records import Record, read_records
from safesignal.data.sources import refuse_eval_files
from safesignal.errors import SignalError, UsageError
from safesignal.files import digests
from safesignal.rules import Policy, parse_schedule, validate_policy

if TYPE_CHECKING:
    from safesignal.align.calibrate import Calibration
    from safesignal.align.config import AlignConfig

__all__ = ["calibrate"]

_IO, _BUDGET = "Input and output", "Budgets"


def calibrate(
    model: ModelOptions,
    data: Annotated[
        list[str],
        option("data", "JSONL of benign answers as your model gives them (`rollouts` makes them); repeat.", _IO),
    ],
    output: Annotated[str, option("output", "Folder of the adapter with the new thresholds.", _IO)],
    lookalikes: Annotated[
        list[str] | None, option("lookalikes", "The same to benign prompts that sound harmful; repeat.", _IO)
    ] = None,
    config: Annotated[
        str | None,
        option(
            "config",
            "Recipe file: budgets, jobs of [align]; r1-r3, schedule, tau, suspicion, surprise of [signal].",
            _IO,
        ),
    ] = None,
    target_fpr: Annotated[
        list[str] | None,
        option("target_fpr", "Share of the answers a preset may refuse, as balanced=0.02; repeat.", _BUDGET),
    ] = None,
    lookalike_fpr: Annotated[
        list[str] | None, option("lookalike_fpr", "The same of the answers to look-alikes; repeat.", _BUDGET)
    ] = None,
) -> None:
    """Choose an adapter's thresholds anew, on your own benign answers or for another schedule; nothing is trained."""
    from safesignal.align.calibrate import require_answers
    from safesignal.align.config import AlignConfig, read_align_config
    from safesignal.align.thresholds import answers_among, operating, recalibrate, require_lookalikes

    own = model.signal_config()
    if own is None:
        raise SignalError(
            f"no adapter is shipped for `{model.model}`, so there are no thresholds to choose. Expected one.",
            hint="name yours with `--adapter`",
        )
    settings, signal = read_align_config(config) if config is not None else (AlignConfig(), {})
    settings = replace(
        settings,
        target_fpr=settings.target_fpr | _shares("target_fpr", target_fpr),
        lookalike_fpr=settings.lookalike_fpr | _shares("lookalike_fpr", lookalike_fpr),
    )
    wanted = operating(own, signal)
    files = [*data, *(lookalikes or [])]
    together(
        model.check,
        partial(_check_rules, wanted),
        partial(refuse_eval_files, files),
        *(partial(read_records, path, require=()) for path in files),
        partial(_check_place, output),
    )
    rows, alike = _read(data), _read(lookalikes or [])
    answers = answers_among(rows, settings.calibration_job, settings)
    alike = alike or [row for row in rows if row.meta.get("job") == settings.lookalike_job]
    others = answers_among(alike, settings.lookalike_job, settings)
    require_answers(answers)
    require_lookalikes(others, settings, asked=bool(lookalikes))
    loaded = model.load()
    loaded.config = wanted
    with waiting(f"reading {len(answers)} answers and {len(others)} to look-alikes …"):
        found = recalibrate(loaded, answers, others, settings)
    loaded.training_record |= {"calibrated": _record(files, found, settings)}
    loaded.save_pretrained(output)
    out.print(_table(found))
    note(f"saved in {output}; `--adapter {output}` uses it")


def _shares(name: str, given: list[str] | None) -> dict[str, float]:
    """Read `PRESET=SHARE` options."""
    found: dict[str, float] = {}
    for text in given or []:
        preset, _, share = text.partition("=")
        try:
            found[preset] = float(share)
        except ValueError:
            found[preset] = -1.0
        if not 0 < found[preset] < 1:
            raise UsageError(f"{name} is `{text}`. Expected PRESET=SHARE with a share between 0 and 1: balanced=0.02.")
    return found


def _check_rules(config: SignalConfig) -> None:
    policy = Policy(tau=config.tau, **config.rules())
    validate_policy(policy, parse_schedule(config.schedule))


def _check_place(output: str) -> None:
    from safesignal.modeling.adapter_io import CONFIG_FILE

    if (Path(output) / CONFIG_FILE).exists():
        raise UsageError(f"`{output}` holds an adapter. Expected a folder without one.", hint="another `--output`")
    check_output(output)


def _read(paths: list[str]) -> list[Record]:
    return [record for path in paths for record in read_records(path, require=())]


def _record(paths: list[str], found: Calibration, settings: AlignConfig) -> dict[str, Any]:
    from safesignal.runtime import environment

    return {
        "files": digests(paths),
        "answers": found.n,
        "lookalikes": {"n": found.n_lookalikes, "measured_fpr": found.lookalikes},
        "lookalike_fpr": settings.lookalike_fpr,
        "environment": environment(),
    }


def _table(found: Calibration) -> Table:
    table = Table("preset", "query", "window", "budget", f"refused of {found.n}", box=None, pad_edge=False)
    if found.n_lookalikes:
        table.add_column(f"of {found.n_lookalikes} look-alikes")
    for name, point in found.presets.items():
        alike = [f"{100 * found.lookalikes[name]:.1f} %"] if found.n_lookalikes else []
        shares = [f"{100 * (point.target_fpr or 0):.1f} %", f"{100 * (point.measured_fpr or 0):.1f} %"]
        table.add_row(name, f"{point.prompt:.4f}", f"{point.window:.4f}", *shares, *alike)
    return table
