"""A tiny target, and records in two classes that a tiny signal can tell apart."""

from __future__ import annotations

import pytest

from safesignal.config import SignalConfig
from safesignal.data.records import Record, record_from_row
from safesignal.modeling.model import SafeSignalModel
from tests.support import tiny_model, tiny_tokenizer


def make_model(seed: int = 0, reader_rank: int = 0) -> SafeSignalModel:
    """Build the same untrained model every time."""
    signal = SignalConfig(rank=4, reader_rank=reader_rank)
    return SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer(), config=signal, seed=seed)


def make_records(n: int = 40) -> list[Record]:
    """Return abstract stand-ins: rows about Z are malicious, rows about A are benign, some of both refuse."""
    rows = []
    for index in range(n):
        bad = index % 2 == 1
        letter = "Z" if bad else "A"
        row = {
            "id": f"row-{index}",
            "prompt": f"tell me {index} things about {letter * 3}",
            "response": f"{letter} is {index} and {letter * 8}",
            "prompt_label": "malicious" if bad else "benign",
            "response_label": "malicious" if bad else "benign",
            "source": "stand-in",
            "licence": "permissive",
        }
        if index % 5 == 3:
            row |= {"response": "Sorry, no.", "response_label": "refusal"}
        rows.append(record_from_row(row))
    return rows


@pytest.fixture
def model() -> SafeSignalModel:
    """An untrained tiny model."""
    return make_model()


@pytest.fixture
def records() -> list[Record]:
    """Forty stand-in records."""
    return make_records()
