"""`safesignal label`: raw text in pieces, each labelled benign or malicious by a guard, for the pretraining stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from safesignal.cli.arguments import option, require_at_least_one, require_one_of, together
from safesignal.cli.console import note, progress, quiet_libraries, waiting
from safesignal.data.mixture import LICENCES
from safesignal.errors import UsageError
from safesignal.judges.base import NO_REPLY

if TYPE_CHECKING:
    from safesignal.align.label import Labeller
    from safesignal.data.raw import Document

__all__ = ["label"]

_TEXT, _GUARD, _IO = "Text", "Labels", "Input and output"


@dataclass(frozen=True)
class TextOptions:
    """Which text, cut how."""

    input: Annotated[str | None, option("input", "Text file, or JSONL with a text field.", _TEXT)] = None
    hub: Annotated[str | None, option("hub", "Hub set instead, streamed (wikimedia/wikipedia).", _TEXT)] = None
    hub_config: Annotated[str | None, option("hub_config", "Its configuration (20231101.en).", _TEXT)] = None
    hub_split: Annotated[str, option("hub_split", "Its split.", _TEXT)] = "train"
    field: Annotated[str, option("field", "Field or column that holds the text.", _TEXT)] = "text"
    piece_chars: Annotated[int, option("piece_chars", "Most characters of a piece.", _TEXT)] = 1600
    limit: Annotated[int | None, option("limit", "Most pieces, those labelled before included.", _TEXT)] = None
    licence: Annotated[str, option("licence", f"Of the text: {', '.join(LICENCES)}.", _TEXT)] = "unstated"

    def check(self) -> None:
        """Raise unless there is one source and something to cut."""
        hint = "`--hub wikimedia/wikipedia --hub_config 20231101.en` streams English Wikipedia"
        require_one_of(hint, input=self.input, hub=self.hub)
        if self.input is not None and not Path(self.input).is_file():
            raise UsageError(f"there is no file `{self.input}`. Expected a text or JSONL file.")
        require_at_least_one(self.piece_chars, "piece_chars")
        require_at_least_one(1 if self.limit is None else self.limit, "limit")
        if self.licence not in LICENCES:
            raise UsageError(f"licence is `{self.licence}`. Expected one of {', '.join(LICENCES)}.")

    def documents(self, label_field: str) -> Iterator[Document]:
        """Return the documents as a stream, with their own labels where they are wanted."""
        from safesignal.data.raw import hub_documents, local_documents

        if self.hub is not None:
            return hub_documents(self.hub, self.hub_config, self.hub_split, self.field)
        return local_documents(str(self.input), self.field, label_field)


@dataclass(frozen=True)
class GuardOptions:
    """Where labels come from."""

    guard: Annotated[str | None, option("guard", "Guard model: hub id or folder.", _GUARD)] = None
    family: Annotated[
        str, option("family", "Format of the guard, where its name does not tell.", _GUARD, show_default="by name")
    ] = ""
    endpoint: Annotated[str | None, option("endpoint", "OpenAI-compatible server instead.", _GUARD)] = None
    endpoint_model: Annotated[str | None, option("endpoint_model", "Name it knows the guard by.", _GUARD)] = None
    api_key_env: Annotated[str, option("api_key_env", "Environment variable that holds its key.", _GUARD)] = ""
    labels: Annotated[str | None, option("labels", "JSONL of id and label instead.", _GUARD)] = None
    label_field: Annotated[
        str | None, option("label_field", "Field of the JSONL rows themselves that holds the label instead.", _GUARD)
    ] = None
    batch_size: Annotated[int, option("batch_size", "Pieces judged side by side.", _GUARD)] = 16

    def check(self) -> None:
        """Raise unless labels come from one place."""
        require_at_least_one(self.batch_size)
        if sum(place is not None for place in (self.guard, self.endpoint, self.labels, self.label_field)) != 1:
            raise UsageError(
                "expected labels from one of `--guard`, `--endpoint`, `--labels` and `--label_field`.",
                hint="`--guard meta-llama/Llama-Guard-3-1B`, or `--endpoint http://127.0.0.1:8000/v1`",
            )
        if (self.endpoint is None) != (self.endpoint_model is None):
            raise UsageError("one of `--endpoint` and `--endpoint_model` stands alone. Expected both or neither.")

    def load(self) -> Labeller:
        """Load the guard, or read the labels."""
        from safesignal.align.label import FileLabels, GuardLabels, OwnLabels

        if self.labels is not None:
            return FileLabels(self.labels)
        if self.label_field is not None:
            return OwnLabels(self.label_field)
        if self.endpoint is not None:
            from safesignal.judges.endpoint import EndpointJudge
            from safesignal.openai_client import ChatClient

            client = ChatClient(self.endpoint, str(self.endpoint_model), self.api_key_env)
            return GuardLabels(EndpointJudge(client, "yes_no"))
        from safesignal.judges.guards import GuardJudge, format_for

        name = str(self.guard)
        format_for(self.family or name)
        with waiting(f"loading {name} …"):
            quiet_libraries()
            return GuardLabels(GuardJudge.load(name, family=self.family, batch_size=self.batch_size))


def label(
    text: TextOptions,
    guard: GuardOptions,
    output: Annotated[str, option("output", "JSONL of labelled pieces; a file found there goes on.", _IO)],
) -> None:
    """Label raw text for `align --recipe pretrain`; pieces without a verdict go to a file of their own."""
    together(text.check, guard.check)
    from safesignal.align.label import label_pieces, unlabelled_path
    from safesignal.data.raw import pieces

    labeller = guard.load()
    with progress() as bar:
        line = bar.add_task(Path(output).name, total=text.limit)

        def report(counts: Mapping[str, int]) -> None:
            bar.update(line, completed=sum(counts.values()), description=_counts(counts))

        stream = pieces(text.documents(guard.label_field or ""), text.piece_chars, text.limit)
        how: dict[str, Any] = {"licence": text.licence, "batch_size": guard.batch_size, "progress": report}
        counts = label_pieces(stream, labeller, output, **how)
    note(f"{_counts(counts)}; rows in {output}")
    if counts["unknown"]:
        note(f"{counts['unknown']} pieces got no verdict in the guard's form: {unlabelled_path(output)}")
    if counts[NO_REPLY]:
        note(f"{counts[NO_REPLY]} pieces got no reply; started again, they are asked again")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{counts[name]} {name}" for name in ("benign", "malicious", "unknown", "done") if counts.get(name)
    )
