"""The rules of the house, as tests: surface, floors, lengths, and what the source may not contain."""

from __future__ import annotations

import ast
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import safesignal
from tests.support import REPO

SOURCE = REPO / "src" / "safesignal"
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = sorted({"safesignal", *(module.name for module in pkgutil.walk_packages(safesignal.__path__, "safesignal."))})

MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80
BROAD_EXCEPT_ALLOWED = {"attacks/runner.py"}
"""Paths below src/safesignal in which `except Exception` may stand; only attacks/runner.py ever should."""


def relative(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def is_own(module: ModuleType, name: str) -> bool:
    """Whether a module holds this name by its own doing: neither dunder nor a submodule that was imported."""
    return not name.startswith("__") and not isinstance(getattr(module, name), ModuleType)


@pytest.fixture(params=FILES, ids=relative)
def source(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports(module: str) -> None:
    assert importlib.import_module(module).__name__ == module


@pytest.mark.parametrize("module", [name for name in MODULES if is_public(name)])
def test_every_public_module_says_what_it_exports(module: str) -> None:
    loaded = importlib.import_module(module)
    exported = getattr(loaded, "__all__", None)
    if exported is None and not [name for name in vars(loaded) if is_own(loaded, name)]:
        return  # a folder's __init__ with nothing but its purpose
    assert exported is not None, f"{module} has no __all__"
    assert len(set(exported)) == len(exported), f"{module}.__all__ names something twice"
    for name in exported:
        assert hasattr(loaded, name), f"{module}.__all__ names {name}, which is not there"


def test_the_floors_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_files_are_short(source: Path) -> None:
    assert len(source.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


def test_functions_are_short(source: Path) -> None:
    for function in functions(source):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        assert lines <= MAX_FUNCTION_LINES, f"{function.name} has {lines} lines"


def test_nothing_is_left_for_later(source: Path) -> None:
    assert re.findall(r"\b(?:TODO|FIXME|XXX|HACK)\b.*", source.read_text(encoding="utf-8")) == []


def test_no_broad_except(source: Path) -> None:
    """Cleaning up and raising again is fine; swallowing is not."""
    if relative(source) in BROAD_EXCEPT_ALLOWED:
        return
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.walk(node.type) if node.type is not None else [ast.Name("Exception")]
            names = {name.id for name in caught if isinstance(name, ast.Name)}
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            assert raises_again or not names & {"Exception", "BaseException"}, f"line {node.lineno} swallows everything"


def test_weights_are_read_safely(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    assert "import pickle" not in text
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call, call


def test_every_module_opens_with_its_purpose(source: Path) -> None:
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
    assert docstring, "no module docstring"
