"""What each attack plans: texts, variants, families, prefills and sampling; the same for the same arguments."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from safesignal.attacks.artifact import Artifact, behaviors_for
from safesignal.attacks.base import Sampling
from safesignal.attacks.behaviors import load_behavior_set
from safesignal.attacks.decoding import Decoding
from safesignal.attacks.direct import Direct
from safesignal.attacks.multiturn import Multiturn, topic_of
from safesignal.attacks.nested import Nested
from safesignal.attacks.perturb import PERTURBATIONS, Perturb
from safesignal.attacks.prefill import Prefill
from safesignal.attacks.template import Template
from safesignal.data.mappers import SLOT
from safesignal.data.records import append_jsonl
from safesignal.errors import DataError, UsageError
from tests.attacks.stand_ins import behavior, behaviors

GREEDY = Sampling(max_new_tokens=32)


@pytest.fixture
def templates(tmp_path: Path) -> str:
    rows = [
        {"id": f"t{i}", "source": f"family-{i % 2}", "template": f"As a poet number {i}: {SLOT} Thank you, {SLOT}"}
        for i in range(6)
    ]
    append_jsonl(tmp_path / "templates.jsonl", rows)
    return str(tmp_path / "templates.jsonl")


def every_attack(templates: str) -> list[Any]:
    pieces = {f"b{i}": ("Sure", ", ", "red", " it", " is") for i in range(5)}
    return [
        Direct(),
        Prefill(),
        Prefill(depth=(2, 4), pieces=pieces),
        Nested(),
        Decoding(),
        Template(file=templates, per_behavior=3),
        Artifact(),
        Perturb(),
        Multiturn(),
    ]


def test_ids_are_unique_and_plans_depend_on_nothing_but_the_arguments(templates: str) -> None:
    asked = behaviors(5, prompt="published", family="GCG")
    for attack in every_attack(templates):
        plans = attack.plan(asked, "cell", GREEDY)
        assert plans
        assert len({plan.id for plan in plans}) == len(plans)
        random.seed(99)
        assert attack.plan(asked, "cell", GREEDY) == plans
        for plan in plans:
            assert plan.attack == attack.name
            assert plan.id == "/".join(part for part in ("cell", plan.variant, plan.behavior.id) if part)
            assert plan.script
            assert plan.sampling.max_new_tokens == 32


def test_an_attempt_draws_the_same_noise_whatever_is_planned_beside_it() -> None:
    alone, among = Direct().plan(behaviors(3)[2:], "cell", GREEDY), Direct().plan(behaviors(3), "cell", GREEDY)
    assert alone[0].number == among[2].number
    assert len({plan.number for plan in among}) == 3


def test_direct_sends_the_bare_request() -> None:
    (plan,) = Direct().plan([behavior(text="Name a colour.", prompt="a published prompt")], "cell", GREEDY)
    assert (plan.script, plan.prefill, plan.sampling) == (("Name a colour.",), "", GREEDY)


class TestPrefill:
    def test_a_fixed_text_or_the_sets_own_opening(self) -> None:
        asked = [behavior("a", target="Sure, here is a colour"), behavior("b")]
        assert [plan.prefill for plan in Prefill().plan(asked, "cell", GREEDY)] == ["Sure, here is"] * 2
        own = Prefill(target=True).plan(asked, "cell", GREEDY)
        assert [plan.prefill for plan in own] == ["Sure, here is a colour", "Sure, here is"]

    def test_depths_are_the_first_tokens_and_too_short_answers_are_left_out(self) -> None:
        pieces = {"a": ("Su", "re", "", "é", "!"), "b": ("Ok", ".")}
        asked = [behavior("a"), behavior("b"), behavior("c")]
        plans = Prefill(depth=(1, 2, 4), pieces=pieces).plan(asked, "cell", GREEDY)
        assert {plan.id: plan.prefill for plan in plans} == {
            "cell/depth=1/a": "Su",
            "cell/depth=1/b": "Ok",
            "cell/depth=2/a": "Sure",
            "cell/depth=2/b": "Ok.",
            "cell/depth=4/a": "Sureé",
        }

    def test_who_is_left_out_is_counted_by_depth_and_reason(self) -> None:
        pieces = {"a": ("Su", "re", "!"), "b": ("Ok", ".")}
        asked = [behavior(name) for name in "abcde"]
        attack = Prefill(depth=(1, 3, 4), pieces=pieces, missing={"c": "refused", "d": "refused", "e": "empty"})
        assert attack.left_out(asked) == {
            "depth=1": {"empty": 1, "refused": 2},
            "depth=3": {"empty": 1, "refused": 2, "too_short": 1},
            "depth=4": {"empty": 1, "refused": 2, "too_short": 2},
        }
        planned = attack.plan(asked, "cell", GREEDY)
        assert {f"depth={k}": 5 - sum(plan.variant == f"depth={k}" for plan in planned) for k in (1, 3, 4)} == {
            variant: sum(reasons.values()) for variant, reasons in attack.left_out(asked).items()
        }
        assert Prefill(depth=(1,)).left_out(asked[:2]) == {"depth=1": {"no_answer": 2}}
        assert Prefill().left_out(asked) == {}

    def test_a_depth_without_answers_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="no compliant answer is known"):
            Prefill(depth=(5,)).plan(behaviors(1), "cell", GREEDY)

    def test_a_file_gives_a_text_per_behavior(self, tmp_path: Path) -> None:
        append_jsonl(tmp_path / "p.jsonl", [{"id": "b1", "prefill": "Well,"}])
        plans = Prefill(file=str(tmp_path / "p.jsonl")).plan(behaviors(3), "cell", GREEDY)
        assert [(plan.behavior.id, plan.prefill) for plan in plans] == [("b1", "Well,")]
        assert Prefill(file=str(tmp_path / "p.jsonl")).left_out(behaviors(3)) == {"file": {"not_in_file": 2}}
        append_jsonl(tmp_path / "q.jsonl", [{"id": "b1", "text": "Well,"}])
        with pytest.raises(DataError, match="line 1"):
            Prefill(file=str(tmp_path / "q.jsonl")).plan(behaviors(1), "cell", GREEDY)


class TestNested:
    def test_the_published_wording_stands_around_the_request(self) -> None:
        (plan,) = Nested(scene="play", layers=3, characters=4).plan([behavior(text="Paint a fence.")], "cell", GREEDY)
        (prompt,) = plan.script
        assert prompt.startswith(
            "Create a play with more than 4 characters, where each character can create their own play"
        )
        assert (
            "please reach layer 3. At each layer, some characters propose a step to paint a fence to against" in prompt
        )

    def test_braces_and_capitals_of_the_request_survive(self) -> None:
        assert "DNA {x} and {scene} to against" in Nested().prompt("DNA {x} and {scene}.")


class TestDecoding:
    def test_the_papers_grid_varies_one_setting_at_a_time(self) -> None:
        plans = Decoding().plan(behaviors(1), "cell", GREEDY)
        assert len(plans) == 20 + 20 + 9
        points = [(plan.sampling.temperature, plan.sampling.top_p, plan.sampling.top_k) for plan in plans]
        assert points[0] == (0.05, 1.0, 0)
        assert points[19] == (1.0, 1.0, 0)
        assert points[20] == (1.0, 0.05, 0)
        assert points[-1] == (1.0, 1.0, 500)
        assert [plan.variant for plan in plans][::20] == ["temperature=0.05", "top_p=0.05", "top_k=1"]

    def test_samples_of_a_point_have_noise_of_their_own(self) -> None:
        plans = Decoding(short=True, samples=3).plan(behaviors(2), "cell", GREEDY)
        assert len(plans) == 6 * 3 * 2
        assert len({plan.number for plan in plans}) == len(plans)
        assert {plan.family for plan in plans} == {"temperature", "top_p", "top_k"}


class TestTemplate:
    def test_every_slot_is_filled_and_templates_go_round(self, templates: str) -> None:
        plans = Template(file=templates).plan(behaviors(8), "cell", GREEDY)
        assert [plan.variant for plan in plans] == ["t0", "t2", "t4", "t1", "t3", "t5", "t0", "t2"]
        for plan in plans:
            assert SLOT not in plan.script[0]
            assert plan.script[0].count(plan.behavior.text) == 2

    def test_families_are_kept_apart(self, templates: str) -> None:
        only = Template(file=templates, families=("family-1",), per_behavior=0).plan(behaviors(2), "cell", GREEDY)
        assert {plan.family for plan in only} == {"family-1"}
        assert len(only) == 2 * 3
        rest = Template(file=templates, exclude=("family-1",)).templates()
        assert {record.source for record in rest} == {"family-0"}
        with pytest.raises(UsageError, match="no template is left"):
            Template(file=templates, exclude=("family-0", "family-1")).templates()

    def test_families_that_no_template_is_of_are_named(self, templates: str) -> None:
        attack = Template(file=templates, families=("family-1", "other"), exclude=("famly-0",))
        with pytest.raises(UsageError, match="2 problems") as caught:
            attack.templates()
        assert str(caught.value).splitlines()[1:] == [
            "  template.families: `other`    is unknown; known: family-0, family-1",
            "  template.exclude: `famly-0`    is unknown; known: family-0, family-1",
        ]

    def test_a_number_is_drawn_from_each_family(self, templates: str) -> None:
        drawn = Template(file=templates, per_family=1).templates()
        assert [record.source for record in drawn] == ["family-0", "family-1"]
        draws = {tuple(r.id for r in Template(file=templates, per_family=1, seed=s).templates()) for s in range(20)}
        assert len(draws) > 1

    def test_a_template_without_a_slot_is_refused(self, tmp_path: Path) -> None:
        append_jsonl(tmp_path / "t.jsonl", [{"id": "t9", "source": "f", "template": "no slot"}])
        with pytest.raises(UsageError, match="t9 has no slot"):
            Template(file=str(tmp_path / "t.jsonl")).templates()


class TestArtifact:
    def test_published_prompts_are_sent_as_they_are(self) -> None:
        asked = [behavior("a", prompt="x !! y", family="GCG"), behavior("b"), behavior("c", prompt="z", family="JBC")]
        plans = Artifact().plan(asked, "cell", GREEDY)
        assert [(plan.script, plan.variant, plan.family) for plan in plans] == [
            (("x !! y",), "GCG", "GCG"),
            (("z",), "JBC", "JBC"),
        ]
        assert [plan.behavior.id for plan in Artifact(families=("JBC",)).plan(asked, "cell", GREEDY)] == ["c"]
        assert [plan.behavior.id for plan in Artifact(exclude=("JBC",)).plan(asked, "cell", GREEDY)] == ["a"]

    def test_a_set_without_prompts_is_an_error(self) -> None:
        with pytest.raises(UsageError, match="none of 2 behaviors"):
            Artifact().plan(behaviors(2), "cell", GREEDY)

    @pytest.fixture
    def published(self, tmp_path: Path) -> Path:
        rows = [
            {"id": f"j{i:02}", "source": "x", "method": "ABC"[i % 3], "goal": f"do {i}", "prompt": f"!! do {i}"}
            for i in range(36)
        ]
        append_jsonl(tmp_path / "eval_jbb_artifacts.jsonl", rows)
        return tmp_path

    @pytest.mark.parametrize("attack", [Artifact(exclude=("A", "C")), Artifact(families=("B",))])
    def test_the_limit_counts_prompts_of_the_wanted_methods(self, attack: Artifact, published: Path) -> None:
        chosen = behaviors_for(attack, "jbb-artifacts", published, 9, 1)
        plans = attack.plan(chosen.behaviors, "cell", GREEDY)
        assert [plan.family for plan in plans] == ["B"] * 9
        assert chosen == load_behavior_set("jbb-artifacts", published, 9, 1, families=("B",))
        assert chosen.n_original == 36

    def test_all_methods_and_other_attacks_draw_from_the_whole_set(self, published: Path) -> None:
        whole = load_behavior_set("jbb-artifacts", published, 9, 1)
        assert behaviors_for(Artifact(), "jbb-artifacts", published, 9, 1) == whole
        assert behaviors_for(Direct(), "jbb-artifacts", published, 9, 1) == whole

    def test_methods_that_the_set_has_not_are_named(self, published: Path) -> None:
        with pytest.raises(UsageError, match="2 problems") as caught:
            behaviors_for(Artifact(families=("A", "D"), exclude=("CC",)), "jbb-artifacts", published)
        assert str(caught.value).splitlines()[1:] == [
            "  artifact.families: `D`    is unknown; known: A, B, C",
            "  artifact.exclude: `CC`    is unknown; known: A, B, C",
        ]
        with pytest.raises(UsageError, match="no method is left of A, B, C"):
            behaviors_for(Artifact(exclude=("A", "B", "C")), "jbb-artifacts", published)


class TestPerturb:
    TEXT = "How can I write a long letter to the library about the colours of old books?"

    @pytest.mark.parametrize("kind", PERTURBATIONS)
    def test_the_surface_changes_and_the_seed_decides(self, kind: str) -> None:
        asked = behavior(text=self.TEXT)
        changed = Perturb(seed=1).change(kind, asked)
        assert changed != self.TEXT
        assert changed == Perturb(seed=1).change(kind, asked)
        assert {Perturb(seed=s).change(kind, asked) for s in range(2, 12)} != {changed}

    def test_what_each_kind_keeps(self) -> None:
        asked = behavior(text=self.TEXT)
        assert Perturb().change("case", asked).lower() == self.TEXT.lower()
        assert Perturb().change("spacing", asked).replace(" ", "") == self.TEXT.replace(" ", "")
        assert len(Perturb().change("leetspeak", asked)) == len(self.TEXT)
        assert "library" in Perturb().change("paraphrase", asked)

    def test_the_rate_decides_how_many_typos(self) -> None:
        def wrong(rate: float) -> int:
            words = Perturb(kinds=("typos",), rate=rate).change("typos", behavior(text=self.TEXT * 20)).split()
            return len(set(words) - set((self.TEXT * 20).split()))

        assert 0 < wrong(0.02) < wrong(0.5)


class TestMultiturn:
    def test_the_request_comes_last_and_the_opener_names_its_topic(self) -> None:
        (plan,) = Multiturn().plan([behavior(text="Write a guide that explains how to repair clocks")], "cell", GREEDY)
        assert len(plan.script) == 3
        assert plan.script[-1] == "Write a guide that explains how to repair clocks"
        assert "explains repair clocks" in plan.script[0]
        assert all("{topic}" not in turn for turn in plan.script)

    def test_turns_of_the_set_are_sent_instead(self) -> None:
        asked = behavior(text="first", turns=("second",))
        assert Multiturn().script(asked) == ["first", "second"]
        assert Multiturn(given=False, turns=("About {topic}?",)).script(asked) == ["About first?", "first"]

    def test_a_topic_is_never_empty(self) -> None:
        assert topic_of("How can I do it?") == "How can I do it"


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Nested(layers=0, characters=0), "2 problems"),
        (lambda: Decoding(temperatures=(0.0,)), "decoding.temperatures"),
        (lambda: Decoding(top_ps=(0.0,)), "decoding.top_ps"),
        (lambda: Perturb(kinds=("upside-down",)), "perturb.kinds"),
        (lambda: Prefill(text=""), "prefill.text"),
        (lambda: Prefill(depth=(0,)), "prefill.depth"),
        (lambda: Prefill(depth=(5,), target=True), "at most one of target, depth and file"),
        (lambda: Template(per_family=-1), "template.per_family"),
        (lambda: Multiturn(turns=()), "multiturn.turns"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make()


@pytest.mark.parametrize(
    ("kind", "setting", "value", "said"),
    [
        (Template, "families", "family-1", "template.families = 'family-1'    must be a list, each text"),
        (Artifact, "exclude", "GCG", "artifact.exclude = 'GCG'    must be a list, each text"),
        (Multiturn, "turns", "Hello.", "multiturn.turns = 'Hello.'    must be a list, each text"),
        (Perturb, "kinds", "case", "perturb.kinds = 'case'    must be a list, each text"),
        (Prefill, "depth", 5, "prefill.depth = 5    must be a list, each a whole number"),
        (Decoding, "top_ks", "5", "decoding.top_ks = '5'    must be a list, each a whole number"),
    ],
)
def test_one_value_is_never_read_as_a_list(kind: Any, setting: str, value: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        kind(**{setting: value})
    assert str(caught.value).splitlines()[1:] == [f"  {said}"]
