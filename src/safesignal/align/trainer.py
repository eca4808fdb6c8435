"""The training loop, one for every recipe: steps, processes, precision, checkpoints and resume, early stopping.

A step has batch_size x accumulation x processes rows. Each process takes its share, cut into forward passes of at most
batch_size rows and batch_tokens tokens, and the sums of every pass are divided by the counts of the whole step
(`align/recipe.py`), so how the rows are split changes nothing but rounding.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor

from safesignal.align.examples import Example
from safesignal.align.parallel import gathered, load_optimizer, shard, whole
from safesignal.align.recipe import Figures, Finished, Recipe, Rows, weigh
from safesignal.errors import SignalError, UsageError

__all__ = ["Progress", "Share", "Trainer", "share_out"]

_STATE_FILE = "state.pt"
_BEST_FILE = "best.pt"
_HISTORY_FILE = "history.jsonl"
_CHECKPOINT_SECONDS = 600
"""A run that is cut short loses no more than this, however far apart its evaluations are."""
_NOT_IN_KEY = (
    # Only the thresholds depend on these: a finished run may be calibrated again.
    "target_fpr",
    "lookalike_fpr",
    # What is saved of a finished run, not what it comes to.
    "start_share",
    # How a step is carried out, not what it comes to; the key has the rows of a step instead.
    "batch_size",
    "batch_tokens",
    "accumulation",
    "activation_checkpointing",
    "shard",
)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is, for a progress bar.

    Attributes:
        step: Steps done.
        steps: Steps in all.
        loss: Training loss of the last step, over all processes.
        terms: The same by term, before weighing; a term without items in this step is missing.
        grad_norm: Norm of the step's gradient before it was clipped.
        metrics: Validation figures, right after an evaluation; else None.
    """

    step: int
    steps: int
    loss: float
    terms: Mapping[str, float]
    grad_norm: float
    metrics: Figures | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """One forward pass of one process.

    Attributes:
        batch: Its rows, at least one.
        live: Whether they count; a pass that does not keeps this process in step with the others.
    """

    batch: Sequence[Example]
    live: bool


def share_out(rows: Sequence[Example], processes: int, index: int, size: int, tokens: int = 0) -> list[Share]:
    """Cut a step's rows into the forward passes of one process; every process makes the same number of them.

    Args:
        rows: Of the whole step, at least one.
        processes: How many share them.
        index: Which of them this is.
        size: Most rows of a pass.
        tokens: Most tokens of a pass, every row counted as long as the longest of the step; 0 sets no limit.
    """
    if tokens:
        size = max(1, min(size, tokens // max(len(row.encoded.ids) for row in rows)))
    own = rows[index::processes]
    passes = math.ceil(math.ceil(len(rows) / processes) / size)
    cut = [own[i * size : (i + 1) * size] for i in range(passes)]
    return [Share(batch, True) if batch else Share(rows[:1], False) for batch in cut]


@dataclass
class Trainer:
    """One run, resumable step for step.

    Attributes:
        recipe: What is trained, in place.
        train: Training examples.
        val: Validation examples.
        folder: Where checkpoints and the history go.
        best_loss: Lowest validation loss so far.
        stale: Evaluations since then.
        step: Steps done.
        history: One row per evaluation.
    """

    recipe: Recipe
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
        self.config = self.recipe.config
        parallel = DistributedDataParallelKwargs(find_unused_parameters=self.recipe.uneven)
        self.accelerator = Accelerator(kwargs_handlers=[parallel])
        self.processes = self.accelerator.num_processes
        self.rows = self.config.batch_size * self.config.accumulation * self.processes
        module = self.recipe.module().to(self.accelerator.device)
        if self.config.shard and self.processes == 1:
            raise UsageError(
                "align.shard is on and there is one process. Expected several, to split the model over.",
                hint="`accelerate launch --num_processes N -m safesignal align …`, or leave `--shard` out",
            )
        if self.config.shard:
            self.module = shard(module, self.recipe.blocks())
        else:
            self.module = self.accelerator.prepare_model(module) if self.processes > 1 else module
        # After sharding, which replaces parameters.
        self.optimizer = torch.optim.AdamW(
            self.recipe.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        self.per_epoch = sum(1 for _ in self.recipe.batches(self.train, self.rows, 0))
        steps = max(1, round(self.per_epoch * self.config.epochs))
        self.steps = min(steps, self.config.max_steps or steps)
        self._saved_at = time.monotonic()

    def run(self, report: Callable[[Progress], None]) -> None:
        """Train to the end or until validation stops improving; then put the best weights back.

        A checkpoint is written at every evaluation, and ten minutes after the last one; a run that finds one goes on
        from it and draws the batches and spans that it would have drawn anyway (tests/align/test_trainer.py).
        """
        self._resume()
        for epoch, rows in self._remaining():
            if self.stale >= self.config.patience:
                break
            loss, terms, norm = self._train_step(rows, epoch)
            self.step += 1
            metrics = None
            if self.step % self.config.eval_every == 0 or self.step == self.steps:
                metrics = self._evaluate(loss, terms)
            elif self._agreed(time.monotonic() - self._saved_at) >= _CHECKPOINT_SECONDS:
                self._save(better=False)
            report(Progress(self.step, self.steps, loss, terms, norm, metrics))
        self._restore_best()

    def finish(self, rows: Rows, log: Callable[[str], None]) -> Finished:
        """Let the recipe finish what was trained, with whole parameters at hand."""
        with gathered(self.module):
            return self.recipe.finish(rows, log)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step: linear warm-up, then cosine decay to zero."""
        warm_up = max(1, round(self.steps * self.config.warmup_ratio))
        if step < warm_up:
            return self.config.learning_rate * (step + 1) / warm_up
        done = (step - warm_up) / max(1, self.steps - warm_up)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _remaining(self) -> Iterator[tuple[int, list[Example]]]:
        """Yield the steps that are left: epoch, and the rows of all processes."""
        done = 0
        for epoch in range(math.ceil(self.config.epochs)):
            for rows in self.recipe.batches(self.train, self.rows, epoch):
                if done >= self.steps:
                    return
                if done >= self.step:
                    yield epoch, rows
                done += 1

    def _train_step(self, rows: Sequence[Example], epoch: int) -> tuple[float, dict[str, float], float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        counts = self.recipe.counts(rows, epoch)
        size, tokens = self.config.batch_size, self.config.batch_tokens
        shares = share_out(rows, self.processes, self.accelerator.process_index, size, tokens)
        sums: dict[str, Tensor] = {}
        for index, share in enumerate(shares):
            with self._unsynced(index < len(shares) - 1):
                with self._autocast():
                    found: dict[str, Tensor] = self.module(share.batch, epoch)
                # Data parallel takes the mean over processes; what is wanted is the sum.
                scale = self.processes if share.live else 0
                (weigh(found, counts, self.recipe.weights) * scale).backward()
            if share.live:
                sums = {term: value.detach().float() + sums.get(term, 0) for term, value in found.items()}
        loss, terms = self._read(sums, counts)
        norm = whole(torch.nn.utils.clip_grad_norm_(self.recipe.parameters(), self.config.max_grad_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, terms, float(norm)

    def _unsynced(self, more: bool) -> AbstractContextManager[Any]:
        """Leave gradients where they are while more passes of the step follow, where data parallel can."""
        no_sync = getattr(self.module, "no_sync", None)
        return no_sync() if more and no_sync is not None else nullcontext()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def _read(self, sums: Mapping[str, Tensor], counts: Mapping[str, int]) -> tuple[float, dict[str, float]]:
        """Return the step's loss over all processes, and its terms."""
        every = torch.stack([sums.get(term, torch.zeros((), device=self.accelerator.device)) for term in counts])
        if self.processes > 1:
            every = self.accelerator.reduce(every, "sum")
        totals = dict(zip(counts, every.tolist(), strict=True))
        terms = {term: totals[term] / count for term, count in counts.items() if count}
        loss = sum(self.recipe.weights[term] * value for term, value in terms.items())
        if not math.isfinite(loss):
            raise _no_number("training loss", loss, self.step + 1)
        return loss, terms

    def _evaluate(self, loss: float, terms: Mapping[str, float]) -> Figures:
        with gathered(self.module), self._autocast():
            metrics = self.recipe.validate(self.val)
        loss_of_all = self._agreed(metrics.loss)
        if not math.isfinite(loss_of_all):
            raise _no_number("validation loss", loss_of_all, self.step)
        better = loss_of_all < self.best_loss
        self.best_loss, self.stale = (loss_of_all, 0) if better else (self.best_loss, self.stale + 1)
        parts = {f"train_{term}": round(value, 5) for term, value in terms.items()} if len(terms) > 1 else {}
        self.history.append({"step": self.step, "train_loss": round(loss, 5), **parts, **metrics.as_dict()})
        self._save(better)
        return metrics

    def _agreed(self, value: float) -> float:
        """Return the first process's value: rounding must not let one process stop and another go on."""
        if self.processes == 1:
            return value
        return float(broadcast(torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)))

    def _save(self, better: bool) -> None:
        self._saved_at = time.monotonic()
        # Sharded tensors are put together by all processes, and written by one.
        state = {
            "weights": whole(self.recipe.state()),
            "optimizer": whole(self.optimizer.state_dict()),
            "step": self.step,
            "best_loss": self.best_loss,
            "stale": self.stale,
            "history": self.history,
            "run": self._run_key(),
        }
        if not self.accelerator.is_main_process:
            return
        # The best first: a state that tells of a better loss must find its weights.
        for name in [_BEST_FILE] * better + [_STATE_FILE]:
            scratch = self.folder / f".{name}"
            torch.save(state, scratch)
            scratch.replace(self.folder / name)
        with (self.folder / _HISTORY_FILE).open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.history)

    def _resume(self) -> None:
        path = self.folder / _STATE_FILE
        if not path.exists():
            return
        state = torch.load(path, weights_only=True, map_location="cpu")
        if state["run"] != self._run_key():
            raise UsageError(
                f"`{self.folder}` holds a run with other settings, rows or base. Expected the same, to go on from it.",
                hint="repeat its settings and data, or choose another `--output`",
            )
        self.recipe.load_state(state["weights"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.step, self.stale, self.best_loss = state["step"], state["stale"], state["best_loss"]
        self.history = state["history"]

    def _run_key(self) -> str:
        """Return what makes a run this run: settings, signal, base, and the rows in their order."""
        rows = hashlib.sha256()
        for example in (*self.train, *self.val):
            labels = (example.record.id, example.prompt_is_malicious, example.response_is_malicious)
            rows.update(repr((labels, example.encoded.ids)).encode())
        settings = {k: v for k, v in asdict(self.config.settled()).items() if k not in _NOT_IN_KEY}
        parts = {"align": settings, "step_rows": self.rows, **self.recipe.identity(), "rows": rows.hexdigest()}
        return json.dumps(parts, sort_keys=True)

    def _restore_best(self) -> None:
        self.accelerator.wait_for_everyone()
        state = torch.load(self.folder / _BEST_FILE, weights_only=True, map_location="cpu")
        self.recipe.load_state(state["weights"])


def _no_number(what: str, value: float, step: int) -> SignalError:
    return SignalError(
        f"the {what} is {value} at step {step}. Expected a finite number.",
        hint="lower `--learning_rate`; the last checkpoint is kept",
    )
