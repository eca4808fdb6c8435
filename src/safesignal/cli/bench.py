"""`safesignal bench`: what checks cost on this machine."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from safesignal.cli.arguments import option, require_at_least_one, together
from safesignal.cli.console import note, out, waiting
from safesignal.cli.options import ModelOptions
from safesignal.errors import UsageError
from safesignal.files import write_json

if TYPE_CHECKING:
    from safesignal.evals.bench import BenchRow

__all__ = ["bench"]

_GRID = "Grid"


def bench(
    model: ModelOptions,
    what: Annotated[str, typer.Argument(help="What to time: decode.")] = "decode",
    batch_sizes: Annotated[str, option("batch_sizes", "Rows written side by side, comma-separated.", _GRID)] = "1,8",
    contexts: Annotated[str, option("contexts", "Prompt tokens, comma-separated.", _GRID)] = "128,1024",
    new_tokens: Annotated[int, option("new_tokens", "Tokens per row and repetition.", _GRID)] = 64,
    repeats: Annotated[int, option("repeats", "Repetitions; all variants take turns in each.", _GRID)] = 5,
    output: Annotated[str | None, option("output", "JSON file for the figures.", _GRID)] = None,
) -> None:
    """Time per token, checks off, every token, periodic and annealing, fused, separate and all read anew, in turn."""
    if what != "decode":
        raise UsageError(f"what is `{what}`. Expected decode.")
    together(
        model.check,
        partial(_numbers, "batch_sizes", batch_sizes),
        partial(_numbers, "contexts", contexts),
        partial(require_at_least_one, new_tokens, "new_tokens"),
        partial(require_at_least_one, repeats, "repeats"),
    )
    from safesignal.evals.bench import BenchConfig, bench_decode

    config = BenchConfig(_numbers("batch_sizes", batch_sizes), _numbers("contexts", contexts), new_tokens, repeats)
    loaded = model.load()
    with waiting("timing …"):
        rows = bench_decode(loaded, config, progress=note)
    out.print(_table(rows))
    if output is not None:
        _write(output, rows)


def _table(rows: list[BenchRow]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("context", "batch", "checks", "ms/token", "fastest–slowest", "extra", "first token ms", "peak MiB"):
        table.add_column(column, justify="left" if column == "checks" else "right")
    last = rows[-1].variant  # of each cell
    for row in rows:
        table.add_row(
            str(row.context),
            str(row.batch),
            row.variant,
            f"{row.milliseconds:.1f}",
            f"{row.low:.1f}–{row.high:.1f}",
            f"{row.extra:+.1%}",
            f"{row.first:.0f}",
            f"{row.peak / 2**20:.0f}",
            end_section=last == row.variant,
        )
    return table


def _numbers(name: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{name} is `{text}`. Expected numbers above 0, separated by commas.", hint=f"`--{name} 1,8`")
    return tuple(int(part) for part in parts)


def _write(path: str, rows: list[BenchRow]) -> None:
    from safesignal.runtime import environment

    write_json(path, {"environment": environment(), "rows": [asdict(row) for row in rows]})
