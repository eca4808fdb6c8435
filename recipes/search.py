"""The search behind the shipped signal: small trainings, one choice changed at a time, judged on what was left out.

    python recipes/search.py VARIANT … [--fold sources-1] [--seed 0] [--steps 44] [--output runs/search.jsonl]
    python recipes/search.py --table [--output runs/search.jsonl]

A reader of queries begins from nothing and is trained on requests of `runs/smollm2/requests.jsonl` (`make requests`);
each fold leaves some sources and one family of framings out and tests on those (with requests whose bare text and twin
are left out too), and on `recipes/contrast/dev/`, which nothing is trained on. A source that is left out has one label
throughout, so `sources` is told in part by length: compare variants, not columns. The variants `answers-…` train a
reader of answers on `runs/smollm2/conversations.jsonl` (which `make adapter` makes) and test on answers to malicious
requests that were left out, cut after so many tokens. A seed draws rows, order and weights. One line of JSON a
training; one that stands in the file already, of the same rows, is not run again. Six to ten minutes each on one
core of 2026; docs/LOG.md has the tables. No evaluation set is read.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from safesignal import SafeSignalModel
from safesignal.align.gated import begin_readers
from safesignal.config import SignalConfig
from safesignal.data.jsonl import Writer, read_jsonl
from safesignal.data.mixture import SPLIT_SEED, split_by_prompt
from safesignal.data.records import Record, read_records
from safesignal.files import digests
from safesignal.modeling.adapter import Signal
from safesignal.stats import expected_calibration_error, roc_auc

REPO = Path(__file__).parents[1]
REQUESTS, ANSWERS = REPO / "runs/smollm2/requests.jsonl", REPO / "runs/smollm2/conversations.jsonl"
DEV = [REPO / "recipes/contrast/dev" / f"{name}.jsonl" for name in ("orders", "writing")]
BATCH, PART = 32, 16

FOLDS = {
    "sources-1": (("catqa", "dangerousqa", "oktest", "dro-harmless"), "pyrit"),
    "sources-2": (
        (
            "circuit-breaker-goals",
            "gptfuzz-labelled",
            "coconot-contrast",
            "coconot-contrast-eval",
            "cyberseceval-mitre-frr",
        ),
        "safesignal",
    ),
}
"""Sources that a fold leaves out, and the family of framings."""
LONGEST = {False: 500, True: 900}
"""Characters of a request, bare and in a framing."""
_PROMPTS = "prompts"
"""What readers of answers leave out."""

Run = dict[str, Any]
Item = tuple[tuple[int, ...], bool]
"""Ids and whether they are malicious."""
Label = Callable[[Record], bool | None]
_ASKED: Label = attrgetter("prompt_is_malicious")
_ANSWERED: Label = attrgetter("response_is_malicious")


def plain(scores: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy."""
    return cross_entropy(scores, targets, reduction="none")


def smoothed(scores: Tensor, targets: Tensor) -> Tensor:
    """Return cross-entropy with 0.05 of each label on the other side."""
    return cross_entropy(scores, targets, reduction="none", label_smoothing=0.1)


def focal(scores: Tensor, targets: Tensor) -> Tensor:
    """Weigh each loss by (1 − p)², p the probability of its label."""
    loss = plain(scores, targets)
    return (1 - torch.exp(-loss)) ** 2 * loss


def upper(name: str) -> bool:
    """Whether a weight stands in the upper half of SmolLM2's 30 layers."""
    return int(name.partition("layers/")[2].partition("/")[0]) >= 15


@dataclass(frozen=True)
class Choice:
    """What is the same in all trainings but one.

    Attributes:
        loss: Of scores (N, 2) and targets (N,), for each.
        count: [CLS] tokens, whose scores are averaged.
        position: Of [CLS], `SignalConfig.position`.
        rank: Of the LoRA.
        adapts: Whether a layer, by its name, has one.
        weigh: "even": sources in turns, until they run out; a number: a share of contrastive rows; None: as they come.
        cuts: Fewest and most tokens of the answers that are read; None: queries are.
    """

    loss: Callable[[Tensor, Tensor], Tensor] = plain
    count: int = 1
    position: Literal["tracking", "first"] = "tracking"
    rank: int = 16
    adapts: Callable[[str], bool] = bool
    weigh: Literal["even"] | float | None = None
    cuts: tuple[int, int] | None = None


VARIANTS = {
    "baseline": Choice(),
    "focal": Choice(loss=focal),
    "smoothing": Choice(loss=smoothed),
    "four-cls": Choice(count=4),
    "first": Choice(position="first"),
    "rank-4": Choice(rank=4),
    "rank-64": Choice(rank=64),
    "upper-layers": Choice(adapts=upper),
    "lower-layers": Choice(adapts=lambda name: not upper(name)),
    "attention-only": Choice(adapts=lambda name: "self_attn" in name),
    "mlp-only": Choice(adapts=lambda name: "mlp" in name),
    "even-sources": Choice(weigh="even"),
    "contrast-none": Choice(weigh=0.0),
    "contrast-quarter": Choice(weigh=0.25),
    "contrast-most": Choice(weigh=0.9),
    # A reader of answers, whose label is that of the whole: is what is written so far going to be harmful?
    "answers-forecast": Choice(cuts=(1, 72)),
    "answers-half-written": Choice(cuts=(32, 72)),
    "answers-whole": Choice(cuts=(72, 72)),
}


def balanced(rows: Iterable[Record], n: int, rng: random.Random, malicious: Label = _ASKED) -> list[Record]:
    """Draw up to `n` benign and as many malicious rows, shuffled."""
    pools: list[list[Record]] = [[], []]
    for row in rows:
        pools[bool(malicious(row))].append(row)
    size = min(n, *map(len, pools))
    drawn = [row for pool in pools for row in pool[:size]]
    rng.shuffle(drawn)
    return drawn


def requests(
    fold: str, weigh: Literal["even"] | float | None, n: int, seed: int = 0
) -> tuple[list[Record], dict[str, list[Record]]]:
    """Return up to `n` requests to train on, drawn by `seed`, and, by name, what to test on: all balanced."""
    rng, (sources, family) = random.Random(1), FOLDS[fold]
    rows = [row for row in read_records(REQUESTS) if len(row.prompt) < LONGEST["family" in row.meta]]
    rng.shuffle(rows)
    bare = [row for row in rows if "variant" not in row.meta]
    framed = [row for row in rows if "family" in row.meta]
    dev = [row for path in DEV for row in read_records(path)]
    rng.shuffle(dev)
    tests = {
        "sources": balanced((row for row in bare if row.source in sources), 150, rng),
        "attack": balanced((row for row in framed if row.meta["family"].startswith(family)), 80, rng),
        "dev": balanced(dev, 200, rng),
    }
    tested = {name for row in tests["attack"] for name in names(row)}
    others = [row for row in framed if not row.meta["family"].startswith(family)]
    kept = [row for row in (*bare, *others) if row.source not in sources and tested.isdisjoint(names(row))]
    draw = random.Random(seed)
    draw.shuffle(kept)
    return balanced(kept if weigh is None else weighed(kept, weigh, n), n // 2, draw), tests


def names(row: Record) -> set[str]:
    """Return what a request and its twin are known by, in whatever framing."""
    return {row.meta.get("variant_of", row.id), *([row.meta["pair"]] if "pair" in row.meta else [])}


def weighed(rows: Sequence[Record], weigh: Literal["even"] | float, n: int) -> list[Record]:
    """Reorder rows so that the first of each label have sources evenly, or a share `weigh` of contrastive rows."""
    if weigh == "even":
        by_source: dict[tuple[str, str | None], list[Record]] = {}
        for row in rows:
            by_source.setdefault((row.source, row.prompt_label), []).append(row)
        turns = zip_longest(*by_source.values())
        return [row for turn in turns for row in turn if row][: 2 * n]
    found: list[Record] = []
    for malicious in (False, True):
        own = [row for row in rows if row.prompt_is_malicious is malicious]
        pools = [
            [row for row in own if (row.source == "safesignal-contrast") is contrast] for contrast in (True, False)
        ]
        share = round(weigh * n / 2)
        found += [*pools[0][:share], *pools[1][: n // 2 - share]]
    return found


class Search:
    """One training of one reader and its test.

    Args:
        variant: Of `VARIANTS`.
        fold: Of `FOLDS`.
        seed: Draws rows, their order and the weights.
        steps: Of 32 rows; fewer where rows do not suffice.
    """

    def __init__(self, variant: str, fold: str, seed: int, steps: int) -> None:
        self.choice, self.fold, self.steps = VARIANTS[variant], fold, steps
        self.seed, self.draw = seed, random.Random(seed)
        torch.manual_seed(seed)
        signal = SignalConfig(targets=("q_proj",), reader_rank=self.choice.rank, position=self.choice.position)
        self.model = SafeSignalModel.from_base("smollm2", config=signal, seed=seed, dtype=torch.bfloat16)
        reader = self.model.forward_signal.adapter.reader
        assert reader is not None
        begin_readers(self.model, [reader])
        self.reader: Signal = reader.float()
        self.cls_KD = nn.Parameter(self.reader.cls_D.detach().repeat(self.choice.count, 1))
        if self.choice.count > 1:
            self.cls_KD.data += 0.02 * torch.randn_like(self.cls_KD)

    def scores(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Return the (N, 2) class scores of N texts, the mean of those of all [CLS]."""
        forward, count = self.model.forward_signal, len(self.cls_KD)
        rows = max(map(len, texts)) + count
        sights = [[forward.sight([(0, len(ids))])] * count for ids in texts]
        with forward.lock, self.reader.reading(rows), torch.autocast("cpu", torch.bfloat16):
            hidden_NKD = forward.whole_pass(texts, sights, self.cls_KD)[:, -count:]
        return self.reader.head.logits(hidden_NKD.float()).mean(1)

    def items(self) -> tuple[list[Item], dict[str, list[Item]]]:
        """Return what is trained on and, by name, what is tested."""
        n = self.steps * BATCH
        if not self.choice.cuts:
            train, tests = requests(self.fold, self.choice.weigh, n, self.seed)
            return self._queries(train), {name: self._queries(rows) for name, rows in tests.items()}
        told = [row for row in read_records(ANSWERS) if row.response and row.response_is_malicious is not None]
        known, left_out = split_by_prompt(told, 0.1, SPLIT_SEED)
        self.draw.shuffle(known)
        random.Random(1).shuffle(left_out)
        test = balanced((row for row in left_out if row.prompt_is_malicious), 150, random.Random(1), _ANSWERED)
        cut_tests = {f"after {cut}": self._answers(test, (cut, cut)) for cut in (4, 12, 24, 64)}
        return self._answers(balanced(known, n // 2, self.draw, _ANSWERED), self.choice.cuts), cut_tests

    def _queries(self, rows: Iterable[Record]) -> list[Item]:
        return [(self.model.encode_one(row.prompt).ids, bool(row.prompt_is_malicious)) for row in rows]

    def _answers(self, rows: Iterable[Record], cuts: tuple[int, int]) -> list[Item]:
        found, cut = [], random.Random(self.seed)
        for row in rows:
            encoded = self.model.encode_one(row.chat(), row.prefill + (row.response or ""))
            found.append((encoded.ids[: encoded.text + cut.randint(*cuts)], bool(row.response_is_malicious)))
        return found

    def run(self) -> Run:
        """Train, test, and return the figures."""
        train, tests = self.items()
        self.draw.shuffle(train)
        trained = [self.cls_KD, *self.reader.head.parameters()]
        for name, lora in self.reader.lora.items():
            trained += lora.parameters() if self.choice.adapts(name) else ()
        self.reader.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
        steps, began = len(train) // BATCH, time.monotonic()
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 5) * max(0.02, 1 - s / steps))
        for step in range(steps):
            batch = sorted(train[step * BATCH : (step + 1) * BATCH], key=lambda item: len(item[0]))
            for part in (batch[:PART], batch[PART:]):
                targets = torch.tensor([int(malicious) for _, malicious in part])
                (self.choice.loss(self.scores([ids for ids, _ in part]), targets).sum() / BATCH).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
        figures = {name: self._figures(test) for name, test in tests.items()}
        weights = sum(parameter.numel() for parameter in trained)
        return {"rows": steps * BATCH, "weights": weights, "seconds": round(time.monotonic() - began), "tests": figures}

    @torch.no_grad()
    def _figures(self, test: Sequence[Item]) -> dict[str, float]:
        """Return n, AUC and the expected calibration error over ten bins."""
        ordered, signals = sorted(test, key=lambda item: len(item[0])), []
        for begin in range(0, len(ordered), PART):
            signals += self.scores([ids for ids, _ in ordered[begin : begin + PART]]).softmax(-1)[:, 1].tolist()
        labels = [malicious for _, malicious in ordered]
        error = expected_calibration_error(labels, signals, bins=10)
        return {"n": len(labels), "auc": round(roc_auc(labels, signals), 4), "ece": round(error, 4)}


def table(runs: Sequence[Run]) -> str:
    """Return Markdown tables: AUC and ECE by variant, test and fold, means over seeds and their range."""
    kinds = [[run for run in runs if bool(VARIANTS[run["variant"]].cuts) is answers] for answers in (False, True)]
    if any(len({(run["steps"], run["data"]) for run in own}) > 1 for own in kinds):
        raise SystemExit("error: the file holds runs of several numbers of steps, or over several files of rows.")
    return "\n\n".join(_table(own) for own in kinds if own)


def _table(runs: Sequence[Run]) -> str:
    cells: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for run in runs:
        for name, found in run["tests"].items():
            column = name if run["fold"] == _PROMPTS else f"{name} ({run['fold']})"
            cells.setdefault(column, {}).setdefault(run["variant"], []).append((found["auc"], found["ece"]))
    lines = [f"| | seeds | rows | {' | '.join(cells)} |", f"|---|---:|---:|{'---:|' * len(cells)}"]
    for variant in VARIANTS:
        if ran := [run for run in runs if run["variant"] == variant]:
            rows = ", ".join(str(n) for n in sorted({run["rows"] for run in ran}))
            row = " | ".join(cell(column.get(variant, [])) for column in cells.values())
            lines.append(f"| {variant} | {len({run['seed'] for run in ran})} | {rows} | {row} |")
    return "\n".join(lines)


def cell(found: Sequence[tuple[float, float]]) -> str:
    """Return AUC · ECE, and of several seeds the range of the AUC."""
    if not found:
        return "–"
    aucs, eces = zip(*found, strict=True)
    spread = f" [{min(aucs):.3f}, {max(aucs):.3f}]" if len(found) > 1 else ""
    return f"{statistics.mean(aucs):.3f}{spread} · {statistics.mean(eces):.3f}"


def main() -> None:
    """Run what is asked for and not known yet, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--fold", choices=FOLDS, default="sources-1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=44)
    parser.add_argument("--output", type=Path, default=REPO / "runs/search.jsonl")
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    asked = parser.parse_args()
    if unknown := sorted({*asked.variants} - {*VARIANTS}):
        parser.error(f"no variant is called {', '.join(unknown)}. Expected {', '.join(VARIANTS)}.")
    if asked.variants:
        _train(asked.variants, asked.fold, asked.seed, asked.steps, asked.output)
    if asked.table:
        print(table([run for _, run in read_jsonl(asked.output)]))


def _train(variants: Sequence[str], fold: str, seed: int, steps: int, output: Path) -> None:
    """Run those that the file does not hold."""
    with Writer(output) as writer:
        for variant in variants:
            answers = VARIANTS[variant].cuts is not None
            (data,) = digests([ANSWERS if answers else REQUESTS]).values()
            key = {
                "variant": variant,
                "fold": _PROMPTS if answers else fold,
                "seed": seed,
                "steps": steps,
                "data": data,
            }
            name = "/".join(map(str, key.values()))
            if name not in writer.done:
                run = {"id": name, **key, **Search(variant, fold, seed, steps).run(), "torch": torch.__version__}
                writer.write(run)
                print(json.dumps(run), flush=True)


if __name__ == "__main__":
    main()
