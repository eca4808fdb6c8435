"""The gated recipe (ours): one pass over the text without gradients, a few cheap safety rows with them.

A signal with a reader has its query checks in whole forwards of their own, with gradients all through, and so has the
training of a reader of answers its windows.

Loss (paper: L_cls): cross-entropy of the head against the label, over queries and windows of answers. The base is
frozen, so there is no language-model term to balance it with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from safesignal.align.config import AlignConfig
from safesignal.align.evaluate import Metrics, ReadTexts, cls_loss, place_checks, read_scores, validate
from safesignal.align.examples import Example, batches, encode_examples
from safesignal.align.parallel import put_back
from safesignal.align.recipe import Finished, Loading, Rows
from safesignal.align.text_store import TextStore, read_texts
from safesignal.align.thresholds import choose_thresholds, round_to_half
from safesignal.config import SignalConfig
from safesignal.data.records import Record
from safesignal.errors import AdapterError, UsageError
from safesignal.modeling.adapter import Signal
from safesignal.modeling.adapter_io import find_adapter, load_adapter, load_weights
from safesignal.modeling.model import SafeSignalModel

__all__ = ["GatedRecipe", "begin_readers"]

_BUILT = ("position", "rank", "alpha", "targets")
"""Settings that the weights of a signal were made for."""
_READERS = ("reader_rank", "answer_reader_rank")
_READING = ("suspicion", "surprise")
"""When they read; a run that does not say it leaves it as it was."""


class _Step(nn.Module):
    """The loss of one batch as a module, which is what data parallel wraps."""

    def __init__(self, recipe: GatedRecipe) -> None:
        super().__init__()
        self.model = recipe.model
        self.recipe = recipe

    def forward(self, batch: Sequence[Example], epoch: int) -> dict[str, Tensor]:
        config = self.recipe.config
        scores, targets, _ = read_scores(self.model, batch, config, epoch, self.recipe.read_texts)
        return {"cls": cls_loss(scores, targets, config)}


class GatedRecipe:
    """Trains the adapter of a model made by :meth:`SafeSignalModel.from_base`."""

    weights: Mapping[str, float] = {"cls": 1.0}

    def __init__(self, model: SafeSignalModel, config: AlignConfig) -> None:
        self.model = model
        self.config = config
        self.uneven = bool(model.forward_signal.adapter.readers)  # a step may have work for one of them alone
        self._started = model.fingerprint() if config.start else ""
        self._before = dict(model.training_record) if config.start else {}
        self._start = {name: value.clone() for name, value in self.state().items()} if config.start_share else {}
        self.read_texts: ReadTexts = partial(read_texts, model.forward_signal)
        model.forward_signal.adapter.float().requires_grad_(True)

    @classmethod
    def from_base(cls, model: str, config: AlignConfig, signal: SignalConfig, **how: Unpack[Loading]) -> Self:
        """Put an untrained signal, drawn with the run's seed, into a base model, or go on from one (`config.start`).

        Raises:
            AdapterError: If that one is no gated adapter, or its base has another shape, tokenizer or template.
            UsageError: If the signal asked for is built otherwise, its windows would be trained by no run, or a reader
                would be begun and not trained.
        """
        if not config.start and not config.windows:
            raise UsageError(
                "align.windows is off and align.start is empty. Expected an adapter whose windows are trained already.",
                hint="`--start ADAPTER`",
            )
        if not config.start and config.start_share:
            raise UsageError(
                f"align.start_share = {config.start_share} and align.start is empty. Expected an adapter for the mean.",
                hint="`--start ADAPTER`",
            )
        if not config.start:
            _require_trained(config, signal, begun=_ranked(signal))
            fresh = SafeSignalModel.from_base(model, config=signal, seed=config.seed, **how)
            begin_readers(fresh, fresh.forward_signal.adapter.readers)
            return cls(fresh, config)
        own = SafeSignalModel.from_pretrained(config.start, base=model, allow_base_drift=True, **how)
        if own.config.recipe != "gated":
            raise AdapterError(
                f"align.start = {config.start} holds a {own.config.recipe} adapter. Expected a gated one.",
                hint="`--recipe joint` goes on from a run of `--recipe pretrain`",
            )
        # As they were saved: a base in bfloat16 has just rounded them to its own dtype.
        load_weights(
            own.forward_signal.adapter.float(), load_adapter(find_adapter(config.start, model))[2], config.start
        )
        wanted = _settled(own.config, signal)
        _require_trained(config, wanted, begun=_ranked(wanted) - _ranked(own.config))
        had = own.forward_signal.adapter.readers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            own.forward_signal.add_readers(wanted)
        begun = [reader for reader in own.forward_signal.adapter.readers if reader not in had]
        begin_readers(own, begun)
        if begun and config.start_share:
            raise UsageError(
                f"align.start_share = {config.start_share}, and {config.start} lacks a reader, which this run "
                "begins. Expected 0: there is nothing to take a mean with."
            )
        own.config = wanted
        # What is trained now belongs to the base at hand.
        own.base_drift, own.trained_for = "", None
        return cls(own, config)

    def identity(self) -> dict[str, Any]:
        """Return the signal without its thresholds, the base, and what the run started from, if from anything."""
        signal = asdict(replace(self.model.config, presets={}))
        started = {"start": self._started} if self._started else {}
        return {"signal": signal, "base": asdict(self.model.identity()), **started}

    def encode(self, records: Iterable[Record]) -> tuple[list[Example], int]:
        """Encode rows with a label of the prompt or of the answer."""
        return encode_examples(self.model, records, self.config)

    def prepare(self, examples: Sequence[Example], folder: Path) -> None:
        """Open the store of what the base makes of the texts, where the settings ask for one."""
        if self.config.text_store:
            base = asdict(self.model.identity())
            self.read_texts = TextStore(self.model.forward_signal, base, examples, folder).read

    def batches(self, examples: Sequence[Example], rows: int, epoch: int) -> Iterator[list[Example]]:
        """Yield shuffled steps of rows of similar length."""
        return batches(examples, rows, self.config.seed, epoch)

    def counts(self, batch: Sequence[Example], epoch: int) -> dict[str, int]:
        """Count the safety rows that are drawn, and what a reader reads anew."""
        return {"cls": sum(map(len, place_checks(self.model, batch, self.config, epoch)))}

    def module(self) -> nn.Module:
        """Return the summed loss of one batch as a module."""
        return _Step(self)

    def blocks(self) -> Sequence[nn.Module]:
        """Return nothing: a frozen base is not sharded."""
        return []

    def parameters(self) -> list[nn.Parameter]:
        """Return the adapter's parameters."""
        return list(self.model.forward_signal.adapter.parameters())

    def validate(self, examples: Sequence[Example]) -> Metrics:
        """Measure the signal on checks that are drawn once and for all."""
        return validate(self.model, examples, self.config, self.read_texts)

    def state(self) -> dict[str, Tensor]:
        """Return the adapter's tensors."""
        return self.model.forward_signal.adapter.state_dict()

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the adapter's tensors back."""
        put_back(self.state(), state)

    def finish(self, rows: Rows, log: Callable[[str], None]) -> Finished:
        """Take the mean with the start where one is asked for, round to half precision, and calibrate there."""
        with torch.no_grad():
            for name, value in self._start.items():
                self.state()[name].lerp_(value, self.config.start_share)
        round_to_half(self.model)
        self.model.forward_signal.adapter.requires_grad_(False)
        self.model.trained_signal = True
        metrics = validate(self.model, rows.val, self.config, partial(read_texts, self.model.forward_signal))
        log(f"saved weights: {metrics.as_dict()}")
        return choose_thresholds(self.model, rows, metrics, self.config)

    def save(self, folder: Path, record: Mapping[str, Any], *, write: bool = True) -> None:
        """Write the adapter folder; where the run went on from another adapter, its record has that one's too."""
        self.model.training_record = dict(record) | ({"start": self._before} if self._before else {})
        if write:
            self.model.save_pretrained(folder)


@torch.no_grad()
def begin_readers(model: SafeSignalModel, readers: Sequence[Signal]) -> None:
    """Let untrained readers begin with no opinion, and their [CLS] as the last token of every prompt read once more.

    Drawn at random as the other [CLS] is, it stays blind for a hundred steps (docs/LOG.md, 2026-11-29). A reader of
    answers that joins a trained one of queries, of its own rank, begins as that: a request is half of what it reads.
    """
    adapter, config = model.forward_signal.adapter, model.config
    for reader in readers:
        if reader is adapter.answer_reader and adapter.reader and config.answer_reader_rank == config.reader_rank:
            reader.load_state_dict(adapter.reader.state_dict())
            continue
        last = torch.tensor([model.encode_one("Hello").ids[-1]], device=model.base.device)
        reader.cls_D.copy_(model.base.get_input_embeddings()(last)[0])
        nn.init.zeros_(reader.head.proj.weight)
        nn.init.zeros_(reader.head.proj.bias)


def _ranked(signal: SignalConfig) -> set[str]:
    """Return the settings of the readers that a signal has."""
    return {name for name in _READERS if getattr(signal, name)}


def _require_trained(config: AlignConfig, wanted: SignalConfig, *, begun: Set[str]) -> None:
    """Raise if a run would begin a reader that it does not train, and save it as if it did.

    Args:
        config: Of the run.
        wanted: The signal that it makes.
        begun: Settings of the readers that the run begins.
    """
    if config.read_answers and not (config.start and wanted.answer_reader_rank):
        lacking = "signal.answer_reader_rank is 0" if config.start else "align.start is empty"
        raise UsageError(
            f"align.read_answers is on and {lacking}. Expected an adapter, and the rank of a reader of answers to "
            "train for it.",
            hint="`--start ADAPTER --answer_reader_rank 16`",
        )
    untrained = "reader_rank" if config.read_answers else "answer_reader_rank"
    if untrained in begun:
        raise UsageError(
            f"signal.{untrained} = {getattr(wanted, untrained)} asks for a reader that this run would begin and not "
            f"train. Expected 0, or align.read_answers {'off' if config.read_answers else 'on'}.",
            hint="one run trains one: that of queries first, that of answers with `--start ADAPTER --read_answers`",
        )


def _settled(started: SignalConfig, asked: SignalConfig) -> SignalConfig:
    """Return the settings of a run that goes on: those asked for, or, where nothing was, those it started from.

    What is asked for is taken whole: settings that it leaves out are the defaults, but for those of readers.
    Thresholds are those it started from, until others are calibrated.
    """
    if asked == SignalConfig():
        return started
    usual = SignalConfig()
    left_out = [name for name in (*_READERS, *_READING) if getattr(asked, name) == getattr(usual, name)]
    kept: dict[str, Any] = {name: getattr(started, name) for name in left_out}
    asked = replace(asked, **kept)
    differing = [name for name in _BUILT if getattr(started, name) != getattr(asked, name)]
    for name in _READERS:
        differing += [name] if getattr(started, name) not in (0, getattr(asked, name)) else []
    if differing:
        found = ", ".join(f"{name} = {getattr(started, name)}" for name in differing)
        raise UsageError(
            f"align.start has a signal with {found}. Expected what the recipe asks for: "
            f"{', '.join(str(getattr(asked, name)) for name in differing)}.",
            hint="leave the signal's settings out to take those of the start",
        )
    return replace(asked, presets=started.presets)
