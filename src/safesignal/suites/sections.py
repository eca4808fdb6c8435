"""The sections of a suite beside its attempts: each takes its settings and leaves one file in the run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safesignal.attacks.base import Target

__all__ = ["SECTIONS"]

Section = Callable[[Target, Path, Mapping[str, Any], str | None, int, Callable[[str, int, int], None]], None]

SECTIONS: dict[str, Section] = {}
"""By name."""
