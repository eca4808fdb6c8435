"""A report as one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from safesignal.display import visible
from safesignal.report.document import Section, Table
from safesignal.report.runs import Run
from safesignal.report.traces import Trace

__all__ = ["page"]

_HERE = Path(__file__).parent / "page"


def page(
    title: str, runs: Sequence[Run], warnings: Sequence[str], sections: Sequence[Section], traces: Sequence[Trace]
) -> str:
    """Return the whole page; every text that comes from a file is escaped by the template."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["table"] = lambda part: isinstance(part, Table)
    environment.filters |= {"code": _code, "visible": visible}
    return environment.get_template("report.html.j2").render(
        title=title,
        runs=runs,
        warnings=warnings,
        sections=sections,
        traces=traces,
        about=_about(runs),
        choices=_choices(traces),
        style=Markup((_HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "report.js").read_text(encoding="utf-8")),
    )


def _code(text: str) -> Markup:
    """Return text with its `code spans` as elements, all of it escaped."""
    parts = [
        Markup("<code>{}</code>" if place % 2 else "{}").format(part) for place, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


def _about(runs: Sequence[Run]) -> str:
    """Return suite, seed and day, each once."""
    suites = dict.fromkeys(str(run.results.get("suite")) for run in runs)
    seeds = dict.fromkeys(str(run.results.get("seed")) for run in runs)
    days = dict.fromkeys(str(run.results.get("started", ""))[:10] for run in runs)
    parts = (f"suite {', '.join(suites)}", f"seed {', '.join(seeds)}", ", ".join(day for day in days if day))
    return " · ".join(part for part in parts if part)


def _choices(traces: Sequence[Trace]) -> dict[str, list[str]]:
    """Return what the traces can be filtered by."""
    return {
        "run": list(dict.fromkeys(trace.run.name for trace in traces)),
        "cell": list(dict.fromkeys(str(trace.row.get("cell")) for trace in traces)),
        "status": list(dict.fromkeys(str(trace.row.get("status")) for trace in traces)),
    }
