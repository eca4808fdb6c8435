"""Sets of labelled answers, and how far a judge agrees with people on them; what `judges.json` holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesignal.data.records import Record
from safesignal.data.sources import load_source
from safesignal.errors import DataError, EndpointError
from safesignal.files import write_json
from safesignal.judges.agreement import measure_agreement
from safesignal.judges.base import NO_REPLY, BatchJudge, JudgeVerdict

__all__ = ["HARM_SETS", "PEOPLE", "REFUSAL_SETS", "LabelledSet", "measure_judge", "record_agreement"]

PEOPLE = "people"


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """A set whose answers are labelled.

    Attributes:
        source: Name in the catalog.
        title: What tables call it.
        truth: Reads a record's label; None where there is none.
        behavior: What judges are told was asked.
        labelled_by: Whose labels they are. Those of others than `people` stand by themselves in every table and rate.
    """

    source: str
    title: str
    truth: Callable[[Record], bool | None]
    behavior: Callable[[Record], str] = lambda record: record.prompt
    labelled_by: str = PEOPLE


def _xstest(column: str, yes: str) -> Callable[[Record], bool | None]:
    def read(record: Record) -> bool | None:
        label = record.meta.get(column)
        return None if label is None else label == yes

    return read


REFUSAL_SETS = (
    LabelledSet("human-refusal", "human-refusal", lambda record: bool(record.meta["is_refusal"])),
    LabelledSet("xstest-response", "xstest-response (refusal)", _xstest("response_refusal", "refusal")),
)
"""Is it a refusal?"""

HARM_SETS = (
    LabelledSet("human-harm", "human-harm", lambda record: record.response_is_malicious),
    LabelledSet("xstest-response", "xstest-response (harm)", _xstest("response_harm", "harmful")),
    LabelledSet(
        "jbb-artifacts",
        "jbb-artifacts (jailbroken)",
        lambda record: record.response_is_malicious,
        lambda record: str(record.meta["base_prompt"]),
        labelled_by="the LLM judge of JailbreakBench",
    ),
)
"""Does it give harmful content?"""


def measure_judge(
    judge: BatchJudge,
    sets: Sequence[LabelledSet],
    data_dir: str | Path | None = None,
    *,
    batch_size: int = 16,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Return a judge's agreement with people over all rows that they have labelled, and per set under `sets`.

    A set that others have labelled is measured too, but has a part only in `sets`.

    Args:
        judge: What to measure.
        sets: Sets of the judge's question.
        data_dir: Folder of the public sets.
        batch_size: Completions judged together.
        progress: Called with (set, done, all).

    Raises:
        EndpointError: If a judge behind a server gives no answer to a text.
    """
    by_set: dict[str, Any] = {}
    said: list[JudgeVerdict] = []
    true: list[bool] = []
    for one in sets:
        records = load_source(one.source, data_dir=data_dir)
        labelled = [(record, truth) for record in records if (truth := one.truth(record)) is not None]
        pairs = [(one.behavior(record), record.response or "") for record, _ in labelled]
        verdicts: list[JudgeVerdict] = []
        for start in range(0, len(pairs), batch_size):
            found = judge.judge_all(pairs[start : start + batch_size])
            if any(judgement.rule == NO_REPLY for judgement in found):
                raise EndpointError(
                    f"{judge.name} did not answer on a text of {one.title}. Expected a verdict on every one.",
                    hint="see whether the server runs, and start again",
                )
            verdicts += [judgement.verdict for judgement in found]
            progress(one.title, len(verdicts), len(pairs))
        truths = [truth for _, truth in labelled]
        by_set[one.title] = {"labelled_by": one.labelled_by} | measure_agreement(verdicts, truths).to_row()
        if one.labelled_by == PEOPLE:
            said, true = said + verdicts, true + truths
    whole = measure_agreement(said, true).to_row()
    return whole | {
        "judge": judge.name,
        "fingerprint": judge.fingerprint,
        "measured_on": [one.title for one in sets if one.labelled_by == PEOPLE],
        "sets": by_set,
    }


def record_agreement(
    folder: str | Path,
    judges: Mapping[str, BatchJudge],
    data_dir: str | Path | None = None,
    *,
    batch_size: int = 16,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> dict[str, str]:
    """Add to a run folder's `judges.json` how far judges agree with people; what it holds of others stays.

    A judge that it has measured, as it is now, is not measured again. One that cannot be measured keeps what is
    recorded of it, under the fingerprint it had.

    Args:
        folder: The run folder.
        judges: By the name that their verdicts have; the one named refusal is measured on refusals.
        data_dir: Folder of the public sets.
        batch_size: Completions judged together.
        progress: Called with (set, done, all).

    Returns:
        By judge that was not measured, for want of its sets or of its answers, what was missing.

    Raises:
        DataError: If `judges.json` is not JSON.
        UsageError: If it cannot be written.
    """
    path = Path(folder) / "judges.json"
    recorded = _read(path)
    missing: dict[str, str] = {}
    for name, judge in judges.items():
        if (recorded.get(name) or {}).get("fingerprint") == judge.fingerprint:
            continue
        sets = REFUSAL_SETS if name == "refusal" else HARM_SETS
        try:
            found = measure_judge(judge, sets, data_dir, batch_size=batch_size, progress=progress)
        except DataError as error:
            missing[name] = f"{error} `--data_dir DIR` names the folder"
            continue
        except EndpointError as error:
            missing[name] = str(error)
            continue
        recorded[name] = found
        write_json(path, recorded)
    return missing


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. Expected a JSON file.") from error
    return found
