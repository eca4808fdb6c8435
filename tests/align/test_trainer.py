"""Training learns, resumes exactly, and leaves the base alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from safesignal.align.config import RECIPES, AlignConfig
from safesignal.align.evaluate import place_checks
from safesignal.align.examples import encode_examples, load_mixture
from safesignal.align.gated import GatedRecipe
from safesignal.align.recipe import Rows
from safesignal.align.run import align
from safesignal.align.thresholds import recalibrate
from safesignal.align.trainer import Progress, Trainer
from safesignal.config import PRESETS, OperatingPoint, SignalConfig
from safesignal.data.mixture import SPLIT_SEED, split_by_prompt
from safesignal.data.records import Message, Record, append_jsonl, read_records
from safesignal.errors import AdapterError, DataError, UsageError
from safesignal.modeling.model import SafeSignalModel
from tests.align.conftest import make_model, make_records
from tests.invariants.harness import save_with_base

CONFIG = AlignConfig(batch_size=8, eval_every=3, epochs=2, learning_rate=5e-3, patience=99)


def trainer(folder: Path, config: AlignConfig = CONFIG) -> Trainer:
    model = make_model()
    examples, _ = encode_examples(model, make_records(), config)
    return Trainer(GatedRecipe(model, config), examples[:32], examples[32:], folder)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.recipe.state().items()}


def base(run: Trainer) -> dict[str, torch.Tensor]:
    assert isinstance(run.recipe, GatedRecipe)
    return run.recipe.model.base.state_dict()


class _CutError(Exception):
    """Stands for a machine that was switched off."""


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.run(lambda _: None)

    def cut(at: Progress) -> None:
        if at.step == 5:
            raise _CutError

    first = trainer(tmp_path / "parts")
    with pytest.raises(_CutError):
        first.run(cut)
    second = trainer(tmp_path / "parts")
    second.run(lambda _: None)
    assert second.history == whole.history
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name


@pytest.mark.parametrize(("seconds", "resumed_at"), [(0.0, 5), (600.0, 0)])
def test_a_run_is_kept_by_the_clock_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, resumed_at: int
) -> None:
    monkeypatch.setattr("safesignal.align.trainer._CHECKPOINT_SECONDS", seconds)
    config = replace(CONFIG, eval_every=1000)
    whole = trainer(tmp_path / "whole", config)
    whole.run(lambda _: None)

    def cut(at: Progress) -> None:
        if at.step == 5:
            raise _CutError

    with pytest.raises(_CutError):
        trainer(tmp_path / "parts", config).run(cut)
    steps: list[int] = []
    second = trainer(tmp_path / "parts", config)
    second.run(lambda at: steps.append(at.step))
    assert steps[0] == resumed_at + 1
    assert second.history == whole.history
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(CONFIG, epochs=12))
    before = {name: value.clone() for name, value in base(run).items()}
    losses: list[float] = []
    run.run(lambda at: losses.append(at.loss))
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])
    assert all(torch.equal(value, before[name]) for name, value in base(run).items())


def test_every_adapter_weight_is_trained(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    before = weights(run)
    run.run(lambda _: None)
    still = [name for name, value in weights(run).items() if torch.equal(value, before[name])]
    assert still == []


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(CONFIG, learning_rate=0.5, epochs=4))
    run.run(lambda _: None)
    best = torch.load(tmp_path / "best.pt", weights_only=True)
    assert best["best_loss"] == min(row["loss"] for row in run.history) or best["best_loss"] == run.best_loss
    assert all(torch.equal(value, weights(run)[name]) for name, value in best["weights"].items())


def test_other_settings_do_not_go_on_from_a_run(tmp_path: Path) -> None:
    trainer(tmp_path).run(lambda _: None)
    with pytest.raises(UsageError, match="other settings"):
        trainer(tmp_path, replace(CONFIG, learning_rate=1e-4)).run(lambda _: None)
    other = trainer(tmp_path)
    other.train = other.train[1:]
    with pytest.raises(UsageError, match="other settings, rows or base"):
        other.run(lambda _: None)


def test_the_learning_rate_warms_up_and_decays(tmp_path: Path) -> None:
    run = trainer(tmp_path, replace(CONFIG, epochs=10, warmup_ratio=0.1))
    rates = [run.learning_rate(step) for step in range(run.steps)]
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(CONFIG.learning_rate)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] < 0.01 * CONFIG.learning_rate


@pytest.mark.parametrize(("limit", "steps"), [(0, 8), (3, 3), (99, 8)])
def test_a_limit_ends_the_run_and_its_decay_early(tmp_path: Path, limit: int, steps: int) -> None:
    run = trainer(tmp_path, replace(CONFIG, max_steps=limit))
    seen: list[Progress] = []
    run.run(seen.append)
    assert [progress.step for progress in seen] == list(range(1, steps + 1))
    assert run.learning_rate(steps) == pytest.approx(0.0)


def saved(folder: Path, model: SafeSignalModel) -> SafeSignalModel:
    """Save a base, and an adapter of weights of its own beside it."""
    with torch.no_grad():
        model.forward_signal.adapter.head.proj.weight.fill_(0.25)
    model.trained_signal = True
    model.training_record = {"steps": 7}
    save_with_base(model, folder)
    return model


def test_a_run_goes_on_from_an_adapter_also_on_a_base_that_was_tuned_since(tmp_path: Path) -> None:
    first = saved(tmp_path, make_model())
    with torch.no_grad():
        first.base.model.layers[0].mlp.up_proj.weight += 0.01
    first.base.save_pretrained(tmp_path / "tuned")
    first.tokenizer.save_pretrained(tmp_path / "tuned")
    config = replace(CONFIG, start=str(tmp_path / "adapter"))
    runs = [GatedRecipe.from_base(str(tmp_path / name), config, SignalConfig()) for name in ("base", "tuned")]
    for run in runs:
        assert run.model.fingerprint() == first.fingerprint()
        assert run.model.config.rank == 4, "the start's signal, where none is asked for"
        assert (run.model.base_drift, run.model.trained_for) == ("", None)
        assert all(parameter.requires_grad for parameter in run.model.forward_signal.adapter.parameters())
    assert runs[0].identity()["start"] == first.fingerprint()
    assert runs[0].identity()["base"] != runs[1].identity()["base"]
    anew = GatedRecipe.from_base(str(tmp_path / "base"), CONFIG, SignalConfig())
    assert "start" not in anew.identity()
    examples, _ = encode_examples(runs[1].model, make_records(), config)
    Trainer(runs[1], examples[:32], examples[32:], tmp_path / "run").run(lambda _: None)
    runs[1].model.save_pretrained(tmp_path / "second")
    assert SafeSignalModel.from_pretrained(tmp_path / "second", base=str(tmp_path / "tuned")).base_drift == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reader_is_added_to_an_adapter_and_trained_by_queries_alone(tmp_path: Path, dtype: str) -> None:
    """What looks at answers stays as it was, bit for bit, although the rows have answers."""
    first = saved(tmp_path, make_model())
    config = replace(CONFIG, start=str(tmp_path / "adapter"), windows=False)
    recipe = GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig(rank=4, reader_rank=2), dtype=dtype)
    reader, last = recipe.model.forward_signal.adapter.reader, recipe.model.encode_one("Hi").ids[-1]
    assert reader is not None
    embedding = recipe.model.base.get_input_embeddings()(torch.tensor(last))
    assert torch.equal(reader.cls_D, embedding.float()), "drawn at random it stays blind for long"
    assert not any(parameter.any() for parameter in reader.head.parameters())
    twice = [*make_records(), *(replace(record, response="another answer") for record in make_records())]
    examples, _ = recipe.encode(twice)
    assert len(examples) == 40
    assert not any(example.encoded.prefill for example in examples)
    run = Trainer(recipe, examples[:32], examples[32:], tmp_path / "run")
    before = weights(run)
    run.run(lambda _: None)
    changed = {name for name, value in weights(run).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("reader.")}
    kept = {name: value for name, value in weights(run).items() if name not in changed}
    started = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert kept.keys() == started.keys() == first.forward_signal.adapter.state_dict().keys()
    assert all(torch.equal(value, kept[name].half()) for name, value in started.items())
    recipe.model.trained_signal = True
    recipe.save(tmp_path / "second", {"steps": run.step})
    record = SafeSignalModel.from_pretrained(tmp_path / "second", base=str(tmp_path / "base")).training_record
    assert record == {"steps": run.step, "start": {"steps": 7}}
    config = replace(config, start=str(tmp_path / "second"))
    with pytest.raises(UsageError, match=r"reader_rank = 2.*asks for: 8"):
        GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig(rank=4, reader_rank=8))


def test_a_reader_of_answers_begins_as_that_of_queries_and_is_trained_alone(tmp_path: Path) -> None:
    saved(tmp_path, make_model(reader_rank=2))
    config = replace(CONFIG, start=str(tmp_path / "adapter"), read_answers=True, epochs=12)
    signal = SignalConfig(rank=4, reader_rank=2, answer_reader_rank=2)
    recipe = GatedRecipe.from_base(str(tmp_path / "base"), config, signal)
    before = {name: value.clone() for name, value in recipe.state().items()}
    for name, value in before.items():
        if name.startswith("answer_reader."):
            assert torch.equal(value, before[name.removeprefix("answer_")]), name
    examples, _ = recipe.encode(make_records())
    assert {example.prompt_is_malicious for example in examples} == {None}
    looking, anew = place_checks(recipe.model, examples, config, 0)
    assert looking == []
    assert all(not check.span.query and sight.if_suspicious for _, check, sight in anew)
    run = Trainer(recipe, examples[:32], examples[32:], tmp_path / "run")
    losses: list[float] = []
    run.run(lambda at: losses.append(at.loss))
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])
    changed = {name for name, value in recipe.state().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("answer_reader.")}
    other = GatedRecipe.from_base(str(tmp_path / "base"), config, replace(signal, answer_reader_rank=4))
    assert other.model.forward_signal.adapter.answer_reader is not None
    assert not any(p.any() for p in other.model.forward_signal.adapter.answer_reader.head.parameters())
    recipe.model.trained_signal = True
    recipe.save(tmp_path / "second", {})
    again = replace(config, start=str(tmp_path / "second"))
    assert GatedRecipe.from_base(str(tmp_path / "base"), again, SignalConfig()).model.config.answer_reader_rank == 2


def test_when_readers_read_stays_as_it_was_unless_a_run_says_otherwise(tmp_path: Path) -> None:
    model = make_model(reader_rank=2)
    model.config = replace(model.config, surprise=30.0, suspicion=0.2, tau=3)
    saved(tmp_path, model)
    config = replace(CONFIG, start=str(tmp_path / "adapter"))
    for asked, expected in [
        (SignalConfig(), (30.0, 0.2, 3)),
        (SignalConfig(rank=4), (30.0, 0.2, 2)),
        (SignalConfig(rank=4, surprise=20.0), (20.0, 0.2, 2)),
        (SignalConfig(rank=4, suspicion=0.4), (30.0, 0.4, 2)),
    ]:
        found = GatedRecipe.from_base(str(tmp_path / "base"), config, asked).model.config
        assert (found.surprise, found.suspicion, found.tau) == expected


def test_no_run_begins_a_reader_that_it_does_not_train(tmp_path: Path) -> None:
    """What it says then is one half, or what it was copied from knows, and it would be saved as if it had learnt."""
    base = str(tmp_path / "base")
    saved(tmp_path, make_model())
    start = replace(CONFIG, start=str(tmp_path / "adapter"))
    both, answers = SignalConfig(rank=4, reader_rank=2, answer_reader_rank=2), replace(CONFIG, read_answers=True)
    for config, signal, said in [
        (replace(start, read_answers=True), SignalConfig(rank=4), "answer_reader_rank is 0"),
        (answers, both, "start is empty"),
        (start, both, "answer_reader_rank = 2 asks for a reader"),
        (CONFIG, both, "answer_reader_rank = 2 asks for a reader"),
        (replace(start, windows=False), both, "answer_reader_rank = 2 asks for a reader"),
        (replace(start, read_answers=True), both, r"reader_rank = 2 asks for a reader"),
    ]:
        with pytest.raises(UsageError, match=said):
            GatedRecipe.from_base(base, config, signal)
    alone = GatedRecipe.from_base(base, replace(start, read_answers=True), SignalConfig(rank=4, answer_reader_rank=2))
    assert alone.model.forward_signal.adapter.reader is None


def test_what_is_saved_is_the_mean_of_a_run_and_its_start(tmp_path: Path) -> None:
    """A finished run is found again and saved with another share, without a step of training."""
    saved(tmp_path, make_model(reader_rank=2))
    started = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    ends: dict[float, dict[str, torch.Tensor]] = {}
    for share in (0.0, 0.25):
        config = replace(CONFIG, start=str(tmp_path / "adapter"), start_share=share, windows=False)
        recipe = GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig())
        steps: list[Progress] = []
        examples, _ = recipe.encode(make_records())
        run = Trainer(recipe, examples[:32], examples[32:], tmp_path / "run")
        run.run(steps.append)
        assert bool(steps) == (share == 0.0), "the second run trains nothing"
        job = {"job": config.calibration_job}
        rows = split_by_prompt(make_records(200), config.val_fraction, SPLIT_SEED)[1]
        answers = [replace(row, response="an answer", response_label="benign", meta=job) for row in rows]
        run.finish(Rows(answers, examples[:32], examples[32:]), lambda _: None)
        ends[share] = {name: value.clone() for name, value in recipe.state().items()}
    moved = [name for name, value in ends[0.0].items() if not torch.equal(value.half(), started[name])]
    assert moved
    assert all(name.startswith("reader.") for name in moved)
    for name, value in ends[0.25].items():
        assert torch.allclose(value, 0.75 * ends[0.0][name] + 0.25 * started[name].float(), atol=2e-4), name
        assert (name in moved) or torch.equal(value, ends[0.0][name])


def test_no_mean_is_taken_with_what_there_was_not(tmp_path: Path) -> None:
    saved(tmp_path, make_model())
    config = replace(CONFIG, start=str(tmp_path / "adapter"), start_share=0.5, windows=False)
    with pytest.raises(UsageError, match=r"start_share = 0\.5, and .* lacks a reader"):
        GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig(rank=4, reader_rank=2))
    with pytest.raises(UsageError, match=r"start_share = 0\.5 and align\.start is empty"):
        GatedRecipe.from_base(str(tmp_path / "base"), replace(CONFIG, start_share=0.5), SignalConfig(rank=4))
    for bad in ({"start_share": 1.0}, {"start_share": -0.1}, {"start_share": 0.5, "recipe": "sft"}):
        with pytest.raises(UsageError, match="start_share"):
            replace(CONFIG, **bad)


def test_thresholds_of_windows_stay_where_they_were_if_windows_are_not_trained(tmp_path: Path) -> None:
    first = make_model()
    first.config = replace(first.config, presets=dict.fromkeys(PRESETS, OperatingPoint(0.6, 0.97)))
    saved(tmp_path, first)
    config = replace(CONFIG, start=str(tmp_path / "adapter"), windows=False)
    recipe = GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig(rank=4, reader_rank=2))
    assert recipe.model.config.presets == first.config.presets
    recipe.model.trained_signal = True
    answers = [replace(row, response="an answer", response_label="benign") for row in make_records(20)]
    recalibrate(recipe.model, answers, [], config)
    assert {point.window for point in recipe.model.config.presets.values()} == {0.97}
    assert {point.prompt for point in recipe.model.config.presets.values()} != {0.6}
    recalibrate(recipe.model, answers, [], replace(config, windows=True))
    assert max(point.window for point in recipe.model.config.presets.values()) < 0.97


def test_thresholds_of_queries_stay_where_they_were_if_answers_alone_are_read(tmp_path: Path) -> None:
    first = make_model(reader_rank=2)
    first.config = replace(first.config, presets=dict.fromkeys(PRESETS, OperatingPoint(0.6, 0.97)))
    saved(tmp_path, first)
    config = replace(CONFIG, start=str(tmp_path / "adapter"), read_answers=True)
    signal = SignalConfig(rank=4, reader_rank=2, answer_reader_rank=2)
    recipe = GatedRecipe.from_base(str(tmp_path / "base"), config, signal)
    recipe.model.trained_signal = True
    answers = [replace(row, response="an answer", response_label="benign") for row in make_records(20)]
    recalibrate(recipe.model, answers, [], config)
    assert {point.prompt for point in recipe.model.config.presets.values()} == {0.6}
    assert {point.window for point in recipe.model.config.presets.values()} != {0.97}


def test_queries_teach_the_reader_and_answers_the_windows(tmp_path: Path) -> None:
    model = make_model(reader_rank=4)
    examples, _ = encode_examples(model, make_records(), CONFIG)
    run = Trainer(GatedRecipe(model, replace(CONFIG, epochs=12)), examples[:32], examples[32:], tmp_path)
    before = weights(run)
    losses: list[float] = []
    run.run(lambda at: losses.append(at.loss))
    assert sum(losses[-6:]) < 0.6 * sum(losses[:6])
    assert [name for name, value in weights(run).items() if torch.equal(value, before[name])] == []
    assert run.history[-1]["prompt_auc"] == pytest.approx(1.0)


def test_a_query_that_is_read_anew_is_not_looked_at_besides() -> None:
    for rank in (0, 4):
        model = make_model(reader_rank=rank)
        examples, _ = encode_examples(model, make_records(), CONFIG)
        looking, anew = place_checks(model, examples, CONFIG, 0)
        queries = {index for index, example in enumerate(examples) if example.prompt_is_malicious is not None}
        assert queries
        assert {index for index, check, _ in looking if check.span.query} == (set() if rank else queries)
        assert {index for index, _, _ in anew} == (queries if rank else set())
        assert any(not check.span.query for _, check, _ in looking)


def test_a_run_goes_on_from_nothing_of_another_kind(tmp_path: Path) -> None:
    first = saved(tmp_path, make_model())
    config = replace(CONFIG, start=str(tmp_path / "adapter"))
    with pytest.raises(UsageError, match=r"rank = 4.*asks for: 8"):
        GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig(rank=8))
    again = GatedRecipe.from_base(str(tmp_path / "base"), config, SignalConfig(rank=4, tau=1))
    assert again.model.config.tau == 1
    joint = SafeSignalModel.from_base(first.base, tokenizer=first.tokenizer, config=SignalConfig(recipe="joint"))
    joint.trained_signal = True
    joint.save_pretrained(tmp_path / "joint")
    with pytest.raises(AdapterError, match="holds a joint adapter"):
        GatedRecipe.from_base(str(tmp_path / "base"), replace(CONFIG, start=str(tmp_path / "joint")), SignalConfig())
    with pytest.raises(UsageError, match=r"windows is off and align\.start is empty"):
        GatedRecipe.from_base(str(tmp_path / "base"), replace(CONFIG, windows=False), SignalConfig(rank=4))
    with pytest.raises(UsageError, match="windows = False    must be on for all recipes but"):
        AlignConfig(recipe="joint", windows=False)
    with pytest.raises(UsageError, match="start = x    must be empty but for"):
        replace(CONFIG, recipe="sft", start="x")


def test_evaluation_files_and_empty_splits_are_refused(tmp_path: Path, records: list[Record]) -> None:
    reserved = tmp_path / "eval_advbench.jsonl"
    append_jsonl(reserved, [record.to_row() for record in records])
    with pytest.raises(DataError, match="evaluation set"):
        align(GatedRecipe(make_model(), CONFIG), [reserved], tmp_path / "adapter")
    single = tmp_path / "single.jsonl"
    append_jsonl(single, [records[0].to_row()])
    with pytest.raises(DataError, match="Expected some of both"):
        align(GatedRecipe(make_model(), CONFIG), [single], tmp_path / "adapter")


def test_rows_of_two_files_with_equal_ids_are_all_trained_on(records: list[Record]) -> None:
    other = [replace(record, response=f"{record.response}!") for record in records]
    assert len(load_mixture(CONFIG, None, [*records, *other, *records])) == 2 * len(records)


def test_align_saves_an_adapter_that_loads_and_was_calibrated(tmp_path: Path, records: list[Record]) -> None:
    rows = tmp_path / "rows.jsonl"
    append_jsonl(rows, [record.to_row() for record in records])
    model = make_model()
    config = replace(CONFIG, val_fraction=0.3, epochs=3)
    result = align(GatedRecipe(model, config), [rows], tmp_path / "adapter")
    assert result.calibration is not None
    assert set(result.calibration.presets) == {"strict", "balanced", "permissive"}
    looser = replace(config, target_fpr={"strict": 0.9, "balanced": 0.8, "permissive": 0.7})
    again = align(GatedRecipe(make_model(), looser), [rows], tmp_path / "adapter")
    assert again.calibration is not None
    assert again.calibration.presets["strict"].target_fpr == 0.9, "thresholds may be chosen again without training"
    assert again.metrics == result.metrics
    model.config = replace(model.config, presets=again.calibration.presets)
    loaded = SafeSignalModel.from_pretrained(tmp_path / "adapter", base=model.base, tokenizer=model.tokenizer)
    assert loaded.config.presets == again.calibration.presets
    assert loaded.training_record["rows_by_source"]["stand-in"] == loaded.training_record["train_rows"]
    here = model.score(["tell me 1 things about ZZZ"], ["Z is 1"])[0]
    there = loaded.score(["tell me 1 things about ZZZ"], ["Z is 1"])[0]
    assert there.prompt_signal == pytest.approx(here.prompt_signal, abs=1e-6)
    assert there.response_signals == pytest.approx(here.response_signals, abs=1e-6)


def test_what_was_trained_on_is_left_behind_whole(tmp_path: Path, records: list[Record]) -> None:
    """Each conversation once with its label and its split, so that a rival learns from the same; ends alike are two."""
    before = [(Message("user", f"about {letter}"), Message("assistant", "Well.")) for letter in "AZBYCX"]
    rows = [
        replace(row, id=f"more-{row.id}", messages=(*turns, Message("user", "go on")))
        for row, turns in zip(records[:6], before, strict=True)
    ]
    append_jsonl(tmp_path / "rows.jsonl", [row.to_row() for row in (*records, *rows)])
    align(GatedRecipe(make_model(), replace(CONFIG, max_steps=1)), [tmp_path / "rows.jsonl"], tmp_path / "adapter")
    left = read_records(tmp_path / "adapter" / "training" / "prompts.jsonl")
    found = {(row.messages, row.prompt_label) for row in left if row.meta["split"] in ("train", "val")}
    assert found == {(row.messages, row.prompt_label) for row in (*records, *rows)}
    assert {row.response for row in left} == {None}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("recipe", "lora"),
        ("accumulation", 0),
        ("batch_tokens", -1),
        ("precision", "fp16"),
        ("tuning", "some"),
        ("lora_rank", 0),
        ("max_steps", -1),
        ("lambda_cls", -0.1),
        ("augment_share", 1.5),
        ("augment_tokens", 0),
        ("augment_alpha", 2.0),
        ("shard", True),
    ],
)
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"align\.{field} = "):
        replace(AlignConfig(), **{field: value})  # type: ignore[arg-type]


def test_what_is_left_to_the_recipe_is_the_papers_or_ours() -> None:
    """λ1 = 0.01, λ2 = 0.1, no smoothing (paper); 0.05 of smoothing for the gated recipe; what is set stays."""
    stages = {recipe: AlignConfig(recipe=recipe).settled() for recipe in RECIPES}
    assert (stages["pretrain"].lambda_cls, stages["joint"].lambda_cls) == (0.01, 0.1)
    assert {recipe: own.label_smoothing for recipe, own in stages.items()} == dict.fromkeys(RECIPES, 0.0) | {
        "gated": 0.05
    }
    own = AlignConfig(recipe="pretrain", lambda_cls=0.0, label_smoothing=0.2)
    assert own.settled() == own
    assert own.weight_of_cls == 0.0
    with pytest.raises(UsageError, match=r"align\.label_smoothing = 0\.5"):
        AlignConfig(label_smoothing=0.5)


def test_a_step_cut_by_tokens_trains_what_a_whole_one_trains(tmp_path: Path) -> None:
    passes: list[int] = []
    runs = [trainer(tmp_path / str(tokens), replace(CONFIG, batch_tokens=tokens)) for tokens in (0, 1)]
    for run in runs:
        handle = run.module.register_forward_hook(lambda *_: passes.append(1))
        run.run(lambda _: None)
        handle.remove()
        passes.append(0)
    first = passes.index(0)
    assert (first, len(passes) - first - 2) == (runs[0].steps, runs[0].steps * CONFIG.batch_size)
    for name, value in weights(runs[0]).items():
        assert torch.allclose(weights(runs[1])[name], value, atol=2e-4), name


def test_how_a_step_is_split_is_no_other_run(tmp_path: Path) -> None:
    whole = trainer(tmp_path, replace(CONFIG, eval_every=99))
    whole.run(lambda _: None)
    split = trainer(tmp_path, replace(CONFIG, eval_every=99, batch_size=2, batch_tokens=99, accumulation=4))
    seen: list[Progress] = []
    split.run(seen.append)
    assert seen == [], "it found a finished run of the same steps"
