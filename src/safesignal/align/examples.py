"""From records to training examples: encoded text, and safety rows drawn as inference draws them.

All randomness is keyed by (seed, epoch, row id), so a run that is resumed draws what an uninterrupted one draws.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from safesignal.align.config import AlignConfig, MixturePart
from safesignal.config import SignalConfig
from safesignal.data.build.variants import reworded
from safesignal.data.mappers import SLOT
from safesignal.data.mixture import base_prompt, filter_licence
from safesignal.data.records import Message, Record, read_records, record_from_row
from safesignal.data.sources import load_training
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.modeling.model import SafeSignalModel
from safesignal.types import Span

__all__ = ["Example", "Labelled", "batches", "draw_checks", "encode_examples", "load_mixture", "paired_batches"]

_FEWEST_MALICIOUS = 3
"""A harmful answer shows nothing in its first two tokens that a label could be about."""


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded row.

    Attributes:
        record: Where it comes from.
        encoded: Ids and roles; the answer is its prefill.
        prompt_is_malicious: Label of the query check; None if unlabelled.
        response_is_malicious: Label of the answer's windows; None if there is none.
    """

    record: Record
    encoded: Encoded
    prompt_is_malicious: bool | None
    response_is_malicious: bool | None


@dataclass(frozen=True, slots=True)
class Labelled:
    """One safety row to train: its span and whether it is malicious."""

    span: Span
    malicious: bool


def load_mixture(config: AlignConfig, data_dir: str | None, records: Iterable[Record]) -> list[Record]:
    """Return the rows to train on: given records first, then the mixture's sources, equal rows once."""
    rows = filter_licence(records, config.licences)
    for part in config.mixture:
        rows += _part(part, config, data_dir)
    trained = [record for record in rows if not _is_calibration(record, config)]
    unique = {(r.id, r.messages, r.prefill, r.response): r for r in trained}
    return list(unique.values())


def encode_examples(
    model: SafeSignalModel, records: Iterable[Record], config: AlignConfig
) -> tuple[list[Example], int]:
    """Encode rows that carry a label and fit.

    Returns:
        The examples, and how many rows were left out as too long, without any label, or torn between two of them where
        each prompt comes once.
    """
    examples: list[Example] = []
    rows, left_out = (records, 0) if config.windows else _each_prompt_once(records)
    for record in rows:
        prompt = None if config.read_answers else record.prompt_is_malicious
        response = record.response_is_malicious if config.windows else None
        answer = record.prefill + (record.response or "") if response is not None else ""
        if prompt is None and not answer:
            left_out += 1
            continue
        encoded = model.encode_one(record.chat(), answer)
        if encoded.text > config.max_prompt_tokens:
            left_out += 1
            continue
        end = encoded.text + config.max_answer_tokens
        encoded = Encoded(encoded.ids[:end], encoded.roles[:end])
        examples.append(Example(record, encoded, prompt, response if encoded.prefill else None))
    if not examples:
        raise DataError(
            "no row can be trained on. Expected rows with `prompt_label`, or `response` and `response_label`."
        )
    return examples, left_out


def draw_checks(example: Example, signal: SignalConfig, config: AlignConfig, epoch: int) -> list[Labelled]:
    """Draw the safety rows of one example: its query, and windows of its answer under rules 1 to 3."""
    rng = random.Random(f"{config.seed}/{epoch}/{example.record.id}")
    checks = []
    if example.prompt_is_malicious is not None:
        checks.append(Labelled(Span(query=True), example.prompt_is_malicious))
    if example.response_is_malicious is None:
        return checks
    length, label = example.encoded.prefill, example.response_is_malicious
    fewest = min(length, _FEWEST_MALICIOUS if label else 1)
    for _ in range(max(1, config.checks_per_row - len(checks))):
        checks.append(Labelled(_draw_span(rng, rng.randint(fewest, length), length, signal, config), label))
    return checks


def _draw_span(rng: random.Random, end: int, length: int, signal: SignalConfig, config: AlignConfig) -> Span:
    kind = rng.random()
    if kind < config.wide_share:
        return Span(max(0, end - rng.randint(signal.r2, 4 * signal.r2)), end)
    if kind < config.wide_share + config.around_share:
        return Span(max(0, end - signal.r2), min(length, end + rng.randint(1, signal.r3)))
    return Span(max(0, end - signal.r2), end)


def batches(examples: Sequence[Example], rows: int, seed: int, epoch: int) -> Iterator[list[Example]]:
    """Yield one epoch's batches of `rows`, in an order keyed by seed and epoch, rows of similar length together."""
    rng = random.Random(f"{seed}/{epoch}")
    order = list(range(len(examples)))
    rng.shuffle(order)
    stretch = 32 * rows
    groups = []
    for begin in range(0, len(order), stretch):
        near = sorted(order[begin : begin + stretch], key=lambda index: len(examples[index].encoded.ids))
        groups += [near[i : i + rows] for i in range(0, len(near), rows)]
    rng.shuffle(groups)
    yield from ([examples[index] for index in group] for group in groups)


def paired_batches(
    kinds: Sequence[Sequence[Example]], sizes: Sequence[int], seed: int, epoch: int
) -> Iterator[list[Example]]:
    """Yield one epoch's steps of `sizes` rows of each kind, as long as there are any."""
    apart = (batches(own, size, seed, epoch) for own, size in zip(kinds, sizes, strict=True))
    for step in zip_longest(*apart, fillvalue=[]):
        yield [example for own in step for example in own]


def _each_prompt_once(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Return the last labelled row of each prompt, an unlabelled one where there is no other, in order of the prompts.

    Prompts with contradictory labels are dropped, as `safesignal data build` drops them; the rows of these are counted.
    """
    prompts: dict[tuple[Message, ...], list[Record]] = {}
    for record in records:
        prompts.setdefault(record.messages, []).append(record)
    kept: list[Record] = []
    torn = 0
    for rows in prompts.values():
        labelled = [row for row in rows if row.prompt_label is not None]
        if len({row.prompt_label for row in labelled}) > 1:
            torn += len(rows)
        else:
            kept.append((labelled or rows)[-1])
    return kept, torn


def _part(part: MixturePart, config: AlignConfig, data_dir: str | None) -> list[Record]:
    found = read_records(part.file) if part.file else load_training(part.source, data_dir=data_dir)
    records = filter_licence(found, config.licences)
    rng = random.Random(f"{config.seed}/{part.source or Path(part.file).name}/{part.template_source}")
    rng.shuffle(records)
    records = records[: part.n]
    if not part.responses:
        records = [record_from_row(r.to_row() | {"response": None, "response_label": "none"}) for r in records]
    if part.template_source:
        known = load_training("jailbreak-templates", data_dir=data_dir)
        templates = [template.prompt for template in known if template.source == part.template_source]
        if not templates:
            origins = sorted({template.source for template in known})
            raise DataError(
                f"no jailbreak template comes from `{part.template_source}`. Expected {', '.join(origins)}."
            )
        records = [_wrapped(record, rng.choice(templates)) for record in records]
    return records


def _wrapped(record: Record, template: str) -> Record:
    return reworded(record, "wrapped", template.replace(SLOT, record.prompt), base_prompt=base_prompt(record))


def _is_calibration(record: Record, config: AlignConfig) -> bool:
    return record.meta.get("job") in (config.calibration_job, config.lookalike_job)
