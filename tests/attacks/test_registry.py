"""Building attacks from the lines of a suite, and what is said about lines that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from safesignal.attacks.decoding import Decoding
from safesignal.attacks.prefill import Prefill
from safesignal.attacks.registry import ATTACKS, build_attack, describe
from safesignal.errors import UsageError


def test_settings_take_the_types_of_their_fields() -> None:
    assert build_attack({"attack": "prefill", "depth": [5, 10]}) == Prefill(depth=(5, 10))
    assert build_attack({"attack": "decoding", "temperatures": [1]}) == Decoding(temperatures=(1.0,))
    assert build_attack({"attack": "prefill", "file": None}) == Prefill()


def test_all_problems_come_at_once_and_name_the_setting() -> None:
    with pytest.raises(UsageError) as caught:
        build_attack({"attack": "nested", "layer": 3, "scene": 4, "layers": True, "characters": 0})
    message = str(caught.value)
    assert message.startswith("4 problems")
    assert "nested.layer    is unknown; did you mean `layers`?" in message
    assert "nested.scene = 4    must be text" in message
    assert "nested.layers = True    must be a whole number" in message
    assert "nested.characters = 0    must be at least 1" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [("5", "a list, each a whole number"), ([1.5], "a list, each a whole number"), (["5"], "a list")],
)
def test_values_of_another_kind_are_refused(value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_attack({"attack": "prefill", "depth": value})


def test_internal_fields_cannot_be_given() -> None:
    with pytest.raises(UsageError, match="pieces"):
        build_attack({"attack": "prefill", "pieces": {}})


@pytest.mark.parametrize("name", ["nestd", None, 3])
def test_unknown_names_get_near_ones(name: Any) -> None:
    with pytest.raises(UsageError, match="known: artifact, decoding, direct") as caught:
        build_attack({"attack": name})
    assert ("did you mean `nested`?" in caught.value.hint) == (name == "nestd")


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_builds_with_its_defaults_and_every_setting_is_described(name: str) -> None:
    assert build_attack({"attack": name}) == ATTACKS[name]()
    assert all(meaning for _, _, meaning in describe(ATTACKS[name]))
