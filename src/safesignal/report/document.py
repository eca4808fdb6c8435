"""What a report is made of, before it becomes Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

__all__ = ["Cell", "Figure", "Section", "Table"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure or word of a table.

    Attributes:
        text: The main part.
        detail: What must never be left out beside it, such as interval and counts.
        about: What it is a figure of, where that is a name from a file.
        tone: How it is set: empty, `muted`, `met` or `missed`.
        number: Whether it is set as a number.
    """

    text: str
    detail: str = ""
    tone: str = ""
    number: bool = True
    about: str = ""

    def __str__(self) -> str:
        """Return text, detail and name on one line."""
        return " ".join(part for part in (self.text, self.detail, self.about) if part)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Attributes:
        caption: What it shows, one line.
        columns: Headings; those of a run are that run's name.
        rows: As many cells each as there are columns.
        runs: Per column the run it belongs to, None for the others; may be shorter than `columns`.
        folded: Whether a page shows it on demand only.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    runs: Sequence[int | None] = ()
    folded: bool = False

    def run_of(self, column: int) -> int | None:
        """Return the run that a column belongs to."""
        return self.runs[column] if column < len(self.runs) else None


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart, which a page shows and Markdown leaves out.

    Attributes:
        caption: What it shows, one line.
        markup: Trusted HTML or SVG.
        wide: Whether it takes the whole width.
    """

    caption: str
    markup: Markup
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """One part of a report.

    Attributes:
        id: Anchor.
        title: Heading.
        lead: What is measured and how to read it; empty for nothing.
        parts: Tables and figures, in order.
        missing: One line on what is not there and which command would add it; empty if nothing is missing.
    """

    id: str
    title: str
    lead: str = ""
    parts: Sequence[Table | Figure] = field(default_factory=tuple)
    missing: str = ""
