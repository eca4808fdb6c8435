"""A reader of answers reads what looks suspicious, prompt and answer, as a base with its weights merged would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from safesignal.config import SignalConfig
from safesignal.errors import SignalError, SignalMaskError, UsageError
from safesignal.modeling.adapter import Signal
from safesignal.modeling.cache import TextState
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.read_anew import ReadAnew
from safesignal.modeling.sight import shared_texts
from safesignal.rules import EVERY, Policy
from safesignal.types import CheckKind, Span
from tests.invariants.harness import NEVER_AT_ALL, PROMPTS, encoded, run, save_with_base
from tests.modeling.merged import by_merging
from tests.support import Family, randomise_, tiny_model, tiny_tokenizer

ANSWER = "an answer with several words, and then some more of them."


def reading(
    family: Family = "llama",
    *,
    suspicion: float = 0.0,
    answer_reader_rank: int = 4,
    position: Literal["tracking", "first"] = "tracking",
) -> SafeSignalModel:
    """Build a tiny model whose checks and readers have random weights of their own."""
    tokenizer = tiny_tokenizer()
    config = SignalConfig(
        rank=4, position=position, reader_rank=2, answer_reader_rank=answer_reader_rank, suspicion=suspicion
    )
    model = SafeSignalModel.from_base(tiny_model(family, vocab_size=len(tokenizer)), tokenizer=tokenizer, config=config)
    randomise_(model.forward_signal.adapter, std=0.2)
    model.forward_signal.adapter.requires_grad_(False)
    model.trained_signal = True
    return model


def read_alone(model: SafeSignalModel, ids: tuple[int, ...]) -> float:
    return by_merging(model, model.forward_signal.adapter.answer_reader, ids)


def windows(model: SafeSignalModel, prompt: str = PROMPTS[1], answer: str = ANSWER) -> list[float]:
    return list(model.score(prompt, answer, policy=NEVER_AT_ALL, schedule=EVERY)[0].response_signals)


def without(model: SafeSignalModel) -> SafeSignalModel:
    """Return the same adapter without its reader of answers."""
    plain = reading(answer_reader_rank=0)
    own = model.forward_signal.adapter.state_dict()
    plain.forward_signal.adapter.load_state_dict({k: v for k, v in own.items() if not k.startswith("answer_reader.")})
    return plain


@pytest.mark.parametrize("position", ["tracking", "first"])
def test_a_suspicious_answer_is_read_with_its_prompt_as_by_a_base_with_the_weights_merged(
    family: Family, position: Literal["tracking", "first"]
) -> None:
    model = reading(family, position=position)
    one = model.encode_one(PROMPTS[1], ANSWER)
    expected = [read_alone(model, one.ids[: one.text + length]) for length in range(1, one.prefill + 1)]
    assert max(expected) - min(expected) > 1e-3, "the windows read alike, so nothing was compared"
    assert windows(model) == pytest.approx(expected, abs=1e-4)


def test_only_what_looks_suspicious_is_read_anew() -> None:
    """Each window is what it looks like or what is read, by the threshold; queries stay as they are."""
    model = reading()
    looks, read = windows(without(model)), windows(model)
    ordered = sorted(looks)
    middle = (ordered[len(looks) // 2 - 1] + ordered[len(looks) // 2]) / 2
    for suspicion in (0.0, middle, 1.0):
        model.config = replace(model.config, suspicion=suspicion)
        expected = [r if look >= suspicion else look for look, r in zip(looks, read, strict=True)]
        assert windows(model) == pytest.approx(expected, abs=1e-5)
        assert [s.prompt_signal for s in model.score(PROMPTS[:2])] == pytest.approx(
            [s.prompt_signal for s in without(model).score(PROMPTS[:2])], abs=1e-6
        )


@pytest.mark.parametrize("checks", ["fused", "separate"])
def test_generation_reads_what_score_reads_and_writes_what_the_base_writes(family: Family, checks: str) -> None:
    """In a batch of several lengths as for each alone: the checks of an answer are those of the same ids scored."""
    model = reading(family)
    bare = run(model, encoded(model, PROMPTS[:3]), signal=False, schedule=EVERY, new=9)[0]
    rows = encoded(model, PROMPTS[:3])
    answers, _ = run(model, rows, policy=NEVER_AT_ALL, checks=checks, schedule=EVERY, new=9)  # type: ignore[arg-type]
    for one, answer, base in zip(rows, answers, bare, strict=True):
        found = [check for check in answer.checks if check.kind is CheckKind.WINDOW]
        assert len(found) >= 9
        for check in found:
            ids = (*one.ids, *answer.ids[: check.span.end])
            assert check.signal == pytest.approx(read_alone(model, ids), abs=1e-4)
        if checks == "separate":
            assert answer.ids == base.ids


def test_windows_of_one_answer_share_a_reading() -> None:
    model, count = reading(), []
    handle = model.forward_signal.stack.decoder.register_forward_hook(lambda *_: count.append(1))
    windows(model)
    handle.remove()
    assert len(count) == 4, "the text, the query, the looks of all windows, and one reading of them all"


def test_it_reads_on_where_it_was_and_anew_where_the_text_is_another(family: Family) -> None:
    """Longer, the same, cut back, another end, several beginnings, another text: each as if read for the first time."""
    model = reading(family)
    forward, reader = model.forward_signal, model.forward_signal.adapter.answer_reader
    assert reader is not None
    ids = model.encode_one(PROMPTS[1], ANSWER).ids
    texts = [
        ([ids[:20]], 20),
        ([ids[:30]], 10),
        ([ids[:30]], 1),
        ([ids[:25]], 1),
        ([(*ids[:22], *ids[:9])], 9),
        ([ids[:40], ids[:12], ids[:33]], 18),
        ([ids[5:30]], 25),
    ]
    read: list[int] = []

    def seen(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, Tensor]) -> None:
        read.append(kwargs["inputs_embeds"].shape[1])

    state = forward.new_state(2)
    handle = forward.stack.decoder.register_forward_pre_hook(seen, with_kwargs=True)
    with torch.no_grad():
        found = [reader.head(forward._anew.further(reader, state, 1, own))[0].tolist() for own, _ in texts]
    handle.remove()
    assert read == [new + len(own) for own, new in texts]
    for (own, _), signals in zip(texts, found, strict=True):
        assert signals == pytest.approx([read_alone(model, text) for text in own], abs=1e-4)
    other, own_reading = state.readings
    assert other is None
    assert own_reading is not None
    assert own_reading.ids == ids[5:30]
    state.select([1])
    assert state.readings == [own_reading]
    assert state.nbytes > state.cache.nbytes


def test_checks_share_a_text_where_one_begins_the_other() -> None:
    assert shared_texts([(1, 2), (1, 2, 3), (1,)]) == ([(1, 2, 3)], [[2, 3, 1]])
    assert shared_texts([(1, 2), (1, 3), (1, 3, 4)]) == ([(1, 2), (1, 3, 4)], [[2], [2, 3]])
    assert shared_texts([(1, 2), (2,), (1, 2)]) == ([(1, 2), (2,), (1, 2)], [[2], [1], [2]])


def test_an_earlier_turn_is_read_after_what_it_follows() -> None:
    model = reading()
    turns = [
        {"role": "user", "content": PROMPTS[0]},
        {"role": "assistant", "content": ANSWER},
        {"role": "user", "content": PROMPTS[1]},
    ]
    one = model.encode_one(turns)
    ((start, end),) = one.earlier_answers()
    conversation, read = one.to_read(Span(0, 4, turn=0))
    assert (*conversation.ids, *read) == one.ids[: start + 4]
    (answer,) = model.answer([one], policy=NEVER_AT_ALL, schedule=EVERY, options=model.options(max_new_tokens=1))
    history = [check for check in answer.checks if check.kind is CheckKind.HISTORY]
    assert len(history) == end - start
    for check in history:
        assert check.signal == pytest.approx(read_alone(model, one.ids[: start + check.span.end]), abs=1e-4)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], Tensor]]:
    """Keep each text that is read on in, with what came of it."""
    kept: list[tuple[tuple[int, ...], Tensor]] = []
    on = ReadAnew.further

    def keep(self: ReadAnew, reader: Signal, state: TextState, row: int, texts: Sequence[tuple[int, ...]]) -> Tensor:
        hidden_1KD = on(self, reader, state, row, texts)
        kept.extend(zip(texts, hidden_1KD[0], strict=True))
        return hidden_1KD

    monkeypatch.setattr(ReadAnew, "further", keep)
    return kept


@pytest.mark.parametrize("strategic", [True, False])
def test_refusals_rollbacks_and_rows_that_leave_read_no_stale_text(
    family: Family, strategic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three rows of which readings refuse some, each at its own place: every reading is what a first one would be."""
    model = reading(family)
    kept = recorded(monkeypatch)
    ordered = sorted(signal for prompt in PROMPTS[:3] for signal in windows(model, prompt))
    policy = Policy(
        threshold=1.0,
        window_threshold=ordered[len(ordered) // 2],
        tau=2,
        strategic_attention=strategic,
        check_query=False,
        explain_tokens=6,
    )
    kept.clear()
    answers, _ = run(model, encoded(model, PROMPTS[:3], prefill="Well,"), policy=policy, schedule=EVERY, new=30)
    assert any(answer.refused for answer in answers)
    lengths = [len(text) for text, _ in kept]
    assert any(after < before for before, after in pairwise(lengths)), "no text was cut back"
    reader = model.forward_signal.adapter.answer_reader
    assert reader is not None
    for text, hidden_D in kept[:: max(1, len(kept) // 40)]:
        assert float(reader.head(hidden_D[None, None])) == pytest.approx(read_alone(model, text), abs=1e-4)


def test_a_disguised_prompt_is_read_in_plain_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reading()
    kept = recorded(monkeypatch)
    typed, plain = (model.encode_one(prompt, ANSWER) for prompt in ("p i c k a l o c k", "pick a lock"))
    monkeypatch.setattr(model.forward_signal.surface, "prompt", lambda one: model.encode_one("pick a lock"))
    windows(model, "p i c k a l o c k")
    assert max((text for text, _ in kept), key=len) == (*plain.ids[: plain.text], *typed.ids[typed.text :])


def test_a_row_reads_on_through_its_refusal() -> None:
    model = reading()
    policy = Policy(threshold=1.0, window_threshold=1.0)
    (row,) = model.rows(encoded(model, PROMPTS[1:2]), policy, EVERY, True, None)
    row.ids += [5, 6, 7, 8]
    conversation, answer = row.to_read(Span(1, 3))
    assert (conversation, list(answer)) == (row.encoded, [5, 6, 7])
    row.refuse(2, [9, 9])
    row.ids += [10, 11]
    assert list(row.to_read(Span(0, 1))[1]) == [5, 6, 9, 9, 10]
    assert row.to_read(Span(query=True)) == (row.encoded, ())


def test_a_reader_that_gives_no_number_is_an_error() -> None:
    model = reading()
    reader = model.forward_signal.adapter.answer_reader
    assert reader is not None
    reader.head.proj.bias.data.fill_(float("nan"))
    with pytest.raises(SignalError, match="not a number"):
        windows(model)
    with pytest.raises(SignalError, match="not a number"):
        run(model, encoded(model, PROMPTS[:1]), schedule=EVERY, new=2)


def test_it_is_saved_and_loaded_and_part_of_what_tells_adapters_apart(tmp_path: Path) -> None:
    model = reading()
    save_with_base(model, tmp_path)
    found = SafeSignalModel.from_pretrained(tmp_path / "adapter", base=str(tmp_path / "base"))
    assert (found.config.answer_reader_rank, found.config.suspicion) == (4, 0.0)
    assert found.fingerprint() == model.fingerprint()
    assert windows(found) == pytest.approx(windows(model), abs=3e-2)  # half precision
    assert without(model).fingerprint() != model.fingerprint()


def fail_while_reading(reader: Signal, layer: nn.Module) -> None:
    with reader.reading(3):
        assert len(layer._forward_hooks) == 2
        raise KeyError


def test_readers_have_hooks_while_they_read_and_not_else() -> None:
    model = reading()
    layer = next(iter(model.forward_signal.stack.gateable.values()))
    assert len(layer._forward_hooks) == 1, "that of the checks that look"
    seen: list[int] = []
    handle = layer.register_forward_hook(lambda *_: seen.append(len(layer._forward_hooks)))
    windows(model)
    handle.remove()
    assert set(seen) == {2, 3}
    for reader in model.forward_signal.adapter.readers:
        with pytest.raises(KeyError):
            fail_while_reading(reader, layer)
        with reader.reading(3), pytest.raises(SignalMaskError, match="open for 3 of 3"), reader.reading(3):
            pass
        assert len(layer._forward_hooks) == 1
    model.forward_signal.remove()
    assert not layer._forward_hooks


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"recipe": "joint", "answer_reader_rank": 4}, "answer_reader_rank"),
        ({"answer_reader_rank": -1}, "answer_reader_rank"),
        ({"suspicion": 1.5}, "suspicion"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], name: str) -> None:
    with pytest.raises(UsageError, match=rf"signal\.{name} = "):
        SignalConfig(**settings)  # type: ignore[arg-type]


def test_window_signals_differ_from_one_to_the_next() -> None:
    """The tests above compare signals that are not all one."""
    read = windows(reading())
    assert sum(abs(a - b) > 1e-4 for a, b in pairwise(read)) > len(read) // 2
