"""`safesignal data`: training rows from a recipe, and the public sets that recipes and suites name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from safesignal.cli.arguments import expand, flag, option, together
from safesignal.cli.console import note, out, waiting
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.data.records import Record

__all__ = ["build", "data", "list_sets"]

_IO = "Input and output"

data = typer.Typer(
    name="data", help="Training rows: mixed, cleared of duplicates, matched and varied; the public sets."
)


def build(
    recipe: Annotated[str, typer.Argument(help="YAML file that names the parts and what is done with them.")],
    output: Annotated[str, option("output", "JSONL file for the rows.", _IO)],
    data_dir: Annotated[str | None, option("data_dir", "Folder of the public sets.", _IO, show_default="hub")] = None,
    holdout_output: Annotated[
        str | None, option("holdout_output", "JSONL file for what the recipe holds out.", _IO)
    ] = None,
    report: Annotated[str | None, option("report", "JSON file for counts, drops and separability.", _IO)] = None,
    overwrite: Annotated[bool, flag("overwrite", "Replace output files that are there.", _IO)] = False,
) -> None:
    """Build training rows from a recipe; the same recipe, data and seed give the same bytes."""
    from safesignal.data.build.build import build as carry_out
    from safesignal.data.build.recipe import load_recipe

    targets = [path for path in (output, holdout_output, report) if path is not None]
    plan = load_recipe(recipe)
    holds_out = bool(plan.holdout.sources or plan.holdout.families)
    together(lambda: _require_free(targets, overwrite), lambda: _require_both(holds_out, holdout_output))
    with waiting(f"building {plan.name} …"):
        built = carry_out(plan, data_dir)
    _write_rows(output, built.rows)
    if holdout_output is not None:
        _write_rows(holdout_output, built.held_out)
    if report is not None:
        _write(report, json.dumps(built.report, indent=2, ensure_ascii=False) + "\n")
    _show(built.report)
    note(f"{len(built.rows)} rows in {output}" + (f", {len(built.held_out)} held out" if holds_out else ""))


def list_sets(
    data_dir: Annotated[str | None, option("data_dir", "Say which of their files are in this folder.", _IO)] = None,
) -> None:
    """List the public sets: name, role, licence, where each comes from, [its file in a data folder]."""
    from safesignal.data.catalog import SOURCES

    if data_dir is not None and not Path(data_dir).is_dir():
        raise UsageError(f"`{data_dir}` is no folder. Expected one with the sets' files.")
    for source in SOURCES.values():
        origin = source.published
        if source.hub_id is not None:
            terms = "(gated)" if source.gated else None
            origin = " ".join(filter(None, ("hub:", source.hub_id, source.hub_config, terms)))
        line = f"{source.name:<19}  {source.role:<5}  {source.licence:<13}  {origin}"
        if source.local_file is not None:
            there = data_dir is None or (Path(data_dir) / source.local_file).is_file()
            line += f"  [{source.local_file}{'' if there else ', missing'}]"
        out.print(line, soft_wrap=True, markup=False, highlight=False)


data.command("build")(expand(build))
data.command("list")(expand(list_sets))


@data.callback()
def _group() -> None:
    """Training rows: mixed, cleared of duplicates, matched and varied; the public sets."""


def _require_free(targets: list[str], overwrite: bool) -> None:
    if len({Path(target).resolve() for target in targets}) < len(targets):
        raise UsageError(f"two outputs have one name: {', '.join(targets)}. Expected a file for each.")
    there = [target for target in targets if Path(target).exists()]
    if there and not overwrite:
        raise UsageError(
            f"{', '.join(there)} exists. Expected new files.", hint="choose other names, or pass `--overwrite`"
        )


def _require_both(holds_out: bool, target: str | None) -> None:
    if holds_out != (target is not None):
        why = "holds rows out and has no file for them" if holds_out else "holds nothing out and got a file for it"
        raise UsageError(
            f"the recipe {why}. Expected `holdout` in the recipe and `--holdout_output`, or neither.",
            hint="`--holdout_output holdout.jsonl`" if holds_out else "leave `--holdout_output` out",
        )


def _write_rows(path: str, rows: Iterable[Record]) -> None:
    from safesignal.data.jsonl import Writer

    with Writer(path, overwrite=True) as writer:
        for row in rows:
            writer.write(row.to_row())


def _write(path: str, text: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"`{path}` cannot be written: {error.strerror}.", hint="choose another `--report`") from error


def _show(report: dict[str, Any]) -> None:
    """Print what became of each part, and how far the labels can be told apart by form and by words."""
    parts = Table(box=box.SIMPLE_HEAD)
    for column in ("part", "read", "drawn", "dropped"):
        parts.add_column(column, justify="right" if column in {"read", "drawn"} else "left")
    for name, part in report["parts"].items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in part["dropped"].items())
        parts.add_row(name, str(part["read"]), str(part["drawn"]), reasons)
    out.print(parts)
    areas = Table(box=box.SIMPLE_HEAD, title="AUC of telling the labels apart; 0.5 is chance", title_justify="left")
    for column in ("rows", "n", "malicious", "by form", "by words"):
        areas.add_column(column, justify="left" if column == "rows" else "right")
    for name, found in report["separability"].items():
        shown = [f"{found[kind]:.3f}" if found[kind] is not None else "–" for kind in ("form", "words")]
        areas.add_row(name, str(found["rows"]), str(found["malicious"]), *shown)
        if "why" in found:
            note(f"{name}: not measured, {found['why']}")
    out.print(areas)
