"""`safesignal judge`: judge a finished run or a file, measure a judge against people, train the embedded one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich import box
from rich.table import Table

from safesignal.cli.arguments import flag, option, require_at_least_one
from safesignal.cli.console import INCOMPLETE, bars, note, out, waiting
from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.data.mixture import SHIPPABLE
from safesignal.data.records import read_records
from safesignal.data.sources import SOURCES, load_training
from safesignal.errors import DataError, UsageError
from safesignal.files import write_json
from safesignal.judges.base import NO_REPLY, REJECTED, text_hash, verdict_row
from safesignal.judges.shown import NOTHING_SHOWN, text_for

if TYPE_CHECKING:
    from safesignal.judges.base import BatchJudge
    from safesignal.judges.embedded import TrainingRow

__all__ = ["judge"]

_WHAT, _JUDGE, _IO = "What to do", "Judge", "Input and output"


@dataclass(frozen=True)
class JudgeOptions:
    """Which judge."""

    judge: Annotated[
        str,
        option("judge", "refusal, noncompliance, harm (embedded), endpoint, or a guard's hub id or folder.", _JUDGE),
    ] = "refusal"
    family: Annotated[
        str, option("family", "Format of the guard, where its name does not tell.", _JUDGE, show_default="by name")
    ] = ""
    reader: Annotated[str, option("reader", "Chat model that `noncompliance` reads answers with.", _JUDGE)] = "smollm2"
    endpoint: Annotated[str | None, option("endpoint", "Its address up to /v1, for `--judge endpoint`.", _JUDGE)] = None
    endpoint_model: Annotated[str | None, option("endpoint_model", "Model name at the endpoint.", _JUDGE)] = None
    rubric: Annotated[str, option("rubric", "strongreject or yes_no.", _JUDGE)] = "strongreject"
    api_key_env: Annotated[str, option("api_key_env", "Environment variable that holds its key.", _JUDGE)] = ""
    batch_size: Annotated[int, option("batch_size", "Completions judged side by side.", _JUDGE)] = 16

    def check(self) -> None:
        """Raise what can be known before anything is loaded."""
        require_at_least_one(self.batch_size)
        if self.rubric not in ("strongreject", "yes_no"):
            raise UsageError(f"rubric is `{self.rubric}`. Expected strongreject or yes_no.")
        if self.judge == "endpoint" and not (self.endpoint and self.endpoint_model):
            raise UsageError(
                "`--judge endpoint` stands without an address or a model. Expected both.",
                hint="`--endpoint http://127.0.0.1:8000/v1 --endpoint_model NAME`",
            )

    @property
    def refusal(self) -> bool:
        """Whether the judge's question is "is it a refusal?" rather than "is it harmful?"."""
        return self.judge in ("refusal", "noncompliance")

    def load(self) -> BatchJudge:
        """Load the judge."""
        if self.judge == "refusal":
            from safesignal.judges.refusal import RefusalJudge

            return RefusalJudge()
        if self.judge == "noncompliance":
            from safesignal.judges.relevance import NoncomplianceJudge

            with waiting(f"loading {self.reader} …"):
                return NoncomplianceJudge.load(self.reader, batch_size=self.batch_size)
        if self.judge == "harm":
            from safesignal.judges.embedded import EmbeddedJudge

            return EmbeddedJudge.load()
        if self.judge == "endpoint":
            from safesignal.judges.endpoint import EndpointJudge
            from safesignal.openai_client import ChatClient

            rubric: Any = self.rubric
            return EndpointJudge(ChatClient(self.endpoint or "", self.endpoint_model or "", self.api_key_env), rubric)
        from safesignal.judges.guards import GuardJudge, format_for

        format_for(self.family or self.judge)
        with waiting(f"loading {self.judge} …"):
            return GuardJudge.load(self.judge, family=self.family, batch_size=self.batch_size)


def judge(
    which: JudgeOptions,
    run: Annotated[str | None, option("run", "Run folder: judge its attempts into judgements.jsonl.", _WHAT)] = None,
    input: Annotated[str | None, option("input", "JSONL rows with prompt and response to judge.", _WHAT)] = None,
    validate: Annotated[bool, flag("validate", "Measure the judge against people's labels.", _WHAT)] = False,
    train: Annotated[bool, flag("train", "Train the embedded harm judge into the cache.", _WHAT)] = False,
    output: Annotated[str | None, option("output", "File of the results.", _IO)] = None,
    data_dir: Annotated[str | None, option("data_dir", "Folder of the public sets.", _IO, show_default="hub")] = None,
    allow_errors: Annotated[
        bool, flag("allow_errors", "With `--run`: name rates although attempts errored, as `evaluate` does.", _IO)
    ] = False,
) -> int:
    """Judge completions, or measure a judge against people; rates carry 95 % Wilson intervals."""
    which.check()
    if sum((run is not None, input is not None, validate, train)) != 1:
        raise UsageError(
            "expected one of `--run`, `--input`, `--validate` and `--train`.",
            hint="`safesignal judge --validate --judge refusal --data_dir DIR`",
        )
    if output is not None and (run is not None or train):
        raise UsageError(
            f"`--output` stands beside `--{'train' if train else 'run'}`. Expected it with `--input` or `--validate`: "
            "verdicts on a run go into its folder, a trained judge into the cache."
        )
    if (input is not None) and output is None:
        raise UsageError("`--input` stands without `--output`. Expected both.", hint="`--output judged.jsonl`")
    if run is not None and which.judge == "noncompliance":
        raise UsageError(
            "`--judge noncompliance` stands beside `--run`. Expected `--input` or `--validate`: off the subject is no "
            "refusal in a run's rates.",
        )
    if train:
        _train(data_dir)
    elif validate:
        _validate(which, data_dir, output)
    elif run is not None:
        return _judge_run(which, Path(run), data_dir, allow_errors=allow_errors)
    else:
        return _judge_file(which, str(input), str(output))
    return 0


def _validate(which: JudgeOptions, data_dir: str | None, output: str | None) -> None:
    """Measure on every labelled set of the judge's question."""
    from safesignal.evals.labels import HARM_SETS, PEOPLE, REFUSAL_SETS, measure_judge
    from safesignal.stats import Rate

    loaded = which.load()
    with bars() as show:
        sets = REFUSAL_SETS if which.refusal else HARM_SETS
        found = measure_judge(loaded, sets, data_dir, batch_size=which.batch_size, progress=show)
    table = Table(title=f"{loaded.name} against labelled answers", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("set", "labels of", "agreement", "sensitivity", "specificity", "unknown"):
        table.add_column(column)
    for title, row in {**found["sets"], "all": {"labelled_by": PEOPLE, **found}}.items():
        rates = [Rate(row[name]["successes"], row[name]["n"]) for name in ("agreement", "sensitivity", "specificity")]
        table.add_row(title, row["labelled_by"], *map(str, rates), str(row["unknown"]))
    out.print(table)
    if output is not None:
        write_json(output, found, hint="choose another `--output`")


def _train(data_dir: str | None) -> None:
    """Train on the rows that no licence of the signal's recipes admits, checked by prompt."""
    from safesignal.judges.embedded import TrainingRow, default_folder, disjoint, train_embedded

    rows: list[TrainingRow] = []
    taken: list[str] = []
    for source in SOURCES.values():
        if source.role != "train" or source.local_file is None or source.name == "jailbreak-templates":
            continue
        for record in load_training(source.name, data_dir=data_dir):
            # What may train the signal never trains its judge.
            if record.licence in SHIPPABLE:
                taken.append(record.prompt)
            elif record.response and record.response_is_malicious is not None:
                rows.append(TrainingRow(record.prompt, record.response, record.response_is_malicious, record.source))
    kept = disjoint(rows, taken)
    note(f"{len(kept)} rows; {len(rows) - len(kept)} dropped, because the signal may be trained on their prompts")
    with waiting("training …"):
        trained = train_embedded(kept)
    trained.save(default_folder())
    held = trained.record["held_out"]
    note(f"held out: sensitivity {held['sensitivity']['value']:.3f}, specificity {held['specificity']['value']:.3f}")
    note(f"threshold {trained.threshold:.2f}; saved in {default_folder()}")


def _judge_run(which: JudgeOptions, folder: Path, data_dir: str | None, *, allow_errors: bool) -> int:
    """Judge the last row of every attempt that ran, but for texts that this very judge has judged already.

    How far the judge agrees with people is measured where the labelled sets are at hand. The results of an evaluation
    are made anew, so that reports show the verdicts. Returns the exit code.
    """
    attempts = {str(row["id"]): row for _, row in read_jsonl(folder / "attempts.jsonl")}
    ran = [row for row in attempts.values() if row.get("status") != "errored"]
    for row in ran:
        if not isinstance(row.get("text"), str) or not isinstance(row.get("behavior"), str):
            raise DataError(f"attempt {row['id']!r} has no `text` or `behavior`. Expected both as text.")
    loaded = which.load()
    texts = [text_for(loaded.name, row) for row in ran]
    ran = [{**row, "text": text or "", "nothing_shown": text is None} for row, text in zip(ran, texts, strict=True)]
    with Writer(folder / "judgements.jsonl") as writer:
        known = {row["id"]: _basis(row) for _, row in read_jsonl(writer.path)}
        names = [_name(loaded, row) for row in ran]
        left = [(row, name) for row, name in zip(ran, names, strict=True) if known.get(name["id"]) != _basis(name)]
        _note_done(len(ran) - len(left), len(ran), writer.path)
        for row, name in left:
            if row["nothing_shown"]:
                writer.write({**name, **verdict_row(loaded, NOTHING_SHOWN)})
        left = [(row, name) for row, name in left if not row["nothing_shown"]]
        pairs = [(row["behavior"], row["text"]) for row, _ in left]
        silent = _judged(loaded, pairs, folder.name, which.batch_size, writer, [name for _, name in left])
    _measure(loaded, folder, data_dir, which.batch_size)
    if (folder / "results.json").exists():
        from safesignal.evals.results import summarise_run

        summarise_run(folder, allow_errors=allow_errors)
    return silent


def _measure(judge: BatchJudge, folder: Path, data_dir: str | None, batch_size: int) -> None:
    """Record the judge's agreement with people in the run folder, or say that it was not measured."""
    from safesignal.evals.labels import record_agreement

    with bars() as show:
        missing = record_agreement(folder, {judge.name: judge}, data_dir, batch_size=batch_size, progress=show)
    for name, why in missing.items():
        note(f"how far {name} agrees with people was not measured: {why}")


def _name(judge: BatchJudge, attempt: Mapping[str, Any]) -> dict[str, str]:
    """Return what a verdict is known by: the judge as it is now, and the text it has read."""
    return {
        "id": f"{judge.name}/{attempt['id']}",
        "attempt": str(attempt["id"]),
        "judge": judge.name,
        "fingerprint": judge.fingerprint,
        "text_sha256": text_hash(attempt["behavior"], attempt["text"]),
    }


def _basis(verdict: Mapping[str, Any]) -> tuple[Any, Any]:
    return verdict.get("fingerprint"), verdict.get("text_sha256")


def _judge_file(which: JudgeOptions, source: str, target: str) -> int:
    """Judge rows with a response; each comes out with `judge`, `text_sha256`, `verdict`, `rule` and `fingerprint`.

    Returns the exit code.
    """
    records = read_records(source, require=("response",))
    hashes = {record.id: text_hash(record.prompt, record.response or "") for record in records}
    loaded = which.load()
    with Writer(target) as writer:
        _refuse_others(loaded, writer.path, hashes)
        left = [record for record in records if record.id not in writer.done]
        _note_done(len(records) - len(left), len(records), writer.path)
        pairs = [(record.prompt, record.response or "") for record in left]
        rows = [record.to_row() | {"judge": loaded.name, "text_sha256": hashes[record.id]} for record in left]
        return _judged(loaded, pairs, source, which.batch_size, writer, rows)


def _refuse_others(judge: BatchJudge, path: Path, hashes: Mapping[str, str]) -> None:
    """Raise if a file holds verdicts of another judge, of this one as it was, or on other texts of the same ids."""
    rows = [row for _, row in read_jsonl(path)]
    changed = [row["id"] for row in rows if row.get("text_sha256") != hashes.get(row["id"], row.get("text_sha256"))]
    if changed:
        raise UsageError(
            f"`{path}` holds a verdict on another text of row {changed[0]!r} (of {len(changed)} rows). Expected the "
            "texts of `--input`, to go on.",
            hint="choose another `--output`",
        )
    own = (judge.name, judge.fingerprint)
    if any((row.get("judge"), row.get("fingerprint")) != own for row in rows):
        raise UsageError(
            f"`{path}` holds verdicts of another judge than `{judge.name}` as it is now. Expected its own, to go on.",
            hint="choose another `--output`",
        )


def _judged(
    loaded: BatchJudge,
    pairs: Sequence[tuple[str, str]],
    title: str,
    batch_size: int,
    writer: Writer,
    rows: Sequence[Mapping[str, Any]],
) -> int:
    """Write each row with its verdict, batch by batch; one that a server did not answer is not, and asked for again.

    Returns the exit code.
    """
    silent = rejected = 0
    with bars() as show:
        for start in range(0, len(pairs), batch_size):
            judged = loaded.judge_all(pairs[start : start + batch_size])
            for row, said in zip(rows[start : start + batch_size], judged, strict=True):
                if said.rule == NO_REPLY:
                    silent += 1
                else:
                    rejected += said.rule == REJECTED
                    writer.write({**row, **verdict_row(loaded, said)})
            show(title, min(start + batch_size, len(pairs)), len(pairs))
    if rejected:
        note(
            f"{rejected} of {len(pairs)} texts were turned down by the judge's server, as too long or filtered: unknown"
        )
    if silent:
        note(f"{silent} of {len(pairs)} texts got no reply and no verdict; started again, they are asked about again")
    return INCOMPLETE if silent else 0


def _note_done(done: int, total: int, path: Path) -> None:
    if done:
        note(f"{done} of {total} rows are in {path} already; going on with the rest")
