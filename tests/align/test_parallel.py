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
from safetensors.torch import load_file

from safesignal.align.config import AlignConfig
from safesignal.align.trainer import share_out
from safesignal.data.records import append_jsonl
from safesignal.errors import UsageError
from tests.align.conftest import make_records
from tests.align.worker import CONFIG, make_trainer, train
from tests.cli.conftest import save_base
from tests.support import REPO

CASES = (
    *("gated", "reader", "sft", "lora", "augment", "joint", "jointlora", "pretrain"),
    *("sft-shard", "joint-shard", "sft-cut", "sft-shard-cut"),
)


def launch(processes: int, *command: str) -> None:
    """Run a command in several CPU processes, as `accelerate launch --multi_gpu` would; it has no such way for CPUs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", port]
    environment = os.environ | {"PYTHONPATH": f"{REPO}:{REPO / 'src'}", "OMP_NUM_THREADS": "1"}
    environment |= {"ACCELERATE_USE_CPU": "true"}
    line += command
    done = subprocess.run(line, cwd=REPO, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[:6000]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case in two CPU processes (gloo), as a user would start them."""
    out = tmp_path_factory.mktemp("two")
    launch(2, "-m", "tests.align.worker", str(out), *CASES)
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case: str, two: Path, tmp_path: Path) -> None:
    train(tmp_path, case, 1)
    one, both = (json.loads((folder / f"{case}.json").read_text()) for folder in (tmp_path, two))
    assert len(one["losses"]) >= 5
    assert both["losses"] == pytest.approx(one["losses"], rel=1e-4)
    # Adam does not notice the scale of a gradient; clipping does.
    assert both["norms"] == pytest.approx(one["norms"], rel=1e-3)
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


def test_a_step_of_long_rows_is_cut_into_more_passes(tmp_path: Path) -> None:
    rows = list(make_trainer(tmp_path, "sft", CONFIG).train)[:12]
    longest = max(len(row.encoded.ids) for row in rows)
    for tokens, size in ((0, 6), (6 * longest, 6), (6 * longest - 1, 5), (2 * longest, 2), (longest, 1), (1, 1)):
        for index in (0, 1):
            shares = share_out(rows, 2, index, 6, tokens)
            assert len(shares[0].batch) == size
            assert [row for share in shares for row in share.batch] == rows[index::2]


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--recipe sft", "--recipe sft --tuning full --shard", "--recipe gated"])
def test_the_command_line_in_two_processes_saves_what_one_saves(tmp_path: Path, options: str) -> None:
    save_base(tmp_path / "base")
    rows = tmp_path / "rows.jsonl"
    append_jsonl(rows, [record.to_row() for record in make_records(40)])
    common = [
        "align",
        "--model",
        str(tmp_path / "base"),
        "--data",
        str(rows),
        *options.split(),
        "--learning_rate",
        "1e-3",
    ]
    launch(2, "-m", "safesignal", *common, "--output", str(tmp_path / "two"), "--batch_size", "4")
    alone = [word for word in common if word != "--shard"]
    launch(1, "-m", "safesignal", *alone, "--output", str(tmp_path / "one"), "--batch_size", "8")
    (name,) = {path.name for path in (tmp_path / "one").glob("*.safetensors")}
    one, two = (load_file(tmp_path / folder / name) for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        assert torch.allclose(value.float(), two[key].float(), atol=2e-3), key
