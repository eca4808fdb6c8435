"""What lies in recipes/ can be read, names what exists, and says of big models what is known of them."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer

from safesignal.align.config import AlignConfig, read_align_config, read_recipe
from safesignal.align.memory import ModelShape, estimate, report_lines
from safesignal.align.rollouts import read_plan
from safesignal.cli import app
from safesignal.config import SignalConfig
from safesignal.data.build.recipe import load_recipe
from safesignal.errors import UsageError
from safesignal.rules import Policy, parse_schedule, validate_policy
from safesignal.suites.spec import load_suite
from tests.support import REPO, tiny_config, tiny_model

RECIPES = REPO / "recipes"
FILES = sorted(RECIPES.rglob("*.toml"))
BIG = {
    # Totals as the models' own safetensors indices state them.
    "llama-2-7b": 6_738_415_616,
    "mistral-7b-instruct": 7_241_732_096,
    "llama-3.1-8b": 8_030_261_248,
    "qwen3-8b": 8_190_735_360,
}
_GIB = 2**30


@pytest.fixture(scope="module")
def listed() -> list[list[str]]:
    """The commands of the reproduction, as its script lists them."""
    done = subprocess.run(
        ["bash", str(RECIPES / "paper.sh"), "--list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"SEEDS": "0 1 2"},
    )
    assert "in all about" in done.stdout
    return [shlex.split(line)[1:] for line in done.stdout.splitlines() if not line.startswith("#")]


def parsed(words: Sequence[str]) -> dict[str, Any]:
    """Parse a command as the program would, without its name, and return its options."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    with command.make_context(words[0], rest) as context:
        return dict(context.params)


def test_every_command_of_the_reproduction_parses(listed: list[list[str]]) -> None:
    assert {words[0] for words in listed} >= {"rollouts", "data", "label", "align", "probe", "evaluate", "report"}
    for words in listed:
        assert parsed(words)["output_dir" if words[0] in ("evaluate", "report") else "output"]


def written() -> list[list[str]]:
    """The commands of both adapters' targets in the Makefile and of the recipes' headers, without their program."""
    line = ["make", "-n", "adapter", "adapter-gemma3"]
    made = subprocess.run(line, cwd=REPO, capture_output=True, text=True, timeout=60, check=True)
    said = made.stdout.replace(".venv/bin/safesignal", "safesignal")
    for path in (*FILES, *RECIPES.glob("*.yaml")):
        comments = (line.lstrip("#").strip() for line in path.read_text().splitlines() if line.startswith("#"))
        said += "\n".join(comments).replace("\\\n", " ").replace("DATA", "data") + "\n"
    return [shlex.split(line)[1:] for line in said.splitlines() if line.lstrip("@").startswith("safesignal ")]


def test_what_builds_an_adapter_parses_and_gives_held_out_rows_a_place() -> None:
    commands = written()
    signal = ["rollouts", "data", "align"]
    once_more, at_last = ["rollouts", *["align"] * 9], ["rollouts", "data", "align"]
    last = [*signal, *["align"] * 3]
    assert [words[0] for words in commands[:31]] == [*["data"] * 9, *signal, *once_more, *at_last, *last]
    *rows, framed = (parsed(words) for words in commands[:9])
    rollouts, answers, before, own, *chain = (parsed(words) for words in commands[9:22])
    newer, conversations, reading_answers = (parsed(words) for words in commands[22:25])
    assert [run["start"] for run in chain] == [before["output"], *(run["output"] for run in chain[:-1])]
    assert [answers["output"], own["output"]] == list(chain[0]["data"])
    files = [made["output"] for made in rows]
    for number, made in enumerate(rows):
        parts = {Path(part.file).name for part in load_recipe(REPO / made["recipe"]).parts if part.file}
        seen = parts - {path.name for path in (RECIPES / "contrast").glob("*.jsonl")}
        assert seen == ({Path(file).name for file in files[:number]} if number > 1 else set()), "rows of those before"
    learnt = [files[:1], files[:2], *([file] for file in files[2:])]
    for reading, data in zip(chain[1:], learnt, strict=True):
        assert {*reading["data"]} == {*data, rollouts["output"]}
    asked = {file for job in read_plan(REPO / newer["plan"]) for file in job.files}
    assert REPO / framed["output"] in {Path(os.path.normpath(file)) for file in asked}
    parts = {Path(part.file).name for part in load_recipe(REPO / conversations["recipe"]).parts if part.file}
    assert parts == {"refusals.jsonl", *(Path(made["output"]).name for made in (newer, own))}
    assert reading_answers["start"] == chain[-1]["output"]
    assert {*reading_answers["data"]} == {conversations["output"], rollouts["output"]}
    theirs, _, without, *readings = (parsed(words) for words in commands[25:31])
    assert before["data"][0] == without["data"][0] == files[0]
    assert [run["start"] for run in readings] == [without["output"], *(run["output"] for run in readings[:-1])]
    for training, read in zip(
        readings, (files[2:5], files[5:], [framed["output"], *files[4:5], *files[6:]]), strict=True
    ):
        assert {*training["data"]} == {theirs["output"], *read}
    assert all(options["model"] == "gemma3-270m" for options in (theirs, without, *readings))
    assert [reading_answers["output"], readings[-1]["output"]] == ["runs/smollm2/adapter", "runs/gemma3/adapter"]
    built = [parsed(words) for words in commands if words[0] == "data"]
    assert len(built) >= 9
    for options in built:
        plan = load_recipe(REPO / options["recipe"])
        assert bool(plan.holdout.sources or plan.holdout.families) == bool(options["holdout_output"]), options["recipe"]
    for words in commands:
        assert parsed(words)["output"]
        if words[0] == "align":
            read_align_config(REPO / str(parsed(words)["config"]))  # raises where settings are out of range


def test_the_reproduction_names_files_that_exist_or_that_it_makes(listed: list[list[str]]) -> None:
    made = {word for words in listed for name, word in pairwise(words) if name.startswith("--output")}
    for words in listed:
        for word in words:
            if word.startswith("recipes/"):
                assert (REPO / word).exists(), word
            elif word.startswith("runs/"):
                assert any(word == one or word.startswith(f"{one}/") for one in made), word


def test_the_reproduction_has_three_seeds_where_they_are_asked_for_and_every_ablation(listed: list[list[str]]) -> None:
    outputs = [words[words.index("--output") + 1] for words in listed if words[0] in ("align", "calibrate")]
    for recipe in ("sft", "joint", "gated"):
        assert [f"runs/reproduction/{recipe}-{seed}" in outputs for seed in range(3)] == [True] * 3
    configs = {word for words in listed for word in words if word.startswith("recipes/ablations/")}
    assert configs == {f"recipes/ablations/{path.name}" for path in (RECIPES / "ablations").glob("*.toml")}
    steered = [" ".join(words) for words in listed if words[0] == "evaluate" and "runs/reproduction/joint-0" in words]
    levers = ("policy low", "no-implicit", "policy high", "tau 1", "tau 3")
    for option in (*levers, *(f"schedule {name}" for name in ("first", "every", "periodic:10"))):
        assert sum(f"--{option}" in line for line in steered) == 1, option
    trained = {word for words in listed if words[0] == "evaluate" for word in words if word.startswith("runs/")}
    assert set(outputs) - {"runs/reproduction/pretrain"} <= trained, "what is trained is measured"


def test_a_name_picks_steps(listed: list[list[str]]) -> None:
    line = ["bash", str(RECIPES / "paper.sh"), "--list", "train/sft", "report"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    names = [row.split(",")[0] for row in done.stdout.splitlines() if row.startswith("# ") and "in all" not in row]
    assert names == ["# train/sft-0", "# train/sft-1", "# train/sft-2", "# report"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_every_recipe_file_is_in_range(path: Path) -> None:
    _, signal = read_align_config(path)
    assert set(signal) <= {field.name for field in fields(SignalConfig)} | {"cls_spans"}


@pytest.mark.parametrize("path", sorted((RECIPES / "ablations").glob("*.toml")), ids=lambda path: path.stem)
def test_an_ablation_changes_one_thing(path: Path) -> None:
    base, own = (read_recipe(one) for one in (RECIPES / "smollm2-joint.toml", path))
    changed = {
        (table, name)
        for table in ("align", "signal")
        for name in own[table]
        if own[table][name] != base[table].get(name)
    }
    assert changed
    own_schedule = {"schedule"} if path.stem == "r-5" else set()  # windows of five tokens need a check every five
    assert len({name.rstrip("123") for _, name in changed} - own_schedule) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(RECIPES).as_posix())
def test_what_a_recipe_trains_can_be_used_with_the_release_buffer(path: Path) -> None:
    signal = SignalConfig(**read_align_config(path)[1])
    policy = Policy(tau=signal.tau, r1=signal.r1, r2=signal.r2, r3=signal.r3)
    schedule = parse_schedule(signal.schedule)
    assert schedule.max_gap is not None
    assert schedule.max_gap <= policy.r2
    validate_policy(policy, schedule)


def test_the_baselines_share_everything_but_their_recipe() -> None:
    sft, joint, augment = (
        read_align_config(RECIPES / f"smollm2-{name}.toml")[0] for name in ("sft", "joint", "augment")
    )
    assert replace(joint, recipe="sft").settled() == sft.settled()
    assert replace(augment, recipe="sft").settled() == sft.settled()
    gated = read_align_config(RECIPES / "smollm2-gated.toml")[0]
    assert gated.max_steps == sft.max_steps
    assert gated.batch_size * gated.accumulation == sft.batch_size * sft.accumulation


def test_the_reproduction_suite_loads() -> None:
    assert len(load_suite(str(RECIPES / "reproduction.yaml")).cells) >= 10


def test_a_file_that_extends_another_takes_its_tables_field_by_field(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.toml").write_text('[align]\nepochs = 3\nmixture = [{file = "rows.jsonl"}]\n[signal]\nrank = 4\n')
    (tmp_path / "sub" / "own.toml").write_text('extends = "../base.toml"\n[align]\nbatch_size = 2\n')
    config, signal = read_align_config(tmp_path / "sub" / "own.toml")
    assert (config.epochs, config.batch_size, signal) == (3, 2, {"rank": 4})
    assert Path(config.mixture[0].file).resolve() == (tmp_path / "rows.jsonl").resolve()
    (tmp_path / "base.toml").write_text('extends = "sub/own.toml"\n')
    with pytest.raises(UsageError, match="extends itself"):
        read_align_config(tmp_path / "sub" / "own.toml")


def shape(name: str) -> ModelShape:
    return ModelShape.from_table(read_recipe(RECIPES / f"{name}.toml")["model"])


@pytest.mark.parametrize("name", BIG)
def test_big_models_have_the_parameters_that_they_are_known_to_have(name: str) -> None:
    assert shape(name).parameters == BIG[name]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen3"])
def test_the_count_is_that_of_transformers(family: Any) -> None:
    config: Any = tiny_config(family)
    heads = {"heads": config.num_attention_heads, "kv_heads": config.num_key_value_heads}
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own = ModelShape(
        name=family,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        head_dim=head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        qk_norm=family == "qwen3",
        **heads,
    )
    assert own.parameters == sum(parameter.numel() for parameter in tiny_model(family).parameters())


@pytest.mark.parametrize("name", BIG)
def test_a_big_models_recipe_fits_one_gpu_of_80_gb_and_full_tuning_does_not(name: str) -> None:
    config, _ = read_align_config(RECIPES / f"{name}.toml")
    own = shape(name)
    for recipe in ("joint", "pretrain", "gated", "sft"):
        settings = replace(config, recipe=recipe, activation_checkpointing=recipe != "gated")
        assert estimate(own, settings).total < 0.9 * 80e9
    assert estimate(own, replace(config, tuning="full")).total > 80e9
    longest = config.max_prompt_tokens + config.max_answer_tokens
    totals = [estimate(own, replace(config, batch_tokens=tokens)).total for tokens in (longest, 2 * longest, 10**6)]
    assert totals[0] < totals[1] < totals[2] == estimate(own, config).total
    assert estimate(own, replace(config, batch_tokens=1)).total == totals[0], "a row is never cut"
    without = estimate(own, replace(config, activation_checkpointing=False))
    assert without.total > estimate(own, config).total
    assert without.seconds["H100 80 GB"] < estimate(own, config).seconds["H100 80 GB"]
    half = replace(config, max_steps=int(own.rows * config.epochs / (config.batch_size * config.accumulation) / 2))
    assert estimate(own, half).seconds["H100 80 GB"] == pytest.approx(
        estimate(own, config).seconds["H100 80 GB"] / 2, rel=0.01
    )


@pytest.mark.parametrize("name", BIG)
def test_the_table_of_big_models_is_what_the_command_prints(name: str) -> None:
    config, _ = read_align_config(RECIPES / f"{name}.toml")
    (line,) = [one for one in (RECIPES / "README.md").read_text().splitlines() if one.startswith(f"| `{name}.toml` | ")]
    cells = [f"`{name}.toml`", f"{BIG[name] / 1e9:.3f} G"]
    for recipe in ("joint", "pretrain", "gated"):
        found = estimate(shape(name), replace(config, recipe=recipe))
        a100, h100 = (found.seconds[gpu] / 60 for gpu in ("A100 80 GB", "H100 80 GB"))
        cells += [f"{found.total / _GIB:.1f} GiB", f"{a100:.0f} / {h100:.0f} min"]
    assert line == f"| {' | '.join(cells)} |"


def test_the_estimate_is_the_sum_of_named_terms() -> None:
    own, config = (
        shape("llama-2-7b"),
        AlignConfig(recipe="sft", tuning="lora", lora_rank=16, activation_checkpointing=True),
    )
    found = estimate(own, config)
    assert found.bytes["frozen weights"] == 2 * BIG["llama-2-7b"]
    # 16 (in + out) of the seven linears of each of 32 layers.
    lora = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert found.bytes["trained weights, gradients, moments"] == 16 * lora
    assert found.total == pytest.approx(sum(found.bytes.values()) * 1.1 + 1.5 * _GIB)
    assert any("in all" in line for line in report_lines(own, config))


def test_a_table_that_describes_no_model_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        ModelShape.from_table({"name": "x", "width": 3, "heads": "9"})
    assert "model.width    is unknown" in str(caught.value)
    assert "model.layers    is missing" in str(caught.value)
    assert "model.heads = '9'    must be a whole number" in str(caught.value)
