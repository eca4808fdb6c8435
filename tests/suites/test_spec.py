"""Suites are read whole or refused whole, every problem at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from safesignal.attacks.registry import build_attack
from safesignal.data.catalog import SOURCES
from safesignal.errors import UsageError
from safesignal.suites.spec import known_suites, load_suite


@pytest.mark.parametrize("name", ["quick", "paper", "full"])
def test_every_shipped_suite_names_known_attacks_and_sets(name: str) -> None:
    suite = load_suite(name)
    assert name in known_suites()
    assert suite.name == name
    for cell in suite.cells:
        build_attack({"attack": cell.attack, **cell.parameters})
        assert cell.dataset in SOURCES
        assert SOURCES[cell.dataset].role == "eval"
    for kind in ("prompts", "responses"):
        assert set(suite.sections["signal"][kind]) <= set(SOURCES)


def test_defaults_and_overrides(suite_file: Path) -> None:
    suite = load_suite(str(suite_file))
    direct, deep, unbuffered, ordinary = suite.cells
    assert (suite.seed, direct.max_new_tokens, deep.max_new_tokens) == (3, 6, 4)
    assert (direct.limit, ordinary.limit) == (3, None)
    assert deep.parameters == {"depth": [2, 4]}
    assert (direct.buffer, unbuffered.buffer) == (True, False)
    assert suite.sections == {}


def test_the_fingerprint_follows_what_decides_attempts_and_nothing_else(suite_file: Path) -> None:
    def sha(old: str = "", new: str = "") -> str:
        other = suite_file.with_name("other.yaml")
        other.write_text(suite_file.read_text().replace(old, new) if old else suite_file.read_text())
        return load_suite(str(other)).sha256

    assert sha("seed: 3", "seed: 4") != sha() != sha("limit: 3", "limit: 2")
    assert sha("cells:", "utility: {gsm8k: 3}\n# a remark\ncells:") == sha()


def test_all_problems_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: bad\nsede: 1\nmax_new_tokens: long\nprobe: 3\nutility: {gsm9k: 3}\ncells:\n"
        "  - {cell: a, attack: direct, dataset: x, limit: 0}\n"
        "  - {cell: a, attack: direct, dataset: x, buffer: maybe}\n"
        "  - {cell: b, attack: 7}\n"
    )
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    said = str(caught.value)
    for part in (
        "9 problems",
        "utility.gsm9k",
        "sede",
        "max_new_tokens",
        "probe",
        "named 2 times",
        "limit",
        "buffer",
        "`attack`",
        "`dataset`",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: 2024-01-01", "name = datetime.date(2024, 1, 1): expected text"),
        ("max_new_tokens: 0", "max_new_tokens = 0: expected an integer of at least 1"),
        (
            "probe: {dataset: advbench, limit: 2, top_k: 5}",
            "probe.depths: missing; expected a list, each a whole number",
        ),
        ("probe: {dataset: advbench, limit: 2, depths: [], top_k: 5}", "probe.depths = []: expected at least one"),
        ("probe: {dataset: 3, limit: 2, depths: [1], top_k: 5}", "probe.dataset = 3: expected text"),
        (
            "signal: {prompts: [advbench]}",
            "signal.prompts = ['advbench']: expected a mapping from sets to a whole number",
        ),
        (
            "signal: {responses: {advbench: two}}",
            "signal.responses = {'advbench': 'two'}: expected a mapping from sets",
        ),
        ("signal: {prompts: {advbench: 0}}", "signal.prompts = {'advbench': 0}: expected at least 1 each"),
        ("signal: {prompts: {advbnch: 5}}", "signal.prompts: unknown data set `advbnch`; known: advbench"),
        ("utility: {perplexity: {7: 5}}", "utility.perplexity: unknown data set `7`"),
        ("utility: {gsm8k: '50'}", "utility.gsm8k = '50': expected a whole number"),
        ("overhead: {batch_sizes: 1}", "overhead.batch_sizes = 1: expected a list, each a whole number"),
        ("overhead: {contexts: [8, 0]}", "overhead.contexts = [8, 0]: expected at least 1 each"),
        ("overhead: {repeats: 0}", "overhead.repeats = 0: expected at least 1"),
    ],
)
def test_what_a_suite_says_is_checked_before_anything_runs(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"{text}\ncells: []\n")
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    assert str(caught.value).startswith(f"1 problem in suite `{path}`\n  {said}")


def test_problems_of_all_sections_come_with_those_of_the_cells(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "1: 2\nother: 3\nprobe: {limit: 0}\nsignal: {prompts: {advbnch: 5}}\n"
        "cells: [{cell: a, attack: direct, dataset: x, limit: 0, 3: 4}]\n"
    )
    with pytest.raises(UsageError) as caught:
        load_suite(str(path))
    said = str(caught.value)
    assert said.startswith("9 problems")  # two unknown, four of the probe, a set, two of the cell
    assert "did you mean `advbench`" in said


def test_a_set_may_be_taken_whole_and_a_section_left_empty(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("signal: {prompts: {advbench: null}}\nprobe: {}\ncells: []\n")
    assert load_suite(str(path)).sections == {"signal": {"prompts": {"advbench": None}}}


def test_a_date_among_the_settings_of_an_attack_is_refused_by_the_attack(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("cells: [{cell: a, attack: prefill, text: 2024-01-01, dataset: x}]\n")
    (cell,) = load_suite(str(path)).cells
    with pytest.raises(UsageError, match=r"prefill\.text = datetime\.date\(2024, 1, 1\)    must be text"):
        build_attack({"attack": cell.attack, **cell.parameters})


@pytest.mark.parametrize(
    ("text", "part"), [("- 1", "is a list"), ("a: [", "is not YAML"), ("cells: 3", "expected a list")]
)
def test_what_is_no_suite(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "no.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=part):
        load_suite(str(path))


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(UsageError, match="Expected full, paper, quick") as caught:
        load_suite("papers")
    assert "paper" in caught.value.hint
