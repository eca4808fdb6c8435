"""Streamed text: the pieces joined are the whole, and no piece has half of anything."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from safesignal.modeling.text import TextStream, cut_at_stop, is_byte_token
from tests.support import tiny_tokenizer

TOKENIZER = tiny_tokenizer(merges=[("a", "b"), ("ab", "c")])


def to_text(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def to_ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def pieces(ids: Sequence[int], cuts: Sequence[int], stops: Sequence[str] = ()) -> list[str]:
    stream, edges = TextStream(to_text, stops), [0, *sorted({min(cut, len(ids)) for cut in cuts}), len(ids)]
    parts = [ids[a:b] for a, b in itertools.pairwise(edges)]
    return [stream.push(part, final=index == len(parts) - 1) for index, part in enumerate(parts)]


cut_points = st.lists(st.integers(0, 60), max_size=12)
texts = st.text(st.sampled_from("abc né東🙂\u200d👩🏽\n") | st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)
@given(texts, cut_points)
def test_pieces_joined_are_the_text(text: str, cuts: list[int]) -> None:
    assert "".join(pieces(to_ids(text), cuts)) == text


@settings(deadline=None)
@given(texts.filter(lambda text: "\ufffd" not in text), cut_points)
def test_no_half_character(text: str, cuts: list[int]) -> None:
    assert not any("\ufffd" in piece for piece in pieces(to_ids(text), cuts))


@settings(deadline=None)
@given(st.lists(st.integers(0, 258), max_size=30), cut_points)
def test_any_tokens_even_broken_ones(ids: list[int], cuts: list[int]) -> None:
    assert "".join(pieces(ids, cuts)) == to_text(ids)


@settings(deadline=None)
@given(
    st.text(st.sampled_from("aab🙂"), max_size=24),
    st.lists(st.text(st.sampled_from("ab🙂"), min_size=1, max_size=4), min_size=1, max_size=3),
    cut_points,
)
@example(text="a🙂a", stops=["🙂", "a🙂a"], cuts=[5])
def test_no_half_stop_string(text: str, stops: list[str], cuts: list[int]) -> None:
    ids = to_ids(text)
    # What was shown is never taken back, so a beginning of a stop string that came true was never shown.
    assert "".join(pieces(ids, cuts, stops)) == cut_at_stop(text, stops)


def test_a_character_waits_for_its_last_byte() -> None:
    stream = TextStream(to_text)
    assert [stream.push([token]) for token in to_ids("é🙂!")] == ["", "é", "", "", "", "🙂", "!"]


def test_a_possible_stop_string_waits() -> None:
    stream = TextStream(to_text, ["</s>"])
    assert [stream.push([token]) for token in to_ids("x</a</s>y")] == ["x", "", "", "</a", "", "", "", "", ""]


FALLBACK = Tokenizer(models.BPE(vocab={f"<0x{b:02X}>": b for b in range(256)} | {"a": 256}, merges=[]))
FALLBACK.decoder = decoders.ByteFallback()  # as in Llama 2, Mistral and Gemma


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"你é🙂".encode(), 256]), max_size=14), cut_points)
@example(ids=[*"你".encode(), 0xE4], cuts=[3])
def test_byte_tokens_wait_for_the_end_of_their_run(ids: list[int], cuts: list[int]) -> None:
    """Their decoder spoils a whole run of bytes, complete characters among them, if the last one is cut off."""

    def decode(part: Sequence[int]) -> str:
        return str(FALLBACK.decoder.decode([FALLBACK.id_to_token(token) for token in part]))

    stream = TextStream(decode, (), lambda token: is_byte_token(str(FALLBACK.id_to_token(token))))
    edges = [0, *sorted({min(cut, len(ids)) for cut in cuts}), len(ids)]
    parts = [ids[a:b] for a, b in itertools.pairwise(edges)]
    found = [stream.push(part, final=index == len(parts) - 1) for index, part in enumerate(parts)]
    assert "".join(found) == decode(ids)


def test_what_waited_comes_at_the_end() -> None:
    stream = TextStream(to_text, ["</s>"])
    assert stream.push(to_ids("a</")) == "a"
    assert stream.push([], final=True) == "</"
    broken = TextStream(to_text)
    assert broken.push(to_ids("🙂")[:2]) == ""
    assert broken.push([], final=True) == "\ufffd"


def test_a_refusal_is_not_cut() -> None:
    stream = TextStream(to_text, ["cannot"])
    assert stream.push(to_ids("I can")) == "I "
    assert stream.push(to_ids("not do"), cut=False) == "cannot do"


@pytest.mark.parametrize(("stops", "expected"), [([], "abcabc"), (["c"], "ab"), (["ca", "b"], "a"), (["z"], "abcabc")])
def test_cut_at_the_first(stops: list[str], expected: str) -> None:
    assert cut_at_stop("abcabc", stops) == expected
