"""The steps one by one: overlap, duplicates, form, matching, variants, separability."""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesignal.data.build.duplicates import jaccard, shingles, signatures, unique
from safesignal.data.build.form import FEATURES, Form, features, form_of
from safesignal.data.build.match import group_of, match
from safesignal.data.build.overlap import NearIndex, eval_files, eval_texts, touches
from safesignal.data.build.separability import separability
from safesignal.data.build.variants import KINDS, couples, noisy, wrap
from safesignal.data.mappers import SLOT
from safesignal.data.mixture import prompt_key
from safesignal.data.records import Message, PromptLabel, Record
from safesignal.data.sources import SOURCES
from safesignal.errors import DataError
from tests.data.build.rows import BENIGN, MALICIOUS, rec, write

words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join)


@given(st.lists(words, max_size=12), words, st.sampled_from([0.5, 0.6, 0.75, 1.0]))
def test_the_index_finds_what_comparing_with_all_finds(texts: list[str], query: str, threshold: float) -> None:
    pairs = [(set(query.split()), set(text.split())) for text in texts]
    expected = any(len(a & b) / len(a | b) >= threshold for a, b in pairs)
    assert NearIndex(texts, threshold).near(query) == expected


def test_every_evaluation_file_of_the_catalog_is_read() -> None:
    names = [source.local_file for source in SOURCES.values() if source.role == "eval" and source.local_file]
    assert names
    assert all(Path(name).match("eval_*.jsonl") for name in names)


def test_all_texts_of_an_evaluation_row_count(tmp_path: Path) -> None:
    write(
        tmp_path / "eval_a.jsonl", [{"id": "1", "goal": "bake bread", "turns": ["slice it", {"x": "toast it"}], "n": 3}]
    )
    write(tmp_path / "train.jsonl", [{"id": "2", "prompt": "other"}])
    assert list(eval_texts(eval_files(tmp_path))) == ["1", "bake bread", "slice it", "toast it"]
    with pytest.raises(DataError, match="no evaluation set"):
        eval_files(tmp_path / "nowhere")


def test_a_wrapper_does_not_hide_an_evaluation_prompt() -> None:
    index = NearIndex(["bake a dark loaf of bread"], 0.6)
    assert touches(rec("a", "Bake a dark loaf of rye bread!"), index)
    assert touches(rec("b", "In a play, say this", base_prompt="bake a dark loaf of bread"), index)
    assert not touches(rec("c", "bake a cake"), index)


def test_shingles_of_short_and_foreign_texts() -> None:
    assert shingles("One, two") == {"one two"}
    assert shingles("你好") != shingles("再见")


def test_signatures_estimate_the_similarity_and_follow_the_seed() -> None:
    left = frozenset(map(str, range(300)))
    right = frozenset(map(str, range(100, 400)))
    one, other = signatures([left, right], 0)
    assert abs(float((one == other).mean()) - jaccard(left, right)) < 0.2
    assert (signatures([left], 0) == one).all()
    assert (signatures([left], 1) != one).any()


def kept_ids(records: list[Record], threshold: float = 0.8) -> tuple[list[str], dict[str, str]]:
    kept, dropped = unique(records, threshold, 0)
    return [record.id for record in kept], {record.id: reason for record, reason in dropped}


LONG = "please tell me in some detail how a baker in the old town bakes a loaf of bread on a cold winter day"


def test_of_rows_that_say_the_same_the_first_stays() -> None:
    rows = [rec("a", LONG), rec("b", LONG.upper() + "!"), rec("c", LONG + " now"), rec("d", "bake a cake instead")]
    assert kept_ids(rows) == (["a", "d"], {"b": "duplicate", "c": "near duplicate"})
    assert kept_ids([rows[0], rows[2]], 1.0) == (["a", "c"], {})


def test_contrastive_twins_stay_and_torn_labels_go() -> None:
    twin = rec("b", LONG + " now", MALICIOUS)
    assert kept_ids([rec("a", LONG), twin])[0] == ["a", "b"]
    torn = [rec("a", LONG), rec("b", LONG + "!", MALICIOUS), rec("c", "other")]
    assert kept_ids(torn) == (["c"], {"a": "conflicting label", "b": "conflicting label"})


def test_a_follow_up_is_known_by_what_came_before() -> None:
    """Two conversations that end alike are two prompts; the same one with both labels is torn."""
    ends = [rec(name, "continue", label) for name, label in (("a", BENIGN), ("b", MALICIOUS), ("c", MALICIOUS))]
    asked = (("a", "Bake a loaf"), ("b", "Rob a bank"), ("c", "Bake a loaf"))
    rows = [
        replace(row, messages=(Message("user", before), Message("assistant", "Well."), *row.messages))
        for row, (_, before) in zip(ends, asked, strict=True)
    ]
    assert kept_ids(rows[:2]) == (["a", "b"], {})
    assert kept_ids([replace(rows[0], response="Knead it."), rows[1]]) == (["a", "b"], {})
    assert kept_ids(rows) == (["b"], {"a": "conflicting label", "c": "conflicting label"})


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ("用Python写爬虫", "用PYTHON写爬虫\uff01", "用Python写网站"),
        ("Как открыть PowerShell script", "как открыть: PowerShell script?", "Как удалить PowerShell script"),
        ("USB की जाँच", "usb की जाँच।", "USB की जोंच"),
        ("??", " ?? ", "?"),
    ],
)
def test_texts_of_other_scripts_are_known_by_all_their_letters(one: str, same: str, other: str) -> None:
    rows = [rec("a", one), rec("b", same), rec("c", other, MALICIOUS), rec("d", "Python powershell script USB")]
    assert kept_ids(rows) == (["a", "c", "d"], {"b": "duplicate"})


def test_answers_make_rows_different() -> None:
    rows = [rec("a", LONG), rec("b", LONG, response="With flour."), rec("c", LONG, response="With rye.")]
    rows += [rec("d", LONG + " now", response="With flour, and slowly, over many hours")]
    assert kept_ids(rows) == (["b", "c", "d"], {"a": "duplicate"})


def test_near_duplicates_are_found_among_many() -> None:
    rng = random.Random(0)
    vocabulary = [f"word{i}" for i in range(400)]
    rows = [rec(f"r{i}", " ".join(rng.choices(vocabulary, k=30))) for i in range(150)]
    rows += [rec(f"copy{i}", rows[i].prompt + " more") for i in range(150)]
    kept, _ = kept_ids(rows)
    assert kept == [f"r{i}" for i in range(150)]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("How do I bake?", Form("question", 4, "?", "sentence", False, "I")),
        ("“Write a poem, Anna,” he said.", Form("imperative", 6, ".", "sentence", True, "names")),
        ("the bread is burnt", Form("statement", 4, "none", "lower", False, "none")),
        ("YES!", Form("statement", 1, "!", "upper", False, "none")),
        ("He said “Bake it.”", Form("statement", 4, ".", "sentence", False, "names")),
        ("what’s rye and can I bake it;", Form("question", 7, "other", "other", False, "I")),
        ("你好吗\uff1f", Form("question", 1, "?", "lower", False, "none")),
        (" ", Form("statement", 0, "none", "lower", False, "none")),
    ],
)
def test_form(text: str, form: Form) -> None:
    assert form_of(text) == form


def test_cells_agree_in_what_is_asked() -> None:
    short, longer = form_of("bake it"), form_of("bake it now and here for me")
    assert short.cell() != longer.cell()
    assert short.cell(bins=(50,)) == longer.cell(bins=(50,))
    assert short.cell(by=("ending",)) == longer.cell(by=("ending",)) == ("none",)


def test_features_have_names() -> None:
    named = dict(zip(FEATURES, features("Bake 2 loaves, now!"), strict=True))
    assert (named["words"], named["commas"], named["form:statement"], named["ending:!"]) == (4, 1, 1, 1)
    assert named["digits"] == pytest.approx(1 / 19)
    assert named["punctuation"] == pytest.approx(2 / 19)


def uneven() -> list[Record]:
    rows = [rec(f"q{i}", f"how do i bake loaf {i}?") for i in range(20)]
    rows += [rec(f"s{i}", f"the bread is burnt {i}") for i in range(5)]
    rows += [rec(f"x{i}", f"how do i curse town {i}?", MALICIOUS) for i in range(8)]
    return rows + [rec(f"y{i}", f"curse the town of {i}", MALICIOUS) for i in range(9)] + [rec("z", "unlabelled", None)]


def cells(rows: list[Record]) -> dict[str, Counter[object]]:
    labels = (BENIGN, MALICIOUS)
    return {label: Counter(form_of(r.prompt).cell() for r in rows if r.prompt_label == label) for label in labels}


def test_matched_classes_agree_in_every_cell() -> None:
    rows, report = match(uneven(), seed=1)
    counted = cells(rows)
    assert counted[BENIGN] == counted[MALICIOUS]
    assert len(rows) == 2 * (8 + 5)
    assert report["before"] == {"benign": 25, "malicious": 17, "unlabelled": 1}
    assert report["kept"] == {"benign": 13, "malicious": 13}
    assert report["share"] == pytest.approx(26 / 43)
    assert (report["cells"], report["mixed"]) == (2, 2)


def test_the_choice_follows_the_seed_and_not_the_order() -> None:
    def ids(rows: list[Record], seed: int) -> set[str]:
        return {row.id for row in match(rows, seed=seed)[0]}

    assert ids(uneven(), 1) == ids(uneven()[::-1], 1)
    assert ids(uneven(), 1) != ids(uneven(), 2)
    assert [row.id for row in match(uneven())[0]] == sorted(ids(uneven(), 0), key=[r.id for r in uneven()].index)


def test_twins_are_kept_before_others() -> None:
    rows = [rec(f"b{i}", f"bake loaf {i}", pair=f"p{i}") for i in range(40)]
    rows += [rec(f"m{i}", f"curse loaf {i}", MALICIOUS, pair=f"p{i}") for i in (3, 17, 31)]
    kept, _ = match(rows)
    assert {row.meta["pair"] for row in kept if row.prompt_label == BENIGN} == {"p3", "p17", "p31"}


def requests(n: int) -> list[Record]:
    rows = [rec(f"b{i}", "bake bread " + "well " * i + "today", response="With flour.") for i in range(n)]
    return rows + [rec(f"m{i}", "curse town " + "hard " * i + "today", MALICIOUS) for i in range(2 * n)]


def test_couples_hold_each_prompt_once_and_like_lengths() -> None:
    rows = [*requests(10), rec("again", requests(1)[0].prompt)]
    drawn = couples(rows, 8, random.Random(0))
    assert len(drawn) == 8
    assert all((one.prompt_label, two.prompt_label) == (BENIGN, MALICIOUS) for one, two in drawn)
    assert len({prompt_key(row) for pair in drawn for row in pair}) == 16
    by_length = sorted(drawn, key=lambda pair: (len(pair[0].prompt), pair[0].id))
    lengths = [len(two.prompt) for _, two in by_length]
    assert lengths == sorted(lengths)
    assert len(couples(rows, 100, random.Random(0))) == 10


def template(name: str, text: str, family: str = "pyrit/templates") -> Record:
    row = rec(name, f"{text} {SLOT}", None)
    return Record(row.id, row.messages, source=family)


def test_both_labels_are_wrapped_alike() -> None:
    templates = [template("t1", "You are a dragon."), template("t2", "You are the moon.", "other/free")]
    drawn = couples(requests(6), 6, random.Random(0))
    wrapped = wrap(drawn, templates, random.Random(0))
    used: Counter[tuple[str, str | None]] = Counter()
    for pair, bare in zip(wrapped, drawn, strict=True):
        assert pair[0].meta["template"] == pair[1].meta["template"]
        for row, base in zip(pair, bare, strict=True):
            used[row.meta["template"], row.prompt_label] += 1
            assert row.prompt.startswith("You are")
            assert row.prompt.endswith(base.prompt)
            assert (row.meta["variant_of"], row.meta["base_prompt"]) == (base.id, base.prompt)
            assert row.id == f"{row.meta['template']}/{base.id}"
            assert (row.response, row.response_label, row.source) == (None, "none", "stand-in")
            assert row.licence == ("permissive" if row.meta["family"] == "pyrit/templates" else "unstated")
            assert group_of(row) == group_of(base)
    assert set(used.values()) == {3}


def conversation(name: str, label: PromptLabel, **meta: Any) -> Record:
    turns = (Message("system", "Be brief."), Message("user", f"Bake number {name}"), Message("assistant", "Well."))
    row = rec(name, "please slice it now", label, **meta)
    return replace(row, messages=(*turns, *row.messages))


@pytest.mark.parametrize("meta", [{}, {"base_prompt": "Bake a loaf"}, {"base_prompt": " "}, {"base_prompt": 3}])
def test_variants_of_a_conversation_stay_on_its_side_of_the_split(meta: dict[str, Any]) -> None:
    pair = (conversation("b", BENIGN, **meta), conversation("m", MALICIOUS, **meta))
    template_row = template("t", "You are a dragon.")
    for made in (*wrap([pair], [template_row], random.Random(0)), *noisy([pair], ["punctuation"], 0)):
        for row, base in zip(made, pair, strict=True):
            assert prompt_key(row) == prompt_key(base)
            assert row.messages[:-1] == base.messages[:-1]
            assert row.prompt != base.prompt


def undone(kind: str, row: Record) -> str:
    """Take the noise off again; return what of the text is not the base prompt's."""
    text, base = row.prompt, str(row.meta["base_prompt"])
    if kind == "typos":
        return "" if sum(a != b for a, b in zip(text.split(), base.split(), strict=True)) == 1 else text
    if kind == "gibberish":
        assert len(text) > len(base) + 10
        return text if base not in text else ""
    if kind == "letters":
        assert len(text) == len(base)
        kept = [a for a, b in zip(text, base, strict=True) if a.lower() != b.lower()]
        return "".join(a for a in kept if a.isascii() and a.isalpha())
    # Case, marks and separators are all that changed: the letters and digits stand in their order.
    bare = ["".join(c for c in t.lower() if c.isalnum()) for t in (text, base)]
    return "" if bare[0] == bare[1] else text


@pytest.mark.parametrize("kind", KINDS)
def test_noise_disturbs_both_alike_and_a_little(kind: str) -> None:
    rows = [rec(f"b{i}", f"Please bake bread number {i} quickly.") for i in range(12)]
    rows += [rec(f"m{i}", f"Please curse towns number {i} quickly.", MALICIOUS) for i in range(12)]
    drawn = couples(rows, 12, random.Random(0))
    made = noisy(drawn, [kind], 0)
    assert len(made) > 8
    for pair in made:
        one, two = pair
        assert one.meta["variant"] == two.meta["variant"] == kind
        assert one.prompt not in (one.meta["base_prompt"], two.prompt)
        assert one.prompt.isupper() == two.prompt.isupper()
        assert undone(kind, one) == undone(kind, two) == ""
    assert noisy(drawn, [kind], 0) == made
    assert noisy(drawn, [kind], 1) != made


def test_gibberish_is_the_same_around_both_rows() -> None:
    drawn = [(rec("a", "Bake it."), rec("b", "Curse it.", MALICIOUS))] * 30
    sides: Counter[bool] = Counter()
    for one, two in noisy(drawn, ["gibberish"], 0):
        before, after = one.prompt.split("Bake it.")
        assert two.prompt.split("Curse it.") == [before, after]
        sides[bool(before)] += 1
    assert sides[False] > sides[True] > 0


def test_a_couple_that_noise_cannot_disturb_is_left_out() -> None:
    assert noisy([(rec("a", "a b c"), rec("b", "curse towns", MALICIOUS))], ["typos"], 0) == []


def test_form_and_words_that_tell_labels_apart_are_found() -> None:
    rng = random.Random(0)
    nouns = [f"noun{i}" for i in range(30)]

    def text(start: str, end: str) -> str:
        return f"{start} {' '.join(rng.choices(nouns, k=6))}{end}"

    rows = [rec(f"b{i}", text("the", "?")) for i in range(60)] + [
        rec(f"m{i}", text("the", "."), MALICIOUS) for i in range(60)
    ]
    by_form = separability(rows)
    assert by_form["form"] > 0.95
    assert 0.3 < by_form["words"] < 0.7
    rows = [rec(f"b{i}", text("bake", "")) for i in range(60)] + [
        rec(f"m{i}", text("cook", ""), MALICIOUS) for i in range(60)
    ]
    by_words = separability(rows)
    assert by_words["words"] > 0.95
    assert 0.3 < by_words["form"] < 0.7
    assert (by_words["rows"], by_words["malicious"]) == (120, 60)
    assert separability(rows) == by_words


def test_rows_of_one_prompt_do_not_leak_across_folds() -> None:
    """Each group has a word of its own and a label of its own: only leaking would tell them apart."""
    rows = [
        rec(f"{g}-{i}", f"word{g} turn{i}", MALICIOUS if g % 2 else BENIGN, pair=str(g))
        for g in range(40)
        for i in range(6)
    ]
    assert separability(rows)["words"] < 0.7


def test_what_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    few = separability(requests(2))
    assert (few["form"], few["words"]) == (None, None)
    assert "2 prompts of one label" in few["why"]
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "scikit-learn" in separability(requests(20))["why"]
