from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesignal.data.mixture import (
    filter_licence,
    mix,
    normalise,
    prompt_key,
    split_by_prompt,
    text_statistics,
    train_eval_overlap,
)
from safesignal.data.records import Message, PromptLabel, Record, with_meta
from safesignal.errors import DataError, UsageError


def rec(name: str, text: str, *, licence: str = "permissive", label: PromptLabel | None = None) -> Record:
    return Record(name, (Message("user", text),), prompt_label=label, licence=licence)


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert set(once) <= set("abcdefghijklmnopqrstuvwxyz0123456789 ")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.integers(0, 5), st.randoms())
def test_no_prompt_stands_on_both_sides_and_order_moves_none(texts: list[str], seed: int, rng: object) -> None:
    records = [rec(f"{index}", text) for index, text in enumerate(texts)]
    records += [with_meta(rec(f"w{i}", f"Wrapped: {text}!"), base_prompt=text) for i, text in enumerate(texts)]
    train, val = split_by_prompt(records, 0.5, seed)
    assert {prompt_key(record) for record in train}.isdisjoint(prompt_key(record) for record in val)
    assert sorted(record.id for record in train + val) == sorted(record.id for record in records)
    assert {record.id for record in split_by_prompt(records[::-1], 0.5, seed)[1]} == {record.id for record in val}


def test_the_split_follows_fraction_and_seed() -> None:
    records = [rec(str(number), f"prompt {number}") for number in range(2000)]
    train, val = split_by_prompt(records, 0.1, 0)
    assert 140 < len(val) < 260
    assert val != split_by_prompt(records, 0.1, 1)[1]
    assert split_by_prompt(records, 0.0, 0) == (records, [])
    assert train
    with pytest.raises(UsageError, match="val_fraction"):
        split_by_prompt(records, 1.0, 0)


def test_other_scripts_are_not_one_prompt() -> None:
    assert prompt_key(rec("a", "\u4f60\u597d")) != prompt_key(rec("b", "\u518d\u89c1"))


def test_only_known_licences_ship() -> None:
    names = ["permissive", "sharealike", "noncommercial", "unstated", "MIT", ""]
    kept = filter_licence([rec(name, "p", licence=name) for name in names])
    assert [record.licence for record in kept] == ["permissive", "sharealike"]


def test_mix_keeps_the_ratio_and_repeats_only_when_it_must() -> None:
    pools = {"a": [rec(f"a{i}", "x") for i in range(100)], "b": [rec(f"b{i}", "x") for i in range(4)]}
    counts = Counter(record.id for record in mix(pools, {"a": 3, "b": 1}, 40, 0))
    assert sum(count for name, count in counts.items() if name[0] == "a") == 30
    assert max(count for name, count in counts.items() if name[0] == "a") == 1
    assert sorted(count for name, count in counts.items() if name[0] == "b") == [2, 2, 3, 3]
    assert mix(pools, {"a": 3, "b": 1}, 40, 0) == mix(pools, {"a": 3, "b": 1}, 40, 0)
    assert mix(pools, {"a": 3, "b": 1}, 40, 0) != mix(pools, {"a": 3, "b": 1}, 40, 1)


def test_mix_names_all_that_is_wrong() -> None:
    with pytest.raises(UsageError, match=r"`a` has no weight.*`c` has no source"):
        mix({"a": []}, {"c": 1.0}, 1, 0)
    with pytest.raises(DataError, match="no rows"):
        mix({"a": []}, {"a": 1.0}, 1, 0)
    with pytest.raises(UsageError, match="all weights are 0"):
        mix({"a": [rec("a", "x")]}, {"a": 0.0}, 1, 0)


words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=8).map(" ".join)


@given(st.lists(words, max_size=12), st.lists(words, max_size=12))
def test_overlap_finds_what_comparing_all_pairs_finds(train: list[str], evaluation: list[str]) -> None:
    left = [rec(f"t{i}", text) for i, text in enumerate(train)]
    right = [rec(f"e{i}", text) for i, text in enumerate(evaluation)]
    report = train_eval_overlap(left, right)
    exact, near = set(), set()
    for one in left:
        for two in right:
            a, b = set(one.prompt.split()), set(two.prompt.split())
            if one.prompt == two.prompt:
                exact.add((one.id, two.id))
            elif len(a & b) / len(a | b) >= 0.8:
                near.add((one.id, two.id))
    assert {(pair.train_id, pair.eval_id) for pair in report.exact} == exact
    assert {(pair.train_id, pair.eval_id) for pair in report.near} == near


def test_overlap_looks_at_goals_and_further_turns() -> None:
    wrapped = with_meta(rec("e", "In a play: bake bread"), goal="Bake bread!", turns=["one", "Now slice it"])
    report = train_eval_overlap([rec("t1", "bake BREAD"), rec("t2", "now slice it"), rec("t3", "else")], [wrapped])
    assert report.train_ids == {"t1", "t2"}
    assert bool(report)


def test_statistics_tell_forms_apart() -> None:
    records = [rec("a", "How are you?", label="benign"), rec("b", "List three fruits", label="malicious")]
    stats = text_statistics([*records, rec("c", "is it late", label="benign")])
    assert stats["benign"].question_form_share == 1.0
    assert stats["benign"].question_mark_share == 0.5
    assert stats["malicious"].question_form_share == 0.0
    assert stats["malicious"].words_mean == 3.0
    assert stats["benign"].punctuation_share == pytest.approx(1 / 22)
