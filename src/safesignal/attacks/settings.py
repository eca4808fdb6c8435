"""What the settings of an attack may be: of the kind their fields say, and within bounds; all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from safesignal.errors import UsageError
from safesignal.kinds import fits, words_of
from safesignal.problems import problems_in

__all__ = ["Bound", "cast", "require", "require_known"]

Bound = tuple[str, str, Callable[[Any], bool]]
"""Name of a setting, what it must be, and whether a value is that."""


def require(attack: Any, *bounds: Bound) -> None:
    """Raise one error for every setting of another kind than its field's, or out of its bounds.

    A text where a list is wanted would be read letter by letter, so it is refused.

    Args:
        attack: A dataclass with a `name`.
        bounds: Looked at where the value is of the right kind.

    Raises:
        UsageError: If a setting will not do.
    """
    problems = list(_problems(attack, bounds))
    if problems:
        raise UsageError(problems_in("in the attack", problems))


def require_known(attack: Any, known: Collection[str], *settings: str) -> None:
    """Raise one error for every name in the given settings, each a list of text, that is not known.

    Raises:
        UsageError: If a name is unknown.
    """
    there = ", ".join(sorted(filter(None, known))) or "none"
    problems = [
        f"{attack.name}.{setting}: `{name}`    is unknown; known: {there}"
        for setting in settings
        for name in getattr(attack, setting)
        if name not in known
    ]
    if problems:
        raise UsageError(problems_in("in the attack", problems))


def _problems(attack: Any, bounds: tuple[Bound, ...]) -> Iterator[str]:
    hints = get_type_hints(type(attack))
    strange = {own.name for own in fields(attack) if not fits(getattr(attack, own.name), hints[own.name])}
    for name in sorted(strange):
        yield f"{attack.name}.{name} = {getattr(attack, name)!r}    must be {words_of(hints[name])}"
    for name, wanted, holds in bounds:
        if name not in strange and not holds(value := getattr(attack, name)):
            yield f"{attack.name}.{name} = {value!r}    must be {wanted}"


def cast(value: Any, hint: Any) -> Any:
    """Return a fitting value as its field holds it."""
    if get_origin(hint) is tuple:
        return tuple(cast(one, get_args(hint)[0]) for one in value)
    return float(value) if hint is float else value
