"""Saving and loading an adapter, and telling whether a base model is the one it was trained for.

An adapter is a folder: `adapter_config.json` (settings, thresholds, identity of the base, training record) and
`adapter_model.safetensors` ([CLS] embedding, head, LoRA; never base weights).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from safesignal.config import FORMAT_VERSION, BaseIdentity, SignalConfig
from safesignal.errors import AdapterError, ModelError, SignalError, UsageError
from safesignal.modeling.chat import template_hash
from safesignal.modeling.zoo import ALIASES

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "accept",
    "base_named",
    "compare",
    "find_adapter",
    "identify",
    "load_adapter",
    "load_weights",
    "save_adapter",
    "shipped_adapter",
    "weights_hash",
]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_SAMPLES = 4096
_SETTINGS = (
    *("rope_parameters", "sliding_window", "partial_rotary_factor"),
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"),
    *("hidden_act", "hidden_activation", "activation_function"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "use_parallel_residual"),
)
"""Names in a model's configuration that change what its weights compute."""
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def identify(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> BaseIdentity:
    """Take the fingerprints of a base model and its tokenizer."""
    config = base.config.get_text_config()
    return BaseIdentity(
        # A path as typed holds in one folder alone.
        name=str(Path(name).resolve()) if name not in ALIASES and Path(name).is_dir() else name,
        model_type=str(config.model_type),
        hidden_size=int(config.hidden_size),
        num_layers=int(config.num_hidden_layers),
        vocab_size=_rows(base.get_input_embeddings()),
        tokenizer=_tokenizer_hash(tokenizer),
        template=template_hash(str(tokenizer.chat_template or "")),
        weights={dtype: _weights_hash(base, dtype) for dtype in _reachable(base.dtype)},
        settings=_settings(config),
    )


def compare(trained: BaseIdentity, found: BaseIdentity) -> tuple[list[str], str]:
    """Compare the base an adapter was trained for with the one at hand.

    Returns:
        Differences that nothing may excuse, each as a phrase; and the drift of weights and settings as a phrase, empty
        if there is none.
    """
    named = ("model_type", "hidden_size", "num_layers", "vocab_size", "tokenizer", "template")
    differences = [
        f"{name.replace('_', ' ')} {getattr(found, name)} instead of {getattr(trained, name)}"
        for name in named
        if getattr(found, name) != getattr(trained, name)
    ]
    shared = sorted(set(trained.weights) & set(found.weights))
    same = any(trained.weights[dtype] == found.weights[dtype] for dtype in shared)
    drifted = [] if same else ["weights"]
    if trained.settings:
        names = sorted(trained.settings.keys() | found.settings.keys())
        drifted += [name for name in names if trained.settings.get(name) != found.settings.get(name)]
    return differences, f"{', '.join(drifted)} differ from those of `{trained.name}`" if drifted else ""


def accept(trained: BaseIdentity, found: BaseIdentity, folder: str, allow_drift: bool) -> str:
    """Return how the base at hand drifted from the one an adapter was trained for; empty if it did not.

    Raises:
        AdapterError: If it is another base, or drifted and may not.
    """
    differences, drift = compare(trained, found)
    if differences:
        raise AdapterError(
            f"the adapter `{folder}` was trained for `{trained.name}`; this base has {'; '.join(differences)}.",
            hint=f"use `--model {trained.name}`, or train an adapter for this base with `safesignal align`",
        )
    if drift and not allow_drift:
        raise AdapterError(
            f"the adapter `{folder}` meets a base whose {drift}: fine-tuned, merged, re-quantised or set otherwise.",
            hint="retrain it, or accept the drift with `--allow_base_drift`; every output will say so",
        )
    return drift


def load_weights(adapter: nn.Module, weights: dict[str, Tensor], folder: str) -> None:
    """Put an adapter's weights in their places.

    Raises:
        AdapterError: If they do not fit.
        SignalError: If they are not finite.
    """
    try:
        missing, unexpected = adapter.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise AdapterError(
            f"the adapter `{folder}` has weights of other shapes than its settings say: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error
    if missing or unexpected:
        raise AdapterError(
            f"the adapter `{folder}` lacks {len(missing)} weights and has {len(unexpected)} unknown ones "
            f"(first: {(missing + unexpected)[0]})."
        )
    if not all(bool(torch.isfinite(weight).all()) for weight in weights.values()):
        raise SignalError(f"the adapter `{folder}` has non-finite weights, so its signal is not available.")


def save_adapter(
    folder: Path, config: SignalConfig, identity: BaseIdentity, weights: dict[str, Tensor], record: dict[str, Any]
) -> None:
    """Write an adapter folder, in half precision.

    Raises:
        UsageError: If the folder cannot be written.
    """
    text = json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "signal": config.to_dict(),
            "base": {field: getattr(identity, field) for field in identity.__slots__},
            "training": record,
        },
        indent=2,
    )
    halves = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in weights.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(halves, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors leaves it readable to its owner alone
        (folder / CONFIG_FILE).write_text(text + "\n")
    except OSError as error:
        raise UsageError(
            f"the adapter folder `{folder}` cannot be written: {error.strerror}.", hint="choose another `--output`"
        ) from error


def load_adapter(folder: Path) -> tuple[SignalConfig, BaseIdentity, dict[str, Tensor], dict[str, Any]]:
    """Read an adapter folder: settings, identity of its base, weights, training record.

    Raises:
        AdapterError: If files are missing, cannot be read, or are of another format version.
    """
    try:
        content = json.loads((folder / CONFIG_FILE).read_text())
        weights = load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        missing = next((name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).exists()), CONFIG_FILE)
        raise AdapterError(
            f"`{folder}` is no adapter: `{missing}` is missing. Expected {CONFIG_FILE} and {WEIGHTS_FILE}.",
            hint="`safesignal align --model M --data D --output DIR` trains one",
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise AdapterError(f"the adapter `{folder}` cannot be read: {error}.") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise AdapterError(
            f"the adapter `{folder}` has format version {version}. Expected {FORMAT_VERSION}.",
            hint="a LoRA in peft's format is a model: `--model FOLDER`"
            if isinstance(content, dict) and "peft_type" in content
            else "retrain it with this SafeSignal, or install the one it was written by",
        )
    try:
        identity = BaseIdentity(**content["base"])
    except (KeyError, TypeError) as error:
        raise AdapterError(f"the adapter `{folder}` does not say which base it belongs to: {error}.") from error
    if not isinstance(content.get("signal"), dict):
        raise AdapterError(f"the adapter `{folder}` does not say how its signal is built. Expected `signal` settings.")
    return SignalConfig.from_dict(content["signal"]), identity, weights, content.get("training", {})


def weights_hash(weights: dict[str, Tensor]) -> str:
    """Return a short hash of adapter weights in the precision they are saved in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()[:16]


def shipped_adapter(model: str) -> Path | None:
    """Return the folder of the adapter that the package ships for this model, by alias or hub id; None if none."""
    names = {alias: alias for alias in ALIASES} | {entry.hub_id: alias for alias, entry in ALIASES.items()}
    alias = names.get(model)
    if alias is None:
        return None
    folder = Path(str(files("safesignal"))) / "adapters" / alias
    return folder if (folder / CONFIG_FILE).exists() else None


def base_named(name: str, adapter: Path) -> str:
    """Return the base that an adapter names.

    Raises:
        ModelError: If that is a folder which is not there.
    """
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise ModelError(
            f"the adapter `{adapter}` belongs to the model in `{name}`, and there is none. Expected its base.",
            hint="say where it is: `--model FOLDER`, in Python `base=`",
        )
    return name


def find_adapter(adapter: str | Path | None, base: str | None) -> Path:
    """Return the adapter folder asked for, or the one shipped for a base; no base at all means `smollm2`.

    An adapter may be named by the model it ships for, where no folder has that name.

    Raises:
        AdapterError: If none is shipped for this base.
    """
    if adapter is not None:
        shipped = shipped_adapter(str(adapter)) if not Path(adapter).exists() else None
        return shipped or Path(adapter)
    name = "smollm2" if base is None else base
    folder = shipped_adapter(name)
    if folder is None:
        raise AdapterError(
            f"no adapter is shipped for `{name or 'a loaded model'}`. Expected a folder with one.",
            hint="of a model that was fine-tuned since: `--adapter smollm2 --allow_base_drift`, in Python "
            '`from_pretrained("smollm2", base=…, allow_base_drift=True)`; else `safesignal align` trains one for '
            "`--adapter DIR`, and `--no-signal` needs none",
        )
    return folder


def _settings(config: PreTrainedConfig) -> dict[str, Any]:
    given = {name: _rounded(getattr(config, name, None)) for name in _SETTINGS}
    return {name: value for name, value in given.items() if value is not None}


def _rounded(value: Any) -> Any:
    """Round what a half-precision or GGUF file may have rounded already; `True` and names stay what they are."""
    if isinstance(value, dict):
        return {name: _rounded(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(own) for own in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _rows(embedding: nn.Module) -> int:
    weight = embedding.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        digest.update(f"{index}:{token}\n".encode())
    # The vocabulary alone does not say how text is cut: a sample of it does.
    for sample in ("The quick brown fox, 12345!", "  def f(x):\n\treturn x", "naïve café – 東京 🙂"):
        digest.update(repr(tokenizer(sample, add_special_tokens=False)["input_ids"]).encode())
    return digest.hexdigest()[:16]


def _reachable(dtype: torch.dtype) -> list[str]:
    """Return the dtypes in which these weights may be met again: wider weights can be rounded, not the reverse."""
    return list(_DTYPES) if dtype == torch.float32 else [name for name, known in _DTYPES.items() if known == dtype]


def _weights_hash(base: PreTrainedModel, dtype: str) -> str:
    digest = hashlib.sha256()
    for name, values in _samples(base):
        digest.update(name.encode())
        digest.update(values.to(_DTYPES[dtype]).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _samples(base: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in base.named_parameters():
        flat = parameter.detach().flatten()
        yield name, flat[:: max(1, flat.numel() // _SAMPLES)]
