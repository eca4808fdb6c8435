"""Plain supervised fine-tuning (no [CLS], no signal): the baseline of the same data, trainer and steps.

Loss: mean cross-entropy over answer tokens, L_sft of the paper alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safesignal.align.answers import encode_answers
from safesignal.align.config import AlignConfig
from safesignal.align.evaluate import VALIDATION_EPOCH
from safesignal.align.examples import Example, batches
from safesignal.align.lm import LmFigures, Supervised, answer_losses, checkpointing, decoder_layers, prepare_base
from safesignal.align.lora import LoRASet
from safesignal.align.parallel import put_back, whole
from safesignal.align.recipe import Finished, Loading, Rows
from safesignal.config import SignalConfig
from safesignal.data.records import Record
from safesignal.errors import UsageError
from safesignal.files import write_json
from safesignal.modeling.adapter_io import identify
from safesignal.modeling.peft_format import save_lora
from safesignal.modeling.zoo import load_base

__all__ = ["SftRecipe"]


class _Step(nn.Module):
    """The summed loss of one batch by term, as a module; terms without a row in the batch are zero."""

    def __init__(self, recipe: SftRecipe) -> None:
        super().__init__()
        self.base = recipe.base
        if recipe.lora is not None:
            self.lora = recipe.lora
        self._recipe = recipe

    def forward(self, batch: Sequence[Example], epoch: int) -> dict[str, Tensor]:
        recipe = self._recipe
        rows = [recipe.supervised(example, epoch) for example in batch]
        with checkpointing(self.base, on=recipe.config.activation_checkpointing and torch.is_grad_enabled()):
            losses_B = answer_losses(self.base, rows)
        terms = [recipe.term(example) for example in batch]
        members = {name: [own == name for own in terms] for name in recipe.weights}
        return {name: (losses_B * losses_B.new_tensor(own)).sum() for name, own in members.items()}


class SftRecipe:
    """Tunes a base model, wholly or by LoRA, on the answers it is to give.

    Args:
        base: Tuned in place.
        tokenizer: Its tokenizer, with a chat template.
        config: Settings.
        name: Alias, folder or hub id that the base is loaded from; a LoRA names it.
    """

    weights: Mapping[str, float] = {"lm": 1.0}
    uneven = False

    def __init__(
        self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: AlignConfig, name: str = ""
    ) -> None:
        self.base, self.tokenizer, self.config = base, tokenizer, config
        self.name = name or str(base.config._name_or_path)
        self._saved_dtype = base.dtype
        self._identity = asdict(identify(base, tokenizer, self.name))  # before training changes the weights
        prepare_base(base, config)
        self.lora = LoRASet(base, config).to(base.device) if config.tuning == "lora" else None

    @classmethod
    def from_base(cls, model: str, config: AlignConfig, signal: SignalConfig, **how: Unpack[Loading]) -> Self:
        """Load the base; the signal's settings have no part in this recipe."""
        del signal
        base, tokenizer = load_base(model, **how)
        # An alias stays one: it means the same on another machine, the folder it is converted to does not.
        return cls(base, tokenizer, config, model)

    def identity(self) -> dict[str, Any]:
        """Return the base."""
        return {"base": self._identity}

    def encode(self, records: Iterable[Record]) -> tuple[list[Example], int]:
        """Encode prompts with the answers that are wanted."""
        return encode_answers(self.tokenizer, records, self.config)

    def prepare(self, examples: Sequence[Example], folder: Path) -> None:
        """Do nothing: what is trained changes all that could be kept."""

    def batches(self, examples: Sequence[Example], rows: int, epoch: int) -> Iterator[list[Example]]:
        """Yield shuffled steps of rows of similar length."""
        return batches(examples, rows, self.config.seed, epoch)

    def term(self, example: Example) -> str:
        """Return the term of the loss that a row belongs to."""
        del example
        return "lm"

    def supervised(self, example: Example, epoch: int) -> Supervised:
        """Return what is read and what of it is learnt: the answer, end token included."""
        del epoch
        return Supervised(example.encoded.ids, example.encoded.text)

    def counts(self, batch: Sequence[Example], epoch: int) -> dict[str, int]:
        """Count the answer tokens of each term."""
        found = dict.fromkeys(self.weights, 0)
        for example in batch:
            found[self.term(example)] += self.supervised(example, epoch).count
        return found

    def sharded(self) -> bool:
        """Tell whether the trained tensors are split over processes."""
        return self.config.shard or any(isinstance(parameter, DTensor) for parameter in self.parameters())

    def module(self) -> nn.Module:
        """Return the summed loss of one batch as a module."""
        return _Step(self)

    def blocks(self) -> Sequence[nn.Module]:
        """Return the decoder layers."""
        return decoder_layers(self.base)

    def parameters(self) -> list[nn.Parameter]:
        """Return the LoRA's parameters, or the base's."""
        return list(self.base.parameters() if self.lora is None else self.lora.parameters())

    @torch.no_grad()
    def validate(self, examples: Sequence[Example]) -> LmFigures:
        """Measure the mean loss over answer tokens, all terms alike."""
        ordered = sorted(examples, key=lambda example: len(example.encoded.ids))
        rows = [self.supervised(example, VALIDATION_EPOCH) for example in ordered]
        size = self.config.batch_size
        total = sum(float(answer_losses(self.base, rows[i : i + size]).sum()) for i in range(0, len(rows), size))
        n = sum(row.count for row in rows)
        return LmFigures(total / n, n)

    def state(self) -> dict[str, Tensor]:
        """Return the LoRA's tensors, or the base's parameters."""
        return dict((self.base if self.lora is None else self.lora).named_parameters())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put them back."""
        put_back(self.state(), state)

    def finish(self, rows: Rows, log: Callable[[str], None]) -> Finished:
        """Measure the weights; there is no threshold to choose."""
        metrics = self.validate(rows.val)
        log(f"saved weights: {metrics.as_dict()}")
        return Finished(metrics)

    def save(self, folder: Path, record: Mapping[str, Any], *, write: bool = True) -> None:
        """Write a model folder, or a LoRA folder in peft's format; both hold the tokenizer and load as a model.

        Raises:
            UsageError: If the folder cannot be written.
        """
        state = whole(self.base.state_dict()) if self.sharded() else None
        if not write:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.lora is not None:
                save_lora(folder, self.base, self.name, self.lora.pairs(), self.config.lora_alpha)
            elif state is not None:
                self.base.save_pretrained(folder, state_dict=state)
            else:
                self.base.to(self._saved_dtype).save_pretrained(folder)  # type: ignore[arg-type]
            self.tokenizer.save_pretrained(folder)
        except OSError as error:
            raise UsageError(f"`{folder}` cannot be written: {error}.", hint="choose another `--output`") from error
        write_json(folder / "training.json", dict(record))
