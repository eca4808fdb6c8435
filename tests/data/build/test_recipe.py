from __future__ import annotations

from pathlib import Path

import pytest

from safesignal.data.build.recipe import load_recipe
from safesignal.errors import UsageError
from tests.support import REPO

GOOD = """
seed: 3
total: 10
parts:
  - {file: rows/good.jsonl, weight: 2, label: benign}
  - {source: catqa, name: harm, n: 5, responses: false}
match: [{name: all, parts: [good, harm], by: [form, length], length_bins: [4, 8]}]
wrap: {n: 4, families: [pyrit/templates]}
noise: {rate: 0.5, kinds: [case]}
holdout: {families: [easyjailbreak/MJP]}
"""


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def said(tmp_path: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_recipe(recipe(tmp_path, text))
    return str(caught.value)


def test_a_recipe_is_read(tmp_path: Path) -> None:
    read = load_recipe(recipe(tmp_path, GOOD))
    assert (read.name, read.seed, read.total, read.licences) == ("mine", 3, 10, ("permissive", "sharealike"))
    good, harm = read.parts
    assert (good.name, good.file, good.weight, good.label) == ("good", str(tmp_path / "rows/good.jsonl"), 2, "benign")
    assert (harm.name, harm.source, harm.n, harm.responses) == ("harm", "catqa", 5, False)
    assert read.match[0].length_bins == (4, 8)
    assert read.wrap is not None
    assert read.wrap.families == ("pyrit/templates",)
    assert read.noise is not None
    assert read.noise.kinds == ("case",)
    assert read.holdout.families == ("easyjailbreak/MJP",)
    assert load_recipe(recipe(tmp_path, GOOD + " ")).sha256 != read.sha256


def test_every_problem_comes_at_once(tmp_path: Path) -> None:
    text = """
sed: 1
eval_jaccard: 2
licences: [open]
parts:
  - {source: catq, n: 0}
  - {source: advbench}
  - {file: eval_xstest.jsonl, label: bad}
  - {n: 3, weight: 1}
  - 7
match: [{name: a, parts: [catq, catqq], by: [colour]}, {name: a, parts: [catq]}]
wrap: {family: [x]}
noise: {rate: 3}
"""
    text = said(tmp_path, text)
    lines = [
        "sed: unknown; did you mean `seed`?",
        "eval_jaccard = 2: expected a number in (0, 1], or null",
        "licences = ['open']: expected a list out of permissive",
        "parts[1].n = 0: expected an integer of at least 1",
        "parts[1].source = 'catq': unknown; did you mean `catqa`?",
        "parts[2].source = 'advbench': an evaluation set",
        "parts[3].file = 'eval_xstest.jsonl': an evaluation set",
        "parts[3].label = 'bad': expected one of benign, malicious",
        "parts[4]: expected `source` or `file`, one of the two",
        "parts[4]: expected `n` or `weight`, not both",
        "parts[4].weight: the recipe has no `total`",
        "parts[5] = 7: expected a mapping",
        "match[1].parts: no part `catqq`; did you mean `catq`?",
        "match[1].by = ['colour']: expected a list out of form",
        "match `a`: named 2 times",
        "match: part `catq` stands in 2",
        "wrap.n: missing",
        "wrap.family: unknown; did you mean `families`?",
        "noise.rate = 3: expected a number in [0, 1]",
    ]
    assert [line for line in lines if line not in text] == []
    assert text.startswith(f"{len(text.splitlines()) - 1} problems in recipe")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "Expected a mapping"),
        ("a: [", "not YAML"),
        ("seed: 1", "parts: missing"),
        ("parts: [{source: catqa}, {source: catqa}]", "part `catqa`: named 2 times"),
        ("parts: [{source: catqa}]\nseed: true", "seed = True: expected an integer"),
        ("parts: [{source: catqa}]\nnoise: {rate: .nan}", "rate = nan"),
        ("parts: [{source: catqa}]\nwrap: {n: 1, families: [x]}\nholdout: {families: [x]}", "`x` is held out"),
        ("parts: [{source: catqa}]\nmatch: [{name: a, parts: [catqa], length_bins: [4, 2]}]", "ascending"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    assert words in said(tmp_path, text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_the_recipe_that_ships_keeps_to_what_may_ship() -> None:
    read = load_recipe(REPO / "recipes" / "smollm2-data.yaml")
    assert set(read.licences) == {"permissive", "sharealike"}
    assert read.eval_jaccard is not None
    assert read.eval_jaccard <= 0.6
    assert all(Path(part.file).is_file() for part in read.parts if part.file)
