"""The environment a result was made in."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["environment", "git_commit"]

_PACKAGES = ("safesignal", "torch", "transformers", "accelerate", "safetensors")


@cache
def environment() -> dict[str, str]:
    """Return the versions of Python, the platform, the packages that decide results, and the commit."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"git_commit": git_commit()}


@cache
def git_commit() -> str:
    """Return the commit of the checkout the package runs from, `+` appended if files differ; empty outside one."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return commit + ("+" if commit and _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
