"""How a verb's signature becomes options: names with underscores, and groups of options that verbs share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import typer
from rich.markup import escape

from safesignal.errors import SafeSignalError, UsageError

__all__ = ["expand", "flag", "option", "require_at_least_one", "require_one_of", "together"]


def option(name: str, help_line: str, panel: str | None = None, **more: Any) -> Any:
    """Return a typer option whose name keeps its underscores."""
    return typer.Option(f"--{name}", help=escape(help_line), rich_help_panel=panel, **more)


def flag(name: str, help_line: str, panel: str | None = None) -> Any:
    """Return an option that takes no value, and whose help shows none."""
    return option(name, help_line, panel, metavar=" ")


def require_at_least_one(size: int, name: str = "batch_size") -> None:
    """Raise if a batch, or whatever `name` is the size of, would hold nothing."""
    if size < 1:
        raise UsageError(f"{name} is {size}. Expected at least 1.")


def require_one_of(hint: str, **given: object) -> None:
    """Raise unless exactly one of two options, by name, was given."""
    (first, one), (second, other) = given.items()
    if (one is None) == (other is None):
        found = f"both `--{first}` and" if one is not None else f"neither `--{first}` nor"
        raise UsageError(f"{found} `--{second}` given. Expected one of the two.", hint=hint)


class _SeveralError(UsageError):
    """More than one thing is wrong."""

    def __init__(self, found: list[SafeSignalError]) -> None:
        lines = "\n".join(str(error) for error in found).splitlines()
        hint = next((error.hint for error in found if error.hint), "")
        super().__init__(f"{len(found)} problems\n" + "\n".join(f"  {line}" for line in lines), hint=hint)
        self.found = found


def together(*checks: Callable[[], object]) -> None:
    """Run all checks and raise one error for everything they found."""
    found: list[SafeSignalError] = []
    for check in checks:
        try:
            check()
        except _SeveralError as error:
            found += error.found
        except SafeSignalError as error:
            found.append(error)
    if len(found) == 1:
        raise found[0]
    if found:
        raise _SeveralError(found)


def expand(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Replace every parameter that is an option group by the options of the group."""
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    parameters = []
    for name, own in inspect.signature(function).parameters.items():
        if name not in groups:
            parameters.append(own.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        kinds = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kinds[f.name])
            for f in fields(groups[name])
        ]

    def run(**values: Any) -> int | None:
        filled = {name: kind(**{f.name: values.pop(f.name) for f in fields(kind)}) for name, kind in groups.items()}
        return function(**filled, **values)

    run.__name__, run.__doc__ = function.__name__, escape(function.__doc__ or "")
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
