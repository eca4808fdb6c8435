"""What is said first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safesignal.report.concerns import concerns
from safesignal.report.runs import load_runs
from tests.report.build import attack, build, rate, refusals, results


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
    assert "no attempt could be made in deep: the unguarded model complied with none" in said


def test_a_cell_without_attempts_names_what_it_was_short_of(tmp_path: Path) -> None:
    left_out = {"deep": {"depth=40": {"too_short": 12, "refused": 1}, "depth=80": {"too_short": 13}}}
    found = results(attacks=[attack("direct", 0, 100)], planned={"deep": 0}, left_out=left_out)
    (said,) = of(tmp_path, found)
    assert said.endswith("no attempt could be made in deep: too short: 25, refused: 1.")


def test_errors_of_a_mixed_cell_are_told_once_each(tmp_path: Path) -> None:
    asked = [refusals("xstest", (90, 0, 0, 0), label, errored=2) for label in ("benign", "malicious")]
    found = of(tmp_path, results(attacks=[attack("xstest", 0, 90, dataset="xstest", errored=2)], over_refusal=asked))
    assert len([text for text in found if "attempts errored" in text]) == 2


def test_many_undecided_ordinary_prompts_and_verdicts_are_told(tmp_path: Path) -> None:
    asked = [refusals("alpaca", (92, 0, 0, 0), undecided=8, n=100)]
    harm = {"harm": rate(0, 20), "guard": rate(0, 99)}
    found = of(tmp_path, results(attacks=[attack("direct", 0, 100, asr_harm=harm)], over_refusal=asked))
    assert [text.split(": ", 1)[1] for text in found] == [
        "harm could not decide 80 of 100 in direct (advbench); its rate leaves them out.",
        "8 of 100 attempts in alpaca are undecided, and in no rate.",
    ]
