"""Masks against tables written by hand: rows are who looks, columns what is seen, x = may see."""

from __future__ import annotations

import torch
from torch import Tensor

from safesignal.nn.masks import additive, last_columns, latest_check, right_aligned, safety_mask, text_mask, visible


def table(text: str) -> Tensor:
    return torch.tensor([[cell == "x" for cell in line] for line in text.split()])


def test_causal() -> None:
    positions = torch.arange(4)[None]
    assert torch.equal(text_mask(positions, positions)[0], table("x... xx.. xxx. xxxx"))


def test_padding_is_neither_seen_nor_sees() -> None:
    positions = torch.tensor([[-1, -1, 0, 1, 2]])
    assert torch.equal(text_mask(positions, positions)[0], table("..... ..... ..x.. ..xx. ..xxx"))


def test_a_sliding_window_counts_the_row_itself() -> None:
    positions = torch.tensor([[-1, 0, 1, 2, 3, 4]])
    assert torch.equal(text_mask(positions, positions, window=2)[0], table("...... .x.... .xx... ..xx.. ...xx. ....xx"))


def test_new_rows_over_cached_columns_with_a_hole_between() -> None:
    # Three cached tokens, right-aligned in four columns; two new columns of which this row fills the last.
    keys = torch.tensor([[-1, 0, 1, 2, -1, 3]])
    query = torch.tensor([[-1, 3]])
    assert torch.equal(text_mask(query, keys)[0], table("...... .xxx.x"))
    assert torch.equal(text_mask(query, keys, window=3)[0], table("...... ..xx.x"))


def test_rows_of_a_batch_are_masked_apart() -> None:
    positions = torch.tensor([[0, 1, 2], [-1, 0, 1]])
    mask = text_mask(positions, positions)
    assert torch.equal(mask[0], table("x.. xx. xxx"))
    assert torch.equal(mask[1], table("... .x. .xx"))


def test_text_never_sees_safety_rows_which_see_their_span_and_themselves() -> None:
    text = text_mask(torch.arange(3)[None], torch.arange(3)[None])
    spans = table("xx. ..x")[None]
    assert torch.equal(safety_mask(text, spans)[0, 0], table("x.... xx... xxx.. xx.x. ..x.x"))


def test_padding_rows_see_their_own_column_and_no_softmax_is_empty() -> None:
    positions = torch.tensor([[-1, -1, 0, 1]])
    mask = safety_mask(text_mask(positions, positions), table("..x.")[None])
    assert torch.equal(mask[0, 0], table("x.... .x... ..x.. ..xx. ..x.x"))


def test_own_columns_lie_after_the_cache() -> None:
    # Two cached columns (one padding), two new ones (one padding), one check of nothing but the last token.
    keys = torch.tensor([[-1, 0, -1, 1]])
    mask = safety_mask(text_mask(torch.tensor([[-1, 1]]), keys), table("...x")[None])
    assert torch.equal(mask[0, 0], table("..x.. .x.x. ...xx"))


def test_safety_rows_alone() -> None:
    mask = safety_mask(torch.zeros(1, 0, 3, dtype=torch.bool), table("xx. .xx")[None])
    assert torch.equal(mask[0, 0], table("xx.x. .xx.x"))


def test_a_surplus_safety_row_sees_itself_only() -> None:
    mask = safety_mask(torch.zeros(1, 0, 3, dtype=torch.bool), table("xx. ...")[None])
    assert torch.equal(mask[0, 0], table("xx.x. ....x"))


def test_text_sees_one_check_the_latest_complete_one() -> None:
    positions = torch.tensor([[-1, 0, 1, 2, 3, 4]])
    # Seen from 1, by nobody, from 3, from 3 (the later one counts).
    assert torch.equal(
        latest_check(positions, torch.tensor([[1, -1, 3, 3]]))[0], table(".... .... x... x... ...x ...x")
    )


def test_the_order_of_checks_in_a_forward_is_that_of_since_not_of_rows() -> None:
    positions = torch.arange(4)[None]
    assert torch.equal(latest_check(positions, torch.tensor([[3, 1]]))[0], table(".. .x .x x."))


def test_the_stored_check_counts_where_no_check_of_this_forward_does() -> None:
    positions = torch.tensor([[4, 5, 6], [4, 5, 6], [-1, 5, 6]])
    since, stored = torch.tensor([[6], [6], [-1]]), torch.tensor([4, -1, 6])
    mask = latest_check(positions, since, stored)
    assert torch.equal(mask[0], table(".x .x x."))
    assert torch.equal(mask[1], table(".. .. x."))
    assert torch.equal(mask[2], table(".. .. .x"))
    # A new check replaces the stored one even where both begin at the same token.
    assert torch.equal(latest_check(positions[:1], torch.tensor([[4]]), torch.tensor([4]))[0], table("x. x. x."))


def test_latest_check_without_any_check_or_text() -> None:
    none = torch.zeros(1, 0, dtype=torch.long)
    assert latest_check(torch.arange(3)[None], none).shape == (1, 3, 0)
    assert torch.equal(latest_check(torch.arange(3)[None], none, torch.tensor([1]))[0], table(". x x"))
    assert latest_check(none, torch.tensor([[1, 2]]), torch.tensor([0])).shape == (1, 0, 3)


def test_text_rows_see_the_checks_given_and_safety_rows_never_the_stored_one() -> None:
    text = text_mask(torch.tensor([[-1, 2, 3]]), torch.tensor([[1, -1, 2, 3]]))
    checks = table("... ..x x..")[None]
    mask = safety_mask(text, table("x... ..xx")[None], checks)[0, 0]
    assert torch.equal(mask, table(".x..... x.x...x x.xxx.. x...x.. ..xx.x."))


def test_visible_columns_of_checks() -> None:
    keys = torch.tensor([[-1, -1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    seen = visible(keys, [[[(1, 3)]], [[(0, 1), (3, 5)], [(5, 6)]]], 2)
    assert torch.equal(seen[0], table("...xx. ......"))
    assert torch.equal(seen[1], table("x..xx. .....x"))


def test_visible_columns_without_any_check() -> None:
    assert visible(torch.tensor([[-1, 0]]), [[]], 0).shape == (1, 0, 2)
    assert not visible(torch.tensor([[-1, 0]]), [[]], 1).any()


def test_an_adding_backend_gets_numbers() -> None:
    mask = additive(table("x. xx"), torch.float16)
    assert mask.dtype == torch.float16
    lowest = torch.finfo(torch.float16).min
    assert mask.tolist() == [[0.0, lowest], [0.0, 0.0]]


def test_right_aligned() -> None:
    assert right_aligned([[5], [], [1, 2, 3]], 3, 9).tolist() == [[9, 9, 5], [9, 9, 9], [1, 2, 3]]


def test_the_last_columns_as_indices() -> None:
    assert last_columns(5, 2).tolist() == [3, 4]
