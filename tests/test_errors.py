"""The error tree: what its docstring draws is what it is, and every class carries an exit code and a hint."""

from __future__ import annotations

import pickle
import re

import pytest

from safesignal import errors
from safesignal.errors import SafeSignalError

CLASSES = [getattr(errors, name) for name in errors.__all__]
EXIT_CODES = {"UsageError": 2, "DataError": 2, "RejectedError": 2}
"""Everything else is 1. 0 is done, 3 is finished with errored attempts, 130 is interrupted."""


def drawn_tree() -> dict[str, tuple[str | None, int]]:
    """Read the tree in the module's docstring as {class: (parent, exit code)}."""
    tree: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^    ([│├└─ ]*)(\w+) +exit (\d)", line):
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            tree[match[2]] = (path[-2] if depth else None, int(match[3]))
    return tree


def real_tree() -> dict[str, tuple[str | None, int]]:
    tree: dict[str, tuple[str | None, int]] = {SafeSignalError.__name__: (None, SafeSignalError.exit_code)}
    todo: list[type[SafeSignalError]] = [SafeSignalError]
    while todo:
        parent = todo.pop()
        for child in parent.__subclasses__():
            if child.__module__ == errors.__name__:
                tree[child.__name__] = (parent.__name__, child.exit_code)
                todo.append(child)
    return tree


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    assert drawn_tree() == real_tree()


def test_every_class_is_exported_in_order() -> None:
    assert sorted(real_tree()) == errors.__all__


@pytest.mark.parametrize("cls", CLASSES)
def test_exit_code(cls: type[SafeSignalError]) -> None:
    assert cls.exit_code == EXIT_CODES.get(cls.__name__, 1)


@pytest.mark.parametrize("cls", CLASSES)
def test_message_and_hint_are_kept_apart(cls: type[SafeSignalError]) -> None:
    error = cls("`tau` is 0; expected at least 1.", hint="pass `--tau 1`")
    assert str(error) == "`tau` is 0; expected at least 1."
    assert error.hint == "pass `--tau 1`"
    assert cls("no hint").hint == ""


@pytest.mark.parametrize("cls", CLASSES)
def test_an_error_crosses_a_process_border(cls: type[SafeSignalError]) -> None:
    again = pickle.loads(pickle.dumps(cls("what happened", hint="what to type")))
    assert type(again) is cls
    assert (str(again), again.hint) == ("what happened", "what to type")


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_says_its_remedy_in_one_line(cls: type[SafeSignalError]) -> None:
    first = (cls.__doc__ or "").strip().splitlines()[0]
    assert first.endswith((".", ";"))
    assert len(first) <= 120
