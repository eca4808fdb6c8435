"""The paper's pretraining stage: L = L_lm + λ1 · L_cls on raw text that a guard has labelled.

[CLS] sees every token of the text and nobody sees [CLS]. Rows are those of `safesignal label`: `prompt` is the text, as
it is and without a chat template, `prompt_label` the guard's label. The result is a folder that `--start` of the joint
recipe goes on from; its thresholds are not calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from safesignal.align.examples import Example, Labelled
from safesignal.align.joint import JointRecipe
from safesignal.align.lm import Supervised
from safesignal.align.recipe import Finished, Rows
from safesignal.data.records import Record
from safesignal.errors import DataError
from safesignal.modeling.chat import Encoded
from safesignal.types import Role

__all__ = ["PretrainRecipe"]


class PretrainRecipe(JointRecipe):
    """Tunes a base model and its signal on raw text; arguments are those of :class:`JointRecipe`."""

    def encode(self, records: Iterable[Record]) -> tuple[list[Example], int]:
        """Encode labelled texts of at most `max_prompt_tokens`; longer and unlabelled ones are left out."""
        examples, left_out = [], 0
        for record in records:
            ids = tuple(self.tokenizer(record.prompt)["input_ids"])
            if record.prompt_label is None or not 2 <= len(ids) <= self.config.max_prompt_tokens:
                left_out += 1
                continue
            encoded = Encoded(ids, (Role.USER,) * len(ids))
            examples.append(Example(record, encoded, record.prompt_is_malicious, None))
        if not examples:
            raise DataError(
                "no text can be trained on. "
                f"Expected rows with `prompt_label`, of 2 to {self.config.max_prompt_tokens} tokens.",
                hint="`safesignal label` makes them from raw text; its `--piece_chars` cuts shorter pieces",
            )
        return examples, left_out

    def supervised(self, example: Example, epoch: int) -> Supervised:
        """Return the whole text; every token but the first is learnt."""
        del epoch
        return Supervised(example.encoded.ids, 1)

    def since(self, example: Example, check: Labelled) -> int | None:
        """Return None: in this stage nobody sees [CLS]."""
        del example, check
        return None

    def finish(self, rows: Rows, log: Callable[[str], None]) -> Finished:
        """Bring the weights to what loading will give and measure them; raw text has no answers to calibrate on."""
        self.settle()
        metrics = self.validate(rows.val)
        log(f"saved weights: {metrics.as_dict()}")
        return Finished(metrics, record={"stage": "pretrain"})
