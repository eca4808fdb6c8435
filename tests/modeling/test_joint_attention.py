"""Who sees what while a joint model writes, as tables: rows are who looks, columns what is seen, x = may see.

The prompt is `<ab>`, positions 0 to 3: markup, user, user, markup. Columns are text, then the safety rows of the
forward, then, once there is one, the stored check; `|` sets these apart. r1 = r2 = r3 = 2, a check at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from safesignal.modeling.output import Answer
from safesignal.rules import EVERY, FIRST, Policy
from safesignal.types import CheckKind
from tests.modeling.joint import Seen, joint_model, scripted, watched

SHORT = Policy(r1=2, r2=2, r3=2, tau=2, refusal_prefix="No", explain_tokens=3)
PROMPT = ["x...|.", "xx..|.", "xxx.|.", "xxxx|.", ".xx.|x"]
"""The prompt with the query check: [CLS] sees the user's tokens alone, no query or template token sees [CLS]."""


def write(
    signals: Sequence[float],
    *,
    policy: Policy = SHORT,
    prefill: str = "",
    new: int = 3,
    checks: Literal["fused", "separate"] = "fused",
    **more: Any,
) -> tuple[Answer, Seen]:
    model = joint_model()
    more = {"schedule": EVERY} | more
    with watched(model) as seen, scripted(model, signals):
        one = model.encode_one("ab", prefill)
        options = model.options(max_new_tokens=new)
        (answer,) = model.answer([one], policy=policy, checks=checks, options=options, **more)
    return answer, seen


def assert_tables(seen: Seen, *tables: Sequence[str]) -> None:
    found = [own for (own,) in seen.masks]
    assert found == [[row.replace("|", "") for row in table] for table in tables]


def assert_tables_at(seen: Seen, forward: int, table: Sequence[str]) -> None:
    assert seen.masks[forward][0] == [row.replace("|", "") for row in table]


def assert_stored(seen: Seen, *sources: tuple[int, int, int]) -> None:
    """Assert that the last column of forward n holds what column c of forward m held: (n, m, c)."""
    for n, m, column in sources:
        assert torch.equal(seen.keys[n][:, :, -1], seen.keys[m][:, :, column]), f"the stored check of forward {n}"


def test_benign() -> None:
    answer, seen = write([0.1, 0.1, 0.1, 0.1])
    assert not answer.refused
    assert_tables(
        seen,
        PROMPT,
        # x4 sees the query check, not the one beside it; rule 2: the most recent tokens.
        ["xxxxx|.|x", "....x|x|."],
        ["xxxxxx|.|x", "....xx|x|."],
        ["xxxxxxx|.|x", ".....xx|x|."],
    )
    assert_stored(seen, (1, 0, 4), (2, 1, 5), (3, 2, 6))


def test_malicious_at_the_start() -> None:
    answer, seen = write([0.9, 0.1, 0.1, 0.1], new=8)
    assert answer.refused
    assert answer.stopped_at == 0
    assert_tables(
        seen,
        PROMPT,
        # The refusal, "No", sees the verdict that caused it; it is not checked itself.
        ["xxxxx.|x", "xxxxxx|x"],
        # The explanation: rule 2, from where it begins.
        ["xxxxxxx|.|x", "......x|x|."],
        ["xxxxxxxx|.|x", "......xx|x|."],
        ["xxxxxxxxx|.|x", ".......xx|x|."],
    )
    assert_stored(seen, (1, 0, 4), (2, 0, 4), (3, 2, 7), (4, 3, 8))


def test_malicious_at_the_start_and_ignored() -> None:
    """Low dependence, the implicit lever alone; rule 1: the query and the first r1 tokens, then no further."""
    policy = Policy(r1=2, r2=2, r3=2, dependence="low")
    answer, seen = write([0.9, 0.9, 0.9], policy=policy, new=4)
    assert not answer.refused
    assert_tables(
        seen,
        PROMPT,
        ["xxxxx|.|x", ".xx.x|x|."],
        ["xxxxxx|.|x", ".xx.xx|x|."],
        ["xxxxxxx|x"],
    )
    assert_stored(seen, (1, 0, 4), (2, 1, 5), (3, 2, 6))


def test_turning_at_a_transition_point() -> None:
    answer, seen = write([0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1], new=12)
    assert answer.refused
    assert answer.stopped_at == 1
    assert_tables(
        seen,
        PROMPT,
        ["xxxxx|.|x", "....x|x|."],
        ["xxxxxx|.|x", "....xx|x|."],
        # Rule 3: from S_t - r2 to S_t + r3, S_t = 1.
        ["xxxxxxx|.|x", "....xxx|x|."],
        # Back to position 5; the refusal, "\n\nNo", sees the check that fired.
        ["xxxxxx...|x", "xxxxxxx..|x", "xxxxxxxx.|x", "xxxxxxxxx|x"],
        ["xxxxxxxxxx|.|x", ".........x|x|."],
        ["xxxxxxxxxxx|.|x", ".........xx|x|."],
        ["xxxxxxxxxxxx|.|x", "..........xx|x|."],
    )
    assert_stored(seen, (1, 0, 4), (2, 1, 5), (3, 2, 6), (4, 3, 7), (5, 3, 7), (6, 5, 10), (7, 6, 11))


def test_a_turn_that_nobody_acts_on() -> None:
    """Rule 3 between both its bounds, under `low`: S_t = 3, so answer tokens 2 to 5, and no further as more come."""
    policy = Policy(r1=2, r2=2, r3=2, dependence="low")
    answer, seen = write([0.1, 0.1, 0.1, 0.1, 0.9, 0.9, 0.9, 0.1, 0.1], policy=policy, new=8)
    assert not answer.refused
    assert_tables(
        seen,
        PROMPT,
        ["xxxxx|.|x", "....x|x|."],
        ["xxxxxx|.|x", "....xx|x|."],
        ["xxxxxxx|.|x", ".....xx|x|."],
        ["xxxxxxxx|.|x", "......xx|x|."],
        ["xxxxxxxxx|.|x", ".....xxxx|x|."],
        ["xxxxxxxxxx|.|x", ".....xxxx.|x|."],
        ["xxxxxxxxxxx|.|x", ".....xxxx..|x|."],
        # Benign at last: rule 2, back to the frontier at the end of that span.
        ["xxxxxxxxxxxx|.|x", ".........xxx|x|."],
    )


def test_without_strategic_attention() -> None:
    """An ablation: re-read checks see the query and all that is written; an explanation is checked by itself."""
    policy = replace(SHORT, strategic_attention=False)
    answer, seen = write([0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1], policy=policy, new=12)
    assert (answer.refused, answer.stopped_at) == (True, 1)
    assert_tables(
        seen,
        PROMPT,
        ["xxxxx|.|x", ".xx.x|x|."],
        ["xxxxxx|.|x", ".xx.xx|x|."],
        ["xxxxxxx|.|x", ".xx.xxx|x|."],
        ["xxxxxx...|x", "xxxxxxx..|x", "xxxxxxxx.|x", "xxxxxxxxx|x"],
        ["xxxxxxxxxx|.|x", ".........x|x|."],
        ["xxxxxxxxxxx|.|x", ".........xx|x|."],
        ["xxxxxxxxxxxx|.|x", "..........xx|x|."],
    )


def test_false_alarm() -> None:
    answer, seen = write([0.1, 0.1, 0.9, 0.1, 0.1], new=4)
    assert not answer.refused
    assert_tables(
        seen,
        PROMPT,
        ["xxxxx|.|x", "....x|x|."],
        ["xxxxxx|.|x", "....xx|x|."],
        ["xxxxxxx|.|x", "....xxx|x|."],
        # Back to rule 2.
        ["xxxxxxxx|.|x", "......xx|x|."],
    )
    assert_stored(seen, (3, 2, 6), (4, 3, 7))


def test_a_prefill_sees_the_query_check_and_what_follows_its_last_window() -> None:
    answer, seen = write([0.1, 0.1, 0.1, 0.1], prefill="cd", new=1)
    assert not answer.refused
    assert_tables(
        seen,
        PROMPT,
        ["xxxxx.|..|x", "xxxxxx|..|x", "....x.|x.|.", "....xx|.x|."],
        ["xxxxxxx|.|x", ".....xx|x|."],
    )
    assert_stored(seen, (1, 0, 4), (2, 1, 7))


def test_a_refusal_sees_the_check_of_the_prefill_that_caused_it() -> None:
    """The windows of a prefill are read at once; the second one fires, and is read again to be the stored check."""
    answer, seen = write(
        [0.1, 0.1, 0.9, 0.1, 0.1, 0.9, 0.1], prefill="cdef", new=6, policy=replace(SHORT, explain_tokens=1)
    )
    assert (answer.refused, answer.stopped_at, answer.prefill_dropped) == (True, 0, True)
    assert [check.kind for check in answer.checks][:3] == [CheckKind.QUERY, CheckKind.PREFILL, CheckKind.PREFILL]
    assert_tables_at(seen, 2, ["....xx..|x|."])
    assert_stored(seen, (1, 0, 4), (3, 2, 8))


def test_a_refused_query_outweighs_the_windows_of_its_prefill() -> None:
    answer, seen = write([0.9, 0.1, 0.1, 0.9, 0.1], prefill="cd", new=6, policy=replace(SHORT, explain_tokens=1))
    assert (answer.refused, answer.prefill_dropped) == (True, True)
    assert_tables_at(seen, 2, [".xx...|x|."])
    assert_stored(seen, (1, 0, 4), (3, 2, 6))


def test_separate_checks_show_the_same_columns_in_two_passes() -> None:
    answer, seen = write([0.1, 0.1, 0.1], new=2, checks="separate")
    model = joint_model()
    with scripted(model, [0.1, 0.1, 0.1]):
        options = model.options(max_new_tokens=2)
        (fused,) = model.answer([model.encode_one("ab")], policy=SHORT, schedule=EVERY, options=options)
    assert answer.ids == fused.ids
    # The prompt passes through the base model alone, without a mask of ours; then its check.
    assert_tables(seen, [".xx.|x"], ["xxxxx|x"], ["....x|x|."], ["xxxxxx|x"], ["....xx|x|."])


def test_explicit_lever_alone() -> None:
    """Text sees no check at all, and no column is kept."""
    _, seen = write([0.1, 0.1, 0.1], policy=Policy(r2=2, implicit=False), new=2)
    assert_tables(seen, PROMPT, ["xxxxx|.", "....x|x"], ["xxxxxx|.", "....xx|x"])


def test_first_schedule_keeps_the_query_check() -> None:
    """No re-classification: the whole answer sees the first [CLS]."""
    policy = Policy(dependence="low", buffer=False)
    _, seen = write([0.1], policy=policy, schedule=FIRST, new=4)
    assert_tables(seen, PROMPT, ["xxxxx|x"], ["xxxxxx|x"], ["xxxxxxx|x"])
    assert_stored(seen, (1, 0, 4), (2, 0, 4), (3, 0, 4))


@pytest.mark.parametrize("signal", [True, False])
def test_what_text_sees_changes_it(signal: bool) -> None:
    """The tables matter: with the signal off the same weights write something else."""
    model = joint_model()
    one, options = model.encode_one("ab"), model.options(max_new_tokens=12)
    policy = Policy(dependence="low")
    (with_lever,) = model.answer([one], policy=policy, schedule=EVERY, options=options)
    quiet = Policy(dependence="low", implicit=False)
    (without,) = model.answer([one], policy=quiet, schedule=EVERY, options=options, signal=signal)
    assert with_lever.ids[0] == without.ids[0], "the first token is read off the prompt, which sees no check"
    assert with_lever.ids != without.ids
