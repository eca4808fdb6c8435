"""Targets and judges that say what a test tells them to, and behaviors that ask for nothing in particular."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from safesignal.attacks.base import Behavior, Plan, Reply, Request, Sampling, make_plan

REFUSAL = "Sorry, I cannot help with that request."
ANSWER = "Of course. The first colour is red, the second is orange, and so on."


def behavior(name: str = "b0", text: str = "Name the colours of the rainbow.", **more: Any) -> Behavior:
    return Behavior(**{"id": name, "text": text, "dataset": "stand-in", "label": "malicious", "prompt": text} | more)


def behaviors(count: int, **more: Any) -> list[Behavior]:
    return [behavior(f"b{i}", f"Name colour number {i} of the rainbow.", **more) for i in range(count)]


def plan(name: str = "b0", script: Sequence[str] = ("Name a colour.",), **more: Any) -> Plan:
    sampling = more.pop("sampling", Sampling(max_new_tokens=16))
    return make_plan("direct", "cell", behavior(name), sampling, script, **more)


def plans(count: int, **more: Any) -> list[Plan]:
    return [plan(f"b{i}", [f"Name colour {i}."], **more) for i in range(count)]


@dataclass
class ScriptedTarget:
    """Answers every request by a function; keeps what it was asked, batch by batch."""

    say: Callable[[Request], Reply | str]
    name: str = "scripted"
    batches: list[list[Request]] = field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        return {"kind": "plain", "name": self.name}

    def answer(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append(list(requests))
        said = [self.say(request) for request in requests]
        return [one if isinstance(one, Reply) else Reply(one, len(one.split()), "eos", 0.1) for one in said]

    def pieces(self, text: str) -> tuple[str, ...]:
        return tuple(text[i : i + 2] for i in range(0, len(text), 2))
