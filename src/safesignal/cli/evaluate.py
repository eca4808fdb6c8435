"""`safesignal evaluate`: run a suite of measurements against the base model and the guarded one, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich import box
from rich.table import Table

from safesignal.cli.arguments import flag, option, require_at_least_one, together
from safesignal.cli.console import INCOMPLETE, bars, note, out
from safesignal.cli.options import BaseOptions, ModelOptions, PolicyOptions, SignalOptions
from safesignal.cli.targets import EndpointOptions, guarded_target
from safesignal.errors import UsageError

if TYPE_CHECKING:
    from safesignal.judges.base import Judge
    from safesignal.suites.run import Subject, SuiteRun
    from safesignal.suites.spec import Suite

__all__ = ["evaluate"]

_IO, _ACCEPTANCE, _TARGET = "Input and output", "Suite acceptance only", "Target"
_TARGETS = ("base", "guarded", "probe", "keywords")


@dataclass(frozen=True)
class AcceptanceOptions:
    """How much the acceptance suite measures; other suites say so in their files."""

    limit: Annotated[int | None, option("limit", "Rows of each generated part.", _ACCEPTANCE, show_default="200")] = (
        None
    )
    scored_limit: Annotated[
        int | None, option("scored_limit", "Rows of each scored part.", _ACCEPTANCE, show_default="400")
    ] = None
    max_new_tokens: Annotated[
        int | None, option("max_new_tokens", "Length of an answer.", _ACCEPTANCE, show_default="256")
    ] = None
    train_prompts: Annotated[
        str | None, option("train_prompts", "The adapter's training/prompts.jsonl, for the text rival.", _ACCEPTANCE)
    ] = None

    def check(self) -> None:
        """Raise what would leave nothing to do."""
        together(*(partial(require_at_least_one, size, name) for name, size in self.sizes().items()))

    def refuse(self, suite: str) -> None:
        """Raise if a size was given for a suite whose own file says how much is measured."""
        from safesignal.suites.spec import ACCEPTANCE

        if suite == ACCEPTANCE:
            return
        given = [*self.sizes(), *(["train_prompts"] if self.train_prompts is not None else [])]
        if given:
            raise UsageError(
                f"`--{given[0]}` belongs to the acceptance suite, and suite is `{suite}`. Expected it left out.",
                hint="a suite's own file has `max_new_tokens`, and each of its cells a `limit`; pass its path",
            )

    def sizes(self) -> dict[str, int]:
        """Return the sizes that were given."""
        found = {name: getattr(self, name) for name in ("limit", "scored_limit", "max_new_tokens")}
        return {name: size for name, size in found.items() if size is not None}


@dataclass(frozen=True)
class TargetOptions(EndpointOptions):
    """Who is measured."""

    targets: Annotated[str, option("targets", "Some of base, guarded, probe, keywords; comma-separated.", _TARGET)] = (
        "base,guarded"
    )
    probe: Annotated[str | None, option("probe", "Folder of the probe, from `safesignal probe`.", _TARGET)] = None
    prefills_by: Annotated[
        str | None,
        option(
            "prefills_by",
            "Model whose answers prefills of k tokens begin, so that tuned models face the same ones.",
            _TARGET,
            show_default="the model itself, unguarded",
        ),
    ] = None

    def names(self) -> list[str]:
        """Return the targets asked for, each once."""
        return ["endpoint"] if self.endpoint else list(dict.fromkeys(name.strip() for name in self.targets.split(",")))

    def require_alone(self, model: BaseOptions, signal: SignalOptions, policy: PolicyOptions) -> None:
        """Raise if an endpoint stands beside other targets or beside options of a model of our own."""
        if self.endpoint is not None and self.targets != TargetOptions.targets:
            raise UsageError("`--targets` stands beside `--endpoint`. Expected one of the two.")
        super().require_alone(model, signal, policy)

    def check(self) -> None:
        """Raise unless every target is known and an endpoint is named whole."""
        unknown = [name for name in self.names() if name not in (*_TARGETS, "endpoint")]
        if unknown:
            raise UsageError(f"targets are `{self.targets}`. Expected some of {', '.join(_TARGETS)}.")
        if ("probe" in self.names()) != (self.probe is not None):
            raise UsageError(
                "one of `--targets probe` and `--probe` stands alone. Expected both or neither.",
                hint="`safesignal probe --data rows.jsonl --output DIR` trains one",
            )
        super().check()


@dataclass(frozen=True)
class SuiteOptions:
    """What is measured."""

    suite: Annotated[str, option("suite", "quick, paper, full, acceptance, or a YAML file.", _IO)] = "quick"
    attacks_only: Annotated[
        bool, flag("attacks_only", "Attacks and ordinary prompts alone: no utility, no cost, no signal quality.", _IO)
    ] = False

    def load(self) -> Suite:
        """Read the suite."""
        from safesignal.suites.spec import load_suite

        suite = load_suite(self.suite)
        return suite.attacks_only() if self.attacks_only else suite


def evaluate(
    model: ModelOptions,
    signal: SignalOptions,
    policy: PolicyOptions,
    target: TargetOptions,
    acceptance: AcceptanceOptions,
    which: SuiteOptions,
    output_dir: Annotated[str, option("output_dir", "Folder of the results; a run found there goes on.", _IO)],
    data_dir: Annotated[str | None, option("data_dir", "Folder of the public sets.", _IO, show_default="hub")] = None,
    batch_size: Annotated[int, option("batch_size", "Rows written side by side.", _IO)] = 32,
    allow_errors: Annotated[bool, flag("allow_errors", "Print rates although attempts errored.", _IO)] = False,
) -> int:
    """Measure the guarded model and its base; every rate carries its 95 % Wilson interval."""
    watching = partial(signal.check, model, policy)
    together(
        model.check,
        target.check,
        partial(target.require_alone, model, signal, policy),
        acceptance.check,
        partial(acceptance.refuse, which.suite),
        partial(require_at_least_one, batch_size),
        *([] if target.endpoint or "guarded" not in target.names() else [watching]),
    )
    from safesignal.suites.spec import ACCEPTANCE

    if which.suite == ACCEPTANCE:
        _require_plain(signal, policy, target, attacks_only=which.attacks_only)
        return _accept(model, acceptance, signal.preset, output_dir, data_dir, batch_size, allow_errors=allow_errors)
    from safesignal.suites.run import SuiteRun

    asked, folder, code = which.load(), Path(output_dir), 0
    judges, subjects = _judges(), _subjects(model, signal, policy, target)
    for name in target.names():
        with bars() as report:
            how: dict[str, Any] = {"data_dir": data_dir, "batch_size": batch_size, "judges": judges, "report": report}
            run = SuiteRun(asked, subjects[name](), folder / name, **how)
            if run.unwritten:
                cells = ", ".join(run.unwritten)
                note(f"left out, since nobody writes their prefills: {cells}; `--prefills_by smollm2` would")
            results = _run(run, name, allow_errors=allow_errors)
        code = max(code, _show(name, results, allow_errors=allow_errors))
    places = " ".join(str(folder / name) for name in target.names())
    note(f"`safesignal report {places} --output_dir {folder / 'report'}` makes tables and a page of it")
    return code


def _require_plain(signal: SignalOptions, policy: PolicyOptions, target: TargetOptions, *, attacks_only: bool) -> None:
    """Raise if the acceptance suite, which measures a preset and nothing else, is asked for more."""
    plain = (SignalOptions(preset=signal.preset), PolicyOptions(), TargetOptions())
    if (signal, policy, target) != plain or attacks_only:
        raise UsageError(
            "the acceptance suite measures the guarded model at a preset. Expected no other option of the signal, the "
            "policy or the target.",
            hint="`--suite acceptance --preset strict`, or another suite",
        )


def _run(run: SuiteRun, name: str, *, allow_errors: bool) -> dict[str, Any]:
    run.claim()
    left, seconds = run.expected()
    if left:
        about = "the trial failed, so for how long is unknown"
        if seconds is not None:
            about = f"about {_duration(seconds)} at most at the speed of a short trial"
        note(f"{name}: {left} attempts to make, {about}")
    return run.run(allow_errors=allow_errors)


def _judges() -> dict[str, Judge]:
    """Return the embedded harm judge if it was trained on this machine."""
    from safesignal.judges.embedded import EmbeddedJudge, default_folder

    if not default_folder().exists():
        note("no harm judge: `safesignal judge --train --data_dir DIR` makes one; a run started again then takes it")
        return {}
    if find_spec("sklearn") is None:
        note('no harm judge without scikit-learn: `pip install "safesignal[eval]"`; a run started again then takes it')
        return {}
    return {"harm": EmbeddedJudge.load()}


def _subjects(
    model: ModelOptions, signal: SignalOptions, policy: PolicyOptions, target: TargetOptions
) -> Mapping[str, Callable[[], Subject]]:
    """Return a way to make each target; all share one loaded model."""
    from safesignal.attacks.targets import PlainTarget, plain_target
    from safesignal.suites.run import Subject

    if (aimed := target.aim()) is not None:
        writer = None if target.prefills_by is None else plain_target(target.prefills_by)
        return {"endpoint": lambda: Subject(aimed, writer, target.prefills_by or "")}
    loaded = model.load(signal="guarded" in target.names())
    plain = PlainTarget(loaded)
    author = plain if target.prefills_by is None else plain_target(target.prefills_by, **model.how())
    own: dict[str, Any] = {"plain": author, "prefills_by": target.prefills_by or ""}

    def guarded() -> Subject:
        return Subject(guarded_target(loaded, signal, policy), **own)

    def probed() -> Subject:
        from safesignal.baselines.probe import Probe, ProbeTarget

        return Subject(ProbeTarget(plain, Probe.load(str(target.probe)), signal.preset), **own)

    def filtered() -> Subject:
        from safesignal.baselines.keywords import KeywordTarget

        return Subject(KeywordTarget(plain), **own)

    return {"base": lambda: Subject(plain, **own), "guarded": guarded, "probe": probed, "keywords": filtered}


def _show(name: str, results: Mapping[str, Any], *, allow_errors: bool) -> int:
    """Print the rates, or say why there are none; return the exit code."""
    errored = sum(row["errored"] for row in results["attacks"] if row["variant"] is None)
    # Malicious prompts of a cell with ordinary ones stand in both tables.
    ordinary = [row for row in results["over_refusal"] if row["category"] is None and row["label"] == "benign"]
    errored += sum(row["errored"] for row in ordinary)
    if errored and not allow_errors:
        note(f"{name}: {errored} attempts errored, so no rate is printed; start again to make them once more")
        return INCOMPLETE
    table = Table(title=name, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("measured", "data set", "rate [95 % interval] (count)", "undecided"):
        table.add_column(column)
    for row in results["attacks"]:
        if row["variant"] is None:
            table.add_row(f"{row['cell']}: complied", row["dataset"], _rate(row["asr"]), str(row["undecided"]))
    for row in ordinary:
        table.add_row(f"{row['cell']}: refused", row["dataset"], _rate(row["refused"]), str(row["undecided"]))
    out.print(table)
    return INCOMPLETE if errored else 0


def _rate(row: Mapping[str, Any] | None) -> str:
    from safesignal.stats import Rate

    return str(Rate(row["successes"], row["n"])) if row else "n/a"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"


def _accept(
    model: ModelOptions,
    size: AcceptanceOptions,
    preset: str,
    output_dir: str,
    data_dir: str | None,
    batch_size: int,
    *,
    allow_errors: bool,
) -> int:
    """Run the suite that says whether the shipped signal does what it is shipped for."""
    from safesignal.evals.acceptance import AcceptanceConfig, run_acceptance

    config = AcceptanceConfig(data_dir=data_dir, batch_size=batch_size, preset=preset, **size.sizes())
    loaded = model.load()
    with bars() as show:
        results = run_acceptance(loaded, config, output_dir, train_prompts=size.train_prompts, progress=show)
    errored = sum(part["errored"] for part in results["summary"].values())
    if errored and not allow_errors:
        note(f"{errored} attempts errored, so no rate is printed; see {output_dir}/attempts.jsonl, or `--allow_errors`")
        return INCOMPLETE
    out.print(_acceptance_table(results))
    note(f"results in {Path(output_dir) / 'results.json'}")
    return INCOMPLETE if errored else 0


def _acceptance_table(results: dict[str, Any]) -> Table:
    thresholds = results["thresholds"]
    title = f"{results['model']}, thresholds {thresholds['prompt']} (query) and {thresholds['window']} (windows)"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("measured", "rate [95 % interval] (count)", "goal"):
        table.add_column(column)
    for part in results["summary"].values():
        table.add_row(part["question"], part["text"], part["goal"])
    return table
