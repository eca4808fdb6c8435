"""`safesignal report`: runs side by side, as Markdown and as one HTML page."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from safesignal.cli.arguments import flag, option
from safesignal.cli.console import INCOMPLETE, note, out
from safesignal.errors import UsageError

__all__ = ["report"]

_IO, _SHOWN = "Input and output", "What is shown"
_TRACES = 2


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders, in the order they are shown.", show_default=False)],
    output_dir: Annotated[str, option("output_dir", "Folder of report.md and report.html.", _IO)] = "runs/report",
    names: Annotated[
        str | None, option("names", "What to call the runs, as a,b.", _SHOWN, show_default="of the targets")
    ] = None,
    traces: Annotated[int, option("traces", "Attempts shown per run, cell and status; 0: none.", _SHOWN)] = _TRACES,
    goal: Annotated[
        list[str] | None, option("goal", "What a cell's rate should be, as 'prefill-text<5'; repeatable.", _SHOWN)
    ] = None,
    allow_errors: Annotated[bool, flag("allow_errors", "Show rates although attempts errored.", _SHOWN)] = False,
) -> int:
    """Write tables, charts and traces of one or more runs, from their files alone."""
    if traces < 0:
        raise UsageError(f"traces is {traces}. Expected 0 or more.")
    from safesignal.report.numbers import parse_goals
    from safesignal.report.write import write_report

    chosen = [name.strip() for name in names.split(",")] if names is not None else None
    written = write_report(
        runs,
        output_dir,
        names=chosen,
        traces=traces,
        allow_errors=allow_errors,
        goals=parse_goals(goal or []),
        command=_command(runs, output_dir, names, traces, goal or [], allow_errors),
    )
    for warning in written.warnings:
        note(f"note: {warning}")
    out.print(str(written.markdown), str(written.html), sep="\n", soft_wrap=True)
    return INCOMPLETE if written.errored and not allow_errors else 0


def _command(
    runs: list[str], output_dir: str, names: str | None, traces: int, goal: list[str], allow_errors: bool
) -> str:
    """Return what would make this report again."""
    words = ["safesignal", "report", *runs, "--output_dir", output_dir]
    words += ["--names", names] if names is not None else []
    words += ["--traces", str(traces)] if traces != _TRACES else []
    words += [word for text in goal for word in ("--goal", text)]
    return shlex.join(words + (["--allow_errors"] if allow_errors else []))
