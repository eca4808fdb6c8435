"""Texts that were read once are found again as they were, and train the same signal."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safesignal.align.config import AlignConfig
from safesignal.align.evaluate import read_scores
from safesignal.align.examples import Example, encode_examples
from safesignal.align.gated import GatedRecipe
from safesignal.align.text_store import TextStore, read_texts
from safesignal.align.trainer import Trainer
from safesignal.errors import SignalError, UsageError
from safesignal.modeling.cache import TextState
from safesignal.modeling.model import SafeSignalModel
from tests.align.conftest import make_model, make_records

CONFIG = AlignConfig(batch_size=8, eval_every=3, epochs=2, learning_rate=5e-3, patience=99)


def examples_of(model: SafeSignalModel, n: int = 40) -> list[Example]:
    return encode_examples(model, make_records(n), CONFIG)[0]


def open_store(model: SafeSignalModel, examples: Sequence[Example], folder: Path) -> TextStore:
    return TextStore(model.forward_signal, asdict(model.identity()), examples, folder)


def text_of(state: TextState, row: int) -> torch.Tensor:
    """Return all keys and values of a row's own text."""
    length, width = state.lengths[row], state.cache.width
    own = [b[row, :, width - length : width] for layer in state.cache.filled() for b in layer.buffers]
    return torch.stack(own)


@pytest.fixture
def fed(model: SafeSignalModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every forward over text, as they happen."""
    seen: list[int] = []
    feed = model.forward_signal.feed

    def counted(state: TextState, tokens: Any, sights: Any, **how: Any) -> Any:
        seen.append(len(tokens))
        return feed(state, tokens, sights, **how)

    monkeypatch.setattr(model.forward_signal, "feed", counted)
    return seen


def test_what_was_read_once_is_found_as_it_was(model: SafeSignalModel, tmp_path: Path, fed: list[int]) -> None:
    examples = examples_of(model)
    store = open_store(model, examples, tmp_path)
    first = [store.read(examples[i : i + 8]) for i in range(0, 40, 8)]
    fed.clear()
    # Other rows together, in another order: lengths and padding differ, texts do not.
    for row in range(8):
        again = store.read(examples[row::8])
        for place, begun in enumerate(first):
            expected = text_of(read_texts(model.forward_signal, [examples[place * 8 + row]]), 0)
            assert again.lengths[place] == begun.lengths[row]
            assert torch.allclose(text_of(again, place), expected, rtol=1e-3, atol=1e-3)
    assert set(fed) == {1}, "only the comparison reads anything"


def test_scores_come_out_the_same(model: SafeSignalModel, tmp_path: Path) -> None:
    examples = examples_of(model)[:9]
    store = open_store(model, examples, tmp_path)

    def plain(batch: Sequence[Example]) -> TextState:
        return read_texts(model.forward_signal, batch)

    expected, targets, query = read_scores(model, examples, CONFIG, 0, plain)
    for _ in range(2):
        scores, same_targets, same_query = read_scores(model, examples, CONFIG, 0, store.read)
        assert torch.allclose(scores, expected, atol=2e-3)
        assert torch.equal(targets, same_targets)
        assert torch.equal(query, same_query)


def test_a_shared_beginning_changes_nothing(model: SafeSignalModel) -> None:
    examples = examples_of(model)[:6]
    assert len({example.encoded.ids[:4] for example in examples}) == 1, "they begin alike"
    together = read_texts(model.forward_signal, examples)
    for row, example in enumerate(examples):
        alone = model.forward_signal.new_state(1)
        model.forward_signal.feed(alone, [list(example.encoded.ids)], [[]])
        alone.advance([len(example.encoded.ids)])
        assert torch.allclose(text_of(together, row), text_of(alone, 0), atol=1e-5)
    same = read_texts(model.forward_signal, [examples[0], examples[0]])
    assert same.lengths == [len(examples[0].encoded.ids)] * 2


def test_only_what_is_missing_is_read(model: SafeSignalModel, tmp_path: Path, fed: list[int]) -> None:
    examples = examples_of(model)
    store = open_store(model, examples, tmp_path)
    store.read(examples[:3])
    fed.clear()
    store.read(examples[1:6])
    assert max(fed) == 3
    fed.clear()
    again = open_store(model, examples, tmp_path)
    fed.clear()
    again.read(examples[:6])
    assert not fed, "another process, or a later run, finds the file"


def test_other_texts_or_another_base_begin_anew(model: SafeSignalModel, tmp_path: Path) -> None:
    examples = examples_of(model)
    open_store(model, examples, tmp_path).read(examples[:8])
    other = open_store(model, examples[1:], tmp_path)
    assert not other.done.any()
    foreign = TextStore(model.forward_signal, {"name": "another"}, examples, tmp_path)
    assert not foreign.done.any()
    assert open_store(model, examples, tmp_path).done.any()


def test_training_from_the_store_is_training(tmp_path: Path) -> None:
    curves = {}
    for stored in (False, True):
        config = replace(CONFIG, text_store=stored)
        model = make_model()
        examples = examples_of(model)
        recipe = GatedRecipe(model, config)
        run = Trainer(recipe, examples[:32], examples[32:], tmp_path / str(stored))
        recipe.prepare(examples, tmp_path / str(stored))
        losses: list[float] = []
        run.run(lambda at, losses=losses: losses.append(at.loss))  # type: ignore[misc]
        curves[stored] = losses
    assert np.allclose(curves[True], curves[False], atol=5e-3)
    assert list((tmp_path / "True").glob("texts-*"))
    assert not list((tmp_path / "False").glob("texts-*"))


def test_numbers_beyond_half_precision_are_refused(
    model: SafeSignalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_of(model)[:2]
    store = open_store(model, examples, tmp_path)
    plain = read_texts(model.forward_signal, examples)
    plain.cache.filled()[0].buffers[0].mul_(1e9)
    monkeypatch.setattr("safesignal.align.text_store.read_texts", lambda *_: plain)
    with pytest.raises(SignalError, match="beyond half precision"):
        store.read(examples)
    assert not store.done.any()


def test_no_room_is_said_before_anything_is_written(
    model: SafeSignalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_of(model)
    begun = open_store(model, examples, tmp_path / "begun")
    begun.read(examples)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match="Expected room"):
        open_store(model, examples, tmp_path / "new")
    begun.texts.flush()
    assert open_store(model, examples, tmp_path / "begun").done.any(), "what is there needs no room again"


def test_other_recipes_change_what_could_be_kept() -> None:
    with pytest.raises(UsageError, match=r"align\.text_store = True .* off but for the gated recipe"):
        AlignConfig(recipe="joint", text_store=True)
