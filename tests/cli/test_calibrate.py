"""`safesignal calibrate`: new thresholds for the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from safesignal.align.calibrate import calibrate
from safesignal.modeling.adapter_io import WEIGHTS_FILE, load_adapter
from safesignal.modeling.model import SafeSignalModel
from tests.cli.conftest import Run, Tiny, write_rows

BUDGETS = ("--target_fpr", "strict=0.5", "--target_fpr", "balanced=0.25", "--target_fpr", "permissive=0.1")


def answers(n: int, *, about: str = "plants", **more: Any) -> list[dict[str, Any]]:
    """Benign answers without a harmful word in them."""
    labels = {"prompt_label": "benign", "response_label": "benign"}
    return [
        {
            "id": f"{about}-{i}",
            "prompt": f"{about} {i}?",
            "response": f"{about} {i * 7919} " * (1 + i % 4),
            **labels,
            **more,
        }
        for i in range(n)
    ]


def test_the_weights_stay_and_the_presets_keep_their_budgets(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "own.jsonl", answers(20))
    done = run("calibrate", *tiny.args, "--data", data, "--output", tmp_path / "new", *BUDGETS)
    assert done.code == 0, done.err
    config, _, _, record = load_adapter(tmp_path / "new")
    for name, target in (("strict", 0.5), ("balanced", 0.25), ("permissive", 0.1)):
        point = config.presets[name]
        assert (point.target_fpr, point.n) == (target, 20)
        assert point.measured_fpr is not None
        assert point.measured_fpr <= target
    assert record["calibrated"]["answers"] == 20
    assert "refused of 20" in done.out
    old, new = (load_file(folder / WEIGHTS_FILE) for folder in (tiny.adapter, tmp_path / "new"))
    assert old.keys() == new.keys()
    assert all(bool((old[name] == new[name]).all()) for name in old)
    used = run("score", "--model", tiny.base, "--adapter", tmp_path / "new", "--prompt", "Hello")
    assert used.code == 0, used.err


def test_a_recipe_file_gives_window_lengths_and_schedule(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "own.jsonl", answers(20))
    recipe = tmp_path / "short.toml"
    recipe.write_text('[signal]\nrank = 4\nr1 = 3\nr2 = 3\nschedule = "every"\ntau = 1\n')
    args = ("calibrate", *tiny.args, "--data", data, "--config", recipe, *BUDGETS)
    done = run(*args, "--output", tmp_path / "new")
    assert done.code == 0, done.err
    config = load_adapter(tmp_path / "new")[0]
    assert (config.r1, config.r2, config.r3, config.schedule, config.tau) == (3, 3, 10, "every", 1)
    model = SafeSignalModel.from_pretrained(tmp_path / "new", base=str(tiny.base))
    encoded = [model.encode_one(row["prompt"], row["response"]) for row in answers(20)]
    expected = calibrate(model, encoded, {"strict": 0.5, "balanced": 0.25, "permissive": 0.1})
    assert config.presets == expected.presets


def test_the_rows_of_the_jobs_count_where_there_are_any(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    recipe = tmp_path / "jobs.toml"
    recipe.write_text('[align]\nval_fraction = 0.99\ncalibration_job = "plain"\nlookalike_job = "near"\n')
    rows = [
        *answers(12, job="plain"),
        *answers(7, about="kill a process", job="near"),
        *answers(5, about="other", job="elsewhere"),
        *answers(4, about="loose"),
    ]
    data = write_rows(tmp_path / "rollouts.jsonl", rows)
    done = run("calibrate", *tiny.args, "--data", data, "--config", recipe, "--output", tmp_path / "new", *BUDGETS)
    assert done.code == 0, done.err
    record = load_adapter(tmp_path / "new")[3]
    assert (record["calibrated"]["answers"], record["calibrated"]["lookalikes"]["n"]) == (12, 7)
    assert "of 7 look-alikes" in done.out


def test_lookalikes_of_a_file_of_their_own_set_a_limit(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "own.jsonl", answers(20))
    near = write_rows(tmp_path / "near.jsonl", answers(10, about="kill a process"))
    args = ("calibrate", *tiny.args, "--data", data, "--lookalikes", near, *BUDGETS)
    done = run(*args, "--lookalike_fpr", "balanced=0.1", "--output", tmp_path / "new")
    assert done.code == 0, done.err
    measured = load_adapter(tmp_path / "new")[3]["calibrated"]["lookalikes"]["measured_fpr"]
    assert measured["balanced"] <= 0.1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--target_fpr", "balanced=two"), "balanced=0.02"),
        (("--target_fpr", "balanced"), "balanced=0.02"),
        (("--target_fpr", "lax=0.1"), "align.target_fpr"),
        (("--lookalike_fpr", "balanced=0.1"), "--lookalikes FILE"),
        (("--config", "rank.toml"), "only r1, r2, r3, schedule, strategic_attention, surprise, suspicion, tau"),
        (("--config", "sparse.toml"), "leaves 10 tokens between checks that see r2 = 2"),
    ],
)
def test_what_cannot_be_is_one_clear_error(
    run: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rank.toml").write_text("[signal]\nrank = 8\n")
    Path("sparse.toml").write_text("[signal]\nr2 = 2\n")
    data = write_rows(tmp_path / "own.jsonl", answers(6))
    done = run("calibrate", *tiny.args, "--data", data, "--output", tmp_path / "new", *more)
    assert done.code != 0
    assert said in done.err
    assert "Traceback" not in done.err


def test_rows_without_a_benign_answer_calibrate_nothing(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    rows = [row | {"prompt_label": "malicious"} for row in answers(6)]
    data = write_rows(tmp_path / "own.jsonl", rows)
    done = run("calibrate", *tiny.args, "--data", data, "--output", tmp_path / "new")
    assert done.code == 2
    assert "no benign validation answer" in done.err


def test_a_folder_with_an_adapter_is_not_written_over(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "own.jsonl", answers(6))
    done = run("calibrate", *tiny.args, "--data", data, "--output", tiny.adapter)
    assert done.code == 2
    assert "holds an adapter" in done.err


@pytest.mark.parametrize("verb", ["calibrate", "probe", "align"])
def test_an_evaluation_set_chooses_nothing(run: Run, tiny: Tiny, tmp_path: Path, verb: str) -> None:
    data = write_rows(tmp_path / "eval_xstest.jsonl", answers(6))
    model = tiny.args if verb == "calibrate" else ["--model", str(tiny.base)]
    done = run(verb, *model, "--data", data, "--output", tmp_path / "new")
    assert done.code == 2
    assert "is an evaluation set" in done.err
    assert not list((tmp_path / "new").rglob("*.*"))


def test_what_rollouts_writes_to_a_files_prompts_calibrates(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    """Such answers carry the job `input`, which no plan has."""
    data = write_rows(tmp_path / "own.jsonl", answers(20, job="input"))
    alike = write_rows(tmp_path / "alike.jsonl", answers(8, about="kill the lights", job="input"))
    done = run("calibrate", *tiny.args, "--data", data, "--lookalikes", alike, "--output", tmp_path / "new", *BUDGETS)
    assert done.code == 0, done.err
    assert "refused of 20" in done.out
    assert "of 8 look-alikes" in done.out
    alone = run("calibrate", *tiny.args, "--data", data, "--output", tmp_path / "alone", *BUDGETS)
    assert "look-alikes" not in alone.out, "no answer is taken for one to a look-alike that is not said to be one"


def test_look_alikes_that_are_none_are_told_before_the_model_is_loaded(run: Run, tiny: Tiny, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "own.jsonl", answers(20))
    wrong = write_rows(tmp_path / "wrong.jsonl", [row | {"response_label": "malicious"} for row in answers(3)])
    args = ["calibrate", "--model", "no-such/model", "--adapter", tiny.adapter, "--data", data]
    done = run(*args, "--lookalikes", wrong, "--output", tmp_path / "new", *BUDGETS)
    assert "no benign answer to a look-alike" in done.err
