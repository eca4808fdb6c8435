"""A tiny base model and an adapter for it on disk, and the command line run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from safesignal.cli import main
from safesignal.config import OperatingPoint, SignalConfig
from safesignal.modeling.model import SafeSignalModel
from tests.support import randomise_, tiny_model, tiny_tokenizer


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@dataclass(frozen=True)
class Tiny:
    """A base model and adapters for it."""

    base: Path
    adapter: Path
    trusting: Path
    """An adapter that never says malicious."""
    strict: Path
    """An adapter that always does."""

    @property
    def args(self) -> list[str]:
        return ["--model", str(self.base), "--adapter", str(self.adapter)]


def save_adapter(base: Path, folder: Path, threshold: float, *, seed: int = 1, reader_rank: int = 0) -> Path:
    config = SignalConfig(
        rank=4, reader_rank=reader_rank, presets={"balanced": OperatingPoint(prompt=threshold, window=threshold)}
    )
    model = SafeSignalModel.from_base(str(base), config=config)
    randomise_(model.forward_signal.adapter, std=0.3, seed=seed)
    model.trained_signal = True
    model.save_pretrained(folder)
    return folder


def save_base(folder: Path, **more: Any) -> Path:
    tiny_model("llama", **more).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    base = save_base(folder / "base")
    adapters = {
        name: save_adapter(base, folder / name, at) for name, at in (("even", 0.5), ("never", 1.0), ("always", 0.0))
    }
    return Tiny(base, adapters["even"], adapters["never"], adapters["always"])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line and return its exit code and what it printed."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
