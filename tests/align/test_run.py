"""What a run refuses, what it leaves behind, and where it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from safesignal.align.config import AlignConfig, MixturePart, read_align_config
from safesignal.align.evaluate import Metrics
from safesignal.align.examples import encode_examples
from safesignal.align.gated import GatedRecipe
from safesignal.align.run import align
from safesignal.align.trainer import Progress, Trainer
from safesignal.data.records import Record, append_jsonl, read_records
from safesignal.errors import DataError, UsageError
from tests.align.conftest import make_model, make_records

CONFIG = AlignConfig(batch_size=8, eval_every=1, epochs=2, learning_rate=5e-3, patience=2)
FPR = {"strict": 0.05, "balanced": 0.02, "permissive": 0.005}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patience", 0),
        ("val_rows", 0),
        ("val_rows", -1),
        ("max_prompt_tokens", 0),
        ("max_answer_tokens", 0),
        ("licences", ("permisive",)),
        ("licences", ()),
        ("target_fpr", FPR | {"strict": 0.0}),
        ("target_fpr", FPR | {"strict": 1.0}),
        ("lookalike_fpr", {"strict": 5.0}),
        ("lookalike_fpr", {"strict": 0.0}),
    ],
)
def test_settings_that_train_nothing_or_mean_nothing_are_named(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"align\.{field} = "):
        AlignConfig(**{field: value})


def test_a_part_of_no_rows_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[align]\nmixture = [{source = "lima"}, {source = "alpaca", n = -3}]\nval_rows = 0\n')
    with pytest.raises(
        UsageError, match=r"(?s)align\.val_rows = 0 .*align\.mixture\[2\]\.n = -3    must be at least 1"
    ):
        read_align_config(file)
    assert AlignConfig(mixture=(MixturePart("lima", n=1), MixturePart("lima"))).mixture[1].n is None


def test_rows_of_other_licences_are_named_where_nothing_is_left(tmp_path: Path, records: list[Record]) -> None:
    rows = tmp_path / "rows.jsonl"
    append_jsonl(rows, [replace(record, licence="noncommercial").to_row() for record in records])
    config = replace(CONFIG, licences=("permissive", "sharealike"))
    with pytest.raises(DataError, match=r"40 more rows .* another licence than permissive, sharealike") as caught:
        align(GatedRecipe(make_model(), config), [rows], tmp_path / "adapter")
    assert "`licence`" in caught.value.hint


def test_prompts_of_files_that_share_ids_are_left_behind_with_ids_of_their_own(
    tmp_path: Path, records: list[Record]
) -> None:
    files = []
    for word in ("about", "of", "on"):
        rows = [replace(row, messages=(replace(row.messages[0], content=f"{row.prompt} {word}"),)) for row in records]
        files.append(tmp_path / f"{word}.jsonl")
        append_jsonl(files[-1], [row.to_row() for row in rows])
    align(GatedRecipe(make_model(), replace(CONFIG, max_steps=1)), files, tmp_path / "adapter")
    left = read_records(tmp_path / "adapter" / "training" / "prompts.jsonl")
    assert len({row.prompt for row in left}) == len(left) == 3 * len(records)
    plain = {f"{row.meta['split']}/{row.id.split('/', 1)[1].split('#')[0]}" for row in left}
    assert plain <= {row.id for row in left}, "the first of each id keeps it"


class _Stale(GatedRecipe):
    """Validates at the same loss every time."""

    def validate(self, examples: Any) -> Metrics:
        return replace(super().validate(examples), loss=1.0)


def test_a_run_that_stopped_early_takes_no_step_when_it_is_run_again(tmp_path: Path) -> None:
    def run() -> tuple[Trainer, list[int]]:
        model = make_model()
        examples, _ = encode_examples(model, make_records(), CONFIG)
        trainer = Trainer(_Stale(model, CONFIG), examples[:32], examples[32:], tmp_path)
        seen: list[Progress] = []
        trainer.run(seen.append)
        return trainer, [progress.step for progress in seen]

    first, steps = run()
    assert steps == [1, 2, 3], "one evaluation that is the best, and two without a better"
    assert first.steps > 3
    again, more = run()
    assert more == []
    assert again.history == first.history
    for name, value in first.recipe.state().items():
        assert torch.equal(value, again.recipe.state()[name]), name
