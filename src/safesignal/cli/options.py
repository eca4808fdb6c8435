"""Options that several verbs share: one dataclass per group, one help line per field, no copies.

A verb names the groups it takes as parameters and receives them filled (see :func:`safesignal.cli.arguments.expand`).
Options are named as lm-eval and vLLM name theirs (`--batch_size`); hyphens work too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safesignal.cli.arguments import flag, option, require_at_least_one, require_one_of, together
from safesignal.cli.console import quiet_libraries, waiting
from safesignal.config import SignalConfig
from safesignal.errors import UsageError
from safesignal.files import digests
from safesignal.rules import EVERY, Policy, Schedule, parse_schedule, validate_policy

if TYPE_CHECKING:
    from safesignal.modeling.model import SafeSignalModel
    from safesignal.modeling.options import GenerationOptions

__all__ = [
    "BaseOptions",
    "FileOptions",
    "ModelOptions",
    "PolicyOptions",
    "SamplingOptions",
    "SignalOptions",
]

_MODEL, _SIGNAL, _SAMPLING, _FILES = "Model", "Signal", "Answer", "Input and output"


class Dependence(StrEnum):
    """How far decoding depends on the signal."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class DType(StrEnum):
    """What the weights are loaded as."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@dataclass(frozen=True)
class BaseOptions:
    """Which base model, loaded how."""

    model: Annotated[
        str | None, option("model", "Base model: alias, folder or hub id.", _MODEL, show_default="smollm2")
    ] = None
    chat_template: Annotated[
        str | None, option("chat_template", "Built-in template (plain) or a Jinja file, for a base model.", _MODEL)
    ] = None
    dtype: Annotated[DType, option("dtype", "Type of the weights.", _MODEL)] = DType.AUTO
    device: Annotated[str, option("device", "auto, cpu, cuda, cuda:1, mps.", _MODEL)] = "auto"

    def check(self) -> None:
        """Raise what can be known to be wrong before anything is loaded."""
        together(self._template, self._placement)

    def load_base(self, config: SignalConfig | None = None, seed: int = 0) -> SafeSignalModel:
        """Load the base model with an untrained signal, whose first weights depend on the seed."""
        name = self.model or "smollm2"
        with waiting(f"loading {name} …"):
            quiet_libraries()
            from safesignal.modeling.model import SafeSignalModel

            return SafeSignalModel.from_base(name, config=config, seed=seed, **self.how())

    def how(self) -> dict[str, Any]:
        """Return the keyword arguments that loading takes."""
        return {"dtype": str(self.dtype), "device_map": self._placement(), "chat_template": self._template()}

    def _template(self) -> str | None:
        if self.chat_template is None:
            return None
        from safesignal.modeling.chat import TEMPLATES

        if self.chat_template in TEMPLATES:
            return self.chat_template
        try:
            return Path(self.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"chat template `{self.chat_template}` is unknown. "
                f"Expected a built-in one ({', '.join(TEMPLATES)}) or a readable Jinja file.",
                hint="leave `--chat_template` out to use the tokenizer's own",
            ) from error

    def _placement(self) -> str | None:
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else None
        try:
            # Asking for a tensor there is the only test that holds for every backend.
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(
                f"device is `{self.device}`, which this machine or build of torch does not have. "
                "Expected auto, cpu, or an accelerator that is there.",
                hint="leave `--device` out to take the best there is",
            ) from error
        return self.device


@dataclass(frozen=True)
class ModelOptions(BaseOptions):
    """Which base model, with which adapter, loaded how."""

    adapter: Annotated[
        str | None,
        option(
            "adapter",
            "Adapter folder or alias; without --model it names its base.",
            _MODEL,
            show_default="the shipped one",
        ),
    ] = None
    allow_base_drift: Annotated[
        bool, flag("allow_base_drift", "Accept a base whose weights differ; every output says so.", _MODEL)
    ] = False

    def signal_config(self) -> SignalConfig | None:
        """Return the adapter's settings without loading the base; None if no adapter is shipped for this model."""
        from safesignal.modeling.adapter_io import load_adapter

        folder = self._folder()
        return load_adapter(folder)[0] if folder is not None else None

    def _folder(self) -> Path | None:
        from safesignal.modeling.adapter_io import find_adapter, shipped_adapter

        return find_adapter(self.adapter, None) if self.adapter else shipped_adapter(self.model or "smollm2")

    def key(self) -> dict[str, Any]:
        """Return what tells this model and adapter from others, without loading them; JSON values."""
        from safesignal.modeling.adapter_io import CONFIG_FILE

        folder = self._folder()
        files = [folder / CONFIG_FILE, *sorted(folder.rglob("*.safetensors"))] if folder is not None else []
        return {
            "model": self.model,
            "chat_template": self.chat_template,
            "dtype": str(self.dtype),
            "adapter": [digests([path]) for path in files if path.exists()],
        }

    def load(self, *, signal: bool = True) -> SafeSignalModel:
        """Load the base model and its adapter, or the base alone if `signal` is off."""
        if not signal and (self.model is not None or self.adapter is None):
            return self.load_base()
        with waiting(f"loading {self.model or (f'the base of {self.adapter}' if self.adapter else 'smollm2')} …"):
            quiet_libraries()
            from safesignal.modeling.model import SafeSignalModel

            drift = self.allow_base_drift
            return SafeSignalModel.from_pretrained(self.adapter, base=self.model, allow_base_drift=drift, **self.how())


@dataclass(frozen=True)
class SignalOptions:
    """When the signal is read and from which value it counts as malicious."""

    preset: Annotated[str, option("preset", "Thresholds of the adapter: strict, balanced, permissive.", _SIGNAL)] = (
        "balanced"
    )
    threshold: Annotated[
        float | None,
        option("threshold", "Malicious at or above this signal, prompts and windows; lower is stricter.", _SIGNAL),
    ] = None
    window_threshold: Annotated[
        float | None, option("window_threshold", "The same for windows of the answer alone.", _SIGNAL)
    ] = None
    schedule: Annotated[
        str | None,
        option(
            "schedule",
            "When answers are checked: first, every, periodic:K, annealing:UNTILxEVERY,…",
            _SIGNAL,
            show_default="the adapter's",
        ),
    ] = None
    tau: Annotated[
        int | None,
        option("tau", "Malicious checks in a row before an answer is stopped.", _SIGNAL, show_default="the adapter's"),
    ] = None

    def overrides(self) -> dict[str, Any]:
        """Return what differs from the preset, as fields of :class:`Policy`."""
        window = self.window_threshold if self.window_threshold is not None else self.threshold
        return {"threshold": self.threshold, "window_threshold": window, "tau": self.tau}

    def reading(self, config: SignalConfig) -> Schedule:
        """Return the schedule asked for, or the adapter's."""
        return parse_schedule(self.schedule or config.schedule)

    def check(self, model: ModelOptions, policy: PolicyOptions | None) -> None:
        """Raise every problem of the policy before the base is loaded.

        Args:
            model: Names the adapter, whose presets and window lengths matter.
            policy: What verdicts do; None where nothing is written, and so nothing held back.
        """
        config = model.signal_config() or SignalConfig()
        decoding = {"buffer": False} if policy is None else policy.overrides()
        given = {name: value for name, value in (self.overrides() | decoding).items() if value is not None}
        whole = Policy(**config.rules(), **given)
        try:
            schedule, unreadable = self.reading(config), None
        except UsageError as error:
            schedule, unreadable = EVERY, error

        def readable() -> None:
            if unreadable is not None:
                raise unreadable

        together(lambda: config.preset(self.preset), readable, lambda: validate_policy(whole, schedule))


@dataclass(frozen=True)
class PolicyOptions:
    """What a verdict does to the answer."""

    policy: Annotated[
        Dependence,
        option("policy", "low records, medium refuses and explains, high stops at the first malicious check.", _SIGNAL),
    ] = Dependence.MEDIUM
    no_query_check: Annotated[
        bool, flag("no-query_check", "Leave the prompt unchecked; checks of the answer alone find harm.", _SIGNAL)
    ] = False
    no_buffer: Annotated[
        bool, flag("no-buffer", "Show tokens before a check covers them; they cannot be taken back.", _SIGNAL)
    ] = False
    no_implicit: Annotated[
        bool, flag("no-implicit", "Joint adapter: answer tokens do not see [CLS]; the policy acts alone.", _SIGNAL)
    ] = False

    def overrides(self) -> dict[str, Any]:
        """Return the fields of :class:`Policy` that these options set."""
        return {
            "dependence": str(self.policy),
            "check_query": not self.no_query_check,
            "buffer": not self.no_buffer,
            "implicit": not self.no_implicit,
        }


@dataclass(frozen=True)
class SamplingOptions:
    """How long an answer is and how its tokens are drawn; what is not given comes from the model's own defaults."""

    max_new_tokens: Annotated[int, option("max_new_tokens", "Most tokens of an answer.", _SAMPLING)] = 256
    temperature: Annotated[
        float | None, option("temperature", "0 is greedy; above, sampling.", _SAMPLING, show_default="the model's")
    ] = None
    top_p: Annotated[float | None, option("top_p", "Sample from this share of the probability.", _SAMPLING)] = None
    top_k: Annotated[int | None, option("top_k", "Sample from the k likeliest tokens; 0 is off.", _SAMPLING)] = None
    seed: Annotated[int, option("seed", "Of the sampling.", _SAMPLING)] = 0
    stop: Annotated[
        list[str] | None, option("stop", "End the answer before this text; may be given several times.", _SAMPLING)
    ] = None

    def given(self) -> dict[str, Any]:
        """Return the options as `generate` takes them."""
        names = ("max_new_tokens", "temperature", "top_p", "top_k")
        values: dict[str, Any] = {name: getattr(self, name) for name in names}
        return values | {"seed": self.seed, "stop_strings": tuple(self.stop or ()) or None}

    def check(self) -> None:
        """Raise what is out of range before a model is loaded."""
        from transformers import GenerationConfig

        from safesignal.modeling.options import resolve_options

        resolve_options(GenerationConfig(), self.given(), None)

    def resolve(self, model: SafeSignalModel) -> GenerationOptions:
        """Merge with the model's own defaults."""
        return model.options(**self.given())


@dataclass(frozen=True)
class FileOptions:
    """One prompt, or a file of rows in and another out."""

    prompt: Annotated[str | None, option("prompt", "One prompt; the result goes to stdout.", _FILES)] = None
    input: Annotated[str | None, option("input", "JSONL file of rows with id, prompt or messages.", _FILES)] = None
    output: Annotated[
        str | None, option("output", "JSONL file for the results; rows in it are not done again.", _FILES)
    ] = None
    overwrite: Annotated[bool, flag("overwrite", "Start the output anew instead of resuming.", _FILES)] = False
    batch_size: Annotated[int, option("batch_size", "Rows worked on side by side.", _FILES)] = 8

    def check(self) -> None:
        """Raise unless there is either a prompt, or an input with an output."""
        together(self._one_source, self._both_files, self._two_places, lambda: require_at_least_one(self.batch_size))

    def _one_source(self) -> None:
        hint = '`--prompt "…"` for one, `--input prompts.jsonl --output out.jsonl` for many'
        require_one_of(hint, prompt=self.prompt, input=self.input)

    def _two_places(self) -> None:
        if self.input and self.output and Path(self.input).resolve() == Path(self.output).resolve():
            raise UsageError(f"`{self.input}` is input and output. Expected two files.", hint="another `--output`")

    def _both_files(self) -> None:
        if (self.input is None) != (self.output is None):
            given, lacking = ("input", "output") if self.output is None else ("output", "input")
            raise UsageError(
                f"`--{given}` stands without `--{lacking}`. Expected both or neither.",
                hint="`--input prompts.jsonl --output out.jsonl`",
            )
