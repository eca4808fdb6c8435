"""A suite over abstract prompts, its data file, and a tiny guarded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from safesignal.modeling.model import SafeSignalModel
from tests.invariants.harness import guarded

SUITE = """
name: tiny
seed: 3
max_new_tokens: 6
cells:
  - {cell: direct, attack: direct, dataset: DATA, limit: 3}
  - {cell: deep, attack: prefill, depth: [2, 4], dataset: DATA, limit: 2, max_new_tokens: 4}
  - {cell: open, attack: direct, dataset: DATA, limit: 2, buffer: false}
  - {cell: ordinary, attack: direct, dataset: PLAIN}
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    for name, label in (("data", "malicious"), ("plain", "benign")):
        rows = [{"id": f"{name}-{i}", "prompt": f"name item {i} of the list", "prompt_label": label} for i in range(4)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE.replace("DATA", str(tmp_path / "data.jsonl")).replace("PLAIN", str(tmp_path / "plain.jsonl")))
    return path


@pytest.fixture(scope="session")
def model() -> SafeSignalModel:
    return guarded("llama")
