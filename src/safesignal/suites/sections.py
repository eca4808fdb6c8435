"""The sections of a suite beside its attempts: each leaves one file in the run folder, and is not made again.

A section that a target has no part in (no signal, no weights at hand) leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesignal.attacks.base import Sampling, Target
from safesignal.attacks.behaviors import load_behaviors
from safesignal.attacks.compliant import compliant_prefixes
from safesignal.attacks.nested import Nested
from safesignal.attacks.targets import GuardedTarget, PlainTarget
from safesignal.data.sources import load_source
from safesignal.evals.bench import BenchConfig
from safesignal.evals.labels import record_agreement
from safesignal.evals.overhead import run_overhead
from safesignal.evals.probe import probe_cases, run_probe
from safesignal.evals.scorer import GuardedScorer
from safesignal.evals.signal import SignalSet, load_signal_sets, run_signal
from safesignal.evals.tasks import load_task
from safesignal.evals.utility import run_utility
from safesignal.files import write_json
from safesignal.judges.base import BatchJudge, Judge

__all__ = ["FILES", "SECTIONS", "Report", "SectionRun", "judges"]

Report = Callable[[str, int, int], None]
"""Takes the name of a line, how much of it is done, and all of it."""


@dataclass(frozen=True)
class SectionRun:
    """What every section is given.

    Attributes:
        target: Who is measured.
        folder: The run folder.
        data_dir: Folder of the public sets; None loads them from the hub.
        seed: Of the choice of rows, and of bootstraps.
        batch_size: Rows read together.
        cache: File of the unguarded models' compliant answers.
        report: Told how far each line is.
    """

    target: Target
    folder: Path
    data_dir: str | None
    seed: int
    batch_size: int
    cache: Path
    report: Report

    def once(self, name: str, make: Callable[[], Mapping[str, Any]]) -> None:
        """Write `name`.json unless it is there, in one move."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return
        self.report(name, 0, 1)
        write_json(path, make())
        self.report(name, 1, 1)


def signal(run: SectionRun, settings: Mapping[str, Any]) -> None:
    """Score labelled prompts and answers (`prompts` and `responses`: rows per set) into `signal.jsonl`."""
    if not isinstance(run.target, GuardedTarget):
        return
    sets: list[SignalSet] = []
    for name, n in settings.get("prompts", {}).items():
        sets += load_signal_sets([name], [], data_dir=run.data_dir, limit=n, seed=run.seed)
    for name, n in settings.get("responses", {}).items():
        sets += load_signal_sets([], [name], data_dir=run.data_dir, limit=n, seed=run.seed)

    def report(name: str, done: int, total: int) -> None:
        run.report(f"signal: {name}", done, total)

    policy, schedule = run.target.policy, run.target.schedule
    how: dict[str, Any] = {"policy": policy, "schedule": schedule, "batch_size": run.batch_size, "progress": report}
    run_signal(run.target.model, sets, run.folder, **how)


def overhead(run: SectionRun, settings: Mapping[str, Any]) -> None:
    """Time decoding with checks off and on; fields are those of :class:`BenchConfig`."""
    target = run.target
    if isinstance(target, GuardedTarget):
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
        config = BenchConfig(**fields)
        run.once("overhead", lambda: run_overhead(target.model, config))


def utility(run: SectionRun, settings: Mapping[str, Any]) -> None:
    """Measure ability: `perplexity` maps a set to rows, any other field names a local task and its rows."""
    target = run.target
    if not isinstance(target, GuardedTarget | PlainTarget):
        return

    def make() -> Mapping[str, Any]:
        how: dict[str, Any] = {"signal": False}
        if isinstance(target, GuardedTarget):
            how = {"policy": target.policy, "schedule": target.schedule}
        scorer = GuardedScorer(target.model, batch_size=run.batch_size, **how)
        texts = [
            (record.prompt, record.response or "")
            for name, n in settings.get("perplexity", {}).items()
            for record in load_source(name, data_dir=run.data_dir, limit=n, seed=run.seed)
        ]
        names = [name for name in settings if name != "perplexity"]
        tasks = [load_task(name, data_dir=run.data_dir, limit=settings[name], seed=run.seed) for name in names]
        return run_utility(scorer, texts, tasks, seed=run.seed)

    run.once("utility", make)


def probe(run: SectionRun, settings: Mapping[str, Any]) -> None:
    """Look at the bare model's first answer token: `dataset`, `limit`, `depths`, `top_k`."""
    target = run.target
    if isinstance(target, PlainTarget):
        run.once("probe", lambda: _probe(run, target, **settings))


def _probe(
    run: SectionRun, target: PlainTarget, dataset: str, limit: int, depths: Sequence[int], top_k: int
) -> Mapping[str, Any]:
    """Put the same behaviors under every condition; those without a compliant answer of their own are left out."""
    behaviors = load_behaviors(dataset, run.data_dir, limit, run.seed)
    pieces = compliant_prefixes(target, behaviors, run.cache, batch_size=run.batch_size).pieces
    kept = [one for one in behaviors if len(pieces.get(one.id, ())) >= max(depths)]
    if not kept:  # the model complied with nothing, or said too little
        return {"k": top_k, "conditions": []}
    records = [r for r in load_source(dataset, data_dir=run.data_dir) if r.id in {one.id for one in kept}]
    nested = {plan.behavior.id: plan.script[-1] for plan in Nested().plan(kept, "probe", Sampling())}
    prefixes = {one.id: "".join(pieces[one.id]) for one in kept}
    cases = probe_cases(target.model, records, depths=depths, prefixes=prefixes, nested=nested)
    return run_probe(target.model, cases, k=top_k, batch_size=run.batch_size, seed=run.seed)


def judges(run: SectionRun, judges: Mapping[str, Judge]) -> None:
    """Measure every judge against people's labels, where the labelled sets are at hand, into `judges.json`."""
    own = {name: judge for name, judge in judges.items() if isinstance(judge, BatchJudge)}

    def report(name: str, done: int, total: int) -> None:
        run.report(f"judges: {name}", done, total)

    record_agreement(run.folder, own, run.data_dir, batch_size=run.batch_size, progress=report)


SECTIONS: dict[str, Callable[[SectionRun, Mapping[str, Any]], None]] = {
    "signal": signal,
    "utility": utility,
    "probe": probe,
    "overhead": overhead,
}
"""By name, in the order they are run."""

FILES = {name: "signal.jsonl" if name == "signal" else f"{name}.json" for name in SECTIONS}
"""Per section, the file it leaves in the run folder."""
