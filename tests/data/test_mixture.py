from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesignal.data.mixture import filter_licence, normalise, prompt_key, quotas, split_by_prompt
from safesignal.data.records import Message, PromptLabel, Record, with_meta
from safesignal.errors import UsageError


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


def test_quotas_add_up_and_keep_the_ratio() -> None:
    assert quotas({"a": 3, "b": 1}, 40) == {"a": 30, "b": 10}
    assert quotas({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert quotas({"a": 1, "b": 0}, 5) == {"a": 5, "b": 0}
    assert quotas({}, 3) == {}
