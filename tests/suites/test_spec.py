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
    assert sha("cells:", "probe: {limit: 3}\n# a remark\ncells:") == sha()


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
