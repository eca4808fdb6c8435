"""Attacks by name, and building one from a line of a suite: everything wrong with it is said at once."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from itertools import pairwise
from textwrap import shorten
from typing import Any, get_type_hints

from safesignal.attacks.artifact import Artifact
from safesignal.attacks.base import Attack
from safesignal.attacks.decoding import Decoding
from safesignal.attacks.direct import Direct
from safesignal.attacks.multiturn import Multiturn
from safesignal.attacks.nested import Nested
from safesignal.attacks.perturb import Perturb
from safesignal.attacks.prefill import Prefill
from safesignal.attacks.settings import cast
from safesignal.attacks.template import Template
from safesignal.errors import UsageError
from safesignal.kinds import fits, words_of
from safesignal.problems import problems_in

__all__ = ["ATTACKS", "build_attack", "describe", "settings_of"]

ATTACKS: dict[str, type[Any]] = {
    kind.name: kind for kind in (Direct, Prefill, Nested, Decoding, Template, Artifact, Perturb, Multiturn)
}
"""Every attack by name."""

_INTERNAL = ("pieces", "missing")
"""Fields that no suite can give."""


def build_attack(spec: Mapping[str, Any]) -> Attack:
    """Build an attack from `{"attack": name, setting: value, ...}`; lists become tuples.

    Raises:
        UsageError: If the name or a setting is unknown, or a value is of another kind or out of range.
    """
    name = spec.get("attack")
    kind = ATTACKS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise _unknown(str(name))
    hints, known = get_type_hints(kind), settings_of(kind)
    problems: list[str] = []
    values = {}
    for key, value in spec.items():
        if key == "attack":
            continue
        if key not in known:
            near = get_close_matches(key, known, n=1)
            problems.append(f"{name}.{key}    is unknown; {_meant(near, known)}")
        elif not fits(value, hints[key]):
            problems.append(f"{name}.{key} = {value!r}    must be {words_of(hints[key])}")
        else:
            values[key] = cast(value, hints[key])
    try:
        attack: Attack = kind(**values)
    except UsageError as error:
        problems += str(error).split("\n  ")[1:]
    if problems:
        raise UsageError(
            problems_in("in the attack", problems), hint="`safesignal attack --list` describes each setting"
        )
    return attack


def settings_of(kind: type[Any]) -> dict[str, Any]:
    """Return the settings of an attack with their defaults."""
    return {own.name: _default(own) for own in fields(kind) if own.name not in _INTERNAL}


def describe(kind: type[Any]) -> list[tuple[str, str, str]]:
    """Return name, default as JSON (long ones cut) and meaning of every setting; fields say it in their docstrings."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    meanings = {
        own.target.id: inspect.cleandoc(said.value.value)
        for own, said in pairwise(body.body)
        if isinstance(own, ast.AnnAssign) and isinstance(own.target, ast.Name)
        if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) and isinstance(said.value.value, str)
    }
    return [
        (name, shorten(json.dumps(default), 48, placeholder=" …"), meanings.get(name, ""))
        for name, default in settings_of(kind).items()
    ]


def _default(own: Field[Any]) -> Any:
    return own.default if own.default is not MISSING else None


def _unknown(name: str) -> UsageError:
    near = get_close_matches(name, ATTACKS, n=1)
    meant = f"did you mean `{near[0]}`?  " if near else ""
    return UsageError(
        f"unknown attack `{name}`; known: {', '.join(sorted(ATTACKS))}",
        hint=f"{meant}`safesignal attack --list` describes each",
    )


def _meant(near: list[str], known: Mapping[str, Any]) -> str:
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known) or 'no settings'}"
