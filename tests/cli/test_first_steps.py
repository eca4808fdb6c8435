"""What someone meets who brings a model, a fine-tune or rows: said before work is done, and what to type."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from safesignal.align.config import read_align_config
from safesignal.errors import UsageError
from safesignal.modeling.adapter_io import load_adapter
from safesignal.modeling.model import SafeSignalModel
from safesignal.modeling.zoo import load_base
from tests.cli.conftest import Run, Tiny, save_adapter, save_base, write_rows

BOTH = [
    *({"id": f"b{n}", "prompt": f"benign {n}?", "prompt_label": "benign"} for n in range(9)),
    *({"id": f"m{n}", "prompt": f"malicious {n}?", "prompt_label": "malicious"} for n in range(9)),
]


def test_help_shows_what_stands_in_brackets(run: Run) -> None:
    words = " ".join(run("calibrate", "--help").out.replace("│", " ").split())
    assert "[align]" in words
    assert "[signal]" in words
    assert "[its file in a data folder]" in " ".join(run("data", "list", "--help").out.split())


def test_rows_without_an_answer_to_calibrate_on_train_nothing(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", BOTH)
    done = run("align", "--model", tiny.base, "--data", rows, "--output", tmp_path / "out")
    assert done.code == 2
    assert "no benign validation answer" in done.err
    assert "rollouts --input" in done.err
    assert not list((tmp_path / "out").rglob("*.*"))


def test_rollouts_do_not_go_on_with_another_models_answers(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", BOTH[:2]), tmp_path / "out.jsonl"
    ask = ["rollouts", "--model", tiny.base, "--output", out, "--max_new_tokens", 4]
    assert run(*ask, "--input", rows).code == 0
    before = out.read_bytes()
    assert run(*ask, "--input", rows).code == 0
    other = write_rows(tmp_path / "other.jsonl", [BOTH[0] | {"prompt": "another?"}])
    begun = write_rows(tmp_path / "begun.jsonl", [BOTH[0] | {"prefill": "Sure"}])
    elsewhere = shutil.copytree(tiny.base, tmp_path / "elsewhere")
    for changed in (
        [*ask, "--input", other],
        [*ask, "--input", begun],
        [*ask, "--input", rows, "--temperature", 0],
        ["rollouts", "--model", elsewhere, "--output", out, "--input", rows],
        ["rollouts", "--model", tiny.base, "--output", rows, "--input", rows],
    ):
        done = run(*changed)
        assert (done.code, "come from another run" in done.err) == (2, True), changed
    assert out.read_bytes() == before


def test_a_pipe_that_would_be_read_twice_is_refused(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for ask in (["score", *tiny.args, "--input", pipe], ["align", "--model", tiny.base, "--data", pipe]):
        done = run(*ask, "--output", tmp_path / "out")
        assert (done.code, "save it first" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[algin]\nepochs = 2", "algin    is unknown; known: align, signal"),
        ('[signal]\nr1 = "x"', "signal.r1 = 'x'    must be a whole number"),
        ('[align]\nepochs = "2"', "align.epochs = '2'    must be a number"),
        ("[align]\nshard = 1", "align.shard = 1    must be true or false"),
        ("[align]\nepochs = true", "align.epochs = True    must be a number"),
        ('[align]\nrecipe = "x"', "align.recipe = 'x'    must be one of 'gated'"),
        ('[align]\nlicences = "permissive"', "align.licences = 'permissive'    must be a list, each text"),
        ('[align.target_fpr]\nstrict = "x"', "must be a table"),
        (
            '[align]\nmixture = [{source = "lima", n = "1"}]',
            "mixture[1].n = '1'    must be a whole number or null",
        ),
        ('[align]\nmixture = ["lima"]', "Expected tables"),
        ("align = 3", "Expected a table, `[align]`"),
    ],
)
def test_a_recipe_file_is_read_by_the_kinds_of_its_fields(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_align_config(path)
    assert said in str(raised.value)


def test_a_whole_number_is_a_number_too(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("[align]\nepochs = 2\nlambda_cls = 1\n[align.lookalike_fpr]\nstrict = 1\n")
    assert read_align_config(path)[0].epochs == 2


def test_sizes_of_the_acceptance_suite_are_refused_elsewhere(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    for option in ("--limit", "--scored_limit", "--max_new_tokens"):
        done = run("evaluate", *tiny.args, "--suite", "quick", option, 5, "--output_dir", tmp_path / "out")
        assert (done.code, "belongs to the acceptance suite" in done.err) == (2, True)
    typo = run("evaluate", *tiny.args, "--suite", "acceptence", "--output_dir", tmp_path / "out")
    assert (typo.code, "did you mean `acceptance`" in typo.err) == (2, True)


def test_an_adapter_finds_its_base_from_any_folder(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_base(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    save_adapter(Path("base"), tmp_path / "adapter", 1.0)
    assert load_adapter(tmp_path / "adapter")[1].name == str(tmp_path / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ask = ["generate", "--adapter", "../adapter", "--prompt", "hi", "--max_new_tokens", 2]
    assert run(*ask).code == 0
    (tmp_path / "base").rename(tmp_path / "moved")
    gone = run(*ask)
    assert gone.code != 0
    assert f"belongs to the model in `{tmp_path / 'base'}`" in gone.err
    assert "--model FOLDER" in gone.err
    assert run(*ask, "--model", tmp_path / "moved").code == 0


def test_a_fine_tune_is_told_of_its_bases_adapter(run: Run, tiny: Tiny) -> None:
    done = run("generate", "--model", tiny.base, "--prompt", "hi")
    assert done.code != 0
    assert "--adapter smollm2 --allow_base_drift" in done.err


def test_a_lora_folder_has_its_bases_tokenizer_and_is_a_model(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [row | {"response": "yes", "response_label": "benign"} for row in BOTH])
    train = ["align", "--model", tiny.base, "--recipe", "sft", "--max_steps", 1, "--data", rows]
    done = run(*train, "--output", tmp_path / "lora")
    assert done.code == 0, done.err
    for path in (tmp_path / "lora").glob("*token*"):
        path.unlink()
    (tmp_path / "lora" / "chat_template.jinja").unlink(missing_ok=True)
    assert "peft_type" in json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    _, tokenizer = load_base(str(tmp_path / "lora"))
    assert tokenizer.get_vocab() == SafeSignalModel.from_base(str(tiny.base)).tokenizer.get_vocab()
    as_adapter = run("generate", "--model", tiny.base, "--adapter", tmp_path / "lora", "--prompt", "hi")
    assert (as_adapter.code != 0, "`--model FOLDER`" in as_adapter.err) == (True, True)
