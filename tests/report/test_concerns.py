"""What is said first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safesignal.report.concerns import concerns
from safesignal.report.runs import load_runs
from tests.report.build import attack, build, results


def of(folder: Path, *found: dict[str, Any]) -> list[str]:
    folders = [build(folder / str(number), one) for number, one in enumerate(found)]
    return concerns(load_runs(folders, [f"run{number}" for number in range(len(found))]))


def test_a_sound_pair_raises_none(tmp_path: Path) -> None:
    sound: dict[str, Any] = {"attacks": [attack("direct", 0, 100)]}
    assert of(tmp_path, results(guarded=False, **sound), results(**sound)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"suite_sha256": "f" * 64}, "different suites"),
        ({"seed": 1}, "different seeds"),
        ({"datasets": {"advbench": {"sha256": "f" * 64, "n_original": 520, "n_used": 520}}}, "different data sets"),
        ({"environment": {"git_commit": "ffff"}}, "different commits"),
        ({"environment": {"git_commit": "0123abcd4567+"}}, "uncommitted changes"),
        ({"target": {"kind": "guarded", "name": "g", "base_drift": True}}, "base drift"),
        ({"attacks": [attack("direct", 1, 9)]}, "fewer than 50"),
        ({"attacks": [attack("direct", 1, 99, undecided=8)]}, "8 of 108 attempts"),
        ({"attacks": [attack("direct", 1, 99) | {"n_planned": 120}]}, "20 of 120 attempts were not made"),
        ({"attacks": [attack("direct", 1, 99, errored=2)]}, "2 attempts errored"),
    ],
)
def test_each_concern(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    sound: dict[str, Any] = {"attacks": [attack("direct", 0, 100)]}
    found = of(tmp_path, results(guarded=False, **sound), results(**(sound | change)))
    assert [said in text for text in found].count(True) == 1


def test_errors_come_first(tmp_path: Path) -> None:
    bad = results(attacks=[attack("direct", 1, 9, errored=2)], seed=4)
    assert "errored" in of(tmp_path, results(), bad)[0]


def test_a_cell_that_could_not_be_attempted_is_named(tmp_path: Path) -> None:
    (said,) = of(tmp_path, results(attacks=[attack("direct", 0, 100)], planned={"direct": 100, "deep": 0}))
    assert "no attempt could be made in deep" in said
