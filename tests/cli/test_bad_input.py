"""Wrong use and broken files: one clear line on stderr, the right exit code, and nothing generated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from safesignal.modeling.model import SafeSignalModel
from tests.cli.conftest import Run, Tiny, save_adapter, save_base, write_rows
from tests.support import REPO

Case = Callable[[Tiny, Path], list[object]]


def with_rows(*rows: object, args: tuple[object, ...] = ()) -> Case:
    def build(tiny: Tiny, folder: Path) -> list[object]:
        source = folder / "in.jsonl"
        source.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return ["generate", *tiny.args, "--input", source, "--output", folder / "out.jsonl", *args]

    return build


def with_args(*args: object, verb: str = "generate") -> Case:
    return lambda tiny, folder: [verb, *tiny.args, *args]


def with_nan(tiny: Tiny, folder: Path) -> list[object]:
    broken = save_adapter(tiny.base, folder / "broken", 0.5)
    weights = load_file(broken / "adapter_model.safetensors")
    name = sorted(weights)[0]
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, broken / "adapter_model.safetensors")
    return ["generate", "--model", tiny.base, "--adapter", broken, "--prompt", "Hi"]


def of_another_model(tiny: Tiny, folder: Path) -> list[object]:
    other = save_base(folder / "other", hidden_size=24)
    return ["generate", "--model", other, "--adapter", tiny.adapter, "--prompt", "Hi"]


def unwritable(tiny: Tiny, folder: Path) -> list[object]:
    source = write_rows(folder / "in.jsonl", [{"id": 1, "prompt": "Hi"}])
    (folder / "file").write_text("")
    return ["generate", *tiny.args, "--input", source, "--output", folder / "file" / "out.jsonl"]


CASES: dict[str, tuple[Case, int, tuple[str, ...]]] = {
    "empty prompt": (with_args("--prompt", "  "), 2, ("--prompt", "is empty")),
    "empty prompt in a row": (with_rows({"id": 1, "prompt": ""}), 2, ("line 1", "prompt", "is empty")),
    "rows without fields": (
        with_rows({"id": 1}, {"id": 2, "prompt": 7}, "{broken"),
        2,
        ("3 problems", "line 1", "line 2", "line 3", "is missing", "a number", "is not JSON"),
    ),
    "same id twice": (with_rows({"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}), 2, ("unique",)),
    "empty file": (with_rows(), 2, ("holds no rows",)),
    "no file": (with_args("--input", "/nowhere.jsonl", "--output", "out.jsonl"), 2, ("cannot read /nowhere.jsonl",)),
    "prompt beyond the context": (
        with_args("--prompt", "long " * 200),
        2,
        ("the prompt has 10", "expected at most 511", "--max_new_tokens"),
    ),
    "rows beyond the context": (
        with_rows(
            {"id": "x", "prompt": "long " * 200}, {"id": "y", "prompt": "fine"}, {"id": "z", "prompt": "q" * 500}
        ),
        2,
        ("2 of 3 rows", "row x has", "row z has"),
    ),
    "unknown template": (with_args("--prompt", "Hi", "--chat_template", "chatml3"), 2, ("`chatml3`", "plain")),
    "another template": (with_args("--prompt", "Hi", "--chat_template", "plain"), 1, ("template",)),
    "NaN adapter": (with_nan, 1, ("non-finite",)),
    "adapter of another model": (of_another_model, 1, ("was trained for", "hidden size 24")),
    "no adapter there": (
        lambda tiny, folder: ["generate", "--model", tiny.base, "--adapter", folder, "--prompt", "Hi"],
        1,
        ("is no adapter", "adapter_config.json"),
    ),
    "no adapter shipped": (
        lambda tiny, folder: ["generate", "--model", tiny.base, "--prompt", "Hi"],
        1,
        ("no adapter is shipped", "safesignal align"),
    ),
    "no model there": (
        lambda tiny, folder: ["generate", "--model", folder / "none", "--no-signal", "--prompt", "Hi"],
        1,
        ("cannot be loaded",),
    ),
    "unwritable output": (unwritable, 2, ("cannot write", "out.jsonl")),
    "unknown option value": (with_args("--prompt", "Hi", "--policy", "mild"), 2, ("--policy", "mild", "medium")),
    "not a number": (with_args("--prompt", "Hi", "--tau", "two"), 2, ("--tau",)),
    "unknown option": (with_args("--prompt", "Hi", "--treshold", 1), 2, ("--treshold", "did you mean `--threshold`")),
    "unknown preset": (with_args("--prompt", "Hi", "--preset", "lax"), 2, ("`lax`", "balanced")),
    "several out of range": (
        with_args("--prompt", "Hi", "--threshold", 2, "--temperature", -1, "--schedule", "often", "--batch_size", 0),
        2,
        ("4 problems", "threshold = 2.0", "temperature = -1.0", "`often`", "batch_size is 0"),
    ),
    "schedule that stops": (with_args("--prompt", "Hi", "--schedule", "first"), 2, ("release buffer", "--no-buffer")),
    "schedule with gaps": (with_args("--prompt", "Hi", "--schedule", "periodic:20"), 2, ("leaves 20 tokens",)),
    "no tokens": (with_args("--prompt", "Hi", "--max_new_tokens", 0), 2, ("max_new_tokens is 0",)),
    "no device": (with_args("--prompt", "Hi", "--device", "cuda:77"), 2, ("cuda:77",)),
    "neither source": (with_args(), 2, ("neither",)),
    "both sources": (with_args("--prompt", "Hi", "--input", "a", "--output", "b"), 2, ("both",)),
    "half of the files": (with_args("--input", "a"), 2, ("--output",)),
    "trace of a file": (with_rows({"id": 1, "prompt": "a"}, args=("--trace",)), 2, ("--trace",)),
    "response to a file": (
        with_args("--input", "a", "--output", "b", "--response", "c", verb="score"),
        2,
        ("--response",),
    ),
    "unknown verb": (
        lambda tiny, folder: ["genrate"],
        2,
        ("unknown verb `genrate`", "did you mean `safesignal generate`"),
    ),
    "rollouts from nothing": (
        lambda tiny, folder: ["rollouts", "--model", tiny.base, "--output", folder / "out.jsonl"],
        2,
        ("neither `--plan` nor `--input`",),
    ),
    "rollouts of a share": (
        lambda tiny, folder: [
            *("rollouts", "--model", tiny.base, "--output", folder / "out.jsonl", "--plan", "plan.toml"),
            *("--share", 50),
        ],
        2,
        ("share is 50", "`--share 0.5`"),
    ),
    "acceptance of another policy": (
        lambda tiny, folder: [
            *("evaluate", "--suite", "acceptance", "--model", tiny.base, "--adapter", tiny.adapter),
            *("--output_dir", folder / "out", "--tau", 1),
        ],
        2,
        ("acceptance suite", "no other option"),
    ),
    "bench of nothing": (
        lambda tiny, folder: ["bench", "--model", tiny.base, "--adapter", tiny.adapter, "--repeats", 0],
        2,
        ("repeats is 0",),
    ),
    "align from nowhere": (
        lambda tiny, folder: [
            *("align", "--model", tiny.base, "--output", folder / "out", "--data", "rows.jsonl", "--start", "nowhere"),
        ],
        2,
        ("align.start = nowhere", "no model that an adapter ships for"),
    ),
    "align on nothing": (
        lambda tiny, folder: ["align", "--model", tiny.base, "--output", folder / "out"],
        2,
        ("nothing to train on",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error_and_nothing_generated(
    case: str, run: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was generated")

    monkeypatch.chdir(tmp_path)
    for name in ("answer", "stream", "score"):
        monkeypatch.setattr(SafeSignalModel, name, never)
    build, code, said = CASES[case]
    done = run(*build(tiny, tmp_path))
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    for words in said:
        assert words in done.err
    out = tmp_path / "out.jsonl"
    assert not out.exists() or out.read_bytes() == b""


def command(*arguments: object, code: str = "") -> subprocess.CompletedProcess[str]:
    program = f"import sys; from safesignal.cli import main\n{code}\nsys.exit(main())"
    line = [sys.executable, "-c", program, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(REPO / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120, check=False)


def test_help_needs_no_torch() -> None:
    done = command("generate", "--help", code="import atexit; atexit.register(lambda: print('torch' in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("False\n")


def crash(error: str) -> str:
    return f"import safesignal.cli.options as o\ndef boom(self): raise {error}\no.FileOptions.check = boom"


def test_an_unexpected_error_is_one_line_and_a_file() -> None:
    done = command("generate", "--prompt", "Hi", code=crash("ZeroDivisionError('by zero')"))
    assert (done.returncode, done.stdout) == (1, "")
    first, second = done.stderr.splitlines()
    assert first.startswith("error: ZeroDivisionError: by zero.")
    log = Path(second.removeprefix("hint:  the traceback is in "))
    assert "in boom" in log.read_text()
    log.unlink()


def test_running_out_of_memory_says_what_needs_less() -> None:
    done = command("generate", "--prompt", "Hi", code=crash("MemoryError()"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[1].startswith("hint:  a smaller `--batch_size`")


def test_an_interrupted_run_ends_with_130() -> None:
    done = command("generate", "--prompt", "Hi", code=crash("KeyboardInterrupt"))
    assert done.returncode == 130
    assert "error: interrupted" in done.stderr


def test_the_version_is_shown() -> None:
    from safesignal import __version__

    assert command("--version").stdout == f"{__version__}\n"
