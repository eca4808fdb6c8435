"""Settings that travel with an adapter: what was built, for which base, and at which thresholds it operates."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from safesignal.errors import AdapterError, UsageError

__all__ = ["FORMAT_VERSION", "PRESETS", "BaseIdentity", "OperatingPoint", "SignalConfig"]

FORMAT_VERSION = 1
PRESETS = ("strict", "balanced", "permissive")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Thresholds of one preset.

    Attributes:
        prompt: A query check is malicious at or above this signal.
        window: A check of answer tokens is malicious at or above this signal.
        target_fpr: Share of the base model's own benign validation answers the preset was calibrated to refuse.
        measured_fpr: The share that was measured at these thresholds.
        n: Validation answers behind it.
    """

    prompt: float = 0.5
    window: float = 0.5
    target_fpr: float | None = None
    measured_fpr: float | None = None
    n: int = 0


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """What an adapter must find again to be itself.

    Attributes:
        name: What the base was called when the adapter was trained.
        model_type: transformers' family name.
        hidden_size: D.
        num_layers: Decoder layers.
        vocab_size: Rows of the input embedding.
        tokenizer: Fingerprint of vocabulary and special tokens.
        template: Fingerprint of the chat template.
        weights: Fingerprint of the weights in each dtype they may be loaded in.
        settings: What changes what the same weights compute: rotary frequencies, norms, windows, heads. Empty in
            adapters that do not say, which are not compared in it.
    """

    name: str
    model_type: str
    hidden_size: int
    num_layers: int
    vocab_size: int
    tokenizer: str
    template: str
    weights: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SignalConfig:
    """The signal's architecture and operating points; one docstring per field, which is also its `--help` line."""

    recipe: Literal["gated", "joint"] = "gated"
    """`gated`: the base stays frozen, nobody attends to [CLS]. `joint` (paper): it is tuned, answers see [CLS]."""
    position: Literal["", "tracking", "first"] = ""
    """Where [CLS] sits: `tracking` (after the last token of its span; gated) or `first` (position 0, paper; joint)."""
    cls_spans: Literal["query", "inference"] = "query"
    """What [CLS] sees in joint training: `query` (paper), or windows of the answer too, as checks do at inference."""
    rank: int = 16
    """Rank of the LoRA on the [CLS] row."""
    alpha: float = 32.0
    """LoRA scale; the update is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Last names of the linear layers to gate; empty gates all but the key and value projections."""
    reader_rank: int = 0
    """Rank of a second LoRA, on every row, under which checks of the query read the prompt anew; 0: none does."""
    surprise: float = 0.0
    """Nats beyond those of dear tokens, summed up along a run of a user's text, from which nobody writes that run and a
    query is read again without it, the highest signal counting; 0: never. Without a reader it says nothing."""
    answer_reader_rank: int = 0
    """Rank of a third LoRA, on every row, under which checks of the answer that look suspicious read prompt and answer
    anew; 0: none does."""
    suspicion: float = 0.3
    """Signal from which a check of the answer looks suspicious and is read anew, in [0, 1]; below, what it saw counts.
    A lower one reads more often. Without a reader of answers it says nothing."""
    r1: int = 10
    """Generated tokens seen along with a malicious query (rule 1)."""
    r2: int = 10
    """Most recent generated tokens seen while the verdict is benign (rule 2)."""
    r3: int = 10
    """Tokens seen beyond the transition point (rule 3)."""
    strategic_attention: bool = True
    """Keep checks of answers to the windows of rules 1 to 3; off (an ablation) lets them see query and whole answer."""
    schedule: str = "annealing"
    """Schedule the thresholds were calibrated for."""
    tau: int = 2
    """Consecutive malicious checks the thresholds were calibrated for."""
    presets: dict[str, OperatingPoint] = field(default_factory=lambda: {name: OperatingPoint() for name in PRESETS})
    """Thresholds by preset name."""

    def __post_init__(self) -> None:
        if not self.position:
            object.__setattr__(self, "position", "first" if self.recipe == "joint" else "tracking")
        bounds = [("rank", self.rank >= 1, "at least 1"), ("alpha", self.alpha > 0, "above 0")]
        most = 0 if self.recipe == "joint" else 4096
        for name in ("reader_rank", "answer_reader_rank"):
            bounds += [(name, 0 <= getattr(self, name) <= most, f"0 to {most} for `{self.recipe}`")]
        bounds += [("suspicion", 0 <= self.suspicion <= 1, "in [0, 1]")]
        bounds += [("surprise", 0 <= self.surprise < math.inf, "0 or more")]
        bounds += [("recipe", self.recipe in ("gated", "joint"), "`gated` or `joint`")]
        bounds += [("cls_spans", self.cls_spans in ("query", "inference"), "`query` or `inference`")]
        bounds += [("position", self.position in ("tracking", "first"), "`tracking` or `first`")]
        problems = [
            f"signal.{name} = {getattr(self, name)}    must be {what}" for name, holds, what in bounds if not holds
        ]
        if problems:
            raise UsageError("the signal's settings are out of range\n  " + "\n  ".join(problems))

    def preset(self, name: str) -> OperatingPoint:
        """Return the thresholds of a preset.

        Raises:
            UsageError: If the adapter has no preset of that name.
        """
        if name not in self.presets:
            raise UsageError(f"preset is `{name}`. Expected one of {', '.join(self.presets)}.")
        return self.presets[name]

    def rules(self) -> dict[str, Any]:
        """Return what a check of the answer may see, as fields of :class:`safesignal.rules.Policy`."""
        return {name: getattr(self, name) for name in ("r1", "r2", "r3", "strategic_attention")}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SignalConfig:
        """Read what :meth:`to_dict` wrote.

        Raises:
            AdapterError: If a field is unknown, missing or of the wrong kind.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise AdapterError(
                f"the adapter's settings hold {', '.join(unknown)}. Expected {', '.join(sorted(known))}.",
                hint="it was written by a newer SafeSignal; upgrade with `pip install -U safesignal`",
            )
        try:
            presets = {name: OperatingPoint(**point) for name, point in values.get("presets", {}).items()}
            return cls(**{**values, "targets": tuple(values.get("targets", ())), "presets": presets})
        except TypeError as error:
            raise AdapterError(f"the adapter's settings cannot be read: {error}.") from error
