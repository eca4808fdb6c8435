from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safesignal.data.sources import DATA_DIR_VARIABLE, SOURCES, load_source, load_training
from safesignal.errors import DataError, UsageError
from tests.support import REPO

DATA = Path(os.environ.get(DATA_DIR_VARIABLE) or REPO.parent / "shared" / "data")
HUB_ROWS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Add", "input": "1 and 2", "output": "3", "text": "all"},
    "dolly-15k": {"instruction": "Add", "context": "1, 2", "response": "3", "category": "math"},
    "lima": {"conversations": ["Add", "3"], "source": "forum"},
    "gsm8k-train": {"question": "1+2?", "answer": "It is <<1+2=3>>3"},
    "beavertails": {"prompt": "p", "response": "r", "is_safe": False, "category": {}},
    "pku-saferlhf": {
        "prompt": "p",
        "response_0": "safe",
        "response_1": "unsafe",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
    },
    "catqa": {"Question": "q", "Category": "c"},
    "advbench": {"prompt": "p", "target": "t"},
    "jailbreakbench": {"Goal": "g", "Target": "t", "Index": 1},
    "xstest": {"prompt": "p", "type": "contrast_homonyms", "label": "unsafe"},
    "mt-bench": {"prompt": ["one", "two"], "category": "c"},
    "gsm8k": {"question": "1+2?", "answer": "3"},
    "mmlu": {"question": "q", "choices": ["w", "x", "y", "z"], "answer": 1, "subject": "s"},
    "coconot": {"prompt": "p", "chosen": "c", "rejected": "r"},
    "wildjailbreak": {"vanilla": "v", "adversarial": "a", "completion": "c", "data_type": "adversarial_harmful"},
}


@pytest.fixture(autouse=True)
def _no_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)


def fake_hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], calls: list[Any]) -> None:
    def load_dataset(name: str, config: str | None, *, split: str | None, **more: Any) -> Any:
        calls.append((name, config, split, more))
        return rows if split else {"harmful": rows, "benign": rows}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.parametrize("name", HUB_ROWS)
def test_a_hub_row_becomes_a_record(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    calls: list[Any] = []
    fake_hub(monkeypatch, [HUB_ROWS[name]], calls)
    record = load_source(name)[0]
    source = SOURCES[name]
    assert calls[0][:3] == (source.hub_id, source.hub_config, source.hub_split)
    assert (record.source, record.licence, record.id) == (name, source.licence, f"{name}-0")
    assert record.prompt_label in {"benign", "malicious"}


def test_what_mappers_must_get_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(name: str) -> Any:
        fake_hub(monkeypatch, [HUB_ROWS[name]], [])
        return load_source(name)[0]

    assert first("alpaca").prompt == "Add\n\n1 and 2"
    assert first("gsm8k-train").response == "It is 3"
    assert (first("pku-saferlhf").response, first("pku-saferlhf").response_label) == ("unsafe", "malicious")
    assert first("mmlu").meta["letter"] == "B"
    assert first("mt-bench").meta["turns"] == ["one", "two"]
    assert first("wildjailbreak").meta["base_prompt"] == "v"
    fake_hub(monkeypatch, [HUB_ROWS["jailbreakbench"]], [])
    assert [record.prompt_label for record in load_source("jailbreakbench")] == ["malicious", "benign"]


def test_a_changed_hub_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, [{"text": "x"}], [])
    with pytest.raises(DataError, match="row 0 of tatsu-lab/alpaca: `instruction`"):
        load_source("alpaca")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("catqa", {"Query": "q"}),
        ("beavertails", {"text": "p", "response": "r", "is_safe": True}),
        ("wildjailbreak", {"plain": "v", "completion": "c", "data_type": "vanilla_benign"}),
        ("mt-bench", {"prompt": 7}),
    ],
)
def test_a_renamed_or_changed_prompt_column_is_no_empty_prompt(
    monkeypatch: pytest.MonkeyPatch, name: str, row: dict[str, Any]
) -> None:
    fake_hub(monkeypatch, [HUB_ROWS[name], row], [])
    with pytest.raises(DataError, match=f"row 1 of {SOURCES[name].hub_id}: ") as caught:
        load_source(name)
    assert "changed on the hub" in caught.value.hint


@pytest.mark.parametrize("name", ["catqa", "alpaca", "beavertails", "wildjailbreak"])
def test_rows_of_the_hub_with_nothing_in_their_prompt_are_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    asked = {"Question", "instruction", "input", "prompt", "vanilla", "adversarial"}
    blank = {key: "" if key in asked else value for key, value in HUB_ROWS[name].items()}
    fake_hub(monkeypatch, [HUB_ROWS[name], blank], [])
    assert [record.id for record in load_source(name)] == [f"{name}-0"]
    assert f"1 rows of `{name}` have no prompt" in caplog.text
    fake_hub(monkeypatch, [blank], [])
    with pytest.raises(DataError, match=f"`{name}` came out empty") as caught:
        load_source(name)
    assert "--data_dir" in caught.value.hint


def test_a_file_without_rows_of_the_set_names_what_was_expected(tmp_path: Path) -> None:
    path = local(tmp_path, [{"prompt": "p", "source": "lima"}])
    with pytest.raises(DataError, match=r"`alpaca` came out empty.*`source` alpaca or alpaca-cherry5") as caught:
        load_source("alpaca", path=path)
    assert "safesignal data list" in caught.value.hint


def test_a_template_without_its_slot_is_named(tmp_path: Path) -> None:
    rows = [{"id": "t1", "source": "f", "template": text} for text in ("Sing: [INSERT PROMPT HERE]", "Sing: {prompt}")]
    path = local(tmp_path, [rows[0], rows[1] | {"id": "t2"}], "own.jsonl")
    with pytest.raises(DataError, match=r"line 2  template  t2 has no slot; expected `\[INSERT PROMPT HERE\]`"):
        load_source("jailbreak-templates", path=path)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError) as caught:
        load_source("alpaca")
    assert "safesignal[data]" in caught.value.hint


def test_an_unknown_name_gets_a_near_one() -> None:
    with pytest.raises(UsageError) as caught:
        load_source("advbnch")
    assert "`advbench`" in caught.value.hint


def local(folder: Path, rows: list[dict[str, Any]], name: str = "train_benign.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_overrides_the_hub_and_the_source_filters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": f"{i}", "prompt": f"p{i}", "source": "lima" if i % 2 else "alpaca"} for i in range(20)]
    local(tmp_path, rows)
    assert len(load_source("lima", data_dir=tmp_path)) == 10
    monkeypatch.setenv(DATA_DIR_VARIABLE, str(tmp_path))
    drawn = load_source("lima", limit=4, seed=1)
    assert drawn == load_source("lima", limit=4, seed=1)
    assert len({record.id for record in drawn}) == 4
    with pytest.raises(UsageError, match="limit"):
        load_source("lima", limit=0)
    with pytest.raises(DataError, match="no file"):
        load_source("advbench")


def test_an_unstated_licence_is_not_upgraded(tmp_path: Path) -> None:
    rows = [{"id": "a", "prompt": "p", "source": "gsm8k-train", "licence": "unstated"}]
    assert load_source("gsm8k-train", path=local(tmp_path, rows))[0].licence == "unstated"


def test_local_problems_come_at_once(tmp_path: Path) -> None:
    path = local(tmp_path, [{"id": "a"}, {"goal": "g"}, {"target": "t"}], "eval_advbench.jsonl")
    with pytest.raises(DataError, match=r"(?s)2 problems.*line 1  goal.*line 3  goal"):
        load_source("advbench", path=path)


def test_evaluation_sets_are_no_training_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="evaluation set"):
        load_training("advbench", data_dir=tmp_path)
    with pytest.raises(UsageError, match="evaluation set"):
        load_training("alpaca", path=tmp_path / "eval_alpaca_benign.jsonl")
    assert load_training("lima", path=local(tmp_path, [{"prompt": "p", "source": "lima"}]))


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data under {DATA}")
def test_every_local_file_loads_whole() -> None:
    table = (DATA / "SOURCES.md").read_text(encoding="utf-8")
    expected = {name: int(rows) for name, rows in re.findall(r"^\| (\w+\.jsonl)[^|]*\| (\d+) \|", table, re.MULTILINE)}
    counted: Counter[str] = Counter()
    for source in SOURCES.values():
        if source.local_file is not None:
            counted[source.local_file] += len(load_source(source.name, data_dir=DATA))
    assert len(expected) == 19
    assert dict(counted) == expected


def test_every_set_says_where_it_comes_from() -> None:
    for source in SOURCES.values():
        assert (source.hub_id is None) == bool(source.published), source.name
        assert source.hub_id is not None or source.local_file is not None, source.name
