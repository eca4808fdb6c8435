"""Carry a suite out against one target, into one run folder (docs/run-folder.md); resumable line by line.

Shared by all sections: the folder is claimed for a target and a suite before the first attempt, so that rows of
another run are never mixed in, and every figure of `results.json` comes from the files alone.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safesignal.attacks.artifact import behaviors_for
from safesignal.attacks.base import Attack, Plan, Sampling, Selective, Status, Target
from safesignal.attacks.behaviors import BehaviorSet
from safesignal.attacks.compliant import PlainSource, compliant_prefixes
from safesignal.attacks.prefill import Prefill
from safesignal.attacks.registry import build_attack
from safesignal.attacks.rejudge import rejudge
from safesignal.attacks.runner import REFUSAL, first_request, run_plans, statuses
from safesignal.attacks.targets import GuardedTarget
from safesignal.data.jsonl import Writer
from safesignal.errors import SafeSignalError, UsageError
from safesignal.evals.results import summarise_run
from safesignal.files import claim
from safesignal.judges.base import Judge
from safesignal.judges.refusal import RefusalJudge
from safesignal.modeling.zoo import cache_dir
from safesignal.runtime import environment
from safesignal.suites.record import RunRecord, digest_of, in_outline
from safesignal.suites.sections import FILES, SECTIONS, Report, SectionRun, judges
from safesignal.suites.spec import Cell, Suite

__all__ = ["Report", "Subject", "SuiteRun"]

_SCHEMA_VERSION = 1
_TRIAL_TOKENS = 12
_TRIAL_ROWS = 8
"""Few, because a suite with long prompts would spend minutes on reading them."""


@dataclass(frozen=True)
class Subject:
    """Who is measured.

    Attributes:
        target: What attacks are aimed at.
        plain: Who writes prefills of k tokens: the same model without its guard; None for an endpoint, whose cells of
            such prefills are left out.
        prefills_by: Name of `plain` where that is another model; empty where it is the same.
    """

    target: Target
    plain: PlainSource | None
    prefills_by: str = ""

    def variant(self, cell: Cell) -> Target | None:
        """Return the target as a cell wants it; None where the cell measures a part that it does not have.

        A cell switches parts off and never on: what the target itself goes without stays off.
        """
        if cell.buffer and cell.check_query:
            return self.target
        if not isinstance(self.target, GuardedTarget):
            return None
        own, given = self.target, self.target.policy
        buffer, check_query = given.buffer and cell.buffer, given.check_query and cell.check_query
        policy = replace(given, buffer=buffer, check_query=check_query)
        return GuardedTarget(own.model, policy, own.schedule, own.checks, preset=own.preset)


class SuiteRun:
    """One suite, one target, one folder.

    Args:
        suite: What to run.
        subject: Who is measured.
        folder: Where everything goes.
        data_dir: Folder of the public sets; None loads them from the hub.
        batch_size: Attempts written side by side.
        judges: By name, run on the spot; the refusal judge alone if None.
        cache: File of the unguarded models' compliant answers; None takes one that all runs share.
        report: Told how far each line is.

    Attributes:
        unwritten: Names of cells that are left out because nobody is there to write their prefills.
    """

    def __init__(
        self,
        suite: Suite,
        subject: Subject,
        folder: str | Path,
        *,
        data_dir: str | None = None,
        batch_size: int = 32,
        judges: Mapping[str, Judge] | None = None,
        cache: str | Path | None = None,
        report: Report = lambda *_: None,
    ) -> None:
        self.suite, self.subject, self.folder = suite, subject, Path(folder)
        self.data_dir, self.batch_size, self.report = data_dir, batch_size, report
        self.cache = Path(cache) if cache is not None else cache_dir() / "compliant.jsonl"
        self.judges = {REFUSAL: RefusalJudge(), **(judges or {})}
        # Everything wrong with the suite is found before a model writes a token.
        applying = [cell for cell in suite.cells if subject.variant(cell) is not None]
        self.attacks = {cell.name: _attack(cell, data_dir) for cell in applying}
        begun = [name for name, attack in self.attacks.items() if isinstance(attack, Prefill) and attack.depth]
        self.unwritten = [] if subject.plain is not None else begun
        self.cells = [cell for cell in applying if cell.name not in self.unwritten]
        self.behaviors = {cell.name: self._behaviors(cell) for cell in self.cells}
        self.outlines = {cell.name: self._outline(cell) for cell in self.cells}
        self.record = RunRecord(self.folder)

    def run(self, *, allow_errors: bool = False) -> dict[str, Any]:
        """Run what the folder does not hold yet.

        Args:
            allow_errors: State rates of cells with errored attempts too.

        Returns:
            The content of `results.json`.

        Raises:
            UsageError: If the folder holds another run, or cannot be written.
        """
        self.claim()
        with Writer(self.folder / "attempts.jsonl") as writer:
            rejudge(writer, self.judges)
            known = statuses(writer.path)
            for cell in self.cells:
                target = self.subject.variant(cell)
                assert target is not None
                attack, report = self.prepared(cell), _line(self.report, cell.name)
                plans = self.plans(cell, attack)
                self._note_begun(cell, plans, attack)
                how: dict[str, Any] = {"batch_size": self.batch_size, "progress": report, "known": known}
                run_plans(plans, target, writer, self.judges, **how)
        judges(self._section_run(), self.judges)
        for name, section in SECTIONS.items():
            if name in self.suite.sections:
                self.record.note(name, sections=self.suite.sections[name])
                section(self._section_run(), self.suite.sections[name])
        return summarise_run(self.folder, allow_errors=allow_errors)

    def prepared(self, cell: Cell) -> Attack:
        """Return a cell's attack; a prefill of k tokens is given the unguarded model's own compliant answers."""
        attack = self.attacks[cell.name]
        return self._with_compliant_answers(cell, attack) if isinstance(attack, Prefill) and attack.depth else attack

    def plans(self, cell: Cell, attack: Attack) -> list[Plan]:
        """Return a cell's attempts; none where the unguarded model complied with nothing, and the other cells go on."""
        if isinstance(attack, Prefill) and attack.depth and not attack.pieces:
            return []
        sampling = Sampling(max_new_tokens=cell.max_new_tokens, seed=self.suite.seed)
        return list(attack.plan(self.behaviors[cell.name].behaviors, cell.name, sampling))

    def expected(self) -> tuple[int, float | None]:
        """Return how many attempts are left, and the seconds they take at the speed of a short trial, roughly.

        The trial writes a few of them one token long and some tokens longer, so that reading prompts and writing
        answers are told apart. What it writes is thrown away. Where it fails (a prompt that does not fit, an endpoint
        that is away) no time is known; the attempts themselves tell what is wrong, each for itself.
        """
        left = self._left()
        if not left:
            return 0, 0.0
        rows = min(_TRIAL_ROWS, self.batch_size)
        trial = left[:: max(1, len(left) // rows)][:rows]
        try:
            short, longer = (self._trial_seconds(trial, length) for length in (1, 1 + _TRIAL_TOKENS))
        except SafeSignalError:
            return len(left), None
        reading, writing = short / len(trial), max(0.0, longer - short) / (len(trial) * _TRIAL_TOKENS)
        tokens = sum(plan.sampling.max_new_tokens * len(plan.script) for plan in left)
        return len(left), len(left) * reading + tokens * writing

    def _trial_seconds(self, plans: Sequence[Plan], new_tokens: int) -> float:
        requests = [first_request(replace(plan, sampling=Sampling(max_new_tokens=new_tokens))) for plan in plans]
        begun = time.perf_counter()
        self.subject.target.answer(requests)
        return time.perf_counter() - begun

    def claim(self) -> None:
        """Mark the folder with what is measured there, or check that it holds the beginning of this very run.

        Raises:
            UsageError: If it holds another run, or a part of one that was begun as something else.
        """
        run = {
            "schema_version": _SCHEMA_VERSION,
            "suite": self.suite.name,
            "suite_sha256": self.suite.sha256,
            "target": self.subject.target.identity(),
            "seed": self.suite.seed,
            "datasets": self._datasets(),
            "prefills_by": self._author(),
        }
        record = {
            "environment": environment(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
            "settings": self.suite.raw,
        }
        path = self.record.path
        claim(
            path, run, record, place=self.folder, option="--output_dir", begin=not (path.exists() or self._holds_rows())
        )
        sections = {name: own for name, own in self.suite.sections.items() if (self.folder / FILES[name]).exists()}
        self.record.check({name: digest_of(plans) for name, plans in self.outlines.items()}, sections)

    def _holds_rows(self) -> bool:
        """Return whether anything was measured in the folder, by whatever run."""
        paths = (self.folder / name for name in ("attempts.jsonl", *FILES.values()))
        return any(path.exists() and path.stat().st_size > 0 for path in paths)

    def _author(self) -> Mapping[str, Any] | None:
        """Return who writes prefills of k tokens, where it is not the target's own model."""
        plain = self.subject.plain
        return plain.identity() if plain is not None and self.subject.prefills_by else None

    def _behaviors(self, cell: Cell) -> BehaviorSet:
        with _named(cell):
            return behaviors_for(self.attacks[cell.name], cell.dataset, self.data_dir, cell.limit, self.suite.seed)

    def _datasets(self) -> dict[str, Any]:
        """Return the provenance of every set, of its largest sample where cells take different ones."""
        found: dict[str, BehaviorSet] = {}
        for own in self.behaviors.values():
            if own.dataset not in found or len(own.behaviors) > len(found[own.dataset].behaviors):
                found[own.dataset] = own
        return {name: own.provenance() for name, own in found.items()}

    def _outline(self, cell: Cell) -> list[Plan]:
        """Return a cell's attempts as far as they are known now."""
        with _named(cell):
            return self.plans(cell, in_outline(self.attacks[cell.name], self.behaviors[cell.name].behaviors))

    def _note_begun(self, cell: Cell, plans: Sequence[Plan], attack: Attack) -> None:
        """Keep in `run.json` what a cell sends, how many attempts it holds, and which behaviors have none."""
        behaviors = self.behaviors[cell.name].behaviors
        self.record.note(
            cell.name,
            plans=digest_of(self.outlines[cell.name]),
            planned=len(plans),
            behaviors=len(behaviors),
            left_out=attack.left_out(behaviors) if isinstance(attack, Selective) else {},
        )

    def _section_run(self) -> SectionRun:
        return SectionRun(
            target=self.subject.target,
            folder=self.folder,
            data_dir=self.data_dir,
            seed=self.suite.seed,
            batch_size=self.batch_size,
            cache=self.cache,
            report=self.report,
        )

    def _left(self) -> list[Plan]:
        """Return the attempts that are not made yet, in outline.

        A cell that run.json calls complete has none left, although some of its behaviors may have no attempt.
        """
        known, planned = statuses(self.folder / "attempts.jsonl"), self.record.read().get("planned", {})
        left = []
        for name, plans in self.outlines.items():
            missing = [plan for plan in plans if known.get(plan.id, Status.ERRORED) == Status.ERRORED]
            left += [] if len(plans) - len(missing) == planned.get(name) else missing
        return left

    def _with_compliant_answers(self, cell: Cell, attack: Prefill) -> Prefill:
        assert self.subject.plain is not None
        found = compliant_prefixes(
            self.subject.plain,
            self.behaviors[cell.name].behaviors,
            self.cache,
            batch_size=self.batch_size,
            progress=_line(self.report, f"{cell.name}: compliant answers"),
        )
        return found.given_to(attack)


def _attack(cell: Cell, data_dir: str | None) -> Attack:
    extra = {"data_dir": data_dir} if cell.attack == "template" and data_dir else {}
    with _named(cell):
        return build_attack({"attack": cell.attack, **cell.parameters, **extra})


@contextmanager
def _named(cell: Cell) -> Iterator[None]:
    """Say of which cell something is wrong."""
    try:
        yield
    except SafeSignalError as error:
        raise UsageError(f"cell `{cell.name}`: {error}", hint=error.hint) from error


def _line(report: Report, name: str) -> Callable[[int, int], None]:
    return lambda done, total: report(name, done, total)
