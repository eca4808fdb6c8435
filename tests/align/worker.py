"""Runs tiny trainings under whatever launcher started it, and leaves their curves and weights behind.

ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m tests.align.worker OUT sft gated …
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from safesignal.align.augment import AugmentRecipe
from safesignal.align.config import AlignConfig
from safesignal.align.gated import GatedRecipe
from safesignal.align.joint import JointRecipe
from safesignal.align.parallel import leave, whole
from safesignal.align.pretrain import PretrainRecipe
from safesignal.align.recipe import Recipe
from safesignal.align.sft import SftRecipe
from safesignal.align.trainer import Progress, Trainer
from safesignal.config import SignalConfig
from safesignal.modeling.model import SafeSignalModel
from tests.align.conftest import make_model, make_records
from tests.support import tiny_model, tiny_tokenizer

STEP_ROWS = 8
CONFIG = AlignConfig(epochs=2, eval_every=2, learning_rate=1e-3, patience=99, augment_tokens=5)


class _CutError(Exception):
    """Stands for a machine that was switched off."""


def make_recipe(name: str, config: AlignConfig, *, shard: bool = False) -> Recipe:
    if name in ("gated", "reader"):
        return GatedRecipe(make_model(reader_rank=4 if name == "reader" else 0), config)
    if name in ("joint", "jointlora", "pretrain"):
        signal = SignalConfig(recipe="joint", cls_spans="inference")
        model = SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer(), config=signal)
        settings = replace(
            config,
            recipe="pretrain" if name == "pretrain" else "joint",
            tuning="lora" if name == "jointlora" else "full",
            lora_rank=4,
            shard=shard,
        )
        return (PretrainRecipe if name == "pretrain" else JointRecipe)(model, settings)
    kind = AugmentRecipe if name == "augment" else SftRecipe
    lora = name == "lora"
    settings = replace(config, recipe="sft", tuning="lora" if lora else "full", lora_rank=4, shard=shard)
    return kind(tiny_model("llama"), tiny_tokenizer(), settings)


def train(out: Path, name: str, processes: int) -> None:
    """Train one recipe; `-shard` splits the model over the processes, `-cut` interrupts the run, which goes on."""
    recipe, *how = name.split("-")
    # As many rows per step as one process would take.
    size, shard = STEP_ROWS // processes // 2, "shard" in how and processes > 1
    own = replace(CONFIG, batch_size=size, accumulation=2)
    losses: list[float] = []
    norms: list[float] = []
    cuts = [3] if "cut" in how else []

    def report(at: Progress) -> None:
        losses.append(at.loss)
        norms.append(at.grad_norm)
        if len(losses) in cuts:
            cuts.clear()
            raise _CutError

    run = make_trainer(out / name, recipe, own, shard=shard)
    try:
        run.run(report)
    except _CutError:
        del losses[2:], norms[2:]  # the step after the last checkpoint is made again
        run = make_trainer(out / name, recipe, own, shard=shard)
        run.run(report)
    assert any(isinstance(parameter, DTensor) for parameter in run.recipe.parameters()) == shard
    weights = {key: value.detach().clone() for key, value in whole(run.recipe.state()).items()}
    if run.accelerator.is_main_process:
        torch.save(weights, out / f"{name}.pt")
        (out / f"{name}.json").write_text(json.dumps({"losses": losses, "norms": norms, "history": run.history}))


def make_trainer(folder: Path, name: str, config: AlignConfig, *, shard: bool = False) -> Trainer:
    recipe = make_recipe(name, config, shard=shard)
    # 19 rows make steps of 8, 8 and 3: one process has fewer rows than the other in the last.
    examples, _ = recipe.encode(make_records(42))
    return Trainer(recipe, examples[:19], examples[19:27], folder)


if __name__ == "__main__":
    for case in sys.argv[2:]:
        train(Path(sys.argv[1]), case, Accelerator().num_processes)
    leave()
