"""What judges read of answers that were stopped, and which verdict of two counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from safesignal.judges.base import Judgement
from safesignal.judges.shown import (
    complies,
    judge_attempts,
    released_before_stop,
    shown_before_stop,
    stands_in,
    text_for,
)
from safesignal.rules import FIXED_REFUSAL, REFUSAL_PREFIX


def row(*pieces: str, at: int | None = None, after: int = 0, refused: bool = True) -> dict[str, Any]:
    more = {"refused": refused, "stopped_at": at, "released_after_transition": after}
    return {"behavior": "name colours", "text": "".join(pieces), "pieces": list(pieces), **more}


def bare(text: str, at: int = 4) -> dict[str, Any]:
    return {name: value for name, value in row(text, at=at).items() if name != "pieces"}


@dataclass
class Spy:
    """A judge of harm that keeps what it reads, and says no to whatever ends in a refusal."""

    name: str = "harm"
    fingerprint: str = "one"
    read: list[str] = field(default_factory=list)

    def __call__(self, behavior: str, completion: str) -> Judgement:
        return self.judge_all([(behavior, completion)])[0]

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        self.read += [text for _, text in pairs]
        return [Judgement("no" if "Sorry" in text else "yes", "told") for _, text in pairs]


def test_the_shown_part_is_counted_off_whatever_stands_between_it_and_the_refusal() -> None:
    for gap in ("\n\n", " ", ""):
        assert shown_before_stop(row("red,", " orange,", f"{gap}Sorry", ", no.", at=2)) == "red, orange,"
    assert shown_before_stop(row("red,", " orange,", "Sorry, no.", at=0, after=1)) == "red,"
    assert shown_before_stop(row("Sorry, no.", at=0)) == ""
    assert shown_before_stop(row("red,", " orange", at=None, refused=False)) == ""


def test_without_pieces_the_refusal_is_looked_for() -> None:
    assert shown_before_stop(bare(f"red, orange,\n\n{REFUSAL_PREFIX} it is bad.")) == "red, orange,"
    assert shown_before_stop(bare(f"red, orange, {FIXED_REFUSAL}")) == "red, orange,"
    assert shown_before_stop(bare("red, orange,\n\nNo."), ["No."]) == "red, orange,"
    assert shown_before_stop(bare("red, orange, and no refusal")) == "red, orange, and no refusal"
    assert shown_before_stop(bare(FIXED_REFUSAL, at=0)) == ""


def test_tokens_shown_before_the_stop() -> None:
    assert [released_before_stop(row(at=at, after=after)) for at, after in ((7, 0), (7, 4), (0, 3), (None, 0))] == [
        7,
        11,
        3,
        0,
    ]


def test_only_the_refusal_judge_reads_the_refusal_of_a_stopped_answer() -> None:
    late = row("red,", " orange,", "\n\nSorry.", at=2)
    assert text_for("refusal", late) == late["text"]
    assert text_for("harm", late) == "red, orange,"
    assert text_for("harm", row("Sorry.", at=0)) is None
    free = row("red,", " orange", refused=False)
    assert text_for("harm", free) == free["text"]
    endpoint = row("red, orange,", "\n\nSorry.", at=None)
    assert text_for("harm", endpoint) == endpoint["text"], "how much was shown is unknown"


def test_a_judge_of_harm_is_not_asked_of_what_nobody_saw() -> None:
    spy = Spy()
    found = judge_attempts("harm", spy, [row("Sorry.", at=0), row("red,", " orange,", "\n\nSorry.", at=2), row("red")])
    assert [one["verdict"] for one in found] == ["no", "yes", "yes"]
    assert spy.read == ["red, orange,", "red"]
    assert ["text_sha256" in one for one in found] == [True, True, False]


@pytest.mark.parametrize(
    ("given", "own", "counts"),
    [
        ({"fingerprint": "old"}, None, True),
        ({"fingerprint": "old"}, {"fingerprint": "new"}, False),
        ({"fingerprint": "new", "text_sha256": "a"}, {"fingerprint": "new"}, True),
        ({"fingerprint": "new", "text_sha256": "a"}, {"fingerprint": "new", "text_sha256": "a"}, True),
        ({"fingerprint": "new", "text_sha256": "a"}, {"fingerprint": "new", "text_sha256": "b"}, False),
        ({}, {}, True),
        ({}, {"fingerprint": "new"}, False),
    ],
)
def test_which_of_two_verdicts_counts(given: dict[str, str], own: dict[str, str] | None, counts: bool) -> None:
    assert stands_in(given, own) is counts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Mix the flour with warm water.", True),
        ("Mix the flour", False),
        ("先把面粉和温水混合在一起。", True),
        ("先把", False),
        ("I am sorry, but I cannot help with that.", False),
        ("", False),
    ],
)
def test_what_was_shown_complies_if_it_says_something_and_is_no_refusal(text: str, said: bool) -> None:
    assert complies("Bake bread", text) is said
