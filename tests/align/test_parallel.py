"""Two processes come to what one comes to: gradients, curves, checkpoints, with the model copied or split."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from safesignal.align.config import AlignConfig
from safesignal.align.trainer import share_out
from safesignal.errors import UsageError
from tests.align.worker import CONFIG, make_trainer, train
from tests.support import REPO

CASES = ("gated", "sft", "lora", "augment", "joint", "sft-shard", "joint-shard", "sft-cut")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case in two CPU processes (gloo), as a user would start them."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # What `accelerate launch --multi_gpu` runs; it has no such way for CPUs alone.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    launch += ["-m", "tests.align.worker", str(out), *CASES]
    environment = os.environ | {
        "PYTHONPATH": f"{REPO}:{REPO / 'src'}",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    done = subprocess.run(launch, cwd=REPO, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[:6000]
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, two: Path, tmp_path: Path) -> None:
    train(tmp_path, case, 1)
    one, both = (json.loads((folder / f"{case}.json").read_text()) for folder in (tmp_path, two))
    assert len(one["losses"]) >= 5
    assert both["losses"] == pytest.approx(one["losses"], rel=1e-4)
    assert [row["loss"] for row in both["history"]] == pytest.approx([row["loss"] for row in one["history"]], rel=1e-3)
    weights = [torch.load(folder / f"{case}.pt", weights_only=True) for folder in (tmp_path, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # Adam divides by the gradient's own size, so rounding of a near-zero gradient shows at the rate's scale.
        assert torch.allclose(weights[1][name], value, atol=2e-4), name


def test_splitting_one_process_over_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one process"):
        make_trainer(tmp_path, "sft", CONFIG, shard=True)
    with pytest.raises(UsageError, match=r"align\.shard"):
        AlignConfig(recipe="sft", shard=True)


def test_every_process_makes_the_same_number_of_passes_and_each_row_counts_once(tmp_path: Path) -> None:
    run = make_trainer(tmp_path, "sft", CONFIG)
    rows = list(run.train)
    for processes in (1, 2, 3, 5):
        for size in (1, 2, 4):
            for n in (1, 2, 7, 19):
                shares = [share_out(rows[:n], processes, index, size) for index in range(processes)]
                assert len({len(own) for own in shares}) == 1
                live = [example.record.id for own in shares for share in own if share.live for example in share.batch]
                assert sorted(live) == sorted(example.record.id for example in rows[:n])
                assert all(share.batch for own in shares for share in own)
