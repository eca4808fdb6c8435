"""Plain SFT is transformers' own SFT; augmentation learns refusals after harmful starts; both load as plain models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.utils.data import Dataset

from safesignal.align.answers import answer_of, encode_answers
from safesignal.align.augment import AugmentRecipe, OpenedExample
from safesignal.align.config import AlignConfig
from safesignal.align.lm import Supervised, answer_losses
from safesignal.align.run import align
from safesignal.align.sft import SftRecipe
from safesignal.align.trainer import Trainer
from safesignal.data.records import Record, append_jsonl, record_from_row
from safesignal.errors import DataError, ModelError, UsageError
from safesignal.modeling.peft_format import peft_config
from safesignal.modeling.zoo import load_base
from safesignal.rules import REFUSAL_PREFIX
from tests.align.conftest import make_records
from tests.support import FAMILIES, Family, tiny_model, tiny_tokenizer

CONFIG = AlignConfig(
    recipe="sft", tuning="full", batch_size=4, eval_every=3, epochs=2, learning_rate=1e-3, patience=99, weight_decay=0.0
)


def recipe(config: AlignConfig = CONFIG, kind: type[SftRecipe] = SftRecipe) -> SftRecipe:
    return kind(tiny_model("llama"), tiny_tokenizer(), config)


def labelled(ids: list[int], start: int, width: int) -> dict[str, torch.Tensor]:
    gap = width - len(ids)
    return {
        "input_ids": torch.tensor(ids + [0] * gap),
        "attention_mask": torch.tensor([1] * len(ids) + [0] * gap),
        "labels": torch.tensor([-100] * start + ids[start:] + [-100] * gap),
    }


def collated(batch: list[Supervised]) -> dict[str, torch.Tensor]:
    width = max(len(one.ids) for one in batch)
    rows = [labelled(list(one.ids), one.start, width) for one in batch]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_transformers(family: Family) -> None:
    base = tiny_model(family)
    batch = [Supervised([3, 40, 50, 60, 70], 2), Supervised([9, 8, 7], 1), Supervised(list(range(20, 50)), 25)]
    ours = answer_losses(base, batch)
    theirs = base(**collated(batch)).loss * sum(one.count for one in batch)
    assert float(ours.sum()) == pytest.approx(float(theirs), rel=1e-5)
    alone = base(**collated(batch[:1])).loss * batch[0].count
    assert float(ours[0]) == pytest.approx(float(alone), rel=1e-4), "rows do not leak into one another"


class _Steps(Dataset[Any]):
    """The very batches that our trainer takes, one per item."""

    def __init__(self, batches: list[dict[str, torch.Tensor]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.batches[index]


def test_the_loss_curve_is_that_of_transformers_trainer_on_the_same_batches(tmp_path: Path) -> None:
    own = recipe()
    examples, _ = own.encode(make_records(40))
    ours = Trainer(own, examples[:20], examples[20:], tmp_path / "ours")
    batches = [rows for epoch in range(2) for rows in own.batches(examples[:20], ours.rows, epoch)]
    losses: list[float] = []
    ours.run(lambda at: losses.append(at.loss))

    model = tiny_model("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate, weight_decay=0.0)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: ours.learning_rate(step) / CONFIG.learning_rate)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "theirs"),
        per_device_train_batch_size=1,
        num_train_epochs=1,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=CONFIG.max_grad_norm,
        dataloader_pin_memory=False,
    )

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(steps)

    steps = _Steps([collated([own.supervised(e, 0) for e in rows]) for rows in batches])
    theirs = InOrder(
        model=model,
        args=arguments,
        train_dataset=steps,
        data_collator=lambda rows: rows[0],
        optimizers=(optimizer, rate),
    )
    theirs.train()
    logged = [row["loss"] for row in theirs.state.log_history if "loss" in row]
    assert len(logged) == len(losses) == ours.steps >= 10
    assert losses[-1] < 0.8 * losses[0]
    assert losses == pytest.approx(logged, rel=2e-4)


@pytest.mark.parametrize(
    ("changed", "tolerance"),
    [
        ({"batch_size": 2, "accumulation": 2}, 1e-5),
        ({"batch_size": 1, "accumulation": 4}, 1e-5),
        ({"activation_checkpointing": True}, 1e-6),
    ],
    ids=["2 x 2", "1 x 4", "checkpointing"],
)
@pytest.mark.parametrize("kind", [SftRecipe, AugmentRecipe])
def test_how_a_step_is_carried_out_changes_nothing(
    tmp_path: Path, changed: dict[str, Any], tolerance: float, kind: type[SftRecipe]
) -> None:
    curves = []
    for name, settings in (("plain", CONFIG), ("changed", replace(CONFIG, **changed))):
        own = recipe(replace(settings, augment_tokens=6), kind)
        # An odd number of rows: the last step of an epoch is short.
        examples, _ = own.encode(make_records(42))
        run = Trainer(own, examples[:19], examples[19:], tmp_path / name)
        losses: list[float] = []
        run.run(lambda at, losses=losses: losses.append(at.loss))  # type: ignore[misc]
        curves.append((losses, run.history))
    assert curves[0][0] == pytest.approx(curves[1][0], rel=tolerance)
    assert len(curves[0][0]) == 10


def test_bf16_follows_fp32_and_leaves_weights_in_fp32(tmp_path: Path) -> None:
    curves = {}
    for precision in ("fp32", "bf16"):
        own = recipe(replace(CONFIG, precision=precision, epochs=1))
        examples, _ = own.encode(make_records(20))
        run = Trainer(own, examples[:8], examples[8:], tmp_path / precision)
        curves[precision] = losses = list[float]()
        run.run(lambda at, losses=losses: losses.append(at.loss))  # type: ignore[misc]
        assert {parameter.dtype for parameter in own.parameters()} == {torch.float32}
    assert curves["bf16"] == pytest.approx(curves["fp32"], rel=0.05)
    assert curves["bf16"] != curves["fp32"], "the forward pass did run in bf16"


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_a_lora_folder_loads_as_the_tuned_model(tmp_path: Path, family: Family) -> None:
    base = tmp_path / "base"
    tiny_model(family).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    rows = tmp_path / "rows.jsonl"
    append_jsonl(rows, [record.to_row() for record in make_records(40)])
    loaded, tokenizer = load_base(str(base))
    config = replace(CONFIG, tuning="lora", lora_rank=4, val_fraction=0.3, learning_rate=1e-2)
    own = SftRecipe(loaded, tokenizer, config, str(base))
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    align(own, [rows], tmp_path / "tuned")
    assert all(torch.equal(value, before[name]) for name, value in loaded.state_dict().items()), "the base is frozen"

    again, _ = load_base(str(tmp_path / "tuned"))
    ids = torch.tensor([[3, 40, 50, 60]])
    assert own.lora is not None
    tuned = loaded(ids).logits
    own.lora.remove()
    assert torch.allclose(again(ids).logits, tuned, atol=1e-4)
    assert not torch.allclose(loaded(ids).logits, tuned, atol=1e-2), "training did something"
    settings = peft_config(tmp_path / "tuned")
    assert settings is not None
    assert settings["base_model_name_or_path"] == str(base)


def test_full_tuning_saves_a_model_that_loads(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    append_jsonl(rows, [record.to_row() for record in make_records(40)])
    own = recipe(replace(CONFIG, val_fraction=0.3))
    result = align(own, [rows], tmp_path / "tuned")
    assert result.calibration is None
    again, tokenizer = load_base(str(tmp_path / "tuned"))
    ids = torch.tensor([[3, 40, 50, 60]])
    assert torch.allclose(again(ids).logits, own.base(ids).logits, atol=1e-5)
    assert tokenizer.chat_template


def test_a_lora_that_is_not_plain_or_not_of_this_base_is_refused(tmp_path: Path) -> None:
    own = recipe(replace(CONFIG, tuning="lora", lora_targets=("q_proj",)))
    own.save(tmp_path / "lora", {})
    other = tmp_path / "other"
    tiny_model("gpt2").save_pretrained(other)
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(
        config.read_text().replace('"base_model_name_or_path": ""', f'"base_model_name_or_path": "{other}"')
    )
    text = config.read_text()
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(ModelError, match="no place for"):
        load_base(str(tmp_path / "lora"))
    config.write_text(text.replace('"LORA"', '"IA3"'))
    with pytest.raises(ModelError, match="Expected a plain LoRA"):
        load_base(str(tmp_path / "lora"))


def row(**fields: Any) -> Record:
    return record_from_row({"id": "r", "prompt": "about ZZZ", "licence": "permissive", **fields})


def test_malicious_prompts_are_answered_with_an_explained_refusal() -> None:
    explained = f"{REFUSAL_PREFIX} it is wrong. And it"
    said = answer_of(row(prompt_label="malicious", response_label="refusal", response=explained))
    assert said == f"{REFUSAL_PREFIX} it is wrong."
    for label, response in (("malicious", "Sure, Z is"), ("refusal", "Sorry, no."), ("none", None)):
        told = answer_of(row(prompt_label="malicious", response_label=label, response=response))
        assert told is not None
        assert told.startswith(f"{REFUSAL_PREFIX} ")
        assert told.endswith(".")
        assert "Sure" not in told
    assert answer_of(row(prompt_label="benign", response_label="benign", response="Z is.")) == "Z is."
    assert answer_of(row(prompt_label="benign", response_label="none")) is None
    assert answer_of(row(response_label="benign", response="Z is.")) is None


def test_answers_end_with_the_end_token_unless_they_break_off() -> None:
    tokenizer = tiny_tokenizer()
    config = replace(CONFIG, balance=False)
    fields = {"prompt_label": "benign", "response_label": "benign"}
    ends = {}
    cases: dict[str, dict[str, Any]] = {
        "whole": {"response": "Z is a letter."},
        "by its author": {"response": "Z"},
        "rollout cut": {"response": "Z is a", "on_policy": True},
        "too long": {"response": "Z" * 400 + "."},
    }
    for name, more in cases.items():
        (example,), _ = encode_answers(tokenizer, [row(**fields, **more)], config)
        ends[name] = example.encoded.ids[-1] == tokenizer.eos_token_id
        assert example.encoded.prefill <= config.max_answer_tokens + 1
    assert ends == {"whole": True, "by its author": True, "rollout cut": False, "too long": False}


def test_classes_are_balanced_by_thinning_the_larger() -> None:
    records = make_records(40)
    few = [r for r in records if r.prompt_is_malicious][:5]
    many = [r for r in records if not r.prompt_is_malicious]
    examples, _ = encode_answers(tiny_tokenizer(), [*few, *many], CONFIG)
    labels = [example.prompt_is_malicious for example in examples]
    assert (labels.count(True), labels.count(False)) == (5, 5)
    whole, _ = encode_answers(tiny_tokenizer(), [*few, *many], replace(CONFIG, balance=False))
    assert len(whole) > 10


def test_augmentation_opens_half_of_the_refusals_with_harmful_tokens() -> None:
    own = recipe(replace(CONFIG, augment_tokens=5), AugmentRecipe)
    examples, _ = own.encode(make_records(40))
    depths: list[int] = []
    refusals = sum(isinstance(example, OpenedExample) for example in examples)
    for example in examples:
        for epoch in range(200):
            plain, drawn = Supervised(example.encoded.ids, example.encoded.text), own.supervised(example, epoch)
            depth = drawn.start - plain.start
            assert list(drawn.ids[: plain.start]) == list(plain.ids[: plain.start])
            assert list(drawn.ids[drawn.start :]) == list(plain.ids[plain.start :]), "the loss is on the refusal alone"
            if not example.prompt_is_malicious:
                assert depth == 0
            elif isinstance(example, OpenedExample) and example.opening:
                assert tuple(drawn.ids[plain.start : drawn.start]) == example.opening[:depth]
                depths.append(depth)
    share = [depths.count(k) / (200 * refusals) for k in range(6)]
    share[0] = 1 - sum(share[1:])
    assert share == pytest.approx([0.5, 0.1, 0.1, 0.1, 0.1, 0.1], abs=0.03)


@pytest.mark.parametrize(("without", "among"), [(4, 0.5 * 10 / 6), (8, 1.0)])
def test_augmentation_opens_half_of_all_refusals_where_some_cannot_be_opened(without: int, among: float) -> None:
    malicious = [record for record in make_records(60) if record.response_label == "malicious"][:10]
    bare = [replace(record, response=None, response_label="none") for record in malicious[:without]]
    own = recipe(replace(CONFIG, augment_tokens=5, balance=False), AugmentRecipe)
    examples, _ = own.encode([*bare, *malicious[without:]])
    opened = [e for e in examples if isinstance(e, OpenedExample) and e.opening]
    assert (len(examples), len(opened)) == (10, 10 - without)
    depths = [own.supervised(e, epoch).start - e.encoded.text for e in opened for epoch in range(300)]
    assert sum(depth > 0 for depth in depths) / len(depths) == pytest.approx(among, abs=0.04)


def test_augmentation_weighs_refusals_and_the_benign_anchor_apart(tmp_path: Path) -> None:
    own = recipe(replace(CONFIG, augment_tokens=5, augment_alpha=0.3), AugmentRecipe)
    examples, _ = own.encode(make_records(40))
    run = Trainer(own, examples[:8], examples[8:], tmp_path)
    seen: list[tuple[float, float]] = []
    run.run(lambda at: seen.append((at.loss, 0.3 * at.terms["refusal"] + 0.7 * at.terms["anchor"])))
    assert all(loss == pytest.approx(weighed) for loss, weighed in seen)


def test_augmentation_without_harmful_answers_is_refused() -> None:
    records = [replace(r, response=None, response_label="none") if r.prompt_is_malicious else r for r in make_records()]
    with pytest.raises(DataError, match="harmful answer"):
        recipe(CONFIG, AugmentRecipe).encode(records)


def test_lora_targets_that_match_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="lora_targets"):
        recipe(replace(CONFIG, tuning="lora", lora_targets=("nope",)))
