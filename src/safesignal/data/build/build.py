"""Carry out a recipe: the steps in their order, and the report on what became of every row."""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safesignal.data.build.duplicates import unique
from safesignal.data.build.match import group_of, match
from safesignal.data.build.overlap import NearIndex, eval_files, eval_texts, touches
from safesignal.data.build.parts import Dropped, draw, permitted, read_part, require_distinct_ids
from safesignal.data.build.recipe import Recipe
from safesignal.data.build.separability import separability
from safesignal.data.build.splice import splice
from safesignal.data.build.variants import Couple, couples, family_licence, noisy, wrap
from safesignal.data.mixture import prompt_key
from safesignal.data.records import Record
from safesignal.data.sources import DATA_DIR_VARIABLE, SOURCES, load_training
from safesignal.errors import DataError, UsageError

__all__ = ["Built", "build"]

_TEMPLATES = "jailbreak-templates"


@dataclass(frozen=True, slots=True)
class Built:
    """What a recipe makes.

    Attributes:
        rows: To train on.
        held_out: To measure on, from sources and template families that `rows` have nothing of.
        report: Counts, what was dropped and why, the matching, and the separability; plain JSON.
    """

    rows: list[Record]
    held_out: list[Record]
    report: dict[str, Any]


def build(recipe: Recipe, data_dir: str | Path | None = None) -> Built:
    """Carry out a recipe; the same recipe, data and seed give the same rows in the same order.

    Args:
        recipe: As :func:`safesignal.data.build.recipe.load_recipe` reads it.
        data_dir: Folder of the public sets. Default: ``SAFESIGNAL_DATA_DIR`` if set, else the hub.

    Raises:
        DataError: If a set or file is missing or has problems, or the recipe holds out what is not there.
        UsageError: If evaluation texts are to be kept out and there is no folder to read them from.
    """
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    return _Build(recipe, folder).run()


class _Build:
    """One run of a recipe, and its books."""

    def __init__(self, recipe: Recipe, folder: str | Path | None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.dropped: Dropped = []
        self.files = _eval_files(recipe, folder)
        self.index = NearIndex(eval_texts(self.files), recipe.eval_jaccard or 1.0)
        self.report: dict[str, Any] = {}

    def run(self) -> Built:
        pool, read = self._read()
        pool, held_out = self._hold_out_sources(pool)
        drawn = draw(self.recipe, _by_part(pool))
        taken = {part: len(rows) for part, rows in drawn.items()}
        rows = [row for part in drawn.values() for row in part]
        training, held_templates = self._templates()
        rows, wrapped = self._hold_out_families(rows, held_templates)
        matched = self._match(rows)
        built = [*matched, *self._variants(matched, training)]
        self.report["separability"] = self._separability(built, matched, unmatched=rows)
        held_out += wrapped
        return Built(built, held_out, self._head(read, taken, built, held_out) | self.report)

    def _read(self) -> tuple[list[Record], dict[str, int]]:
        """Return the rows that may be used, each once, and how many each part held."""
        pool: list[Record] = []
        read: dict[str, int] = {}
        for part in self.recipe.parts:
            found = read_part(part, self.folder)
            read[part.name] = len(found)
            kept, dropped = permitted(found, part, self.recipe.licences)
            self.dropped += dropped
            pool += self._clear(kept)
        pool, dropped = unique(pool, self.recipe.near_duplicate, self.recipe.seed)
        self.dropped += dropped
        require_distinct_ids(pool)
        return pool, read

    def _clear(self, rows: Iterable[Record], reason: str = "evaluation text") -> list[Record]:
        """Drop what is near a text of an evaluation set."""
        kept: list[Record] = []
        for row in rows:
            if touches(row, self.index):
                self.dropped.append((row, reason))
            else:
                kept.append(row)
        return kept

    def _clear_couples(self, pairs: Iterable[Couple], known: Set[str] = frozenset()) -> list[Record]:
        """Drop couples of which either row is near a text of an evaluation set, so that labels stay even.

        So are those of which either is `known` by its id: a part may be what an earlier recipe made of the same rows.
        """
        kept: list[Record] = []
        for pair in pairs:
            if not known.isdisjoint(row.id for row in pair):
                self.dropped += [(row, "variant that a part has") for row in pair]
            elif len(self._clear(pair, "variant near evaluation text")) == 2:
                kept += pair
        return kept

    def _hold_out_sources(self, pool: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Take the rows of held-out sources out of the pool; other rows of their prompts or pairs are dropped."""
        names = set(self.recipe.holdout.sources)
        registered = {part.name: part.source for part in self.recipe.parts}
        found = {name for row in pool for name in (row.source, registered[row.meta["part"]])}
        _require_known("holdout.sources", names, found - {""})
        ids = {row.id for row in pool if names & {row.source, registered[row.meta["part"]]}}
        held, others = [row for row in pool if row.id in ids], [row for row in pool if row.id not in ids]
        known = {key for row in held for key in (group_of(row), prompt_key(row))}
        shared = {row.id for row in others if not known.isdisjoint((group_of(row), prompt_key(row)))}
        self.dropped += [(row, "prompt of a held-out source") for row in others if row.id in shared]
        return [row for row in others if row.id not in shared], held

    def _templates(self) -> tuple[list[Record], list[Record]]:
        """Return the templates to train on, whose licence is allowed, and those that are held out."""
        recipe = self.recipe
        if recipe.wrap is None and not recipe.holdout.families:
            return [], []
        found = load_training(_TEMPLATES, data_dir=self.folder)
        for file in recipe.wrap.files if recipe.wrap else ():
            found += load_training(_TEMPLATES, path=file)
        families = {template.source for template in found}
        asked = set(recipe.wrap.families) if recipe.wrap else set()
        _require_known("holdout.families", recipe.holdout.families, families)
        _require_known("wrap.families", asked, families)
        held = [template for template in found if template.source in recipe.holdout.families]
        usable = families - set(recipe.holdout.families) if recipe.wrap else set()
        usable = {name for name in usable if family_licence(name) in recipe.licences and name in (asked or usable)}
        if recipe.wrap and not usable:
            raise DataError(f"no template is left to wrap in. Expected a family out of {', '.join(sorted(families))}.")
        training = [template for template in found if template.source in usable]
        self.report["templates"] = {"training": _count(training, "source"), "held_out": _count(held, "source")}
        return training, held

    def _hold_out_families(self, rows: list[Record], templates: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Wrap some requests in held-out templates, and take them and their twins out of the rows."""
        if not templates:
            return rows, []
        rng = random.Random(f"{self.recipe.seed}:holdout")
        base = self._part_rows(rows, self.recipe.wrap.parts if self.recipe.wrap else ())
        drawn = couples(base, self.recipe.holdout.n, rng)
        wrapped = self._clear_couples(wrap(drawn, templates, rng))
        taken = {group_of(row) for pair in drawn for row in pair}
        self.dropped += [(row, "held out in a template") for row in rows if group_of(row) in taken]
        return [row for row in rows if group_of(row) not in taken], wrapped

    def _match(self, rows: list[Record]) -> list[Record]:
        """Subsample the parts that are to be matched."""
        report = self.report["matching"] = {}
        for each in self.recipe.match:
            before = self._part_rows(rows, each.parts)
            kept, report[each.name] = match(before, by=each.by, bins=each.length_bins, seed=self.recipe.seed)
            gone = {row.id for row in before} - {row.id for row in kept}
            self.dropped += [(row, "no match in form") for row in before if row.id in gone]
            rows = [row for row in rows if row.id not in gone]
        return rows

    def _separability(
        self, built: Sequence[Record], matched: Sequence[Record], *, unmatched: Sequence[Record]
    ) -> dict[str, Any]:
        """Measure on the result, and on each matched group before and after."""
        sets = {"whole": built}
        for each in self.recipe.match:
            sets[f"{each.name}, before"] = self._part_rows(unmatched, each.parts)
            sets[f"{each.name}, matched"] = self._part_rows(matched, each.parts)
        return {name: separability(rows, self.recipe.seed) for name, rows in sets.items()}

    def _variants(self, rows: Sequence[Record], templates: Sequence[Record]) -> list[Record]:
        wrapping, noise = self.recipe.wrap, self.recipe.noise
        known = {row.id for row in rows}
        made: list[Record] = []
        if wrapping:
            rng = random.Random(f"{self.recipe.seed}:wrap")
            drawn = couples(self._part_rows(rows, wrapping.parts), wrapping.n, rng)
            made += self._clear_couples(wrap(drawn, templates, rng), known)
        if noise:
            rng = random.Random(f"{self.recipe.seed}:noise")
            base = self._part_rows(rows, noise.parts)
            smaller = min(sum(row.prompt_label == label for row in base) for label in ("benign", "malicious"))
            drawn = couples(base, round(noise.rate * smaller), rng)
            made += self._clear_couples(noisy(drawn, noise.kinds, self.recipe.seed), known)
        if splicing := self.recipe.splice:
            rng = random.Random(f"{self.recipe.seed}:splice")
            made += splice(self._part_rows(rows, splicing.parts), splicing.n, rng, splicing.val_fraction)
        return made

    def _part_rows(self, rows: Sequence[Record], parts: Sequence[str]) -> list[Record]:
        """Return the rows of the named parts, all if none is named."""
        return [row for row in rows if not parts or row.meta["part"] in parts]

    def _head(
        self, read: Mapping[str, int], taken: Mapping[str, int], built: Sequence[Record], held_out: Sequence[Record]
    ) -> dict[str, Any]:
        dropped: dict[str, Counter[str]] = defaultdict(Counter)
        for row, reason in self.dropped:
            dropped[row.meta["part"]][reason] += 1
        return {
            "schema_version": 1,
            "recipe": {"name": self.recipe.name, "sha256": self.recipe.sha256, "seed": self.recipe.seed},
            "inputs": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self._inputs()},
            "evaluation_texts": len(self.index),
            "parts": {
                name: {"read": count, "drawn": taken[name], "dropped": dict(sorted(dropped[name].items()))}
                for name, count in read.items()
            },
            "rows": _counts(built),
            "held_out": _counts(held_out),
        }

    def _inputs(self) -> list[Path]:
        """Return the local files that decide the rows."""
        files = {Path(part.file) for part in self.recipe.parts if part.file} | set(self.files)
        files |= {Path(file) for file in (self.recipe.wrap.files if self.recipe.wrap else ())}
        if self.folder is not None:
            names = {_TEMPLATES, *(part.source for part in self.recipe.parts if part.source)}
            files |= {Path(self.folder) / file for name in names if (file := SOURCES[name].local_file)}
        return sorted(path for path in files if path.is_file())


def _eval_files(recipe: Recipe, folder: str | Path | None) -> list[Path]:
    if recipe.eval_jaccard is None:
        return []
    if folder is None:
        raise UsageError(
            f"recipe `{recipe.name}` keeps evaluation texts out and no data folder is given. Expected one to read them "
            "from.",
            hint=f"`--data_dir DIR`, or set {DATA_DIR_VARIABLE}",
        )
    return eval_files(folder)


def _require_known(field: str, names: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise DataError(
            f"{field} names {', '.join(f'`{name}`' for name in unknown)}, which no row comes from. "
            f"Expected names out of {', '.join(sorted(known))}."
        )


def _by_part(rows: Iterable[Record]) -> dict[str, list[Record]]:
    parts: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        parts[row.meta["part"]].append(row)
    return parts


def _counts(rows: Sequence[Record]) -> dict[str, Any]:
    return {
        "n": len(rows),
        **{f"by_{name}": _count(rows, name) for name in ("prompt_label", "response_label", "source", "licence")},
        "by_part": dict(sorted(Counter(str(row.meta["part"]) for row in rows).items())),
        "by_variant": dict(sorted(Counter(map(_variant, rows)).items())),
    }


def _variant(row: Record) -> str:
    return str(row.meta.get("family") or row.meta.get("variant") or "as it came")


def _count(rows: Iterable[Record], name: str) -> dict[str, int]:
    return dict(sorted(Counter(str(getattr(row, name)) for row in rows).items()))
