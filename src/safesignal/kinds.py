"""Whether values of a settings file can be those of typed fields. Standard library only."""

from __future__ import annotations

from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin

__all__ = ["fits"]


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
