"""The page: whole, alone, and safe to open whatever a model wrote."""

from __future__ import annotations

import re
from pathlib import Path

from safesignal.report.write import Report, write_report
from tests.report.build import attack, attempt, attempts, results
from tests.report.conftest import Page, page_of, report_of

EVIL = (
    '</script></span><script>alert(1)</script><img src=x onerror="alert(2)">{{ 7 * 7 }}" onmouseover="x\ud800\u202e\x07'
)


def test_nothing_is_fetched(page: Page, written: Report) -> None:
    """No address, no asset, and a policy that would forbid one."""
    source = written.html.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", source)
    for element in page.elements:
        assert element.tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert {"src", "srcset", "action"}.isdisjoint(element.attributes)
        assert (element.attributes.get("href") or "#").startswith("#")
    policy = [e.attributes["content"] for e in page.find("meta") if "http-equiv" in e.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]


def test_links_lead_somewhere(page: Page) -> None:
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    wanted = {(e.attributes.get("href") or "")[1:] for e in page.find("a")}
    assert wanted == set(ids) - {"filter"}


def test_the_page_has_every_rate_of_the_tables(page: Page, text: str) -> None:
    shown = {" ".join(e.text.split()) for e in page.find("td")}
    rates = re.findall(r"\| (\d+\.\d % \[[^|]+?) (?=\|)", text.split("## Attack success")[1])
    assert len(rates) > 90
    assert set(rates) <= shown


def test_charts_say_what_the_tables_say(page: Page) -> None:
    tips = {e.text for e in page.find("title") if "svg" in e.inside}
    assert "base, direct: 21.0 % [17.7, 24.7] (109/520)" in tips
    assert "guarded, 80 tokens: 4.0 % [1.6, 9.8] (4/100)" in tips
    assert "guarded, stopped midway: 1.6 % [0.6, 4.0] (4/250)" in tips
    assert "guarded, recall at 1 % false positives: 73.5 % [67.0, 79.1] (147/200)" in tips
    assert "base, prefill 5, gap: 0.525 [0.475, 0.575] (n=100)" in tips
    assert "guarded, every, fused, context 128, batch 1: +23.6 %" in tips


def test_depths_come_from_variants_or_from_the_suite(tmp_path: Path) -> None:
    cells = [{"cell": "p9", "depth": [9]}, {"cell": "off", "depth": [20], "buffer": False}]
    entries = [attack("p9", 11, 89, attack="prefill"), attack("off", 33, 67, attack="prefill"), attack("d", 2, 98)]
    entries.append(attack("text", 44, 56, attack="prefill"))
    page = page_of(report_of(tmp_path, results(name="g", settings={"cells": cells}, attacks=entries)))
    tips = [e.text for e in page.find("title") if " tokens: " in e.text]
    assert tips == ["g, 0 tokens: 2.0 % [0.6, 7.0] (2/100)", "g, 9 tokens: 11.0 % [6.3, 18.6] (11/100)"]


def test_a_mark_lies_where_its_rate_is(page: Page) -> None:
    lane = next(e for e in page.find("title") if e.text == "base, direct: 21.0 % [17.7, 24.7] (109/520)")
    after = page.elements[page.elements.index(lane) :]
    dot = next(e for e in after if e.tag == "svg")
    interval = next(e for e in after if e.attributes.get("class") == "interval")
    assert float((dot.attributes["x"] or "").rstrip("%")) == round(10900 / 520, 2)
    assert [interval.attributes["x1"], interval.attributes["x2"]] == ["17.68%", "24.67%"]


def test_whatever_a_model_wrote_stays_text(tmp_path: Path) -> None:
    rows = [attempt(f"cell{EVIL}", 1, "succeeded", guarded=True, pieces=[EVIL] * 3, prefill=EVIL, label="benign")]
    rows[0] |= {"messages": [{"role": EVIL, "content": EVIL}], "behavior_id": EVIL, "variant": EVIL, "finish": EVIL}
    rows.append(attempt("direct", 2, "errored", guarded=True, error=EVIL))
    report = report_of(tmp_path, results(name=f"name {EVIL}"), rows)
    page = page_of(report)
    assert len(page.find("script")) == 1
    assert "alert" not in page.find("script")[0].text
    assert page.find("img") == []
    assert [name for e in page.elements for name in e.attributes if name.startswith("on")] == []
    answer = page.find("div", "answer")[0].text
    assert answer.count("</script></span><script>alert(1)</script>") == 4
    assert "{{ 7 * 7 }}" in answer
    assert not re.search("[\ud800\u202e\x07]", answer)


def test_what_may_harm_is_folded(tmp_path: Path) -> None:
    late = {"harm": {"verdict": "yes", "rule": "planted"}}
    rows = [
        attempt("complied", 1, "succeeded", guarded=False),
        attempt("stopped", 2, "resisted", guarded=True),
        attempt("refused", 3, "resisted", guarded=False),
        attempt("harm", 4, "resisted", guarded=False, judgements=late),
        attempt("undecided", 5, "budget_exhausted", guarded=False),
        attempt("ordinary", 6, "succeeded", guarded=True, label="benign"),
    ]
    page = page_of(report_of(tmp_path, results(), rows))
    answers = page.find("div", "answer")
    folded = {row["cell"]: e.inside[-1] == "details" for row, e in zip(rows, answers, strict=True)}
    assert folded == {
        "complied": True,
        "stopped": True,
        "refused": False,
        "harm": True,
        "undecided": True,
        "ordinary": False,
    }
    requests = page.find("details", "request")
    assert ["open" in e.attributes for e in requests] == [False] * 5 + [True]
    assert all("open" not in e.attributes for e in page.find("details", "fold"))


def test_no_text_of_any_attempt_on_request(pair: list[Path], tmp_path: Path) -> None:
    report = write_report(pair, tmp_path, traces=0)
    assert "of the list" not in report.html.read_text()
    assert page_of(report).find("article") == []


def test_the_filter_offers_what_there_is(page: Page) -> None:
    articles = page.find("article", "trace")
    options = {e.text for e in page.find("option")} - {"all"}
    for name in ("data-run", "data-cell", "data-status"):
        assert {e.attributes[name] for e in articles} <= options


def test_a_plain_run_alone(tmp_path: Path) -> None:
    page = page_of(report_of(tmp_path, results(guarded=False), attempts(guarded=False)))
    assert any("No signal was scored" in e.text for e in page.find("p", "missing"))
    assert page.find("svg", "ticks") == []
