"""The shape of `results.json`, as types, and the check that a result has it before it is written.

The types are the written schema: :func:`validate_results` walks them, so that what mypy knows and what is checked on
disk cannot drift apart. The words are explained in docs/run-folder.md.
"""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypedDict,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from safesignal.errors import DataError
from safesignal.problems import problems_in
from safesignal.stats import Rate

__all__ = [
    "SCHEMA_VERSION",
    "AttackRow",
    "Bin",
    "ClusteredRow",
    "CorrectedRow",
    "LeakRow",
    "OverRefusalRow",
    "RateRow",
    "Results",
    "SignalRow",
    "Spread",
    "rate_row",
    "validate_results",
]

SCHEMA_VERSION = 2
_MOST_PROBLEMS = 10


@dataclass(frozen=True, slots=True)
class _Within:
    """Bounds of a number, both included."""

    low: float
    high: float = math.inf


_Share = Annotated[float, _Within(0.0, 1.0)]
_Count = Annotated[int, _Within(0)]
_Amount = Annotated[float, _Within(0.0)]


class RateRow(TypedDict):
    """A counted share with its 95 % Wilson interval; `value` is null where nothing was counted."""

    value: _Share | None
    low: _Share
    high: _Share
    successes: _Count
    n: _Count


class CorrectedRow(TypedDict):
    """A share corrected for the errors of its judge; the interval carries those of the judge's own rates."""

    value: _Share
    low: _Share
    high: _Share


class ClusteredRow(TypedDict):
    """A share with an interval that resamples whole behaviors; `n` counts behaviors."""

    value: _Share
    low: _Share
    high: _Share
    n: _Count


class Spread(TypedDict):
    """A distribution of token counts; a histogram lists `[from, to, n]`, `to` excluded."""

    n: _Count
    median: _Amount | None
    p90: _Amount | None
    max: _Amount | None
    histogram: list[list[int]]


class AttackRow(TypedDict):
    """One cell over all its variants (`variant` null), or one variant of it; harm rates by the name of their judge."""

    cell: str
    attack: str
    dataset: str
    variant: str | None
    family: str | None
    n_original: _Count | None
    n_left_out: _Count
    n_planned: _Count
    succeeded: _Count
    resisted: _Count
    undecided: _Count
    errored: _Count
    n_behaviors: NotRequired[_Count]
    asr: RateRow | None
    asr_clustered: NotRequired[ClusteredRow | None]
    asr_shown: NotRequired[RateRow | None]
    asr_corrected: CorrectedRow | None
    asr_harm: dict[str, RateRow | None]
    asr_harm_corrected: dict[str, CorrectedRow | None]
    refused_by_signal: RateRow | None
    mean_tokens: _Amount | None
    worst: NotRequired[RateRow | None]
    note: str


class OverRefusalRow(TypedDict):
    """Prompts of one label and category of a cell (`category` null: all of them), and who refused them."""

    cell: str
    dataset: str
    category: str | None
    label: Literal["malicious", "benign"]
    n: _Count
    answered: _Count
    undecided: _Count
    errored: _Count
    refused: RateRow | None
    refused_at_start: RateRow | None
    stopped_midway: RateRow | None
    refused_by_model: RateRow | None
    note: str


class LeakRow(TypedDict):
    """What a cell (or a variant) showed of requests of one label before the defence stopped it; harm by judge."""

    cell: str
    label: Literal["malicious", "benign"]
    variant: str | None
    stopped: RateRow
    released_before_stop: Spread
    harmful_released: dict[str, RateRow | None]
    harmful_tokens: dict[str, Spread | None]
    released_after_transition: Spread
    hold_tokens: Spread | None


class Bin(TypedDict):
    """Signals between `low` and `high`: their mean, and the share of malicious rows among them."""

    low: _Share
    high: _Share
    mean_signal: _Share
    rate: _Share
    n: _Count


class _Histogram(TypedDict):
    edges: list[_Share]
    benign: list[_Count]
    malicious: list[_Count]


class _Delay(Spread):
    detected: RateRow


class SignalRow(TypedDict):
    """The signal as a detector of one class of rows against the other."""

    name: str
    kind: Literal["prompt", "response"]
    n: _Count
    n_malicious: _Count
    auc: _Share
    auc_low: _Share
    auc_high: _Share
    auc_by_length: NotRequired[_Share | None]
    recall_at_fpr: dict[str, RateRow]
    flagged_benign: RateRow
    flagged_malicious: RateRow
    ece: _Share
    reliability: list[Bin]
    roc: list[list[float]]
    histogram: _Histogram
    delay_tokens: _Delay | None


class Results(TypedDict):
    """`results.json`: the fields of `run.json`, and every rate made from the run's files."""

    schema_version: Literal[2]
    suite: str
    suite_sha256: str
    settings: dict[str, Any]
    target: dict[str, Any]
    seed: int
    datasets: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    started: str
    harm_judges: list[str]
    attacks: list[AttackRow]
    over_refusal: list[OverRefusalRow]
    signal: list[SignalRow]
    leak: list[LeakRow]
    overhead: Any
    utility: Any
    probe: Any
    judges: dict[str, Any]


def rate_row(rate: Rate) -> RateRow:
    """Return a rate as it stands in `results.json`."""
    low, high = rate.interval
    value = rate.value if rate.n else None
    return {"value": value, "low": low, "high": high, "successes": rate.successes, "n": rate.n}


def validate_results(results: Mapping[str, Any]) -> None:
    """Check a result against :class:`Results`; fields that the schema does not name are let through.

    Raises:
        DataError: If a field is missing, has another type or lies outside its range; the message lists up to 10.
    """
    problems = list(_problems(results, Results, ""))
    if problems:
        raise DataError(
            problems_in("in the results", problems, most=_MOST_PROBLEMS),
            hint="docs/run-folder.md describes `results.json`",
        )


def _problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    """Yield what keeps a JSON value from being of a type."""
    origin = get_origin(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        yield from _object_problems(value, kind, path)
    elif origin is Annotated:
        plain, within = get_args(kind)
        yield from _number_problems(value, plain, within, path)
    elif origin in (Union, types.UnionType):
        yield from _union_problems(value, kind, path)
    elif origin is Literal:
        if value not in get_args(kind):
            yield f"{path} = {value!r}    must be one of {', '.join(map(repr, get_args(kind)))}"
    elif origin in (list, dict):
        yield from _container_problems(value, origin, get_args(kind)[-1], path)
    elif not _is(value, kind):
        yield f"{path} = {value!r:.60}    must be of type {kind.__name__}"


def _object_problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path} = {value!r:.60}    must be an object"
        return
    for name, hint in get_type_hints(kind, include_extras=True).items():
        optional = get_origin(hint) is NotRequired
        inner = get_args(hint)[0] if optional else hint
        where = f"{path}.{name}".lstrip(".")
        if name in value:
            yield from _problems(value[name], inner, where)
        elif not optional:
            yield f"{where}    is missing"
    if kind is RateRow:
        yield from _rate_problems(value, path)


def _rate_problems(value: Mapping[str, Any], path: str) -> Iterator[str]:
    """Hold a rate to its counts: the three numbers follow from them."""
    successes, n = value.get("successes"), value.get("n")
    if not (isinstance(successes, int) and isinstance(n, int) and 0 <= successes <= n):
        yield f"{path}    must count successes among n"
        return
    expected: dict[str, Any] = {**rate_row(Rate(successes, n))}
    for name, wanted in expected.items():
        found: Any = value.get(name)
        same = found is None if wanted is None else _is(found, float) and math.isclose(found, wanted, abs_tol=1e-9)
        if not same:
            yield f"{path}.{name} = {found!r}    must be {wanted!r} for {successes} of {n}"


def _number_problems(value: Any, kind: Any, within: _Within, path: str) -> Iterator[str]:
    if not _is(value, kind):
        yield f"{path} = {value!r:.60}    must be a number"
    elif not within.low <= value <= within.high:
        yield f"{path} = {value!r}    must be in [{within.low:g}, {within.high:g}]"


def _union_problems(value: Any, kind: Any, path: str) -> Iterator[str]:
    """Yield the problems with the one type beside null."""
    (other,) = (arm for arm in get_args(kind) if arm is not types.NoneType)
    if value is not None:
        yield from _problems(value, other, path)


def _container_problems(value: Any, kind: Any, item: Any, path: str) -> Iterator[str]:
    if not isinstance(value, kind):
        yield f"{path} = {value!r:.60}    must be of type {kind.__name__}"
        return
    for key in value if kind is dict else range(len(value)):
        yield from _problems(value[key], item, f"{path}.{key}" if kind is dict else f"{path}[{key}]")


def _is(value: Any, kind: Any) -> bool:
    """Tell whether a JSON value is of a plain type; an integer is a float too, a boolean is neither."""
    if kind in (int, float):
        number = isinstance(value, int | float) if kind is float else isinstance(value, int)
        return number and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)
