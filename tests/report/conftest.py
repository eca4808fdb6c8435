"""A pair of run folders and the report of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from safesignal.report.write import Report, write_report
from tests.report import build

_VOID = {"meta", "br", "img", "input", "link", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[str] = field(default_factory=list)


class Page(HTMLParser):
    """A parsed page: its elements with the text in them; a tag that is closed out of turn fails."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), inside=[outer.tag for outer in self._open])
        self.elements.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attrs), inside=[outer.tag for outer in self._open]))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    @staticmethod
    def _classes(element: Element) -> list[str]:
        return ["", *(element.attributes.get("class") or "").split()]

    def find(self, tag: str, name: str = "") -> list[Element]:
        return [e for e in self.elements if e.tag == tag and name in self._classes(e)]


def page_of(report: Report) -> Page:
    return Page(report.html.read_text(encoding="utf-8"))


def report_of(folder: Path, found: dict[str, Any], rows: list[dict[str, Any]] | None = None, **how: Any) -> Report:
    """Write the report of one run."""
    return write_report([build.build(folder / "run", found, rows or [])], folder / "out", **how)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build.pair(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def written(pair: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report(pair, tmp_path_factory.mktemp("report"), names=["base", "guarded"], command="the command")


@pytest.fixture(scope="session")
def text(written: Report) -> str:
    return written.markdown.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(written: Report) -> Page:
    return page_of(written)
