"""A report as Markdown: its tables, without charts and texts of attempts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from safesignal.report.document import Cell, Section, Table

__all__ = ["markdown"]


def markdown(title: str, warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the whole report."""
    blocks = [f"# {_escaped(title)}"]
    if warnings:
        blocks.append("> **Read first**\n" + "\n".join(f"> * {_escaped(warning)}" for warning in warnings))
    for section in sections:
        blocks += _section(section)
    return "\n\n".join(blocks) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_escaped(section.title)}"
    if section.lead:
        yield _prose(section.lead)
    for part in section.parts:
        if isinstance(part, Table):
            yield f"**{_escaped(part.caption)}**"
            yield _table(part)
    if section.missing:
        yield f"*{_prose(section.missing)}*"


def _table(table: Table) -> str:
    columns = [_escaped(column) or " " for column in table.columns]
    lines = [columns, [_rule(table, place) for place in range(len(columns))]]
    lines += [[_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rule(table: Table, place: int) -> str:
    return "---:" if any(row[place].number for row in table.rows) else "---"


def _cell(cell: Cell) -> str:
    """Return a cell; figures are our own words, all else comes from files and is escaped."""
    return str(replace(cell, about=_escaped(cell.about))) if cell.number else _escaped(str(cell))


def _escaped(text: str) -> str:
    """Return text that Markdown takes literally, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def _prose(text: str) -> str:
    """Return our own words; code spans stay, but a path within one must not end it or the line."""
    return " ".join(text.split())
