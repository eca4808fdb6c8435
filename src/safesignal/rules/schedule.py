"""When the signal is read again: the paper's four re-classification schedules as one shape.

A schedule is a list of stages, each "check every `every` tokens until step `until`". `first` has no stage, `every`
one with gap 1, `periodic` one with gap k, `annealing` gets sparser from stage to stage. The query itself is always
checked at step 0, before anything is generated; a schedule only speaks about steps 1, 2, ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from safesignal.errors import UsageError

__all__ = ["ANNEALING", "EVERY", "FIRST", "Schedule", "Stage", "parse_schedule", "periodic"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Check every `every` tokens for steps up to and including `until` (None: for ever)."""

    every: int
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Schedule:
    """The steps at which the signal is read.

    Attributes:
        name: What the user called it: `first`, `every`, `periodic` or `annealing`.
        stages: In order of `until`; steps beyond the last stage are not checked.
    """

    name: str
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        previous = 0
        for index, stage in enumerate(self.stages):
            last = index == len(self.stages) - 1
            until = previous + 1 if stage.until is None and last else stage.until
            if stage.every < 1 or until is None or until <= previous:
                raise UsageError(
                    f"schedule `{self.name}` has stage {index + 1} = {stage}. "
                    "Expected gaps of at least 1 and `until` growing from stage to stage, open only in the last.",
                    hint="for example `annealing:10x1,50x5,10` = every token up to 10, every 5 up to 50, then every 10",
                )
            previous = until

    def due(self, step: int) -> bool:
        """Tell whether the signal is read once `step` generated tokens exist (step counts from 1)."""
        start = 0
        for stage in self.stages:
            if stage.until is None or step <= stage.until:
                return step > start and (step - start) % stage.every == 0
            start = stage.until
        return False

    @property
    def max_gap(self) -> int | None:
        """The largest number of tokens between two checks; None if the schedule stops checking at some step."""
        gap, start, last = 0, 0, 0
        for stage in self.stages:
            # The end of a stage may leave a remainder, which adds to the first gap of the next.
            checks = 2 if stage.until is None else (stage.until - start) // stage.every
            if checks:
                gap = max(gap, start + stage.every - last, stage.every if checks > 1 else 0)
                last = start + checks * stage.every
            start = stage.until or start
        return gap if self.stages and self.stages[-1].until is None else None

    def __str__(self) -> str:
        if self.name in ("first", "every"):
            return self.name
        parts = (f"{s.every}" if s.until is None else f"{s.until}x{s.every}" for s in self.stages)
        return f"{self.name}:{','.join(parts)}"


FIRST = Schedule("first")
EVERY = Schedule("every", (Stage(1),))
ANNEALING = Schedule("annealing", (Stage(1, until=10), Stage(5, until=50), Stage(10)))
"""Dense where a jailbroken answer starts, sparser later: every token up to 10, every 5 up to 50, then every 10."""


def periodic(interval: int = 10) -> Schedule:
    """Build the schedule that checks every `interval` tokens (paper: 10)."""
    return Schedule("periodic", (Stage(interval),))


def parse_schedule(text: str) -> Schedule:
    """Read a schedule as the command line writes it.

    Args:
        text: `first`, `every`, `periodic`, `periodic:K`, `annealing` or `annealing:UNTILxEVERY,...[,EVERY]`. An
            annealing curve whose last part has no `UNTIL` goes on for ever; otherwise checking stops there.

    Returns:
        The schedule; `str(schedule)` gives back an equal text.

    Raises:
        UsageError: If the text is none of these forms.
    """
    name, _, rest = text.strip().partition(":")
    simple = {"first": FIRST, "every": EVERY, "annealing": ANNEALING, "periodic": periodic()}
    if name in simple and not rest:
        return simple[name]
    if name == "periodic" and rest.isdecimal():
        return periodic(int(rest))
    if name == "annealing" and re.fullmatch(r"(\d+x\d+)(,\d+x\d+)*(,\d+)?", rest):
        return Schedule("annealing", tuple(_parse_stage(part) for part in rest.split(",")))
    raise UsageError(
        f"schedule is `{text}`. Expected `first`, `every`, `periodic[:K]` or `annealing[:UNTILxEVERY,...,EVERY]`.",
        hint="try `--schedule annealing` (the default) or `--schedule periodic:10`",
    )


def _parse_stage(part: str) -> Stage:
    until, _, every = part.rpartition("x")
    return Stage(int(every), until=int(until) if until else None)
