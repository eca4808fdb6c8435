"""Settings of an alignment run; one docstring per field, which is also its `--help` line."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from safesignal.config import PRESETS, SignalConfig
from safesignal.data.mixture import LICENCES
from safesignal.errors import UsageError
from safesignal.kinds import misfits

__all__ = ["RECIPES", "AlignConfig", "MixturePart", "RecipeName", "read_align_config", "read_recipe"]

RecipeName = Literal["gated", "joint", "pretrain", "sft", "augment"]
RECIPES: tuple[RecipeName, ...] = get_args(RecipeName)
_TABLES = ("align", "signal", "model", "rollouts")
"""What a recipe file may hold."""


@dataclass(frozen=True, slots=True)
class MixturePart:
    """Rows of one registered source, or of one file, in the training mixture."""

    source: str = ""
    """Registered training source."""
    file: str = ""
    """JSONL file of rows instead; its path is relative to the recipe file."""
    n: int | None = None
    """Rows to take, chosen by seed; all of them if left out."""
    responses: bool = True
    """Keep the source's own responses; off takes the prompts alone."""
    template_source: str = ""
    """Wrap each prompt in a jailbreak template of this origin (`pyrit/templates`); empty leaves it bare."""


@dataclass(frozen=True, slots=True)
class AlignConfig:
    """How a model is trained."""

    recipe: RecipeName = "gated"
    """`gated` (ours), `joint` and `pretrain` (the paper's stages), `sft` and `augment` (baselines without [CLS])."""
    mixture: tuple[MixturePart, ...] = ()
    """Registered sources to train on, besides the files given with `--data`."""
    licences: tuple[str, ...] = LICENCES
    """Licences a row may have; an adapter that ships keeps to `permissive` and `sharealike`."""
    epochs: float = 1.0
    """Passes over the training rows."""
    max_steps: int = 0
    """Most steps, whatever the passes come to, so that recipes of different rows train alike; 0 sets no limit."""
    batch_size: int = 16
    """Most rows per forward pass and process."""
    batch_tokens: int = 0
    """Most tokens per forward pass and process in training, if not of one row: steps of long rows are cut into more
    passes, so that `batch_size` may suit the short ones. Safety rows and `augment`'s openings come on top; 0 sets no
    limit."""
    accumulation: int = 1
    """Forward passes of batch_size rows per step and process; a step has batch_size x accumulation x processes rows,
    however split."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the forward pass; `bf16` is autocast, trained weights and their moments stay in fp32."""
    activation_checkpointing: bool = False
    """Compute activations anew in the backward pass: less memory, about a third more time. `gated` keeps none."""
    text_store: bool = False
    """`gated`: read every text once and keep its keys and values on disk, in half precision, for later passes."""
    shard: bool = False
    """Split weights, gradients and moments over the processes (`fully_shard`); for `tuning = "full"`."""
    tuning: Literal["lora", "full"] = "lora"
    """What of the base `joint`, `pretrain`, `sft` and `augment` train; `gated` trains none of it."""
    lora_rank: int = 16
    """Rank of the base's LoRA."""
    lora_alpha: float = 32.0
    """LoRA scale; the update is multiplied by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ()
    """Last names of the linear layers that get a LoRA; empty takes every one of the decoder layers."""
    lambda_cls: float | None = None
    """Weight of L_cls beside the language-model loss: λ2 of `joint` (paper: 0.1 or 0.01), λ1 of `pretrain` (0.01). Left
    out, 0.01 for `pretrain` and 0.1 for `joint`; see :attr:`weight_of_cls`."""
    start: str = ""
    """What a run goes on from: `joint` from a finished `pretrain` run (empty skips that stage), `gated` from an adapter
    (its folder, or the model it ships for), also where the base has been fine-tuned since. Empty begins anew."""
    start_share: float = 0.0
    """`gated`: share, in [0, 1), of the weights a run went on from in the mean of those and its own that is saved
    (Wortsman et al. 2022, "Robust fine-tuning"): what a run learns costs less of what was known before."""
    balance: bool = True
    """`joint`, `sft`, `augment`: as many malicious prompts as benign ones; the larger class is thinned."""
    augment_share: float = 0.5
    """`augment`: share of harmful rows whose answer is opened with harmful tokens, in [0, 1] (Qi et al.: 0.5)."""
    augment_tokens: int = 100
    """`augment`: most harmful tokens before the refusal, drawn evenly from 1 on (Qi et al.: 100)."""
    augment_alpha: float = 0.2
    """`augment`: weight of the refusals, the benign anchor having the rest, in [0, 1] (Qi et al.: 0.2)."""
    learning_rate: float = 1e-3
    """Peak of a linear warm-up and a cosine decay."""
    warmup_ratio: float = 0.05
    """Share of the steps that warm up, in [0, 1)."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """Gradient clipping."""
    label_smoothing: float | None = None
    """Moves the targets of L_cls this far from 0 and 1, in [0, 0.5). Left out, 0.05 for `gated` and 0 for the paper's
    stages, plain cross-entropy; see :attr:`smoothing`."""
    checks_per_row: int = 6
    """Safety rows drawn per sequence: the query, and windows of the answer (with `read_answers` windows alone)."""
    windows: bool = True
    """`gated`: learn checks of answers too; off trains queries alone, each prompt once, leaves answers unread and the
    thresholds of windows no lower than they were."""
    read_answers: bool = False
    """`gated`: train the reader of answers alone, over windows of answers, after `start`; all other weights and the
    thresholds of queries stay as they are. Off, a reader of answers that the start has stays as it is."""
    wide_share: float = 0.15
    """Share of windows that reach further back than r2, as after a false alarm."""
    around_share: float = 0.15
    """Share of windows drawn around a point of the answer (rule 3)."""
    max_prompt_tokens: int = 448
    """Rows with longer prompts are left out and counted."""
    max_answer_tokens: int = 160
    """Answers are cut here."""
    val_fraction: float = 0.1
    """Share of prompts, by hash, kept for validation."""
    val_rows: int = 400
    """Most validation rows read at each evaluation."""
    eval_every: int = 100
    """Steps between evaluations and checkpoints."""
    patience: int = 4
    """Evaluations without a better validation loss before training stops."""
    calibration_job: str = "calibration"
    """Rollout job whose rows calibrate the thresholds and are never trained on."""
    target_fpr: dict[str, float] = field(
        default_factory=lambda: {"strict": 0.05, "balanced": 0.02, "permissive": 0.005}
    )
    """Share of the base model's own benign answers that each preset may refuse or stop, in (0, 1)."""
    lookalike_job: str = "borderline-val"
    """Rollout job whose rows, answers to benign prompts that sound harmful, limit the thresholds besides."""
    lookalike_fpr: dict[str, float] = field(default_factory=dict)
    """Share of those that a preset may refuse or stop, in (0, 1]; 1, and a preset not named, sets no such limit."""
    seed: int = 0
    """Of the mixture, the order, the drawn spans and the first weights."""

    def __post_init__(self) -> None:
        bounds: list[tuple[str, bool, str]] = [
            ("epochs", self.epochs > 0, "above 0"),
            ("max_steps", self.max_steps >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("batch_tokens", self.batch_tokens >= 0, "at least 0"),
            ("recipe", self.recipe in RECIPES, f"one of {', '.join(RECIPES)}"),
            ("accumulation", self.accumulation >= 1, "at least 1"),
            ("precision", self.precision in ("fp32", "bf16"), "`fp32` or `bf16`"),
            ("windows", self.windows or self.recipe == "gated", "on for all recipes but `gated`"),
            ("read_answers", not self.read_answers or self.recipe == "gated", "off for all recipes but `gated`"),
            ("read_answers", not self.read_answers or self.windows, "off where `windows` is"),
            ("tuning", self.tuning in ("lora", "full"), "`lora` or `full`"),
            ("shard", not self.shard or (self.tuning == "full" and self.recipe != "gated"), "off but for full tuning"),
            ("text_store", not self.text_store or self.recipe == "gated", "off but for the gated recipe"),
            ("lora_rank", self.lora_rank >= 1, "at least 1"),
            ("lora_alpha", self.lora_alpha > 0, "above 0"),
            ("lambda_cls", self.weight_of_cls >= 0, "at least 0"),
            ("start", not self.start or self.recipe in ("joint", "gated"), "empty but for the joint and gated recipes"),
            ("start_share", 0 <= self.start_share < 1, "in [0, 1)"),
            ("start_share", not self.start_share or self.recipe == "gated", "0 but for the gated recipe"),
            ("augment_share", 0 <= self.augment_share <= 1, "in [0, 1]"),
            ("augment_alpha", 0 <= self.augment_alpha <= 1, "in [0, 1]"),
            ("augment_tokens", self.augment_tokens >= 1, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("warmup_ratio", 0 <= self.warmup_ratio < 1, "in [0, 1)"),
            ("label_smoothing", 0 <= self.smoothing < 0.5, "in [0, 0.5)"),
            ("checks_per_row", self.checks_per_row >= 1, "at least 1"),
            ("wide_share", 0 <= self.wide_share + self.around_share <= 1, "with around_share in [0, 1]"),
            ("max_prompt_tokens", self.max_prompt_tokens >= 1, "at least 1"),
            ("max_answer_tokens", self.max_answer_tokens >= 1, "at least 1"),
            ("val_fraction", 0 < self.val_fraction < 1, "in (0, 1)"),
            ("val_rows", self.val_rows >= 1, "at least 1"),
            ("eval_every", self.eval_every >= 1, "at least 1"),
            ("patience", self.patience >= 1, "at least 1"),
            ("licences", set() < set(self.licences) <= set(LICENCES), f"one or more of {', '.join(LICENCES)}"),
            ("target_fpr", set(self.target_fpr) == set(PRESETS), f"one share for each of {', '.join(PRESETS)}"),
            ("lookalike_fpr", set(self.lookalike_fpr) <= set(PRESETS), f"shares for some of {', '.join(PRESETS)}"),
            ("target_fpr", all(0 < share < 1 for share in self.target_fpr.values()), "shares in (0, 1)"),
            ("lookalike_fpr", all(0 < share <= 1 for share in self.lookalike_fpr.values()), "shares in (0, 1]"),
        ]
        problems = [
            f"align.{name} = {getattr(self, name)}    must be {what}" for name, holds, what in bounds if not holds
        ]
        problems += [
            f"align.mixture[{index}].n = {part.n}    must be at least 1, or left out for all rows"
            for index, part in enumerate(self.mixture, 1)
            if part.n is not None and part.n < 1
        ]
        if problems:
            raise UsageError("the alignment settings are out of range\n  " + "\n  ".join(problems))

    @property
    def weight_of_cls(self) -> float:
        """λ of this run, at least 0: the one set, or the recipe's own (paper)."""
        own = 0.01 if self.recipe == "pretrain" else 0.1
        return own if self.lambda_cls is None else self.lambda_cls

    @property
    def smoothing(self) -> float:
        """Label smoothing of this run, in [0, 0.5): the one set, or the recipe's own."""
        own = 0.05 if self.recipe == "gated" else 0.0
        return own if self.label_smoothing is None else self.label_smoothing

    def settled(self) -> AlignConfig:
        """Return these settings with nothing left to the recipe, for the record."""
        return replace(self, lambda_cls=self.weight_of_cls, label_smoothing=self.smoothing)


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Read a recipe file; a file that `extends` another (a path relative to it) takes its tables, field by field.

    Raises:
        UsageError: If a file cannot be read, or extends itself.
    """
    return _read(Path(path), ())


def read_align_config(path: str | Path) -> tuple[AlignConfig, dict[str, Any]]:
    """Read the `[align]` and `[signal]` tables of a recipe file.

    Returns:
        The alignment settings, and the fields of the signal's settings.

    Raises:
        UsageError: If the file cannot be read, or a field is unknown or of the wrong kind; all problems at once.
    """
    content = read_recipe(path)
    table, signal = dict(content.get("align", {})), dict(content.get("signal", {}))
    parts = table.pop("mixture", [])
    problems = [f"{name}    is unknown; known: {', '.join(_TABLES)}" for name in sorted(set(content) - set(_TABLES))]
    problems += misfits("align", table, AlignConfig) + misfits("signal", signal, SignalConfig)
    for index, part in enumerate(parts, 1):
        problems += misfits(f"align.mixture[{index}]", part, MixturePart)
        if bool(part.get("source")) == bool(part.get("file")):
            problems.append(f"align.mixture[{index}]    needs `source` or `file`, one of the two")
    if problems:
        raise UsageError(f"problems in {path}\n  " + "\n  ".join(problems))
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in table.items()}
    return AlignConfig(mixture=tuple(MixturePart(**part) for part in parts), **values), signal


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise UsageError(f"the recipe `{path}` extends itself. Expected a chain of files that ends.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the recipe `{path}` cannot be read: {error}. Expected a TOML file.") from error
    for name in ("align", "signal", "model"):
        if not isinstance(content.get(name, {}), dict):
            raise UsageError(f"{name} in `{path}` is {content[name]!r:.40}. Expected a table, `[{name}]`.")
    parts = content.get("align", {}).get("mixture", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise UsageError(f'align.mixture in `{path}` is {parts!r:.40}. Expected tables, as in [{{source = "lima"}}].')
    for part in parts:
        if part.get("file"):
            part["file"] = str(path.parent / part["file"])
    parent = content.pop("extends", None)
    if parent is None:
        return content
    base = _read(path.parent / str(parent), (*seen, path.resolve()))
    tables = {name: {**base.get(name, {}), **own} for name, own in content.items() if isinstance(own, dict)}
    return {**base, **content, **tables}
