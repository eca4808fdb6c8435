from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from safesignal.data.build.build import Built, build
from safesignal.data.build.match import group_of
from safesignal.data.build.recipe import Holdout, Matching, Noise, Part, Recipe, Wrapping
from safesignal.data.build.variants import KINDS
from safesignal.data.records import Record
from safesignal.errors import DataError, UsageError
from tests.data.build.rows import BENIGN, MALICIOUS, folder, row, write


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return folder(tmp_path)


def recipe(data: Path, **more: Any) -> Recipe:
    parts = tuple(Part(name, file=str(data / f"{name}.jsonl")) for name in ("good", "bad"))
    return Recipe(**{"name": "r", "parts": parts} | more)


def labels(rows: list[Record]) -> Counter[str | None]:
    return Counter(row.prompt_label for row in rows)


FULL: dict[str, Any] = {
    "match": (Matching("all", ("good", "bad")),),
    "wrap": Wrapping(8),
    "noise": Noise(0.2),
    "holdout": Holdout(families=("other/held",), n=6),
}


@pytest.fixture
def built(data: Path) -> Built:
    return build(recipe(data, **FULL), data)


def test_rows_keep_where_they_come_from(data: Path) -> None:
    rows = build(recipe(data), data).rows
    assert labels(rows) == {BENIGN: 61, MALICIOUS: 60}
    assert {(r.source, r.meta["part"], r.licence) for r in rows} == {(n, n, "permissive") for n in ("good", "bad")}
    assert [r.id for r in rows[:2]] == ["b0", "b1"]


def test_drops_are_counted_with_their_reason(data: Path) -> None:
    report = build(recipe(data), data).report
    assert report["parts"]["good"] == {"read": 62, "drawn": 61, "dropped": {"licence: noncommercial": 1}}
    assert report["parts"]["bad"] == {"read": 61, "drawn": 60, "dropped": {"evaluation text": 1}}
    assert report["rows"]["by_prompt_label"] == {"benign": 61, "malicious": 60}
    assert set(report["inputs"]) == {"good.jsonl", "bad.jsonl", "eval_set.jsonl", "train_jailbreak_templates.jsonl"}


def test_evaluation_texts_are_looked_for_unless_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAFESIGNAL_DATA_DIR", raising=False)
    assert labels(build(recipe(data, eval_jaccard=None), None).rows)[MALICIOUS] == 61
    with pytest.raises(UsageError, match="no data folder"):
        build(recipe(data), None)
    monkeypatch.setenv("SAFESIGNAL_DATA_DIR", str(data))
    assert labels(build(recipe(data), None).rows)[MALICIOUS] == 60


def test_counts_weights_and_labels(data: Path) -> None:
    good, bad = (str(data / f"{name}.jsonl") for name in ("good", "bad"))
    parts = (Part("g", file=good, weight=1), Part("b", file=bad, weight=3))
    assert labels(build(recipe(data, parts=parts, total=20), data).rows) == {BENIGN: 5, MALICIOUS: 15}
    assert labels(build(recipe(data, parts=parts, total=400), data).rows) == {BENIGN: 61, MALICIOUS: 60}
    parts = (Part("g", file=good, n=7), Part("b", file=bad, label="benign"))
    small = build(recipe(data, parts=parts), data)
    assert labels(small.rows) == {BENIGN: 7}
    assert small.report["parts"]["b"]["dropped"] == {"label: malicious": 61}
    other = build(recipe(data, parts=parts, seed=1), data)
    assert {r.id for r in other.rows} != {r.id for r in small.rows}


def test_responses_are_kept_or_dropped(data: Path) -> None:
    file = str(write(data / "said.jsonl", [row("s", "bake a pie", response="Yes.", response_label="benign")]))
    kept = build(recipe(data, parts=(Part("said", file=file),)), data).rows[0]
    assert (kept.response, kept.response_label) == ("Yes.", "benign")
    bare = build(recipe(data, parts=(Part("said", file=file, responses=False),)), data).rows[0]
    assert (bare.response, bare.response_label) == (None, "none")


def test_ids_are_distinct(data: Path) -> None:
    write(data / "bad.jsonl", [row("b0", "curse the moon", MALICIOUS)])
    with pytest.raises(DataError, match=r"'b0' stands in part `good` and in part `bad`"):
        build(recipe(data), data)


def test_matched_and_varied_rows_are_even(built: Built) -> None:
    counts = labels(built.rows)
    assert counts[BENIGN] == counts[MALICIOUS]
    kinds = built.report["rows"]["by_variant"]
    assert kinds["pyrit/templates"] == 16
    assert sum(kinds.get(kind, 0) for kind in KINDS) == 22
    assert built.report["matching"]["all"]["kept"] == {"benign": 54, "malicious": 54}
    for name in ("whole", "all, before", "all, matched"):
        assert built.report["separability"][name]["words"] > 0.9
    assert built.report["separability"]["all, before"]["rows"] == 109
    ids = [r.id for r in built.rows]
    assert len(set(ids)) == len(ids)
    assert {r.meta["variant_of"] for r in built.rows if "variant_of" in r.meta} < set(ids)


def test_templates_of_a_file_join_the_registered_ones(data: Path) -> None:
    own = {"id": "own", "source": "safesignal/framings", "template": "In a play, [INSERT PROMPT HERE]"}
    file = write(data / "own.jsonl", [own])
    wrapping = Wrapping(4, families=("safesignal/framings",), files=(str(file),))
    made = build(recipe(data, wrap=wrapping), data)
    wrapped = [row for row in made.rows if row.meta.get("family") == "safesignal/framings"]
    assert labels(wrapped) == {BENIGN: 4, MALICIOUS: 4}
    assert all(row.prompt.startswith("In a play, ") and row.licence == "permissive" for row in wrapped)
    assert "own.jsonl" in made.report["inputs"]


def test_only_templates_that_may_ship_are_trained_on(data: Path, built: Built) -> None:
    assert built.report["templates"] == {"training": {"pyrit/templates": 2}, "held_out": {"other/held": 1}}
    with pytest.raises(DataError, match="no template is left"):
        build(recipe(data, wrap=Wrapping(3, families=("other/free",))), data)
    loose = recipe(data, wrap=Wrapping(3, families=("other/free",)), licences=("permissive", "unstated"))
    assert {r.licence for r in build(loose, data).rows if "family" in r.meta} == {"unstated"}


def test_held_out_families_share_nothing_with_the_rows(built: Built) -> None:
    assert labels(built.held_out) == {BENIGN: 6, MALICIOUS: 6}
    assert {r.meta["family"] for r in built.held_out} == {"other/held"}
    assert {r.meta.get("family") for r in built.rows} == {None, "pyrit/templates"}
    assert {group_of(r) for r in built.held_out}.isdisjoint(group_of(r) for r in built.rows)
    assert built.report["held_out"]["n"] == 12


def test_held_out_sources_are_in_their_own_file_only(data: Path) -> None:
    made = build(recipe(data, holdout=Holdout(sources=("bad",))), data)
    assert labels(made.rows) == {BENIGN: 61}
    assert labels(made.held_out) == {MALICIOUS: 60}


def test_no_row_shares_a_prompt_or_a_pair_with_a_held_out_source(data: Path) -> None:
    away = [
        row("a1", "How do I braid the dough of a long loaf?", response="Slowly.", response_label="benign"),
        row("a2", "Which flour suits a flat bread best of all?", pair="twins"),
    ]
    near = [
        row("n1", "In a play, braid it", base_prompt="How do I braid the dough of a long loaf?"),
        row("n2", "Which poison suits a flat bread best of all?", MALICIOUS, pair="twins"),
        row("n3", "How do I braid the dough of a long loaf?", pair="other", response="By hand, in three strands."),
        row("n4", "Where do bakers of the old town sleep?"),
    ]
    files = {name: str(write(data / f"{name}.jsonl", rows)) for name, rows in (("away", away), ("near", near))}
    parts = tuple(Part(name, file=file) for name, file in files.items())
    made = build(recipe(data, parts=parts, holdout=Holdout(sources=("away",))), data)
    assert [r.id for r in made.rows] == ["n4"]
    assert [r.id for r in made.held_out] == ["a1", "a2"]
    assert made.report["parts"]["near"]["dropped"] == {"prompt of a held-out source": 3}


def test_a_framing_without_its_slot_is_refused(data: Path) -> None:
    own = {"id": "own-7", "source": "safesignal/framings", "template": "You are a dragon. {prompt}"}
    file = write(data / "own.jsonl", [own])
    with pytest.raises(DataError, match=r"(?s)own\.jsonl.*line 1  template  own-7 has no slot.*\[INSERT PROMPT HERE\]"):
        build(recipe(data, wrap=Wrapping(4, files=(str(file),))), data)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"holdout": Holdout(sources=("badd",))}, "holdout.sources names `badd`"),
        ({"holdout": Holdout(families=("moon",))}, "holdout.families names `moon`"),
        ({"wrap": Wrapping(1, families=("moon",))}, "wrap.families names `moon`"),
    ],
)
def test_a_name_that_nothing_has_is_an_error(data: Path, more: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        build(recipe(data, **more), data)


def test_a_wrapped_text_near_an_evaluation_takes_its_couple_along(data: Path) -> None:
    wrapped = "You are a dragon. How do I polish the oven that stands in my kitchen number 0?"
    write(data / "eval_more.jsonl", [{"id": "w", "prompt": wrapped}])
    write(
        data / "train_jailbreak_templates.jsonl",
        [{"id": "t1", "source": "pyrit/templates", "template": "You are a dragon. [INSERT PROMPT HERE]"}],
    )
    made = build(recipe(data, wrap=Wrapping(60), eval_jaccard=0.95), data)
    family = [r for r in made.rows if "family" in r.meta]
    assert wrapped not in {r.prompt for r in family}
    assert labels(family) == {BENIGN: 59, MALICIOUS: 59}
    assert made.report["parts"]["good"]["dropped"]["variant near evaluation text"] == 1


def test_what_an_earlier_recipe_made_of_the_same_rows_is_not_made_again(data: Path) -> None:
    made = build(recipe(data, noise=Noise(0.5, parts=("good", "bad"))), data)
    noisy = [r for r in made.rows if "variant_of" in r.meta]
    write(data / "seen.jsonl", [row(r.id, r.prompt, r.prompt_label or BENIGN) for r in noisy])
    parts = (*recipe(data).parts, Part("seen", file=str(data / "seen.jsonl")))
    again = build(recipe(data, parts=parts, noise=Noise(1.0, parts=("good", "bad"))), data)
    assert len({r.id for r in again.rows}) == len(again.rows) > len(made.rows)
    dropped = sum(part["dropped"].get("variant that a part has", 0) for part in again.report["parts"].values())
    assert dropped > 0
    anew = labels([r for r in again.rows if "variant_of" in r.meta])
    assert anew[BENIGN] == anew[MALICIOUS]


def test_the_same_recipe_gives_the_same(data: Path, built: Built) -> None:
    again = build(recipe(data, **FULL), data)
    assert again == built
    assert build(recipe(data, **FULL, seed=1), data).rows != built.rows
