"""How an answer ends: end tokens, stop strings, lengths, the context's own limit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import decoders

from safesignal.errors import UsageError
from safesignal.modeling.model import SafeSignalModel
from safesignal.rules import ANNEALING, EVERY, Policy
from safesignal.types import FinishReason, Verdict
from tests.invariants.harness import NEVER, NEVER_AT_ALL, PROMPTS, encoded, guarded, run, windows
from tests.support import MAX_POSITIONS, tiny_tokenizer


def greedy_ids(model: SafeSignalModel, new: int = 40) -> list[int]:
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), signal=False, new=new)
    return list(answer.ids)


def first_at(ids: list[int], position: int) -> int:
    """Return a position from there on whose token occurs there for the first time."""
    return next(i for i in range(position, len(ids)) if ids[i] not in ids[:i])


@pytest.mark.parametrize("signal", [True, False])
def test_several_end_tokens(signal: bool) -> None:
    plain = guarded("llama")
    ids = greedy_ids(plain)
    early, late = first_at(ids, 9), first_at(ids, 20)
    for ends, stop in (([ids[late], ids[early]], early), ([ids[late]], late)):
        model = guarded("llama", eos=ends)
        (answer,), _ = run(model, encoded(model, PROMPTS[:1]), signal=signal, new=40)
        assert list(answer.ids) == ids[:stop]
        assert answer.finish_reason is FinishReason.EOS
        inputs = model.encode(PROMPTS[0])
        sequence: Any = model.generate(**inputs, policy=NEVER, signal=signal, max_new_tokens=40)
        assert sequence[0].tolist()[-stop - 1 :] == ids[: stop + 1], "the end token that came, not another"
        assert answer.end_id == ids[stop]
    (given,), _ = run(plain, encoded(plain, PROMPTS[:1]), signal=signal, new=40, eos_token_id=[ids[early], 1])
    assert list(given.ids) == ids[:early]


def test_the_end_token_is_not_checked() -> None:
    ids = greedy_ids(guarded("llama"))
    stop = first_at(ids, 12)
    model = guarded("llama", eos=[ids[stop]])
    (answer,), _ = run(model, encoded(model, PROMPTS[:1]), schedule=ANNEALING, new=40)
    assert windows(answer)[-1].span.end == windows(answer)[-1].step == stop
    assert answer.n_tokens == stop


def test_every_ending_is_covered_by_a_closing_check() -> None:
    model = guarded("llama")
    for new in (1, 3, 10, 13, 27):
        (answer,), _ = run(model, encoded(model, PROMPTS[:1]), schedule=ANNEALING, new=new)
        assert windows(answer)[-1].span.end == new
        assert answer.n_tokens == new


def test_a_run_open_at_the_end_counts_as_malicious() -> None:
    model = guarded("llama")
    conversations = encoded(model, PROMPTS)
    found = 0
    for new in (9, 10, 13):
        watched, _ = run(model, conversations, policy=NEVER_AT_ALL, schedule=EVERY, new=new)
        for one, answer in zip(conversations, watched, strict=True):
            *before, last = [check.signal for check in windows(answer)]
            if last > max(before) + 1e-3:
                policy = Policy(threshold=1.0, window_threshold=last - 5e-4, tau=3, after="stop")
                (refused,), _ = run(model, [one], policy=policy, schedule=EVERY, new=new)
                assert (refused.refused, refused.stopped_at) == (True, new - 1)
                assert [check.verdict for check in windows(refused)].count(Verdict.MALICIOUS) == 1
                found += 1
    assert found, "no answer ends on its highest signal; change the prompts"


@pytest.mark.parametrize("signal", [True, False])
def test_max_new_tokens_counts_new_tokens(signal: bool) -> None:
    model = guarded("llama")
    for new in (1, 2, 17):
        (answer,), _ = run(model, encoded(model, PROMPTS[:1], "Sure"), signal=signal, new=new)
        assert answer.n_tokens == new
        assert answer.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("signal", [True, False])
def test_stop_strings(signal: bool) -> None:
    model = guarded("llama")
    (whole,), _ = run(model, encoded(model, PROMPTS[:1]), signal=signal, new=40)
    for start, length in ((11, 1), (14, 3), (20, 6)):
        stop = whole.text[start : start + length]
        cut = whole.text.index(stop)
        (answer,), _ = run(model, encoded(model, PROMPTS[:1]), signal=signal, new=40, stop_strings=["never ever", stop])
        assert answer.text == whole.text[:cut]
        assert answer.finish_reason is FinishReason.STOP_STRING
        assert answer.n_tokens < 40
        pieces = [
            chunk.text
            for chunk in model.stream(PROMPTS[0], policy=NEVER, signal=signal, max_new_tokens=40, stop_strings=[stop])
        ]
        assert "".join(pieces) == answer.text


def test_a_stop_string_of_many_byte_tokens_is_seen() -> None:
    """Four tokens a character here: a tail counted in characters would be too short."""
    from safesignal.modeling.decode import DecodeSettings, _ending
    from safesignal.modeling.rows import Row

    model = guarded("llama")
    stop = "🙂🙂🙂"
    settings = model.settings(model.options(max_new_tokens=99, stop_strings=stop), "fused")
    assert isinstance(settings, DecodeSettings)
    (one,) = encoded(model, PROMPTS[:1])
    row = Row(0, one, NEVER, EVERY)
    reasons = []
    for token in model._to_ids("so " + stop):
        row.ids.append(token)
        reasons.append(_ending(row, token, settings))
    assert reasons == [None] * (len(reasons) - 1) + [FinishReason.STOP_STRING]


@pytest.mark.parametrize("stop", ["cannot", "\n\n", "S"])
def test_no_stop_string_cuts_a_refusal(stop: str) -> None:
    model = guarded("llama")
    policy = Policy(threshold=0.0, window_threshold=1.0, refusal_prefix="\n\nSorry, I cannot", explain_tokens=9)
    given: dict[str, Any] = {"max_new_tokens": 40, "stop_strings": [stop]}
    (whole,), _ = run(model, encoded(model, PROMPTS[:1]), policy=policy, new=40, stop_strings=[stop])
    chunks = list(model.stream(PROMPTS[0], policy=policy, **given))
    assert whole.text.startswith("\n\nSorry, I cannot")
    assert "".join(chunk.text for chunk in chunks) == whole.text


# ----------------------------------------------------------------------------------------------------------- the limit


@pytest.mark.parametrize("signal", [True, False])
@pytest.mark.parametrize("position", ["tracking", "first"])
def test_gpt2_near_its_last_position(position: Any, signal: bool) -> None:
    model = guarded("gpt2", position=position)
    (short,) = encoded(model, ["a"])
    room = MAX_POSITIONS - len(short.ids)  # further letters, one token each
    over = encoded(model, ["a" * (1 + room)])
    assert len(over[0].ids) == MAX_POSITIONS
    full = encoded(model, ["a" * room])
    for conversations in (over, full):
        with pytest.raises(UsageError, match=f"Expected at most {MAX_POSITIONS - 2}"):
            run(model, conversations, signal=signal, new=4)
    (one,) = encoded(model, ["a" * (room - 3)])
    left = MAX_POSITIONS - 1 - len(one.ids)
    (answer,), _ = run(model, [one], signal=signal, new=left)
    assert answer.n_tokens == left
    # Asked for more than fits, the answer ends where the model's positions end; its neighbour goes on.
    (at_limit, neighbour), _ = run(model, [one, short], signal=signal, new=left + 3)
    assert (at_limit.n_tokens, at_limit.finish_reason) == (left, FinishReason.LENGTH)
    assert at_limit.ids == answer.ids
    assert neighbour.n_tokens == left + 3


def test_the_tokenizer_is_the_one_that_is_meant() -> None:
    assert tiny_tokenizer().eos_token_id == tiny_tokenizer().pad_token_id


def test_an_answer_begins_where_the_given_ids_end_also_in_a_slice_of_a_batch() -> None:
    model = guarded("llama")
    inputs = model.encode(["hi", "a longer prompt than the other, by far"])
    width = inputs["input_ids"].shape[1]
    whole: Any = model.generate(**inputs, policy=NEVER, max_new_tokens=8)
    one: Any = model.generate(**{name: value[:1] for name, value in inputs.items()}, policy=NEVER, max_new_tokens=8)
    assert one.shape == whole[:1].shape == (1, width + 8)
    assert one[0].tolist() == whole[0].tolist()


@pytest.mark.parametrize("refuse", [False, True])
def test_a_space_behind_a_prefill_is_kept_by_decoders_that_strip_the_first(refuse: bool) -> None:
    plain, strips = tiny_tokenizer(), tiny_tokenizer()
    backend: Any = strips.backend_tokenizer
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    told = []
    for tokenizer in (plain, strips):
        model = guarded("llama", tokenizer=tokenizer)
        head, space = model.base.get_output_embeddings(), tokenizer(" ", add_special_tokens=False)["input_ids"][0]
        handle = head.register_forward_hook(
            lambda _, __, out, space=space: out.index_fill(-1, torch.tensor([space]), 1e4)
        )
        policy = NEVER_AT_ALL if not refuse else Policy(threshold=1.0, window_threshold=0.0)
        settings: Any = {"policy": policy, "prefill": "Sure, here is", "max_new_tokens": 6}
        pieces = [chunk.text for chunk in model.stream("hi", **settings)]
        settings.pop("prefill")
        made: Any = model.generate(
            **model.encode("hi", prefill="Sure, here is"), **settings, return_dict_in_generate=True
        )
        handle.remove()
        assert "".join(pieces) == made.answers[0].text
        told.append(made.answers[0].text)
    assert told[0] == told[1]
    assert refuse or told[0] == " " * 6
