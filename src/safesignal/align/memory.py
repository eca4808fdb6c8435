"""Memory and time of a run on one GPU, derived from the numbers of the model's config, every term named.

Bytes per parameter: a frozen weight 2 (bf16); a trained one 16 (fp32 weight and gradient, two Adam moments), and 2 more
for autocast's copy. Activations are what autograd keeps of each layer (`_kept`), for a batch of the longest rows that
the settings let in, because rows of similar length stand together. FLOPs, for rows of the mean length: 2 per weight and
token forward, 2 backward for what the gradient passes through, 2 more for trained weights.

What this leaves out, and the allowance for it: the CUDA context and kernels' workspace (1.5 GiB), and fragmentation
(10 % of everything else). Times assume 40 % of a GPU's dense bf16 peak, which is what tuned dense training reaches.
Neither was measured on a GPU. Readers are unknown to it, which keep activations of whole texts: for a run that trains
one the gated figure is far too low.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from safesignal.align.config import AlignConfig
from safesignal.errors import UsageError
from safesignal.kinds import misfits

__all__ = ["Estimate", "ModelShape", "estimate", "report_lines"]

_GIB = 2**30
_CONTEXT, _FRAGMENTATION = 1.5 * _GIB, 1.1
_PEAK = {"A100 80 GB": 312e12, "H100 80 GB": 989e12}
"""Dense bf16 FLOP/s as the vendor states them."""
_REACHED = 0.4


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The `[model]` table of a recipe file: numbers of the model's config, and of the run's rows.

    Attributes:
        name: Hub id.
        hidden_size: D.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Features of a head.
        intermediate_size: I, of a gated MLP of three matrices.
        vocab_size: V.
        tied: Whether the output layer is the embedding.
        qk_norm: Whether queries and keys are normalised, as in Qwen3.
        rows: Training rows.
        tokens_per_row: Mean tokens of a row, padding included.
        answer_tokens: Mean tokens of it that are learnt.
    """

    name: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    tied: bool = False
    qk_norm: bool = False
    rows: int = 29_600
    tokens_per_row: int = 320
    answer_tokens: int = 160

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> ModelShape:
        """Read a `[model]` table.

        Raises:
            UsageError: If a field is unknown, missing or of the wrong kind; all problems at once.
        """
        if problems := misfits("model", table, cls):
            raise UsageError("the [model] table does not describe a model\n  " + "\n  ".join(problems))
        return cls(**table)

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one decoder layer: (in, out) features by name."""
        d, i = self.hidden_size, self.intermediate_size
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        mlp = {"gate_proj": (d, i), "up_proj": (d, i), "down_proj": (i, d)}
        return {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d), **mlp}

    @property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        return sum(a * b for a, b in self.linears.values()) + norms

    @property
    def parameters(self) -> int:
        """All parameters."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied else 2)
        return self.layers * self.layer_parameters + self.hidden_size + embeddings

    def lora_parameters(self, config: AlignConfig) -> int:
        """Parameters of the LoRA that a recipe trains: on the base, or on the [CLS] row (which has none on k and v)."""
        own = {n: shape for n, shape in self.linears.items() if not config.lora_targets or n in config.lora_targets}
        if config.recipe == "gated":
            own = {name: shape for name, shape in own.items() if name not in ("k_proj", "v_proj")}
        return self.layers * config.lora_rank * sum(a + b for a, b in own.values())


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by what they are for, and seconds of one epoch by GPU."""

    bytes: Mapping[str, float]
    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """All bytes, allowances included."""
        return sum(self.bytes.values()) * _FRAGMENTATION + _CONTEXT


def estimate(shape: ModelShape, config: AlignConfig) -> Estimate:
    """Return what a run with these settings needs on one GPU in bf16: memory at its peak, time at the mean.

    Args:
        shape: The model and its rows.
        config: Recipe, tuning, rows per forward pass, checkpointing.
    """
    base, full = shape.parameters, config.tuning == "full" and config.recipe != "gated"
    trained = base if full else shape.lora_parameters(config)
    # Raw text is its own prompt, and learnt to its end.
    longest, learnt = config.max_prompt_tokens + config.max_answer_tokens, config.max_answer_tokens
    if config.recipe == "pretrain":
        longest = learnt = config.max_prompt_tokens
    tokens = config.batch_size * longest
    if config.batch_tokens:
        tokens = min(tokens, max(longest, config.batch_tokens))
    answers = min(config.batch_size * learnt, tokens)
    parts = {
        "frozen weights": 0.0 if full else 2.0 * base,
        "trained weights, gradients, moments": 16.0 * trained,
        "bf16 copies of trained weights": 2.0 * trained,
    }
    if config.recipe == "gated":
        rows = config.batch_size * config.checks_per_row
        # Once in the cache, once in the copy with the safety rows that each layer keeps for its backward pass.
        parts["keys and values of the text"] = 8.0 * shape.layers * shape.kv_heads * shape.head_dim * tokens
        parts["activations of safety rows"] = float(shape.layers * _kept(shape) * rows)
        parts["one layer's activations of the text"] = float(_kept(shape) * tokens)
    else:
        whole = shape.layers * _kept(shape) * tokens
        # What runs between layers has the dtype of the weights: fp32 where they are trained.
        kept_inputs = (4 if full else 2) * shape.layers * shape.hidden_size * tokens + _kept(shape) * tokens
        parts["activations"] = float(kept_inputs if config.activation_checkpointing else whole)
        # Scores in bf16 and fp32, and the gradients of both.
        parts["scores of learnt tokens"] = 12.0 * shape.vocab_size * answers
    flops = _flops(shape, config, full=full) * _visits(shape, config)
    return Estimate(parts, {name: flops / (_REACHED * peak) for name, peak in _PEAK.items()})


def report_lines(shape: ModelShape, config: AlignConfig) -> list[str]:
    """Return the estimate as lines for a person."""
    found = estimate(shape, config)
    lines = [f"{shape.name}: {shape.parameters / 1e9:.3f} G parameters, recipe {config.recipe}, derived, not measured"]
    lines += [f"  {value / _GIB:7.2f} GiB  {name}" for name, value in found.bytes.items() if value]
    lines.append(f"  {found.total / _GIB:7.2f} GiB  in all, with 10 % for fragmentation and 1.5 GiB of context")
    for name, seconds in found.seconds.items():
        passes = _visits(shape, config) / shape.rows
        lines.append(f"  {seconds / 3600:7.2f} h    {passes:g} epochs of {shape.rows} rows on one {name}")
    return lines


def _visits(shape: ModelShape, config: AlignConfig) -> float:
    """Return how often a row is trained on, all rows together."""
    limit = config.max_steps * config.batch_size * config.accumulation
    return min(shape.rows * config.epochs, limit or math.inf)


def _kept(shape: ModelShape) -> int:
    """Return the bytes that autograd keeps of one token in one decoder layer, in bf16.

    Twice a norm (its input in fp32, its output), queries, keys and values before and after the rotation, what attention
    gives, and of the MLP gate, up, the activated gate and their product.
    """
    d, q, kv = shape.hidden_size, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms, attention = 2 * (4 + 2) * d, 2 * 2 * (q + 2 * kv) + 2 * q
    return norms + attention + 2 * 4 * shape.intermediate_size


def _flops(shape: ModelShape, config: AlignConfig, *, full: bool) -> float:
    """Return the FLOPs of one row: weights, attention over half of the square, scores of what is learnt."""
    length = shape.tokens_per_row
    weights = 2.0 * shape.layers * shape.layer_parameters
    forward = length * (weights + 2.0 * shape.layers * length * shape.heads * shape.head_dim)
    if config.recipe == "gated":
        return forward + 3.0 * config.checks_per_row * weights
    learnt = length if config.recipe == "pretrain" else shape.answer_tokens
    scores = 2.0 * learnt * shape.vocab_size * shape.hidden_size
    backward = (2.0 if full else 1.0) * forward + (2.0 if full else 1.0) * scores
    again = forward if config.activation_checkpointing else 0.0
    return forward + scores + backward + again
