"""A LoRA in peft's files: written for whoever uses peft, and merged into its base here without it.

A folder holds `adapter_config.json` (`peft_type` tells it from an adapter of ours, which has none) and
`adapter_model.safetensors` with `base_model.model.<layer>.lora_A.weight` (R, I) and `lora_B.weight` (O, R).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from safesignal.errors import ModelError

__all__ = ["lora_pairs", "merge_lora", "merge_pairs", "peft_config", "save_lora"]

_CONFIG, _WEIGHTS, _PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."


def peft_config(folder: str | Path) -> dict[str, Any] | None:
    """Return the settings of a peft LoRA folder; None if it is none.

    Raises:
        ModelError: If it holds another kind of peft adapter than a plain LoRA, or a file that cannot be read.
    """
    path = Path(folder) / _CONFIG
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"`{path}` cannot be read: {error}. Expected the settings of an adapter.") from error
    if not isinstance(content, dict) or "peft_type" not in content:
        return None
    odd = [
        name
        for name in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern")
        if content.get(name)
    ]
    if content["peft_type"] != "LORA" or odd or content.get("bias", "none") != "none":
        raise ModelError(
            f"`{folder}` holds a peft adapter of kind {content['peft_type']} ({', '.join(odd) or 'with biases'}). "
            "Expected a plain LoRA.",
            hint="merge it with peft (`merge_and_unload`), and pass the merged model",
        )
    return content


def save_lora(
    folder: Path, base: PreTrainedModel, name: str, pairs: Mapping[str, tuple[Tensor, Tensor]], alpha: float
) -> None:
    """Write a LoRA folder in peft's format.

    Args:
        folder: Where to; made if missing.
        base: The model it belongs to.
        name: Folder or hub id that peft, or we, load the base from.
        pairs: By layer, down (R, I) and up (O, R).
        alpha: LoRA scale; the delta is `alpha / R * up @ down`.
    """
    layers, found = dict(base.named_modules()), Path(name)
    rank = next(iter(pairs.values()))[0].shape[0]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(found.resolve()) if name and found.is_dir() else name,  # found from anywhere
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layers[layer], Conv1D) for layer in pairs),
        "target_modules": sorted({layer.split(".")[-1] for layer in pairs}),
        "inference_mode": True,
    }
    tensors = {}
    for layer, (down_RI, up_OR) in pairs.items():
        tensors[f"{_PREFIX}{layer}.lora_A.weight"] = down_RI.detach().cpu().float().contiguous()
        tensors[f"{_PREFIX}{layer}.lora_B.weight"] = up_OR.detach().cpu().float().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _WEIGHTS).chmod(0o644)
    (folder / _CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def lora_pairs(folder: str | Path, settings: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return a LoRA folder's (down (R, I), up (O, R)) by layer in fp32, the scale in the latter: delta = up @ down.

    Raises:
        ModelError: If the file cannot be read, or a pair is not whole.
    """
    try:
        tensors = load_file(Path(folder) / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"the LoRA `{folder}` cannot be read: {error}. Expected {_WEIGHTS}.") from error
    scale, pairs = float(settings["lora_alpha"]) / int(settings["r"]), {}
    for name in sorted(key for key in tensors if ".lora_A." in key):
        up = tensors.get(name.replace(".lora_A.", ".lora_B."))
        if up is None:
            raise ModelError(f"the LoRA `{folder}` has `{name}` and no `lora_B` to go with it. Expected both.")
        pairs[name.removeprefix(_PREFIX).split(".lora_A.")[0]] = tensors[name].float(), scale * up.float()
    return pairs


@torch.no_grad()
def merge_pairs(base: PreTrainedModel, pairs: Mapping[str, tuple[Tensor, Tensor]], source: str) -> None:
    """Add the deltas up @ down to the weights of the base they were trained for, in place.

    Args:
        base: Changed.
        pairs: From :func:`lora_pairs`.
        source: Where they come from, for errors.

    Raises:
        ModelError: If they do not fit this base.
    """
    layers = dict(base.named_modules())
    for name, (down_RI, up_OR) in pairs.items():
        layer = layers.get(name)
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, nn.Linear | Conv1D) or not isinstance(weight, Tensor):
            raise ModelError(f"the LoRA `{source}` has `{name}`, which this base has no place for. Expected its base.")
        delta_OI = up_OR @ down_RI
        delta = delta_OI.T if isinstance(layer, Conv1D) else delta_OI
        if delta.shape != weight.shape:
            raise ModelError(f"the LoRA `{source}` gives `{name}` the shape {tuple(delta.shape)}. Expected its base.")
        weight.copy_(weight.float() + delta.to(weight.device))


def merge_lora(base: PreTrainedModel, folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Add a LoRA folder's deltas to the weights of the base it was trained for, in place.

    Raises:
        ModelError: If the file cannot be read, or does not fit this base.
    """
    merge_pairs(base, lora_pairs(folder, settings), str(folder))
