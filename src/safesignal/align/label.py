"""Labels of raw text for the pretraining stage, from a guard or a file, appended as they come.

A guard judges answers, so a piece is put to it as the answer to a neutral request. What it does not say in its own form
is no verdict: such pieces go to a file of their own and are never trained on as benign ones. A piece that got no reply
at all is in neither file, and is asked again the next time.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.data.raw import Piece
from safesignal.errors import DataError, UsageError
from safesignal.files import digests
from safesignal.judges.base import NO_REPLY, BatchJudge, Judgement, JudgeVerdict

__all__ = ["REQUEST", "FileLabels", "GuardLabels", "Labeller", "OwnLabels", "label_pieces", "unlabelled_path"]

REQUEST = "Write a passage of text."
"""What a piece is put to a guard as the answer to."""

_VERDICTS: dict[str, JudgeVerdict] = {"malicious": "yes", "benign": "no"}
_LABELS = {verdict: label for label, verdict in _VERDICTS.items()}


class Labeller(Protocol):
    """Where labels come from."""

    @property
    def name(self) -> str:
        """What rows call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """What decides its labels; rows of another one are not gone on from."""
        ...

    def __call__(self, pieces: Sequence[Piece]) -> list[Judgement]:
        """Say of each piece whether it is malicious: yes, no, or unknown."""
        ...


@dataclass(frozen=True)
class GuardLabels:
    """A guard model or an endpoint."""

    judge: BatchJudge

    @property
    def name(self) -> str:
        """The judge's name."""
        return self.judge.name

    @property
    def fingerprint(self) -> str:
        """The judge's fingerprint."""
        return self.judge.fingerprint

    def __call__(self, pieces: Sequence[Piece]) -> list[Judgement]:
        """Ask the judge."""
        return self.judge.judge_all([(REQUEST, piece.text) for piece in pieces])


class FileLabels:
    """Labels that somebody else made: JSONL rows with `id` of the piece and `label`, benign or malicious.

    Raises:
        DataError: If a row has neither label.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = f"file:{Path(path).name}"
        self._said: dict[str, JudgeVerdict] = {}
        for line, row in read_jsonl(path):
            if row.get("label") not in _VERDICTS:
                raise DataError(f"{path}, line {line}: `label` is {row.get('label')!r}. Expected benign or malicious.")
            self._said[str(row.get("id"))] = _VERDICTS[row["label"]]
        (self.fingerprint,) = digests([path]).values()

    def __call__(self, pieces: Sequence[Piece]) -> list[Judgement]:
        """Look the pieces up; one that the file does not name is unknown."""
        return [Judgement(self._said.get(piece.id, "unknown"), "file") for piece in pieces]


@dataclass(frozen=True)
class OwnLabels:
    """The labels that rows bring themselves; a refusal is benign, anything but the three is unknown.

    Attributes:
        field: Where rows have it, for the record.
    """

    field: str
    fingerprint: str = ""

    @property
    def name(self) -> str:
        """The field's name."""
        return f"field:{self.field}"

    def __call__(self, pieces: Sequence[Piece]) -> list[Judgement]:
        """Read the pieces' labels."""
        known: dict[str, JudgeVerdict] = {**_VERDICTS, "refusal": "no"}
        return [Judgement(known.get(piece.label, "unknown"), "field") for piece in pieces]


def unlabelled_path(output: str | Path) -> Path:
    """Return the file beside `output` that pieces without a verdict go to."""
    path = Path(output)
    return path.with_name(f"{path.stem}.unlabelled{path.suffix}")


def label_pieces(
    pieces: Iterator[Piece],
    labeller: Labeller,
    output: str | Path,
    *,
    licence: str = "unstated",
    batch_size: int = 16,
    progress: Callable[[Mapping[str, int]], None] = lambda _: None,
) -> Counter[str]:
    """Label every piece that neither file holds yet.

    Rows are what `safesignal align --recipe pretrain --data` reads: `prompt` is the piece, `prompt_label` its label. An
    answer keeps its rollout job and its prompt: calibration answers stay untrained on, validation ones stay apart.

    Args:
        pieces: What to label, as a stream.
        labeller: Where labels come from.
        output: JSONL file, appended to.
        licence: Licence of the text, for the rows.
        batch_size: Pieces put to the labeller at once.
        progress: Called after each batch with the counts so far.

    Returns:
        How many pieces got each label now, `unknown` and `no-reply` among them, and how many were `done` before.

    Raises:
        UsageError: If a file holds labels of another labeller, or cannot be written.
    """
    counts: Counter[str] = Counter()
    with Writer(output) as writer, Writer(unlabelled_path(output)) as apart:
        for own in (writer, apart):
            _refuse_others(own.path, labeller)

        def is_left(piece: Piece) -> bool:
            left = piece.id not in writer.done and piece.id not in apart.done
            if not left:
                counts["done"] += 1
            return left

        stream = filter(is_left, pieces)
        while batch := list(itertools.islice(stream, batch_size)):
            for piece, said in zip(batch, labeller(batch), strict=True):
                label = _LABELS.get(said.verdict)
                counts[label or (NO_REPLY if said.rule == NO_REPLY else "unknown")] += 1
                if label is None and said.rule == NO_REPLY:
                    continue
                row = {"id": piece.id, "prompt": piece.text, "prompt_label": label, "source": piece.id.split("/")[0]}
                row |= {"licence": licence, "guard": labeller.name, "fingerprint": labeller.fingerprint}
                (writer if label else apart).write(row | {"rule": said.rule} | dict(piece.kept))
            progress(counts)
    return counts


def _refuse_others(path: Path, labeller: Labeller) -> None:
    own = (labeller.name, labeller.fingerprint)
    if any((row.get("guard"), row.get("fingerprint")) != own for _, row in read_jsonl(path)):
        raise UsageError(
            f"`{path}` holds labels of another guard than `{labeller.name}` as it is now. Expected its own, to go on.",
            hint="choose another `--output`",
        )
