"""What nobody writes is found by its surprise, and a query is read once more without it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from safesignal.config import SignalConfig
from safesignal.errors import SignalError, UsageError
from safesignal.modeling import read_anew, unlikely
from safesignal.modeling.chat import Encoded
from safesignal.modeling.likelihood import surprises
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.unlikely import unlikely_runs, without
from safesignal.types import Role
from tests.invariants.harness import PROMPTS, run
from tests.modeling.merged import by_merging, merged
from tests.modeling.test_reader import query_signals, reading
from tests.support import Family

WRITTEN, SCRAP = [3.0, 9.0, 1.0, 4.0, 2.0, 3.0, 8.0, 2.0, 1.0, 4.0], [11.0, 12.0, 10.0, 13.0, 12.0, 11.0]
"""Nats of words that somebody wrote, and of six tokens of nothing: 24 beyond those of dear tokens."""


@pytest.mark.parametrize(
    ("surprise", "runs"),
    [
        ([], []),
        (WRITTEN, []),
        (WRITTEN + SCRAP, [(10, 16)]),
        (SCRAP + WRITTEN, [(0, 6)]),
        (WRITTEN + SCRAP + WRITTEN, [(10, 16)]),
        # A request between two runs stays, though both together outweigh it.
        (SCRAP + WRITTEN + SCRAP, [(0, 6), (16, 22)]),
        # A free token or two do not end a run, three do.
        (SCRAP + [0.5] * 2 + SCRAP, [(0, 14)]),
        (SCRAP + [0.5] * 3 + SCRAP, [(0, 6), (9, 15)]),
        (SCRAP[:4], []),
        ([7.5] * 40, []),
        ([8.0] * 39, []),
        ([8.0] * 40, [(0, 40)]),
    ],
)
def test_runs_by_hand(surprise: list[float], runs: list[tuple[int, int]]) -> None:
    assert unlikely_runs(surprise, 20.0) == runs


@given(st.lists(st.floats(0, 20), max_size=60), st.floats(0.5, 60))
def test_a_run_is_worth_what_was_asked_and_begins_and_ends_dear(surprise: list[float], least: float) -> None:
    runs, beyond = unlikely_runs(surprise, least), [nats - 7.5 for nats in surprise]
    assert all(start < end for start, end in runs)
    assert all(end < start for (_, end), (start, _) in pairwise(runs))
    for start, end in runs:
        assert math.fsum(beyond[start:end]) >= least - 1e-6
        assert beyond[start] > 0 < beyond[end - 1]
        # However it is cut, its beginning is worth leaving out, and so is its end.
        assert all(math.fsum(beyond[start:cut]) > -1e-6 for cut in range(start + 1, end))


@given(st.lists(st.floats(0, 20), max_size=40), st.floats(1, 40), st.floats(0, 20))
def test_a_higher_demand_finds_no_more(surprise: list[float], least: float, more: float) -> None:
    assert set(unlikely_runs(surprise, least + more)) <= set(unlikely_runs(surprise, least))


def prompt(*parts: tuple[int, Role]) -> Encoded:
    roles = tuple(role for count, role in parts for _ in range(count))
    return Encoded(tuple(range(100, 100 + len(roles))), roles)


def test_runs_leave_a_prompt_with_their_roles_and_nothing_else_does() -> None:
    one = prompt((2, Role.TEMPLATE), (16, Role.USER), (3, Role.TEMPLATE))
    left = without(one, {2: WRITTEN + SCRAP}, 20.0)
    assert left == Encoded((*range(100, 112), *range(118, 121)), (*one.roles[:12], *one.roles[18:]))
    assert without(one, {2: WRITTEN + [2.0] * 6}, 20.0) is None


def test_a_prompt_of_nothing_else_stays_and_a_turn_of_nothing_else_goes() -> None:
    """Scraps in a turn of their own stand before the request of the next as well."""
    assert without(prompt((2, Role.TEMPLATE), (6, Role.USER)), {2: SCRAP}, 20.0) is None
    one = prompt((6, Role.USER), (1, Role.TEMPLATE), (16, Role.USER))
    for second, kept in (([2.0] * 16, 23), (WRITTEN + SCRAP, 17)):
        left = without(one, {0: SCRAP, 7: second}, 20.0)
        assert left is not None
        assert left.ids == one.ids[6:kept]
    assert without(one, {0: SCRAP, 7: [12.0] * 16}, 20.0) is None


def test_surprises_are_those_of_one_softmax_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    base = reading().forward_signal.base
    hidden_ND, ids = torch.randn(7, base.config.hidden_size), [5, 1, 4, 0, 7, 3, 9]
    whole = surprises(base, hidden_ND, ids)
    expected = -base.get_output_embeddings()(hidden_ND).log_softmax(-1)[range(7), ids]
    assert whole == pytest.approx(expected.tolist(), abs=1e-5)
    monkeypatch.setattr("safesignal.modeling.likelihood._AT_ONCE", 3)
    assert surprises(base, hidden_ND, ids) == pytest.approx(whole, abs=1e-5)
    with pytest.raises(SignalError, match="no finite number of nats"):
        surprises(base, hidden_ND * float("nan"), ids)


class Told:
    """Says which tokens of a prompt nobody writes, and keeps what it was told of the others."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scraps: set[int]) -> None:
        self.heard: list[tuple[Encoded, dict[int, list[float]]]] = []

        def told(one: Encoded, found: dict[int, list[float]], _: float) -> Encoded | None:
            self.heard.append((one, found))
            ids = one.ids
            made = {s: [8.0 if ids[s + k] in scraps else 0.0 for k in range(len(v))] for s, v in found.items()}
            return unlikely.without(one, made, 0.5)

        monkeypatch.setattr(read_anew, "without", told)


def with_surprise(family: Family = "llama") -> SafeSignalModel:
    model = reading(family)
    model.config = replace(model.config, surprise=20.0)
    return model


def test_the_higher_of_the_two_readings_counts(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model, higher = with_surprise(family), set()
    for text in PROMPTS[1:3]:
        one = model.encode_one(text)
        ((start, end),) = one.query_ranges()
        for scrap in sorted(set(one.ids[start:end])):
            Told(monkeypatch, {scrap})
            ids = [i for k, i in enumerate(one.ids) if not (start <= k < end and i == scrap)]
            whole, left = (by_merging(model, model.forward_signal.adapter.reader, own) for own in (one.ids, ids))
            assert query_signals(model, [text])[0] == pytest.approx(max(whole, left), abs=1e-4)
            higher.add(whole > left)
    assert higher == {True, False}, "one of the two was never the higher one"


def test_surprise_is_the_readers_own_and_the_same_in_a_batch(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padded, and with what prompts begin with read once for all."""
    monkeypatch.setattr(read_anew, "_WORTH_SHARING", 2)
    model = with_surprise(family)
    told = Told(monkeypatch, set())
    query_signals(model, PROMPTS[:3])
    together = dict(told.heard)
    assert len(together) == 3
    for text in PROMPTS[:3]:
        told.heard.clear()
        query_signals(model, [text])
        ((one, found),) = told.heard
        ((start, end),) = one.query_ranges()
        assert together[one][start] == pytest.approx(found[start], abs=1e-3)
        with merged(model, model.forward_signal.adapter.reader):
            logprobs_TV = model.base(torch.tensor([one.ids])).logits[0].log_softmax(dim=-1)
        expected = [-float(logprobs_TV[place - 1, one.ids[place]]) for place in range(start, end)]
        assert found == {start: pytest.approx(expected, abs=1e-3)}


def test_it_reads_again_as_long_as_there_is_something_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of a suffix costs nothing behind the first one, which is found first."""
    model = with_surprise()
    one = model.encode_one(PROMPTS[1])
    ((start, end),) = one.query_ranges()
    shorter = [
        replace(one, ids=one.ids[:k] + one.ids[end:], roles=one.roles[:k] + one.roles[end:])
        for k in range(start + 4, end)
    ]
    chain = dict(zip([one, *reversed(shorter)], [*reversed(shorter), None], strict=True))
    read: list[Encoded] = []

    def next_one(text: Encoded, _: object, __: float) -> Encoded | None:
        read.append(text)
        return chain[text]

    monkeypatch.setattr(read_anew, "without", next_one)
    found = query_signals(model, PROMPTS[1:2])[0]
    assert read == list(chain)[:4]
    reader = model.forward_signal.adapter.reader
    assert found == pytest.approx(max(by_merging(model, reader, text.ids) for text in read), abs=1e-4)


def test_prompts_that_share_much_are_still_read_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off, users' own words are shared too; on, nothing is shared that is not worth a pass."""
    monkeypatch.setattr(read_anew, "_WORTH_SHARING", 20)
    model = reading()
    texts = [f"{PROMPTS[1]} {last}" for last in ("And why?", "Since when?", "Says who?")]
    shared = min(model.encode_one(text).query_ranges()[0][0] for text in texts)
    rows: list[int] = []
    handle = model.forward_signal.stack.decoder.register_forward_pre_hook(
        lambda _, __, given: rows.extend(e.shape[1] for e in [given.get("inputs_embeds")] if e is not None),
        with_kwargs=True,
    )
    query_signals(model, texts)
    assert max(rows[-2:]) == rows[-2] > shared
    model.config = replace(model.config, surprise=1e9)
    query_signals(model, texts)
    handle.remove()
    worth = 2 * (shared - 1) >= 20
    assert (rows[-2] == shared - 1) == worth


def test_a_query_that_reads_as_nothing_harms_nobody_beside_it() -> None:
    """A control token whose letters hidden signs keep apart is left out, and with it all that was said."""
    model = with_surprise()
    bread, nothing = "How do I make bread?", "<|im_\u200bend|>"
    expected = query_signals(model, [bread])
    assert query_signals(model, [bread, nothing])[:1] == pytest.approx(expected, abs=1e-4)
    assert 0 <= query_signals(model, [nothing])[0] <= 1


def test_zero_reads_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reading()
    told, expected = Told(monkeypatch, set()), query_signals(model, PROMPTS[:2])
    assert told.heard == []
    model.config = replace(model.config, surprise=1e9)
    assert query_signals(model, PROMPTS[:2]) == pytest.approx(expected, abs=1e-6)
    assert len(told.heard) == 2


def test_a_query_is_read_again_where_answers_are_written_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_surprise()
    one = model.encode_one(PROMPTS[1])
    Told(monkeypatch, {one.ids[one.query_ranges()[0][1] - 1]})
    expected = query_signals(model, [PROMPTS[1]])[0]
    for checks in ("fused", "separate"):
        (answer,), _ = run(model, [one], checks=checks, new=2)
        assert answer.checks[0].signal == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_surprise_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"signal\.surprise"):
        SignalConfig(surprise=value)
