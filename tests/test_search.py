"""recipes/search.py: what is left out stays out, weights are what they say, and the table says what was measured."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from recipes import search
from safesignal.data.catalog import SOURCES
from safesignal.data.records import read_records, record_from_row

ROWS = [
    {"id": f"{source}-{label}-{n}", "prompt": f"{source} {label} {n}", "prompt_label": label, "source": source}
    for source in ("safesignal-contrast", "dolly-15k", "catqa", "circuit-breaker-goals")
    for label in ("benign", "malicious")
    for n in range(40)
]
FRAMED = [
    row | {"id": f"{family}/{row['id']}", "variant": "frame-001", "family": family, "variant_of": row["id"]}
    for part, family in enumerate(("pyrit/templates", "safesignal/framings"))
    for row in (*ROWS[part::4], *ROWS[2::8])
]
NOISY = [row | {"id": f"case/{row['id']}", "variant": "case", "variant_of": row["id"]} for row in ROWS]


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, *FRAMED, *NOISY]))
    monkeypatch.setattr(search, "REQUESTS", path)


@pytest.mark.usefixtures("requests")
@pytest.mark.parametrize(("fold", "source"), [("sources-1", "catqa"), ("sources-2", "circuit-breaker-goals")])
def test_a_fold_trains_on_nothing_that_it_tests(fold: str, source: str) -> None:
    train, tests = search.requests(fold, None, 200)
    sources, family = search.FOLDS[fold]
    assert source in sources
    assert {row.source for row in tests["sources"]} == {source}
    assert all(row.meta["family"].startswith(family) for row in tests["attack"])
    assert not any(row.source in sources or row.meta.get("family", "").startswith(family) for row in train)
    assert any(row.meta.get("family") for row in train), "the other family stays"
    assert not any(row.id.startswith("case/") for row in (*train, *tests["sources"]))
    tested = {row.meta["variant_of"] for row in tests["attack"]}
    assert tested.isdisjoint(row.meta.get("variant_of") or row.id for row in train), "nor bare"
    assert search.requests(fold, None, 200, seed=1)[1] == tests
    assert search.requests(fold, None, 200, seed=1)[0] != train
    dev = {row.id for path in search.DEV for row in read_records(path)}
    assert {row.id for row in tests["dev"]} <= dev
    for rows in (train, *tests.values()):
        assert sum(row.prompt_label == "malicious" for row in rows) * 2 == len(rows) > 0


@pytest.mark.parametrize(("weigh", "share"), [(0.0, 0), (0.25, 5), (0.9, 18), ("even", 5)])
def test_contrastive_rows_have_the_share_that_was_asked_for(weigh: float, share: int) -> None:
    rows = search.balanced(search.weighed([record_from_row(row) for row in ROWS], weigh, 40), 20, random.Random(0))
    for label in ("benign", "malicious"):
        own = [row for row in rows if row.prompt_label == label]
        assert len(own) == 20
        assert sum(row.source == "safesignal-contrast" for row in own) == share


def test_a_twin_is_known_by_its_pair() -> None:
    bare, framed = {"id": "a-1", "prompt": "x"}, {"id": "frame/a-2", "prompt": "x", "variant_of": "a-2"}
    assert search.names(record_from_row(bare | {"pair": "a-p1"})) == {"a-1", "a-p1"}
    assert search.names(record_from_row(framed | {"pair": "a-p1"})) == {"a-2", "a-p1"}


def test_upper_layers_begin_with_the_sixteenth() -> None:
    assert not search.upper("model/layers/14/self_attn/q_proj")
    assert search.upper("model/layers/15/self_attn/q_proj")


def test_a_training_that_is_known_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int]] = []

    class Stub:
        def __init__(self, variant: str, _: str, seed: int, __: int) -> None:
            made.append((variant, seed))

        def run(self) -> search.Run:
            return {"rows": 1, "tests": {}}

    rows = tmp_path / "requests.jsonl"
    rows.write_text("{}\n")
    monkeypatch.setattr(search, "REQUESTS", rows)
    monkeypatch.setattr(search, "Search", Stub)

    def run(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["search.py", *words, "--output", str(tmp_path / "out.jsonl")])
        search.main()

    run("baseline", "focal")
    run("baseline", "--seed", "1")
    run("focal", "baseline")
    assert made == [("baseline", 0), ("focal", 0), ("baseline", 1)]
    rows.write_text("{ }\n")
    run("focal")
    assert made[3:] == [("focal", 0)], "other rows"


def test_folds_leave_out_sources_that_there_are() -> None:
    known = {origin for source in SOURCES.values() for origin in (source.name, *source.local_sources)}
    assert {name for sources, _ in search.FOLDS.values() for name in sources} <= known


def test_losses_are_what_their_names_say() -> None:
    scores, targets = torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    loss = search.plain(scores, targets)
    right = torch.tensor([0.5, 1 / (1 + torch.e**-2.0)])
    assert torch.allclose(loss, -right.log())
    assert torch.allclose(search.focal(scores, targets), (1 - right) ** 2 * loss)
    assert torch.allclose(search.smoothed(scores, targets), -0.95 * right.log() - 0.05 * (1 - right).log())


def test_the_table_has_the_mean_of_seeds_and_their_range() -> None:
    def run(variant: str, fold: str, seed: int, **tests: tuple[float, float]) -> search.Run:
        found = {name.replace("_", " "): {"n": 2, "auc": auc, "ece": ece} for name, (auc, ece) in tests.items()}
        return {"variant": variant, "fold": fold, "seed": seed, "steps": 2, "data": "x", "rows": 64, "tests": found}

    made = search.table(
        [
            run("focal", "sources-1", 0, dev=(0.7, 0.1)),
            run("baseline", "sources-1", 0, dev=(0.8, 0.1)),
            run("baseline", "sources-1", 1, dev=(0.9, 0.3)),
            run("answers-whole", "prompts", 0, after_4=(0.6, 0.2)),
        ]
    )
    assert made.splitlines() == [
        "| | seeds | rows | dev (sources-1) |",
        "|---|---:|---:|---:|",
        "| baseline | 2 | 64 | 0.850 [0.800, 0.900] · 0.200 |",
        "| focal | 1 | 64 | 0.700 · 0.100 |",
        "",
        "| | seeds | rows | after 4 |",
        "|---|---:|---:|---:|",
        "| answers-whole | 1 | 64 | 0.600 · 0.200 |",
    ]
    with pytest.raises(SystemExit, match="several numbers of steps"):
        search.table([run("focal", "sources-1", seed, dev=(0.7, 0.1)) | {"steps": seed} for seed in (1, 2)])
