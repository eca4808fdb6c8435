"""Whether values of a settings file can be those of typed fields, and what to say where not. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["fits", "misfits", "words_of"]


def fits(value: Any, hint: Any) -> bool:
    """Return whether a value is of the kind that a field's type names; a list is as good as a tuple.

    A table stands for a dataclass, whose own fields are not looked at.

    Example:
        >>> fits(2, float), fits(True, float), fits(["a"], tuple[str, ...]), fits("a", tuple[str, ...])
        (True, False, True, False)
    """
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, UnionType):
        return any(fits(value, one) for one in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, list | tuple) and all(fits(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, parts[1]) for one in value.values())
    if is_dataclass(hint):
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, origin or hint) and (hint is bool or not isinstance(value, bool))


def words_of(hint: Any) -> str:
    """Return a kind in words.

    Example:
        >>> words_of(int), words_of(tuple[str, ...]), words_of(float | None)
        ('a whole number', 'a list, each text', 'a number or null')
    """
    origin, parts = get_origin(hint), get_args(hint)
    if isinstance(hint, UnionType):
        return " or ".join(words_of(one) for one in parts)
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        return f"a list, each {words_of(parts[0])}"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}
    return simple.get(hint, "a table")


def misfits(where: str, table: Mapping[str, Any], kind: type[Any]) -> list[str]:
    """Return a line for each field that a dataclass does not know, misses, or cannot hold as it is in a table."""
    hints = get_type_hints(kind)
    known = ", ".join(sorted(hints))
    needed = [own.name for own in fields(kind) if own.default is MISSING and own.default_factory is MISSING]
    return [
        *(f"{where}.{name}    is unknown; known: {known}" for name in sorted(set(table) - set(hints))),
        *(f"{where}.{name}    is missing" for name in needed if name not in table),
        *(
            f"{where}.{name} = {value!r:.40}    must be {words_of(hints[name])}"
            for name, value in table.items()
            if name in hints and not fits(value, hints[name])
        ),
    ]
