"""The two consoles, and how an error looks: results go to stdout, everything said about them to stderr."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from safesignal.display import visible

__all__ = [
    "INCOMPLETE",
    "bars",
    "err",
    "note",
    "note_read_as",
    "out",
    "print_error",
    "progress",
    "quiet_libraries",
    "report_crash",
    "say",
    "waiting",
]

INCOMPLETE = 3
"""Exit code of what is done but for attempts that errored, or texts that a server left without a verdict."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_error(message: str, hint: str = "") -> None:
    """Print what happened and what to do next, on stderr; the words themselves are never wrapped or styled."""
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if hint:
        err.print(Text.assemble(("hint:  ", "bold cyan"), hint), soft_wrap=True)


def note(message: str) -> None:
    """Say something about the result, on stderr."""
    err.print(Text(message, style="dim"), soft_wrap=True)


def note_read_as(said: str | None) -> None:
    """Say what the reader took a disguised query for, where it did."""
    if said is not None:
        note(f"the query was read as: {visible(said)}")


def say(text: str) -> None:
    """Write a piece of a model's answer to stdout; on a terminal it cannot overwrite what stands there."""
    typer.echo(visible(text) if sys.stdout.isatty() else text, nl=False)


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """Show that something takes a moment; nothing is printed where nobody looks."""
    with err.status(Text(message, style="dim")):
        yield


class _Bars(Progress):
    """Bars on a terminal; in a log, where rich draws them once and at the end, a plain line a minute."""

    pause = 60.0
    """Seconds between two lines of a log, and before its first."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """Move a line, and write it down if a log has not heard of the work for a minute."""
        super().update(task_id, **changes)
        now = time.monotonic()
        if self.disable or self.console.is_terminal or now - self._said < self.pause:
            return
        self._said = now
        task = self._tasks[task_id]
        left = task.time_remaining
        soon = "" if left is None else f", {timedelta(seconds=round(left))} left"
        done = f"{task.completed:.0f}" if task.total is None else f"{task.completed:.0f} of {task.total:.0f}"
        note(f"{task.description}  {done}{soon}")


def progress() -> Progress:
    """Return a progress bar with the time left, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # A step may take longer than rich's 30 seconds of memory.
    left = (TextColumn("left"), TimeRemainingColumn())
    return _Bars(*columns, *left, console=err, speed_estimate_period=600)


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that takes a line's name, how much of it is done and all of it; every line has a bar."""
    with progress() as bar:
        lines: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in lines:
                lines[name] = bar.add_task(name, total=total)
            bar.update(lines[name], completed=done)

        yield show


def quiet_libraries() -> None:
    """Keep transformers' bars and warnings out of the way; called where a command is about to import it."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for library in ("torch", "transformers", "huggingface_hub", "accelerate"):
        warnings.filterwarnings("ignore", module=library)


def report_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line what nobody expected, and keep the traceback in a file (a `sys.excepthook`)."""
    lines = str(error).strip().splitlines()
    said = f"{kind.__name__}: {lines[0]}" if lines else kind.__name__
    if _out_of_memory(error):
        print_error(f"out of memory: {said}", "a smaller `--batch_size`, `--max_new_tokens` or model needs less")
        return
    with tempfile.NamedTemporaryFile("w", prefix="safesignal-", suffix=".log", delete=False, encoding="utf-8") as file:
        traceback.print_exception(kind, error, trace, file=file)
    print_error(f"{said}. Expected no such end; nothing more was generated.", f"the traceback is in {file.name}")


def _out_of_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    kinds = (MemoryError, torch.OutOfMemoryError) if torch is not None else (MemoryError,)
    return isinstance(error, kinds) or "not enough memory" in str(error) or "can't allocate memory" in str(error)
