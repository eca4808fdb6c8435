"""Data augmentation after Qi et al. ("Safety alignment should be made more than just a few tokens deep", 2024).

A harmful request, the first k tokens of a harmful answer, then a refusal, of which alone the loss is taken; k is 0 with
probability 1/2, else uniform in 1..100, or in the length of a shorter answer. Beside it a benign anchor. Their aim:

    α · E[-log π(refusal | request, harmful answer ≤ k)] + (1 - α) · E[-log π(answer | benign request)],  α = 0.2

Rows, steps and trainer are those of plain SFT; expectations are means over tokens.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example, paired_batches
from safesignal.align.lm import Supervised
from safesignal.align.sft import SftRecipe
from safesignal.data.mixture import prompt_key
from safesignal.data.records import Record
from safesignal.errors import DataError

__all__ = ["AugmentRecipe", "OpenedExample"]


@dataclass(frozen=True, slots=True)
class OpenedExample(Example):
    """A harmful request with its refusal, and how a harmful answer to it begins.

    Attributes:
        opening: Ids of the harmful answer, at most `augment_tokens`; empty if the rows hold none for this request.
    """

    opening: tuple[int, ...] = ()


class AugmentRecipe(SftRecipe):
    """Plain SFT in which some refusals come after a harmful start; arguments are those of :class:`SftRecipe`."""

    def __init__(
        self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: AlignConfig, name: str = ""
    ) -> None:
        super().__init__(base, tokenizer, config, name)
        self.weights = {"refusal": config.augment_alpha, "anchor": 1.0 - config.augment_alpha}
        self._openings = ""
        self._rate = config.augment_share

    def identity(self) -> dict[str, Any]:
        """Return the base, and a hash of the openings, which the rows' own ids do not show."""
        return {**super().identity(), "openings": self._openings}

    def encode(self, records: Iterable[Record]) -> tuple[list[Example], int]:
        """Encode as plain SFT does, and give malicious prompts the harmful answer that some row has for them.

        Raises:
            DataError: If no malicious prompt of the rows encoded first has one: that would be plain SFT.
        """
        rows = list(records)
        harmful: dict[str, str] = {}
        for record in rows:
            if record.prompt_is_malicious and record.response_label == "malicious":
                harmful.setdefault(prompt_key(record), (record.prefill + (record.response or "")).strip())
        examples, left_out = super().encode(rows)
        opened: list[Example] = [self._opened(example, harmful) for example in examples]
        openings = [example.opening for example in opened if isinstance(example, OpenedExample)]
        if not any(openings) and not self._openings:
            raise DataError(
                "no malicious prompt has a harmful answer to open a refusal with. Expected some.",
                hint="add rows with `response_label: malicious`, such as those of `safesignal rollouts`",
            )
        if not self._openings:
            # A share of all refusals, of which only those with a harmful answer to their request can be opened.
            self._rate = min(1.0, self.config.augment_share * len(openings) / sum(map(bool, openings)))
        self._openings = hashlib.sha256((self._openings + repr(openings)).encode()).hexdigest()[:16]
        return opened, left_out

    def batches(self, examples: Sequence[Example], rows: int, epoch: int) -> Iterator[list[Example]]:
        """Yield steps that hold both terms, half of each as long as there are rows of both."""
        if rows < 2:
            yield from super().batches(examples, rows, epoch)
            return
        refusals, anchors = ([e for e in examples if self.term(e) == term] for term in ("refusal", "anchor"))
        yield from paired_batches((refusals, anchors), (rows - rows // 2, rows // 2), self.config.seed, epoch)

    def term(self, example: Example) -> str:
        """Return `refusal` for malicious prompts, `anchor` for benign ones."""
        return "refusal" if example.prompt_is_malicious else "anchor"

    def supervised(self, example: Example, epoch: int) -> Supervised:
        """Put the first k harmful tokens between request and refusal; the loss is taken of the refusal."""
        plain = super().supervised(example, epoch)
        opening = example.opening[: self._depth(example, epoch)] if isinstance(example, OpenedExample) else ()
        ids, start = list(plain.ids), plain.start
        return Supervised([*ids[:start], *opening, *ids[start:]], start + len(opening))

    def _depth(self, example: OpenedExample, epoch: int) -> int:
        """Draw k evenly from 1 to the most tokens there are; 0 leaves the refusal unopened."""
        rng = random.Random(f"{self.config.seed}/{epoch}/{example.record.id}/{example.record.prompt}")
        return rng.randint(1, len(example.opening)) if example.opening and rng.random() < self._rate else 0

    def _opened(self, example: Example, harmful: dict[str, str]) -> Example:
        if not example.prompt_is_malicious:
            return example
        text = harmful.get(prompt_key(example.record), "")
        ids: Sequence[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else ()
        return OpenedExample(
            example.record,
            example.encoded,
            example.prompt_is_malicious,
            example.response_is_malicious,
            tuple(ids[: self.config.augment_tokens]),
        )
