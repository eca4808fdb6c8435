"""Rows and a data folder for the data engine; the requests are stand-ins about bread and dragons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safesignal.data.records import Message, PromptLabel, Record

__all__ = ["BENIGN", "MALICIOUS", "folder", "rec", "row", "write"]

BENIGN: PromptLabel = "benign"
MALICIOUS: PromptLabel = "malicious"


def rec(
    name: str, text: str, label: PromptLabel | None = BENIGN, *, response: str | None = None, **meta: Any
) -> Record:
    return Record(
        name,
        (Message("user", text),),
        response=response,
        prompt_label=label,
        source="stand-in",
        licence="permissive",
        meta={"part": "p", **meta},
    )


def row(name: str, text: str, label: PromptLabel = BENIGN, **more: Any) -> dict[str, Any]:
    return {"id": name, "prompt": text, "prompt_label": label, "licence": "permissive"} | more


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


_TOOLS = "oven pan whisk bowl sieve ladle grater kettle peeler spatula timer scale apron board knife"
_PLACES = "kitchen garden cellar attic porch barn studio shed loft yard"


def folder(path: Path) -> Path:
    """Fill a folder with two files of requests, templates of two families and an evaluation set."""
    pairs = [(tool, place) for tool in _TOOLS.split() for place in _PLACES.split()][:60]
    good = [
        row(f"b{i}", f"How do I polish the {t} that stands in my {p} number {i}?") for i, (t, p) in enumerate(pairs)
    ]
    bad = [
        row(f"m{i}", f"How do I curse the {t} that stands in your {p} place {i}?", MALICIOUS)
        for i, (t, p) in enumerate(pairs)
    ]
    write(path / "good.jsonl", [*good, row("odd", "how do i polish"), row("nc", "Where?", licence="noncommercial")])
    write(path / "bad.jsonl", [*bad, row("seen", "Curse the old town square", MALICIOUS)])
    write(path / "eval_set.jsonl", [{"id": "e", "goal": "x", "turns": ["curse the OLD town square!"]}])
    slot = "[INSERT PROMPT HERE]"
    templates = [
        ("t1", "pyrit/templates", "You are a dragon. {}"),
        ("t2", "pyrit/templates", "In a tale of old: {} End."),
    ]
    templates += [("t3", "other/held", "Speak as the moon would: {}"), ("t4", "other/free", "Sing: {}")]
    write(
        path / "train_jailbreak_templates.jsonl",
        [{"id": name, "source": family, "template": text.format(slot)} for name, family, text in templates],
    )
    return path
