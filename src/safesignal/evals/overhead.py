"""What checks cost, as a section of a run: :func:`safesignal.evals.bench.bench_decode` with its conditions beside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from safesignal.evals.bench import BenchConfig, bench_decode
from safesignal.modeling.model import SafeSignalModel

__all__ = ["run_overhead"]


def run_overhead(
    model: SafeSignalModel, config: BenchConfig | None = None, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Return the content of `overhead.json`: one row per variant, batch and context; times in ms, memory in bytes.

    Args:
        model: The guarded model.
        config: The grid; None takes the default.
        progress: Called with the cell that begins.
    """
    config = config or BenchConfig()
    return {
        "threads": torch.get_num_threads(),
        "device": str(model.base.device),
        "dtype": str(model.base.dtype).removeprefix("torch."),
        "new_tokens": config.new_tokens,
        "repeats": config.repeats,
        "rows": [asdict(row) for row in bench_decode(model, config, progress)],
    }
