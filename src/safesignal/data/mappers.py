"""Small pure functions from one row of a public set, as the hub or a local copy gives it, to a :class:`Record`.

A mapper reads the row's columns by name and raises KeyError for one that is missing; the loader turns that into an
error with set, row and field. It sets labels and text only: id, source and licence come from the loader when the
row has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from safesignal.data.records import FIELDS, Message, PromptLabel, Record, ResponseLabel, record_from_row

__all__ = [
    "SLOT",
    "EmptyPromptError",
    "FieldError",
    "Mapper",
    "Row",
    "aegis",
    "alpaca",
    "beavertails",
    "coconot_pref",
    "conversations",
    "dolly",
    "goal",
    "gsm8k",
    "gsm8k_train",
    "hh_rlhf",
    "human_harm",
    "human_refusal",
    "jailbreak",
    "jailbreakbench",
    "labelled_prompt",
    "mmlu",
    "mt_bench",
    "own_format",
    "pku_saferlhf",
    "prompt_column",
    "template",
    "turns",
    "wildjailbreak",
    "xstest",
    "xstest_response",
]

Row = Mapping[str, Any]
Mapper = Callable[[Row], Record]

SLOT = "[INSERT PROMPT HERE]"
"""Where a jailbreak template takes the request."""

_SAFE_WORDS: dict[object, PromptLabel] = {
    "safe": "benign",
    "benign": "benign",
    "unharmful": "benign",
    "unsafe": "malicious",
    "harmful": "malicious",
    "malicious": "malicious",
}


class FieldError(ValueError):
    """A field holds what rows of the set do not have there.

    Attributes:
        field: Its name.
    """

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class EmptyPromptError(FieldError):
    """A row has the prompt's column and nothing in it."""

    def __init__(self) -> None:
        super().__init__("prompt", "is empty; expected text")


def own_format(row: Row) -> Record:
    """Read the project's own rows (`prompt` or `messages`, labels, source, licence)."""
    return record_from_row(row, default_id="")


def alpaca(row: Row) -> Record:
    """Read instruction, input and output; the input is appended to the instruction."""
    prompt = "\n\n".join(part for part in (row["instruction"], row.get("input")) if part)
    return _record(row, prompt, response=row["output"], label="benign", used=("instruction", "input", "output", "text"))


def dolly(row: Row) -> Record:
    """Read instruction, context and response; the context is appended to the instruction."""
    prompt = "\n\n".join(part for part in (row["instruction"], row.get("context")) if part)
    return _record(row, prompt, response=row["response"], label="benign", used=("instruction", "context"))


def conversations(row: Row) -> Record:
    """Read a list of alternating texts (LIMA): the first is the prompt, the second the answer."""
    first, answer = (*row["conversations"], "")[:2]
    return _record(row, first, response=answer, label="benign", used=("conversations",))


def gsm8k(row: Row) -> Record:
    """Read question and answer; the answer stays in `meta`, because it is the reference."""
    return _record(row, row["question"], label="benign", used=("question",))


def gsm8k_train(row: Row) -> Record:
    """Read question and answer as a training pair, calculator marks (``<<...>>``) removed."""
    answer = re.sub(r"<<[^>]*>>", "", row["answer"])
    return _record(row, row["question"], response=answer, label="benign", used=("question", "answer"))


def mmlu(row: Row) -> Record:
    """Read a four-choice question; choices are lettered, `meta["letter"]` is the right one."""
    letters = "ABCDEFGHIJ"
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters, row["choices"], strict=False)]
    answer = row["answer"]
    letter = letters[answer] if isinstance(answer, int) else answer
    return _record(row, "\n".join([row["question"], *lines]), label="benign", extra={"letter": letter})


def mt_bench(row: Row) -> Record:
    """Read the hub's list of turns in `prompt`; the first is the prompt, all of them stand in ``meta["turns"]``."""
    return _record(row, row["prompt"][0], label="benign", extra={"turns": list(row["prompt"])})


def turns(row: Row) -> Record:
    """Read a list of `turns`; the first is the prompt, all of them stay in ``meta["turns"]``."""
    return _record(row, row["turns"][0], label="benign")


def goal(row: Row) -> Record:
    """Read `goal` as a malicious prompt; it stays in `meta`."""
    return _record(row, row["goal"], label="malicious")


def jailbreakbench(row: Row) -> Record:
    """Read a behaviour; the word that labels it is `label` in the local copy, the name of the split on the hub."""
    word = _first(row, "label", "split")
    return _record(row, _prompt(row, "goal", "Goal"), label=_SAFE_WORDS[word], used=("label", "split", "index"))


def jailbreak(row: Row) -> Record:
    """Read an attack prompt around a `goal`, with a published answer and its label where there is one."""
    jailbroken = row.get("jailbroken")
    judged: ResponseLabel = "none" if jailbroken is None else "malicious" if jailbroken else "benign"
    response = row.get("response") or None
    return _record(
        row,
        row["prompt"],
        response=response,
        label="malicious",
        response_label=judged if response else "none",
        extra={"base_prompt": row["goal"]},
    )


def template(row: Row) -> Record:
    """Read a jailbreak template with an open slot; it has no label until the slot is filled.

    Raises:
        FieldError: If it has no slot: the request would vanish, and one text be both benign and malicious.
    """
    text = row["template"]
    if SLOT not in text:
        raise FieldError("template", f"{row.get('id') or 'the row'} has no slot; expected `{SLOT}` for the request")
    return _record(row, text)


def prompt_column(label: PromptLabel, *columns: str) -> Mapper:
    """Return a mapper that takes the first of `columns` (default ``prompt``) that the row has, with a fixed label."""
    names = columns or ("prompt",)

    def read(row: Row) -> Record:
        return _record(row, _prompt(row, *names), label=label, used=[name.lower() for name in names])

    return read


def labelled_prompt(row: Row) -> Record:
    """Read `prompt` with a safe or unsafe word in `label`."""
    return _record(row, row["prompt"], label=_SAFE_WORDS[row["label"]], used=("label",), response=row.get("response"))


def xstest(row: Row) -> Record:
    """Read a prompt of XSTest; types that start with ``contrast`` are unsafe where no label is given."""
    word = row.get("label") or ("unsafe" if str(row["type"]).startswith("contrast") else "safe")
    return _record(row, row["prompt"], label=_SAFE_WORDS[word], used=("label",))


def xstest_response(row: Row) -> Record:
    """Read an answer with a human label of refusal and of harm (local join, or one hub split)."""
    word = row.get("label")
    refusal = row.get("response_refusal", word)
    harm = row.get("response_harm", word)
    judged: ResponseLabel = "refusal" if refusal == "refusal" else _SAFE_WORDS.get(harm, "none")
    return _record(
        row,
        row["prompt"],
        response=row["response"],
        label=_SAFE_WORDS[_first(row, "prompt_label", "prompt_harm_label")],
        response_label=judged,
    )


def beavertails(row: Row) -> Record:
    """Read a judged answer; the prompt counts as malicious only if the answer was unsafe."""
    safe = bool(row["is_safe"])
    return _record(
        row,
        row["prompt"],
        response=row["response"],
        label=None if safe else "malicious",
        response_label="benign" if safe else "malicious",
    )


def pku_saferlhf(row: Row) -> Record:
    """Read the less safe of the two answers, with its label."""
    safe = [bool(row["is_response_0_safe"]), bool(row["is_response_1_safe"])]
    chosen = safe.index(min(safe))
    return _record(
        row,
        row["prompt"],
        response=row[f"response_{chosen}"],
        label=None if safe[chosen] else "malicious",
        response_label="benign" if safe[chosen] else "malicious",
        used=("response_0", "response_1"),
    )


def aegis(row: Row) -> Record:
    """Read Aegis 2.0: prompt and answer with a label each; the answer's may be missing."""
    response = row.get("response") or None
    return _record(
        row,
        row["prompt"],
        response=response,
        label=_SAFE_WORDS[row["prompt_label"]],
        response_label=_SAFE_WORDS.get(row.get("response_label"), "none") if response else "none",
    )


def hh_rlhf(row: Row) -> Record:
    """Read the first exchange of the chosen dialogue (``Human: … Assistant: …``), unlabelled."""
    parts = re.split(r"\n\n(?:Human|Assistant): ?", row["chosen"])
    prompt, answer = (*parts[1:], "", "")[:2]
    return _record(row, prompt, response=answer, used=("chosen", "rejected"))


def coconot_pref(row: Row) -> Record:
    """Read a benign look-alike with the chosen answer."""
    return _record(row, row["prompt"], response=row["chosen"], label="benign", used=("chosen", "rejected"))


def wildjailbreak(row: Row) -> Record:
    """Read a vanilla or adversarial prompt; `base_prompt` ties the adversarial one to the vanilla one."""
    prompt, vanilla = _prompt(row, "adversarial", "vanilla"), row.get("vanilla") or ""
    malicious = str(row["data_type"]).endswith("harmful")
    # The completions are refusals for harmful prompts and answers for benign ones, by construction of the set.
    response = row.get("completion") or None
    judged: ResponseLabel = "none" if response is None else "refusal" if malicious else "benign"
    return _record(
        row,
        prompt,
        response=response,
        label="malicious" if malicious else "benign",
        response_label=judged,
        used=("vanilla", "adversarial", "completion"),
        extra={"base_prompt": vanilla} if vanilla else {},
    )


def human_refusal(row: Row) -> Record:
    """Read an answer with a human verdict on whether it refuses; ``meta["is_refusal"]`` holds it."""
    judged: ResponseLabel = "refusal" if row["is_refusal"] else "none"
    return _record(row, row["objective"], response=row["response"], response_label=judged, used=("objective",))


def human_harm(row: Row) -> Record:
    """Read an answer with human scores of harm; ``meta["mean_score"]`` in [0, 1]."""
    judged: ResponseLabel = "malicious" if row["is_harmful"] else "benign"
    return _record(row, row["objective"], response=row["response"], response_label=judged, used=("objective",))


def _record(
    row: Row,
    prompt: str,
    *,
    response: str | None = None,
    label: PromptLabel | None = None,
    response_label: ResponseLabel | None = None,
    used: Iterable[str] = (),
    extra: Row | None = None,
) -> Record:
    """Build a record; columns not in `used` stay in `meta` under lower-case names.

    An unlabelled answer to a benign prompt counts as benign.
    """
    if not str(prompt or "").strip():
        raise EmptyPromptError
    text = response.strip() if response else None
    if response_label is None:
        response_label = "benign" if text and label == "benign" else "none"
    kept = {key.lower(): value for key, value in row.items() if key.lower() not in {*used, *FIELDS}}
    return Record(
        id=str(row.get("id") or ""),
        messages=(Message("user", str(prompt)),),
        response=text or None,
        prompt_label=label,
        response_label=response_label if text else "none",
        source=str(row.get("source") or ""),
        licence=str(row.get("licence") or "unstated"),
        meta={**kept, **(extra or {})},
    )


def _prompt(row: Row, *names: str) -> str:
    """Return the first of the named columns that holds anything, empty if none does; the error names them all."""
    if not any(name in row for name in names):
        raise KeyError(" or ".join(names))
    return next((str(row[name]) for name in names if row.get(name)), "")


def _first(row: Row, *names: str) -> str:
    """Return the first of the named columns that is there; the error names them all."""
    if text := _prompt(row, *names):
        return text
    raise KeyError(" or ".join(names))
