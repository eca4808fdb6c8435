"""A suite as read from its YAML file: every problem is reported at once, with the line's cell name and the field."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from safesignal.errors import UsageError
from safesignal.problems import problems_in
from safesignal.suites.settings import FIELDS, section_problems

__all__ = ["ACCEPTANCE", "Cell", "Suite", "known_suites", "load_suite"]

ACCEPTANCE = "acceptance"
"""A suite that is code, not a file (evals/acceptance.py)."""
_CELL_FIELDS = ("cell", "attack", "dataset", "limit", "max_new_tokens", "buffer", "check_query")


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of a suite: an attack, a data set, a size.

    Attributes:
        name: Unique in the suite.
        attack: Name of the attack.
        parameters: What the attack is configured with.
        dataset: Name in the catalog.
        limit: Most behaviors, None for all.
        max_new_tokens: Length of an answer.
        buffer: Whether the release buffer is on; off measures what it buys.
        check_query: Whether the query itself is checked; off leaves the answer's own windows alone with it.
    """

    name: str
    attack: str
    parameters: Mapping[str, Any]
    dataset: str
    limit: int | None
    max_new_tokens: int
    buffer: bool = True
    check_query: bool = True


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite.

    Attributes:
        name: As the file says.
        seed: Of the choice of rows and of the sampling noise.
        cells: Attacks and ordinary prompts, in order.
        sections: Settings of `signal`, `overhead`, `utility`, `probe`, as far as the suite has them.
        sha256: Of all that decides attempts: name, seed, lengths and cells. Sections record their settings themselves.
        raw: The file as parsed, for the record.
    """

    name: str
    seed: int
    cells: tuple[Cell, ...]
    sections: Mapping[str, Mapping[str, Any]]
    sha256: str
    raw: Mapping[str, Any] = field(repr=False)

    def attacks_only(self) -> Suite:
        """Return the suite without its sections; its attempts, and so its hash, are the same."""
        return replace(self, sections={}, raw={name: own for name, own in self.raw.items() if name not in FIELDS})


def known_suites() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _folder().iterdir() if entry.name.endswith(".yaml"))


def load_suite(name: str) -> Suite:
    """Read a suite by name, or by the path of a YAML file.

    Raises:
        UsageError: If there is no such suite, or with every problem the file has.
    """
    text = _read(name)
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"suite `{name}` is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict):
        raise UsageError(f"suite `{name}` is a {type(raw).__name__}. Expected `name`, `cells` and sections.")
    problems = _problems(raw)
    if problems:
        raise UsageError(problems_in(f"in suite `{name}`", problems))
    length = int(raw.get("max_new_tokens", 256))
    cells = tuple(_cell(line, length) for line in raw.get("cells", []))
    sections = {section: dict(raw[section]) for section in FIELDS if raw.get(section)}
    decisive = {key: value for key, value in raw.items() if key not in FIELDS}
    # What YAML reads as a date is text here; an attack then says what it expected.
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()
    return Suite(raw.get("name", Path(name).stem), int(raw.get("seed", 0)), cells, sections, digest, raw)


def _folder() -> Any:
    return files("safesignal.suites")


def _read(name: str) -> str:
    if name in known_suites():
        return str((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = [*known_suites(), ACCEPTANCE]
        near = get_close_matches(name, known, n=1)
        raise UsageError(
            f"suite is `{name}`. Expected {', '.join(known)}, or a readable YAML file.",
            hint=f"did you mean `{near[0]}`?" if near else "",
        ) from error


def _problems(raw: Mapping[str, Any]) -> list[str]:
    unknown = sorted(map(str, set(raw) - {"name", "seed", "max_new_tokens", "cells", *FIELDS}))
    found = [f"{name}: unknown; expected name, seed, max_new_tokens, cells, {', '.join(FIELDS)}" for name in unknown]
    if not _is(raw, "name", str):
        found.append(f"name = {raw['name']!r}: expected text")
    if not _is(raw, "seed", int):
        found.append(f"seed = {raw['seed']!r}: expected an integer")
    if not _is_count(raw, "max_new_tokens"):
        found.append(f"max_new_tokens = {raw['max_new_tokens']!r}: expected an integer of at least 1")
    for name in FIELDS:
        if not _is(raw, name, dict):
            found.append(f"{name} = {raw[name]!r}: expected a mapping")
        elif raw.get(name):
            found += section_problems(name, raw[name])
    lines = raw.get("cells", [])
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        return [*found, "cells: expected a list of mappings with `cell`, `attack` and `dataset`"]
    names = [str(line.get("cell", "?")) for line in lines]
    found += [f"cell `{name}`: named {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]
    for name, line in zip(names, lines, strict=True):
        found += [f"cell `{name}`: {key!r}: expected the name of a field" for key in line if not isinstance(key, str)]
        missing = [key for key in ("cell", "attack", "dataset") if not isinstance(line.get(key), str)]
        found += [f"cell `{name}`: `{key}` = {line.get(key)!r}; expected a name" for key in missing]
        for key in ("limit", "max_new_tokens"):
            if not _is_count(line, key):
                found.append(f"cell `{name}`: `{key}` = {line[key]!r}; expected an integer of at least 1")
        for key in ("buffer", "check_query"):
            if not _is(line, key, bool):
                found.append(f"cell `{name}`: `{key}` = {line[key]!r}; expected true or false")
    return found


def _is(mapping: Mapping[str, Any], name: str, kind: type) -> bool:
    value = mapping.get(name)
    return name not in mapping or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool)))


def _is_count(mapping: Mapping[str, Any], name: str) -> bool:
    return _is(mapping, name, int) and mapping.get(name, 1) >= 1


def _cell(line: Mapping[str, Any], length: int) -> Cell:
    return Cell(
        name=line["cell"],
        attack=line["attack"],
        parameters={key: value for key, value in line.items() if key not in _CELL_FIELDS},
        dataset=line["dataset"],
        limit=line.get("limit"),
        max_new_tokens=line.get("max_new_tokens", length),
        buffer=line.get("buffer", True),
        check_query=line.get("check_query", True),
    )
