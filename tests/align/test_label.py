"""Labels come from a guard, an endpoint or a file; what is no verdict is never benign, and a run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from safesignal.align.config import AlignConfig
from safesignal.align.examples import load_mixture
from safesignal.align.label import FileLabels, GuardLabels, OwnLabels, label_pieces, unlabelled_path
from safesignal.data.mixture import prompt_key, text_key
from safesignal.data.raw import Piece, local_documents, pieces
from safesignal.data.records import read_records
from safesignal.errors import DataError, UsageError
from safesignal.judges.base import Judgement
from tests.chat_server import said, serving
from tests.cli.conftest import Run, Tiny, read_rows, run, tiny, write_rows

__all__ = ["run", "tiny"]  # fixtures


class Judge:
    """Says yes to Z, no to A, nothing to `?`, and something else to the rest."""

    name = "letters"

    def __init__(self, fingerprint: str = "1") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def __call__(self, behavior: str, completion: str) -> Judgement:
        return self.judge_all([(behavior, completion)])[0]

    def judge_all(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
        self.asked += [text for _, text in pairs]
        known = {"Z": Judgement("yes", "r"), "A": Judgement("no", "r"), "?": Judgement("unknown", "no-reply")}
        return [known.get(text[0], Judgement("unknown", "r")) for _, text in pairs]


def stream(texts: str) -> Iterator[Piece]:
    return (Piece(f"doc#{number}", text) for number, text in enumerate(texts))


def test_each_verdict_goes_where_it_belongs(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    counts = label_pieces(stream("AZx?A"), GuardLabels(Judge()), output, licence="sharealike", batch_size=2)
    assert counts == {"benign": 2, "malicious": 1, "unknown": 1, "no-reply": 1}
    records = read_records(output)
    assert [(r.prompt, r.prompt_label, r.licence) for r in records] == [
        ("A", "benign", "sharealike"),
        ("Z", "malicious", "sharealike"),
        ("A", "benign", "sharealike"),
    ]
    (apart,) = read_rows(unlabelled_path(output))
    assert (apart["prompt"], apart["prompt_label"]) == ("x", None)


def test_a_run_goes_on_and_asks_again_what_got_no_reply(tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    first = Judge()
    label_pieces(stream("AZx?"), GuardLabels(first), output)
    second = Judge()
    counts = label_pieces(stream("AZx?AA"), GuardLabels(second), output, batch_size=1)
    assert second.asked == ["?", "A", "A"]
    assert (counts["done"], counts["benign"]) == (3, 2)
    with pytest.raises(UsageError, match="another guard"):
        label_pieces(stream("A"), GuardLabels(Judge("2")), output)


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    def cut_short() -> Iterator[Piece]:
        yield from stream("AAAA")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_pieces(cut_short(), GuardLabels(Judge()), tmp_path / "rows.jsonl", batch_size=2)
    assert len(read_rows(tmp_path / "rows.jsonl")) == 4


def test_labels_from_a_file(tmp_path: Path) -> None:
    labels = write_rows(
        tmp_path / "l.jsonl", [{"id": "doc#0", "label": "benign"}, {"id": "doc#2", "label": "malicious"}]
    )
    counts = label_pieces(stream("ABC"), FileLabels(labels), tmp_path / "rows.jsonl")
    assert counts == {"benign": 1, "malicious": 1, "unknown": 1}
    write_rows(labels, [{"id": "doc#0", "label": "malicious"}])
    with pytest.raises(UsageError, match="another guard"):
        label_pieces(stream("ABC"), FileLabels(labels), tmp_path / "rows.jsonl")
    wrong = write_rows(tmp_path / "w.jsonl", [{"id": "doc#0", "label": "fine"}])
    with pytest.raises(DataError, match="line 1"):
        FileLabels(wrong)


def test_labels_that_rows_bring_themselves(run: Run, tmp_path: Path) -> None:
    labels = ("benign", "malicious", "refusal", "none", None)
    rows = [{"id": str(n), "response": "text " * (n + 1), "response_label": label} for n, label in enumerate(labels)]
    source = write_rows(tmp_path / "in.jsonl", [*rows, {"id": "x", "response": None, "response_label": "none"}])
    output = tmp_path / "rows.jsonl"
    args = ["label", "--input", source, "--field", "response", "--label_field", "response_label", "--output", output]
    done = run(*args, "--piece_chars", 9)
    assert done.code == 0, done.err
    found = [(row["id"], row["prompt_label"]) for row in read_rows(output)]
    assert found[:3] == [("in.jsonl/0#0", "benign"), ("in.jsonl/1#0", "malicious"), ("in.jsonl/2#0", "benign")]
    assert {row["id"].split("#")[0] for row in read_rows(unlabelled_path(output))} == {"in.jsonl/3", "in.jsonl/4"}


def test_the_verb_with_an_endpoint(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("apple\n\nzebra\n\nneither\n")
    output = tmp_path / "rows.jsonl"

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        asked = json.dumps(body)
        return said("no" if "apple" in asked else "yes" if "zebra" in asked else "perhaps")

    with serving() as server:
        server.script = [(200, reply, {})]
        done = run("label", "--input", text, "--endpoint", server.url, "--endpoint_model", "g", "--output", output)
        again = run("label", "--input", text, "--endpoint", server.url, "--endpoint_model", "g", "--output", output)
        assert len(server.seen) == 3
    assert done.code == again.code == 0, done.err
    assert [row["prompt_label"] for row in read_rows(output)] == ["benign", "malicious"]
    assert "1 pieces got no verdict" in done.err.replace("\n", " ")


def test_the_verb_with_a_guard_that_babbles(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "rows.jsonl"
    text.write_text("apple\n\nzebra\n")
    done = run("label", "--input", text, "--guard", tiny.base, "--family", "harmbench", "--output", output)
    assert done.code == 0, done.err
    assert read_rows(output) == []
    assert len(read_rows(unlabelled_path(output))) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "x"), "neither `--input` nor `--hub`"),
        (("--hub", "x", "--input", "y", "--labels", "x"), "both `--input` and `--hub`"),
        (("--hub", "x"), "expected labels from one of"),
        (("--hub", "x", "--guard", "g", "--labels", "x"), "expected labels from one of"),
        (("--hub", "x", "--endpoint", "http://x"), "stands alone"),
        (("--hub", "x", "--labels", "x", "--piece_chars", "0"), "piece_chars is 0"),
        (("--hub", "x", "--labels", "x", "--licence", "free"), "licence is `free`"),
        (("--input", "/nowhere.txt", "--labels", "x"), "there is no file"),
    ],
)
def test_wrong_use_is_told(run: Run, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    done = run("label", "--output", tmp_path / "rows.jsonl", *options)
    assert done.code == 2
    assert message in " ".join(done.err.split())


def test_an_answer_keeps_its_job_and_the_side_of_its_prompt(tmp_path: Path) -> None:
    source, output = tmp_path / "answers.jsonl", tmp_path / "rows.jsonl"
    rows = [
        {"id": "a", "prompt": "asked", "response": "said", "job": "calibration"},
        {"id": "b", "prompt": "wrapped", "base_prompt": "bare", "response": "told"},
    ]
    write_rows(source, [row | {"response_label": "benign"} for row in rows])
    documents = local_documents(source, "response", "response_label")
    label_pieces(pieces(documents, 100), OwnLabels("response_label"), output, licence="sharealike")
    calibration, other = read_records(output)
    assert (calibration.prompt, prompt_key(calibration)) == ("said", text_key("asked"))
    assert (other.prompt, prompt_key(other)) == ("told", text_key("bare"))
    assert load_mixture(AlignConfig(recipe="pretrain"), None, [calibration, other]) == [other]
