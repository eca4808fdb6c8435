"""The schema check finds each kind of damage and names its place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from safesignal.errors import DataError
from safesignal.evals.results import summarise_run
from safesignal.evals.schema import rate_row, validate_results
from safesignal.stats import Rate
from tests.evals.rows import attempts, has_schema, run_folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("schema")
    rows = (
        attempts("resisted", 3) + attempts("succeeded", 1, 3) + attempts("succeeded", 2, cell="plain", label="benign")
    )
    return summarise_run(run_folder(folder / "run", rows))


def damaged(results: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with one place overwritten, or taken out where the value is `...`."""
    copied = copy.deepcopy(results)
    *steps, last = path.split("/")
    place: Any = copied
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copied


def test_what_was_made_from_files_has_the_schema(results: dict[str, Any]) -> None:
    assert has_schema(results)


def test_fields_beyond_the_schema_are_let_through(results: dict[str, Any]) -> None:
    assert has_schema(results | {"comment": "x"})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("seed", ..., "seed    is missing"),
        ("seed", True, "seed = True    must be of type int"),
        ("schema_version", 1, "schema_version = 1    must be one of 2"),
        ("attacks", {}, "attacks = {}    must be of type list"),
        ("datasets", {"set": 3}, "datasets.set = 3    must be of type dict"),
        ("attacks/0/n_planned", -1, r"attacks\[0\].n_planned = -1    must be in \[0, inf\]"),
        ("attacks/0/mean_tokens", float("nan"), r"mean_tokens = nan    must be a number"),
        ("attacks/0/asr", 0.25, r"attacks\[0\].asr = 0.25    must be an object"),
        ("attacks/0/asr/low", 1.5, r"asr.low = 1.5    must be in \[0, 1\]"),
        ("attacks/0/asr/low", 0.2, r"asr.low = 0.2    must be 0.0455"),
        ("attacks/0/asr/value", None, "asr.value = None    must be 0.25 for 1 of 4"),
        ("attacks/0/asr/n", 0, "asr    must count successes among n"),
        ("over_refusal/0/label", "odd", "label = 'odd'    must be one of 'malicious', 'benign'"),
    ],
)
def test_damage_is_named(results: dict[str, Any], path: str, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        validate_results(damaged(results, path, value))


def test_all_problems_come_at_once_and_ten_are_shown() -> None:
    with pytest.raises(DataError, match=r"22 problems in the results(?s:.*)and 12 more"):
        validate_results({"signal": [1] * 5})


@pytest.mark.parametrize("rate", [Rate(0, 0), Rate(0, 100), Rate(7, 7), Rate(2, 3)], ids=str)
def test_a_rate_is_written_as_it_is(rate: Rate) -> None:
    row = rate_row(rate)
    assert (row["low"], row["high"]) == rate.interval
    assert (row["successes"], row["n"], row["value"]) == (rate.successes, rate.n, rate.value if rate.n else None)
