"""The command line: one file per verb. Errors become one line and an exit code; nobody sees a traceback.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 finished but some rows errored, 130 interrupted. Torch and transformers
are imported inside the verbs only, so that help and wrong use answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from safesignal import __version__
from safesignal.cli.align import align
from safesignal.cli.arguments import expand, option
from safesignal.cli.attack import attack
from safesignal.cli.bench import bench
from safesignal.cli.calibrate import calibrate
from safesignal.cli.chat import chat
from safesignal.cli.console import print_error, report_crash
from safesignal.cli.data import data
from safesignal.cli.demo import demo
from safesignal.cli.evaluate import evaluate
from safesignal.cli.generate import generate
from safesignal.cli.judge import judge
from safesignal.cli.label import label
from safesignal.cli.probe import probe
from safesignal.cli.report import report
from safesignal.cli.rollouts import rollouts
from safesignal.cli.score import score
from safesignal.errors import SafeSignalError, UsageError

__all__ = ["app", "main"]

# Newer typers carry a click of their own, so what they raise is named through a class that they export.
_WrongUse: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

_INTERRUPTED = 130


class _Verbs(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None:
            verbs = self.list_commands(ctx)
            near = get_close_matches(args[0], verbs, n=1)
            raise UsageError(
                f"unknown verb `{args[0]}`; known: {', '.join(verbs)}",
                hint=f"did you mean `safesignal {near[0]}`?" if near else "`safesignal --help` describes each",
            )
        return super().resolve_command(ctx, args)


def _underscored(name: str) -> str:
    return name.replace("-", "_")


app = typer.Typer(
    cls=_Verbs,
    name="safesignal",
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": _underscored},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, option("version", "Show the version.", callback=_show_version, is_eager=True, metavar=" ")
    ] = False,
) -> None:
    """An explicit safety signal inside a language model, read again while it writes."""


_VERBS = (demo, generate, chat, score, rollouts, label, align, calibrate, probe, attack, evaluate, judge, report, bench)

for _verb in _VERBS:
    app.command(_verb.__name__)(expand(_verb))
app.add_typer(data)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; what nobody expected ends in `report_crash` with code 1."""
    sys.excepthook = report_crash
    given = list(arguments) if arguments is not None else sys.argv[1:]
    for stream in (sys.stdout, sys.stderr):
        if (stream.encoding or "").lower().replace("-", "") != "utf8" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        command = typer.main.get_command(app)
        code = command.main(args=given or ["--help"], prog_name="safesignal", standalone_mode=False)
    except SafeSignalError as error:
        print_error(str(error), error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again while closing it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _WrongUse as error:
        print_error(*_explain(error))
        return 2
    if code == _INTERRUPTED:  # newer typers turn Ctrl-C into this code themselves
        print_error("interrupted", "a run with `--output` goes on where it stopped when started again")
    return code if isinstance(code, int) else 0


def _explain(error: Any) -> tuple[str, str]:
    """Put typer's own complaint into the house's words."""
    parameter = getattr(error, "param", None)
    name = (getattr(parameter, "opts", None) or [""])[0]
    verb = getattr(getattr(error, "ctx", None), "command_path", "safesignal")
    hint = f"`{verb} --help` lists the options"
    possible = getattr(error, "possibilities", None)
    if possible:
        near = " or ".join(f"`{name}`" for name in sorted(possible))
        return f"unknown option `{error.option_name}`", f"did you mean {near}?"
    text = str(error.message).removeprefix("Value error, ").rstrip(".") or "is missing"
    text = text[0].lower() + text[1:]
    return (f"{name}: {text}" if name else text), hint
