"""The paper's alignment stage: L = L_sft + λ2 · L_cls, over answers that see the signal.

One forward holds the text and its [CLS] rows (`modeling/forward.py:SignalForward.train_pass`). Query tokens see no
[CLS], answer tokens do; [CLS] sees the query (paper), or windows of the answer too (`cls_spans = "inference"`), where
each answer token sees the latest check that inference would have completed before it. L_sft is taken of answer tokens
alone, and never of a harmful answer: such rows, used with windows only, count for L_cls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn

from safesignal.align.answers import encode_answers
from safesignal.align.config import AlignConfig
from safesignal.align.evaluate import VALIDATION_EPOCH, Metrics, cls_loss, metrics_of
from safesignal.align.examples import Example, Labelled, batches, draw_checks, encode_examples, paired_batches
from safesignal.align.lm import LmFigures, Supervised, checkpointing, summed_losses
from safesignal.align.parallel import whole
from safesignal.align.recipe import Finished, Loading, Rows
from safesignal.align.sft import SftRecipe
from safesignal.align.thresholds import choose_thresholds, round_to_half
from safesignal.config import SignalConfig
from safesignal.data.records import Record
from safesignal.errors import AdapterError, UsageError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.peft_format import merge_pairs
from safesignal.modeling.tuned import Tuned

__all__ = ["JointFigures", "JointRecipe", "Losses"]


@dataclass(frozen=True, slots=True)
class JointFigures:
    """Validation of both terms.

    Attributes:
        loss: Their weighted sum, L_lm + λ · L_cls.
        lm: The language-model loss.
        signal: The signal; its loss is L_cls.
    """

    loss: float
    lm: LmFigures
    signal: Metrics

    def as_dict(self) -> dict[str, float | None]:
        """Return plain values, rounded for a file."""
        parts = {f"lm_{name}": value for name, value in self.lm.as_dict().items()}
        signal = self.signal.as_dict()
        return {"loss": round(self.loss, 5), **parts, "cls_loss": signal.pop("loss"), **signal}

    def __str__(self) -> str:
        """Return the line that a user reads while a run goes on."""
        return f"validation loss {self.loss:.3f}  text: {self.lm.loss:.3f}  signal: {self.signal}"


@dataclass(frozen=True, slots=True)
class Losses:
    """What one forward gives for a batch.

    Attributes:
        lm: Scalar, summed cross-entropy of the supervised tokens.
        scores: (N, 2) class scores of all checks.
        targets: (N,) long, 1 where malicious.
        query: (N,) bool, True for query checks.
    """

    lm: Tensor
    scores: Tensor
    targets: Tensor
    query: Tensor


class _Step(nn.Module):
    """The summed losses of one batch by term, as a module."""

    def __init__(self, recipe: JointRecipe) -> None:
        super().__init__()
        self.signal = recipe.model.forward_signal
        if recipe.lora is not None:
            self.lora = recipe.lora
        self._recipe = recipe

    def forward(self, batch: Sequence[Example], epoch: int) -> dict[str, Tensor]:
        recipe = self._recipe
        with checkpointing(recipe.base, on=recipe.config.activation_checkpointing and torch.is_grad_enabled()):
            found = recipe.read(batch, epoch)
        return {"lm": found.lm, "cls": cls_loss(found.scores, found.targets, recipe.config)}


class JointRecipe(SftRecipe):
    """Tunes a base model and its signal together.

    Args:
        model: Made with a joint signal; its base is tuned in place, wholly or by LoRA.
        config: Settings.

    Raises:
        UsageError: If the model's signal is not a joint one.
    """

    def __init__(self, model: SafeSignalModel, config: AlignConfig) -> None:
        if model.config.recipe != "joint":
            raise UsageError(f"signal.recipe = {model.config.recipe}. Expected `joint` for the {config.recipe} recipe.")
        super().__init__(model.base, model.tokenizer, config, model.name)
        self.model = model
        self.weights = {"lm": 1.0, "cls": config.weight_of_cls}
        self._first = model.tuned
        self._base = asdict(model.trained_for or model.identity())
        self._started = model.fingerprint() if config.start else ""
        model.forward_signal.adapter.float().requires_grad_(True)

    @classmethod
    def from_base(cls, model: str, config: AlignConfig, signal: SignalConfig, **how: Unpack[Loading]) -> Self:
        """Put an untrained signal into a base model, or go on from a finished pretraining run (`config.start`)."""
        if not config.start:
            return cls(SafeSignalModel.from_base(model, config=signal, seed=config.seed, **how), config)
        own = SafeSignalModel.from_pretrained(config.start, base=model, **how)
        if own.config.recipe != "joint":
            raise AdapterError(
                f"align.start = {config.start} holds a {own.config.recipe} adapter. Expected a pretraining run's.",
                hint="`safesignal align --recipe pretrain` makes one",
            )
        own.config = signal
        return cls(own, config)

    def identity(self) -> dict[str, Any]:
        """Return the signal without its thresholds, the untuned base, and what the run started from."""
        signal = asdict(replace(self.model.config, presets={}))
        return {"signal": signal, "base": self._base, "start": self._started}

    def encode(self, records: Iterable[Record]) -> tuple[list[Example], int]:
        """Encode prompts with the answers that are wanted, and for windows harmful answers, which are not learnt."""
        rows = list(records)
        examples, left_out = encode_answers(self.tokenizer, rows, self.config)
        harmful = [record for record in rows if record.response_is_malicious]
        if self.model.config.cls_spans == "query" or not harmful:
            return examples, left_out
        extra, more = encode_examples(self.model, harmful, self.config)
        if self.config.balance:
            most = sum(bool(example.prompt_is_malicious) for example in examples)
            extra = sorted(extra, key=lambda example: hashlib.sha256(example.record.id.encode()).digest())[:most]
        return examples + extra, left_out + more

    def prepare(self, examples: Sequence[Example], folder: Path) -> None:
        """Do nothing: what is trained changes all that could be kept."""

    def batches(self, examples: Sequence[Example], rows: int, epoch: int) -> Iterator[list[Example]]:
        """Yield steps that hold benign and malicious prompts in the proportion of the whole, half and half if balanced.

        Every step has some of both as long as there are any. Harmful answers, of which checks alone are learnt, come on
        top in their own proportion, so that L_sft has the same rows with them and without.
        """
        harmful = [example for example in examples if example.response_is_malicious]
        answered = [example for example in examples if not example.response_is_malicious]
        malicious = [example for example in answered if example.prompt_is_malicious]
        benign = [example for example in answered if not example.prompt_is_malicious]
        if rows < 2 or not malicious or not benign:
            yield from batches(examples, rows, self.config.seed, epoch)
            return
        share = min(max(1, round(rows * len(malicious) / len(answered))), rows - 1)
        more = max(1, round(rows * len(harmful) / len(answered)))
        kinds, sizes = (malicious, benign, harmful), (share, rows - share, more)
        yield from paired_batches(kinds, sizes, self.config.seed, epoch)

    def supervised(self, example: Example, epoch: int) -> Supervised:
        """Return what is read and what of it is learnt: the answer, end token included; nothing of a harmful one."""
        del epoch
        ids = example.encoded.ids
        return Supervised(ids, len(ids) if example.response_is_malicious else example.encoded.text)

    def checks(self, example: Example, epoch: int) -> list[Labelled]:
        """Return the safety rows of an example: its query (paper), or those that inference would run."""
        if self.model.config.cls_spans == "query":
            example = replace(example, response_is_malicious=None)
        return draw_checks(self.without_end(example), self.model.config, self.config, epoch)

    def since(self, example: Example, check: Labelled) -> int | None:
        """Return the first position that sees a check: the answer's first token, or the one after its window."""
        return example.encoded.text + check.span.end

    def without_end(self, example: Example) -> Example:
        """Return the example without the end token, which is no text to check."""
        encoded, end = example.encoded, self.tokenizer.eos_token_id
        if not encoded.prefill or encoded.ids[-1] != end:
            return example
        return replace(example, encoded=Encoded(encoded.ids[:-1], encoded.roles[:-1]))

    def counts(self, batch: Sequence[Example], epoch: int) -> dict[str, int]:
        """Count supervised tokens and safety rows."""
        return {
            "lm": sum(self.supervised(example, epoch).count for example in batch),
            "cls": sum(len(self.checks(example, epoch)) for example in batch),
        }

    def module(self) -> nn.Module:
        """Return the summed losses of one batch as a module."""
        return _Step(self)

    def read(self, batch: Sequence[Example], epoch: int) -> Losses:
        """Run a batch and its checks in one forward, with gradients where recorded."""
        forward = self.model.forward_signal
        rows = [self.supervised(example, epoch) for example in batch]
        drawn = [self.checks(example, epoch) for example in batch]
        sights = [
            [forward.sight(example.encoded.ranges(check.span), self.since(example, check)) for check in checks]
            for example, checks in zip(batch, drawn, strict=True)
        ]
        hidden_BQD = forward.train_pass([row.ids for row in rows], sights)
        width, device = max(len(row.ids) for row in rows), hidden_BQD.device
        lm_B = summed_losses(self.base, hidden_BQD, rows, [width - len(row.ids) for row in rows])
        flat = [(b, width + k, check) for b, checks in enumerate(drawn) for k, check in enumerate(checks)]
        places_N2 = torch.tensor([place[:2] for place in flat], dtype=torch.long, device=device).reshape(-1, 2)
        return Losses(
            lm=lm_B.sum(),
            scores=forward.adapter.head.logits(hidden_BQD[places_N2[:, 0], places_N2[:, 1]]),
            targets=torch.tensor([int(check.malicious) for _, _, check in flat], dtype=torch.long, device=device),
            query=torch.tensor([check.span.query for _, _, check in flat], dtype=torch.bool, device=device),
        )

    def parameters(self) -> list[nn.Parameter]:
        """Return the LoRA's parameters, or the base's, and the signal's."""
        return [*super().parameters(), *self.model.forward_signal.adapter.parameters()]

    @torch.no_grad()
    def validate(self, examples: Sequence[Example]) -> JointFigures:  # type: ignore[override]
        """Measure both terms, on checks that are drawn once and for all."""
        ordered, size = sorted(examples, key=lambda example: len(example.encoded.ids)), self.config.batch_size
        parts = [self.read(ordered[i : i + size], VALIDATION_EPOCH) for i in range(0, len(ordered), size)]
        n = self.counts(ordered, VALIDATION_EPOCH)["lm"]
        lm = LmFigures(sum(float(part.lm) for part in parts) / max(1, n), n)
        scores, targets, query = (
            torch.cat([getattr(part, name).cpu() for part in parts]) for name in ("scores", "targets", "query")
        )
        signal = metrics_of(scores.float(), targets, query)
        # Without a labelled row there is no L_cls, and not-a-number would never be better than anything.
        return JointFigures(lm.loss + (self.weights["cls"] * signal.loss if signal.n else 0.0), lm, signal)

    def state(self) -> dict[str, Tensor]:
        """Return the LoRA's tensors, or the base's parameters, and the signal's."""
        signal = {f"signal.{name}": own for name, own in self.model.forward_signal.adapter.named_parameters()}
        return {**super().state(), **signal}

    def finish(self, rows: Rows, log: Callable[[str], None]) -> Finished:
        """Bring the weights to what loading will give, measure them, and calibrate the thresholds there."""
        self.settle()
        metrics = self.validate(rows.val)
        log(f"saved weights: {metrics.as_dict()}")
        answers = replace(rows, val=[self.without_end(example) for example in rows.val])
        return choose_thresholds(self.model, answers, metrics, self.config)

    @torch.no_grad()
    def settle(self) -> None:
        """Round the signal to half precision and the model to its own, and merge the LoRA as loading does."""
        if not self.sharded():
            round_to_half(self.model)
        self.model.trained_signal = True
        if self.lora is None:
            if not self.sharded():
                self.base.to(self._saved_dtype)  # type: ignore[arg-type]
            own = Tuned(None)
        else:
            scale = self.config.lora_alpha / self.config.lora_rank
            pairs = {
                name: (down.detach().float().cpu(), scale * up.detach().float().cpu())
                for name, (down, up) in self.lora.pairs().items()
            }
            self.lora.remove()
            merge_pairs(self.base, pairs, "this run")
            own = Tuned(pairs)
        self.model.tuned = own.after(self._first)
        self.base.requires_grad_(False)
        self.model.forward_signal.adapter.requires_grad_(False)

    def save(self, folder: Path, record: Mapping[str, Any], *, write: bool = True) -> None:
        """Write the adapter folder, the tuned language model in its `lm/`."""
        self.model.training_record = dict(record)
        signal, lm = None, None
        if self.sharded():
            signal, lm = whole(self.model.forward_signal.adapter.state_dict()), whole(self.base.state_dict())
        if write:
            self.model.save_pretrained(folder, signal=signal, lm=lm)
