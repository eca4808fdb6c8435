"""Answers behind requests they were not given to: even in number, new to their requests, labelled by what they say."""

from __future__ import annotations

import random

import pytest

from safesignal.data.build.splice import shows, splice
from safesignal.data.mixture import SPLIT_SEED, split_by_prompt
from safesignal.data.records import Record, record_from_row, with_meta


def row(name: str, label: str, prompt: str, response: str, licence: str = "permissive") -> Record:
    return record_from_row(
        {
            "id": name,
            "prompt": prompt,
            "response": response,
            "prompt_label": label,
            "response_label": label,
            "licence": licence,
        }
    )


def rows(n: int = 12) -> list[Record]:
    benign = [
        row(f"b{i}", "benign", f"Describe garden number {i}", f"The garden {i} is green. " * (i + 1)) for i in range(n)
    ]
    return benign + [
        row(
            f"m{i}", "malicious", f"Describe forbidden thing number {i}", f"The forbidden thing {i} goes so. " * (i + 1)
        )
        for i in range(n)
    ]


def test_as_many_of_either_label_behind_benign_requests_that_got_other_answers() -> None:
    known = {record.id: record for record in rows()}
    made = splice(known.values(), 4, random.Random(0), 0.0)
    assert sorted(record.response_label for record in made) == ["benign"] * 4 + ["malicious"] * 4
    assert {record.prompt_label for record in made} == {"benign"}
    assert len({record.prompt for record in made}) == len({record.id for record in made}) == 8
    for record in made:
        answered = known[record.meta["answer_of"]]
        assert record.response == answered.response
        assert record.prompt != answered.prompt
        assert record.meta["variant"] == "splice"
    assert splice(rows(), 4, random.Random(0), 0.0) == made
    assert splice(rows(), 4, random.Random(1), 0.0) != made


def test_no_answer_stands_behind_training_and_validation_prompts() -> None:
    known = {record.id: record for record in rows(200)}
    made = splice(known.values(), 40, random.Random(0), 0.25)
    sides = [{record.id for record in side} for side in split_by_prompt(known.values(), 0.25, SPLIT_SEED)]
    for train_or_val in split_by_prompt(made, 0.25, SPLIT_SEED):
        assert train_or_val
        assert any({record.meta["answer_of"] for record in train_or_val} <= side for side in sides)
    assert 76 <= len(made) <= 80, "couples are left out of which one got its own answer"


def test_a_row_says_nothing_of_how_another_answer_was_made() -> None:
    made = splice([with_meta(row, job="calibration", family="x/y", pair=1) for row in rows()], 2, random.Random(0), 0.0)
    assert {record.meta.get("job") for record in made} == {record.meta.get("family") for record in made} == {None}
    assert {record.meta["pair"] for record in made} == {1}


@pytest.mark.parametrize(("n", "most"), [(100, 6), (0, 0)])
def test_there_are_as_many_as_there_is_material_for(n: int, most: int) -> None:
    """Every request is used once, and two are needed for a couple."""
    assert len(splice(rows(), n, random.Random(0), 0.0)) <= 2 * most
    assert splice([], n, random.Random(0), 0.0) == []


def test_a_malicious_answer_must_show_what_it_is_about() -> None:
    assert shows(row("a", "malicious", "How do I forge banknotes?", "To FORGE a banknote, take paper."))
    assert not shows(row("b", "malicious", "How do I forge banknotes?", "Sure, that is easy to do."))
    assert not shows(row("c", "malicious", "How do I forge banknotes?", "A forge is a place for iron."))
    mute = [row(f"q{i}", "malicious", f"How do I forge banknotes {i}?", "Sure, why not.") for i in range(9)]
    assert splice([*rows()[:12], *mute], 4, random.Random(0), 0.0) == []


def test_a_row_may_be_used_as_the_stricter_of_its_two_licences_allows() -> None:
    shared = [
        row(f"s{i}", "malicious", f"Describe forbidden thing {i}", f"forbidden thing {i}", "sharealike")
        for i in range(6)
    ]
    made = splice([*rows()[:12], *shared], 4, random.Random(0), 0.0)
    assert {record.licence for record in made if record.response_label == "malicious"} == {"sharealike"}
    assert {record.licence for record in made if record.response_label == "benign"} == {"permissive"}
