"""What is drawn for training: labels, spans, order, and what stays out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safesignal.align.config import AlignConfig, MixturePart
from safesignal.align.examples import Example, batches, draw_checks, encode_examples, load_mixture
from safesignal.config import SignalConfig
from safesignal.data.mixture import prompt_key
from safesignal.data.records import Record, record_from_row, with_meta
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.types import Role, Span

SIGNAL = SignalConfig()


def example(length: int, *, prompt: bool | None = True, response: bool | None = True, name: str = "x") -> Example:
    record = record_from_row({"id": name, "prompt": "p", "prompt_label": "benign"})
    roles = (Role.USER, Role.TEMPLATE, *[Role.PREFILL] * length)
    return Example(record, Encoded(tuple(range(len(roles))), roles), prompt, response)


@given(length=st.integers(1, 200), seed=st.integers(0, 5), epoch=st.integers(0, 3), response=st.booleans())
def test_drawn_spans_lie_in_the_answer_and_are_as_inference_draws_them(
    length: int, seed: int, epoch: int, response: bool
) -> None:
    config = AlignConfig(seed=seed)
    checks = draw_checks(example(length, response=response), SIGNAL, config, epoch)
    assert checks[0].span == Span(query=True)
    assert len(checks) == config.checks_per_row
    for check in checks[1:]:
        assert 0 <= check.span.start < check.span.end <= length
        assert check.span.end - check.span.start <= 4 * SIGNAL.r2 + SIGNAL.r3
        assert check.malicious is response


def test_a_harmful_answer_is_not_labelled_by_its_first_two_tokens() -> None:
    ends = [
        check.span.end
        for epoch in range(200)
        for check in draw_checks(example(60, response=True), SIGNAL, AlignConfig(), epoch)[1:]
    ]
    assert min(ends) >= 3
    benign = [
        check.span.end
        for epoch in range(200)
        for check in draw_checks(example(60, response=False), SIGNAL, AlignConfig(), epoch)[1:]
    ]
    assert min(benign) == 1


def test_draws_depend_on_seed_epoch_and_row_alone() -> None:
    one = draw_checks(example(50), SIGNAL, AlignConfig(), 0)
    assert one == draw_checks(example(50), SIGNAL, AlignConfig(), 0)
    assert one != draw_checks(example(50), SIGNAL, AlignConfig(), 1)
    assert one != draw_checks(example(50), SIGNAL, AlignConfig(seed=1), 0)
    assert one != draw_checks(example(50, name="y"), SIGNAL, AlignConfig(), 0)


def test_labels_of_query_and_windows_are_kept_apart() -> None:
    refused = draw_checks(example(20, prompt=True, response=False), SIGNAL, AlignConfig(), 0)
    assert [check.malicious for check in refused] == [True] + [False] * 5
    assert [c.span.query for c in draw_checks(example(0, response=None), SIGNAL, AlignConfig(), 0)] == [True]
    assert all(not c.span.query for c in draw_checks(example(9, prompt=None), SIGNAL, AlignConfig(), 0))


def test_a_refusal_is_a_benign_answer_to_a_malicious_prompt(model: SafeSignalModel, records: list[Record]) -> None:
    examples, left_out = encode_examples(model, records, AlignConfig())
    assert left_out == 0
    refusals = [e for e in examples if e.record.response_label == "refusal" and e.record.prompt_label == "malicious"]
    assert refusals
    assert all(e.prompt_is_malicious is True and e.response_is_malicious is False for e in refusals)


def test_long_prompts_are_left_out_and_long_answers_cut(model: SafeSignalModel) -> None:
    rows = [
        {"id": "long", "prompt": "a" * 600, "prompt_label": "benign"},
        {"id": "cut", "prompt": "a", "response": "b" * 400, "prompt_label": "benign", "response_label": "benign"},
    ]
    examples, left_out = encode_examples(model, [record_from_row(row) for row in rows], AlignConfig())
    assert left_out == 1
    assert [e.record.id for e in examples] == ["cut"]
    assert examples[0].encoded.prefill == AlignConfig().max_answer_tokens


def test_rows_without_labels_cannot_be_trained_on(model: SafeSignalModel) -> None:
    with pytest.raises(DataError, match="no row can be trained on"):
        encode_examples(model, [record_from_row({"id": "a", "prompt": "hello"})], AlignConfig())


def test_every_row_comes_once_an_epoch(model: SafeSignalModel, records: list[Record]) -> None:
    examples, _ = encode_examples(model, records, AlignConfig())
    config = AlignConfig(batch_size=7)
    first = [[e.record.id for e in batch] for batch in batches(examples, config.batch_size, config.seed, 0)]
    assert sorted(name for batch in first for name in batch) == sorted(record.id for record in records)
    assert first == [[e.record.id for e in batch] for batch in batches(examples, config.batch_size, config.seed, 0)]
    assert first != [[e.record.id for e in batch] for batch in batches(examples, config.batch_size, config.seed, 1)]


def test_calibration_rows_and_other_licences_are_not_trained_on(records: list[Record]) -> None:
    marked = with_meta(records[0], job="calibration")
    foreign = replace(records[1], licence="noncommercial")
    kept = load_mixture(AlignConfig(licences=("permissive",)), None, [marked, foreign, *records[2:]])
    assert {r.id for r in kept} == {r.id for r in records[2:]}


QUERIES = AlignConfig(windows=False)


def test_an_unlabelled_row_erases_no_label_where_each_prompt_comes_once(model: SafeSignalModel) -> None:
    rows = [
        {"id": "one", "prompt": "bake", "prompt_label": "benign"},
        {"id": "other", "prompt": "slice", "prompt_label": "malicious"},
        {"id": "again", "prompt": "bake", "prompt_label": "benign", "response": "b"},
        {"id": "bare", "prompt": "bake"},
        {"id": "never", "prompt": "toast"},
    ]
    examples, left_out = encode_examples(model, [record_from_row(row) for row in rows], QUERIES)
    assert [(e.record.id, e.prompt_is_malicious) for e in examples] == [("again", False), ("other", True)]
    assert left_out == 1
    first, _ = encode_examples(model, [record_from_row(row) for row in rows[::-1]], QUERIES)
    assert {e.record.messages[0].content: e.prompt_is_malicious for e in first} == {"bake": False, "slice": True}


def test_a_prompt_with_both_labels_is_left_out_where_each_comes_once(model: SafeSignalModel) -> None:
    rows = [
        {"id": "a", "prompt": "bake", "prompt_label": "benign"},
        {"id": "b", "prompt": "bake", "prompt_label": "malicious"},
        {"id": "c", "prompt": "slice", "prompt_label": "malicious"},
    ]
    examples, left_out = encode_examples(model, [record_from_row(row) for row in rows], QUERIES)
    assert [e.record.id for e in examples] == ["c"]
    assert left_out == 2


def test_wrapping_keeps_the_turns_before_and_the_side_of_the_split(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Bake it."), ("assistant", "Well."), ("user", "Slice it.")]
    rows: list[dict[str, Any]] = [
        {"id": "talk", "messages": [{"role": role, "content": content} for role, content in turns]},
        {"id": "own", "prompt": "In a play, bake it.", "base_prompt": "Bake a loaf"},
        {"id": "bare", "prompt": "Toast it.", "response": "Yes.", "response_label": "benign"},
    ]
    templates: list[dict[str, Any]] = [
        {"id": "t", "source": "pyrit/templates", "template": "You are a dragon. [INSERT PROMPT HERE]"}
    ]
    for name, lines in (("rows.jsonl", rows), ("train_jailbreak_templates.jsonl", templates)):
        labelled = [line | {"prompt_label": "benign"} for line in lines]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in labelled))
    part = MixturePart(file=str(tmp_path / "rows.jsonl"), template_source="pyrit/templates")
    made = {row.id: row for row in load_mixture(AlignConfig(mixture=(part,)), str(tmp_path), [])}
    before = {f"wrapped/{row['id']}": record_from_row(row) for row in rows}
    assert made.keys() == before.keys()
    for name, row in made.items():
        assert row.messages[:-1] == before[name].messages[:-1]
        assert row.prompt == f"You are a dragon. {before[name].prompt}"
        assert (row.response, row.response_label) == (None, "none")
        assert prompt_key(row) == prompt_key(before[name])
