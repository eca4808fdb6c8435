"""The fields of a suite's sections, and what is wrong with a section as written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, get_type_hints

from safesignal.data.sources import get_source
from safesignal.errors import UsageError
from safesignal.evals.bench import BenchConfig
from safesignal.kinds import fits, words_of

__all__ = ["FIELDS", "ProbeFields", "SignalFields", "UtilityFields", "section_problems"]

Rows = dict[str, int | None]
"""Per set of the catalog, how many of its rows are drawn; null takes all."""


@dataclass(frozen=True, slots=True)
class SignalFields:
    """Sets whose prompts, and sets whose answers, are scored."""

    prompts: Rows = field(default_factory=dict)
    responses: Rows = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UtilityFields:
    """Sets whose answers' perplexity is measured, and questions per task; null takes all."""

    perplexity: Rows = field(default_factory=dict)
    gsm8k: int | None = None
    mmlu: int | None = None
    mmlu_cloze: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeFields:
    """Behaviors under each condition, prefill depths in tokens, and how many of the likeliest tokens are looked at."""

    dataset: str
    limit: int | None
    depths: tuple[int, ...]
    top_k: int


FIELDS: dict[str, type[Any]] = {
    "signal": SignalFields,
    "overhead": BenchConfig,
    "utility": UtilityFields,
    "probe": ProbeFields,
}
"""Per section, the dataclass of its fields; every number in them is a count."""


def section_problems(name: str, given: Mapping[Any, Any]) -> Iterator[str]:
    """Yield a line for every field that is unknown, missing, of another kind, out of bounds or names no set."""
    hints, known = get_type_hints(FIELDS[name]), ", ".join(own.name for own in fields(FIELDS[name]))
    for key in sorted(set(map(str, given)) - set(hints)):
        yield f"{name}.{key}: unknown; expected {known}"
    for own in fields(FIELDS[name]):
        where, hint = f"{name}.{own.name}", hints[own.name]
        if own.name not in given:
            if own.default is MISSING and own.default_factory is MISSING:
                yield f"{where}: missing; expected {_words(hint)}"
        elif not fits(given[own.name], hint):
            yield f"{where} = {given[own.name]!r}: expected {_words(hint)}"
        else:
            yield from _out_of_bounds(where, given[own.name])
            yield from _unknown_sets(where, given[own.name])


def _words(hint: Any) -> str:
    return f"a mapping from sets to {words_of(int | None)}" if hint == Rows else words_of(hint)


def _out_of_bounds(where: str, value: Any) -> Iterator[str]:
    if value == []:
        yield f"{where} = []: expected at least one"
    counts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    if any(isinstance(count, int) and count < 1 for count in counts):
        yield f"{where} = {value!r}: expected at least 1{' each' if isinstance(value, dict | list) else ''}"


def _unknown_sets(where: str, value: Any) -> Iterator[str]:
    for name in value if isinstance(value, dict) else [value] if isinstance(value, str) else []:
        try:
            get_source(str(name))
        except UsageError as error:
            yield f"{where}: {error}" + (f"; {error.hint}" if error.hint else "")
