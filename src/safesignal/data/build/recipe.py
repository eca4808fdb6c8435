"""A recipe for training rows, as read from its YAML file: every problem is reported at once, by field."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml

from safesignal.data.build.form import KEYS, LENGTH_BINS
from safesignal.data.build.variants import KINDS
from safesignal.data.mixture import LICENCES, SHIPPABLE
from safesignal.data.records import PromptLabel
from safesignal.data.sources import SOURCES
from safesignal.errors import UsageError
from safesignal.problems import problems_in

__all__ = ["Holdout", "Matching", "Noise", "Part", "Recipe", "Splicing", "Wrapping", "load_recipe"]

_LABELS: tuple[str, ...] = get_args(PromptLabel)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one registered source or of one file.

    Attributes:
        name: What other fields of the recipe call it; unique.
        source: Registered training set, empty for a file.
        file: JSONL file, empty for a source; its path is relative to the recipe.
        n: Rows to draw; None for all, or for a weighted part.
        weight: Share of the recipe's `total`, against the other weighted parts; None if not weighted.
        label: The one prompt label to keep; None for both.
        responses: Whether the rows keep their responses.
    """

    name: str
    source: str = ""
    file: str = ""
    n: int | None = None
    weight: float | None = None
    label: PromptLabel | None = None
    responses: bool = True


@dataclass(frozen=True, slots=True)
class Matching:
    """Parts whose classes are subsampled until they agree in form.

    Attributes:
        name: What the report calls it; unique.
        parts: Names of the parts; they are matched together.
        by: What two rows must agree in, out of form, length, ending, case, commas and capitals.
        length_bins: Word counts at which a new bin begins, ascending.
    """

    name: str
    parts: tuple[str, ...]
    by: tuple[str, ...] = KEYS
    length_bins: tuple[int, ...] = LENGTH_BINS


@dataclass(frozen=True, slots=True)
class Wrapping:
    """Jailbreak templates around requests of both labels.

    Attributes:
        n: Wrapped rows of each label.
        parts: Parts the requests come from; empty for all.
        families: Origins of the templates to use; empty for all that are not held out.
        files: JSONL files of templates beside the registered set; paths are relative to the recipe.
    """

    n: int
    parts: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Noise:
    """Copies with typos, odd case, letters or spacing, or gibberish around them; as many of either label.

    Attributes:
        rate: Noisy copies per row of the smaller class, in [0, 1].
        parts: Parts the rows come from; empty for all.
        kinds: Out of `KINDS`; each gets the same share.
    """

    rate: float
    parts: tuple[str, ...] = ()
    kinds: tuple[str, ...] = tuple(KINDS)


@dataclass(frozen=True, slots=True)
class Splicing:
    """Answers behind benign requests that they were not given to.

    Attributes:
        n: Most rows with a malicious answer, and as many with a benign one.
        parts: Parts that requests and answers come from; empty for all.
        val_fraction: Share of prompts that `align` will keep for validation, in [0, 1): no answer stands on both sides.
    """

    n: int
    parts: tuple[str, ...] = ()
    val_fraction: float = 0.1


@dataclass(frozen=True, slots=True)
class Holdout:
    """What is written to a file of its own and trained on nowhere.

    Attributes:
        sources: Sources, by the name of the set or as rows name them; rows of others that share a prompt or a pair with
            them are dropped.
        families: Origins of jailbreak templates.
        n: Requests of each label that are wrapped in held-out templates; they and their twins are taken out of the
            training rows.
    """

    sources: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    n: int = 100


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe.

    Attributes:
        name: As the file says, or the file's own.
        seed: Of every choice.
        licences: What a row's licence may be.
        total: Rows that the weighted parts share.
        eval_jaccard: Word-set similarity to any text of an evaluation set from which a row is dropped, in (0, 1]; None
            compares nothing.
        near_duplicate: Similarity in word 3-grams from which two rows count as one, in [0.5, 1].
        parts: In order; of two equal rows the first stays.
        match: Each matches its own parts; no part stands in two.
        wrap: None to wrap nothing.
        noise: None for no noise.
        splice: None to splice nothing.
        holdout: May name nothing.
        sha256: Of the file.
    """

    name: str
    parts: tuple[Part, ...]
    seed: int = 0
    licences: tuple[str, ...] = tuple(sorted(SHIPPABLE))
    total: int = 0
    eval_jaccard: float | None = 0.6
    near_duplicate: float = 0.8
    match: tuple[Matching, ...] = ()
    wrap: Wrapping | None = None
    noise: Noise | None = None
    splice: Splicing | None = None
    holdout: Holdout = field(default_factory=Holdout)
    sha256: str = ""


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: If the file cannot be read, or with every problem it has.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        raw = yaml.safe_load(content)
    except OSError as error:
        raise UsageError(f"recipe `{path}` cannot be read: {error.strerror}. Expected a YAML file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe `{path}` is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(raw, dict):
        raise UsageError(f"recipe `{path}` is {type(raw).__name__}. Expected a mapping with `parts`.")
    problems = _problems(raw)
    if problems:
        raise UsageError(problems_in(f"in recipe `{path}`", problems))
    parts = tuple(_part(part, path.parent) for part in raw["parts"])
    match = tuple(Matching(**_frozen(table)) for table in raw.get("match", []))
    sections = {name: kind(**_frozen(raw[name])) for name, kind in _SECTIONS.items() if raw.get(name)}
    if "wrap" in sections:
        files = tuple(str(path.parent / file) for file in sections["wrap"].files)
        sections["wrap"] = replace(sections["wrap"], files=files)
    plain = _frozen({name: value for name, value in raw.items() if name not in {"parts", "match", *_SECTIONS}})
    return Recipe(
        **{"name": path.stem} | plain, parts=parts, match=match, **sections, sha256=hashlib.sha256(content).hexdigest()
    )


_SECTIONS: dict[str, Callable[..., Any]] = {
    "wrap": Wrapping,
    "noise": Noise,
    "splice": Splicing,
    "holdout": Holdout,
}

_Check = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what was expected."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _one_of(known: Sequence[str]) -> _Check:
    return lambda value: value in known, f"one of {', '.join(known)}"


def _some_of(known: Sequence[str]) -> _Check:
    def check(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v in known for v in value)

    return check, f"a list out of {', '.join(known)}"


def _is_ascending(value: Any) -> bool:
    counts = isinstance(value, list) and all(_is_count(v, 1) for v in value)
    return counts and value == sorted(set(value))


_TEXT: _Check = (lambda value: isinstance(value, str) and bool(value), "text")
_NAMES: _Check = (lambda value: isinstance(value, list) and all(isinstance(v, str) for v in value), "a list of names")
_ONE_OR_MORE: _Check = (lambda value: _is_count(value, 1), "an integer of at least 1")
_BOOLEAN: _Check = (lambda value: isinstance(value, bool), "true or false")

_FIELDS: dict[str, dict[str, _Check]] = {
    "recipe": {
        "name": _TEXT,
        "seed": (_is_count, "an integer of at least 0"),
        "licences": _some_of(LICENCES),
        "total": _ONE_OR_MORE,
        "eval_jaccard": (lambda v: v is None or (_is_number(v) and 0 < v <= 1), "a number in (0, 1], or null"),
        "near_duplicate": (lambda v: _is_number(v) and 0.5 <= v <= 1, "a number in [0.5, 1]"),
        "parts": (lambda v: isinstance(v, list) and bool(v), "a list with at least one part"),
        "match": (lambda v: isinstance(v, list) and all(isinstance(m, dict) for m in v), "a list of mappings"),
        **{name: (lambda v: v is None or isinstance(v, dict), "a mapping") for name in _SECTIONS},
    },
    "part": {
        "name": _TEXT,
        "source": _TEXT,
        "file": _TEXT,
        "n": _ONE_OR_MORE,
        "weight": (lambda v: _is_number(v) and v > 0, "a number above 0"),
        "label": _one_of(_LABELS),
        "responses": _BOOLEAN,
    },
    "match": {
        "name": _TEXT,
        "parts": _NAMES,
        "by": _some_of(KEYS),
        "length_bins": (_is_ascending, "ascending integers of at least 1"),
    },
    "wrap": {"n": _ONE_OR_MORE, "parts": _NAMES, "families": _NAMES, "files": _NAMES},
    "noise": {
        "rate": (lambda v: _is_number(v) and 0 <= v <= 1, "a number in [0, 1]"),
        "parts": _NAMES,
        "kinds": _some_of(tuple(KINDS)),
    },
    "splice": {
        "n": _ONE_OR_MORE,
        "parts": _NAMES,
        "val_fraction": (lambda v: _is_number(v) and 0 <= v < 1, "a number in [0, 1)"),
    },
    "holdout": {"sources": _NAMES, "families": _NAMES, "n": _ONE_OR_MORE},
}
_REQUIRED = {"recipe": ("parts",), "match": ("name", "parts"), "wrap": ("n",), "noise": ("rate",), "splice": ("n",)}


def _problems(raw: Mapping[str, Any]) -> list[str]:
    """Return everything that is wrong, one line each."""
    found = _wrong_fields("", raw, "recipe")
    parts = raw["parts"] if isinstance(raw.get("parts"), list) else []
    for number, part in enumerate(parts, start=1):
        found += _wrong_part(f"parts[{number}]", part, raw)
    names = [_part_name(part) for part in parts if isinstance(part, dict)]
    found += [f"part `{name}`: named {count} times" for name, count in Counter(names).items() if count > 1]
    tables = [(name, name, raw[name]) for name in _SECTIONS if isinstance(raw.get(name), dict)]
    matches = raw["match"] if _FIELDS["recipe"]["match"][0](raw.get("match")) else []
    tables += [(f"match[{number}]", "match", table) for number, table in enumerate(matches, start=1)]
    for where, kind, table in tables:
        found += _wrong_fields(f"{where}.", table, kind)
        found += [f"{where}.parts: no part `{name}`{_near(name, names)}" for name in _names(table, "parts", names)]
    found += _wrong_twice(matches)
    both = set(_names(raw.get("wrap"), "families")) & set(_names(raw.get("holdout"), "families"))
    return found + [f"wrap.families: `{name}` is held out; expected one of the two" for name in sorted(both)]


def _names(table: Any, field_name: str, known: Sequence[str] = ()) -> list[str]:
    """Return the names in a field that are not known; none if the table or the field is not what it should be."""
    named = table.get(field_name) if isinstance(table, dict) else None
    return [name for name in named if name not in known] if isinstance(named, list) and _NAMES[0](named) else []


def _wrong_twice(matches: Sequence[Mapping[str, Any]]) -> list[str]:
    names = Counter(str(table.get("name")) for table in matches)
    parts = Counter(part for table in matches for part in _names(table, "parts"))
    found = [f"match `{name}`: named {count} times" for name, count in names.items() if count > 1]
    return found + [f"match: part `{part}` stands in {count}" for part, count in parts.items() if count > 1]


def _wrong_fields(where: str, table: Mapping[str, Any], kind: str) -> list[str]:
    """Return the unknown fields of a table, those that are missing, and those with a value that will not do."""
    checks = _FIELDS[kind]
    known = f"; known: {', '.join(checks)}"
    unknown = [str(name) for name in table if name not in checks]
    found = [f"{where}{name}: unknown{_near(name, list(checks)) or known}" for name in unknown]
    missing = [name for name in _REQUIRED.get(kind, ()) if name not in table]
    found += [f"{where}{name}: missing; expected {checks[name][1]}" for name in missing]
    wrong = [name for name, (holds, _) in checks.items() if name in table and not holds(table[name])]
    return found + [f"{where}{name} = {table[name]!r}: expected {checks[name][1]}" for name in wrong]


def _wrong_part(where: str, part: Any, raw: Mapping[str, Any]) -> list[str]:
    if not isinstance(part, dict):
        return [f"{where} = {part!r}: expected a mapping with `source` or `file`"]
    found = _wrong_fields(f"{where}.", part, "part")
    if ("source" in part) == ("file" in part):
        found.append(f"{where}: expected `source` or `file`, one of the two")
    if "n" in part and "weight" in part:
        found.append(f"{where}: expected `n` or `weight`, not both")
    if "weight" in part and "total" not in raw:
        found.append(f"{where}.weight: the recipe has no `total` to share; expected one")
    source = part.get("source")
    trained = sorted(name for name, known in SOURCES.items() if known.role == "train")
    if isinstance(source, str) and source not in trained:
        why = "an evaluation set" if source in SOURCES else "unknown"
        found.append(f"{where}.source = {source!r}: {why}{_near(source, trained) or '; expected a training set'}")
    if isinstance(part.get("file"), str) and Path(part["file"]).name.startswith("eval_"):
        found.append(f"{where}.file = {part['file']!r}: an evaluation set; expected rows to train on")
    return found


def _near(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean `{near[0]}`?" if near else ""


def _part_name(part: Mapping[str, Any]) -> str:
    return str(part.get("name") or part.get("source") or Path(str(part.get("file", "?"))).stem)


def _part(raw: Mapping[str, Any], folder: Path) -> Part:
    file = {"file": str(folder / raw["file"])} if "file" in raw else {}
    return Part(**{**raw, **file, "name": _part_name(raw)})


def _frozen(table: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
