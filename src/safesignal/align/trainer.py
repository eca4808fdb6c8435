"""The gated recipe: one pass over the text without gradients, a few cheap safety rows with them.

Loss (paper: L_cls): cross-entropy of the head against the label, over queries and windows of answers. The base is
frozen, so there is no language-model term to balance it with.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from safesignal.align.config import AlignConfig
from safesignal.align.evaluate import Metrics, read_scores, validate
from safesignal.align.examples import Example, batches
from safesignal.errors import SignalError, UsageError
from safesignal.modeling.model import SafeSignalModel

__all__ = ["Progress", "Trainer"]

_STATE_FILE = "state.pt"
_HISTORY_FILE = "history.jsonl"
_AFTER_TRAINING = ("target_fpr", "lookalike_fpr")
"""Settings that only the thresholds depend on: a finished run may be calibrated again."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is, for a progress bar.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Training loss of the last step.
        metrics: Validation figures, right after an evaluation; else None.
    """

    step: int
    steps: int
    loss: float
    metrics: Metrics | None = None


class _Step(nn.Module):
    """The loss of one batch as a module, which is what data parallel wraps."""

    def __init__(self, model: SafeSignalModel, config: AlignConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Sequence[Example], epoch: int) -> Tensor:
        scores, targets, _ = read_scores(self.model, batch, self.config, epoch)
        return nn.functional.cross_entropy(scores, targets, label_smoothing=2 * self.config.label_smoothing)


@dataclass
class Trainer:
    """One alignment run, resumable step for step.

    Attributes:
        model: The model whose adapter is trained, in place.
        config: Settings.
        train: Training examples.
        val: Validation examples.
        folder: Where checkpoints and the history go.
        best_loss: Lowest validation loss so far.
        stale: Evaluations since then.
        step: Steps done.
    """

    model: SafeSignalModel
    config: AlignConfig
    train: Sequence[Example]
    val: Sequence[Example]
    folder: Path
    best_loss: float = math.inf
    stale: int = 0
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"`{self.folder}` cannot be written: {error.strerror}.") from error
        self.accelerator = Accelerator()
        adapter = self.model.forward_signal.adapter
        adapter.float().requires_grad_(True)
        self.model.to(self.accelerator.device)
        self.optimizer = torch.optim.AdamW(
            adapter.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.per_epoch = math.ceil(sum(1 for _ in batches(self.train, self.config, 0)) / self.accelerator.num_processes)
        self.steps = max(1, round(self.per_epoch * self.config.epochs))
        module = _Step(self.model, self.config)
        self.module = self.accelerator.prepare_model(module) if self.accelerator.num_processes > 1 else module

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train to the end or until validation stops improving; then put the best weights back.

        A checkpoint is written at every evaluation; a run that finds one goes on from it and draws the batches and
        spans that it would have drawn anyway (tests/align/test_trainer.py).
        """
        self._resume()
        for epoch, batch in self._remaining():
            loss = self._train_step(batch, epoch)
            self.step += 1
            metrics = None
            if self.step % self.config.eval_every == 0 or self.step == self.steps:
                metrics = self._evaluate(loss)
            report(Progress(self.step, self.steps, loss, metrics))
            if self.stale >= self.config.patience:
                break
        self._restore_best()

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step (from 0): linear warm-up, then cosine to zero."""
        warmup = max(1, round(self.steps * self.config.warmup_ratio))
        if step < warmup:
            return float(self.config.learning_rate * (step + 1) / warmup)
        progress = (step - warmup) / max(1, self.steps - warmup)
        return float(self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    def _remaining(self) -> Iterator[tuple[int, list[Example]]]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        done = 0
        for epoch in range(math.ceil(self.config.epochs)):
            groups = list(batches(self.train, self.config, epoch))
            for index in range(0, len(groups), world):
                if done >= self.steps:
                    return
                if done >= self.step:
                    # The last round may be short; it starts over so that every process has a batch.
                    yield epoch, groups[(index + rank) % len(groups)]
                done += 1

    def _train_step(self, batch: Sequence[Example], epoch: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        loss: Tensor = self.module(batch, epoch)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.forward_signal.adapter.parameters(), self.config.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SignalError(
                f"the training loss is {value} at step {self.step + 1}. Expected a finite number.",
                hint="lower `--learning_rate`; the last checkpoint is kept",
            )
        return value

    def _evaluate(self, loss: float) -> Metrics:
        metrics = validate(self.model, self.val, self.config)
        better = metrics.loss < self.best_loss
        self.best_loss, self.stale = (metrics.loss, 0) if better else (self.best_loss, self.stale + 1)
        self.history.append({"step": self.step, "train_loss": round(loss, 5), **metrics.as_dict()})
        if self.accelerator.is_main_process:
            self._save(better)
        return metrics

    def _save(self, better: bool) -> None:
        state = {
            "adapter": self.model.forward_signal.adapter.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best_loss": self.best_loss,
            "stale": self.stale,
            "history": self.history,
            "run": self._run_key(),
        }
        scratch = self.folder / f".{_STATE_FILE}"
        torch.save(state, scratch)
        scratch.replace(self.folder / _STATE_FILE)
        if better:
            shutil.copy(self.folder / _STATE_FILE, self.folder / "best.pt")
        with (self.folder / _HISTORY_FILE).open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.history)

    def _resume(self) -> None:
        path = self.folder / _STATE_FILE
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location=self.accelerator.device)
        if state["run"] != self._run_key():
            raise UsageError(
                f"`{self.folder}` holds a run with other settings, rows or base. Expected the same, to go on from it.",
                hint="repeat its settings and data, or choose another `--output`",
            )
        self.model.forward_signal.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.stale, self.best_loss = state["step"], state["stale"], state["best_loss"]
        self.history = state["history"]

    def _run_key(self) -> str:
        """Return what makes a run this run: settings, signal, base, and the rows in their order."""
        rows = hashlib.sha256()
        for example in (*self.train, *self.val):
            labels = (example.record.id, example.prompt_is_malicious, example.response_is_malicious)
            rows.update(repr((labels, example.encoded.ids)).encode())
        settings = {k: v for k, v in asdict(self.config).items() if k not in _AFTER_TRAINING}
        parts = {"align": settings, "signal": asdict(replace(self.model.config, presets={}))}
        base = asdict(self.model.identity())
        return json.dumps({**parts, "base": base, "rows": rows.hexdigest()}, sort_keys=True)

    def _restore_best(self) -> None:
        self.accelerator.wait_for_everyone()
        state = torch.load(self.folder / "best.pt", weights_only=True, map_location=self.accelerator.device)
        self.model.forward_signal.adapter.load_state_dict(state["adapter"])
