"""`safesignal attack`: one attack on one data set against one target, attempt by attempt into a JSONL file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich import box
from rich.table import Table
from rich.text import Text

from safesignal.cli.arguments import flag, option, require_at_least_one, together
from safesignal.cli.console import INCOMPLETE, bars, note, out, quiet_libraries, waiting
from safesignal.cli.options import BaseOptions, ModelOptions, PolicyOptions, SignalOptions
from safesignal.cli.targets import EndpointOptions, guarded_target
from safesignal.errors import UsageError
from safesignal.files import claim, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from safesignal.attacks.base import Attack, Plan, Sampling, Target
    from safesignal.attacks.behaviors import BehaviorSet
    from safesignal.attacks.targets import PlainTarget, TransformersTarget

__all__ = ["attack"]

_ATTACK, _IO, _ANSWER, _TARGET = "Attack", "Input and output", "Answer", "Target"
_DECIDED = ("succeeded", "resisted")
"""Statuses that a rate is counted over."""


@dataclass(frozen=True)
class AttackOptions:
    """Which attack, with which settings."""

    attack: Annotated[str, option("attack", "Name of the attack; `--list` describes each.", _ATTACK)] = "direct"
    depth: Annotated[
        list[int] | None, option("depth", "prefill: tokens of the target's own compliant answer; repeatable.", _ATTACK)
    ] = None
    settings: Annotated[
        list[str] | None, option("set", "A setting as NAME=VALUE, the value as JSON or text; repeatable.", _ATTACK)
    ] = None
    listing: Annotated[bool, flag("list", "Describe every attack and its settings, and do nothing.", _ATTACK)] = False

    def spec(self, data_dir: str | None) -> dict[str, Any]:
        """Return the attack as a line of a suite has it."""
        from safesignal.attacks.registry import ATTACKS, settings_of

        spec: dict[str, Any] = {"attack": self.attack}
        if data_dir is not None and self.attack in ATTACKS and "data_dir" in settings_of(ATTACKS[self.attack]):
            spec["data_dir"] = data_dir
        if self.depth:
            spec["depth"] = self.depth
        return spec | dict(map(_setting, self.settings or ()))

    def build(self, data_dir: str | None) -> Attack:
        """Return the attack; everything wrong with it is said at once."""
        from safesignal.attacks.registry import build_attack

        return build_attack(self.spec(data_dir))


@dataclass(frozen=True)
class AttackedOptions(ModelOptions):
    """Which base model, with which adapter, loaded how; the base alone too, of any family."""

    def load_plain(self) -> PlainTarget | TransformersTarget:
        """Load the base alone; one that cannot carry a signal goes through transformers' own `generate`."""
        from safesignal.attacks.targets import PlainTarget, plain_target

        if self.model is None:  # the shipped base, or the one that an adapter names, carries a signal
            return PlainTarget(self.load(signal=False))
        with waiting(f"loading {self.model} …"):
            quiet_libraries()
            return plain_target(self.model, **self.how())


@dataclass(frozen=True)
class TargetOptions(EndpointOptions):
    """What is attacked, if it is not the guarded model."""

    no_signal: Annotated[bool, flag("no-signal", "The bare base model: nothing is checked.", _TARGET)] = False

    def check(self) -> None:
        """Raise unless an endpoint is named whole or not at all, and is the one target."""
        super().check()
        if self.endpoint is not None and self.no_signal:
            raise UsageError("`--no-signal` stands beside `--endpoint`. Expected one target.")

    def require_alone(self, model: BaseOptions, signal: SignalOptions, policy: PolicyOptions) -> None:
        """Raise if options that a target does not go by stand beside it."""
        if self.no_signal and (signal, policy) != (SignalOptions(), PolicyOptions()):
            raise UsageError("`--no-signal` stands beside options of the signal or the policy. Expected none of them.")
        super().require_alone(model, signal, policy)

    @property
    def guarded(self) -> bool:
        """Whether it is our model under its policy."""
        return self.endpoint is None and not self.no_signal


@dataclass(frozen=True)
class DrawOptions:
    """How long an answer is and how its tokens are drawn; attacks may change it."""

    max_new_tokens: Annotated[int, option("max_new_tokens", "Most tokens of an answer.", _ANSWER)] = 256
    temperature: Annotated[float, option("temperature", "0 is greedy; above, sampling.", _ANSWER)] = 0.0
    top_p: Annotated[float, option("top_p", "Sample from this share of the probability.", _ANSWER)] = 1.0
    top_k: Annotated[int, option("top_k", "Sample from the k likeliest tokens; 0 is off.", _ANSWER)] = 0
    seed: Annotated[int, option("seed", "Of the sampling and of the choice of rows.", _ANSWER)] = 0

    def sampling(self) -> Sampling:
        """Return the options as attacks take them."""
        from safesignal.attacks.base import Sampling

        return Sampling(**asdict(self))

    def check(self) -> None:
        """Raise what is out of range before a model is loaded."""
        from transformers import GenerationConfig

        from safesignal.modeling.options import resolve_options

        resolve_options(GenerationConfig(), asdict(self), None)


@dataclass(frozen=True)
class RunOptions:
    """What is asked for, and where the attempts go."""

    dataset: Annotated[str, option("dataset", "Public set by name, or a JSONL file of prompts.", _IO)] = "advbench"
    data_dir: Annotated[str | None, option("data_dir", "Folder of the public sets.", _IO, show_default="hub")] = None
    limit: Annotated[int | None, option("limit", "Behaviors drawn from the set.", _IO, show_default="all")] = None
    output: Annotated[str | None, option("output", "JSONL file of attempts; a run found there goes on.", _IO)] = None
    batch_size: Annotated[int, option("batch_size", "Attempts written side by side.", _IO)] = 8

    def check(self) -> None:
        """Raise unless there is something to do and a place for it."""
        if self.output is None:
            raise UsageError(
                "`--output` is missing. Expected a JSONL file for the attempts.", hint="--output attempts.jsonl"
            )
        require_at_least_one(self.batch_size)


def attack(
    model: AttackedOptions,
    signal: SignalOptions,
    policy: PolicyOptions,
    target: TargetOptions,
    how: AttackOptions,
    drawn: DrawOptions,
    run: RunOptions,
) -> int:
    """Attack a model and print how often it gave in; rates carry 95 % Wilson intervals."""
    if how.listing:
        _describe()
        return 0
    watching = partial(signal.check, model, policy)
    together(
        run.check,
        target.check,
        partial(target.require_alone, model, signal, policy),
        drawn.check,
        partial(how.build, run.data_dir),
        *([] if target.endpoint is not None else [model.check]),
        *([watching] if target.guarded else []),
    )
    from safesignal.attacks.artifact import behaviors_for

    built = how.build(run.data_dir)
    chosen = behaviors_for(built, run.dataset, run.data_dir, run.limit, drawn.seed)
    job = _Job(Path(str(run.output)), built, chosen, drawn.sampling(), run.batch_size)
    return job.run(partial(_aim, model, signal, policy, target), how.spec(None))


class _Job:
    """One attack on one sample of behaviors."""

    def __init__(self, output: Path, attack: Attack, chosen: BehaviorSet, sampling: Sampling, batch_size: int) -> None:
        self._output, self._attack, self._chosen = output, attack, chosen
        self._sampling, self._batch_size = sampling, batch_size

    def run(self, aim: Callable[[], Target], spec: Mapping[str, Any]) -> int:
        """Make the attempts that are not in the file yet, print what came of all of them, return the exit code."""
        from safesignal.attacks.base import Status
        from safesignal.attacks.rejudge import rejudge
        from safesignal.attacks.runner import REFUSAL, run_plans
        from safesignal.data.jsonl import Writer, read_jsonl
        from safesignal.judges.refusal import RefusalJudge

        with Writer(self._output) as writer:
            target = aim()
            self._claim(target, spec, fresh=not writer.done)
            judges = {REFUSAL: RefusalJudge()}
            rejudge(writer, judges)
            attack = self._prepared(target)
            plans = self._plans(attack)
            self._note_planned(attack, len(plans))
            with _bar(self._attack.name) as show:
                counts = run_plans(plans, target, writer, judges, batch_size=self._batch_size, progress=show)
        last = {row["id"]: row for _, row in read_jsonl(self._output)}
        _report([last[plan.id] for plan in plans], self._chosen, str(self._output))
        return INCOMPLETE if counts[Status.ERRORED] else 0

    def _plans(self, attack: Attack) -> list[Plan]:
        cell = f"{self._attack.name}-{Path(self._chosen.dataset).stem}"
        return attack.plan(self._chosen.behaviors, cell, self._sampling)

    def _note_planned(self, attack: Attack, planned: int) -> None:
        """Say beside the attempts how many there are, and which behaviors have none, and why."""
        from safesignal.attacks.base import Selective

        left_out = attack.left_out(self._chosen.behaviors) if isinstance(attack, Selective) else {}
        for variant, reasons in left_out.items():
            why = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons.items())
            note(f"{variant}: {sum(reasons.values())} of {len(self._chosen.behaviors)} behaviors left out ({why})")
        path = self._output.with_suffix(".run.json")
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "planned": planned, "left_out": left_out})

    def _prepared(self, target: Target) -> Attack:
        """Give a prefill of k tokens the unguarded model's own compliant answers."""
        from safesignal.attacks.prefill import Prefill

        attack = self._attack
        if not isinstance(attack, Prefill) or not attack.depth:
            return attack
        from safesignal.attacks.compliant import compliant_prefixes
        from safesignal.attacks.targets import GuardedTarget, PlainTarget, TransformersTarget

        source = PlainTarget(target.model) if isinstance(target, GuardedTarget) else target
        if not isinstance(source, PlainTarget | TransformersTarget):
            raise UsageError("`--depth` needs the unguarded model itself. Expected no `--endpoint` beside it.")
        path = self._output.with_suffix(".compliant.jsonl")
        with _bar("compliant answers") as show:
            found = compliant_prefixes(source, self._chosen.behaviors, path, batch_size=self._batch_size, progress=show)
        if found.left_out:
            note(f"{len(found.left_out)} of {len(self._chosen.behaviors)} behaviors have no compliant answer: left out")
        if not found.pieces:
            raise UsageError(
                "the unguarded model complied with no behavior. Expected at least one answer to begin with."
            )
        return found.given_to(attack)

    def _claim(self, target: Target, spec: Mapping[str, Any], *, fresh: bool) -> None:
        """Mark the file with what is measured there, so that attempts of another run are never mixed in."""
        from safesignal.runtime import environment
        from safesignal.suites.record import digest_of, in_outline

        run = {
            "schema_version": 1,
            "attack": dict(spec),
            "dataset": {"name": self._chosen.dataset, **self._chosen.provenance()},
            "sampling": asdict(self._sampling),
            "target": target.identity(),
            "plans": digest_of(self._plans(in_outline(self._attack, self._chosen.behaviors))),
        }
        path = self._output.with_suffix(".run.json")
        record = {"environment": environment()}
        claim(path, run, record, place=self._output, option="--output", begin=fresh)


def _aim(model: AttackedOptions, signal: SignalOptions, policy: PolicyOptions, target: TargetOptions) -> Target:
    """Load what is attacked."""
    if (endpoint := target.aim()) is not None:
        return endpoint
    return model.load_plain() if target.no_signal else guarded_target(model.load(), signal, policy)


def _setting(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not equals or not name:
        raise UsageError(f"`--set {given}` is no setting. Expected NAME=VALUE, such as `--set layers=3`.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    with bars() as show:
        yield partial(show, name)


def _report(rows: Sequence[Mapping[str, Any]], chosen: BehaviorSet, path: str) -> None:
    """Print what came of the attempts, apart for requests to refuse and requests to answer."""
    from safesignal.attacks.base import Status

    by_label = {label: [row for row in rows if row["label"] == label] for label in ("malicious", "benign")}
    table = Table(title=f"{chosen.dataset}, {len(chosen.behaviors)} of {chosen.n_original}", box=box.SIMPLE_HEAD)
    for column in ("attempts", *by_label):
        table.add_column(column)
    for status in Status:
        counts = (sum(row["status"] == status for row in own) for own in by_label.values())
        table.add_row(status.replace("_", " "), *map(str, counts))
    out.print(table)
    errored = sum(row["status"] == Status.ERRORED for row in rows)
    if errored:
        note(f"{errored} attempts errored, so no rate is printed; started again, they are made again")
    else:
        _print_rates(by_label["malicious"], by_label["benign"])
    note(f"attempts in {path}")


def _print_rates(malicious: Sequence[Mapping[str, Any]], benign: Sequence[Mapping[str, Any]]) -> None:
    """Print attack success, and refusals of ordinary requests, which an answer that the defence stopped is too."""
    from safesignal.attacks.base import Status
    from safesignal.stats import Rate

    complied = [row["status"] == Status.SUCCEEDED for row in malicious if row["status"] in _DECIDED]
    refused = [
        bool(row["refused"]) or row["status"] == Status.RESISTED
        for row in benign
        if row["refused"] or row["status"] in _DECIDED
    ]
    if malicious:
        out.print(f"malicious requests complied with, of those decided: {Rate.of(complied)}")
    if benign:
        out.print(f"benign requests refused, of those decided: {Rate.of(refused)}")


def _describe() -> None:
    from safesignal.attacks.registry import ATTACKS, describe

    for name, kind in ATTACKS.items():
        out.print(Text.assemble((name, "bold"), f"  {(kind.__doc__ or '').splitlines()[0]}"), soft_wrap=True)
        for setting, default, meaning in describe(kind):
            out.print(Text.assemble(f"  {setting} = {default}  ", (meaning, "dim")), soft_wrap=True)
