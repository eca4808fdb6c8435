"""The answers that a model is tuned to give, one for every recipe with a language-model loss: same rows, same targets.

Benign prompts keep their benign answer. Malicious prompts, whatever the row answers them with, get an *explained*
refusal (paper): the policy's refusal prefix and a reason, the row's own where it refuses in that form. An answer that
breaks off in the middle teaches no ending: it gets no end-of-turn token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example
from safesignal.data.mixture import prompt_key
from safesignal.data.records import Record
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded, encode_chat
from safesignal.rules import REFUSAL_PREFIX
from safesignal.types import Role

__all__ = ["REASONS", "answer_of", "encode_answers", "with_end"]

REASONS = (
    "it could lead to serious harm to people.",
    "following it could hurt you or somebody else.",
    "it asks for help with something harmful or against the law.",
    "giving these details would make it easier to harm others.",
    "it is likely to be used to hurt, deceive or exploit people.",
    "I would be helping with something dangerous.",
)
"""Ends of an explained refusal, for rows that bring none; chosen by the prompt."""

_CLOSING = ".!?…\"'”’)]}`*"
_SENTENCE_END = ".!?"


def answer_of(record: Record) -> str | None:
    """Return what the model is to answer; None if the row has neither a label nor an answer that says so."""
    own = record.prefill + (record.response or "")
    if record.prompt_is_malicious:
        reason = own.removeprefix(REFUSAL_PREFIX).strip() if record.response_label == "refusal" else ""
        if own.startswith(REFUSAL_PREFIX) and (told := _whole_sentences(reason)):
            return f"{REFUSAL_PREFIX} {told}"
        return f"{REFUSAL_PREFIX} {REASONS[_hash(prompt_key(record)) % len(REASONS)]}"
    if record.prompt_is_malicious is None or record.response_label not in ("benign", "refusal") or not own.strip():
        return None
    return own.strip()


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, records: Iterable[Record], config: AlignConfig
) -> tuple[list[Example], int]:
    """Encode prompts with the answers that are wanted, the answer in the role of a prefill, its end token included.

    One example per prompt and answer, and with `config.balance` as many malicious prompts as benign ones: of the larger
    class the rows with the lowest hashes, so that another row more moves few.

    Returns:
        The examples in the order of the rows, and how many rows were left out as too long or without an answer.

    Raises:
        DataError: If no row is left.
    """
    examples: dict[tuple[object, str], Example] = {}
    left_out = 0
    for record in records:
        answer = answer_of(record)
        if answer is None or (record.messages, answer) in examples:
            left_out += answer is None
            continue
        encoded = encode_chat(tokenizer, record.chat(), answer)
        if encoded.text > config.max_prompt_tokens:
            left_out += 1
            continue
        # Rollouts end at a number of tokens, answers of public sets where their authors ended them.
        finished = not record.meta.get("on_policy") or answer[-1] in _CLOSING
        whole = finished and encoded.prefill < config.max_answer_tokens
        end = encoded.text + config.max_answer_tokens
        cut = Encoded(encoded.ids[:end], encoded.roles[:end])
        own = with_end(cut, tokenizer) if whole else cut
        examples[record.messages, answer] = Example(record, own, record.prompt_is_malicious, False)
    kept = _balanced(list(examples.values())) if config.balance else list(examples.values())
    if not kept:
        raise DataError(
            "no row can be answered. Expected malicious prompts, and benign ones with their benign answers.",
            hint="rows need `prompt_label`, benign ones `response` and `response_label: benign` as well",
        )
    return kept, left_out


def with_end(encoded: Encoded, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Add the tokenizer's end token to an answer."""
    if tokenizer.eos_token_id is None:
        return encoded
    return Encoded((*encoded.ids, int(tokenizer.eos_token_id)), (*encoded.roles, Role.PREFILL))


def _balanced(examples: list[Example]) -> list[Example]:
    """Thin the larger class; a class that is missing thins nothing."""
    by_label = {label: [e for e in examples if bool(e.prompt_is_malicious) is label] for label in (False, True)}
    fewest = min(map(len, by_label.values())) or len(examples)
    chosen = {
        id(example)
        for own in by_label.values()
        for example in sorted(own, key=lambda e: _hash(f"{e.record.id} {e.record.prompt}"))[:fewest]
    }
    return [example for example in examples if id(example) in chosen]


def _whole_sentences(text: str) -> str:
    """Return the text up to its last sentence end."""
    return text[: max(text.rfind(mark) for mark in _SENTENCE_END) + 1]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
