"""The paper's two stages: who sees what in training as tables, the losses, what is learnt, and what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import safesignal.align.joint as joint_module
from safesignal.align.config import AlignConfig
from safesignal.align.examples import Example, Labelled
from safesignal.align.joint import JointRecipe
from safesignal.align.pretrain import PretrainRecipe
from safesignal.align.registry import recipe_class
from safesignal.align.run import align
from safesignal.align.trainer import Trainer
from safesignal.config import SignalConfig
from safesignal.data.records import Record, append_jsonl, record_from_row
from safesignal.errors import AdapterError, DataError, SafeSignalError, UsageError
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.zoo import load_base
from safesignal.rules import EVERY, REFUSAL_PREFIX, Policy
from safesignal.types import Span
from tests.align.conftest import make_records
from tests.align.test_sft import collated
from tests.modeling.joint import bare_tokenizer, watched
from tests.support import EOS, FAMILIES, Family, tiny_model, tiny_tokenizer

CONFIG = AlignConfig(
    recipe="joint",
    lora_rank=4,
    batch_size=4,
    eval_every=3,
    epochs=2,
    learning_rate=3e-3,
    patience=99,
    max_answer_tokens=48,
)
WINDOWS = [
    Labelled(Span(query=True), True),
    Labelled(Span(0, 1), False),
    Labelled(Span(0, 2), False),
    Labelled(Span(1, 2), False),
]


def recipe(
    config: AlignConfig = CONFIG, kind: type[JointRecipe] = JointRecipe, family: Family = "llama", **signal: Any
) -> JointRecipe:
    model = SafeSignalModel.from_base(
        tiny_model(family), tokenizer=tiny_tokenizer(), config=SignalConfig(recipe="joint", **signal)
    )
    return kind(model, config)


def bare(kind: type[JointRecipe], **signal: Any) -> JointRecipe:
    model = SafeSignalModel.from_base(
        tiny_model("llama"), tokenizer=bare_tokenizer(), config=SignalConfig(recipe="joint", **signal)
    )
    return kind(model, replace(CONFIG, recipe="joint"))


def example_of(own: JointRecipe, answer: str, *, prompt: str = "ab") -> Example:
    record = record_from_row({"id": "one", "prompt": prompt, "prompt_label": "malicious", "response": answer})
    encoded = own.model.encode_one(prompt, answer)
    return Example(record, encoded, True, False)


def tables(own: JointRecipe, batch: Sequence[Example]) -> list[list[str]]:
    with watched(own.model) as seen:
        own.read(batch, 0)
    (masks,) = seen.masks
    return masks


def assert_table(found: list[str], expected: Sequence[str]) -> None:
    assert found == [row.replace("|", "") for row in expected]


# ------------------------------------------------------------------------------------------------------ who sees what


def test_the_papers_alignment_stage() -> None:
    """`<ab>cde`: query and template tokens see no [CLS], answer tokens do; [CLS] sees the query alone."""
    own = bare(JointRecipe)
    (found,) = tables(own, [example_of(own, "cde")])
    assert_table(
        found,
        [
            "x......|.",
            "xx.....|.",
            "xxx....|.",
            "xxxx...|.",
            "xxxxx..|x",
            "xxxxxx.|x",
            "xxxxxxx|x",
            ".xx....|x",
        ],
    )


def test_inference_spans_in_the_alignment_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer token sees the latest check complete before it; of two after the same token, the last one drawn."""
    monkeypatch.setattr(joint_module, "draw_checks", lambda *_: WINDOWS)
    own = bare(JointRecipe, cls_spans="inference")
    (found,) = tables(own, [example_of(own, "cde")])
    assert_table(
        found,
        [
            "x......|....",
            "xx.....|....",
            "xxx....|....",
            "xxxx...|....",
            "xxxxx..|x...",  # c: the query check
            "xxxxxx.|.x..",  # d: the check after c
            "xxxxxxx|...x",  # e: two checks after d, the last of them
            ".xx....|x...",
            "....x..|.x..",
            "....xx.|..x.",
            ".....x.|...x",
        ],
    )


def test_rows_of_unequal_length_and_number_of_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        joint_module, "draw_checks", lambda example, *_: WINDOWS[:2] if example.encoded.prefill == 3 else WINDOWS[:1]
    )
    own = bare(JointRecipe, cls_spans="inference")
    _, short = tables(own, [example_of(own, "cde"), example_of(own, "c")])
    assert_table(
        short,
        [
            "x......|..",  # padding sees itself
            ".x.....|..",
            "..x....|..",
            "..xx...|..",
            "..xxx..|..",
            "..xxxx.|..",
            "..xxxxx|x.",
            "...xx..|x.",
            ".......|.x",  # a row with fewer checks is filled up
        ],
    )


def test_the_pretraining_stage() -> None:
    """[CLS] sees every token, nobody sees [CLS]."""
    own = bare(PretrainRecipe)
    records = [record_from_row({"id": "one", "prompt": "abcd", "prompt_label": "benign"})]
    examples, _ = own.encode(records)
    (found,) = tables(own, examples)
    assert_table(found, ["x...|.", "xx..|.", "xxx.|.", "xxxx|.", "xxxx|x"])


# --------------------------------------------------------------------------------------------------------------- losses


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_without_cls_the_loss_is_that_of_transformers(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JointRecipe, "since", lambda *_: None)
    own = recipe(family=family)
    batch = own.encode(make_records(12))[0][:4]
    ours = own.read(batch, 0)
    rows = [own.supervised(example, 0) for example in batch]
    theirs = own.base(**collated(rows)).loss * sum(row.count for row in rows)
    assert float(ours.lm) == pytest.approx(float(theirs), rel=1e-4)
    assert own.counts(batch, 0) == {"lm": sum(row.count for row in rows), "cls": len(ours.targets)}


@torch.no_grad()
def test_with_cls_it_is_another() -> None:
    own = recipe()
    batch = own.encode(make_records(12))[0][:4]
    seen = float(own.read(batch, 0).lm)
    own.model.forward_signal.adapter.cls_D.mul_(-50)
    assert float(own.read(batch, 0).lm) != pytest.approx(seen, rel=1e-4)


@torch.no_grad()
def test_rows_without_a_label_are_validated_by_their_text() -> None:
    own = recipe(kind=PretrainRecipe)
    examples, _ = own.encode(make_records(4))
    found = own.validate([replace(example, prompt_is_malicious=None) for example in examples])
    assert found.signal.n == 0
    assert found.loss == found.lm.loss, "a number, or no weights would ever be the best"


@torch.no_grad()
def test_padding_and_neighbours_change_nothing() -> None:
    own = recipe(cls_spans="inference")
    batch = sorted(own.encode(make_records(40))[0], key=lambda one: len(one.encoded.ids))[::8]
    assert len({len(one.encoded.ids) for one in batch}) > 2
    together, alone = own.read(batch, 0), [own.read([one], 0) for one in batch]
    assert float(together.lm) == pytest.approx(sum(float(one.lm) for one in alone), rel=1e-5)
    assert torch.allclose(together.scores, torch.cat([one.scores for one in alone]), atol=1e-4)


def test_gradients_reach_everything_that_is_trained() -> None:
    own = recipe(cls_spans="inference")
    batch = own.encode(make_records(12))[0][:4]
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    sums = own.module()(batch, 0)
    for name, missing in (("lm", {"head.proj.weight", "head.proj.bias"}), ("cls", set())):
        for parameter in own.parameters():
            parameter.grad = None
        sums[name].backward(retain_graph=True)
        blank = {
            n for n, p in own.model.forward_signal.adapter.named_parameters() if p.grad is None or not p.grad.any()
        }
        assert blank == missing, f"{name} trains the signal's embedding, since answers see it"
        assert own.lora is not None
        # Of the last layer's feed-forward every part works on the row it is in; all of them are on the way.
        assert all(p.grad is not None and bool(p.grad.any()) for p in own.lora.parameters())


@pytest.mark.parametrize(
    "changed",
    [{"batch_size": 2, "accumulation": 2}, {"batch_size": 1, "accumulation": 4}, {"activation_checkpointing": True}],
    ids=["2 x 2", "1 x 4", "checkpointing"],
)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_how_a_step_is_carried_out_changes_nothing(tmp_path: Path, changed: dict[str, Any], tuning: Any) -> None:
    curves = []
    for name, settings in (("plain", CONFIG), ("changed", replace(CONFIG, **changed))):
        own = recipe(replace(settings, tuning=tuning, epochs=1, learning_rate=1e-3), cls_spans="inference")
        examples, _ = own.encode(make_records(42))
        run = Trainer(own, examples[:19], examples[19:23], tmp_path / name)
        losses: list[float] = []
        run.run(lambda at, losses=losses: losses.append(at.loss))  # type: ignore[misc]
        curves.append(losses)
    assert len(curves[0]) >= 5
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


def test_bf16_is_close_to_fp32(tmp_path: Path) -> None:
    curves = []
    for precision in ("fp32", "bf16"):
        own = recipe(replace(CONFIG, precision=precision, epochs=1))
        examples, _ = own.encode(make_records(30))
        run = Trainer(own, examples[:12], examples[12:16], tmp_path / precision)
        losses: list[float] = []
        run.run(lambda at, losses=losses: losses.append(at.loss))  # type: ignore[misc]
        curves.append(losses)
    assert curves[1] == pytest.approx(curves[0], rel=0.05)
    assert curves[1] != curves[0]


# ------------------------------------------------------------------------------------------------------- what is learnt


def harmful_records() -> list[Record]:
    return [record for record in make_records(40) if record.response_label == "malicious"]


def test_targets_are_answers_and_explained_refusals() -> None:
    own = recipe()
    examples, _ = own.encode(make_records(40))
    texts = {e.record.id: str(own.tokenizer.decode(list(e.encoded.ids[e.encoded.text :]))) for e in examples}
    for example in examples:
        refused = texts[example.record.id].startswith(REFUSAL_PREFIX)
        assert refused == bool(example.prompt_is_malicious)
        assert own.supervised(example, 0).start == example.encoded.text
    malicious = [bool(example.prompt_is_malicious) for example in examples]
    assert sum(malicious) * 2 == len(malicious), "balanced"


def test_harmful_answers_are_checked_and_never_learnt() -> None:
    assert all(not e.response_is_malicious for e in recipe().encode(make_records(40))[0]), "the paper has none"
    own = recipe(cls_spans="inference")
    examples, _ = own.encode(make_records(40))
    harmful = [example for example in examples if example.response_is_malicious]
    assert harmful
    assert len(harmful) <= sum(bool(e.prompt_is_malicious) and not e.response_is_malicious for e in examples)
    assert own.counts(harmful, 0)["lm"] == 0
    sums = own.module()(harmful[:3], 0)
    assert sums["lm"].item() == 0.0
    assert sums["lm"].requires_grad, "data parallel waits for every parameter"
    assert sums["cls"].item() > 0
    drawn = own.checks(harmful[0], 0)
    assert [check.span.query for check in drawn] == [True] + [False] * (CONFIG.checks_per_row - 1)
    assert all(check.malicious for check in drawn)


def test_harmful_answers_come_on_top_of_the_rows_that_are_learnt() -> None:
    """With them and without, L_sft has the same rows in the same steps."""
    records = make_records(80)
    plain, windows = recipe(), recipe(cls_spans="inference")
    steps = list(plain.batches(plain.encode(records)[0], 8, 0))
    more = list(windows.batches(windows.encode(records)[0], 8, 0))

    def learnt(step: Sequence[Example]) -> list[str]:
        return [example.record.id for example in step if not example.response_is_malicious]

    assert [learnt(step) for step in more if learnt(step)] == [learnt(step) for step in steps]
    extra = [len(step) - len(learnt(step)) for step in more]
    assert min(extra[: len(steps) // 2]) > 0
    for step in steps[: len(steps) // 2]:
        assert sum(bool(example.prompt_is_malicious) for example in step) == 4


def test_the_end_token_is_learnt_and_never_checked() -> None:
    own = recipe(cls_spans="inference")
    examples, _ = own.encode(make_records(40))
    ended = [example for example in examples if example.encoded.ids[-1] == EOS]
    assert ended
    for example in ended:
        text = example.encoded.prefill - 1
        assert all(check.span.end <= text for epoch in range(8) for check in own.checks(example, epoch))
        assert own.supervised(example, 0).ids[-1] == EOS


def test_steps_hold_both_classes_in_proportion() -> None:
    own = recipe()
    examples, _ = own.encode(make_records(40))
    for rows in (4, 6):
        steps = list(own.batches(examples, rows, 0))
        assert sorted(id(e) for step in steps for e in step) == sorted(id(e) for e in examples)
        assert all(sum(bool(e.prompt_is_malicious) for e in step) * 2 == len(step) for step in steps[:-1])
    assert [len(step) for step in own.batches(examples[:1], 4, 0)] == [1]


def test_raw_text_is_learnt_from_its_second_token() -> None:
    own = recipe(replace(CONFIG, recipe="pretrain", max_prompt_tokens=20), PretrainRecipe)
    rows = [
        {"id": "1", "prompt": "some text", "prompt_label": "benign"},
        {"id": "2", "prompt": "x" * 21, "prompt_label": "benign"},
        {"id": "3", "prompt": "unlabelled"},
    ]
    examples, left_out = own.encode([record_from_row(row) for row in rows])
    assert ([e.record.id for e in examples], left_out) == (["1"], 2)
    assert own.tokenizer.decode(list(examples[0].encoded.ids)) == "some text", "no chat template"
    assert own.counts(examples, 0) == {"lm": len("some text") - 1, "cls": 1}
    with pytest.raises(DataError, match="no text can be trained on"):
        own.encode([record_from_row(rows[1])])


def test_a_gated_signal_is_refused() -> None:
    model = SafeSignalModel.from_base(tiny_model("llama"), tokenizer=tiny_tokenizer())
    with pytest.raises(UsageError, match="recipe = gated"):
        JointRecipe(model, CONFIG)


# -------------------------------------------------------------------------------------------------------- from files on


def base_folder(tmp_path: Path) -> str:
    folder = tmp_path / "base"
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def trained(
    tmp_path: Path, base: str, config: AlignConfig, name: str = "out", *, template: str | None = None, **signal: Any
) -> tuple[Any, Path]:
    data, out = tmp_path / f"{config.recipe}.jsonl", tmp_path / name
    rows = make_records(60)
    if config.recipe == "pretrain":
        rows = [record_from_row({**r.to_row(), "response": None, "response_label": "none"}) for r in rows]
    if not data.exists():
        append_jsonl(data, [record.to_row() for record in rows])
    how = {} if template is None else {"chat_template": template}
    own = recipe_class(config.recipe).from_base(base, config, SignalConfig(recipe="joint", **signal), **how)
    align(own, [data], out)
    return own, out


def said(model: SafeSignalModel) -> list[Any]:
    options = model.options(max_new_tokens=12)
    encoded = [model.encode_one(prompt) for prompt in ("tell me 3 things about ZZZ", "hello")]
    answers = model.answer(encoded, policy=Policy(dependence="low"), schedule=EVERY, options=options)
    return [(answer.ids, [round(check.signal, 3) for check in answer.checks]) for answer in answers]


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_what_is_saved_is_what_was_trained(tmp_path: Path, tuning: Any) -> None:
    base = base_folder(tmp_path)
    own, out = trained(tmp_path, base, replace(CONFIG, tuning=tuning, learning_rate=3e-3))
    curve = [row["train_loss"] for row in own.model.training_record["history"]]
    assert curve[-1] < 0.8 * curve[0]
    loaded = SafeSignalModel.from_pretrained(out)
    assert (loaded.config.recipe, loaded.config.position, loaded.base_drift) == ("joint", "first", "")
    assert loaded.config.presets == own.model.config.presets
    assert said(loaded) == said(own.model)
    assert said(loaded) != said(with_untuned_base(base, out))
    loaded.save_pretrained(tmp_path / "again")
    again = SafeSignalModel.from_pretrained(tmp_path / "again")
    assert said(again) == said(loaded)
    assert again.fingerprint() == loaded.fingerprint()
    alone, _ = load_base(str(out / "lm"))
    for name, value in alone.state_dict().items():
        assert torch.allclose(value, loaded.base.state_dict()[name], atol=1e-6), f"`lm/` is a model by itself: {name}"


def with_untuned_base(base: str, out: Path) -> SafeSignalModel:
    model = SafeSignalModel.from_pretrained(out)
    untuned, _ = load_base(base)
    model.base.load_state_dict(untuned.state_dict())
    return model


def test_a_joint_adapter_meets_the_base_it_was_trained_for_and_no_other(tmp_path: Path) -> None:
    base = base_folder(tmp_path)
    _, out = trained(tmp_path, base, replace(CONFIG, epochs=0.5))
    with pytest.raises(AdapterError, match="meets a base whose weights differ"):
        SafeSignalModel.from_pretrained(out, base=tiny_model("llama", seed=1), tokenizer=tiny_tokenizer())
    (out / "lm" / "adapter_config.json").unlink()
    (out / "lm").rename(out / "elsewhere")
    with pytest.raises(AdapterError, match="lacks its language model"):
        SafeSignalModel.from_pretrained(out)


@pytest.mark.parametrize(("first", "second"), [("lora", "lora"), ("lora", "full"), ("full", "lora")])
def test_alignment_goes_on_from_pretraining(tmp_path: Path, first: Any, second: Any) -> None:
    """The second stage starts at the weights of the first, and what it saves holds both."""
    base = base_folder(tmp_path)
    stage, folder = trained(
        tmp_path, base, replace(CONFIG, recipe="pretrain", tuning=first, lambda_cls=0.01, lora_rank=2), "first"
    )
    assert stage.model.training_record["stage"] == "pretrain"
    config = replace(CONFIG, tuning=second, start=str(folder))
    begun = recipe_class("joint").from_base(base, config, SignalConfig(recipe="joint"))
    assert said(begun.model) == said(SafeSignalModel.from_pretrained(folder))  # type: ignore[attr-defined]
    own, out = trained(tmp_path, base, config, "second")
    loaded = SafeSignalModel.from_pretrained(out)
    assert said(loaded) == said(own.model)
    assert loaded.trained_for == stage.model.trained_for, "the base is the untuned one"


def test_both_stages_from_a_base_model_that_never_had_a_template(tmp_path: Path) -> None:
    """As recipes/llama-2-7b.toml says: the same template in both stages and at inference, and no other."""
    base = base_folder(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    for left in Path(base).glob("*.jinja"):
        left.unlink()
    tokenizer.save_pretrained(base)
    with pytest.raises(SafeSignalError, match="chat template"):
        trained(tmp_path, base, CONFIG, "none")
    _, first = trained(tmp_path, base, replace(CONFIG, recipe="pretrain", epochs=0.5), "first", template="plain")
    own, out = trained(tmp_path, base, replace(CONFIG, epochs=0.5, start=str(first)), "second", template="plain")
    loaded = SafeSignalModel.from_pretrained(out, chat_template="plain")
    assert said(loaded) == said(own.model)
    assert own.model.encode_one("ab").ids == loaded.encode_one("ab").ids


def test_a_run_starts_from_nothing_but_a_pretraining_run(tmp_path: Path) -> None:
    base = base_folder(tmp_path)
    model = SafeSignalModel.from_base(base)
    model.trained_signal = True
    model.save_pretrained(tmp_path / "gated")
    with pytest.raises(AdapterError, match="holds a gated adapter"):
        JointRecipe.from_base(base, replace(CONFIG, start=str(tmp_path / "gated")), SignalConfig(recipe="joint"))
